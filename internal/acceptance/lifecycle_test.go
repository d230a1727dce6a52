package acceptance

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

type ctxKey struct{}

// TestLifecycle is the ordinary way: Start, Stop, and once more.
func TestLifecycle(t *testing.T) {
	bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, nil, func(w *world) {
		if w.m.IsRunning() {
			t.Error("it runs before Start")
		}
		for round := range 3 {
			w.subscribeOrStart("a", "b", "c")
			if !w.m.IsRunning() {
				t.Errorf("round %d: it does not run", round)
			}
			w.sync()
			w.wantTopics("a", "b", "c")
			w.topics.Publish("a", "1")
			w.wantGot("a:1")
			before := w.m.Metrics()
			if len(before.Shards) != 2 || before.ActiveConnections != 2 || before.Connections != uint64(2*round+2) {
				t.Errorf("round %d: %+v", round, before)
			}
			if before.Shards[0].Generation != 1 || before.Reconnections != 0 {
				t.Errorf("round %d: a shard of the last round was taken for this one: %+v", round, before)
			}
			if err := w.m.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			if w.m.IsRunning() {
				t.Error("it runs after Stop")
			}
			// Forgotten: subscriptions, shards, their metrics. Kept: totals.
			after := w.m.Metrics()
			if w.m.ShardCount() != 0 || w.m.TotalSubscriptions() != 0 || len(after.Shards) != 0 || after.ActiveConnections != 0 {
				t.Errorf("round %d: after Stop %d shards, %d subscriptions, %+v", round, w.m.ShardCount(), w.m.TotalSubscriptions(), after)
			}
			after.Shards, after.ActiveConnections, after.TotalSubscriptions = before.Shards, before.ActiveConnections, before.TotalSubscriptions
			if !reflect.DeepEqual(after, before) || after.MessagesReceived != uint64(round+1) || after.BytesReceived != uint64(3*round+3) {
				t.Errorf("round %d: totals were lost: %+v, %+v", round, before, after)
			}
			w.wantCauses(wsshard.ErrStopped, wsshard.ErrStopped)
			for i := 2 * round; i < 2*round+2; i++ {
				if code := w.srv.Conn(i).CloseCode(); code != 1000 {
					t.Errorf("connection %d: close code %d", i, code)
				}
			}
			w.wantTopics()
		}
	})
}

// subscribeOrStart starts a manager with these topics: before the first Start they may come first, later they may not.
func (w *world) subscribeOrStart(subs ...string) {
	w.t.Helper()
	if _, err := w.m.Subscribe(subs...); err != nil && err != wsshard.ErrStopped {
		w.t.Fatal(err)
	}
	if err := w.m.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.subscribe(subs...)
}

func TestSubscribeBeforeStart(t *testing.T) {
	bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 1}, nil, func(w *world) {
		res, err := w.m.Subscribe("a", "b", "c")
		if !errors.Is(err, wsshard.ErrCapacity) || !res[0].OK() || !res[1].OK() || res[2].OK() || res[2].ShardID != -1 {
			t.Errorf("Subscribe: %v, %v", res, err)
		}
		if err := w.m.Unsubscribe("b"); err != nil {
			t.Error(err)
		}
		if err := w.m.Resubscribe("a"); err != nil {
			t.Error(err)
		}
		if id, ok := w.m.SubscriptionShard("a"); id != 0 || !ok || w.m.TotalSubscriptions() != 1 {
			t.Errorf("a is on %d, %v, of %d", id, ok, w.m.TotalSubscriptions())
		}
		if s := w.m.Metrics().Shards; len(s) != 1 || s[0].State != wsshard.ShardStopped || s[0].SubscriptionCount != 1 {
			t.Errorf("%+v", s)
		}
		for name, err := range map[string]error{
			"HotSwitchover": w.m.HotSwitchover(context.Background(), 0),
			"Reconnect":     w.m.Reconnect(0),
			"Send":          w.m.Send(context.Background(), 0, wsshard.Text("x")),
		} {
			if err != wsshard.ErrNotConnected {
				t.Errorf("%s before Start: %v", name, err)
			}
		}
		synced := make(chan error, 1)
		go func() { synced <- w.m.Sync(context.Background(), "a") }()
		after(time.Hour)
		if w.net.Dials() != 0 || len(synced) != 0 {
			t.Errorf("%d dials before Start; Sync returned: %v", w.net.Dials(), len(synced) > 0)
		}
		w.m.Start(context.Background())
		if err := <-synced; err != nil {
			t.Errorf("Sync: %v", err)
		}
		w.wantTopics("a")
	})
}

