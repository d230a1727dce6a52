package acceptance

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does a shard make of a proxy that does not open the way? Clock and network are fake.

// badProxy is a proxy that misbehaves, and what must be made of it.
type badProxy struct {
	name   string
	scheme string
	serve  func(c net.Conn) // nil: nobody listens
	step   string           // of the ProxyError; empty: the way is open
	status int
	is     error  // what it wraps
	says   string // part of its text
}

// answers is an HTTP proxy that says text and hangs up.
func answers(text string) func(c net.Conn) {
	return func(c net.Conn) {
		readHead(c)
		io.WriteString(c, text)
	}
}

// replies is a SOCKS proxy that reads so many bytes before it says each piece, and then hangs up.
func replies(script ...any) func(c net.Conn) {
	return func(c net.Conn) {
		for _, s := range script {
			switch s := s.(type) {
			case int:
				io.ReadFull(c, make([]byte, s))
			case string:
				io.WriteString(c, s)
			case func(net.Conn):
				s(c)
			}
		}
	}
}

const (
	socksHello   = 4                                          // bytes of the greeting with credentials
	socksLogin   = 3 + len(canaryUser) + len(canaryPassword)  // of the login
	socksConnect = 7 + len("srv")                             // of the request
	socksOK      = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" // an answer to it
	socksRefused = "\x00\x00\x01\x00\x00\x00\x00\x00\x00"     // the same, less version and reply
)

func loggedIn(script ...any) func(c net.Conn) {
	return replies(append([]any{socksHello, "\x05\x02", socksLogin, "\x01\x00"}, script...)...)
}

func replied(code string) func(c net.Conn) {
	return loggedIn(socksConnect, "\x05"+code+socksRefused)
}

func endless(c net.Conn) {
	readHead(c)
	for io.WriteString(c, "HTTP/1.1 200 OK\r\n"); ; {
		if _, err := io.WriteString(c, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
			return
		}
	}
}

func oneLine(c net.Conn) {
	for readHead(c); ; {
		if _, err := io.WriteString(c, strings.Repeat("HTTP", 1000)); err != nil {
			return
		}
	}
}

func echo(c net.Conn) { io.WriteString(c, readHead(c)) }

func reset(c net.Conn) { c.(interface{ Reset() }).Reset() }

func through(c net.Conn) { // the rest is the server's part, in a few words
	readHead(c)
	io.WriteString(c, "HTTP/1.1 418 Here\r\nContent-Length: 0\r\n\r\n")
}

// early is what a server says before it is asked: it comes in one piece with the proxy's answer.
const early = "HTTP/1.1 418 Early\r\nContent-Length: 0\r\n\r\n"

func readHeadOf(c net.Conn) { readHead(c) }

func after200(status string) func(c net.Conn) {
	return func(c net.Conn) { answers(status)(c); through(c) }
}

