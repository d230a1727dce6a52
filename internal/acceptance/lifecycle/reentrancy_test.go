package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does every method return inside every callback?

// eachCallback runs a test inside the first call of every callback, with the callback's own context and without.
func eachCallback(t *testing.T, lowLatency bool, test func(w everyWorld, callback string, ctx func(context.Context) context.Context)) {
	for i, callback := range harness.Callbacks {
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
	for _, method := range harness.Inside {
		t.Run(method.Name, func(t *testing.T) {
			eachCallback(t, false, func(w everyWorld, callback string, ctx func(context.Context) context.Context) {
				var called, returned atomic.Bool
				w.e.At = func(own context.Context, where string, _ wsshard.ConnectionState) {
					if where != callback || !called.CompareAndSwap(false, true) {
						return
					}
					err := method.Call(ctx(own), w.M)
					if !slices.ContainsFunc(method.Errors, func(want error) bool { return errors.Is(err, want) }) {
						w.T.Errorf("it returned %v", err)
					}
					returned.Store(true)
				}
				w.provoke()
				if !called.Load() || !returned.Load() {
					w.T.Fatalf("called %v, returned %v", called.Load(), returned.Load())
				}
				w.M.Unsubscribe(harness.Numbered(5)...)
				w.wantWell()
				w.WantTopics("a", "c") // and nothing was asked for twice
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
			w.e.At = func(own context.Context, where string, _ wsshard.ConnectionState) {
				if where != callback || !called.CompareAndSwap(false, true) {
					return
				}
				if err := w.M.Stop(ctx(own)); err != want {
					w.T.Errorf("Stop returned %v, want %v", err, want)
				}
				if w.M.IsRunning() {
					w.T.Error("it runs on")
				}
				if _, err := w.M.Subscribe("late"); err != wsshard.ErrStopped {
					w.T.Errorf("Subscribe after Stop: %v", err)
				}
				returned.Store(true)
			}
			w.provoke()
			if !called.Load() || !returned.Load() {
				w.T.Fatalf("called %v, returned %v", called.Load(), returned.Load())
			}
			if err := w.M.Stop(context.Background()); err != nil {
				w.T.Errorf("Stop outside: %v", err)
			}
			if n := w.Net.Open(); n != 0 {
				w.T.Errorf("%d sockets are open", n)
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
		w.e.At = func(own context.Context, where string, _ wsshard.ConnectionState) {
			if where != callback || !called.CompareAndSwap(false, true) {
				return
			}
			time.Sleep(time.Millisecond) // a dial that has begun beside us
			if err := w.M.Stop(ctx(own)); err != wsshard.ErrInCallback {
				w.T.Errorf("Stop: %v", err)
			}
			if err := w.M.Start(context.Background()); err != nil {
				w.T.Errorf("Start: %v", err)
			}
			dials = w.Net.Dials()
			time.Sleep(5 * time.Second)
			if n := w.Net.Dials(); n != dials {
				w.T.Errorf("%d dials while a callback of the last run is running", n-dials)
			}
		}
		w.provoke()
		if w.Net.Dials() == dials {
			w.T.Error("no dial after it")
		}
		w.wantWell()
	})
}

// TestShardsSwitchEachOther: two shards whose handlers switch the other one would wait for ever if they waited.
func TestShardsSwitchEachOther(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1}, nil, func(w *harness.World) {
		w.Start("a", "b")
		w.WantTopics("a", "b")
		var errs [2]error
		w.App.Message = func(ctx context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			errs[st.ShardID] = w.M.HotSwitchover(ctx, 1-st.ShardID)
		}
		w.Topics.Publish("a", "1")
		w.Topics.Publish("b", "1")
		harness.After(20 * time.Second)
		w.WantTopics("a", "b")
		if errs != [2]error{wsshard.ErrInCallback, wsshard.ErrInCallback} {
			t.Errorf("HotSwitchover: %v", errs)
		}
		if n := w.M.Metrics().HotSwitchovers; n != 2 {
			t.Errorf("%d switchovers, want 2", n)
		}
	})
}

// TestSendInsideEncoding: the goroutine that encodes is the one that writes, so Send cannot wait for it; the message follows.
func TestSendInsideEncoding(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		var err error
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.Subs[0] == "b" {
				err = w.M.Send(context.Background(), 0, wsshard.Text("extra"))
			}
			return wsshard.Text(sign + req.Subs[0]), nil
		}
		w.Start("a")
		w.WantTopics("a")
		w.Srv.Conn(0).Got()
		w.Subscribe("b")
		w.Sync()
		if err != wsshard.ErrInCallback {
			t.Errorf("Send: %v", err)
		}
		harness.After(0)
		if got := w.Srv.Conn(0).Got(); !slices.Equal(got, []string{"+b", "extra"}) {
			t.Errorf("the server got %q", got)
		}
	})
}

