package acceptance

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// wantGap checks the one gap of shard 0 since the last look; last is when the last frame came before it.
func (w *world) wantGap(last, to time.Time, subs ...string) {
	w.t.Helper()
	from := last.Add(-linger)
	evs := w.app.takeEvents(wsshard.EventGap)
	if len(evs) != 1 {
		w.t.Errorf("%d gaps, want 1: %+v", len(evs), evs)
		return
	}
	ev := evs[0]
	slices.Sort(ev.Subs)
	if !ev.From.Equal(from) || !ev.To.Equal(to) || !slices.Equal(ev.Subs, subs) {
		w.t.Errorf("gap from %v to %v of %q, want %v to %v of %q", ev.From, ev.To, ev.Subs, from, to, subs)
	}
	sm := w.m.Metrics().Shards[0]
	if ev.Sure.IsZero() || ev.Sure.After(ev.From) {
		w.t.Errorf("nothing is missing before %v, and the gap begins at %v", ev.Sure, ev.From)
	}
	if ev.ShardID != 0 || ev.Generation != sm.Generation || !sm.LastGap.Equal(ev.To) {
		w.t.Errorf("gap of shard %d, generation %d; metrics: %d, %v", ev.ShardID, ev.Generation, sm.Generation, sm.LastGap)
	}
}

func (w *world) wantNoGap() {
	w.t.Helper()
	if evs := w.app.takeEvents(wsshard.EventGap); len(evs) > 0 {
		w.t.Errorf("gaps: %+v", evs)
	}
}

func noJitter() wsshard.Config {
	return wsshard.Config{
		Backoff:    wsshard.BackoffConfig{DisableJitter: true},
		Health:     wsshard.HealthConfig{DataTimeout: off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
	}
}

// A gap begins with the last frame of whatever kind, here a pong, and ends with the last answer.
func TestGapEndsWithAcks(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe.MaxPerMessage = 2
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a", "b", "c")
		w.answer("ack 0 +a,b,c")
		after(3 * time.Second)
		w.srv.Conn(0).Send("a:1")
		after(17 * time.Second)
		pong := time.Now()
		after(5 * time.Second)
		w.srv.Conn(0).Kill()
		after(time.Second)
		w.answer("ack 0 +a,b")
		w.answer("a:2") // data proves nothing where answers do
		w.answer("c:2")
		after(time.Second)
		w.wantNoGap()
		w.answer("ack 0 +c")
		w.wantGap(pong, time.Now(), "a", "b", "c")
		if m := w.m.Metrics(); m.Gaps != 1 || m.Shards[0].Gaps != 1 {
			t.Errorf("%d gaps, %d of the shard", m.Gaps, m.Shards[0].Gaps)
		}
		after(15 * time.Minute)
		w.wantNoGap()
	})
}

// A topic that fails leaves nothing to wait for.
func TestGapEndsWithFailures(t *testing.T) {
	bubble(t, noJitter(), newCourtier, func(w *world) {
		w.launch("a", "b", "c", "d")
		w.answer("ack 1 -d")
		begin := time.Now()
		after(time.Second)
		w.srv.Conn(0).Kill()
		after(100 * time.Millisecond)
		w.answer("ack 0 +a -b")
		w.wantNoGap()
		after(time.Minute)
		w.wantGap(begin, begin.Add(1100*time.Millisecond+20*time.Second), "a", "b", "c") // c and d were given up; d was not on
	})
}

// Without answers data that names a topic ends it, and Settle where none comes.
func TestGapEndsWithDataOrSettle(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: 10 * time.Second}
	cfg.Switchover.Settle = time.Minute
	cfg.Health.PingInterval = off
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			inspects
		}{a, byTopic}
	}, func(w *world) {
		w.start("a", "b")
		for range 2 {
			last := time.Now()
			w.topics.Publish("a", "1")
			after(time.Second)
			w.srv.Conn(w.srv.Conns() - 1).Kill()
			again := time.Now().Add(100 * time.Millisecond)
			after(20 * time.Second) // the second request is written 11 s after the first
			w.topics.Publish("a", "2")
			w.topics.Publish("c", "2")
			w.wantNoGap()
			after(time.Second)
			if w.srv.Conns() == 2 {
				w.topics.Publish("b", "2")
				w.wantGap(last, time.Now(), "a", "b")
			} else {
				after(time.Hour)
				w.wantGap(last, again.Add(11*time.Second+time.Minute), "a", "b")
			}
		}
	})
}

// With a ReadyDetector it is what IsReady says after the last request.
func TestGapEndsWhenReady(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe.MaxPerMessage = 1
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			readies
		}{a, func(m wsshard.Message, _ wsshard.ConnectionState) bool { return m.String() == "ready" }}
	}, func(w *world) {
		w.start("a", "b")
		begin := time.Now()
		after(time.Second)
		w.srv.Conn(0).Kill()
		after(time.Minute)
		w.answer("a:1")
		w.wantNoGap()
		w.answer("ready")
		w.wantGap(begin, time.Now(), "a", "b")
	})
}

// A silent connection has given nothing since its last data, though pongs came.
func TestGapOfSilence(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		bubble(t, wsshard.Config{DisableHotSwitchover: disabled, Backoff: wsshard.BackoffConfig{DisableJitter: true}}, newCourtier, func(w *world) {
			w.launch("a")
			w.answer("ack 1")
			after(5 * time.Second)
			w.answer("a:1")
			last := time.Now()
			after(30 * time.Second)
			after(1100 * time.Millisecond)
			w.answer("ack 2")
			w.wantGap(last, time.Now(), "a")
			w.wantTopics("a")
		})
	}
}

