package subscriptions

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which items have no place, and when is there one again?

// Exactly the items without a place fail, wherever they stand in the call.
func TestCapacity(t *testing.T) {
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 2})
	for _, step := range []struct {
		subs []string
		want string
		full bool
	}{
		{[]string{"a", "b", "c"}, "added 0, added 1, added 0", false},
		{[]string{"a", "d", "e", "b", "e", "d"}, "existing 0, added 1, failed -1: capacity, existing 1, failed -1: capacity, existing 1", true},
		{[]string{"f"}, "failed -1: capacity", true},
		{[]string{"a", "d"}, "existing 0, existing 1", false},
	} {
		results, err := m.Subscribe(step.subs...)
		if got := outcome(results); got != step.want || errors.Is(err, wsshard.ErrCapacity) != step.full || !step.full && err != nil {
			t.Errorf("Subscribe(%q) = %q, %v, want %q", step.subs, got, err, step.want)
		}
	}
	if n, shards := m.TotalSubscriptions(), m.ShardCount(); n != 4 || shards != 2 {
		t.Errorf("%d subscriptions on %d shards, want 4 on 2", n, shards)
	}
	if _, ok := m.SubscriptionShard("e"); ok {
		t.Error("an item without a place is somewhere")
	}
}

func TestCapacityIsGivenBack(t *testing.T) {
	for _, s := range spreads {
		t.Run(s.strategy.String(), func(t *testing.T) {
			cfg := wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 2, ShardSelection: s.strategy}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Start("a", "b", "c", "d")
				w.M.Unsubscribe("b", "c", "b", "nobody")
				results, err := w.M.Subscribe("e", "f", "g")
				if err == nil || !results[0].OK() || !results[1].OK() || results[2].OK() {
					t.Errorf("two places for three: %q, %v", outcome(results), err)
				}
				w.Sync()
				w.WantTopics("a", "d", "e", "f")
				if n := w.Topics.Max(); n > 2 {
					t.Errorf("%d topics on one connection", n)
				}
				if n := w.Srv.Conns(); n != 2 {
					t.Errorf("%d connections: an unsubscription needs no new one", n)
				}
			})
		})
	}
}

// A shard that was emptied is filled again before another is opened.
func TestFreedPlacesBeforeNewShards(t *testing.T) {
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 10})
	m.Subscribe(harness.Numbered(30)...)
	m.Unsubscribe(harness.Numbered(20)...)
	m.Subscribe(harness.Numbered(20)...)
	if got := loads(m); !slices.Equal(got, []int{10, 10, 10}) {
		t.Errorf("loads %v, want 10 each", got)
	}
	m.Subscribe("one more")
	if n := m.ShardCount(); n != 4 {
		t.Errorf("%d shards, want 4", n)
	}
}

func TestNoAutoRebalance(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 2, DisableAutoRebalance: true}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a", "b", "c") // Start opens what its topics need
		results, err := w.M.Subscribe("d", "e")
		if got := outcome(results); got != "added 1, failed -1: capacity" || !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Subscribe: %q, %v", got, err)
		}
		w.Sync()
		w.WantTopics("a", "b", "c", "d")
		if n, more := w.M.ShardCount(), w.M.Metrics().Rebalances; n != 2 || more != 0 {
			t.Errorf("%d shards, %d opened after Start", n, more)
		}
	})
}

func TestNoAutoRebalanceEmpty(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 2, DisableAutoRebalance: true}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start()
		results, _ := w.M.Subscribe("a", "b", "c")
		if got := outcome(results); got != "added 0, added 0, failed -1: capacity" {
			t.Errorf("Subscribe: %q", got)
		}
		w.Sync()
		w.WantTopics("a", "b")
	})
}

// Start is all or nothing.
func TestStartWithTooMuch(t *testing.T) {
	h := func(a *harness.App) wsshard.Handler[string] { return &initial{a, []string{"c", "d", "e", "d", "a"}} }
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 2}, h, func(w *harness.World) {
		w.Subscribe("a", "b")
		if err := w.M.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Fatalf("Start with 5 topics for 4 places: %v", err)
		}
		harness.After(time.Minute)
		if w.M.IsRunning() || w.Net.Dials() != 0 {
			t.Errorf("running %v after %d dials", w.M.IsRunning(), w.Net.Dials())
		}
		if got := w.M.ShardSubscriptions(0); !slices.Equal(got, []string{"a", "b"}) || w.M.TotalSubscriptions() != 2 {
			t.Errorf("a failed Start left %q, %d in all", got, w.M.TotalSubscriptions())
		}
		w.M.Unsubscribe("b") // now they fit
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.Sync()
		w.WantTopics("a", "c", "d", "e")
	})
}

