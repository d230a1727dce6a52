package gaps

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: how old is what a shard, or a topic, last heard?

// wantFresh checks at which age a topic is fresh still; off: at none.
func wantFresh(w *harness.World, sub string, age time.Duration) {
	w.T.Helper()
	synctest.Wait()
	if age == harness.Off {
		if w.M.IsSubscriptionFresh(sub, time.Hour) {
			w.T.Errorf("%q is fresh", sub)
		}
		return
	}
	if !w.M.IsSubscriptionFresh(sub, age) || w.M.IsSubscriptionFresh(sub, age-1) {
		w.T.Errorf("the last data of %q is not %v old", sub, age)
	}
}

// wantShardFresh checks the age of a shard's last data; off: it has none.
func wantShardFresh(w *harness.World, shard int, age time.Duration) {
	w.T.Helper()
	got, ok := w.M.ShardFreshness(shard)
	if ok != (age != harness.Off) || ok && got != age {
		w.T.Errorf("shard %d: %v, %v; want %v", shard, got, ok, age)
	}
}

func twoShards() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: 2, ShardSelection: wsshard.Sequential,
		Health: wsshard.HealthConfig{DataTimeout: harness.Off}, Backoff: wsshard.BackoffConfig{DisableJitter: true},
	}
}

// Without names each topic is as fresh as its shard.
func TestFreshnessByShard(t *testing.T) {
	harness.Bubble(t, twoShards(), func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.DetectsData
		}{a, func(m wsshard.Message) bool { return m.String() != "chat" }}
	}, func(w *harness.World) {
		wantShardFresh(w, 0, harness.Off)
		w.Start("a", "b", "c")
		wantShardFresh(w, 0, harness.Off)
		wantFresh(w, "a", harness.Off)
		w.Topics.Publish("a", "1")
		peer := w.PeerWith("a")
		harness.After(5 * time.Second)
		peer.Send("chat") // no data
		harness.After(time.Second)
		wantShardFresh(w, 0, 6*time.Second)
		wantFresh(w, "a", 6*time.Second)
		wantFresh(w, "b", 6*time.Second)
		wantFresh(w, "c", harness.Off)
		wantFresh(w, "unknown", harness.Off)
		wantShardFresh(w, 1, harness.Off)
		wantShardFresh(w, 2, harness.Off)
		wantShardFresh(w, -1, harness.Off)

		peer.Kill() // a shard that is down is not fresh, nor is one without data since
		harness.After(time.Millisecond)
		wantShardFresh(w, 0, harness.Off)
		wantFresh(w, "a", harness.Off)
		harness.After(time.Second)
		w.WantTopics("a", "b", "c")
		wantShardFresh(w, 0, harness.Off)
		wantFresh(w, "a", harness.Off)
	})
}

// Where Inspect names topics each has its own age.
func TestFreshnessByTopic(t *testing.T) {
	harness.Bubble(t, twoShards(), func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Inspects
		}{a, harness.ByTopic}
	}, func(w *harness.World) {
		w.Start("a", "b", "c")
		w.Topics.Publish("a", "1")
		harness.After(5 * time.Second)
		w.Topics.Publish("b", "1")
		harness.After(time.Second)
		wantFresh(w, "a", 6*time.Second)
		wantFresh(w, "b", time.Second)
		wantFresh(w, "c", harness.Off)
		wantShardFresh(w, 0, time.Second)
		wantShardFresh(w, 1, harness.Off)

		w.M.Unsubscribe("a") // and its age with it
		w.Sync()
		wantFresh(w, "a", harness.Off)
		w.Subscribe("a")
		w.Sync()
		wantFresh(w, "a", harness.Off)
		w.Topics.Publish("a", "2")
		wantFresh(w, "a", 0)
	})
}

// Data that waits for a cutover is fresh when it comes, and the shard's age is the live connection's.
func TestFreshnessOverSwitchover(t *testing.T) {
	cfg := twoShards()
	cfg.Switchover = wsshard.SwitchoverConfig{Settle: 10 * time.Second, Linger: time.Second, Timeout: time.Minute}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Inspects
		}{a, harness.ByTopic}
	}, func(w *harness.World) {
		w.Start("a", "b")
		w.Topics.Publish("a", "1")
		go w.M.HotSwitchover(context.Background(), 0)
		harness.After(5 * time.Second)
		w.Srv.Conn(1).Send("b:1") // the new connection's
		harness.After(time.Second)
		wantFresh(w, "b", time.Second)
		wantShardFresh(w, 0, 6*time.Second)
		harness.After(5 * time.Second) // it has taken over
		w.WantCauses(wsshard.ErrReplaced)
		wantShardFresh(w, 0, 6*time.Second)
		wantFresh(w, "a", 11*time.Second)
	})
}
