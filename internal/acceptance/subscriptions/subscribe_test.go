package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: to which shard does a subscription go?

// initial is an app that Start asks for topics.
type initial struct {
	*harness.App
	subs []string
}

func (h *initial) Subscriptions() []string { return h.subs }

var _ wsshard.InitialSubscriber[string] = (*initial)(nil)

// idle returns a manager that is not started: placement needs no network.
func idle(t testing.TB, cfg wsshard.Config) *wsshard.ShardManager[string] {
	t.Helper()
	m, err := wsshard.New[string](&harness.App{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// loads returns how many topics each shard wants.
func loads[S comparable](m *wsshard.ShardManager[S]) []int {
	loads := make([]int, m.ShardCount())
	for i := range loads {
		loads[i] = len(m.ShardSubscriptions(i))
	}
	return loads
}

// outcome writes results as "added 0, existing 0, failed -1: ErrCapacity".
func outcome(results []wsshard.SubscribeResult) string {
	words := make([]string, len(results))
	for i, r := range results {
		words[i] = fmt.Sprintf("%v %d", r.Status, r.ShardID)
		for name, err := range map[string]error{"capacity": wsshard.ErrCapacity, "invalid": wsshard.ErrInvalidSubscription, "stopped": wsshard.ErrStopped} {
			if errors.Is(r.Err, err) {
				words[i] += ": " + name
			}
		}
	}
	return strings.Join(words, ", ")
}

var spreads = []struct {
	strategy wsshard.ShardSelectionStrategy
	of1200   []int
}{
	{wsshard.LeastLoaded, []int{400, 400, 400}},
	{wsshard.RoundRobin, []int{400, 400, 400}},
	{wsshard.Sequential, []int{500, 500, 200}},
}

// A call opens the shards that its items need before it places the first of them.
func TestSubscribeSpreads(t *testing.T) {
	for _, s := range spreads {
		t.Run(s.strategy.String(), func(t *testing.T) {
			m := idle(t, wsshard.Config{ShardSelection: s.strategy})
			results, err := m.Subscribe(harness.Numbered(1200)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := loads(m); !slices.Equal(got, s.of1200) {
				t.Errorf("1,200 topics at 500 go as %v, want %v", got, s.of1200)
			}
			for i, sub := range harness.Numbered(1200) {
				id, ok := m.SubscriptionShard(sub)
				if r := results[i]; !ok || !r.OK() || r.Status != wsshard.SubscribeAdded || r.ShardID != id || r.Err != nil {
					t.Fatalf("result %d is %+v, but %q is on %d, %v", i, r, sub, id, ok)
				}
			}
		})
	}
}

// The same while running, where one shard is open already.
func TestSubscribeSpreadsWhileRunning(t *testing.T) {
	for _, s := range spreads {
		t.Run(s.strategy.String(), func(t *testing.T) {
			harness.Bubble(t, wsshard.Config{ShardSelection: s.strategy}, nil, func(w *harness.World) {
				w.Start()
				w.Subscribe(harness.Numbered(1200)...)
				w.Sync()
				if got := loads(w.M); !slices.Equal(got, s.of1200) {
					t.Errorf("1,200 topics at 500 go as %v, want %v", got, s.of1200)
				}
				w.WantTopics(harness.Numbered(1200)...)
				if n := w.M.Metrics().Rebalances; n != 2 {
					t.Errorf("%d rebalances, want 2: the shards opened after Start", n)
				}
			})
		})
	}
}

// What the handler names goes as one call, too.
func TestStartSpreads(t *testing.T) {
	for _, s := range spreads {
		t.Run(s.strategy.String(), func(t *testing.T) {
			topics := harness.Numbered(1200)
			again := append(slices.Clone(topics), topics[:300]...) // named twice
			h := func(a *harness.App) wsshard.Handler[string] { return &initial{a, again} }
			harness.Bubble(t, wsshard.Config{ShardSelection: s.strategy}, h, func(w *harness.World) {
				w.Start()
				if got := loads(w.M); !slices.Equal(got, s.of1200) {
					t.Errorf("1,200 topics at 500 go as %v, want %v", got, s.of1200)
				}
				w.WantTopics(topics...)
				if n := w.M.Metrics().Rebalances; n != 0 {
					t.Errorf("%d rebalances: these shards were opened by Start", n)
				}
			})
		})
	}
}

// What Subscribe left before Start counts, and what both name is one subscription.
func TestStartPlacesBoth(t *testing.T) {
	topics := harness.Numbered(1200)
	h := func(a *harness.App) wsshard.Handler[string] { return &initial{a, topics[500:]} }
	harness.Bubble(t, wsshard.Config{}, h, func(w *harness.World) {
		w.Start(topics[:700]...)
		if got := loads(w.M); !slices.Equal(got, []int{400, 400, 400}) {
			t.Errorf("700 and 700 topics, 200 of them the same, go as %v", got)
		}
		w.WantTopics(topics...)
	})
}

// Start asks the handler again after a Stop, which forgot everything else.
func TestStartAgainAsksAgain(t *testing.T) {
	h := func(a *harness.App) wsshard.Handler[string] { return &initial{a, []string{"a", "b"}} }
	harness.Bubble(t, wsshard.Config{}, h, func(w *harness.World) {
		w.Start("c")
		w.WantTopics("a", "b", "c")
		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.Sync()
		w.WantTopics("a", "b")
	})
}

func TestSubscribeDuplicates(t *testing.T) {
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 2})
	for _, step := range []struct {
		subs []string
		want string
	}{
		{[]string{"a", "b", "a"}, "added 0, added 0, existing 0"},
		{[]string{"a", "c", "c", "b"}, "existing 0, added 1, existing 1, existing 0"},
		{nil, ""},
		{[]string{"", ""}, "added 1, existing 1"}, // the zero value is a topic like any other
	} {
		results, err := m.Subscribe(step.subs...)
		if got := outcome(results); got != step.want || err != nil {
			t.Errorf("Subscribe(%q) = %q, %v, want %q", step.subs, got, err, step.want)
		}
	}
	if n := m.TotalSubscriptions(); n != 4 {
		t.Errorf("%d subscriptions, want 4", n)
	}
}

// A duplicate needs no place: a call that holds one item three times opens one shard.
func TestDuplicatesOpenNoShard(t *testing.T) {
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 1})
	m.Subscribe("a", "a", "a")
	m.Subscribe("a", "a")
	if n := m.ShardCount(); n != 1 {
		t.Errorf("%d shards for one topic", n)
	}
}