// TestSendInsideDelivery: OnMessage may wait for Send, until its own connection is being replaced or lost: then it hears so
// at once.
func TestSendInsideDelivery(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Switchover: wsshard.SwitchoverConfig{DrainTimeout: -1}}, nil, func(w *harness.World) {
		var took time.Duration
		var errs []error
		wait := time.Duration(0)
		w.App.Message = func(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
			time.Sleep(wait)
			begin := time.Now()
			errs = append(errs, w.M.Send(ctx, 0, wsshard.Text("reply to "+msg.String())))
			took = time.Since(begin)
		}
		w.Start("a")
		w.WantTopics("a")
		w.Topics.Publish("a", "1")
		harness.After(0)
		if got := w.Srv.Conn(0).Got(); !slices.Contains(got, "reply to a:1") {
			t.Errorf("the server got %q", got)
		}
		// The connection is retired while the handler sleeps: what it then sends cannot leave on it.
		wait = 5 * time.Second
		w.Topics.Publish("a", "2")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Errorf("HotSwitchover: %v", err)
		}
		if took != 0 {
			t.Errorf("Send inside the last message of a connection took %v", took)
		}
		if len(errs) != 2 || errs[0] != nil {
			t.Errorf("Send: %v", errs)
		}
		w.WantTopics("a")
	})
}

// TestOtherManagersCallback: a callback of one manager may wait for another one, which its ctx tells.
func TestOtherManagersCallback(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		other, err := wsshard.New(&harness.App{}, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: w.Net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		var errs []error
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			_, err := other.Subscribe("b")
			errs = append(errs, err, other.Start(context.Background()), other.Sync(ctx, "b"), other.HotSwitchover(ctx, 0),
				other.Send(ctx, 0, wsshard.Text("hi")), other.Stop(ctx))
		}
		w.Start("a")
		w.WantTopics("a")
		w.Topics.Publish("a", "1")
		harness.After(20 * time.Second)
		if want := make([]error, 6); !slices.Equal(errs, want) {
			t.Errorf("Subscribe, Start, Sync, HotSwitchover, Send, Stop: %v", errs)
		}
		w.WantTopics("a")
	})
}

// TestManagerStartedInACallback: its callbacks are its own, whatever context it was started with.
func TestManagerStartedInACallback(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		child := &harness.App{}
		other, err := wsshard.New(child, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: w.Net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		errs := make(map[string]error)
		child.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			errs["sync of the other"] = w.M.Sync(ctx)
			errs["switchover of the other"] = w.M.HotSwitchover(ctx, 0)
			errs["sync of its own"] = other.Sync(ctx)
		}
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			other.Subscribe("b")
			errs["start"] = other.Start(context.WithoutCancel(ctx)) // it outlives this connection
		}
		w.Start("a")
		w.WantTopics("a")
		w.Topics.Publish("a", "1")
		harness.After(time.Second)
		w.App.Message = nil
		w.Topics.Publish("b", "1")
		harness.After(20 * time.Second)
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
			w.e.At = func(ctx context.Context, where string, _ wsshard.ConnectionState) {
				if where == callback && called.CompareAndSwap(false, true) {
					go func() { with <- w.M.Sync(ctx) }()
					go func() { without <- w.M.Sync(context.Background()) }()
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
