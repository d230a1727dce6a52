package lifecycle

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: when does a shard dial again, and when does it park?

func TestBackoffInstants(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		w.Srv.Down()
		begin := w.Begin("a")
		harness.After(90 * time.Second)
		w.WantDials(begin, 0, 100*time.Millisecond, 300*time.Millisecond, 700*time.Millisecond, 1500*time.Millisecond, 3100*time.Millisecond, 6300*time.Millisecond, 12700*time.Millisecond, 25500*time.Millisecond, 51100*time.Millisecond, 81100*time.Millisecond)
		w.Srv.Restart()
		w.Sync()
		w.WantDials(begin, 111100*time.Millisecond)
		w.WantTopics("a")
		if m := w.M.Metrics(); m.Errors != 11 || m.Connections != 1 || m.Reconnections != 0 {
			t.Errorf("%d errors, %d connections, %d reconnections", m.Errors, m.Connections, m.Reconnections)
		}
	})
}

func TestFullJitterOnTheClock(t *testing.T) {
	hook.SetSeed(42)
	defer hook.SetSeed(0)
	cfg := harness.DialsOnly()
	cfg.Backoff.DisableJitter = false
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.Down()
		begin := w.Begin("a")
		harness.After(10 * time.Minute)
		due, most, early := time.Duration(0), 100*time.Millisecond, 0
		want := []time.Duration{0}
		for i, ev := range w.App.TakeEvents(wsshard.EventBackoff) {
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
		got := w.Dialled(begin)
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
		{"never stable", 0, 400 * time.Millisecond},
		{"nearly stable", 5*time.Second - 1, 400 * time.Millisecond},
		{"stable", 5 * time.Second, 100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
				w.Srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 2 && c.third > 0 {
						time.AfterFunc(c.third, p.Kill)
					} else if p.Index() < 4 {
						p.Close(1000, "go away")
					}
				})
				begin := w.Begin("a")
				harness.After(time.Minute)
				third := 300*time.Millisecond + c.third
				w.WantDials(begin, 0, 100*time.Millisecond, 300*time.Millisecond, third+c.then, third+3*c.then)
				if got := w.M.Metrics().Shards[0].State; got != wsshard.ShardConnected {
					t.Errorf("state %v", got)
				}
			})
		})
	}
}

// A session that was ended on purpose was stable all the same.
func TestStableSessionThatWasReplaced(t *testing.T) {
	for name, leave := range map[string]func(w *harness.World) error{
		"Reconnect":     func(w *harness.World) error { return w.M.Reconnect(0) },
		"HotSwitchover": func(w *harness.World) error { return w.M.HotSwitchover(context.Background(), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
				w.Srv.Down()
				w.Begin("a")
				harness.After(20 * time.Second)
				w.Srv.Restart()
				w.Sync()
				harness.After(time.Hour)
				if n := w.M.Metrics().Shards[0].ReconnectAttempt; n != 0 {
					t.Errorf("connected for an hour, and attempt %d", n)
				}
				if err := leave(w); err != nil {
					w.T.Fatal(err)
				}
				harness.After(time.Second)
				w.Dialled(time.Now())
				w.Srv.Down() // the new session was up for a second
				lost := time.Now()
				harness.After(time.Second)
				w.WantDials(lost, 100*time.Millisecond, 300*time.Millisecond, 700*time.Millisecond)
			})
		})
	}
}

func TestParkAndRevive(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.Down()
		begin := w.Begin("a", "b")
		waiting := make(chan error, 1)
		go func() { waiting <- w.M.Sync(context.Background(), "b") }()
		harness.After(time.Hour)
		w.WantDials(begin, 0, 100*time.Millisecond, 300*time.Millisecond)
		w.WantState(0, wsshard.ShardParked)
		evs := w.App.TakeEvents(wsshard.EventParked)
		var de *wsshard.DialError
		if len(evs) != 1 || !slices.Equal(evs[0].Subs, []string{"a", "b"}) || evs[0].Attempt != 3 || !errors.As(evs[0].Err, &de) || de.Attempt != 3 {
			t.Errorf("parked: %+v", evs)
		}
		for what, err := range map[string]error{
			"Sync that waited": <-waiting,
			"Sync":             w.M.Sync(context.Background()),
			"Sync of a topic":  w.M.Sync(context.Background(), "a"),
			"Send":             w.M.Send(context.Background(), 0, wsshard.Text("x")),
			"HotSwitchover":    w.M.HotSwitchover(context.Background(), 0),
		} {
			if !errors.Is(err, wsshard.ErrShardParked) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if h := w.M.Health(0.5); h.Healthy || h.Connected != 0 || h.Total != 1 {
			t.Errorf("%+v", h)
		}

		w.Srv.Restart()
		if err := w.M.Reconnect(0); err != nil {
			w.T.Fatal(err)
		}
		w.Sync() // at once: a shard that is revived is not parked
		w.WantDials(begin, time.Hour)
		w.WantTopics("a", "b")
		w.WantState(0, wsshard.ShardConnected)

		w.Srv.Down() // and it has all its attempts again
		again := time.Now()
		harness.After(time.Hour)
		w.WantDials(again, 100*time.Millisecond, 300*time.Millisecond)
		w.WantState(0, wsshard.ShardParked)
	})
}