// An idle shard has nothing to do, and nothing is wrong with that: it hears pings and keeps its connection.
func TestStartOpensOneShardAtLeast(t *testing.T) {
	cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: -1}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.OnOpen(func(p *wstest.Peer) { p.Ping("hello") })
		w.Start()
		harness.After(24 * time.Hour)
		if n, conns := w.M.ShardCount(), w.Srv.Conns(); n != 1 || conns != 1 {
			t.Errorf("%d shards, %d connections, want one of each", n, conns)
		}
		if got := w.Srv.Conn(0).Got(); len(got) != 0 {
			t.Errorf("the idle shard wrote %q", got)
		}
		if m := w.M.Metrics(); m.Errors != 0 || m.HotSwitchovers != 0 {
			t.Errorf("%d errors, %d switchovers", m.Errors, m.HotSwitchovers)
		}
	})
}

// Many callers at once: each item has one fate, and the server gets what is left, while connections die.
func TestSubscribeConcurrently(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 20}, withSnapshots, func(w *harness.World) {
		w.Start()
		var callers sync.WaitGroup
		var added atomic.Int64
		for i := range 20 {
			callers.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 3))
				own := fmt.Sprint("own", i)
				for range 100 {
					results, err := w.M.Subscribe(own, "shared", own)
					if err != nil || !results[0].OK() || !results[1].OK() || results[2].Status != wsshard.SubscribeExisting {
						t.Errorf("Subscribe: %q, %v", outcome(results), err)
					}
					if results[1].Status == wsshard.SubscribeAdded {
						added.Add(1)
					}
					w.M.Resubscribe(own)
					w.M.Metrics()
					time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
					w.M.Unsubscribe(own)
				}
				w.M.Subscribe(own)
			})
		}
		callers.Go(func() {
			for range 10 {
				time.Sleep(50 * time.Millisecond)
				for _, p := range w.Srv.Live() {
					p.Kill()
				}
			}
		})
		callers.Wait()
		w.Sync()
		want := []string{"shared"}
		for i := range 20 {
			want = append(want, fmt.Sprint("own", i))
		}
		w.WantTopics(want...)
		if n := added.Load(); n != 1 {
			t.Errorf("%d callers added the shared one", n)
		}
	})
}

// anyApp is a handler for every kind of subscription.
type anyApp[S comparable] struct {
	subs []S
}

func (*anyApp[S]) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (*anyApp[S]) SubscriptionMessage(req wsshard.Request[S]) (wsshard.Message, error) {
	return anyMessage("+", req), nil
}

func (*anyApp[S]) UnsubscriptionMessage(req wsshard.Request[S]) (wsshard.Message, error) {
	return anyMessage("-", req), nil
}

func (*anyApp[S]) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

func (h *anyApp[S]) Subscriptions() []S { return h.subs }

func anyMessage[S comparable](sign string, req wsshard.Request[S]) wsshard.Message {
	words := make([]string, len(req.Subs))
	for i, s := range req.Subs {
		words[i] = fmt.Sprint(s)
	}
	return wsshard.Text(sign + strings.Join(words, ","))
}

