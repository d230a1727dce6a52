package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does anything race where all processors are at work and sockets are real? A bubble has one processor in
// race builds (harness/race.go says why), and its network knows no reset that comes while the kernel is writing.
//
//	go test -race -run TestLoopbackStorm ./internal/acceptance/chaos -args -storm 5m

var storm = flag.Duration("storm", 500*time.Millisecond, "how long each part of TestLoopbackStorm rages")

// stormer is a handler that touches what is its shard's own without a lock. OnMessage, OnDisconnect of a connection that
// delivered and what comes after them on the next connection must follow each other, over restarts too: else the race
// detector sees it.
type stormer struct {
	srv    *roughServer
	inside [16]atomic.Int32
	plain  [16]struct{ messages, last int }
	heard  atomic.Int64
	two    atomic.Int64 // calls of OnMessage that met another one of their shard
}

func (h *stormer) URL(ctx context.Context, _ wsshard.ConnectionState) (string, error) {
	return h.srv.url(ctx), nil
}

func (h *stormer) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (h *stormer) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

func (h *stormer) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return harness.AcksOfTopics(msg, st)
}

func (h *stormer) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if topic, _, ok := strings.Cut(string(msg.Data), ":"); ok && topic != "ack" {
		v.Subs = []string{topic}
	}
	if rand.IntN(1000) == 0 {
		v.Reply = wsshard.Text("pong")
	}
	v.Switchover = rand.IntN(1000) == 0 && !h.srv.calm.Load()
	return v
}

func (h *stormer) OnConnect(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
	return []wsshard.Message{wsshard.Text("hello")}, nil
}

func (h *stormer) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	id := st.ShardID % len(h.plain)
	if h.inside[id].Add(1) != 1 {
		h.two.Add(1)
	}
	h.heard.Add(1)
	h.plain[id].messages++
	h.plain[id].last = len(msg.Data)
	h.inside[id].Add(-1)
}

func (h *stormer) OnEvent(wsshard.Event[string]) {}

// stormCalls are what goroutines do side by side; those that come twice are done more often.
var stormCalls = []func(ctx context.Context, m *wsshard.ShardManager[string], topic string, shard int){
	func(_ context.Context, m *wsshard.ShardManager[string], topic string, _ int) {
		m.Subscribe(topic, topic+"x")
	},
	func(_ context.Context, m *wsshard.ShardManager[string], topic string, _ int) { m.Subscribe(topic) },
	func(_ context.Context, m *wsshard.ShardManager[string], topic string, _ int) { m.Unsubscribe(topic) },
	func(_ context.Context, m *wsshard.ShardManager[string], topic string, _ int) { m.Resubscribe(topic) },
	func(ctx context.Context, m *wsshard.ShardManager[string], topic string, _ int) { m.Sync(ctx, topic) },
	func(ctx context.Context, m *wsshard.ShardManager[string], _ string, _ int) { m.Sync(ctx) },
	func(ctx context.Context, m *wsshard.ShardManager[string], _ string, shard int) {
		m.HotSwitchover(ctx, shard)
	},
	func(ctx context.Context, m *wsshard.ShardManager[string], _ string, shard int) {
		m.HotSwitchover(ctx, shard)
	},
	func(_ context.Context, m *wsshard.ShardManager[string], _ string, shard int) { m.Reconnect(shard) },
	func(ctx context.Context, m *wsshard.ShardManager[string], _ string, shard int) {
		m.Send(ctx, shard, wsshard.Text("hi"))
	},
	func(ctx context.Context, m *wsshard.ShardManager[string], _ string, shard int) {
		m.Send(ctx, shard, wsshard.Text(strings.Repeat("x", 1<<16)))
	},
	func(_ context.Context, m *wsshard.ShardManager[string], topic string, shard int) {
		m.Metrics()
		m.Health(0.5)
		m.ShardFreshness(shard)
		m.IsSubscriptionFresh(topic, time.Second)
		m.ShardSubscriptions(shard)
		m.SubscriptionShard(topic)
		m.TotalSubscriptions()
	},
}

