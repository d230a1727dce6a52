package acceptance

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file holds two small proxies, which work over any net.Conn, and a look for what must not be seen.

// The credentials that no error, log line or metric may show.
const canaryUser, canaryPassword = "alice-canary", "s3cret:p@ss/w?rd#"

// canaryURL is their userinfo in a proxy's URL, percent-encoded.
const canaryURL = "alice%2Dcanary:s3cret%3Ap%40ss%2Fw%3Frd%23@"

// proxySecrets are the forms in which they could be seen.
var proxySecrets = []string{
	canaryUser, canaryPassword, canaryURL, "s3cret",
	base64.StdEncoding.EncodeToString([]byte(canaryUser + ":" + canaryPassword)),
}

// wantNoCanary looks for the credentials in what text says of an error, in each way that fmt can print it.
func wantNoCanary(t *testing.T, what string, values ...any) {
	t.Helper()
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			text := fmt.Sprintf(verb, v)
			for _, secret := range proxySecrets {
				for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))} {
					if strings.Contains(text, form) {
						t.Errorf("%s shows %q by %s: %s", what, secret, verb, text)
						return
					}
				}
			}
		}
	}
}

// chain lists an error and all that it wraps.
func chain(err error) (all []any) {
	for ; err != nil; err = errors.Unwrap(err) {
		all = append(all, err)
	}
	return all
}

// proxyServer is what a proxy does for one client.
type proxyServer struct {
	user, password string // asked for, when not empty
	dial           func(addr string) (net.Conn, error)

	mu      sync.Mutex
	targets []string // what was asked for
	clients []string // addresses of those who asked
}

func (p *proxyServer) note(c net.Conn, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = append(p.targets, target)
	p.clients = append(p.clients, c.RemoteAddr().String())
}

// asked returns what was asked for, and by whom.
func (p *proxyServer) asked() (targets, clients []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...), append([]string(nil), p.clients...)
}

// socks5 serves RFC 1928 and 1929, as much as a client needs.
func (p *proxyServer) socks5(c net.Conn) {
	b := make([]byte, 262)
	read := func(n int) []byte {
		io.ReadFull(c, b[:n])
		return b[:n]
	}
	offered := string(read(int(read(2)[1])))
	if p.user != "" {
		if !strings.Contains(offered, "\x02") {
			c.Write([]byte{5, 0xff})
			return
		}
		c.Write([]byte{5, 2})
		user := string(read(int(read(2)[1])))
		password := string(read(int(read(1)[0])))
		if user != p.user || password != p.password {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	} else {
		c.Write([]byte{5, 0})
	}
	host := ""
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	case 4:
		host = net.IP(read(16)).String()
	}
	port := read(2)
	target := net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1])))
	p.note(c, target)
	out, err := p.dial(target)
	if err != nil {
		c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	join(c, c, out)
}

// connect serves HTTP CONNECT.
func (p *proxyServer) connect(c net.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil || req.Method != http.MethodConnect {
		io.WriteString(c, "HTTP/1.1 405 What\r\n\r\n")
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password))
	if p.user != "" && req.Header.Get("Proxy-Authorization") != want {
		io.WriteString(c, "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.note(c, req.Host)
	out, err := p.dial(req.Host)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	join(c, br, out)
}

// join copies both ways until one side ends.
func join(c net.Conn, from io.Reader, out net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(c, out)
		c.Close()
	}()
	io.Copy(out, from)
	out.Close()
	<-done
}

// serveConns serves a listener until the test ends.
func serveConns(t testing.TB, l net.Listener, serve func(c net.Conn)) {
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			all.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// caller is a handler that reports how its first attempt went, and what it was sent.
type caller struct {
	url    string
	header http.Header
	failed chan error   // by OnError, which parks
	retry  atomic.Int64 // but the first times
	opened chan wsshard.ConnectionState
	got    chan string
}

func newCaller(url string) *caller {
	return &caller{url: url, failed: make(chan error, 100), opened: make(chan wsshard.ConnectionState, 100), got: make(chan string, 100)}
}

// parkAfter lets so many attempts fail.
func (h *caller) parkAfter(n int64) { h.retry.Store(n) }

func (h *caller) URL(context.Context, wsshard.ConnectionState) (string, error) { return h.url, nil }

func (h *caller) ConnectionHeaders(context.Context, wsshard.ConnectionState) (http.Header, error) {
	return h.header, nil
}

func (h *caller) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (h *caller) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	h.got <- msg.String()
}

func (h *caller) OnConnect(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	h.opened <- st
	return nil, nil
}

func (h *caller) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	h.failed <- err
	return h.retry.Add(-1) > 0
}
