package acceptance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// inside are all methods of a manager but Stop, and what they may return inside a callback.
var inside = []struct {
	name   string
	call   func(ctx context.Context, m *wsshard.ShardManager[string]) error
	errors []error
}{
	{"Start", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Start(ctx) }, []error{wsshard.ErrStarted}},
	{"Run", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Run(ctx) }, []error{wsshard.ErrStarted}},
	{"Sync", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Sync(ctx) }, []error{wsshard.ErrInCallback}},
	{"Sync of topics", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Sync(ctx, "a", "none") },
		[]error{wsshard.ErrInCallback}},
	{"HotSwitchover", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.HotSwitchover(ctx, 0) },
		[]error{wsshard.ErrInCallback, wsshard.ErrNotConnected, wsshard.ErrUnknownShard}},
	{"Reconnect", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Reconnect(0) },
		[]error{nil, wsshard.ErrUnknownShard}},
	{"Send", func(ctx context.Context, m *wsshard.ShardManager[string]) error {
		return m.Send(ctx, 0, wsshard.Text("sent"))
	},
		[]error{nil, wsshard.ErrInCallback, wsshard.ErrNotConnected, wsshard.ErrUnknownShard}},
	{"Subscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error {
		_, err := m.Subscribe(numbered(5)...)
		return err
	},
		[]error{nil}},
	{"Unsubscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Unsubscribe("a", "t0001") }, []error{nil}},
	{"Resubscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Resubscribe("a", "b") }, []error{nil}},
	{"questions", func(_ context.Context, m *wsshard.ShardManager[string]) error {
		m.IsRunning()
		m.Handler()
		m.ShardCount()
		m.TotalSubscriptions()
		m.ShardSubscriptions(0)
		m.SubscriptionShard("a")
		m.ShardFreshness(0)
		m.IsSubscriptionFresh("a", time.Second)
		m.Health(1)
		m.Metrics()
		return nil
	}, []error{nil}},
}

// eachCallback runs a test inside the first call of every callback, with the callback's own context and without.
func eachCallback(t *testing.T, lowLatency bool, test func(w everyWorld, callback string, ctx func(context.Context) context.Context)) {
	for i, callback := range callbacks {
		for own, ctx := range map[bool]func(context.Context) context.Context{
			true:  func(ctx context.Context) context.Context { return ctx },
			false: func(context.Context) context.Context { return context.Background() },
		} {
			if testing.Short() && own == (i%2 == 0) {
				continue
			}
			t.Run(fmt.Sprintf("%s own=%v", callback, own), func(t *testing.T) {
				everywhere(t, callback, wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}, func(w everyWorld) {
					test(w, callback, ctx)
				})
			})
		}
	}
}

// TestMethodsInCallbacks: every method, inside every callback, returns; and the manager goes on.
func TestMethodsInCallbacks(t *testing.T) {
	for _, method := range inside {
		t.Run(method.name, func(t *testing.T) {
			eachCallback(t, false, func(w everyWorld, callback string, ctx func(context.Context) context.Context) {
				var called, returned atomic.Bool
				w.e.at = func(own context.Context, where string, _ wsshard.ConnectionState) {
					if where != callback || !called.CompareAndSwap(false, true) {
						return
					}
					err := method.call(ctx(own), w.m)
					if !slices.ContainsFunc(method.errors, func(want error) bool { return errors.Is(err, want) }) {
						w.t.Errorf("it returned %v", err)
					}
					returned.Store(true)
				}
				w.provoke()
				if !called.Load() || !returned.Load() {
					w.t.Fatalf("called %v, returned %v", called.Load(), returned.Load())
				}
				w.m.Unsubscribe(numbered(5)...)
				w.wantWell()
				w.wantTopics("a", "c") // and nothing was asked for twice
			})
		})
	}
}

