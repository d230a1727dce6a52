package program

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// This file answers: how are the programs configured that both modules start? Each function returns a command line.

// Microsocks is a SOCKS proxy. Without a password it asks for none.
func Microsocks(host string, port int, user, password string) []string {
	line := []string{"microsocks", "-i", host, "-p", fmt.Sprint(port)}
	if password != "" {
		line = append(line, "-u", user, "-P", password)
	}
	return line
}

// Squid is an HTTP proxy that asks for a user and a password. listen is the line that says where it listens, more are others. The
// command mounts a /dev/shm of its own: squid leaves files there when it is killed.
func Squid(t testing.TB, dir, listen, user, password string, more ...string) []string {
	t.Helper()
	passwords := filepath.Join(dir, "passwords")
	Run(t, exec.Command("htpasswd", "-bc", passwords, user, password))
	conf := File(t, dir, "squid.conf", fmt.Sprintf(`
%[1]s
auth_param basic program /usr/lib/squid/basic_ncsa_auth %[2]s
auth_param basic children 2
acl authed proxy_auth REQUIRED
http_access allow authed
http_access deny all
cache deny all
memory_cache_shared off
shared_transient_entries_limit 0
pinger_enable off
pid_filename none
cache_log stdio:%[3]s/cache.log
access_log none
coredump_dir %[3]s
visible_hostname proxy
dns_nameservers 127.0.0.1
%[4]s
`, listen, passwords, dir, strings.Join(more, "\n")))
	const alone = `mount -t tmpfs shm /dev/shm && exec squid "$@"`
	return []string{"unshare", "--mount", "sh", "-c", alone, "squid", "-N", "-d", "1", "-n", fmt.Sprint("t", Port()), "-f", conf}
}

// Nginx is a web server that passes WebSocket connections on to upstream, a host:port. common is said for all of its servers; each
// of servers says where one listens.
func Nginx(t testing.TB, dir, upstream, common string, servers ...string) []string {
	t.Helper()
	var each strings.Builder
	for _, server := range servers {
		fmt.Fprintf(&each, `
	server {
		%s
		location / {
			proxy_pass http://%s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_set_header X-Real-IP $remote_addr;
		}
	}`, server, upstream)
	}
	conf := File(t, dir, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
user root;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	%[2]s%[3]s
}
`, dir, common, &each))
	return []string{"nginx", "-p", dir, "-e", "stderr", "-c", conf}
}
