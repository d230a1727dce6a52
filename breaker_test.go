package wsshard_test

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
		{"429", false, answers(429)},
		{"302", false, answers(302)},
		{"200", false, answers(200)},
		{"cannot bind", false, fails(sys("bind", syscall.EADDRNOTAVAIL))},
		{"no descriptors", false, fails(sys("socket", syscall.EMFILE))},
		{"no such host", false, fails(&net.DNSError{Err: "no such host", IsNotFound: true})},
		{"wrong family", false, fails(&net.AddrError{Err: "no suitable address found"})},
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
				if n := m.Shards[0].ReconnectAttempt; n < 3 {
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
		begin := time.Now()
		w.srv.Conn(0).Kill()
		after(time.Second)
		evs := w.app.takeEvents(wsshard.EventBreakerOpen)
		if len(evs) != 1 || evs[0].Delay != 10*time.Second || !errors.Is(evs[0].Err, syscall.ECONNREFUSED) || evs[0].ShardID != -1 {
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
		after(26 * time.Second)
		dials := w.net.DialTimes()[n:]
		if len(dials) != 2 {
			t.Errorf("%d probes in 27 s, want 2", len(dials))
		}
		for i, at := range dials {
			if d, want := at.Sub(begin), time.Duration(i+1)*10*time.Second; d < want || d > want+10*time.Millisecond {
				t.Errorf("probe %d after %v", i, d)
			}
		}
		w.net.OnDial(nil)
		after(5 * time.Second)
		if evs := w.app.takeEvents(wsshard.EventBreakerClosed); len(evs) != 1 || evs[0].ShardID != -1 {
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

// watched is an app whose events somebody hears at once.
type watched struct {
	*app
	observe func(ev wsshard.Event[string])
}

func (w watched) OnEvent(ev wsshard.Event[string]) { w.observe(ev) }

// A thousand shards and a host that refuses, in the one or the other way, and then accepts again.
func TestThousandShardsAndADeadHost(t *testing.T) {
	const shards, reset = 1000, 10 * time.Second
	for _, c := range []struct {
		name string
		do   func(ctx context.Context) error
		gap  time.Duration // between probes
	}{
		{"refuses at once", func(context.Context) error { return syscall.ECONNREFUSED }, reset},
		{"does not answer", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, reset + 10*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var observe func(ev wsshard.Event[string])
			watch := func(a *app) wsshard.Handler[string] {
				return watched{a, func(ev wsshard.Event[string]) { observe(ev) }}
			}
			bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1}, watch, func(w *world) {
				w.net.SetLatency(20 * time.Millisecond)
				w.net.OnDial(func(ctx context.Context, _ int, _ string) error { return c.do(ctx) })
				var opened time.Time
				seen := 0
				observe = func(ev wsshard.Event[string]) {
					if ev.Kind == wsshard.EventBreakerOpen {
						opened, seen = ev.Time, w.net.Dials()
					}
				}
				w.subscribe(numbered(shards)...)
				if err := w.m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				after(10 * time.Minute)
				dials := w.net.DialTimes()
				if seen > 64 {
					t.Errorf("%d dials before the breaker opened, want at most 64", seen)
				}
				probes := dials[seen:]
				for i, at := range probes {
					before := opened
					if i > 0 {
						before = probes[i-1].Add(c.gap - reset)
					}
					if d := at.Sub(before); d < reset {
						t.Fatalf("probe %d came %v after the breaker opened or the last probe ended", i, d)
					}
				}
				if n, want := len(probes), int(10*time.Minute/c.gap); n < want-2 || n > want {
					t.Errorf("%d probes in 10 min, want about %d", n, want)
				}

				back := time.Now()
				w.net.OnDial(nil)
				w.sync()
				took := time.Since(back)
				if took > c.gap+5*time.Second {
					t.Errorf("all topics were applied %v after the host's return", took)
				}
				if n := len(w.net.DialTimes()) - len(dials); n > shards+1 {
					t.Errorf("%d dials for %d shards", n, shards)
				}
				t.Logf("%s: %d dials until the breaker opened, then %d probes in 10 min; %v from the host's return to all topics applied (%v to the probe)",
					c.name, seen, len(probes), took, w.net.DialTimes()[len(dials)].Sub(back))
			})
		})
	}
}