// TestStopInCallbacks: it has begun the work and returns ErrInCallback, whether ctx tells or the stack only.
func TestStopInCallbacks(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		eachCallback(t, lowLatency, func(w everyWorld, callback string, ctx func(context.Context) context.Context) {
			want := wsshard.ErrInCallback
			if callback == "Subscriptions" {
				want = nil // nothing runs yet
			}
			var called, returned atomic.Bool
			w.e.at = func(own context.Context, where string, _ wsshard.ConnectionState) {
				if where != callback || !called.CompareAndSwap(false, true) {
					return
				}
				if err := w.m.Stop(ctx(own)); err != want {
					w.t.Errorf("Stop returned %v, want %v", err, want)
				}
				if w.m.IsRunning() {
					w.t.Error("it runs on")
				}
				if _, err := w.m.Subscribe("late"); err != wsshard.ErrStopped {
					w.t.Errorf("Subscribe after Stop: %v", err)
				}
				returned.Store(true)
			}
			w.provoke()
			if !called.Load() || !returned.Load() {
				w.t.Fatalf("called %v, returned %v", called.Load(), returned.Load())
			}
			if err := w.m.Stop(context.Background()); err != nil {
				w.t.Errorf("Stop outside: %v", err)
			}
			if n := w.net.Open(); n != 0 {
				w.t.Errorf("%d sockets are open", n)
			}
			w.wantWell()
		})
	}
}

// TestRestartInCallbacks: Stop and Start inside one callback; nothing connects before it has returned.
func TestRestartInCallbacks(t *testing.T) {
	eachCallback(t, false, func(w everyWorld, callback string, ctx func(context.Context) context.Context) {
		if callback == "Subscriptions" {
			return // Start would ask it again
		}
		var called atomic.Bool
		dials := 0
		w.e.at = func(own context.Context, where string, _ wsshard.ConnectionState) {
			if where != callback || !called.CompareAndSwap(false, true) {
				return
			}
			time.Sleep(time.Millisecond) // a dial that has begun beside us
			if err := w.m.Stop(ctx(own)); err != wsshard.ErrInCallback {
				w.t.Errorf("Stop: %v", err)
			}
			if err := w.m.Start(context.Background()); err != nil {
				w.t.Errorf("Start: %v", err)
			}
			dials = w.net.Dials()
			time.Sleep(5 * time.Second)
			if n := w.net.Dials(); n != dials {
				w.t.Errorf("%d dials while a callback of the last run is running", n-dials)
			}
		}
		w.provoke()
		if w.net.Dials() == dials {
			w.t.Error("no dial after it")
		}
		w.wantWell()
	})
}

// TestShardsSwitchEachOther: two shards whose handlers switch the other one would wait for ever if they waited.
func TestShardsSwitchEachOther(t *testing.T) {
	bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1}, nil, func(w *world) {
		w.start("a", "b")
		w.wantTopics("a", "b")
		var errs [2]error
		w.app.message = func(ctx context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			errs[st.ShardID] = w.m.HotSwitchover(ctx, 1-st.ShardID)
		}
		w.topics.Publish("a", "1")
		w.topics.Publish("b", "1")
		after(20 * time.Second)
		w.wantTopics("a", "b")
		if errs != [2]error{wsshard.ErrInCallback, wsshard.ErrInCallback} {
			t.Errorf("HotSwitchover: %v", errs)
		}
		if n := w.m.Metrics().HotSwitchovers; n != 2 {
			t.Errorf("%d switchovers, want 2", n)
		}
	})
}

// TestSendInsideEncoding: the goroutine that encodes is the one that writes, so Send cannot wait for it; the message follows.
func TestSendInsideEncoding(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		var err error
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.Subs[0] == "b" {
				err = w.m.Send(context.Background(), 0, wsshard.Text("extra"))
			}
			return wsshard.Text(sign + req.Subs[0]), nil
		}
		w.start("a")
		w.wantTopics("a")
		w.srv.Conn(0).Got()
		w.subscribe("b")
		w.sync()
		if err != wsshard.ErrInCallback {
			t.Errorf("Send: %v", err)
		}
		after(0)
		if got := w.srv.Conn(0).Got(); !slices.Equal(got, []string{"+b", "extra"}) {
			t.Errorf("the server got %q", got)
		}
	})
}

