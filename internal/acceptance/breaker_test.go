package acceptance

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
)

// This file answers: what does the circuit breaker count, and what is it good for?

func TestBreakerCounts(t *testing.T) {
	const timeout = 10 * time.Second
	sys := func(call string, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, err)}
	}
	fails := func(err error) func(w *world) {
		return func(w *world) {
			w.net.OnDial(func(context.Context, int, string) error { return err })
		}
	}
	answers := func(status int) func(w *world) {
		return func(w *world) {
			w.srv.Reject(func(*http.Request) (int, http.Header, string) { return status, nil, "" })
		}
	}
	says := func(text string) func(w *world) {
		return func(w *world) { w.rawServer(func(c net.Conn) { readHead(c); io.WriteString(c, text); c.Close() }) }
	}
	for _, c := range []struct {
		name  string
		trips bool
		fault func(w *world)
	}{
		{"refused", true, fails(sys("connect", syscall.ECONNREFUSED))},
		{"no route", true, fails(sys("connect", syscall.EHOSTUNREACH))},
		{"kernel's timeout", true, fails(sys("connect", syscall.ETIMEDOUT))},
		{"reset", true, func(w *world) {
			w.rawServer(func(c net.Conn) { c.(interface{ Reset() }).Reset(); c.Close() })
		}},
		{"closed without an answer", true, says("")},
		{"closed in the answer", true, says("HTTP/1.1 101 Swi")},
		{"never answers", true, func(w *world) { w.rawServer(func(c net.Conn) { readHead(c); io.Copy(io.Discard, c) }) }},
		{"never connects", true, func(w *world) {
			w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
		}},
		{"no TLS", true, func(w *world) { w.app.url = "wss://srv:80/" }},
		{"TLS alert", true, func(w *world) {
			w.app.url = "wss://srv:80/"
			w.rawServer(func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}); io.Copy(io.Discard, c) })
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
		{"URL", false, func(w *world) { w.app.url = "http://srv/" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := one(wsshard.ConnectionConfig{CircuitBreakerThreshold: 3, ConnectTimeout: timeout})
			bubble(t, cfg, nil, func(w *world) {
				c.fault(w)
				w.subscribe("a")
				if err := w.m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				after(3 * (timeout + time.Second))
				m := w.m.Metrics()
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
func (w *world) rawServer(serve func(c net.Conn)) {
	w.srv.Down()
	l := w.net.Listen("srv:80")
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
	w.t.Cleanup(func() { l.Close(); all.Wait() })
}

// readHead reads until an empty line.
func readHead(c net.Conn) string {
	var head []byte
	b := make([]byte, 1)
	for len(head) < 4 || string(head[len(head)-4:]) != "\r\n\r\n" {
		if _, err := c.Read(b); err != nil {
			break
		}
		head = append(head, b[0])
	}
	return string(head)
}

// Events, metrics and a switchover that is asked for, while a host is down.
func TestBreakerIsSeen(t *testing.T) {
	cfg := one(wsshard.ConnectionConfig{CircuitBreakerThreshold: 2, CircuitBreakerResetTimeout: 10 * time.Second})
	cfg.Backoff.InitialDelay, cfg.Backoff.MaxDelay = time.Millisecond, time.Millisecond
	bubble(t, cfg, nil, func(w *world) {
		w.start("a", "b")
		w.net.OnDial(func(_ context.Context, k int, _ string) error { return syscall.ECONNREFUSED })
		w.app.takeEvents()
		w.srv.Conn(0).Kill()
		after(200 * time.Millisecond)
		evs := w.app.takeEvents(wsshard.EventBreakerOpen)
		if len(evs) != 1 || evs[0].Delay < 250*time.Millisecond || evs[0].Delay > 275*time.Millisecond || !errors.Is(evs[0].Err, syscall.ECONNREFUSED) || evs[0].ShardID != -1 {
			t.Errorf("events %+v, want one that the breaker opened", evs)
		}
		if n := w.m.Metrics().CircuitBreakerTrips; n != 1 {
			t.Errorf("%d trips, want 1", n)
		}
		lives, n := 1, w.net.Dials() // the shard that kept its connection
		if st := w.m.Metrics().Shards[0]; st.IsConnected {
			lives = 0
		}
		if err := w.m.HotSwitchover(context.Background(), lives); !errors.Is(err, wsshard.ErrCircuitOpen) {
			t.Errorf("HotSwitchover: %v, want ErrCircuitOpen", err)
		}
		if !w.m.Metrics().Shards[lives].IsConnected || w.net.Dials() != n {
			t.Error("the connection that lived was touched, or the host dialled")
		}
		after(30 * time.Second)
		steps := []float64{0.25, 0.5, 1, 2, 4, 8, 10}
		dials := w.net.DialTimes()
		for i, step := range steps[:6] {
			if d := dials[n+i].Sub(dials[n+i-1]).Seconds(); d < step || d > 1.1*step+0.01 {
				t.Errorf("probe %d after %v s, want %v and up to a tenth more", i+1, d, step)
			}
		}
		w.net.OnDial(nil)
		after(11 * time.Second)
		if evs := w.app.takeEvents(wsshard.EventBreakerClosed); len(evs) != 1 || evs[0].ShardID != -1 || evs[0].Door.Lasted < 30*time.Second {
			t.Errorf("events %+v, want one that the breaker closed", evs)
		}
		w.wantTopics("a", "b")
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
}

// When every connection lives, only switchovers can find out that the host takes new ones again.
func TestBreakerClosesBySwitchover(t *testing.T) {
	cfg := one(wsshard.ConnectionConfig{CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: 10 * time.Second})
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		w.net.OnDial(func(context.Context, int, string) error { return syscall.ECONNREFUSED })
		if err := w.m.HotSwitchover(context.Background(), 0); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		w.net.OnDial(nil)
		if err := w.m.HotSwitchover(context.Background(), 0); !errors.Is(err, wsshard.ErrCircuitOpen) {
			t.Error(err)
		}
		after(10 * time.Second)
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
}
