package switchover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what begins a switchover?

// switchovers returns, for each of these events since the last look, the shard, the trigger, and when.
func switchovers(w *harness.World, kind wsshard.EventKind) (list []string, at []time.Duration) {
	w.T.Helper()
	for _, ev := range w.App.TakeEvents(kind) {
		list = append(list, fmt.Sprint(ev.ShardID, " ", ev.Switchover.Trigger))
		at = append(at, ev.Time.Sub(begin))
	}
	return list, at
}

// begin is when a bubble's clock begins.
var begin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// oneEach makes a config for shards of one topic.
func oneEach() wsshard.Config {
	cfg := harness.NoJitter()
	cfg.MaxSubscriptionsPerShard = 1
	return cfg
}

// TestLifetime: a first connection is replaced when it is 50 to 100 % of its lifetime old, later ones at 90 to 100 %; each at its
// own time, none sooner after another than a quarter of what there is room for.
func TestLifetime(t *testing.T) {
	cfg := oneEach()
	cfg.Connection.ProactiveReconnectInterval = 100 * time.Minute
	cfg.Health.PingInterval = harness.Off
	cfg.Switchover = wsshard.SwitchoverConfig{Settle: harness.Off, Linger: harness.Off}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start(harness.Numbered(40)...)
		last := make(map[string]time.Duration)
		seen, early, late, before := 0, false, false, -time.Hour
		for range 10 {
			harness.After(100 * time.Minute)
			list, at := switchovers(w, wsshard.EventSwitchoverStarted)
			for i, name := range list {
				age, least := at[i]-last[name], 90*time.Minute
				if last[name] == 0 {
					least = 50 * time.Minute
				}
				if age < least || age > 101*time.Minute {
					t.Errorf("%s: replaced at the age of %v", name, age)
				}
				if d := at[i] - before; d < 100*time.Minute/(4*40) {
					t.Errorf("%s: replaced %v after another", name, d)
				}
				before = at[i]
				early, late = early || least < age && age < 92*time.Minute, late || age > 98*time.Minute
				last[name] = at[i]
				seen++
			}
		}
		if len(last) != 40 || seen < 400 || !early || !late {
			t.Errorf("%d switchovers of %d shards, some early: %v, some late: %v", seen, len(last), early, late)
		}
		if m := w.M.Metrics(); m.Gaps != 0 || m.Errors != 0 || m.HotSwitchoverFailures != 0 {
			t.Errorf("%+v", m)
		}
	})
}

// TestLifetimeLeavesTimeForOthers: a connection asks for its instant earlier than it must be over, since another may be before it: of two
// that may wait an eighth of the interval for each other, no later one lives longer than nine tenths of it and that.
func TestLifetimeLeavesTimeForOthers(t *testing.T) {
	cfg := oneEach()
	cfg.Connection.ProactiveReconnectInterval = 100 * time.Minute
	cfg.Health.PingInterval = harness.Off
	cfg.Switchover = wsshard.SwitchoverConfig{Settle: harness.Off, Linger: harness.Off}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a", "b")
		last, lives := make(map[string]time.Duration), 0
		for range 20 {
			harness.After(100 * time.Minute)
			list, at := switchovers(w, wsshard.EventSwitchoverStarted)
			for i, name := range list {
				if age := at[i] - last[name]; last[name] > 0 {
					if lives++; age != 90*time.Minute { // their instants are far enough apart since the first
						t.Errorf("%s: replaced at the age of %v", name, age)
					}
				}
				last[name] = at[i]
			}
		}
		if lives < 40 {
			t.Errorf("%d lives of two shards", lives)
		}
	})
}

