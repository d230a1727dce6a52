package acceptance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// asked is an app that Start asks for its subscriptions.
type asked struct {
	*app
	subscriptions func() []string
}

func (a *asked) Subscriptions() []string { return a.subscriptions() }

// startWorld is bubble with an InitialSubscriber.
func startWorld(t *testing.T, cfg wsshard.Config, subscriptions func(w *world) []string, script func(w *world)) {
	t.Helper()
	h := &asked{}
	bubble(t, cfg, func(a *app) wsshard.Handler[string] { h.app = a; return h }, func(w *world) {
		h.subscriptions = func() []string { return subscriptions(w) }
		script(w)
	})
}

// TestInitialSubscriptions: they join what was subscribed before, each once; a later Start asks again.
func TestInitialSubscriptions(t *testing.T) {
	calls := 0
	startWorld(t, wsshard.Config{}, func(*world) []string {
		calls++
		return []string{"a", "b", "a"}
	}, func(w *world) {
		w.start("b", "c")
		w.wantTopics("a", "b", "c")
		w.m.Stop(context.Background())
		w.m.Start(context.Background())
		w.sync()
		w.wantTopics("a", "b")
		if calls != 2 {
			t.Errorf("asked %d times", calls)
		}
	})
}

// TestStartWithoutRoom: nothing is started, and nothing of Subscriptions is kept.
func TestStartWithoutRoom(t *testing.T) {
	subs := []string{"a", "b", "c"}
	startWorld(t, wsshard.Config{MaxSubscriptionsPerShard: 1, MaxShards: 3}, func(*world) []string { return subs }, func(w *world) {
		w.subscribe("x")
		if err := w.m.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Start: %v", err)
		}
		after(time.Minute)
		if w.m.IsRunning() || w.net.Dials() > 0 || w.m.TotalSubscriptions() != 1 {
			t.Errorf("running %v, %d dials, %d subscriptions", w.m.IsRunning(), w.net.Dials(), w.m.TotalSubscriptions())
		}
		w.subscribe("y") // it still is before the first Start
		w.m.Unsubscribe("y")
		subs = subs[:2]
		w.start()
		w.wantTopics("a", "b", "x")
		w.m.Stop(context.Background())
		subs = []string{"a", "b", "c", "d"}
		if err := w.m.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Start after Stop: %v", err)
		}
		if _, err := w.m.Subscribe("z"); err != wsshard.ErrStopped { // it still is after Stop
			t.Errorf("Subscribe: %v", err)
		}
	})
}

// TestWhileStarting: what other goroutines may do while Start is asking the handler, the first time and after a Stop.
func TestWhileStarting(t *testing.T) {
	for _, again := range []bool{false, true} {
		startWorld(t, wsshard.Config{}, func(w *world) []string {
			if w.m.IsRunning() {
				t.Error("it runs before Start has returned")
			}
			if err := w.m.Start(context.Background()); err != wsshard.ErrStarted {
				t.Errorf("Start inside Start: %v", err)
			}
			_, err := w.m.Subscribe("b")
			if want := map[bool]error{true: wsshard.ErrStopped}[again]; err != want {
				t.Errorf("again=%v: Subscribe until Start has returned: %v", again, err)
			}
			if err := w.m.Unsubscribe("x"); again != (err == wsshard.ErrStopped) {
				t.Errorf("again=%v: Unsubscribe until Start has returned: %v", again, err)
			}
			return []string{"a"}
		}, func(w *world) {
			want := []string{"a", "b"}
			if again {
				w.m.Stop(context.Background())
				want = want[:1]
			}
			w.restart()
			w.sync()
			w.wantTopics(want...)
		})
	}
}

