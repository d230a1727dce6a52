//go:build integration && linux

package proxies

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-829c304d/wsshard/internal/realworld/program"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: which proxies and web servers do people run, and how are they configured?

// daemon is a program that runs in the servers' namespace.
type daemon struct {
	*program.Daemon
	t *testing.T
}

// launch starts a program and waits until it accepts connections.
func launch(t *testing.T, host string, port int, line ...string) daemon {
	t.Helper()
	d := daemon{&program.Daemon{
		Name: line[0], Listens: net.JoinHostPort(host, fmt.Sprint(port)),
		Command: func() *exec.Cmd { return there(line[0], line[1:]...) },
	}, t}
	d.Launch(t)
	return d
}

func (d daemon) kill() { d.End(syscall.SIGKILL) }

func (d daemon) restart() {
	d.t.Helper()
	if err := d.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// asProxy is what the matrix wants to know of it.
func (d daemon) asProxy() *running {
	host, port, _ := net.SplitHostPort(d.Listens)
	return &running{host: host, port: port, kill: d.kill, restart: d.restart, saw: func(client string) bool {
		// The kernel knows best who is connected to it.
		peers, err := there("ss", "-Htn", "state", "established", "sport = :"+port).Output()
		return err == nil && (strings.Contains(string(peers), client+"]:") || strings.Contains(string(peers), client+":"))
	}}
}

func startMicrosocks(t *testing.T, at place, password string) *running {
	port := program.Port()
	return launch(t, at.host, port, program.Microsocks(at.host, port, user, password)...).asProxy()
}

func startDante(t *testing.T, at place, password string) *running {
	port, dir, method := program.Port(), program.Dir(t), "none"
	if password != "" {
		method = "username" // of the system, see writeEtc
	}
	conf := program.File(t, dir, "danted.conf", fmt.Sprintf(`
logoutput: stderr
internal: %[1]s port = %[2]d
external: %[1]s
socksmethod: %[3]s
clientmethod: none
user.privileged: root
user.unprivileged: nobody
client pass { from: 0/0 to: 0/0 }
socks pass { from: 0/0 to: 0/0 }
`, at.host, port, method))
	return launch(t, at.host, port, "danted", "-f", conf, "-p", filepath.Join(dir, "pid")).asProxy()
}

func launchTinyproxy(t *testing.T, at place, password string) daemon {
	port := program.Port()
	conf := program.File(t, program.Dir(t), "tinyproxy.conf", fmt.Sprintf(`
User nobody
Group nogroup
Port %d
Listen %s
Allow 10.77.0.0/24
Allow fd77::/64
BasicAuth %s %s
LogLevel Connect
`, port, at.host, user, password))
	return launch(t, at.host, port, "tinyproxy", "-d", "-c", conf)
}

func startTinyproxy(t *testing.T, at place, password string) *running {
	return launchTinyproxy(t, at, password).asProxy()
}

// startStunnel puts TLS in front of tinyproxy.
func startStunnel(ca *wstest.Authority) func(t *testing.T, at place, password string) *running {
	return func(t *testing.T, at place, password string) *running {
		behind := launchTinyproxy(t, at, password)
		port, dir := program.Port(), program.Dir(t)
		ca.WritePEM(filepath.Join(dir, "both.pem"), at.host)
		conf := program.File(t, dir, "stunnel.conf", fmt.Sprintf(`
foreground = yes
pid =
[proxy]
accept = %s:%d
connect = %s
cert = %s
`, at.host, port, strings.NewReplacer("[", "", "]", "").Replace(behind.Listens), filepath.Join(dir, "both.pem")))
		return launch(t, at.host, port, "stunnel", conf).asProxy()
	}
}

// startSquid starts squid with basic authentication; with an authority it listens with TLS.
func startSquid(ca *wstest.Authority) func(t *testing.T, at place, password string) *running {
	return func(t *testing.T, at place, password string) *running {
		port, dir := program.Port(), program.Dir(t)
		listen := fmt.Sprintf("http_port %s", net.JoinHostPort(at.host, fmt.Sprint(port)))
		if ca != nil {
			ca.WritePEM(filepath.Join(dir, "both.pem"), at.host)
			listen = strings.Replace(listen, "http_port", "https_port", 1) + " tls-cert=" + filepath.Join(dir, "both.pem")
		}
		return launch(t, at.host, port, program.Squid(t, dir, listen, user, password)...).asProxy()
	}
}

// startNginx puts a web server in front of the upstream: plain, with TLS, and one that allows 10 connections an address.
func startNginx(t *testing.T, ca *wstest.Authority, upstream string) (plain, secure, limited string) {
	t.Helper()
	dir := program.Dir(t)
	pem := filepath.Join(dir, "both.pem")
	ca.WritePEM(pem, feedIPv4, feedIPv6)
	ports := [3]int{program.Port(), program.Port(), program.Port()}
	listen := func(port int, more string) string {
		return fmt.Sprintf("listen %s:%d %s; listen [%s]:%[2]d %[3]s;", serverIPv4, port, more, serverIPv6)
	}
	launch(t, serverIPv4, ports[2], program.Nginx(t, dir, upstream, `
	proxy_read_timeout 1h;
	limit_conn_zone $binary_remote_addr zone=each:1m;
	limit_conn_status 429;`,
		listen(ports[0], ""),
		listen(ports[1], "ssl")+fmt.Sprintf(" ssl_certificate %[1]s; ssl_certificate_key %[1]s;", pem),
		listen(ports[2], "")+" limit_conn each 10;",
	)...)
	return fmt.Sprint(ports[0]), fmt.Sprint(ports[1]), fmt.Sprint(ports[2])
}