// Where a switchover is a reconnect, whoever waits for one hears that it will not come.
func TestParkWhileASwitchoverWaits(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	cfg.DisableHotSwitchover = true
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		harness.After(time.Hour)
		w.Net.OnDial(func(context.Context, int, string) error { return harness.ErrTest })
		w.Hot(0).Want(t, wsshard.ErrShardParked, 300*time.Millisecond)
	})
}

// A parked shard takes no new subscription until it is revived.
func TestParkedShardTakesNothingNew(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxConnectAttempts = 1
	cfg.MaxShards = 2
	cfg.MaxSubscriptionsPerShard = 3
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.Down()
		w.Begin("a")
		w.WantState(0, wsshard.ShardParked)
		w.Srv.Restart()
		if res, err := w.M.Subscribe("b", "a"); err != nil || res[0].ShardID != 1 || res[1].Status != wsshard.SubscribeExisting {
			t.Errorf("%+v, %v", res, err)
		}
		w.Sync("b")
		res, err := w.M.Subscribe("c", "d", "e")
		if !errors.Is(err, wsshard.ErrCapacity) || res[0].ShardID != 1 || res[1].ShardID != 1 || res[2].OK() {
			t.Errorf("%+v, %v", res, err)
		}
		w.WantTopics("b", "c", "d")
		w.M.Reconnect(0)
		if res, err := w.M.Subscribe("e"); err != nil || res[0].ShardID != 0 {
			t.Errorf("right after Reconnect: %+v, %v", res, err)
		}
		w.Sync()
		w.WantTopics("a", "b", "c", "d", "e")
	})
}

// Sessions that are lost before they are stable count as failures.
func TestUnstableSessionsPark(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxConnectAttempts = 3
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 1 {
				time.AfterFunc(6*time.Second, p.Kill) // stable: those before it are forgotten
			} else {
				p.Kill()
			}
		})
		begin := w.Begin("a")
		harness.After(time.Hour)
		w.WantDials(begin, 0, 100*time.Millisecond, 6200*time.Millisecond, 6400*time.Millisecond, 6800*time.Millisecond)
		w.WantState(0, wsshard.ShardParked)
	})
}

// tallies is an app that notes what each dial is told.
type tallies struct {
	*harness.App
	attempts chan int
}

func (h tallies) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	h.attempts <- st.ReconnectAttempt
	return "ws://srv/", nil
}

// ReconnectAttempt counts failed dials since the last stable connection, and not the connections that were lost meanwhile,
// though those count for the backoff and the limit.
func TestReconnectAttempts(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Backoff.MaxDelay = 100 * time.Millisecond
	var dials tallies
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		dials = tallies{a, make(chan int, 10)}
		return dials
	}, func(w *harness.World) {
		want := func(metric int, told ...int) {
			t.Helper()
			synctest.Wait()
			var heard []int
			for len(dials.attempts) > 0 {
				heard = append(heard, <-dials.attempts)
			}
			if n := w.M.Metrics().Shards[0].ReconnectAttempt; n != metric || !slices.Equal(heard, told) {
				t.Errorf("the metric says %d, want %d; the dials were told %d, want %d", n, metric, heard, told)
			}
		}
		w.Begin("a")
		want(0, 0)
		w.Srv.Live()[0].Kill()
		harness.After(150 * time.Millisecond)
		want(0, 0)
		w.Srv.Down()
		harness.After(350 * time.Millisecond)
		want(3, 0, 1, 2)
		w.Srv.Restart()
		harness.After(100 * time.Millisecond)
		want(3, 3)
		w.Srv.Live()[0].Kill()
		harness.After(150 * time.Millisecond)
		want(3, 3)
		harness.After(5 * time.Second)
		want(0)
		w.Srv.Live()[0].Kill()
		harness.After(150 * time.Millisecond)
		want(0, 0)
	})
}
