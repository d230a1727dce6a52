package proxies

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/armon/go-socks5"
	"github.com/elazarl/goproxy"
	"github.com/elazarl/goproxy/ext/auth"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does the library work with proxies written in Go by others? All is in this process.

const password = "s3cret:p@ss w%rd"

func TestGoProxies(t *testing.T) {
	ca := wstest.NewAuthority(t)
	parts := []part{
		{name: "go-socks5", scheme: "socks5", start: startGoSocks},
		{name: "go-socks5 with password", scheme: "socks5h", password: password, start: startGoSocks},
		{name: "goproxy", scheme: "http", start: startGoProxy(nil)},
		{name: "goproxy with password", scheme: "http", password: password, start: startGoProxy(nil)},
		{name: "goproxy over TLS with password", scheme: "https", password: password, start: startGoProxy(ca)},
	}
	table, rows := &results{}, 0
	for _, at := range []place{
		{family: "IPv4", host: "127.0.0.1", source: "127.0.0.21"},
		{family: "IPv6", host: "::1", source: "::1"},
	} {
		t.Run(at.family, func(t *testing.T) {
			plain, secure, refused := listen(t, at.host), listen(t, at.host), listen(t, at.host)
			srv := startUpstream(t, plain, tls.NewListener(secure, ca.Server("feed.test")))
			at.ws = "ws://feed.test:" + port(plain) + "/"
			at.wss = "wss://feed.test:" + port(secure) + "/"
			at.refused = "ws://feed.test:" + port(refused) + "/"
			refused.Close()
			rows += rowsEach * len(parts)
			for _, p := range parts {
				t.Run(p.name, func(t *testing.T) { p.run(t, at, srv, ca.Pool, table) })
			}
		})
	}
	table.report(t, rows)
}

func listen(t *testing.T, host string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("cannot listen on %s: %v", host, err)
	}
	return l
}

func port(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// hosts knows where feed.test is.
type hosts struct{ host string }

func (h hosts) Resolve(ctx context.Context, name string) (context.Context, net.IP, error) {
	if name != "feed.test" {
		return ctx, nil, fmt.Errorf("unknown: %s", name)
	}
	return ctx, net.ParseIP(h.host), nil
}

func startGoSocks(t *testing.T, at place, password string) *running {
	cfg := &socks5.Config{Resolver: hosts{at.host}, Logger: log.New(io.Discard, "", 0)}
	if password != "" {
		cfg.Credentials = socks5.StaticCredentials{user: password}
	}
	srv, err := socks5.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return startInProcess(t, at, at.host, func(l net.Listener) { srv.Serve(l) })
}

func startGoProxy(ca *wstest.Authority) func(t *testing.T, at place, password string) *running {
	return func(t *testing.T, at place, password string) *running {
		p := goproxy.NewProxyHttpServer()
		p.Logger = log.New(io.Discard, "", 0)
		if password != "" {
			auth.ProxyBasic(p, "realm", func(u, pw string) bool { return u == user && pw == password })
		}
		p.ConnectDial = func(network, addr string) (net.Conn, error) {
			name, port, _ := net.SplitHostPort(addr)
			_, ip, err := hosts{at.host}.Resolve(context.Background(), name)
			if err != nil {
				return nil, err
			}
			return net.Dial(network, net.JoinHostPort(ip.String(), port))
		}
		serve := func(l net.Listener) {
			http.Serve(l, p)
		}
		if ca != nil {
			tc := ca.Server(at.host)
			serve = func(l net.Listener) { http.Serve(tls.NewListener(l, tc), p) }
		}
		return startInProcess(t, at, at.host, serve)
	}
}

// startInProcess makes a server killable: it ends when all its sockets are closed.
func startInProcess(t *testing.T, at place, host string, serve func(l net.Listener)) *running {
	var now *watchedListener
	var mu sync.Mutex
	var clients []string
	begin := func(port string) {
		l, err := net.Listen("tcp", net.JoinHostPort(at.host, port))
		if err != nil {
			t.Fatal(err)
		}
		now = &watchedListener{Listener: l, conns: map[net.Conn]struct{}{}, note: func(c net.Conn) {
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, c.RemoteAddr().String())
		}}
		go serve(now)
	}
	begin("0")
	r := &running{host: host, port: port(now)}
	r.kill = func() { now.kill() }
	r.restart = func() { begin(r.port) }
	r.saw = func(client string) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range clients {
			if strings.HasPrefix(c, net.JoinHostPort(client, "")) {
				return true
			}
		}
		return false
	}
	t.Cleanup(r.kill)
	return r
}

// watchedListener knows its connections.
type watchedListener struct {
	net.Listener
	note func(c net.Conn)

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (l *watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.note(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c, nil
}

func (l *watchedListener) kill() {
	l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
}
