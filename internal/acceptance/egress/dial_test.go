package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if a callback of the dial fails, and which addresses are dialled?

// A callback's error is in the *DialError for errors.Is, and the next attempt asks again.
func TestCallbackErrors(t *testing.T) {
	mine := errors.New("no token yet")
	for name, fail := range map[string]func(s *harness.Stepper, err func() error){
		"URL": func(s *harness.Stepper, err func() error) {
			s.URLStep = func(context.Context) (string, error) { return "ws://srv/", err() }
		},
		"headers": func(s *harness.Stepper, err func() error) {
			s.HeaderStep = func(context.Context) (http.Header, error) { return nil, err() }
		},
		"login": func(s *harness.Stepper, err func() error) {
			s.LoginStep = func(context.Context, wsshard.LoginConn) error { return err() }
		},
	} {
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprint(name, panics), func(t *testing.T) {
				s := &harness.Stepper{}
				harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
					calls := 0
					fail(s, func() error {
						if calls++; calls > 2 {
							return nil
						}
						if panics {
							panic(mine)
						}
						return mine
					})
					begin := w.Begin("a")
					w.Sync()
					errs, _ := s.Failures()
					if len(errs) != 2 || calls != 3 || time.Since(begin) != 300*time.Millisecond {
						w.T.Fatalf("connected after %v, %d calls, %v", time.Since(begin), calls, errs)
					}
					for i, err := range errs {
						var de *wsshard.DialError
						var pe *wsshard.PanicError
						if !errors.As(err, &de) || de.Attempt != i+1 || !errors.Is(err, mine) || errors.As(err, &pe) != panics {
							t.Errorf("attempt %d: %v", i+1, err)
						}
					}
					if got := w.M.Metrics(); got.HandlerPanics != map[bool]uint64{true: 2}[panics] || got.CircuitBreakerTrips != 0 {
						t.Errorf("%d panics, %d trips", got.HandlerPanics, got.CircuitBreakerTrips)
					}
					w.WantTopics("a")
				})
			})
		}
	}
}

// What cannot be dialled is refused before anything is dialled, by an error that names no secret.
func TestURLsThatAreRefused(t *testing.T) {
	for _, url := range []string{
		"", " ", "srv", "srv:80", "//srv/", "/path", "http://srv/", "https://srv/", "wsss://srv/", "ftp://srv/", "ws:srv", "ws:/srv", "ws://",
		"ws:///", "ws://:80/", "ws://srv:0/", "ws://srv:65536/", "ws://srv:99999999999999999999/", "ws://srv:http/", "ws://srv:-1/",
		"ws://user:canary@/", "ws://user:canary@:80/", "http://user:canary@srv/", "ws://srv/#canary", "ws://srv/?a#canary",
		"ws://srv/\r\nX-Evil: canary", "ws://srv/\x00", "ws://srv/?q=canary\n", "ws://srv/?q=a b", "ws://srv/a\tb", "\x01ws://srv/", "ws://srv /", "ws://s\r\nrv/",
		"ws://srv/%zz", "ws://[::1/", "ws://[::1]x/", "ws://srv/\x7f", " ws://srv/", "ws://srv/ ", "ws://sr%0d%0av/", "ws://%zz/", "ws://srv:80:80/", "ws://[::%25]]", "ws://[::%25\xc0]/canary", "ws://]", "ws://[srv]/", "ws://[127.0.0.1]/", "ws://s\"rv/", "ws://s<rv/", "ws://srv%ff/",
	} {
		t.Run(fmt.Sprintf("%q", url), func(t *testing.T) {
			s := &harness.Stepper{}
			harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
				s.URLStep = func(context.Context) (string, error) { return url, nil }
				w.Begin("a")
				harness.After(50 * time.Millisecond)
				errs, _ := s.Failures()
				if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrInvalidURL) || strings.Contains(errs[0].Error(), "canary") || strings.ContainsAny(errs[0].Error(), "\r\n\x00") {
					t.Errorf("failed with %q", errs)
				}
				if n := w.Net.Dials(); n != 0 {
					t.Errorf("%d dials", n)
				}
				s.URLStep = func(context.Context) (string, error) { return "WS://srv", nil } // the manager goes on
				w.Sync()
				w.WantTopics("a")
			})
		})
	}
}

