package subscriptions

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: has the server in the end what is wanted, whatever happened?

var (
	modelSeeds = flag.Int("model.seeds", 30, "how many seeds TestModel runs")
	modelSeed  = flag.Uint64("model.seed", 1, "the first of them")
)

// TestModel does at random what an application and a bad network may do, and keeps a set beside it. Whatever happened, in
// the end the server has that set, each topic once, and it was never asked for anything odd.
func TestModel(t *testing.T) {
	for i := range *modelSeeds {
		seed := *modelSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { drawModel(seed).run(t) })
	}
}

// model is one run. All of it is drawn before it begins.
type model struct {
	seed       uint64
	cfg        wsshard.Config
	unsub      string // how topics are unsubscribed: one of stayers, or "message"
	resub, ack bool
	latency    time.Duration
	steps      []step
}

type step struct {
	do    string
	which int // shard or connection
	subs  []string
	pause time.Duration
}

func (s step) String() string {
	return fmt.Sprintf("%s %d %s, then %v", s.do, s.which, strings.Join(s.subs, ","), s.pause)
}

func drawModel(seed uint64) *model {
	rnd := rand.New(rand.NewPCG(seed, 2))
	pick := func(of ...int) int { return of[rnd.IntN(len(of))] }
	m := &model{
		seed:    seed,
		unsub:   []string{"message", "message", "no Unsubscriber", "no message", "error"}[rnd.IntN(5)],
		resub:   rnd.IntN(2) == 0,
		ack:     rnd.IntN(3) == 0,
		latency: time.Duration(rnd.IntN(30)) * time.Millisecond,
	}
	m.cfg = wsshard.Config{
		MaxSubscriptionsPerShard: pick(3, 5, 10),
		MaxShards:                pick(0, 2, 4),
		ShardSelection:           wsshard.ShardSelectionStrategy(rnd.IntN(3)),
		DisableHotSwitchover:     rnd.IntN(5) == 0,
		Subscribe:                wsshard.SubscribeConfig{MaxPerMessage: pick(-1, 1, 2, 4), MessagesPerWindow: pick(0, 0, 1, 2, 5)},
		Backoff:                  wsshard.BackoffConfig{MaxDelay: 2 * time.Second},
	}
	m.cfg.Connection.ProactiveReconnectInterval = time.Duration(pick(-1, 20)) * time.Second
	m.cfg.Connection.MaxConnectAttempts = pick(0, 0, 3)
	m.cfg.Health.PingInterval, m.cfg.Health.DataTimeout = 8*time.Second, time.Duration(pick(-1, 12))*time.Second
	m.cfg.Health.PongTimeout = 4 * time.Second
	for range 60 {
		s := step{which: rnd.IntN(8), pause: time.Duration(rnd.ExpFloat64() * float64(700*time.Millisecond))}
		switch n := rnd.IntN(100); {
		case n < 35:
			s.do = "subscribe"
		case n < 60:
			s.do = "unsubscribe"
		case n < 70:
			s.do = "resubscribe"
		case n < 78:
			s.do = "kill"
		case n < 81:
			s.do = "close"
		case n < 86:
			s.do = "reconnect"
		case n < 94:
			s.do = "switchover"
		case n < 96:
			s.do = "down"
		default:
			s.do = "up"
		}
		if strings.HasSuffix(s.do, "subscribe") {
			for range 1 + rnd.IntN(6) {
				s.subs = append(s.subs, fmt.Sprintf("t%d", rnd.IntN(40)))
			}
		}
		if rnd.IntN(3) == 0 {
			s.pause = 0
		}
		m.steps = append(m.steps, s)
	}
	return m
}

// handler is the app with the capabilities that were drawn.
func (m *model) handler(a *harness.App) wsshard.Handler[string] {
	for _, s := range stayers {
		if s.name == m.unsub {
			s.h(a)
		}
	}
	h := struct {
		wsshard.Handler[string]
		wsshard.EventObserver[string]
	}{a, a}
	type unsub = wsshard.Unsubscriber[string]
	type resub = wsshard.Resubscriber[string]
	type ack = wsshard.Acknowledger[string]
	bare := m.unsub == "no Unsubscriber"
	switch {
	case bare && m.resub && m.ack:
		return struct {
			wsshard.Handler[string]
			resub
			ack
		}{h, harness.Snapshots{App: a}, acker{a}}
	case bare && m.resub:
		return struct {
			wsshard.Handler[string]
			resub
		}{h, harness.Snapshots{App: a}}
	case bare && m.ack:
		return struct {
			wsshard.Handler[string]
			ack
		}{h, acker{a}}
	case bare:
		return h
	case m.resub && m.ack:
		return struct {
			wsshard.Handler[string]
			unsub
			resub
			ack
		}{h, a, harness.Snapshots{App: a}, acker{a}}
	case m.resub:
		return struct {
			wsshard.Handler[string]
			unsub
			resub
		}{h, a, harness.Snapshots{App: a}}
	case m.ack:
		return struct {
			wsshard.Handler[string]
			unsub
			ack
		}{h, a, acker{a}}
	}
	return struct {
		wsshard.Handler[string]
		unsub
	}{h, a}
}

