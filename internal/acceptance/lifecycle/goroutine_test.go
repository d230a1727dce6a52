package lifecycle

import (
	"context"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: how many goroutines has a shard?

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
	harness.Bubble(t, cfg, func(*harness.App) wsshard.Handler[string] { return harness.HandlerOnly{} }, func(w *harness.World) {
		harness.WantLoops(t, "before Start", 0)
		w.Start(harness.Numbered(2 * shards)...)
		harness.WantLoops(t, "idle", shards, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)
		harness.After(time.Minute) // pings
		harness.WantLoops(t, "a minute later", shards, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)

		if err := w.M.HotSwitchover(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		harness.WantLoops(t, "after a switchover", shards, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)

		w.Srv.Down()
		harness.WantLoops(t, "backoff", shards, harness.ReconnectLoop)
		w.Srv.Restart()
		harness.After(time.Minute)
		harness.WantLoops(t, "reconnected", shards, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)

		w.M.Stop(context.Background())
		harness.WantLoops(t, "stopped", 0)
	})
}

func TestGoroutinesOfAnObserver(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a")
		harness.WantLoops(t, "idle", 1, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop, harness.ObserverLoop)
		w.M.Stop(context.Background())
		harness.WantLoops(t, "stopped", 0)
	})
}

// TestGoroutinesOfADial: one, which ends with it.
func TestGoroutinesOfADial(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(*harness.App) wsshard.Handler[string] { return harness.HandlerOnly{} }, func(w *harness.World) {
		w.Net.OnDial(func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		w.M.Start(context.Background())
		harness.WantLoops(t, "a dial that hangs", 1, harness.ReconnectLoop, "(*opening).begin")
		harness.After(15 * time.Second)
		w.Net.OnDial(nil)
		harness.After(time.Minute)
		harness.WantLoops(t, "connected", 1, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)
	})
}

// TestGoroutinesOfAStartContext: no goroutine waits for the context that was given to Start.
func TestGoroutinesOfAStartContext(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(*harness.App) wsshard.Handler[string] { return harness.HandlerOnly{} }, func(w *harness.World) {
		ctx, cancel := context.WithCancel(context.Background())
		w.M.Start(ctx)
		w.Sync()
		harness.WantLoops(t, "idle", 1, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop)
		cancel()
		harness.After(10 * time.Second)
		harness.WantLoops(t, "ctx has ended", 0)
		if w.M.IsRunning() {
			t.Error("it runs without a context")
		}
	})
}
