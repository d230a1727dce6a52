//go:build integration && linux

package integration

import (
	"bytes"
	"context"
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
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file answers: which programs stand between the client and the server, and how are they started and killed?

const (
	natsPort, natsMonitorPort, natsWebPort = 4222, 8222, 9001
	nginxPort, nginxTLSPort                = 9002, 9443
	squidPort, socksPort                   = 3128, 1080

	proxyUser, proxyPassword = "soak", "s0ak"
)

// daemon is a program that runs on a machine. It may be killed and started again.
type daemon struct {
	name    string
	t       *testing.T
	at      *machine
	listens string // where, once it does
	command func() *exec.Cmd

	turn sync.Mutex // held by who may kill it, stop it, start it
	mu   sync.Mutex // protects following fields
	cmd  *exec.Cmd  // nil: it is not running
	out  *bytes.Buffer
}

// launch starts a program, and kills it with the test.
func launch(t *testing.T, at *machine, name, listens string, command func() *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{name: name, t: t, at: at, listens: listens, command: command}
	t.Cleanup(func() { d.end(syscall.SIGKILL) })
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	return d
}

// start waits until the program accepts connections.
func (d *daemon) start() error {
	cmd, out := d.command(), &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	d.mu.Lock()
	d.cmd, d.out = cmd, out
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		if c, err := d.at.dial(ctx, "tcp", d.listens); err == nil {
			c.Close()
			return nil
		}
		if ctx.Err() != nil {
			d.end(syscall.SIGKILL)
			return fmt.Errorf("%s does not listen on %s:\n%s", d.name, d.listens, out)
		}
	}
}

// signal goes to the program and what it has started.
func (d *daemon) signal(sig syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		syscall.Kill(-d.cmd.Process.Pid, sig)
	}
}

// end waits until the program is gone.
func (d *daemon) end(sig syscall.Signal) {
	d.signal(sig)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		d.cmd.Wait()
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // its helpers
		d.cmd = nil
	}
}

func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

func launchNATS(t *testing.T, m *machine) *daemon {
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
func launchNginx(t *testing.T, m *machine) (d *daemon, roots []byte) {
	t.Helper()
	dir := workDir(t)
	roots = writeCertificate(t, dir, net.ParseIP(webIPv4))
	conf := writeFile(t, dir, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
user root;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]s; listen %[3]s; listen %[4]s ssl;
		ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
		location / {
			proxy_pass http://127.0.0.1:%[5]d;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_connect_timeout 2s;
			proxy_read_timeout 30s;
		}
	}
}
`, dir, at(webIPv4, nginxPort), at(webIPv6, nginxPort), at(webIPv4, nginxTLSPort), natsWebPort))
	return launch(t, m, "nginx", at(webIPv4, nginxTLSPort), func() *exec.Cmd {
		return m.command("nginx", "-p", dir, "-e", "stderr", "-c", conf)
	}), roots
}

func launchMicrosocks(t *testing.T, m *machine) *daemon {
	t.Helper()
	return launch(t, m, "microsocks", at(proxyIPv4, socksPort), func() *exec.Cmd {
		return m.command("microsocks", "-i", proxyIPv4, "-p", fmt.Sprint(socksPort), "-u", proxyUser, "-P", proxyPassword)
	})
}

func launchSquid(t *testing.T, m *machine) *daemon {
	t.Helper()
	dir := workDir(t)
	passwords := filepath.Join(dir, "passwords")
	if out, err := exec.Command("htpasswd", "-bc", passwords, proxyUser, proxyPassword).CombinedOutput(); err != nil {
		t.Fatalf("htpasswd: %v: %s", err, out)
	}
	conf := writeFile(t, dir, "squid.conf", fmt.Sprintf(`
http_port %s
auth_param basic program /usr/lib/squid/basic_ncsa_auth %s
auth_param basic children 2
acl authed proxy_auth REQUIRED
http_access allow authed
http_access deny all
cache deny all
memory_cache_shared off
shared_transient_entries_limit 0
pinger_enable off
pid_filename none
cache_log stdio:%s/cache.log
access_log none
coredump_dir %s
visible_hostname proxy
dns_nameservers 127.0.0.1
max_filedescriptors 4096
connect_timeout 2 seconds
shutdown_lifetime 1 second
`, at(proxyIPv4, squidPort), passwords, dir, dir))
	service := fmt.Sprint("soak", os.Getpid())
	t.Cleanup(func() { // what it leaves behind when it is killed
		shared, _ := filepath.Glob("/dev/shm/" + service + "-*")
		for _, file := range shared {
			os.Remove(file)
		}
	})
	return launch(t, m, "squid", at(proxyIPv4, squidPort), func() *exec.Cmd {
		return m.command("squid", "-N", "-d", "1", "-n", service, "-f", conf)
	})
}

// workDir is a directory that every user may look into.
func workDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
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
	writeFile(t, dir, "cert.pem", string(roots))
	writeFile(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return roots
}
