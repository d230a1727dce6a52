package gate

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does the circuit breaker count, and what is it good for?

func TestBreakerCounts(t *testing.T) {
	const timeout = 10 * time.Second
	sys := func(call string, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, err)}
	}
	fails := func(err error) func(w *harness.World) {
		return func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { return err })
		}
	}
	answers := func(status int) func(w *harness.World) {
		return func(w *harness.World) {
			w.Srv.Reject(func(*http.Request) (int, http.Header, string) { return status, nil, "" })
		}
	}
	says := func(text string) func(w *harness.World) {
		return func(w *harness.World) {
			rawServer(w, func(c net.Conn) { harness.ReadHead(c); io.WriteString(c, text); c.Close() })
		}
	}
	for _, c := range []struct {
		name  string
		trips bool
		fault func(w *harness.World)
	}{
		{"refused", true, fails(sys("connect", syscall.ECONNREFUSED))},
		{"no route", true, fails(sys("connect", syscall.EHOSTUNREACH))},
		{"kernel's timeout", true, fails(sys("connect", syscall.ETIMEDOUT))},
		{"reset", true, func(w *harness.World) {
			rawServer(w, func(c net.Conn) { c.(interface{ Reset() }).Reset(); c.Close() })
		}},
		{"closed without an answer", true, says("")},
		{"closed in the answer", true, says("HTTP/1.1 101 Swi")},
		{"never answers", true, func(w *harness.World) { rawServer(w, func(c net.Conn) { harness.ReadHead(c); io.Copy(io.Discard, c) }) }},
		{"never connects", true, func(w *harness.World) {
			w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
		}},
		{"no TLS", true, func(w *harness.World) { w.App.Addr = "wss://srv:80/" }},
		{"TLS alert", true, func(w *harness.World) {
			w.App.Addr = "wss://srv:80/"
			rawServer(w, func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}); io.Copy(io.Discard, c) })
		}},
		{"500", true, answers(500)},
		{"502", true, answers(502)},
		{"503", true, answers(503)},
		{"400", false, answers(400)},
		{"401", false, answers(401)},
		{"403", false, answers(403)},
		{"404", false, answers(404)},
		{"418", true, answers(418)},
		{"429", true, answers(429)},
		{"302", false, answers(302)},
		{"200", false, answers(200)},
		{"cannot bind", false, fails(sys("bind", syscall.EADDRNOTAVAIL))},
		{"no descriptors", false, fails(sys("socket", syscall.EMFILE))},
		{"no such host", true, fails(&net.DNSError{Err: "no such host", IsNotFound: true})},
		{"wrong family", false, fails(&net.AddrError{Err: "no suitable address found"})},
		{"whatever NetDialContext says", true, fails(errors.New("the application's own"))},
		{"its own context", false, fails(context.Canceled)},
		{"URL", false, func(w *harness.World) { w.App.Addr = "http://srv/" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := harness.OneConnection(wsshard.ConnectionConfig{CircuitBreakerThreshold: 3, ConnectTimeout: timeout})
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				c.fault(w)
				w.Subscribe("a")
				if err := w.M.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				harness.After(3 * (timeout + time.Second))
				m := w.M.Metrics()
				if (m.CircuitBreakerTrips > 0) != c.trips {
					t.Errorf("%d trips after %v", m.CircuitBreakerTrips, m.Shards[0].LastError)
				}
				if n := m.Shards[0].ReconnectAttempt; n < 3 && !c.trips && c.name != "401" && c.name != "403" {
					t.Errorf("%d attempts only", n)
				}
			})
		})
	}
}

// rawServer replaces the server by one that treats each connection as serve says.
func rawServer(w *harness.World, serve func(c net.Conn)) {
	w.Srv.Down()
	l := w.Net.Listen("srv:80")
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	w.T.Cleanup(func() { l.Close(); all.Wait() })
}

// Events, metrics and a switchover that is asked for, while a host is down.
func TestBreakerIsSeen(t *testing.T) {
	cfg := harness.OneConnection(wsshard.ConnectionConfig{CircuitBreakerThreshold: 2, CircuitBreakerResetTimeout: 10 * time.Second})
	cfg.Backoff.InitialDelay, cfg.Backoff.MaxDelay = time.Millisecond, time.Millisecond
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a", "b")
		w.Net.OnDial(func(_ context.Context, k int, _ string) error { return syscall.ECONNREFUSED })
		w.App.TakeEvents()
		w.Srv.Conn(0).Kill()
		harness.After(200 * time.Millisecond)
		evs := w.App.TakeEvents(wsshard.EventBreakerOpen)
		if len(evs) != 1 || evs[0].Delay < 250*time.Millisecond || evs[0].Delay > 275*time.Millisecond || !errors.Is(evs[0].Err, syscall.ECONNREFUSED) || evs[0].ShardID != -1 {
			t.Errorf("events %+v, want one that the breaker opened", evs)
		}
		if n := w.M.Metrics().CircuitBreakerTrips; n != 1 {
			t.Errorf("%d trips, want 1", n)
		}
		lives, n := 1, w.Net.Dials() // the shard that kept its connection
		if st := w.M.Metrics().Shards[0]; st.IsConnected {
			lives = 0
		}
		if err := w.M.HotSwitchover(context.Background(), lives); !errors.Is(err, wsshard.ErrCircuitOpen) {
			t.Errorf("HotSwitchover: %v, want ErrCircuitOpen", err)
		}
		if !w.M.Metrics().Shards[lives].IsConnected || w.Net.Dials() != n {
			t.Error("the connection that lived was touched, or the host dialled")
		}
		harness.After(30 * time.Second)
		steps := []float64{0.25, 0.5, 1, 2, 4, 8, 10}
		dials := w.Net.DialTimes()
		for i, step := range steps[:6] {
			if d := dials[n+i].Sub(dials[n+i-1]).Seconds(); d < step || d > 1.1*step+0.01 {
				t.Errorf("probe %d after %v s, want %v and up to a tenth more", i+1, d, step)
			}
		}
		w.Net.OnDial(nil)
		harness.After(11 * time.Second)
		if evs := w.App.TakeEvents(wsshard.EventBreakerClosed); len(evs) != 1 || evs[0].ShardID != -1 || evs[0].Door.Lasted < 30*time.Second {
			t.Errorf("events %+v, want one that the breaker closed", evs)
		}
		w.WantTopics("a", "b")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
}

// When every connection lives, only switchovers can find out that the host takes new ones again.
func TestBreakerClosesBySwitchover(t *testing.T) {
	cfg := harness.OneConnection(wsshard.ConnectionConfig{CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: 10 * time.Second})
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		w.Net.OnDial(func(context.Context, int, string) error { return syscall.ECONNREFUSED })
		if err := w.M.HotSwitchover(context.Background(), 0); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		w.Net.OnDial(nil)
		if err := w.M.HotSwitchover(context.Background(), 0); !errors.Is(err, wsshard.ErrCircuitOpen) {
			t.Error(err)
		}
		harness.After(10 * time.Second)
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
}
