package acceptance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// dialsOnly is a config in which nothing but the backoff decides when to dial.
func dialsOnly() wsshard.Config {
	return wsshard.Config{
		Connection: wsshard.ConnectionConfig{CircuitBreakerResetTimeout: -1, ProactiveReconnectInterval: -1},
		Backoff:    wsshard.BackoffConfig{DisableJitter: true},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	}
}

// dialled returns when each dial since the last look began, from since.
func (w *world) dialled(since time.Time) (at []time.Duration) {
	synctest.Wait()
	for _, t := range w.net.DialTimes()[w.seen:] {
		at = append(at, t.Sub(since))
		w.seen++
	}
	return at
}

func (w *world) wantDials(since time.Time, want ...time.Duration) {
	w.t.Helper()
	if got := w.dialled(since); !slices.Equal(got, want) {
		w.t.Errorf("dialled at %v, want %v", got, want)
	}
}

func (w *world) wantState(shard int, want wsshard.ShardState) {
	w.t.Helper()
	synctest.Wait()
	if got := w.m.Metrics().Shards[shard].State; got != want {
		w.t.Errorf("shard %d is %v, want %v", shard, got, want)
	}
}

// begin starts the manager without waiting for anything, and says when.
func (w *world) begin(subs ...string) time.Time {
	w.t.Helper()
	w.subscribe(subs...)
	if err := w.m.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return time.Now()
}

const ms = time.Millisecond

func TestBackoffInstants(t *testing.T) {
	bubble(t, dialsOnly(), nil, func(w *world) {
		w.srv.Down()
		begin := w.begin("a")
		after(90 * time.Second)
		w.wantDials(begin, 0, 100*ms, 300*ms, 700*ms, 1500*ms, 3100*ms, 6300*ms, 12700*ms, 25500*ms, 51100*ms, 81100*ms)
		w.srv.Restart()
		w.sync()
		w.wantDials(begin, 111100*ms)
		w.wantTopics("a")
		if m := w.m.Metrics(); m.Errors != 11 || m.Connections != 1 || m.Reconnections != 0 {
			t.Errorf("%d errors, %d connections, %d reconnections", m.Errors, m.Connections, m.Reconnections)
		}
	})
}

func TestFullJitterOnTheClock(t *testing.T) {
	hook.SetSeed(42)
	defer hook.SetSeed(0)
	cfg := dialsOnly()
	cfg.Backoff.DisableJitter = false
	bubble(t, cfg, nil, func(w *world) {
		w.srv.Down()
		begin := w.begin("a")
		after(10 * time.Minute)
		due, most, early := time.Duration(0), 100*ms, 0
		want := []time.Duration{0}
		for i, ev := range w.app.takeEvents(wsshard.EventBackoff) {
			if ev.Delay < 0 || ev.Delay >= most || ev.Attempt != i+1 {
				t.Errorf("attempt %d (%d): delay %v is not in [0, %v)", i+1, ev.Attempt, ev.Delay, most)
			}
			if ev.Delay < most/2 {
				early++
			}
			due += ev.Delay
			want = append(want, due)
			most = min(2*most, 30*time.Second)
		}
		got := w.dialled(begin)
		if !slices.Equal(got, want[:len(got)]) || len(got) < 30 {
			t.Errorf("dialled at %v, announced %v", got, want)
		}
		if early < len(got)/4 {
			t.Errorf("only %d of %d delays in the lower half", early, len(got))
		}
	})
}

// A server that accepts and closes gets backoff; only a session of StableAfter lets it start over.
func TestAcceptThenClose(t *testing.T) {
	for _, c := range []struct {
		name  string
		third time.Duration // uptime of the third session
		then  time.Duration // backoff after it
	}{
		{"never stable", 0, 400 * ms},
		{"nearly stable", 5*time.Second - 1, 400 * ms},
		{"stable", 5 * time.Second, 100 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, dialsOnly(), nil, func(w *world) {
				w.srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 2 && c.third > 0 {
						time.AfterFunc(c.third, p.Kill)
					} else if p.Index() < 4 {
						p.Close(1000, "go away")
					}
				})
				begin := w.begin("a")
				after(time.Minute)
				third := 300*ms + c.third
				w.wantDials(begin, 0, 100*ms, 300*ms, third+c.then, third+3*c.then)
				if got := w.m.Metrics().Shards[0].State; got != wsshard.ShardConnected {
					t.Errorf("state %v", got)
				}
			})
		})
	}
}

// A session that was ended on purpose was stable all the same.
func TestStableSessionThatWasReplaced(t *testing.T) {
	for name, leave := range map[string]func(w *world) error{
		"Reconnect":     func(w *world) error { return w.m.Reconnect(0) },
		"HotSwitchover": func(w *world) error { return w.m.HotSwitchover(context.Background(), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, dialsOnly(), nil, func(w *world) {
				w.srv.Down()
				w.begin("a")
				after(20 * time.Second)
				w.srv.Restart()
				w.sync()
				after(time.Hour)
				if n := w.m.Metrics().Shards[0].ReconnectAttempt; n != 0 {
					t.Errorf("connected for an hour, and attempt %d", n)
				}
				if err := leave(w); err != nil {
					w.t.Fatal(err)
				}
				after(time.Second)
				w.dialled(time.Now())
				w.srv.Down() // the new session was up for a second
				lost := time.Now()
				after(time.Second)
				w.wantDials(lost, 100*ms, 300*ms, 700*ms)
			})
		})
	}
}

