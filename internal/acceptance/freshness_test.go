package acceptance

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// wantFresh checks at which age a topic is fresh still; off: at none.
func (w *world) wantFresh(sub string, age time.Duration) {
	w.t.Helper()
	synctest.Wait()
	if age == off {
		if w.m.IsSubscriptionFresh(sub, time.Hour) {
			w.t.Errorf("%q is fresh", sub)
		}
		return
	}
	if !w.m.IsSubscriptionFresh(sub, age) || w.m.IsSubscriptionFresh(sub, age-1) {
		w.t.Errorf("the last data of %q is not %v old", sub, age)
	}
}

// wantShardFresh checks the age of a shard's last data; off: it has none.
func (w *world) wantShardFresh(shard int, age time.Duration) {
	w.t.Helper()
	got, ok := w.m.ShardFreshness(shard)
	if ok != (age != off) || ok && got != age {
		w.t.Errorf("shard %d: %v, %v; want %v", shard, got, ok, age)
	}
}

func twoShards() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: 2, ShardSelection: wsshard.Sequential,
		Health: wsshard.HealthConfig{DataTimeout: off}, Backoff: wsshard.BackoffConfig{DisableJitter: true},
	}
}

// Without names each topic is as fresh as its shard.
func TestFreshnessByShard(t *testing.T) {
	bubble(t, twoShards(), func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			detectsData
		}{a, func(m wsshard.Message) bool { return m.String() != "chat" }}
	}, func(w *world) {
		w.wantShardFresh(0, off)
		w.start("a", "b", "c")
		w.wantShardFresh(0, off)
		w.wantFresh("a", off)
		w.topics.Publish("a", "1")
		peer := w.peerWith("a")
		after(5 * time.Second)
		peer.Send("chat") // no data
		after(time.Second)
		w.wantShardFresh(0, 6*time.Second)
		w.wantFresh("a", 6*time.Second)
		w.wantFresh("b", 6*time.Second)
		w.wantFresh("c", off)
		w.wantFresh("unknown", off)
		w.wantShardFresh(1, off)
		w.wantShardFresh(2, off)
		w.wantShardFresh(-1, off)

		peer.Kill() // a shard that is down is not fresh, nor is one without data since
		after(time.Millisecond)
		w.wantShardFresh(0, off)
		w.wantFresh("a", off)
		after(time.Second)
		w.wantTopics("a", "b", "c")
		w.wantShardFresh(0, off)
		w.wantFresh("a", off)
	})
}

// Where Inspect names topics each has its own age.
func TestFreshnessByTopic(t *testing.T) {
	bubble(t, twoShards(), func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			inspects
		}{a, byTopic}
	}, func(w *world) {
		w.start("a", "b", "c")
		w.topics.Publish("a", "1")
		after(5 * time.Second)
		w.topics.Publish("b", "1")
		after(time.Second)
		w.wantFresh("a", 6*time.Second)
		w.wantFresh("b", time.Second)
		w.wantFresh("c", off)
		w.wantShardFresh(0, time.Second)
		w.wantShardFresh(1, off)

		w.m.Unsubscribe("a") // and its age with it
		w.sync()
		w.wantFresh("a", off)
		w.subscribe("a")
		w.sync()
		w.wantFresh("a", off)
		w.topics.Publish("a", "2")
		w.wantFresh("a", 0)
	})
}

// Data that waits for a cutover is fresh when it comes, and the shard's age is the live connection's.
func TestFreshnessOverSwitchover(t *testing.T) {
	cfg := twoShards()
	cfg.Switchover = wsshard.SwitchoverConfig{Settle: 10 * time.Second, Linger: time.Second, Timeout: time.Minute}
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			inspects
		}{a, byTopic}
	}, func(w *world) {
		w.start("a", "b")
		w.topics.Publish("a", "1")
		go w.m.HotSwitchover(context.Background(), 0)
		after(5 * time.Second)
		w.srv.Conn(1).Send("b:1") // the new connection's
		after(time.Second)
		w.wantFresh("b", time.Second)
		w.wantShardFresh(0, 6*time.Second)
		after(5 * time.Second) // it has taken over
		w.wantCauses(wsshard.ErrReplaced)
		w.wantShardFresh(0, 6*time.Second)
		w.wantFresh("a", 11*time.Second)
	})
}
