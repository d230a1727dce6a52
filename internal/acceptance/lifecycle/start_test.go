package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does Start subscribe, and what does it refuse?

// asked is an app that Start asks for its subscriptions.
type asked struct {
	*harness.App
	subscriptions func() []string
}

func (a *asked) Subscriptions() []string { return a.subscriptions() }

// startWorld is Bubble with an InitialSubscriber.
func startWorld(t *testing.T, cfg wsshard.Config, subscriptions func(w *harness.World) []string, script func(w *harness.World)) {
	t.Helper()
	h := &asked{}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { h.App = a; return h }, func(w *harness.World) {
		h.subscriptions = func() []string { return subscriptions(w) }
		script(w)
	})
}

// TestInitialSubscriptions: they join what was subscribed before, each once; a later Start asks again.
func TestInitialSubscriptions(t *testing.T) {
	calls := 0
	startWorld(t, wsshard.Config{}, func(*harness.World) []string {
		calls++
		return []string{"a", "b", "a"}
	}, func(w *harness.World) {
		w.Start("b", "c")
		w.WantTopics("a", "b", "c")
		w.M.Stop(context.Background())
		w.M.Start(context.Background())
		w.Sync()
		w.WantTopics("a", "b")
		if calls != 2 {
			t.Errorf("asked %d times", calls)
		}
	})
}

// TestStartWithoutRoom: nothing is started, and nothing of Subscriptions is kept.
func TestStartWithoutRoom(t *testing.T) {
	subs := []string{"a", "b", "c"}
	startWorld(t, wsshard.Config{MaxSubscriptionsPerShard: 1, MaxShards: 3}, func(*harness.World) []string { return subs }, func(w *harness.World) {
		w.Subscribe("x")
		if err := w.M.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Start: %v", err)
		}
		harness.After(time.Minute)
		if w.M.IsRunning() || w.Net.Dials() > 0 || w.M.TotalSubscriptions() != 1 {
			t.Errorf("running %v, %d dials, %d subscriptions", w.M.IsRunning(), w.Net.Dials(), w.M.TotalSubscriptions())
		}
		w.Subscribe("y") // it still is before the first Start
		w.M.Unsubscribe("y")
		subs = subs[:2]
		w.Start()
		w.WantTopics("a", "b", "x")
		w.M.Stop(context.Background())
		subs = []string{"a", "b", "c", "d"}
		if err := w.M.Start(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
			t.Errorf("Start after Stop: %v", err)
		}
		if _, err := w.M.Subscribe("z"); err != wsshard.ErrStopped { // it still is after Stop
			t.Errorf("Subscribe: %v", err)
		}
	})
}

// TestWhileStarting: what other goroutines may do while Start is asking the handler, the first time and after a Stop.
func TestWhileStarting(t *testing.T) {
	for _, again := range []bool{false, true} {
		startWorld(t, wsshard.Config{}, func(w *harness.World) []string {
			if w.M.IsRunning() {
				t.Error("it runs before Start has returned")
			}
			if err := w.M.Start(context.Background()); err != wsshard.ErrStarted {
				t.Errorf("Start inside Start: %v", err)
			}
			_, err := w.M.Subscribe("b")
			if want := map[bool]error{true: wsshard.ErrStopped}[again]; err != want {
				t.Errorf("again=%v: Subscribe until Start has returned: %v", again, err)
			}
			if err := w.M.Unsubscribe("x"); again != (err == wsshard.ErrStopped) {
				t.Errorf("again=%v: Unsubscribe until Start has returned: %v", again, err)
			}
			return []string{"a"}
		}, func(w *harness.World) {
			want := []string{"a", "b"}
			if again {
				w.M.Stop(context.Background())
				want = want[:1]
			}
			restart(w)
			w.Sync()
			w.WantTopics(want...)
		})
	}
}

func restart(w *harness.World) {
	w.T.Helper()
	if err := w.M.Start(context.Background()); err != nil {
		w.T.Fatal(err)
	}
}