// TestStopped: what each method says of a manager that was stopped, before it was ever started or after.
func TestStopped(t *testing.T) {
	for _, started := range []bool{false, true} {
		bubble(t, wsshard.Config{}, nil, func(w *world) {
			ctx := context.Background()
			if started {
				w.start("a")
			} else {
				w.subscribe("a")
			}
			if err := w.m.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			res, err := w.m.Subscribe("a", "b")
			if err != wsshard.ErrStopped || len(res) != 2 || res[1] != (wsshard.SubscribeResult{ShardID: -1, Err: wsshard.ErrStopped}) {
				t.Errorf("Subscribe: %+v, %v", res, err)
			}
			for name, err := range map[string]error{
				"Unsubscribe":   w.m.Unsubscribe("a"),
				"Resubscribe":   w.m.Resubscribe("a"),
				"Sync":          w.m.Sync(ctx),
				"Sync a":        w.m.Sync(ctx, "a"),
				"HotSwitchover": w.m.HotSwitchover(ctx, 0),
				"Reconnect":     w.m.Reconnect(0),
				"Send":          w.m.Send(ctx, 0, wsshard.Text("x")),
			} {
				if err != wsshard.ErrStopped {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, ok := w.m.SubscriptionShard("a"); ok || w.m.ShardSubscriptions(0) != nil || w.m.IsSubscriptionFresh("a", time.Hour) {
				t.Error("it knows a still")
			}
			if _, ok := w.m.ShardFreshness(0); ok {
				t.Error("its shard is fresh")
			}
			if h := w.m.Health(1); !h.Healthy || h.Total != 0 {
				t.Errorf("%+v", h)
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if err := w.m.Stop(ended); err != nil {
				t.Errorf("Stop of what is stopped: %v", err)
			}
			w.m.Start(ctx)
			w.subscribe("b")
			w.sync()
			w.wantTopics("b")
		})
	}
}

func TestStartTwice(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start("a")
		if err := w.m.Start(context.Background()); err != wsshard.ErrStarted {
			t.Errorf("Start: %v", err)
		}
		if err := w.m.Run(context.Background()); err != wsshard.ErrStarted {
			t.Errorf("Run: %v", err)
		}
		w.wantTopics("a")
		if n := w.srv.Conns(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStartWithEndedContext: nothing is started, and nothing forgotten.
func TestStartWithEndedContext(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.subscribe("a")
		reason := errors.New("over")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(reason)
		if err := w.m.Start(ctx); err != reason || w.m.IsRunning() {
			t.Errorf("Start: %v; running: %v", err, w.m.IsRunning())
		}
		w.start()
		w.wantTopics("a")
	})
}

// TestStartContextEnds: the manager stops itself, as Stop would.
func TestStartContextEnds(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), ctxKey{}, "value"))
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			if ctx.Value(ctxKey{}) != "value" {
				t.Error("a callback does not see the values of Start's context")
			}
		}
		w.subscribe("a")
		w.m.Start(ctx)
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
		waiting := make(chan error, 1)
		w.srv.Reject(func(r *http.Request) (int, http.Header, string) { <-r.Context().Done(); return 0, nil, "" })
		w.m.Subscribe("b")
		go func() { waiting <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		cancel(errors.New("enough"))
		after(0)
		if w.m.IsRunning() {
			t.Error("it runs on")
		}
		if err := <-waiting; err != wsshard.ErrStopped {
			t.Errorf("HotSwitchover: %v", err)
		}
		after(2 * time.Second)
		w.wantCauses(wsshard.ErrStopped)
		if code := w.srv.Conn(0).CloseCode(); code != 1000 || w.net.Open() != 0 {
			t.Errorf("close code %d, %d sockets open", code, w.net.Open())
		}
		if _, err := w.m.Subscribe("c"); err != wsshard.ErrStopped || w.m.TotalSubscriptions() != 0 {
			t.Errorf("Subscribe: %v; it wants %d", err, w.m.TotalSubscriptions())
		}
		evs := w.app.takeEvents()
		if n := len(evs); evs[n-1].Kind != wsshard.EventStopped || evs[n-1].ShardID != -1 {
			t.Errorf("the last event is %+v", evs[n-1])
		}
		w.srv.Reject(nil)
		w.m.Start(context.Background())
		w.subscribe("d")
		w.sync()
		w.wantTopics("d")
	})
}