func TestParkAndRevive(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	bubble(t, cfg, nil, func(w *world) {
		w.srv.Down()
		begin := w.begin("a", "b")
		waiting := make(chan error, 1)
		go func() { waiting <- w.m.Sync(context.Background(), "b") }()
		after(time.Hour)
		w.wantDials(begin, 0, 100*ms, 300*ms)
		w.wantState(0, wsshard.ShardParked)
		evs := w.app.takeEvents(wsshard.EventParked)
		var de *wsshard.DialError
		if len(evs) != 1 || !slices.Equal(evs[0].Subs, []string{"a", "b"}) || evs[0].Attempt != 3 || !errors.As(evs[0].Err, &de) || de.Attempt != 3 {
			t.Errorf("parked: %+v", evs)
		}
		for what, err := range map[string]error{
			"Sync that waited": <-waiting,
			"Sync":             w.m.Sync(context.Background()),
			"Sync of a topic":  w.m.Sync(context.Background(), "a"),
			"Send":             w.m.Send(context.Background(), 0, wsshard.Text("x")),
			"HotSwitchover":    w.m.HotSwitchover(context.Background(), 0),
		} {
			if !errors.Is(err, wsshard.ErrShardParked) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if h := w.m.Health(0.5); h.Healthy || h.Connected != 0 || h.Total != 1 {
			t.Errorf("%+v", h)
		}

		w.srv.Restart()
		if err := w.m.Reconnect(0); err != nil {
			w.t.Fatal(err)
		}
		w.sync() // at once: a shard that is revived is not parked
		w.wantDials(begin, time.Hour)
		w.wantTopics("a", "b")
		w.wantState(0, wsshard.ShardConnected)

		w.srv.Down() // and it has all its attempts again
		again := time.Now()
		after(time.Hour)
		w.wantDials(again, 100*ms, 300*ms)
		w.wantState(0, wsshard.ShardParked)
	})
}

// Where a switchover is a reconnect, whoever waits for one hears that it will not come.
func TestParkWhileASwitchoverWaits(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	cfg.DisableHotSwitchover = true
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		after(time.Hour)
		w.net.OnDial(func(context.Context, int, string) error { return errTest })
		w.hot(0).want(t, wsshard.ErrShardParked, 300*ms)
	})
}

// A parked shard takes no new subscription until it is revived.
func TestParkedShardTakesNothingNew(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxConnectAttempts = 1
	cfg.MaxShards = 2
	cfg.MaxSubscriptionsPerShard = 3
	bubble(t, cfg, nil, func(w *world) {
		w.srv.Down()
		w.begin("a")
		w.wantState(0, wsshard.ShardParked)
		w.srv.Restart()
		if res, err := w.m.Subscribe("b", "a"); err != nil || res[0].ShardID != 1 || res[1].Status != wsshard.SubscribeExisting {
			t.Errorf("%+v, %v", res, err)
		}
		w.sync("b")
		res, err := w.m.Subscribe("c", "d", "e")
		if !errors.Is(err, wsshard.ErrCapacity) || res[0].ShardID != 1 || res[1].ShardID != 1 || res[2].OK() {
			t.Errorf("%+v, %v", res, err)
		}
		w.wantTopics("b", "c", "d")
		w.m.Reconnect(0)
		if res, err := w.m.Subscribe("e"); err != nil || res[0].ShardID != 0 {
			t.Errorf("right after Reconnect: %+v, %v", res, err)
		}
		w.sync()
		w.wantTopics("a", "b", "c", "d", "e")
	})
}

// Sessions that are lost before they are stable count as failures.
func TestUnstableSessionsPark(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	bubble(t, cfg, nil, func(w *world) {
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 1 {
				time.AfterFunc(6*time.Second, p.Kill) // stable: those before it are forgotten
			} else {
				p.Kill()
			}
		})
		begin := w.begin("a")
		after(time.Hour)
		w.wantDials(begin, 0, 100*ms, 6200*ms, 6400*ms, 6800*ms)
		w.wantState(0, wsshard.ShardParked)
	})
}

// tallies is an app that notes what each dial is told.
type tallies struct {
	*app
	attempts chan int
}

func (h tallies) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	h.attempts <- st.ReconnectAttempt
	return "ws://srv/", nil
}

// ReconnectAttempt counts failed dials since the last stable connection, and not the connections that were lost meanwhile,
// though those count for the backoff and the limit.
func TestReconnectAttempts(t *testing.T) {
	cfg := dialsOnly()
	cfg.Backoff.MaxDelay = 100 * ms
	var dials tallies
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		dials = tallies{a, make(chan int, 10)}
		return dials
	}, func(w *world) {
		want := func(metric int, told ...int) {
			t.Helper()
			synctest.Wait()
			var heard []int
			for len(dials.attempts) > 0 {
				heard = append(heard, <-dials.attempts)
			}
			if n := w.m.Metrics().Shards[0].ReconnectAttempt; n != metric || !slices.Equal(heard, told) {
				t.Errorf("the metric says %d, want %d; the dials were told %d, want %d", n, metric, heard, told)
			}
		}
		w.begin("a")
		want(0, 0)
		w.srv.Live()[0].Kill()
		after(150 * ms)
		want(0, 0)
		w.srv.Down()
		after(350 * ms)
		want(3, 0, 1, 2)
		w.srv.Restart()
		after(100 * ms)
		want(3, 3)
		w.srv.Live()[0].Kill()
		after(150 * ms)
		want(3, 3)
		after(5 * time.Second)
		want(0)
		w.srv.Live()[0].Kill()
		after(150 * ms)
		want(0, 0)
	})
}