// TestLifetimeSwitchoverFails: no failure to get a new connection ends a live one. It is tried again by a backoff that grows to a
// quarter of the interval, and each failure is told.
func TestLifetimeSwitchoverFails(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	cfg.Connection.CircuitBreakerThreshold = off1
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		w.Net.OnDial(func(context.Context, int, string) error { return harness.ErrTest })
		harness.After(8 * time.Hour)
		w.WantCauses()
		var at []time.Time
		for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverFailed, wsshard.EventDisconnected) {
			if ev.Kind != wsshard.EventSwitchoverFailed || ev.Switchover.Trigger != "lifetime" || !errors.Is(ev.Err, harness.ErrTest) {
				t.Errorf("%+v", ev)
			}
			at = append(at, ev.Time)
		}
		const quarter = 15 * time.Minute
		if n := len(at); n < 30 || n > 50 || at[1].Sub(at[0]) > time.Second || at[n-1].Sub(at[n-2]) != quarter {
			t.Fatalf("tried again at %v", at)
		}
		w.Net.OnDial(nil)
		harness.After(quarter + 5*time.Second)
		w.WantCauses(wsshard.ErrReplaced)
		if m := w.M.Metrics(); m.Gaps != 0 || m.Errors != 0 {
			t.Errorf("%d gaps, %d errors", m.Gaps, m.Errors)
		}
		w.WantTopics("a")
	})
}

// An emptied shard is not rotated until it has a topic again; one that never had a topic, a login-only stream, is.
func TestLifetimeOfEmptyShards(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		if err := w.M.Unsubscribe("a"); err != nil {
			t.Fatal(err)
		}
		harness.After(24 * time.Hour)
		if n := w.Net.Dials(); n != 1 {
			t.Errorf("%d dials of an empty shard in a day", n)
		}
		w.Subscribe("b")
		harness.After(3 * time.Minute)
		if n := w.Net.Dials(); n != 2 {
			t.Errorf("%d dials, it is old and has a topic", n)
		}
		w.WantTopics("b")
	})
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start()
		harness.After(3 * time.Hour)
		if n := w.Net.Dials(); n < 3 {
			t.Errorf("%d dials of a shard that never had a topic in 3 h", n)
		}
	})
}

const off1 = -1

// TestLifetimeJoinsACall: age is not forgotten when its switchover joined one that failed.
func TestLifetimeJoinsACall(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	cfg.Switchover.Timeout = 2 * time.Hour
	cfg.Subscribe.AckTimeout = harness.Off
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		w.Topics.Ack(false)
		harness.After(10 * time.Minute)
		c := w.Hot(0)
		harness.After(time.Hour)
		w.Topics.Ack(true)
		w.Srv.Conn(1).Kill()
		<-c.Done
		harness.After(time.Minute)
		if list, _ := switchovers(w, wsshard.EventSwitchoverDone); !slices.Equal(list, []string{"0 lifetime"}) {
			t.Errorf("done: %q", list)
		}
	})
}

// TestNotice: a server's notice replaces the connection. Heard again on the one that it brought, it starts nothing for a
// minute.
func TestNotice(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		w.Start("a")
		say := func(i int) {
			w.Srv.Conn(i).Send("maintenance")
			harness.After(0)
		}
		want := func(list ...string) {
			t.Helper()
			harness.After(5 * time.Second)
			if got, _ := switchovers(w, wsshard.EventSwitchoverDone); !slices.Equal(got, list) {
				t.Errorf("done: %q, want %q", got, list)
			}
		}
		say(0)
		say(0) // the same
		say(1) // which does not deliver yet
		want("0 notice")
		say(1)
		harness.After(50 * time.Second) // it is nearly a minute old
		say(1)
		want()
		say(1)
		want("0 notice")

		// Told during an overlap that something else began, of which it knows nothing: it counts for the new one.
		say(2)
		want()
		harness.After(time.Minute)
		w.Hot(0)
		say(3)
		want("0 call", "0 notice")

		// A notice that joins counts as one.
		harness.After(time.Minute)
		w.Hot(0)
		say(4)
		harness.After(3 * time.Second)
		say(5)
		want("0 call")
		w.WantTopics("a")
		if m := w.M.Metrics(); m.Gaps != 0 {
			t.Errorf("%d gaps", m.Gaps)
		}
	})
}