// Numbers as large as they come are no limit, and no overflow.
func TestCapacityExtremes(t *testing.T) {
	for _, cfg := range []wsshard.Config{
		{MaxShards: math.MaxInt},
		{MaxShards: math.MaxInt, MaxSubscriptionsPerShard: math.MaxInt},
		{MaxShards: -1, MaxSubscriptionsPerShard: -1},
		{MaxShards: math.MinInt, MaxSubscriptionsPerShard: math.MinInt},
		{MaxShards: 1, MaxSubscriptionsPerShard: -1},
	} {
		h := func(a *harness.App) wsshard.Handler[string] { return &initial{a, harness.Numbered(700)} }
		harness.Bubble(t, cfg, h, func(w *harness.World) {
			w.Start("a")
			if n := w.M.TotalSubscriptions(); n != 701 {
				t.Errorf("%+v: %d subscriptions, want 701", cfg, n)
			}
			if n := w.M.ShardCount(); cfg.MaxSubscriptionsPerShard != 0 && n != 1 {
				t.Errorf("%+v: %d shards without a limit", cfg, n)
			}
		})
	}
}

// The handler's limit holds where the configuration has none.
type limited struct {
	*harness.App
	limit int
}

func (h *limited) MaxSubscriptionsPerShard() int { return h.limit }

func TestHandlersLimit(t *testing.T) {
	for _, c := range []struct{ handler, config, shards int }{{3, 0, 4}, {3, 5, 2}, {0, 0, 1}, {-1, 0, 1}, {3, -1, 1}} {
		m, err := wsshard.New[string](&limited{&harness.App{}, c.handler}, wsshard.Config{MaxSubscriptionsPerShard: c.config})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe(harness.Numbered(10)...)
		if n := m.ShardCount(); n != c.shards {
			t.Errorf("handler's limit %d, configured %d: 10 topics on %d shards, want %d", c.handler, c.config, n, c.shards)
		}
	}
}

// A parked shard gets nothing new, until it is revived.
func TestParkedGetsNothing(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 3, MaxShards: 2}
	cfg.Connection.MaxConnectAttempts = 1
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a", "b", "c", "d") // two each
		id, _ := w.M.SubscriptionShard("a")
		park(w, "a")
		results, err := w.M.Subscribe("e", "f")
		if !results[0].OK() || results[0].ShardID == id || results[1].OK() || !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("with shard %d parked: %q, %v", id, outcome(results), err)
		}
		if r, err := w.M.Subscribe("a"); r[0].Status != wsshard.SubscribeExisting || r[0].ShardID != id || err != nil {
			t.Errorf("what a parked shard has: %q, %v", outcome(r), err)
		}
		if err := w.M.Reconnect(id); err != nil {
			t.Fatal(err)
		}
		w.Sync()
		w.Subscribe("f")
		w.Sync()
		w.WantTopics("a", "b", "c", "d", "e", "f")
	})
}

// Where new shards may be opened, a parked one's room counts for nothing.
func TestParkedIsWorkedAround(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 3}
	cfg.Connection.MaxConnectAttempts = 1
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		park(w, "a")
		w.Subscribe("b", "c")
		if got := loads(w.M); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("loads %v, want the new ones on a new shard", got)
		}
		w.Sync("b", "c")
		w.WantTopics("b", "c")
	})
}

// park has the shard of a topic fail for good: its connection is killed and none follows.
func park(w *harness.World, topic string) {
	w.T.Helper()
	was := w.App.Judge
	w.App.Judge = func(error) bool { return false }
	w.Peer(topic).Kill()
	harness.After(time.Second)
	w.App.Judge = was
	id, _ := w.M.SubscriptionShard(topic)
	if st := w.M.Metrics().Shards[id].State; st != wsshard.ShardParked {
		w.T.Fatalf("shard %d is %v, not parked", id, st)
	}
}
