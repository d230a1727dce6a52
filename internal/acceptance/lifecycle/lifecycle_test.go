package lifecycle

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what may be called before Start, while it runs, and after Stop?

type ctxKey struct{}

// TestLifecycle is the ordinary way: Start, Stop, and once more.
func TestLifecycle(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, nil, func(w *harness.World) {
		if w.M.IsRunning() {
			t.Error("it runs before Start")
		}
		for round := range 3 {
			subscribeOrStart(w, "a", "b", "c")
			if !w.M.IsRunning() {
				t.Errorf("round %d: it does not run", round)
			}
			w.Sync()
			w.WantTopics("a", "b", "c")
			w.Topics.Publish("a", "1")
			w.WantGot("a:1")
			before := w.M.Metrics()
			if len(before.Shards) != 2 || before.ActiveConnections != 2 || before.Connections != uint64(2*round+2) {
				t.Errorf("round %d: %+v", round, before)
			}
			if before.Shards[0].Generation != 1 || before.Reconnections != 0 {
				t.Errorf("round %d: a shard of the last round was taken for this one: %+v", round, before)
			}
			if err := w.M.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			if w.M.IsRunning() {
				t.Error("it runs after Stop")
			}
			// Forgotten: subscriptions, shards, their metrics. Kept: totals.
			after := w.M.Metrics()
			if w.M.ShardCount() != 0 || w.M.TotalSubscriptions() != 0 || len(after.Shards) != 0 || after.ActiveConnections != 0 {
				t.Errorf("round %d: after Stop %d shards, %d subscriptions, %+v", round, w.M.ShardCount(), w.M.TotalSubscriptions(), after)
			}
			after.Shards, after.ActiveConnections, after.TotalSubscriptions = before.Shards, before.ActiveConnections, before.TotalSubscriptions
			if !reflect.DeepEqual(after, before) || after.MessagesReceived != uint64(round+1) || after.BytesReceived != uint64(3*round+3) {
				t.Errorf("round %d: totals were lost: %+v, %+v", round, before, after)
			}
			w.WantCauses(wsshard.ErrStopped, wsshard.ErrStopped)
			for i := 2 * round; i < 2*round+2; i++ {
				if code := w.Srv.Conn(i).CloseCode(); code != 1000 {
					t.Errorf("connection %d: close code %d", i, code)
				}
			}
			w.WantTopics()
		}
	})
}

// subscribeOrStart starts a manager with these topics: before the first Start they may come first, later they may not.
func subscribeOrStart(w *harness.World, subs ...string) {
	w.T.Helper()
	if _, err := w.M.Subscribe(subs...); err != nil && err != wsshard.ErrStopped {
		w.T.Fatal(err)
	}
	if err := w.M.Start(context.Background()); err != nil {
		w.T.Fatal(err)
	}
	w.Subscribe(subs...)
}

func TestSubscribeBeforeStart(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 1}, nil, func(w *harness.World) {
		res, err := w.M.Subscribe("a", "b", "c")
		if !errors.Is(err, wsshard.ErrCapacity) || !res[0].OK() || !res[1].OK() || res[2].OK() || res[2].ShardID != -1 {
			t.Errorf("Subscribe: %v, %v", res, err)
		}
		if err := w.M.Unsubscribe("b"); err != nil {
			t.Error(err)
		}
		if err := w.M.Resubscribe("a"); err != nil {
			t.Error(err)
		}
		if id, ok := w.M.SubscriptionShard("a"); id != 0 || !ok || w.M.TotalSubscriptions() != 1 {
			t.Errorf("a is on %d, %v, of %d", id, ok, w.M.TotalSubscriptions())
		}
		if s := w.M.Metrics().Shards; len(s) != 1 || s[0].State != wsshard.ShardStopped || s[0].SubscriptionCount != 1 {
			t.Errorf("%+v", s)
		}
		for name, err := range map[string]error{
			"HotSwitchover": w.M.HotSwitchover(context.Background(), 0),
			"Reconnect":     w.M.Reconnect(0),
			"Send":          w.M.Send(context.Background(), 0, wsshard.Text("x")),
		} {
			if err != wsshard.ErrNotConnected {
				t.Errorf("%s before Start: %v", name, err)
			}
		}
		synced := make(chan error, 1)
		go func() { synced <- w.M.Sync(context.Background(), "a") }()
		harness.After(time.Hour)
		if w.Net.Dials() != 0 || len(synced) != 0 {
			t.Errorf("%d dials before Start; Sync returned: %v", w.Net.Dials(), len(synced) > 0)
		}
		w.M.Start(context.Background())
		if err := <-synced; err != nil {
			t.Errorf("Sync: %v", err)
		}
		w.WantTopics("a")
	})
}