var badProxies = []badProxy{
	{"refused", "http", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"hangs up", "http", readHeadOf, "connect", 0, io.ErrUnexpectedEOF, ""},
	{"hangs up in its answer", "http", answers("HTTP/1.1 20"), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"resets", "http", reset, "connect", 0, syscall.ECONNRESET, ""},
	{"401", "http", answers("HTTP/1.1 401 Unauthorized\r\n\r\n"), "auth", 401, nil, "credentials"},
	{"407", "http", answers("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 1000\r\n\r\n"), "auth", 407, nil, "credentials"},
	{"407 without a reason", "http", answers("HTTP/1.0 407\n\n"), "auth", 407, nil, ""},
	{"403", "http", answers("HTTP/1.1 403 Forbidden\r\n\r\n"), "connect", 403, nil, "no tunnel"},
	{"500", "http", answers("HTTP/1.1 500 No\r\n\r\n"), "connect", 500, nil, ""},
	{"502", "http", answers("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "connect", 502, nil, ""},
	{"302", "http", answers("HTTP/1.1 302 Found\r\nLocation: http://srv/\r\n\r\n"), "connect", 302, nil, ""},
	{"junk", "http", answers("SSH-2.0-OpenSSH_9.2\r\n"), "connect", 0, nil, "not HTTP"},
	{"status 000", "http", answers("HTTP/0.0 000\n\n"), "connect", 0, nil, ""},
	{"no status", "http", answers("HTTP/1.1\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"binary", "http", answers("\x05\x00\x00\xff\xfe\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"bad header", "http", answers("HTTP/1.1 200 OK\r\n" + canaryUser + "\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"echo", "http", echo, "connect", 0, nil, "not HTTP"},
	{"endless head", "http", endless, "connect", 0, nil, "too long"},
	{"endless line", "http", oneLine, "connect", 0, nil, "too long"},
	{"only 1xx", "http", answers(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9)), "connect", 0, nil, "informational"},
	{"1xx, then 407", "http", answers("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 407 Who\r\n\r\n"), "auth", 407, nil, ""},
	{"1xx, then open", "http", after200("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "", 418, nil, ""},
	{"200 without a reason", "http", after200("HTTP/1.1 200\r\n\r\n"), "", 418, nil, ""},
	{"HTTP/1.0", "http", after200("HTTP/1.0 200 OK\n\n"), "", 418, nil, ""},
	{"204", "http", after200("HTTP/1.1 204 No Content\r\n\r\n"), "", 418, nil, ""},
	{"299 with a length", "http", after200("HTTP/1.1 299 Fine\r\nContent-Length: 7\r\n\r\n"), "", 418, nil, ""},
	{"early bytes", "http", replies(answers("HTTP/1.1 200 OK\r\n\r\n"+early), readHeadOf), "", 418, nil, ""},
	{"dies in the tunnel", "http", replies(answers("HTTP/1.1 200 OK\r\n\r\n"), readHeadOf), "tunnel", 0, io.ErrUnexpectedEOF, ""},
	{"resets the tunnel", "http", func(c net.Conn) { answers("HTTP/1.1 200 OK\r\n\r\n")(c); readHead(c); reset(c) }, "tunnel", 0, syscall.ECONNRESET, ""},
	{"speaks no TLS", "https", replies(5, "HTTP/1.1 400 Bad Request\r\n\r\n"), "tls", 0, nil, "TLS"},
	{"hangs up on TLS", "https", func(c net.Conn) { c.Read(make([]byte, 5)) }, "tls", 0, io.EOF, "TLS"},
	{"TLS alert", "https", func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}); io.Copy(io.Discard, c) }, "tls", 0, nil, "TLS"},

	{"refused", "socks5", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"refused", "socks5h", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"hangs up", "socks5", replies(socksHello), "greeting", 0, io.EOF, ""},
	{"resets", "socks5", reset, "greeting", 0, syscall.ECONNRESET, ""},
	{"speaks HTTP", "socks5", replies(socksHello, "HTTP/1.1 400 Bad\r\n\r\n"), "greeting", 0, nil, "version"},
	{"version 4", "socks5", replies(socksHello, "\x04\x00"), "greeting", 0, nil, "version 4"},
	{"short greeting", "socks5", replies(socksHello, "\x05"), "greeting", 0, io.ErrUnexpectedEOF, ""},
	{"no method", "socks5", replies(socksHello, "\x05\xff"), "auth", 0, nil, "credentials"},
	{"method that was not offered", "socks5", replies(socksHello, "\x05\x01"), "greeting", 0, nil, "not offered"},
	{"refuses the password", "socks5", replies(socksHello, "\x05\x02", socksLogin, "\x01\x01"), "auth", 0, nil, "credentials"},
	{"hangs up on the password", "socks5", replies(socksHello, "\x05\x02", socksLogin), "auth", 0, io.EOF, ""},
	{"short answer to the password", "socks5", replies(socksHello, "\x05\x02", socksLogin, "\x01"), "auth", 0, io.ErrUnexpectedEOF, ""},
	{"bad answer to the password", "socks5", replies(socksHello, "\x05\x02", socksLogin, "\x05\x00"), "auth", 0, nil, "version"},
	{"hangs up on the request", "socks5", loggedIn(socksConnect), "connect", 0, io.EOF, ""},
	{"short reply", "socks5", loggedIn(socksConnect, "\x05\x00\x00"), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"short address", "socks5", loggedIn(socksConnect, socksOK[:8]), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"reply of version 4", "socks5", loggedIn(socksConnect, "\x04\x00"+socksOK[2:]), "connect", 0, nil, "version 4"},
	{"reserved byte", "socks5", loggedIn(socksConnect, "\x05\x00\x01"+socksOK[3:]), "connect", 0, nil, "reserved"},
	{"address type 9", "socks5", loggedIn(socksConnect, "\x05\x00\x00\x09"+socksOK[4:]), "connect", 0, nil, "address type 9"},
	{"general failure", "socks5", replied("\x01"), "connect", 0, nil, "could not reach"},
	{"not allowed", "socks5", replied("\x02"), "connect", 0, nil, "not allowed"},
	{"network unreachable", "socks5", replied("\x03"), "connect", 0, nil, "could not reach"},
	{"host unreachable", "socks5", replied("\x04"), "connect", 0, nil, "could not reach"},
	{"target refused", "socks5h", replied("\x05"), "connect", 0, nil, "refused"},
	{"TTL expired", "socks5", replied("\x06"), "connect", 0, nil, "could not reach"},
	{"command not supported", "socks5", replied("\x07"), "connect", 0, nil, "not supported"},
	{"reply 91", "socks5", replied("\x5b"), "connect", 0, nil, "91"},
	{"no password wanted", "socks5", replies(socksHello, "\x05\x00", socksConnect, socksOK, through), "", 418, nil, ""},
	{"bound to a name", "socks5", loggedIn(socksConnect, "\x05\x00\x00\x03\x04name\x00\x50", through), "", 418, nil, ""},
	{"bound to IPv6", "socks5", loggedIn(socksConnect, "\x05\x00\x00\x04"+strings.Repeat("\x00", 18), through), "", 418, nil, ""},
	{"early bytes", "socks5", loggedIn(socksConnect, socksOK+early, readHeadOf), "", 418, nil, ""},
	{"dies in the tunnel", "socks5", loggedIn(socksConnect, socksOK, readHeadOf), "tunnel", 0, io.ErrUnexpectedEOF, ""},
}

// listenProxy serves the default port of a kind of proxy.
func (w *world) listenProxy(scheme string, serve func(c net.Conn)) {
	if serve == nil {
		return
	}
	port := map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80", "https": "443"}[scheme]
	serveConns(w.t, w.net.Listen("proxy:"+port), serve)
}

// withHandler starts another manager with one topic in the same world.
func (w *world) withHandler(h wsshard.Handler[string], cfg wsshard.Config) *wsshard.ShardManager[string] {
	w.t.Helper()
	cfg.Connection.NetDialContext = w.net.DialContext
	m, err := wsshard.New(h, cfg)
	if err == nil {
		_, err = m.Subscribe("a")
	}
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// stallingProxies are proxies that go silent, and the step they do so in.
func stallingProxies() map[string]badProxy {
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	return map[string]badProxy{
		"dial":                  {scheme: "http", step: "dial"},
		"TLS":                   {scheme: "https", serve: silent, step: "tls"},
		"CONNECT":               {scheme: "http", serve: silent, step: "connect"},
		"middle of the answer":  {scheme: "http", serve: replies(answers("HTTP/1.1 200 OK\r\nX: "), silent), step: "connect"},
		"after a 1xx":           {scheme: "http", serve: replies(answers("HTTP/1.1 100 Wait\r\n\r\n"), silent), step: "connect"},
		"SOCKS greeting":        {scheme: "socks5", serve: silent, step: "greeting"},
		"middle of a greeting":  {scheme: "socks5", serve: replies(socksHello, "\x05", silent), step: "greeting"},
		"SOCKS login":           {scheme: "socks5", serve: replies(socksHello, "\x05\x02", silent), step: "auth"},
		"SOCKS request":         {scheme: "socks5", serve: loggedIn(silent), step: "connect"},
		"middle of the request": {scheme: "socks5", serve: loggedIn(socksConnect, "\x05\x00", silent), step: "connect"},
	}
}

// A proxy that stalls ends with ConnectTimeout, not before or after, and Stop does not wait for that.
func TestProxiesThatStall(t *testing.T) {
	const timeout = 7 * time.Second
	for name, c := range stallingProxies() {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{
				ConnectTimeout: timeout, Proxy: c.scheme + "://" + canaryURL + "proxy",
			}}
			bubble(t, cfg, nil, func(w *world) {
				if c.step == "dial" {
					w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
				}
				w.listenProxy(c.scheme, c.serve)
				begin := time.Now()
				h := newCaller("ws://srv/")
				m := w.withHandler(h, cfg)
				err := <-h.failed
				var pe *wsshard.ProxyError
				if !errors.As(err, &pe) || pe.Step != c.step || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("failed with %v, want a timeout in step %s", err, c.step)
				}
				if d := time.Since(begin); d != timeout {
					t.Errorf("failed after %v", d)
				}
				wantNoCanary(t, "the error", chain(err)...)

				m.Reconnect(0)
				after(time.Second)
				begin = time.Now()
				if err := m.Stop(context.Background()); err != nil || time.Since(begin) != 0 {
					t.Errorf("Stop: %v after %v", err, time.Since(begin))
				}
				synctest.Wait()
				if n := w.net.Open(); n != 0 {
					t.Errorf("%d sockets are open", n)
				}
			})
		})
	}
}

