package acceptance

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestLifecycleRaces: Start, Stop and Run by many goroutines at once. Exactly one Start wins between two Stops, every call
// returns, and at the end nothing is left.
func TestLifecycleRaces(t *testing.T) {
	for range fewer(200, 20) {
		bubble(t, wsshard.Config{}, nil, func(w *world) {
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
					err := w.m.Start(context.Background())
					if err == nil {
						starts.Add(1)
					}
					allowed("Start", err, nil, wsshard.ErrStarted, wsshard.ErrStopped)
				})
				all.Go(func() {
					stops.Add(1)
					allowed("Stop", w.m.Stop(context.Background()), nil)
				})
				all.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
					defer cancel()
					allowed("Run", w.m.Run(ctx), nil, wsshard.ErrStarted, wsshard.ErrStopped)
				})
				all.Go(func() {
					_, err := w.m.Subscribe("a")
					allowed("Subscribe", err, nil, wsshard.ErrStopped)
				})
			}
			all.Wait()
			if starts.Load() > stops.Load()+5 { // each Start that won but the first needs an end of the last run
				t.Errorf("%d Starts won beside %d Stops and 4 Runs", starts.Load(), stops.Load())
			}
			after(time.Minute)
			running := w.m.IsRunning()
			if n := w.net.Open(); running && n > 1 || !running && n != 0 {
				t.Errorf("running %v with %d sockets", running, n)
			}
			w.m.Stop(context.Background())
			wantLoops(t, "stopped", 0)
		})
	}
}

// TestEverythingRaces: all methods by many goroutines while the server comes and goes and managers start and stop.
func TestEverythingRaces(t *testing.T) {
	calls := []func(ctx context.Context, w *world, topic string){
		func(ctx context.Context, w *world, topic string) { w.m.Subscribe(topic, topic+"x") },
		func(ctx context.Context, w *world, topic string) { w.m.Unsubscribe(topic) },
		func(ctx context.Context, w *world, topic string) { w.m.Resubscribe(topic) },
		func(ctx context.Context, w *world, topic string) { w.m.Sync(ctx) },
		func(ctx context.Context, w *world, topic string) { w.m.Sync(ctx, topic) },
		func(ctx context.Context, w *world, topic string) { w.m.HotSwitchover(ctx, len(topic)%2) },
		func(ctx context.Context, w *world, topic string) { w.m.Reconnect(len(topic) % 2) },
		func(ctx context.Context, w *world, topic string) { w.m.Send(ctx, len(topic)%2, wsshard.Text("hi")) },
		func(ctx context.Context, w *world, topic string) { w.m.Metrics(); w.m.Health(1); w.m.ShardCount() },
		func(ctx context.Context, w *world, topic string) {
			w.m.ShardSubscriptions(0)
			w.m.IsSubscriptionFresh(topic, 1)
			w.m.SubscriptionShard(topic)
		},
		func(ctx context.Context, w *world, topic string) { w.topics.Publish(topic, "1") },
		func(ctx context.Context, w *world, topic string) { w.m.Start(context.Background()) },
		func(ctx context.Context, w *world, topic string) { w.m.Stop(ctx) },
		func(ctx context.Context, w *world, topic string) { w.m.Start(context.Background()) },
		func(ctx context.Context, w *world, topic string) {
			if live := w.srv.Live(); len(live) > 0 {
				live[0].Kill()
			}
		},
		func(ctx context.Context, w *world, topic string) { time.Sleep(time.Second) },
	}
	for seed := range uint64(fewer(30, 3)) {
		cfg := wsshard.Config{MaxSubscriptionsPerShard: 8, Switchover: wsshard.SwitchoverConfig{Settle: time.Millisecond}}
		bubble(t, cfg, nil, func(w *world) {
			var inside [64]atomic.Int32
			w.app.message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
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
						calls[rnd.IntN(len(calls))](ctx, w, numbered(12)[rnd.IntN(12)])
						cancel()
					}
				})
			}
			all.Wait()
			w.m.Start(context.Background())
			w.subscribe("z")
			after(time.Minute)
			w.wantAll()
			if n := w.net.Open(); n != w.m.ShardCount() {
				t.Errorf("seed %d: %d sockets for %d shards", seed, n, w.m.ShardCount())
			}
			for id := range w.m.ShardCount() {
				if err := w.m.HotSwitchover(context.Background(), id); err != nil {
					t.Errorf("seed %d: HotSwitchover: %v", seed, err)
				}
			}
			w.wantAll()
			w.m.Stop(context.Background())
			wantLoops(t, "stopped", 0)
		})
	}
}

// wantAll checks that the server has what the manager wants.
func (w *world) wantAll() {
	w.t.Helper()
	var want []string
	for id := range w.m.ShardCount() {
		want = append(want, w.m.ShardSubscriptions(id)...)
	}
	w.wantTopics(want...)
}
