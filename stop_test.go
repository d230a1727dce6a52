package wsshard_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// hang is a dial that nobody answers.
func hang(ctx context.Context, _ int, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// silentHandshake is a server that takes the request and says nothing.
func silentHandshake(r *http.Request) (int, http.Header, string) {
	<-r.Context().Done()
	return 0, nil, ""
}

// stage is something that a shard may be doing when Stop comes.
type stage struct {
	name   string
	cfg    wsshard.Config
	reach  func(w *world, start func()) // how to get there
	state  wsshard.ShardState
	takes  time.Duration // by Stop
	causes int           // that OnDisconnect hears
}

// config has a budget of its own.
func (s *stage) config() wsshard.Config {
	cfg := s.cfg
	if cfg.Connection.Limiter != nil {
		cfg.Connection.Limiter = wsshard.NewConnectLimiter(1, time.Hour)
	}
	return cfg
}

var stages = []stage{
	{name: "dial", reach: func(w *world, start func()) {
		w.net.OnDial(hang)
		start()
	}},
	{name: "handshake", reach: func(w *world, start func()) {
		w.srv.Reject(silentHandshake)
		start()
	}},
	{name: "retry-after", state: wsshard.ShardConnecting, reach: func(w *world, start func()) {
		w.srv.Reject(func(*http.Request) (int, http.Header, string) { return 429, http.Header{"Retry-After": {"600"}}, "" })
		start()
		after(time.Minute)
	}},
	{name: "OnConnect", causes: 1, reach: func(w *world, start func()) {
		w.app.onConnect = func(ctx context.Context, _ wsshard.ConnectionState) ([]wsshard.Message, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start()
	}},
	{name: "backoff", state: wsshard.ShardBackoff, cfg: wsshard.Config{
		Backoff: wsshard.BackoffConfig{InitialDelay: time.Hour, MaxDelay: time.Hour, DisableJitter: true},
	}, reach: func(w *world, start func()) {
		w.srv.Down()
		start()
	}},
	{name: "breaker", state: wsshard.ShardConnecting, cfg: wsshard.Config{
		Connection: wsshard.ConnectionConfig{CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: time.Hour},
	}, reach: func(w *world, start func()) {
		w.srv.Down()
		start()
		after(time.Minute)
	}},
	{name: "budget", state: wsshard.ShardConnecting, cfg: wsshard.Config{
		MaxSubscriptionsPerShard: 1,
		Connection:               wsshard.ConnectionConfig{Limiter: wsshard.NewConnectLimiter(1, time.Hour)},
	}, reach: func(w *world, start func()) {
		w.subscribe("a") // the shard that is looked at has had the budget
		start()
		w.wantTopics("a")
		w.srv.Conn(0).Kill()
		after(time.Minute)
		w.app.takeCauses()
	}},
	{name: "dials in flight", state: wsshard.ShardConnecting, cfg: wsshard.Config{
		MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{MaxConcurrentDials: 1},
	}, reach: func(w *world, start func()) {
		w.net.OnDial(hang)
		w.subscribe("a", "b", "c")
		start()
	}},
	{name: "parked", state: wsshard.ShardParked, reach: func(w *world, start func()) {
		w.app.onError = func(error) bool { return false }
		w.srv.Down()
		start()
	}},
	{name: "connected", state: wsshard.ShardConnected, causes: 1, reach: func(w *world, start func()) {
		start()
	}},
	{name: "pace", state: wsshard.ShardConnected, causes: 1, cfg: wsshard.Config{
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Hour},
	}, reach: func(w *world, start func()) {
		w.subscribe(numbered(100)...)
		start()
	}},
	{name: "a server that does not answer the close frame", state: wsshard.ShardConnected, causes: 1, takes: time.Second,
		reach: func(w *world, start func()) {
			start()
			w.net.Conns()[0].BlackHole(true)
		}},
	{name: "a peer that does not read", state: wsshard.ShardConnected, causes: 1, takes: 2 * time.Second,
		reach: func(w *world, start func()) {
			start()
			w.net.Conns()[0].StallWrite(true)
			go w.m.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<20)))
			after(time.Second)
		}},
	{name: "a flood", state: wsshard.ShardConnected, causes: 1, reach: func(w *world, start func()) {
		start()
		go func() {
			for w.srv.Conn(0).Send("flood") == nil {
				time.Sleep(time.Microsecond)
			}
		}()
		after(time.Millisecond)
	}},
	{name: "OnMessage that heeds its context", state: wsshard.ShardConnected, causes: 1, reach: func(w *world, start func()) {
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) { <-ctx.Done() }
		start()
		w.srv.Conn(0).Send("1")
		w.srv.Conn(0).Send("2")
		after(0)
	}},
}