// TestLoopbackStorm: everything is called side by side, on all processors, while a server on loopback resets, closes and refuses. In
// the calm afterwards each topic that is wanted is on one connection, and Stop leaves nothing.
func TestLoopbackStorm(t *testing.T) {
	ca := wstest.NewAuthority(t)
	for _, part := range []struct {
		name   string
		server *tls.Config
		with   func(cfg *wsshard.Config)
	}{
		{"plain", nil, func(*wsshard.Config) {}},
		{"low latency", nil, func(cfg *wsshard.Config) { cfg.Connection.LowLatencyMode = true }},
		{"TLS, compressed", ca.Server("127.0.0.1"), func(cfg *wsshard.Config) {
			cfg.Connection.TLSConfig = &tls.Config{RootCAs: ca.Pool}
			cfg.Connection.EnableCompression = true
		}},
	} {
		t.Run(part.name, func(t *testing.T) {
			harness.OnAllProcessors(t)
			srv := startRough(t, 4, part.server)
			h := &stormer{srv: srv}
			cfg := wsshard.Config{
				MaxSubscriptionsPerShard: 6,
				Connection:               wsshard.ConnectionConfig{CircuitBreakerResetTimeout: 20 * time.Millisecond, ProactiveReconnectInterval: time.Minute},
				Backoff:                  wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond, StableAfter: 20 * time.Millisecond},
				Health:                   wsshard.HealthConfig{PingInterval: 5 * time.Millisecond, PongTimeout: -1, DataTimeout: -1},
				Switchover:               wsshard.SwitchoverConfig{Linger: time.Millisecond, DrainTimeout: 100 * time.Millisecond},
			}
			part.with(&cfg)
			m, err := wsshard.New(h, cfg)
			if err != nil {
				t.Fatal(err)
			}
			rage(t, m)
			srv.calm.Store(true)
			for _, c := range srv.open() { // whose fate is decided
				resetConn(c.ws.NetConn())
			}
			calm(t, m, srv)
			if err := m.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			if left := harness.LeftOver(harness.Patience); len(left) > 0 {
				t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
			}
			if n := h.two.Load(); n > 0 {
				t.Errorf("OnMessage met another one of its shard %d times", n)
			}
			srv.mu.Lock()
			defer srv.mu.Unlock()
			t.Logf("%d messages; %d connections opened, %d switched over; fates: %v", h.heard.Load(), m.Metrics().Connections, m.Metrics().HotSwitchovers, srv.fates)
		})
	}
}

// rage calls everything from eight goroutines, while a ninth one stops and starts the manager.
func rage(t *testing.T, m *wsshard.ShardManager[string]) {
	t.Helper()
	over, cancel := context.WithTimeout(t.Context(), *storm)
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for over.Err() == nil {
				ctx, cancel := context.WithTimeout(over, time.Duration(rand.IntN(20_000))*time.Microsecond)
				stormCalls[rand.IntN(len(stormCalls))](ctx, m, harness.Numbered(20)[rand.IntN(20)], rand.IntN(7))
				cancel()
				pauseUpTo(over, 500*time.Microsecond)
			}
		})
	}
	all.Go(func() {
		for over.Err() == nil {
			if err := m.Start(context.Background()); err != nil && !errors.Is(err, wsshard.ErrStarted) {
				t.Errorf("Start: %v", err)
			}
			pauseUpTo(over, 200*time.Millisecond)
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(50))*time.Millisecond)
			if err := m.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Stop: %v", err)
			}
			cancel()
		}
	})
	all.Wait()
}

// pauseUpTo waits up to d, or until ctx ends.
func pauseUpTo(ctx context.Context, d time.Duration) {
	t := time.NewTimer(rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// calm waits until the server has what the manager wants.
func calm(t *testing.T, m *wsshard.ShardManager[string], srv *roughServer) {
	t.Helper()
	if err := m.Start(context.Background()); err != nil {
		t.Errorf("Start: %v", err)
	}
	if _, err := m.Subscribe(harness.Numbered(20)...); err != nil {
		t.Errorf("Subscribe: %v", err)
	}
	if err := m.Sync(t.Context()); err != nil {
		t.Errorf("Sync: %v", err)
	}
	want := make(map[string]int)
	for _, topic := range harness.Numbered(20) {
		want[topic] = 1
	}
	// The server takes a moment to learn which connections are closed, and there is nothing to wait on for that.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(harness.Patience); !maps.Equal(srv.all(), want); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("the server has %v, want each of %d topics once", srv.all(), len(want))
		}
	}
}
