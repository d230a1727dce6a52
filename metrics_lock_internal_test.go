package wsshard

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// idle is a handler whose shards are never started.
type idle struct{}

func (idle) URL(context.Context, ConnectionState) (string, error) { return "ws://srv/", nil }
func (idle) SubscriptionMessage(Request[int]) (Message, error)    { return Message{}, nil }
func (idle) OnMessage(context.Context, Message, ConnectionState)  {}
func manyShards(t testing.TB, n int) *ShardManager[int] {
	t.Helper()
	m, err := New[int](idle{}, Config{MaxSubscriptionsPerShard: 1})
	if err != nil {
		t.Fatal(err)
	}
	subs := make([]int, n)
	for i := range subs {
		subs[i] = i
	}
	if _, err := m.Subscribe(subs...); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMetricsHoldsNobodyUp: while Metrics waits for a shard's numbers, the manager's lock is free.
func TestMetricsHoldsNobodyUp(t *testing.T) {
	m := manyShards(t, 3)
	shard := m.life.shards[1]
	shard.stats.mu.Lock()
	got := make(chan Metrics)
	go func() { got <- m.Metrics() }()
	stacks := make([]byte, 1<<20)
	for !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*shardStats).snapshot") { // until it waits there
		runtime.Gosched()
	}
	free := m.mu.TryLock()
	if free {
		m.mu.Unlock()
	}
	shard.stats.mu.Unlock()
	if all := <-got; !free || len(all.Shards) != 3 || all.TotalSubscriptions != 3 || all.Shards[2].SubscriptionCount != 1 {
		t.Errorf("the manager's lock was free: %v; %+v", free, all)
	}
}

// TestMetricsAreOfOneMoment: the shards' numbers of subscriptions add up to the total, whatever comes and goes.
func TestMetricsAreOfOneMoment(t *testing.T) {
	m := manyShards(t, 100)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; !stop.Load(); n++ {
			m.Subscribe(1000 + n%500)
			m.Unsubscribe(1000 + (n+250)%500)
		}
	}()
	for range 200 {
		all, sum := m.Metrics(), 0
		for i, s := range all.Shards {
			if sum += s.SubscriptionCount; s.ShardID != i {
				t.Fatalf("shard %d is at %d", s.ShardID, i)
			}
		}
		if sum != all.TotalSubscriptions {
			t.Fatalf("%d subscriptions on shards, %d in all", sum, all.TotalSubscriptions)
		}
	}
	stop.Store(true)
	<-done
}

// BenchmarkMetrics: how long Metrics takes, and at most how long it holds the manager's lock: on a busy machine what is over
// the median is the machine's.
func BenchmarkMetrics(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d_shards", n), func(b *testing.B) {
			m := manyShards(b, n)
			var held []time.Duration
			for b.Loop() {
				m.Metrics()
				begin := time.Now()
				m.countNow(n)
				held = append(held, time.Since(begin))
			}
			slices.Sort(held)
			b.ReportMetric(float64(held[len(held)/2].Nanoseconds()), "median-ns-locked")
			b.ReportMetric(float64(held[len(held)*9/10].Nanoseconds()), "p90-ns-locked")
		})
	}
}