func (m *model) run(t *testing.T) {
	defer func() {
		if t.Failed() {
			t.Logf("%+v", m.cfg)
			t.Logf("unsubscribe by %s, Resubscriber %v, Acknowledger %v, latency %v", m.unsub, m.resub, m.ack, m.latency)
			t.Log(m.steps)
		}
	}()
	hook.SetSeed(m.seed)
	defer hook.SetSeed(0)
	harness.Bubble(t, m.cfg, m.handler, func(w *harness.World) {
		w.Net.SetLatency(m.latency)
		w.Topics.Ack(m.ack)
		want := make(map[string]bool)
		var calls sync.WaitGroup
		for i, s := range m.steps {
			if i == 5 {
				w.M.Start(context.Background())
			}
			m.step(w, s, want, &calls)
			if s.pause > 0 {
				time.Sleep(s.pause)
			}
		}
		w.Srv.Restart()
		harness.After(time.Second) // the news of it has a way to go
		revive(w)
		limit, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		if err := w.M.Sync(limit); err != nil {
			t.Errorf("Sync: %v", err)
		}
		calls.Wait()
		m.check(w, want)
	})
}

// revive has parked shards try again.
func revive(w *harness.World) {
	for _, sm := range w.M.Metrics().Shards {
		if sm.State == wsshard.ShardParked {
			w.M.Reconnect(sm.ShardID)
		}
	}
}

func (m *model) step(w *harness.World, s step, want map[string]bool, calls *sync.WaitGroup) {
	live := w.Srv.Live()
	var peer *wstest.Peer
	if len(live) > 0 {
		peer = live[s.which%len(live)]
	}
	switch {
	case s.do == "subscribe":
		m.subscribe(w, s.subs, want)
	case s.do == "unsubscribe":
		w.M.Unsubscribe(s.subs...)
		for _, sub := range s.subs {
			delete(want, sub)
		}
	case s.do == "resubscribe":
		w.M.Resubscribe(s.subs...)
	case s.do == "kill" && peer != nil:
		peer.Kill()
	case s.do == "close" && peer != nil:
		peer.Close(1012, "restart")
	case s.do == "reconnect":
		w.M.Reconnect(s.which % max(1, w.M.ShardCount()))
	case s.do == "switchover":
		id := s.which % max(1, w.M.ShardCount())
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			w.M.HotSwitchover(ctx, id)
		})
	case s.do == "down":
		w.Srv.Down()
	case s.do == "up":
		w.Srv.Restart()
	}
}

// subscribe compares each result with the set: a topic that is wanted is so already, another is added, and without a place
// only when there is none.
func (m *model) subscribe(w *harness.World, subs []string, want map[string]bool) {
	places := m.cfg.MaxSubscriptionsPerShard * m.cfg.MaxShards
	results, err := w.M.Subscribe(subs...)
	full := false
	parks := m.cfg.Connection.MaxConnectAttempts > 0 // then places may be out of reach
	for i, sub := range subs {
		status := wsshard.SubscribeAdded
		switch {
		case want[sub]:
			status = wsshard.SubscribeExisting
		case places > 0 && (len(want) == places || parks && !results[i].OK()):
			status, full = wsshard.SubscribeFailed, true
		}
		if results[i].Status != status {
			w.T.Errorf("Subscribe(%q), with %d of %d places taken: item %d is %v, want %v", subs, len(want), places, i, results[i].Status, status)
		}
		if results[i].OK() {
			want[sub] = true
		}
	}
	if errors.Is(err, wsshard.ErrCapacity) != full || !full && err != nil {
		w.T.Errorf("Subscribe(%q): %v", subs, err)
	}
}

// check looks at the server until it has what is wanted: a connection may be in the middle of being replaced.
func (m *model) check(w *harness.World, want map[string]bool) {
	var wrong []string
	for range 600 {
		harness.After(100 * time.Millisecond)
		revive(w)
		if wrong = m.compare(w, want); wrong == nil {
			break
		}
	}
	for _, what := range wrong {
		w.T.Error(what)
	}
	if n := w.Topics.Max(); n > m.cfg.MaxSubscriptionsPerShard {
		w.T.Errorf("%d topics on one connection, want %d at most", n, m.cfg.MaxSubscriptionsPerShard)
	}
	if n := w.M.ShardCount(); m.cfg.MaxShards > 0 && n > m.cfg.MaxShards {
		w.T.Errorf("%d shards, want %d at most", n, m.cfg.MaxShards)
	}
	for _, err := range w.Topics.Errors() {
		// Without a message that ends a topic, a fresh one is asked for on top of it.
		if m.unsub == "message" || !strings.Contains(err, "subscribe of what is on") {
			w.T.Error(err)
		}
	}
	if n := m.cfg.Subscribe.MessagesPerWindow; n > 0 {
		wantPace(w, n, time.Second)
	}
}

// compare says where the server's table and the manager's answers differ from what is wanted.
func (m *model) compare(w *harness.World, want map[string]bool) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if live, shards := len(w.Srv.Live()), w.M.ShardCount(); live != shards {
		say("%d connections for %d shards", live, shards)
	}
	if n := w.M.TotalSubscriptions(); n != len(want) {
		say("%d subscriptions, want %d", n, len(want))
	}
	on := w.Topics.All()
	for _, sub := range slices.Sorted(maps.Keys(want)) {
		if on[sub] != 1 {
			say("%q is on %d connections", sub, on[sub])
		}
		if id, ok := w.M.SubscriptionShard(sub); !ok || !slices.Contains(w.M.ShardSubscriptions(id), sub) {
			say("%q is on shard %d, %v, which does not list it", sub, id, ok)
		}
	}
	for sub := range on {
		if !want[sub] && m.unsub == "message" {
			say("the server has %q, which nobody wants", sub)
		}
	}
	w.App.Take()
	for sub := range want {
		w.Topics.Publish(sub, "look")
	}
	harness.After(4 * m.latency)
	got := make(map[string]int)
	for _, text := range w.App.Take() {
		if sub, ok := strings.CutSuffix(text, ":look"); ok {
			got[sub]++
		}
	}
	for sub := range want {
		if got[sub] != 1 {
			say("a message on %q came %d times", sub, got[sub])
		}
	}
	return wrong
}
