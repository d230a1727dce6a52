//go:build integration && linux

package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: which programs stand between the client and the server, and how are they configured?

var (
	natsPort, natsMonitorPort, natsWebPort = program.Port(), program.Port(), program.Port()
	nginxPort, nginxTLSPort                = program.Port(), program.Port()
	squidPort, socksPort                   = program.Port(), program.Port()
)

const proxyUser, proxyPassword = "soak", "s0ak"

// part is a program that runs on a machine. It may be killed and started again.
type part struct {
	*program.Daemon
	turn sync.Mutex // held by who may kill it, stop it, start it
}

// launch starts a program, and kills it with the test.
func launch(t *testing.T, m *machine, name, listens string, command func() *exec.Cmd) *part {
	t.Helper()
	p := &part{Daemon: &program.Daemon{Name: name, Listens: listens, Command: command, Dial: m.dial}}
	p.Launch(t)
	return p
}

// launchLine is launch for a command line.
func launchLine(t *testing.T, m *machine, listens string, line []string) *part {
	t.Helper()
	return launch(t, m, line[0], listens, func() *exec.Cmd { return m.command(line[0], line[1:]...) })
}

func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

func launchNATS(t *testing.T, m *machine) *part {
	t.Helper()
	where, err := json.Marshal(natsPlace{natsPort, natsMonitorPort, natsWebPort})
	if err != nil {
		t.Fatal(err)
	}
	return launch(t, m, "nats", at(webIPv4, natsWebPort), func() *exec.Cmd {
		cmd := m.command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=nats", natsVar+"="+string(where))
		return cmd
	})
}

// launchNginx puts a web server in front of NATS, and returns what its certificate is signed with.
func launchNginx(t *testing.T, m *machine) (p *part, roots []byte) {
	t.Helper()
	dir := program.Dir(t)
	roots = writeCertificate(t, dir, net.ParseIP(webIPv4))
	server := fmt.Sprintf("listen %s; listen %s; listen %s ssl; ssl_certificate %s/cert.pem; ssl_certificate_key %[4]s/key.pem;",
		at(webIPv4, nginxPort), at(webIPv6, nginxPort), at(webIPv4, nginxTLSPort), dir)
	line := program.Nginx(t, dir, at("127.0.0.1", natsWebPort), "proxy_connect_timeout 2s; proxy_read_timeout 30s;", server)
	return launchLine(t, m, at(webIPv4, nginxTLSPort), line), roots
}

func launchMicrosocks(t *testing.T, m *machine) *part {
	t.Helper()
	return launchLine(t, m, at(proxyIPv4, socksPort), program.Microsocks(proxyIPv4, socksPort, proxyUser, proxyPassword))
}

func launchSquid(t *testing.T, m *machine) *part {
	t.Helper()
	listens := at(proxyIPv4, squidPort)
	p := launchLine(t, m, listens, program.Squid(t, program.Dir(t), "http_port "+listens, proxyUser, proxyPassword,
		"max_filedescriptors 4096", "connect_timeout 2 seconds", "shutdown_lifetime 1 second"))
	p.Name = "squid"
	return p
}

// writeCertificate makes cert.pem, signed by itself, and key.pem.
func writeCertificate(t *testing.T, dir string, host net.IP) (roots []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "soak"}, IPAddresses: []net.IP{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	program.File(t, dir, "cert.pem", string(roots))
	program.File(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return roots
}
