package subscriptions

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does a new connection cost?

// requester is a handler that counts requests, and reports when there were as many as are waited for.
type requester struct {
	harness.HandlerOnly
	n, last atomic.Int64
	reached chan struct{}
}

func (h *requester) SubscriptionMessage(wsshard.Request[string]) (wsshard.Message, error) {
	if h.n.Add(1) == h.last.Load() {
		h.reached <- struct{}{}
	}
	return wsshard.Text("sub"), nil
}

// All shards are opened at once, until each has asked for its topic. The far end is in memory and in this process.
func BenchmarkOpen(b *testing.B) {
	for _, shards := range []int{100, 1000} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h := &requester{reached: make(chan struct{}, 1)}
				h.last.Store(int64(shards))
				m := connectedTo(b, h, wsshard.Config{MaxSubscriptionsPerShard: 1})
				if _, err := m.Subscribe(million()[:shards]...); err != nil {
					b.Fatal(err)
				}
				<-h.reached
				b.StopTimer()
				m.Stop(context.Background())
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*shards), "ns/shard")
		})
	}
}

// All shards lose their connections and get new ones, until each has asked for its topic again. The far end is in memory and
// in this process.
func BenchmarkReconnect(b *testing.B) {
	for _, shards := range []int{100, 1000} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			h := &requester{reached: make(chan struct{}, 1)}
			h.last.Store(int64(shards))
			m := connectedTo(b, h, wsshard.Config{MaxSubscriptionsPerShard: 1})
			if _, err := m.Subscribe(million()[:shards]...); err != nil {
				b.Fatal(err)
			}
			<-h.reached
			b.ReportAllocs()
			for b.Loop() {
				mustSync(b, m)
				h.last.Add(int64(shards))
				for id := range shards {
					if err := m.Reconnect(id); err != nil {
						b.Fatal(err)
					}
				}
				<-h.reached
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*shards), "ns/shard")
			m.Stop(context.Background())
		})
	}
}

// One connection replaces another: dialled, subscribed, proven, cut over, drained. Without Settle and Linger, which only wait.
func BenchmarkSwitchover(b *testing.B) {
	for _, topics := range []int{1, 500, 10_000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			cfg := wsshard.Config{MaxSubscriptionsPerShard: -1, Switchover: wsshard.SwitchoverConfig{Linger: -1}}
			m := connected(b, cfg)
			m.Subscribe(million()[:topics]...)
			mustSync(b, m)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.HotSwitchover(context.Background(), 0); err != nil {
					b.Fatal(err)
				}
			}
			perTopic(b, topics)
			m.Stop(context.Background())
		})
	}
}