// anyBubble runs a script with subscriptions of another type than string.
func anyBubble[S comparable](t *testing.T, h *anyApp[S], script func(w *harness.World, m *wsshard.ShardManager[S])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &harness.World{T: t, Net: wstest.NewNet()}
		w.Srv = wstest.NewServer(t, w.Net, "srv:80")
		w.Topics = wstest.NewTopics(w.Srv)
		m, err := wsshard.New[S](h, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: w.Net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		script(w, m)
		if err := m.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

func TestSubscribeStructs(t *testing.T) {
	type book struct {
		channel string
		depth   int
	}
	anyBubble(t, &anyApp[book]{}, func(w *harness.World, m *wsshard.ShardManager[book]) {
		m.Start(context.Background())
		m.Subscribe(book{"x", 5}, book{"y", 5}, book{"x", 5}, book{"x", 10})
		m.Unsubscribe(book{"y", 5}, book{"z", 1})
		if err := m.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.WantTopics("{x 5}", "{x 10}")
	})
}

// What is not equal to itself could never be taken back, and what has no hash could not even be kept.
func TestSubscribeWhatCannotBeAKey(t *testing.T) {
	nan := math.NaN()
	type deep struct {
		name string
		in   [1]struct{ v any }
	}
	wrap := func(v any) deep { return deep{"d", [1]struct{ v any }{{v}}} }
	anyBubble(t, &anyApp[any]{}, func(w *harness.World, m *wsshard.ShardManager[any]) {
		m.Start(context.Background())
		bad := []any{nan, []int{1}, map[string]int{}, func() {}, struct{ f float64 }{nan}, wrap(nan), wrap([]int{}), complex(0, nan)}
		good := []any{"a", 1, nil, 1.5, wrap(1)}
		results, err := m.Subscribe(append(slices.Clone(bad), good...)...)
		if !errors.Is(err, wsshard.ErrInvalidSubscription) || errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Subscribe: %v, want ErrInvalidSubscription alone", err)
		}
		for i, r := range results {
			if i < len(bad) && (r.OK() || r.ShardID != -1 || !errors.Is(r.Err, wsshard.ErrInvalidSubscription)) {
				t.Errorf("%v: %+v", bad[i], r)
			}
			if i >= len(bad) && (!r.OK() || r.Err != nil) {
				t.Errorf("%v: %+v", good[i-len(bad)], r)
			}
		}
		if err := m.Sync(context.Background()); err != nil {
			t.Error(err)
		}
		w.WantTopics("a", "1", "<nil>", "1.5", "{d [{1}]}")

		// The other methods take them for what nobody subscribed to.
		if err := m.Unsubscribe(bad...); err != nil {
			t.Error(err)
		}
		if err := m.Resubscribe(bad...); err != nil {
			t.Error(err)
		}
		if id, ok := m.SubscriptionShard(nan); ok || id != -1 {
			t.Errorf("NaN is on shard %d", id)
		}
		if m.IsSubscriptionFresh([]int{}, time.Hour) {
			t.Error("a slice is fresh")
		}
		if err := m.Sync(context.Background(), nan, "a"); !errors.Is(err, wsshard.ErrNotSubscribed) {
			t.Errorf("Sync(NaN): %v", err)
		}
		w.WantTopics("a", "1", "<nil>", "1.5", "{d [{1}]}")
	})
}

func TestSubscribeNaN(t *testing.T) {
	anyBubble(t, &anyApp[float64]{subs: []float64{1, math.NaN()}}, func(w *harness.World, m *wsshard.ShardManager[float64]) {
		if err := m.Start(context.Background()); !errors.Is(err, wsshard.ErrInvalidSubscription) {
			t.Fatalf("Start with a NaN: %v", err)
		}
		if m.IsRunning() || m.TotalSubscriptions() != 0 {
			t.Errorf("running %v with %d subscriptions after a failed Start", m.IsRunning(), m.TotalSubscriptions())
		}
		results, err := m.Subscribe(2, math.NaN(), math.Inf(1))
		if got := outcome(results); got != "added 0, failed -1: invalid, added 0" || !errors.Is(err, wsshard.ErrInvalidSubscription) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A number hides in a struct, and in an array there.
func TestSubscribeNaNInside(t *testing.T) {
	type level struct {
		name string
		at   [2]float64
	}
	anyBubble(t, &anyApp[level]{}, func(w *harness.World, m *wsshard.ShardManager[level]) {
		results, err := m.Subscribe(level{"a", [2]float64{1, math.NaN()}}, level{"b", [2]float64{1, 2}}, level{"b", [2]float64{1, 2}})
		if got := outcome(results); got != "failed -1: invalid, added 0, existing 0" || !errors.Is(err, wsshard.ErrInvalidSubscription) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestSubscribeStopped(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a")
		w.M.Stop(context.Background())
		results, err := w.M.Subscribe("b", "c")
		if got := outcome(results); got != "failed -1: stopped, failed -1: stopped" || !errors.Is(err, wsshard.ErrStopped) {
			t.Errorf("Subscribe: %q, %v", got, err)
		}
		if err := w.M.Unsubscribe("a"); !errors.Is(err, wsshard.ErrStopped) {
			t.Errorf("Unsubscribe: %v", err)
		}
		if err := w.M.Resubscribe("a"); !errors.Is(err, wsshard.ErrStopped) {
			t.Errorf("Resubscribe: %v", err)
		}
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.Subscribe("d")
		w.Sync()
		w.WantTopics("d")
	})
}
