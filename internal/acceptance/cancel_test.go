package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// stalls make one step of connecting hang until its ctx ends.
var stalls = map[string]func(w *world, s *stepper){
	"URL": func(_ *world, s *stepper) {
		s.urlStep = func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	},
	"headers": func(_ *world, s *stepper) {
		s.headerStep = func(ctx context.Context) (http.Header, error) { <-ctx.Done(); return nil, ctx.Err() }
	},
	"dial": func(w *world, _ *stepper) {
		w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
	},
	"TLS": func(w *world, _ *stepper) {
		w.app.url = "wss://raw/"
		w.serveMute("raw:443", "")
	},
	"TLS, half a record": func(w *world, _ *stepper) {
		w.app.url = "wss://raw/"
		w.serveMute("raw:443", "\x16\x03\x03\x00")
	},
	"upgrade": func(w *world, _ *stepper) {
		w.app.url = "ws://raw/"
		w.serveMute("raw:80", "")
	},
	"upgrade, half a head": func(w *world, _ *stepper) {
		w.app.url = "ws://raw/"
		w.serveMute("raw:80", "HTTP/1.1 101 Switching Protocols\r\nUpgr")
	},
	"upgrade, half a body": func(w *world, _ *stepper) {
		w.app.url = "ws://raw/"
		w.serveMute("raw:80", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhal")
	},
	"upgrade, not even read": func(w *world, s *stepper) {
		w.app.url = "ws://raw/"
		w.net.SetBuffer(10)
		w.serveMute("raw:80", "")
	},
	"login": func(_ *world, s *stepper) {
		s.loginStep = func(ctx context.Context, conn wsshard.LoginConn) error { <-ctx.Done(); return ctx.Err() }
	},
	"login, reading": func(_ *world, s *stepper) {
		s.loginStep = func(ctx context.Context, conn wsshard.LoginConn) error {
			_, err := conn.Read(ctx)
			return err
		}
	},
	"login, reading without its ctx": func(_ *world, s *stepper) {
		s.loginStep = func(_ context.Context, conn wsshard.LoginConn) error {
			_, err := conn.Read(context.Background())
			return err
		}
	},
}

// serveMute says something to each connection, and nothing more, and reads nothing.
func (w *world) serveMute(addr, say string) {
	var joined sync.WaitGroup
	var conns []net.Conn
	ln := w.net.Listen(addr)
	w.t.Cleanup(func() {
		ln.Close()
		joined.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	joined.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte(say))
			conns = append(conns, c)
		}
	})
}

// ConnectTimeout ends every step when it is due.
func TestConnectTimeoutEndsEachStep(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			s := &stepper{}
			cfg := dialsOnly()
			cfg.Connection.ConnectTimeout = 7 * time.Second
			bubble(t, cfg, s.with, func(w *world) {
				stall(w, s)
				begin := w.begin("a")
				after(14 * time.Second)
				errs, at := s.failures()
				var de *wsshard.DialError
				if len(errs) != 1 || at[0].Sub(begin) != 7*time.Second || !errors.As(errs[0], &de) {
					w.t.Fatalf("failed with %v at %v", errs, at)
				}
				var he *wsshard.HandshakeError
				if name == "upgrade, half a body" { // the answer is known, whatever is missing of its body
					if !errors.As(de, &he) || he.StatusCode != 200 || string(he.Body) != "hal" {
						t.Errorf("failed with %#v", de.Err)
					}
				} else if !errors.Is(de, context.DeadlineExceeded) {
					t.Errorf("failed with %v", de)
				}
				after(100 * ms)
				if _, at := s.failures(); len(at) != 2 {
					t.Errorf("failed at %v", at)
				}
			})
		})
	}
}

// URL, headers, dial, upgrade and login share one ConnectTimeout; the wait for a turn is not part of it, nor a URL that grew
// old meanwhile.
func TestConnectTimeoutIsForAllSteps(t *testing.T) {
	slow := func(ctx context.Context) error {
		select {
		case <-time.After(3 * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, c := range []struct {
		timeout time.Duration
		ok      bool
	}{{15*time.Second + 1, true}, {15*time.Second - 1, false}} {
		t.Run(fmt.Sprint(c.timeout), func(t *testing.T) {
			s := &stepper{}
			cfg := dialsOnly()
			cfg.Connection.ConnectTimeout = c.timeout
			cfg.Connection.Limiter = slowLimiter(time.Hour)
			bubble(t, cfg, s.with, func(w *world) {
				s.urlStep = func(ctx context.Context) (string, error) { return "ws://srv/", slow(ctx) }
				s.headerStep = func(ctx context.Context) (http.Header, error) { return nil, slow(ctx) }
				s.loginStep = func(ctx context.Context, _ wsshard.LoginConn) error { return slow(ctx) }
				w.net.OnDial(func(ctx context.Context, _ int, _ string) error { return slow(ctx) })
				w.srv.Reject(func(r *http.Request) (int, http.Header, string) { slow(context.Background()); return 0, nil, "" })
				begin := w.begin("a")
				after(time.Hour + 20*time.Second)
				errs, at := s.failures()
				if c.ok && len(errs) > 0 || !c.ok && (len(errs) != 1 || at[0].Sub(begin) < time.Hour+c.timeout-5*time.Second || at[0].Sub(begin) > 3*time.Second+time.Hour+c.timeout || !errors.Is(errs[0], context.DeadlineExceeded)) {
					t.Errorf("failed with %v at %v", errs, at)
				}
				if up := w.m.Metrics().ActiveConnections == 1; up != c.ok {
					t.Errorf("connected: %v", up)
				}
			})
		})
	}
}

// slowLimiter has everybody wait so long.
type slowLimiter time.Duration

func (l slowLimiter) Wait(ctx context.Context, _, _ string) error {
	select {
	case <-time.After(time.Duration(l)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (slowLimiter) Block(string, string, time.Time) {}

// A switchover whose caller gives up ends at once, wherever it is, and the old connection goes on.
func TestCancelledSwitchoverEndsAtEachStep(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			s := &stepper{}
			bubble(t, dialsOnly(), s.with, func(w *world) {
				w.start("a")
				stall(w, s)
				ctx, cancel := context.WithCancel(context.Background())
				moved := make(chan error, 1)
				go func() { moved <- w.m.HotSwitchover(ctx, 0) }()
				after(time.Second)
				w.wantState(0, wsshard.ShardSwitching)
				cancel()
				after(0)
				select {
				case err := <-moved:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("HotSwitchover: %v", err)
					}
				default:
					t.Error("HotSwitchover goes on")
				}
				w.wantState(0, wsshard.ShardConnected)
				w.topics.Publish("a", "1")
				w.wantGot("a:1")
				w.wantCauses()
				if errs, _ := s.failures(); len(errs) > 0 {
					t.Errorf("OnError heard %v", errs)
				}
				if n := w.net.Open(); n != 1 {
					t.Errorf("%d sockets are open", n)
				}
			})
		})
	}
}