// TestStopped: what each method says of a manager that was stopped, before it was ever started or after.
func TestStopped(t *testing.T) {
	for _, started := range []bool{false, true} {
		harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
			ctx := context.Background()
			if started {
				w.Start("a")
			} else {
				w.Subscribe("a")
			}
			if err := w.M.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			res, err := w.M.Subscribe("a", "b")
			if err != wsshard.ErrStopped || len(res) != 2 || res[1] != (wsshard.SubscribeResult{ShardID: -1, Err: wsshard.ErrStopped}) {
				t.Errorf("Subscribe: %+v, %v", res, err)
			}
			for name, err := range map[string]error{
				"Unsubscribe":   w.M.Unsubscribe("a"),
				"Resubscribe":   w.M.Resubscribe("a"),
				"Sync":          w.M.Sync(ctx),
				"Sync a":        w.M.Sync(ctx, "a"),
				"HotSwitchover": w.M.HotSwitchover(ctx, 0),
				"Reconnect":     w.M.Reconnect(0),
				"Send":          w.M.Send(ctx, 0, wsshard.Text("x")),
			} {
				if err != wsshard.ErrStopped {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, ok := w.M.SubscriptionShard("a"); ok || w.M.ShardSubscriptions(0) != nil || w.M.IsSubscriptionFresh("a", time.Hour) {
				t.Error("it knows a still")
			}
			if _, ok := w.M.ShardFreshness(0); ok {
				t.Error("its shard is fresh")
			}
			if h := w.M.Health(1); !h.Healthy || h.Total != 0 {
				t.Errorf("%+v", h)
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if err := w.M.Stop(ended); err != nil {
				t.Errorf("Stop of what is stopped: %v", err)
			}
			w.M.Start(ctx)
			w.Subscribe("b")
			w.Sync()
			w.WantTopics("b")
		})
	}
}

func TestStartTwice(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a")
		if err := w.M.Start(context.Background()); err != wsshard.ErrStarted {
			t.Errorf("Start: %v", err)
		}
		if err := w.M.Run(context.Background()); err != wsshard.ErrStarted {
			t.Errorf("Run: %v", err)
		}
		w.WantTopics("a")
		if n := w.Srv.Conns(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStartWithEndedContext: nothing is started, and nothing forgotten.
func TestStartWithEndedContext(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Subscribe("a")
		reason := errors.New("over")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(reason)
		if err := w.M.Start(ctx); err != reason || w.M.IsRunning() {
			t.Errorf("Start: %v; running: %v", err, w.M.IsRunning())
		}
		w.Start()
		w.WantTopics("a")
	})
}

// TestStartContextEnds: the manager stops itself, as Stop would.
func TestStartContextEnds(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), ctxKey{}, "value"))
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			if ctx.Value(ctxKey{}) != "value" {
				t.Error("a callback does not see the values of Start's context")
			}
		}
		w.Subscribe("a")
		w.M.Start(ctx)
		w.WantTopics("a")
		w.Topics.Publish("a", "1")
		w.WantGot("a:1")
		waiting := make(chan error, 1)
		w.Srv.Reject(func(r *http.Request) (int, http.Header, string) { <-r.Context().Done(); return 0, nil, "" })
		w.M.Subscribe("b")
		go func() { waiting <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		cancel(errors.New("enough"))
		harness.After(0)
		if w.M.IsRunning() {
			t.Error("it runs on")
		}
		if err := <-waiting; err != wsshard.ErrStopped {
			t.Errorf("HotSwitchover: %v", err)
		}
		harness.After(2 * time.Second)
		w.WantCauses(wsshard.ErrStopped)
		if code := w.Srv.Conn(0).CloseCode(); code != 1000 || w.Net.Open() != 0 {
			t.Errorf("close code %d, %d sockets open", code, w.Net.Open())
		}
		if _, err := w.M.Subscribe("c"); err != wsshard.ErrStopped || w.M.TotalSubscriptions() != 0 {
			t.Errorf("Subscribe: %v; it wants %d", err, w.M.TotalSubscriptions())
		}
		evs := w.App.TakeEvents()
		if n := len(evs); evs[n-1].Kind != wsshard.EventStopped || evs[n-1].ShardID != -1 {
			t.Errorf("the last event is %+v", evs[n-1])
		}
		w.Srv.Reject(nil)
		w.M.Start(context.Background())
		w.Subscribe("d")
		w.Sync()
		w.WantTopics("d")
	})
}

// TestStopEndsWaits: whoever waits hears ErrStopped at once.
func TestStopEndsWaits(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
		w.Subscribe("a")
		w.M.Start(context.Background())
		errs := make(chan error, 3)
		go func() { errs <- w.M.Sync(context.Background()) }()
		go func() { errs <- w.M.Sync(context.Background(), "a") }()
		go func() { errs <- w.M.Run(context.Background()) }()
		harness.After(time.Second)
		if err := <-errs; err != wsshard.ErrStarted {
			t.Errorf("Run: %v", err)
		}
		begin := time.Now()
		w.M.Stop(context.Background())
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
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a")
		var all sync.WaitGroup
		errs := make([]error, 100)
		for i := range errs {
			all.Go(func() { errs[i] = w.M.Stop(context.Background()) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Errorf("Stop: %v", err)
		}
		w.WantCauses(wsshard.ErrStopped)
		closes := 0
		for _, f := range w.Srv.Conn(0).FrameLog() {
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
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		inside, busy := 0, make(chan struct{})
		w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if inside++; inside > 1 {
				t.Error("two OnMessage of one shard at once")
			}
			if msg.String() == "a:block" {
				<-busy
			}
			inside--
		}
		w.Start("a")
		w.WantTopics("a")
		w.Topics.Publish("a", "block")
		harness.After(0)
		for round := range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := w.M.Stop(ctx); err != context.DeadlineExceeded {
				t.Errorf("round %d: Stop: %v", round, err)
			}
			cancel()
			if n := w.Net.Open(); n != 0 {
				t.Errorf("round %d: %d sockets are open", round, n)
			}
			if err := w.M.Start(context.Background()); err != nil {
				t.Errorf("round %d: Start: %v", round, err)
			}
			w.Subscribe("a")
			harness.After(time.Minute)
			if n := w.Srv.Conns(); n != 1 {
				t.Errorf("round %d: %d connections", round, n)
			}
		}
		close(busy)
		w.Sync()
		w.WantTopics("a")
		w.Topics.Publish("a", "2")
		w.WantGot("a:block", "a:2")
	})
}

func isComparable[T comparable]() {}

// A manager's type is comparable, as it was announced, though a manager is used by its address.
var _ = isComparable[wsshard.ShardManager[string]]