func TestWhereURLsAreDialled(t *testing.T) {
	for url, want := range map[string]string{
		"ws://h": "h:80", "wss://h": "h:443", "ws://h:81/x?y=%20&t=ü": "h:81", "wss://h:444/": "h:444", "ws://[::1]": "[::1]:80", "wss://[fe80::1%25e0]:5/": "[fe80::1%e0]:5",
		"ws://h?q": "h:80", "ws://h:/": "h:80", "WSS://H/": "H:443", "ws://münchen.example/": "xn--mnchen-3ya.example:80",
	} {
		t.Run(url, func(t *testing.T) {
			s := &harness.Stepper{}
			cfg := harness.DialsOnly()
			var got []string
			cfg.Connection.NetDialContext = func(_ context.Context, network, addr string) (net.Conn, error) {
				got = append(got, network+" "+addr)
				return nil, syscall.ECONNREFUSED
			}
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				s.URLStep = func(context.Context) (string, error) { return url, nil }
				w.Begin()
				harness.After(50 * time.Millisecond)
				if len(got) != 1 || got[0] != "tcp "+want {
					t.Errorf("dialled %q, want %q", got, want)
				}
			})
		})
	}
}

func TestDialFuncWithoutResult(t *testing.T) {
	s := &harness.Stepper{}
	cfg := harness.DialsOnly()
	cfg.Connection.TLSConfig = &tls.Config{}
	cfg.Connection.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	harness.Bubble(t, cfg, s.With, func(w *harness.World) {
		w.Begin("a")
		harness.After(50 * time.Millisecond)
		if errs, _ := s.Failures(); len(errs) != 1 {
			t.Errorf("failed with %v", errs)
		}
	})
}

// brokenConn does something else than to read.
type brokenConn struct {
	net.Conn
	do func()
}

func (c brokenConn) Read([]byte) (int, error) { c.do(); return 0, io.EOF }

// A panic anywhere below a handshake costs the attempt, and neither process nor socket: it is said to be what it is.
func TestHandshakeThatPanics(t *testing.T) {
	for _, via := range []string{"", "http://proxy", "socks5://proxy"} {
		for name, do := range map[string]func(){"panic": func() { panic("read") }, "Goexit": runtime.Goexit} {
			s := &harness.Stepper{}
			cfg := harness.OneConnection(wsshard.ConnectionConfig{MaxConcurrentDials: 1, Proxy: via})
			var dial func(context.Context, string, string) (net.Conn, error)
			times := 3
			cfg.Connection.NetDialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				if times--; times >= 0 {
					conn = brokenConn{conn, do}
				}
				return conn, err
			}
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				dial = w.Net.DialContext
				p := &harness.ProxyServer{Dial: func(addr string) (net.Conn, error) { return dial(context.Background(), "tcp", addr) }}
				listenProxy(w, "http", p.Connect)
				listenProxy(w, "socks5", p.Socks5)
				w.Start("a")
				errs, _ := s.Failures()
				var pe *wsshard.PanicError
				if len(errs) != 3 || !errors.As(errs[0], &pe) || name == "panic" && !strings.Contains(string(pe.Stack), "brokenConn") {
					t.Errorf("%s, %s: failed with %v", via, name, errs)
				}
				if m := w.M.Metrics(); m.HandlerPanics != 3 || m.CircuitBreakerTrips != 0 {
					t.Errorf("%s, %s: %d panics are counted", via, name, m.HandlerPanics)
				}
				w.M.Stop(context.Background())
				synctest.Wait()
				if n := w.Net.Open(); n != 0 {
					t.Errorf("%s, %s: %d sockets are open", via, name, n)
				}
			})
		}
	}
}

// A server that refuses for good is asked at the pace of the backoff, whatever it says; for what it says to a shard in person,
// and of "too many", the gate has ladders of its own.
func TestRefusalsGetBackoff(t *testing.T) {
	for _, status := range []int{200, 301, 400, 404, 426, 500, 502} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := &harness.Stepper{}
			harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
				w.Srv.Reject(func(*http.Request) (int, http.Header, string) { return status, nil, "no" })
				begin := w.Begin("a")
				harness.After(2 * time.Second)
				w.WantDials(begin, 0, 100*time.Millisecond, 300*time.Millisecond, 700*time.Millisecond, 1500*time.Millisecond)
				errs, _ := s.Failures()
				for i, err := range errs {
					var he *wsshard.HandshakeError
					if !errors.As(err, &he) || he.StatusCode != status || string(he.Body) != "no" && status > 299 && status != 304 {
						t.Errorf("attempt %d: %v, %q", i+1, err, he.Body)
					}
				}
			})
		})
	}
}
