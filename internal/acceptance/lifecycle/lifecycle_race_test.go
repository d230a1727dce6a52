package lifecycle

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if everything is called at once?

// TestLifecycleRaces: Start, Stop and Run by many goroutines at once. Exactly one Start wins between two Stops, every call
// returns, and at the end nothing is left.
func TestLifecycleRaces(t *testing.T) {
	for range harness.Fewer(200, 20) {
		harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
			var all sync.WaitGroup
			var starts, stops atomic.Int64
			allowed := func(what string, err error, wants ...error) {
				for _, want := range wants {
					if errors.Is(err, want) {
						return
					}
				}
				t.Errorf("%s: %v", what, err)
			}
			for range 4 {
				all.Go(func() {
					err := w.M.Start(context.Background())
					if err == nil {
						starts.Add(1)
					}
					allowed("Start", err, nil, wsshard.ErrStarted, wsshard.ErrStopped)
				})
				all.Go(func() {
					stops.Add(1)
					allowed("Stop", w.M.Stop(context.Background()), nil)
				})
				all.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
					defer cancel()
					allowed("Run", w.M.Run(ctx), nil, wsshard.ErrStarted, wsshard.ErrStopped)
				})
				all.Go(func() {
					_, err := w.M.Subscribe("a")
					allowed("Subscribe", err, nil, wsshard.ErrStopped)
				})
			}
			all.Wait()
			if starts.Load() > stops.Load()+5 { // each Start that won but the first needs an end of the last run
				t.Errorf("%d Starts won beside %d Stops and 4 Runs", starts.Load(), stops.Load())
			}
			harness.After(time.Minute)
			running := w.M.IsRunning()
			if n := w.Net.Open(); running && n > 1 || !running && n != 0 {
				t.Errorf("running %v with %d sockets", running, n)
			}
			w.M.Stop(context.Background())
			harness.WantLoops(t, "stopped", 0)
		})
	}
}

// TestEverythingRaces: all methods by many goroutines while the server comes and goes and managers start and stop.
func TestEverythingRaces(t *testing.T) {
	calls := []func(ctx context.Context, w *harness.World, topic string){
		func(ctx context.Context, w *harness.World, topic string) { w.M.Subscribe(topic, topic+"x") },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Unsubscribe(topic) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Resubscribe(topic) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Sync(ctx) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Sync(ctx, topic) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.HotSwitchover(ctx, len(topic)%2) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Reconnect(len(topic) % 2) },
		func(ctx context.Context, w *harness.World, topic string) {
			w.M.Send(ctx, len(topic)%2, wsshard.Text("hi"))
		},
		func(ctx context.Context, w *harness.World, topic string) {
			w.M.Metrics()
			w.M.Health(1)
			w.M.ShardCount()
		},
		func(ctx context.Context, w *harness.World, topic string) {
			w.M.ShardSubscriptions(0)
			w.M.IsSubscriptionFresh(topic, 1)
			w.M.SubscriptionShard(topic)
		},
		func(ctx context.Context, w *harness.World, topic string) { w.Topics.Publish(topic, "1") },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Start(context.Background()) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Stop(ctx) },
		func(ctx context.Context, w *harness.World, topic string) { w.M.Start(context.Background()) },
		func(ctx context.Context, w *harness.World, topic string) {
			if live := w.Srv.Live(); len(live) > 0 {
				live[0].Kill()
			}
		},
		func(ctx context.Context, w *harness.World, topic string) { time.Sleep(time.Second) },
	}
	for seed := range uint64(harness.Fewer(30, 3)) {
		cfg := wsshard.Config{MaxSubscriptionsPerShard: 8, Switchover: wsshard.SwitchoverConfig{Settle: time.Millisecond}}
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			var inside [64]atomic.Int32
			w.App.Message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
				if inside[st.ShardID].Add(1) != 1 {
					t.Errorf("two OnMessage of shard %d at once", st.ShardID)
				}
				inside[st.ShardID].Add(-1)
			}
			var all sync.WaitGroup
			for g := range uint64(8) {
				all.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, g))
					for range 100 {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(100))*time.Millisecond)
						calls[rnd.IntN(len(calls))](ctx, w, harness.Numbered(12)[rnd.IntN(12)])
						cancel()
					}
				})
			}
			all.Wait()
			w.M.Start(context.Background())
			w.Subscribe("z")
			harness.After(time.Minute)
			wantAll(w)
			if n := w.Net.Open(); n != w.M.ShardCount() {
				t.Errorf("seed %d: %d sockets for %d shards", seed, n, w.M.ShardCount())
			}
			for id := range w.M.ShardCount() {
				if err := w.M.HotSwitchover(context.Background(), id); err != nil {
					t.Errorf("seed %d: HotSwitchover: %v", seed, err)
				}
			}
			wantAll(w)
			w.M.Stop(context.Background())
			harness.WantLoops(t, "stopped", 0)
		})
	}
}

// wantAll checks that the server has what the manager wants.
func wantAll(w *harness.World) {
	w.T.Helper()
	var want []string
	for id := range w.M.ShardCount() {
		want = append(want, w.M.ShardSubscriptions(id)...)
	}
	w.WantTopics(want...)
}