// TestStopEndsWaits: whoever waits hears ErrStopped at once.
func TestStopEndsWaits(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
		w.subscribe("a")
		w.m.Start(context.Background())
		errs := make(chan error, 3)
		go func() { errs <- w.m.Sync(context.Background()) }()
		go func() { errs <- w.m.Sync(context.Background(), "a") }()
		go func() { errs <- w.m.Run(context.Background()) }()
		after(time.Second)
		if err := <-errs; err != wsshard.ErrStarted {
			t.Errorf("Run: %v", err)
		}
		begin := time.Now()
		w.m.Stop(context.Background())
		for range 2 {
			if err := <-errs; err != wsshard.ErrStopped {
				t.Errorf("Sync: %v", err)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("Stop during a dial took %v", d)
		}
	})
}

// TestStopInParallel: a hundred calls, one end.
func TestStopInParallel(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start("a")
		var all sync.WaitGroup
		errs := make([]error, 100)
		for i := range errs {
			all.Go(func() { errs[i] = w.m.Stop(context.Background()) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Errorf("Stop: %v", err)
		}
		w.wantCauses(wsshard.ErrStopped)
		closes := 0
		for _, f := range w.srv.Conn(0).FrameLog() {
			if f.Kind == "close" {
				closes++
			}
		}
		if closes != 1 {
			t.Errorf("%d close frames", closes)
		}
	})
}

// TestNoCallbackOfTwoRuns: after a Stop that gave up, the next run does not connect before the callback of the last one has
// returned; it waits for that in its turn.
func TestNoCallbackOfTwoRuns(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		inside, busy := 0, make(chan struct{})
		w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if inside++; inside > 1 {
				t.Error("two OnMessage of one shard at once")
			}
			if msg.String() == "a:block" {
				<-busy
			}
			inside--
		}
		w.start("a")
		w.wantTopics("a")
		w.topics.Publish("a", "block")
		after(0)
		for round := range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := w.m.Stop(ctx); err != context.DeadlineExceeded {
				t.Errorf("round %d: Stop: %v", round, err)
			}
			cancel()
			if n := w.net.Open(); n != 0 {
				t.Errorf("round %d: %d sockets are open", round, n)
			}
			if err := w.m.Start(context.Background()); err != nil {
				t.Errorf("round %d: Start: %v", round, err)
			}
			w.subscribe("a")
			after(time.Minute)
			if n := w.srv.Conns(); n != 1 {
				t.Errorf("round %d: %d connections", round, n)
			}
		}
		close(busy)
		w.sync()
		w.wantTopics("a")
		w.topics.Publish("a", "2")
		w.wantGot("a:block", "a:2")
	})
}

func isComparable[T comparable]() {}

// A manager's type is comparable, as it was announced, though a manager is used by its address.
var _ = isComparable[wsshard.ShardManager[string]]
