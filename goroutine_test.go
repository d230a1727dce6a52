package wsshard_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// wantLoops checks which goroutines the library runs: n of each.
func wantLoops(t *testing.T, when string, n int, each ...string) {
	t.Helper()
	synctest.Wait()
	var want []string
	for range n {
		want = append(want, each...)
	}
	slices.Sort(want)
	if got := loops(); !slices.Equal(got, want) {
		t.Errorf("%s: %d goroutines:\n%s\nwant %d:\n%s", when, len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

const (
	reconnects = "(*ShardManager).launchLocked"
	reads      = "(*reader).run"
	writes     = "(*writer).run"
	observes   = "(*events).deliver"
)

// TestGoroutines: an idle shard has three, a manager none of its own; whatever a dial, a switchover or a call needs besides
// ends with it.
func TestGoroutines(t *testing.T) {
	const shards = 3
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: 2,
		Backoff:                  wsshard.BackoffConfig{InitialDelay: time.Second, DisableJitter: true},
		Health:                   wsshard.HealthConfig{DataTimeout: -1},
		Connection:               wsshard.ConnectionConfig{CircuitBreakerThreshold: -1},
	}
	bubble(t, cfg, func(*app) wsshard.Handler[string] { return handlerOnly{} }, func(w *world) {
		wantLoops(t, "before Start", 0)
		w.start(numbered(2 * shards)...)
		wantLoops(t, "idle", shards, reconnects, reads, writes)
		after(time.Minute) // pings
		wantLoops(t, "a minute later", shards, reconnects, reads, writes)

		if err := w.m.HotSwitchover(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		wantLoops(t, "after a switchover", shards, reconnects, reads, writes)

		w.srv.Down()
		wantLoops(t, "backoff", shards, reconnects)
		w.srv.Restart()
		after(time.Minute)
		wantLoops(t, "reconnected", shards, reconnects, reads, writes)

		w.m.Stop(context.Background())
		wantLoops(t, "stopped", 0)
	})
}

func TestGoroutinesOfAnObserver(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start("a")
		wantLoops(t, "idle", 1, reconnects, reads, writes, observes)
		w.m.Stop(context.Background())
		wantLoops(t, "stopped", 0)
	})
}

// TestGoroutinesOfADial: one, which ends with it.
func TestGoroutinesOfADial(t *testing.T) {
	bubble(t, wsshard.Config{}, func(*app) wsshard.Handler[string] { return handlerOnly{} }, func(w *world) {
		w.net.OnDial(func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		w.m.Start(context.Background())
		wantLoops(t, "a dial that hangs", 1, reconnects, "(*opening).begin")
		after(15 * time.Second)
		w.net.OnDial(nil)
		after(time.Minute)
		wantLoops(t, "connected", 1, reconnects, reads, writes)
	})
}

// TestGoroutinesOfAStartContext: no goroutine waits for the context that was given to Start.
func TestGoroutinesOfAStartContext(t *testing.T) {
	bubble(t, wsshard.Config{}, func(*app) wsshard.Handler[string] { return handlerOnly{} }, func(w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		w.m.Start(ctx)
		w.sync()
		wantLoops(t, "idle", 1, reconnects, reads, writes)
		cancel()
		after(10 * time.Second)
		wantLoops(t, "ctx has ended", 0)
		if w.m.IsRunning() {
			t.Error("it runs without a context")
		}
	})
}
