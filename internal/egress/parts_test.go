//go:build integration && linux

package egress

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how are the proxies that people run started?

// lastPort is the last port that a part was given.
var lastPort atomic.Int64

func freshPort() string { return fmt.Sprint(20000 + lastPort.Add(1)) }

// daemon is a program that runs in the servers' namespace.
type daemon struct {
	t       *testing.T
	command []string
	addr    string // where it listens, once it does
	out     bytes.Buffer
	mu      sync.Mutex // protects cmd
	cmd     *exec.Cmd
}

// launch starts a program and waits until it accepts connections.
func launch(t *testing.T, host, port string, command ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, command: command, addr: net.JoinHostPort(host, port)}
	t.Cleanup(d.kill)
	d.start()
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	cmd := there(d.command[0], d.command[1:]...)
	d.out.Reset()
	cmd.Stdout, cmd.Stderr = &d.out, &d.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some of them are several processes
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	d.cmd = cmd
	d.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		if c, err := net.Dial("tcp", d.addr); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			d.kill()
			d.t.Fatalf("%s does not listen on %s:\n%s", d.command[0], d.addr, d.out.String())
		}
	}
}

// kill ends it and its children at once.
func (d *daemon) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		d.cmd.Wait()
		d.cmd = nil
	}
}

// asProxy is what the matrix wants to know of it.
func (d *daemon) asProxy() *running {
	host, port, _ := net.SplitHostPort(d.addr)
	return &running{host: host, port: port, kill: d.kill, restart: d.start, saw: func(client string) bool {
		// The kernel knows best who is connected to it.
		peers, err := there("ss", "-Htn", "state", "established", "sport = :"+port).Output()
		return err == nil && (strings.Contains(string(peers), client+"]:") || strings.Contains(string(peers), client+":"))
	}}
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

func startMicrosocks(t *testing.T, at place, password string) *running {
	port := freshPort()
	command := []string{"microsocks", "-i", at.host, "-p", port}
	if password != "" {
		command = append(command, "-u", user, "-P", password)
	}
	return launch(t, at.host, port, command...).asProxy()
}

func startDante(t *testing.T, at place, password string) *running {
	port, dir, method := freshPort(), workDir(t), "none"
	if password != "" {
		method = "username" // of the system, see writeEtc
	}
	conf := writeFile(t, dir, "danted.conf", fmt.Sprintf(`
logoutput: stderr
internal: %[1]s port = %[2]s
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

func launchTinyproxy(t *testing.T, at place, password string) *daemon {
	port := freshPort()
	conf := writeFile(t, workDir(t), "tinyproxy.conf", fmt.Sprintf(`
User nobody
Group nogroup
Port %s
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
		port, dir := freshPort(), workDir(t)
		ca.WritePEM(filepath.Join(dir, "both.pem"), at.host)
		conf := writeFile(t, dir, "stunnel.conf", fmt.Sprintf(`
foreground = yes
pid =
[proxy]
accept = %s:%s
connect = %s
cert = %s
`, at.host, port, strings.NewReplacer("[", "", "]", "").Replace(behind.addr), filepath.Join(dir, "both.pem")))
		return launch(t, at.host, port, "stunnel", conf).asProxy()
	}
}

// startSquid starts squid with basic authentication; with an authority it listens with TLS.
func startSquid(ca *wstest.Authority) func(t *testing.T, at place, password string) *running {
	return func(t *testing.T, at place, password string) *running {
		port, dir := freshPort(), workDir(t)
		listen := fmt.Sprintf("http_port %s", net.JoinHostPort(at.host, port))
		if ca != nil {
			ca.WritePEM(filepath.Join(dir, "both.pem"), at.host)
			listen = fmt.Sprintf("https_port %s tls-cert=%s", net.JoinHostPort(at.host, port), filepath.Join(dir, "both.pem"))
		}
		passwords := filepath.Join(dir, "passwords")
		if out, err := exec.Command("htpasswd", "-bc", passwords, user, password).CombinedOutput(); err != nil {
			t.Fatalf("htpasswd: %v: %s", err, out)
		}
		conf := writeFile(t, dir, "squid.conf", fmt.Sprintf(`
%s
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
`, listen, passwords, dir, dir))
		// It would leave files there when it is killed.
		const alone = `mount -t tmpfs shm /dev/shm && exec squid "$@"`
		return launch(t, at.host, port, "sh", "-c", alone, "squid", "-N", "-d", "1", "-n", "t"+port, "-f", conf).asProxy()
	}
}

// startNginx puts a web server in front of the upstream: plain, with TLS, and one that allows 10 connections an address.
func startNginx(t *testing.T, ca *wstest.Authority, upstream string) (plain, secure, limited string) {
	t.Helper()
	dir := workDir(t)
	plain, secure, limited = freshPort(), freshPort(), freshPort()
	ca.WritePEM(filepath.Join(dir, "both.pem"), feedIPv4, feedIPv6)
	proxy := fmt.Sprintf(`location / {
			proxy_pass http://%s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_set_header X-Real-IP $remote_addr;
			proxy_read_timeout 1h;
		}`, upstream)
	listen := func(port, more string) string {
		return fmt.Sprintf("listen %s:%s %s; listen [%s]:%s %s;", serverIPv4, port, more, serverIPv6, port, more)
	}
	conf := writeFile(t, dir, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
user root;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	limit_conn_zone $binary_remote_addr zone=each:1m;
	limit_conn_status 429;
	server { %[2]s %[5]s }
	server { %[3]s ssl_certificate %[1]s/both.pem; ssl_certificate_key %[1]s/both.pem; %[5]s }
	server { %[4]s limit_conn each 10; %[5]s }
}
`, dir, listen(plain, ""), listen(secure, "ssl"), listen(limited, ""), proxy))
	launch(t, serverIPv4, limited, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
	return plain, secure, limited
}