// TestStopAtEveryStage: Stop ends each of them at the instant that it should, with everything closed, and OnDisconnect hears
// of each connection that was opened, once.
func TestStopAtEveryStage(t *testing.T) {
	for _, stage := range stages {
		t.Run(stage.name, func(t *testing.T) {
			bubble(t, stage.config(), nil, func(w *world) {
				stage.reach(w, func() {
					if err := w.m.Start(context.Background()); err != nil {
						t.Fatal(err)
					}
					after(time.Millisecond)
				})
				after(0)
				if s := w.m.Metrics().Shards; s[0].State != stage.state {
					t.Errorf("the shard is %v, want %v", s[0].State, stage.state)
				}
				begin := time.Now()
				if err := w.m.Stop(context.Background()); err != nil {
					t.Errorf("Stop: %v", err)
				}
				if d := time.Since(begin); d != stage.takes {
					t.Errorf("Stop took %v, want %v", d, stage.takes)
				}
				if n := w.net.Open(); n != 0 {
					t.Errorf("%d sockets are open", n)
				}
				wantLoops(t, "stopped", 0)
				closed := 0
				for i := range w.srv.Conns() {
					if w.srv.Conn(i).CloseCode() == 1000 {
						closed++
					}
				}
				if stage.takes == 0 && closed != stage.causes { // the others cannot hear it
					t.Errorf("%d close frames, want %d", closed, stage.causes)
				}
				w.wantCauses(slices.Repeat([]error{wsshard.ErrStopped}, stage.causes)...)
				if evs := w.app.takeEvents(); evs[len(evs)-1].Kind != wsshard.EventStopped {
					t.Errorf("the last event is %v", evs[len(evs)-1].Kind)
				}
				after(time.Second) // what the stage began beside the manager
			})
		})
	}
}

// TestStopGivesUpAtEveryStage: the same with a context that has ended already. Nothing waits, every socket is closed at once.
func TestStopGivesUpAtEveryStage(t *testing.T) {
	for _, stage := range stages {
		t.Run(stage.name, func(t *testing.T) {
			bubble(t, stage.config(), nil, func(w *world) {
				stage.reach(w, func() { w.m.Start(context.Background()); after(time.Millisecond) })
				after(0)
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				begin := time.Now()
				if err := w.m.Stop(ended); err != nil && err != context.Canceled {
					t.Errorf("Stop: %v", err)
				}
				after(0)
				if n := w.net.Open(); n != 0 || !time.Now().Equal(begin) {
					t.Errorf("%d sockets are open after %v", n, time.Since(begin))
				}
				wantLoops(t, "given up", 0)
				after(time.Second)
			})
		})
	}
}

// TestStopDuringLogin: a Login that waits for the server ends at once.
func TestStopDuringLogin(t *testing.T) {
	var ended atomic.Bool
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		_, err := conn.Read(ctx)
		ended.Store(ctx.Err() != nil)
		return err
	}
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		w.m.Start(context.Background())
		after(time.Second)
		begin := time.Now()
		if err := w.m.Stop(context.Background()); err != nil || !time.Now().Equal(begin) {
			t.Errorf("Stop: %v after %v", err, time.Since(begin))
		}
		if !ended.Load() {
			t.Error("the context of Login lives")
		}
		w.wantCauses() // the connection was not open yet
	})
}

// TestStopWhileACallbackBlocks: inside a callback that ignores its context Stop gives up when its own ends. Every socket is
// closed then; the goroutines that are left end when the callback returns, and the next Stop says so.
func TestStopWhileACallbackBlocks(t *testing.T) {
	for _, callback := range callbacks {
		if callback == "Subscriptions" {
			continue // see TestStopWhileStarting
		}
		t.Run(callback, func(t *testing.T) {
			everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
				var entered atomic.Bool
				release := make(chan struct{})
				w.e.at = func(_ context.Context, where string, _ wsshard.ConnectionState) {
					if where == callback && entered.CompareAndSwap(false, true) {
						<-release
					}
				}
				w.provoke()
				if !entered.Load() {
					t.Fatal("it was not called")
				}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
				defer cancel()
				if err := w.m.Stop(ctx); err != context.DeadlineExceeded || time.Since(begin) != 7*time.Second {
					t.Errorf("Stop: %v after %v", err, time.Since(begin))
				}
				if n := w.net.Open(); n != 0 {
					t.Errorf("%d sockets are open", n)
				}
				time.Sleep(time.Hour)
				if len(ours()) == 0 {
					t.Error("no goroutine is left: what did Stop wait for?")
				}
				close(release)
				wantLoops(t, "released", 0)
				if err := w.m.Stop(ctx); err != nil {
					t.Errorf("the next Stop: %v", err)
				}
				w.wantWell()
			})
		})
	}
}

// TestDialThatIgnoresItsContext: what a NetDialContext brings too late is closed.
func TestDialThatIgnoresItsContext(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.net.OnDial(func(context.Context, int, string) error { time.Sleep(time.Minute); return nil })
		w.m.Start(context.Background())
		after(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := w.m.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop: %v", err)
		}
		after(time.Hour)
		if n := w.net.Open(); n != 0 {
			t.Errorf("%d sockets are open", n)
		}
		wantLoops(t, "an hour later", 0)
	})
}

// TestStopOfTheRunBefore: a run that was stopped inside a callback is over only when that callback returns. Who then gives up
// waiting for the next run closes the sockets of both.
func TestStopOfTheRunBefore(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		release := make(chan struct{})
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			w.srv.Live()[0].Net().(*wstest.Conn).BlackHole(true) // our close frame gets no answer
			if err := w.m.Stop(ctx); err != wsshard.ErrInCallback {
				t.Errorf("Stop inside: %v", err)
			}
			<-release
		}
		w.start("a")
		w.topics.Publish("a", "1")
		synctest.Wait()
		if err := w.m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.m.Stop(ended); err != context.Canceled {
			t.Errorf("Stop: %v", err)
		}
		if n := w.net.Open(); n != 0 {
			t.Errorf("%d sockets are open", n)
		}
		close(release)
	})
}