// TestSendInsideDelivery: OnMessage may wait for Send, until its own connection is being replaced or lost: then it hears so
// at once.
func TestSendInsideDelivery(t *testing.T) {
	bubble(t, wsshard.Config{Switchover: wsshard.SwitchoverConfig{DrainTimeout: -1}}, nil, func(w *world) {
		var took time.Duration
		var errs []error
		wait := time.Duration(0)
		w.app.message = func(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
			time.Sleep(wait)
			begin := time.Now()
			errs = append(errs, w.m.Send(ctx, 0, wsshard.Text("reply to "+msg.String())))
			took = time.Since(begin)
		}
		w.start("a")
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		after(0)
		if got := w.srv.Conn(0).Got(); !slices.Contains(got, "reply to a:1") {
			t.Errorf("the server got %q", got)
		}
		// The connection is retired while the handler sleeps: what it then sends cannot leave on it.
		wait = 5 * time.Second
		w.topics.Publish("a", "2")
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Errorf("HotSwitchover: %v", err)
		}
		if took != 0 {
			t.Errorf("Send inside the last message of a connection took %v", took)
		}
		if len(errs) != 2 || errs[0] != nil {
			t.Errorf("Send: %v", errs)
		}
		w.wantTopics("a")
	})
}

// TestOtherManagersCallback: a callback of one manager may wait for another one, which its ctx tells.
func TestOtherManagersCallback(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		other, err := wsshard.New(&app{}, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: w.net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		var errs []error
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			_, err := other.Subscribe("b")
			errs = append(errs, err, other.Start(context.Background()), other.Sync(ctx, "b"), other.HotSwitchover(ctx, 0),
				other.Send(ctx, 0, wsshard.Text("hi")), other.Stop(ctx))
		}
		w.start("a")
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		after(20 * time.Second)
		if want := make([]error, 6); !slices.Equal(errs, want) {
			t.Errorf("Subscribe, Start, Sync, HotSwitchover, Send, Stop: %v", errs)
		}
		w.wantTopics("a")
	})
}

// TestManagerStartedInACallback: its callbacks are its own, whatever context it was started with.
func TestManagerStartedInACallback(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		child := &app{}
		other, err := wsshard.New(child, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: w.net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		errs := make(map[string]error)
		child.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			errs["sync of the other"] = w.m.Sync(ctx)
			errs["switchover of the other"] = w.m.HotSwitchover(ctx, 0)
			errs["sync of its own"] = other.Sync(ctx)
		}
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			other.Subscribe("b")
			errs["start"] = other.Start(context.WithoutCancel(ctx)) // it outlives this connection
		}
		w.start("a")
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		after(time.Second)
		w.app.message = nil
		w.topics.Publish("b", "1")
		after(20 * time.Second)
		for what, err := range errs {
			want := error(nil)
			if what == "sync of its own" {
				want = wsshard.ErrInCallback
			}
			if err != want {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		if len(errs) != 4 {
			t.Errorf("only %v", errs)
		}
		other.Stop(context.Background())
	})
}

// TestCallbackContextElsewhere: a goroutine that a callback gave its context to is taken for the callback; one without it
// waits, and is not waited for.
func TestCallbackContextElsewhere(t *testing.T) {
	for _, callback := range []string{"URL", "ConnectionHeaders", "Login", "OnConnect", "OnMessage", "OnDisconnect", "OnError"} {
		everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
			with, without := make(chan error, 1), make(chan error, 1)
			var called atomic.Bool
			w.e.at = func(ctx context.Context, where string, _ wsshard.ConnectionState) {
				if where == callback && called.CompareAndSwap(false, true) {
					go func() { with <- w.m.Sync(ctx) }()
					go func() { without <- w.m.Sync(context.Background()) }()
				}
			}
			w.provoke()
			if err := <-with; err != wsshard.ErrInCallback {
				t.Errorf("%s: Sync with its context: %v", callback, err)
			}
			if err := <-without; err != nil {
				t.Errorf("%s: Sync without: %v", callback, err)
			}
			w.wantWell()
		})
	}
}