// Without credentials a proxy that wants some is told apart, and one that chooses to be logged in to is not believed.
func TestProxiesWithoutCredentials(t *testing.T) {
	for _, c := range []struct {
		answer, step, says string
	}{{"\x05\xff", "auth", "credentials"}, {"\x05\x02", "greeting", "not offered"}} {
		cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{Proxy: "socks5://proxy"}}
		bubble(t, cfg, nil, func(w *world) {
			w.listenProxy("socks5", replies(3, c.answer, func(c net.Conn) { io.Copy(io.Discard, c) }))
			h := newCaller("ws://srv/")
			m := w.withHandler(h, cfg)
			defer m.Stop(context.Background())
			err := <-h.failed
			var pe *wsshard.ProxyError
			if !errors.As(err, &pe) || pe.Step != c.step || !strings.Contains(err.Error(), c.says) {
				t.Errorf("failed with %v, want %q in step %s", err, c.says, c.step)
			}
		})
	}
}

// What New says of a proxy that it refuses carries no credential either.
func TestRefusedProxiesShowNothing(t *testing.T) {
	for _, raw := range []string{
		"ftp://" + canaryURL + "proxy", "socks5://" + canaryURL, "http://" + canaryURL + "proxy/path", "http://" + canaryURL + "proxy:99999",
		"http://alice-canary:" + canaryPassword + "@proxy", // its "/", "?" and "#" should have been encoded
		"http://alice-canary:1234#s3cret@proxy", "http://alice-canary:1234/s3cret@proxy", "http://alice-canary:1234?s3cret@proxy",
		"alice-canary:s3cret@proxy:1080", "://" + canaryURL + "proxy", "http://%zz" + canaryURL + "proxy", "http://alice%3Acanary:s3cret@proxy",
	} {
		cfg := wsshard.Config{}
		cfg.Connection.Proxy = raw
		_, err := wsshard.New(wsshard.Handler[string](newCaller("ws://srv/")), cfg)
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) || ce.Field != "Connection.Proxy" {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		wantNoCanary(t, raw, ce, err.Error())
		if strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