// TestDisabled: every trigger reconnects, and HotSwitchover returns when the shard is connected again.
func TestDisabled(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.DisableHotSwitchover = true
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	cfg.Health.DataTimeout = 30 * time.Minute
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a")
		wantReplaced(w, 0) // nothing yet
		w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return nil })
		c := w.Hot(0)
		c.Want(t, nil, 3*time.Second)
		wantReplaced(w, 1, wsshard.ErrReconnect)

		// A server that warns each new connection is not dialled in a loop.
		for range 10 {
			w.Srv.Conn(w.Srv.Conns() - 1).Send("maintenance")
			harness.After(5 * time.Second)
		}
		wantReplaced(w, 1, wsshard.ErrReconnect)

		harness.After(30 * time.Minute)
		wantReplaced(w, 1, wsshard.ErrDataTimeout)
		for range 7 {
			harness.After(10 * time.Minute)
			w.Topics.Publish("a", "1")
		}
		wantReplaced(w, 1, wsshard.ErrMaxLifetime)
		w.WantTopics("a")

		// One that hears that the shard is connected again, and asks for another at once, gets it.
		w.Net.OnDial(nil)
		c = w.Hot(0)
		c.Want(t, nil, 0)
		w.Hot(0).Want(t, nil, 0)
		wantReplaced(w, 2, wsshard.ErrReconnect)
	})
}

// wantReplaced checks that so many connections were lost since the last look, for one cause, and that none was switched over.
func wantReplaced(w *harness.World, n int, cause ...error) {
	w.T.Helper()
	got := w.App.TakeCauses()
	if len(got) != n {
		w.T.Errorf("disconnected with %q, want %d", got, n)
	}
	for _, err := range got {
		if !errors.Is(err, cause[0]) {
			w.T.Errorf("disconnected with %v, want %v", err, cause[0])
		}
	}
	if evs := w.App.TakeEvents(wsshard.EventSwitchoverStarted, wsshard.EventSwitchoverDone); len(evs) > 0 {
		w.T.Errorf("switchovers: %+v", evs)
	}
}

// TestSilentJoins: a shard that turns silent while its switchover waits for a turn waits no more, and what was proven by then
// is enough. The gap begins where the silence did.
func TestSilentJoins(t *testing.T) {
	cfg := oneEach()
	cfg.Health.DataTimeout = time.Minute
	cfg.Switchover.MaxConcurrent = 1
	cfg.Switchover.Linger = time.Hour
	cfg.Switchover.Timeout = time.Hour
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a")
		w.Subscribe("b")
		w.Sync()
		w.Topics.Publish("b", "1")
		first := w.Hot(1) // lingers
		w.Srv.Conn(0).Send("a:1")
		harness.After(0)
		quiet := time.Now()
		c := w.Hot(0)
		harness.After(30 * time.Second)
		w.Srv.Conn(1).Send("b:2") // this shard is not silent
		harness.After(30 * time.Second)
		if w.Net.Dials() != 4 {
			t.Errorf("%d dials, want 4", w.Net.Dials())
		}
		c.Want(t, nil, time.Minute+time.Second)
		evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
		if len(evs) != 2 || !evs[0].From.Equal(quiet.Add(-time.Hour)) || !evs[0].To.Equal(time.Now()) || evs[1].Switchover.Trigger != "call" {
			t.Errorf("events %+v, want a gap from %v", evs, quiet)
		}
		first.Cancel()
		first.Want(t, context.Canceled, time.Minute+time.Second)
	})
}

// TestNoticeWhileItIsReplayed: a notice that the new connection hears in its first minute starts nothing, though it comes to
// deliver later than that; one that it hears after that minute does, though it does not deliver yet.
func TestNoticeWhileItIsReplayed(t *testing.T) {
	for _, tt := range []struct {
		at     time.Duration
		starts int
	}{{10 * time.Second, 0}, {70 * time.Second, 1}} {
		cfg := harness.NoJitter()
		cfg.Subscribe.AckTimeout, cfg.Switchover.Timeout = harness.Off, harness.Off
		harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
			w.Topics.Ack(true)
			w.Start("a")
			w.Topics.Ack(false)
			w.Srv.Conn(0).Send("maintenance")
			harness.After(tt.at)
			w.Srv.Conn(1).Send("maintenance")
			harness.After(90*time.Second - tt.at)
			w.Topics.Ack(true)
			w.Srv.Conn(1).Send("ack:a")
			harness.After(5 * time.Second)
			if list, _ := switchovers(w, wsshard.EventSwitchoverDone); len(list) != 1+tt.starts {
				t.Errorf("heard at the age of %v: %q", tt.at, list)
			}
		})
	}
}
