package acceptance

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

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
			bubble(t, cfg, nil, func(w *world) {
				w.start("a", "b", "c", "d")
				w.m.Unsubscribe("b", "c", "b", "nobody")
				results, err := w.m.Subscribe("e", "f", "g")
				if err == nil || !results[0].OK() || !results[1].OK() || results[2].OK() {
					t.Errorf("two places for three: %q, %v", outcome(results), err)
				}
				w.sync()
				w.wantTopics("a", "d", "e", "f")
				if n := w.topics.Max(); n > 2 {
					t.Errorf("%d topics on one connection", n)
				}
				if n := w.srv.Conns(); n != 2 {
					t.Errorf("%d connections: an unsubscription needs no new one", n)
				}
			})
		})
	}
}

// A shard that was emptied is filled again before another is opened.
func TestFreedPlacesBeforeNewShards(t *testing.T) {
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 10})
	m.Subscribe(numbered(30)...)
	m.Unsubscribe(numbered(20)...)
	m.Subscribe(numbered(20)...)
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
	bubble(t, cfg, nil, func(w *world) {
		w.start("a", "b", "c") // Start opens what its topics need
		results, err := w.m.Subscribe("d", "e")
		if got := outcome(results); got != "added 1, failed -1: capacity" || !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Subscribe: %q, %v", got, err)
		}
		w.sync()
		w.wantTopics("a", "b", "c", "d")
		if n, more := w.m.ShardCount(), w.m.Metrics().Rebalances; n != 2 || more != 0 {
			t.Errorf("%d shards, %d opened after Start", n, more)
		}
	})
}

func TestNoAutoRebalanceEmpty(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 2, DisableAutoRebalance: true}
	bubble(t, cfg, nil, func(w *world) {
		w.start()
		results, _ := w.m.Subscribe("a", "b", "c")
		if got := outcome(results); got != "added 0, added 0, failed -1: capacity" {
			t.Errorf("Subscribe: %q", got)
		}
		w.sync()
		w.wantTopics("a", "b")
	})
}

// Start is all or nothing.
func TestStartWithTooMuch(t *testing.T) {
	h := func(a *app) wsshard.Handler[string] { return &initial{a, []string{"c", "d", "e", "d", "a"}} }
	bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 2}, h, func(w *world) {
		w.subscribe("a", "b")
		if err := w.m.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Fatalf("Start with 5 topics for 4 places: %v", err)
		}
		after(time.Minute)
		if w.m.IsRunning() || w.net.Dials() != 0 {
			t.Errorf("running %v after %d dials", w.m.IsRunning(), w.net.Dials())
		}
		if got := w.m.ShardSubscriptions(0); !slices.Equal(got, []string{"a", "b"}) || w.m.TotalSubscriptions() != 2 {
			t.Errorf("a failed Start left %q, %d in all", got, w.m.TotalSubscriptions())
		}
		w.m.Unsubscribe("b") // now they fit
		if err := w.m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.wantTopics("a", "c", "d", "e")
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
		h := func(a *app) wsshard.Handler[string] { return &initial{a, numbered(700)} }
		bubble(t, cfg, h, func(w *world) {
			w.start("a")
			if n := w.m.TotalSubscriptions(); n != 701 {
				t.Errorf("%+v: %d subscriptions, want 701", cfg, n)
			}
			if n := w.m.ShardCount(); cfg.MaxSubscriptionsPerShard != 0 && n != 1 {
				t.Errorf("%+v: %d shards without a limit", cfg, n)
			}
		})
	}
}

// The handler's limit holds where the configuration has none.
type limited struct {
	*app
	limit int
}

func (h *limited) MaxSubscriptionsPerShard() int { return h.limit }

func TestHandlersLimit(t *testing.T) {
	for _, c := range []struct{ handler, config, shards int }{{3, 0, 4}, {3, 5, 2}, {0, 0, 1}, {-1, 0, 1}, {3, -1, 1}} {
		m, err := wsshard.New[string](&limited{&app{}, c.handler}, wsshard.Config{MaxSubscriptionsPerShard: c.config})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe(numbered(10)...)
		if n := m.ShardCount(); n != c.shards {
			t.Errorf("handler's limit %d, configured %d: 10 topics on %d shards, want %d", c.handler, c.config, n, c.shards)
		}
	}
}

// A parked shard gets nothing new, until it is revived.
func TestParkedGetsNothing(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 3, MaxShards: 2}
	cfg.Connection.MaxConnectAttempts = 1
	bubble(t, cfg, nil, func(w *world) {
		w.start("a", "b", "c", "d") // two each
		id, _ := w.m.SubscriptionShard("a")
		w.park("a")
		results, err := w.m.Subscribe("e", "f")
		if !results[0].OK() || results[0].ShardID == id || results[1].OK() || !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("with shard %d parked: %q, %v", id, outcome(results), err)
		}
		if r, err := w.m.Subscribe("a"); r[0].Status != wsshard.SubscribeExisting || r[0].ShardID != id || err != nil {
			t.Errorf("what a parked shard has: %q, %v", outcome(r), err)
		}
		if err := w.m.Reconnect(id); err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.subscribe("f")
		w.sync()
		w.wantTopics("a", "b", "c", "d", "e", "f")
	})
}

// Where new shards may be opened, a parked one's room counts for nothing.
func TestParkedIsWorkedAround(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 3}
	cfg.Connection.MaxConnectAttempts = 1
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		w.park("a")
		w.subscribe("b", "c")
		if got := loads(w.m); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("loads %v, want the new ones on a new shard", got)
		}
		w.sync("b", "c")
		w.wantTopics("b", "c")
	})
}

// park has the shard of a topic fail for good: its connection is killed and none follows.
func (w *world) park(topic string) {
	w.t.Helper()
	was := w.app.onError
	w.app.onError = func(error) bool { return false }
	w.peer(topic).Kill()
	after(time.Second)
	w.app.onError = was
	id, _ := w.m.SubscriptionShard(topic)
	if st := w.m.Metrics().Shards[id].State; st != wsshard.ShardParked {
		w.t.Fatalf("shard %d is %v, not parked", id, st)
	}
}

// peer returns the one live connection that has a topic, as the server sees it.
func (w *world) peer(topic string) *wstest.Peer {
	w.t.Helper()
	synctest.Wait()
	var found []*wstest.Peer
	for _, p := range w.srv.Live() {
		if slices.Contains(w.topics.On(p), topic) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%q is on %d connections", topic, len(found))
	}
	return found[0]
}