func (w *world) restart() {
	w.t.Helper()
	if err := w.m.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// TestStopWhileStarting: Stop does not wait for Start, which then starts nothing, even when the next Start has begun, or has
// been stopped, meanwhile.
func TestStopWhileStarting(t *testing.T) {
	for _, again := range []bool{false, true} {
		for _, next := range []string{"nothing", "starting", "running", "stopped"} {
			gates := make(chan chan string, 2)
			startWorld(t, wsshard.Config{}, func(*world) []string { return []string{<-<-gates} }, func(w *world) {
				ctx := context.Background()
				start := func() (gate chan string, result chan error) {
					gate, result = make(chan string, 1), make(chan error, 1)
					gates <- gate
					go func() { result <- w.m.Start(ctx) }()
					after(0)
					return gate, result
				}
				gates = make(chan chan string, 2)
				if again {
					gate, first := start()
					gate <- "x"
					<-first
					w.m.Stop(ctx)
				}
				gate1, first := start()
				if err := w.m.Stop(ctx); err != nil {
					t.Errorf("Stop: %v", err)
				}
				var gate2 chan string
				var second chan error
				if next != "nothing" {
					gate2, second = start()
				}
				if next == "running" || next == "stopped" {
					gate2 <- "b"
					if err := <-second; err != nil {
						t.Errorf("second Start: %v", err)
					}
				}
				if next == "stopped" {
					w.sync()
					w.m.Stop(ctx)
				}
				dials := w.net.Dials()
				gate1 <- "a"
				if err := <-first; err != wsshard.ErrStopped {
					t.Errorf("again=%v, next %s: first Start: %v", again, next, err)
				}
				if next == "starting" {
					after(time.Minute)
					if w.m.IsRunning() || w.net.Dials() != dials {
						t.Errorf("again=%v: the first Start began what the second one is to", again)
					}
					if err := w.m.Start(ctx); err != wsshard.ErrStarted {
						t.Errorf("again=%v: a third Start beside the second: %v", again, err)
					}
					gate2 <- "b"
					if err := <-second; err != nil {
						t.Errorf("again=%v: second Start: %v", again, err)
					}
				}
				if running := next == "starting" || next == "running"; w.m.IsRunning() != running {
					t.Errorf("again=%v, next %s: running %v", again, next, w.m.IsRunning())
				} else if running {
					w.sync()
					w.wantTopics("b")
				} else {
					w.wantTopics()
				}
			})
		}
	}
}

// TestPanicWhileStarting: a Start whose handler panics after a Stop does not disturb the next one.
func TestPanicWhileStarting(t *testing.T) {
	var gate chan bool
	startWorld(t, wsshard.Config{}, func(*world) []string {
		mine := gate
		if <-mine {
			panic("late")
		}
		return []string{"a"}
	}, func(w *world) {
		ctx := context.Background()
		gate = make(chan bool)
		panics, first := gate, make(chan error, 1)
		go func() { first <- w.m.Start(ctx) }()
		after(0)
		w.m.Stop(ctx)
		gate = make(chan bool)
		second := make(chan error, 1)
		go func() { second <- w.m.Start(ctx) }()
		after(0)
		panics <- true
		if err := <-first; err == nil {
			t.Error("the first Start succeeded")
		}
		if err := w.m.Start(ctx); err != wsshard.ErrStarted {
			t.Errorf("a third Start beside the second: %v", err)
		}
		gate <- false
		if err := <-second; err != nil {
			t.Errorf("second Start: %v", err)
		}
		w.sync()
		w.wantTopics("a")
	})
}

// TestRun is Start, wait, Stop.
func TestRun(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		w.subscribe("a")
		result := make(chan error, 1)
		go func() { result <- w.m.Run(ctx) }()
		w.sync()
		w.wantTopics("a")
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run: %v", err)
		}
		if w.net.Open() != 0 || w.m.IsRunning() {
			t.Error("Run returned before it was over")
		}
		w.wantCauses(wsshard.ErrStopped)
		if err := w.m.Run(ctx); err != nil {
			t.Errorf("Run with a context that has ended: %v", err)
		}
	})
}

func TestRunSaysWhy(t *testing.T) {
	t.Run("stopped by another", func(t *testing.T) {
		bubble(t, wsshard.Config{}, nil, func(w *world) {
			result := make(chan error, 1)
			go func() { result <- w.m.Run(context.Background()) }()
			after(time.Second)
			w.m.Stop(context.Background())
			if err := <-result; err != wsshard.ErrStopped {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("Start failed", func(t *testing.T) {
		many := func(*world) []string { return numbered(2) }
		startWorld(t, wsshard.Config{MaxSubscriptionsPerShard: 1, MaxShards: 1}, many, func(w *world) {
			if err := w.m.Run(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("a callback that ignores its context", func(t *testing.T) {
		bubble(t, wsshard.Config{}, nil, func(w *world) {
			busy := make(chan struct{})
			w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { <-busy }
			ctx, cancel := context.WithCancel(context.Background())
			w.subscribe("a")
			result := make(chan error, 1)
			go func() { result <- w.m.Run(ctx) }()
			w.sync()
			w.wantTopics("a")
			w.topics.Publish("a", "1")
			after(0)
			begin := time.Now()
			cancel()
			if err := <-result; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 10*time.Second {
				t.Errorf("Run: %v after %v", err, time.Since(begin))
			}
			if n := w.net.Open(); n != 0 {
				t.Errorf("%d sockets are open", n)
			}
			close(busy)
		})
	})
}