// TestStopWhileStarting: Stop does not wait for Start, which then starts nothing, even when the next Start has begun, or has
// been stopped, meanwhile.
func TestStopWhileStarting(t *testing.T) {
	for _, again := range []bool{false, true} {
		for _, next := range []string{"nothing", "starting", "running", "stopped"} {
			gates := make(chan chan string, 2)
			startWorld(t, wsshard.Config{}, func(*harness.World) []string { return []string{<-<-gates} }, func(w *harness.World) {
				ctx := context.Background()
				start := func() (gate chan string, result chan error) {
					gate, result = make(chan string, 1), make(chan error, 1)
					gates <- gate
					go func() { result <- w.M.Start(ctx) }()
					harness.After(0)
					return gate, result
				}
				gates = make(chan chan string, 2)
				if again {
					gate, first := start()
					gate <- "x"
					<-first
					w.M.Stop(ctx)
				}
				gate1, first := start()
				if err := w.M.Stop(ctx); err != nil {
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
					w.Sync()
					w.M.Stop(ctx)
				}
				dials := w.Net.Dials()
				gate1 <- "a"
				if err := <-first; err != wsshard.ErrStopped {
					t.Errorf("again=%v, next %s: first Start: %v", again, next, err)
				}
				if next == "starting" {
					harness.After(time.Minute)
					if w.M.IsRunning() || w.Net.Dials() != dials {
						t.Errorf("again=%v: the first Start began what the second one is to", again)
					}
					if err := w.M.Start(ctx); err != wsshard.ErrStarted {
						t.Errorf("again=%v: a third Start beside the second: %v", again, err)
					}
					gate2 <- "b"
					if err := <-second; err != nil {
						t.Errorf("again=%v: second Start: %v", again, err)
					}
				}
				if running := next == "starting" || next == "running"; w.M.IsRunning() != running {
					t.Errorf("again=%v, next %s: running %v", again, next, w.M.IsRunning())
				} else if running {
					w.Sync()
					w.WantTopics("b")
				} else {
					w.WantTopics()
				}
			})
		}
	}
}

// TestPanicWhileStarting: a Start whose handler panics after a Stop does not disturb the next one.
func TestPanicWhileStarting(t *testing.T) {
	var gate chan bool
	startWorld(t, wsshard.Config{}, func(*harness.World) []string {
		mine := gate
		if <-mine {
			panic("late")
		}
		return []string{"a"}
	}, func(w *harness.World) {
		ctx := context.Background()
		gate = make(chan bool)
		panics, first := gate, make(chan error, 1)
		go func() { first <- w.M.Start(ctx) }()
		harness.After(0)
		w.M.Stop(ctx)
		gate = make(chan bool)
		second := make(chan error, 1)
		go func() { second <- w.M.Start(ctx) }()
		harness.After(0)
		panics <- true
		if err := <-first; err == nil {
			t.Error("the first Start succeeded")
		}
		if err := w.M.Start(ctx); err != wsshard.ErrStarted {
			t.Errorf("a third Start beside the second: %v", err)
		}
		gate <- false
		if err := <-second; err != nil {
			t.Errorf("second Start: %v", err)
		}
		w.Sync()
		w.WantTopics("a")
	})
}

// TestRun is Start, wait, Stop.
func TestRun(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		ctx, cancel := context.WithCancel(context.Background())
		w.Subscribe("a")
		result := make(chan error, 1)
		go func() { result <- w.M.Run(ctx) }()
		w.Sync()
		w.WantTopics("a")
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run: %v", err)
		}
		if w.Net.Open() != 0 || w.M.IsRunning() {
			t.Error("Run returned before it was over")
		}
		w.WantCauses(wsshard.ErrStopped)
		if err := w.M.Run(ctx); err != nil {
			t.Errorf("Run with a context that has ended: %v", err)
		}
	})
}

func TestRunSaysWhy(t *testing.T) {
	t.Run("stopped by another", func(t *testing.T) {
		harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
			result := make(chan error, 1)
			go func() { result <- w.M.Run(context.Background()) }()
			harness.After(time.Second)
			w.M.Stop(context.Background())
			if err := <-result; err != wsshard.ErrStopped {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("Start failed", func(t *testing.T) {
		many := func(*harness.World) []string { return harness.Numbered(2) }
		startWorld(t, wsshard.Config{MaxSubscriptionsPerShard: 1, MaxShards: 1}, many, func(w *harness.World) {
			if err := w.M.Run(context.Background()); !errors.Is(err, wsshard.ErrCapacity) {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("a callback that ignores its context", func(t *testing.T) {
		harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
			busy := make(chan struct{})
			w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { <-busy }
			ctx, cancel := context.WithCancel(context.Background())
			w.Subscribe("a")
			result := make(chan error, 1)
			go func() { result <- w.M.Run(ctx) }()
			w.Sync()
			w.WantTopics("a")
			w.Topics.Publish("a", "1")
			harness.After(0)
			begin := time.Now()
			cancel()
			if err := <-result; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 10*time.Second {
				t.Errorf("Run: %v after %v", err, time.Since(begin))
			}
			if n := w.Net.Open(); n != 0 {
				t.Errorf("%d sockets are open", n)
			}
			close(busy)
		})
	})
}

// What OnConnect says is checked, each message by its place.
func TestOnConnectSaysNonsense(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		var said error
		w.App.Judge = func(err error) bool { said = err; return false }
		w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
			return []wsshard.Message{wsshard.Text("good"), wsshard.Text("caf\xe9")}, nil
		}
		w.Begin("a")
		harness.After(time.Second)
		if !errors.Is(said, wsshard.ErrInvalidMessage) || !strings.Contains(said.Error(), "OnConnect, message 1") {
			t.Errorf("OnError heard %v", said)
		}
		w.WantCauses(wsshard.ErrInvalidMessage)
		w.WantState(0, wsshard.ShardParked)
	})
}