// A connection that answers no pings has given nothing since its last frame.
func TestGapOfHalfOpen(t *testing.T) {
	cfg := noJitter()
	cfg.Health.FailureThreshold = 1
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		after(5 * time.Second)
		last := time.Now()
		w.srv.Conn(0).Ping("x")
		after(time.Second)
		w.net.Conns()[0].BlackHole(true)
		after(24*time.Second + time.Second)
		w.answer("ack 2")
		proven := time.Now()
		after(3 * time.Second) // it is drained for DrainTimeout
		w.wantGap(last, proven, "a")
	})
}

// What is missed of a topic goes on until some connection has proven it, however many were lost before; and a connection that
// has proven some before it is lost has a gap of its own.
func TestGapOverSeveralConnections(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe.AckTimeout = off
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a", "b")
		w.answer("ack 1")
		after(time.Second)
		last := time.Now()
		w.answer("a:1")
		after(time.Second)
		w.srv.Conn(0).Kill()
		after(time.Second) // connected, asked for, not answered
		w.subscribe("c")
		w.answer("a:2")
		w.answer("ack 0 +a")
		w.m.Unsubscribe("b")
		w.wantGap(last, time.Now(), "a", "b") // nobody waits for b any more
		last = time.Now()
		w.subscribe("d")
		synctest.Wait()
		w.srv.Conn(1).Reset()
		w.srv.Down()
		after(time.Minute)
		w.srv.Restart()
		after(time.Minute)
		w.wantNoGap()
		w.srv.Conn(2).Close(1012, "")
		after(time.Second)
		w.answer("ack 0 +a,c,d")
		w.wantGap(last, time.Now(), "a", "b", "c", "d") // b may have been on
		if n := w.m.Metrics().Gaps; n != 2 {
			t.Errorf("%d gaps", n)
		}
	})
}

// Where nothing was applied nothing is missed.
func TestNoGapWithoutTopics(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe.AckTimeout = off
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch()
		w.srv.Conn(0).Kill() // no topic
		after(time.Second)
		w.m.Reconnect(0)
		after(time.Second)
		w.subscribe("a")
		w.answer("ack 1 -a")
		w.srv.Conn(2).Kill() // a topic that failed
		after(time.Second)
		w.answer("ack 2")
		w.m.Unsubscribe("a")
		synctest.Wait()
		w.answer("ack 3")
		after(linger + 1)
		w.answer("x:1")
		w.srv.Conn(3).Kill() // a topic that was unsubscribed, longer ago than messages may be late
		after(time.Second)
		w.wantNoGap()
		if n := w.srv.Conns(); n != 5 {
			t.Errorf("%d connections", n)
		}
		w.srv.Down() // a topic that was never asked for
		after(time.Second)
		w.subscribe("b")
		after(time.Second)
		w.srv.Restart()
		after(time.Minute)
		w.answer("ack 0 +b")
		w.sync()
		w.wantNoGap()
	})
}

// A reconnect that was asked for misses as much as any other, and the end of everything misses nothing.
func TestGapOfReconnect(t *testing.T) {
	cfg := noJitter()
	cfg.DisableHotSwitchover = true
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	cfg.Health.PingInterval = off
	cfg.Subscribe.AckTimeout = off
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		for _, end := range []func(){
			func() { w.m.Reconnect(0) },
			func() { go w.m.HotSwitchover(context.Background(), 0) },
		} {
			after(time.Second)
			w.answer("a:1")
			after(time.Second)
			last := time.Now() // the reply to our close frame
			end()
			after(time.Minute)
			w.wantNoGap()
			w.answer("ack 0 +a")
			w.wantGap(last, time.Now(), "a")
		}
		w.wantCauses(wsshard.ErrReconnect, wsshard.ErrReconnect)
		opened := time.Now().Add(-time.Minute)
		after(59 * time.Minute)
		w.wantCauses(wsshard.ErrMaxLifetime)
		w.answer("ack 0 +a")
		if evs := w.app.takeEvents(wsshard.EventGap); len(evs) != 1 || evs[0].From.Before(opened.Add(30*time.Minute)) || !evs[0].To.Equal(time.Now()) {
			t.Errorf("gaps: %+v", evs)
		}
		if err := w.m.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.wantNoGap()
	})
}

// A switchover with proof misses nothing; one without, or one whose drain failed, says so.
func TestGapOfSwitchover(t *testing.T) {
	move := func(w *world, answers ...string) (last time.Time) {
		after(time.Second)
		w.answer("a:1")
		last = time.Now()
		after(time.Second)
		done := make(chan error)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		for _, text := range answers {
			w.answer(text)
		}
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		return last
	}
	cfg := noJitter()
	cfg.Health.PingInterval = off
	cfg.Switchover.HoldMessages = 3
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		move(w, "ack 2")
		w.wantNoGap()

		move(w, "ack 3", "a:2", "a:3", "a:4")  // too much to hold: cut over without Linger
		w.wantGap(time.Now(), time.Now(), "a") // its last frame was the reply to our close frame
	})
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		after(time.Second)
		w.net.Conns()[0].StallWrite(true) // it will not hear our close frame
		last := move(w, "ack 2")
		ev := w.app.takeEvents(wsshard.EventGap)
		if len(ev) != 1 || !ev[0].From.Equal(last.Add(-linger)) {
			t.Errorf("gaps: %+v", ev)
		}
	})
}
