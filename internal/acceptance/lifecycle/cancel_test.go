package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does ConnectTimeout, or a cancelled ctx, end each step of a dial?

// stalls make one step of connecting hang until its ctx ends.
var stalls = map[string]func(w *harness.World, s *harness.Stepper){
	"URL": func(_ *harness.World, s *harness.Stepper) {
		s.URLStep = func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	},
	"headers": func(_ *harness.World, s *harness.Stepper) {
		s.HeaderStep = func(ctx context.Context) (http.Header, error) { <-ctx.Done(); return nil, ctx.Err() }
	},
	"dial": func(w *harness.World, _ *harness.Stepper) {
		w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
	},
	"TLS": func(w *harness.World, _ *harness.Stepper) {
		w.App.Addr = "wss://raw/"
		w.ServeMute("raw:443", "")
	},
	"TLS, half a record": func(w *harness.World, _ *harness.Stepper) {
		w.App.Addr = "wss://raw/"
		w.ServeMute("raw:443", "\x16\x03\x03\x00")
	},
	"upgrade": func(w *harness.World, _ *harness.Stepper) {
		w.App.Addr = "ws://raw/"
		w.ServeMute("raw:80", "")
	},
	"upgrade, half a head": func(w *harness.World, _ *harness.Stepper) {
		w.App.Addr = "ws://raw/"
		w.ServeMute("raw:80", "HTTP/1.1 101 Switching Protocols\r\nUpgr")
	},
	"upgrade, half a body": func(w *harness.World, _ *harness.Stepper) {
		w.App.Addr = "ws://raw/"
		w.ServeMute("raw:80", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhal")
	},
	"upgrade, not even read": func(w *harness.World, s *harness.Stepper) {
		w.App.Addr = "ws://raw/"
		w.Net.SetBuffer(10)
		w.ServeMute("raw:80", "")
	},
	"login": func(_ *harness.World, s *harness.Stepper) {
		s.LoginStep = func(ctx context.Context, conn wsshard.LoginConn) error { <-ctx.Done(); return ctx.Err() }
	},
	"login, reading": func(_ *harness.World, s *harness.Stepper) {
		s.LoginStep = func(ctx context.Context, conn wsshard.LoginConn) error {
			_, err := conn.Read(ctx)
			return err
		}
	},
	"login, reading without its ctx": func(_ *harness.World, s *harness.Stepper) {
		s.LoginStep = func(_ context.Context, conn wsshard.LoginConn) error {
			_, err := conn.Read(context.Background())
			return err
		}
	},
}

// ConnectTimeout ends every step when it is due.
func TestConnectTimeoutEndsEachStep(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			s := &harness.Stepper{}
			cfg := harness.DialsOnly()
			cfg.Connection.ConnectTimeout = 7 * time.Second
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				stall(w, s)
				begin := w.Begin("a")
				harness.After(14 * time.Second)
				errs, at := s.Failures()
				var de *wsshard.DialError
				if len(errs) != 1 || at[0].Sub(begin) != 7*time.Second || !errors.As(errs[0], &de) {
					w.T.Fatalf("failed with %v at %v", errs, at)
				}
				var he *wsshard.HandshakeError
				if name == "upgrade, half a body" { // the answer is known, whatever is missing of its body
					if !errors.As(de, &he) || he.StatusCode != 200 || string(he.Body) != "hal" {
						t.Errorf("failed with %#v", de.Err)
					}
				} else if !errors.Is(de, context.DeadlineExceeded) {
					t.Errorf("failed with %v", de)
				}
				harness.After(100 * time.Millisecond)
				if _, at := s.Failures(); len(at) != 2 {
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
			s := &harness.Stepper{}
			cfg := harness.DialsOnly()
			cfg.Connection.ConnectTimeout = c.timeout
			cfg.Connection.Limiter = slowLimiter(time.Hour)
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				s.URLStep = func(ctx context.Context) (string, error) { return "ws://srv/", slow(ctx) }
				s.HeaderStep = func(ctx context.Context) (http.Header, error) { return nil, slow(ctx) }
				s.LoginStep = func(ctx context.Context, _ wsshard.LoginConn) error { return slow(ctx) }
				w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { return slow(ctx) })
				w.Srv.Reject(func(r *http.Request) (int, http.Header, string) { slow(context.Background()); return 0, nil, "" })
				begin := w.Begin("a")
				harness.After(time.Hour + 20*time.Second)
				errs, at := s.Failures()
				if c.ok && len(errs) > 0 || !c.ok && (len(errs) != 1 || at[0].Sub(begin) < time.Hour+c.timeout-5*time.Second || at[0].Sub(begin) > 3*time.Second+time.Hour+c.timeout || !errors.Is(errs[0], context.DeadlineExceeded)) {
					t.Errorf("failed with %v at %v", errs, at)
				}
				if up := w.M.Metrics().ActiveConnections == 1; up != c.ok {
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
			s := &harness.Stepper{}
			harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
				w.Start("a")
				stall(w, s)
				ctx, cancel := context.WithCancel(context.Background())
				moved := make(chan error, 1)
				go func() { moved <- w.M.HotSwitchover(ctx, 0) }()
				harness.After(time.Second)
				w.WantState(0, wsshard.ShardSwitching)
				cancel()
				harness.After(0)
				select {
				case err := <-moved:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("HotSwitchover: %v", err)
					}
				default:
					t.Error("HotSwitchover goes on")
				}
				w.WantState(0, wsshard.ShardConnected)
				w.Topics.Publish("a", "1")
				w.WantGot("a:1")
				w.WantCauses()
				if errs, _ := s.Failures(); len(errs) > 0 {
					t.Errorf("OnError heard %v", errs)
				}
				if n := w.Net.Open(); n != 1 {
					t.Errorf("%d sockets are open", n)
				}
			})
		})
	}
}
