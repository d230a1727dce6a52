package gaps

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: when does a gap begin, and when does it end?

// A gap begins with the last frame of whatever kind, here a pong, and ends with the last answer.
func TestGapEndsWithAcks(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe.MaxPerMessage = 2
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b", "c")
		w.Answer("ack 0 +a,b,c")
		harness.After(3 * time.Second)
		w.Srv.Conn(0).Send("a:1")
		harness.After(17 * time.Second)
		pong := time.Now()
		harness.After(5 * time.Second)
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.Answer("ack 0 +a,b")
		w.Answer("a:2") // data proves nothing where answers do
		w.Answer("c:2")
		harness.After(time.Second)
		w.WantNoGap()
		w.Answer("ack 0 +c")
		w.WantGap(pong, time.Now(), "a", "b", "c")
		if m := w.M.Metrics(); m.Gaps != 1 || m.Shards[0].Gaps != 1 {
			t.Errorf("%d gaps, %d of the shard", m.Gaps, m.Shards[0].Gaps)
		}
		harness.After(15 * time.Minute)
		w.WantNoGap()
	})
}

// A topic that fails leaves nothing to wait for.
func TestGapEndsWithFailures(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b", "c", "d")
		w.Answer("ack 1 -d")
		begin := time.Now()
		harness.After(time.Second)
		w.Srv.Conn(0).Kill()
		harness.After(100 * time.Millisecond)
		w.Answer("ack 0 +a -b")
		w.WantNoGap()
		harness.After(time.Minute)
		w.WantGap(begin, begin.Add(1100*time.Millisecond+20*time.Second), "a", "b", "c") // c and d were given up; d was not on
	})
}

// Without answers data that names a topic ends it, and Settle where none comes.
func TestGapEndsWithDataOrSettle(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: 10 * time.Second}
	cfg.Switchover.Settle = time.Minute
	cfg.Health.PingInterval = harness.Off
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Inspects
		}{a, harness.ByTopic}
	}, func(w *harness.World) {
		w.Start("a", "b")
		for range 2 {
			last := time.Now()
			w.Topics.Publish("a", "1")
			harness.After(time.Second)
			w.Srv.Conn(w.Srv.Conns() - 1).Kill()
			again := time.Now().Add(100 * time.Millisecond)
			harness.After(20 * time.Second) // the second request is written 11 s after the first
			w.Topics.Publish("a", "2")
			w.Topics.Publish("c", "2")
			w.WantNoGap()
			harness.After(time.Second)
			if w.Srv.Conns() == 2 {
				w.Topics.Publish("b", "2")
				w.WantGap(last, time.Now(), "a", "b")
			} else {
				harness.After(time.Hour)
				w.WantGap(last, again.Add(11*time.Second+time.Minute), "a", "b")
			}
		}
	})
}

// With a ReadyDetector it is what IsReady says after the last request.
func TestGapEndsWhenReady(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe.MaxPerMessage = 1
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Readies
		}{a, func(m wsshard.Message, _ wsshard.ConnectionState) bool { return m.String() == "ready" }}
	}, func(w *harness.World) {
		w.Start("a", "b")
		begin := time.Now()
		harness.After(time.Second)
		w.Srv.Conn(0).Kill()
		harness.After(time.Minute)
		w.Answer("a:1")
		w.WantNoGap()
		w.Answer("ready")
		w.WantGap(begin, time.Now(), "a", "b")
	})
}

// A silent connection has given nothing since its last data, though pongs came.
func TestGapOfSilence(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		harness.Bubble(t, wsshard.Config{DisableHotSwitchover: disabled, Backoff: wsshard.BackoffConfig{DisableJitter: true}}, harness.NewCourtier, func(w *harness.World) {
			w.Launch("a")
			w.Answer("ack 1")
			harness.After(5 * time.Second)
			w.Answer("a:1")
			last := time.Now()
			harness.After(30 * time.Second)
			harness.After(1100 * time.Millisecond)
			w.Answer("ack 2")
			w.WantGap(last, time.Now(), "a")
			w.WantTopics("a")
		})
	}
}

// A connection that answers no pings has given nothing since its last frame.
func TestGapOfHalfOpen(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Health.FailureThreshold = 1
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		harness.After(5 * time.Second)
		last := time.Now()
		w.Srv.Conn(0).Ping("x")
		harness.After(time.Second)
		w.Net.Conns()[0].BlackHole(true)
		harness.After(24*time.Second + time.Second)
		w.Answer("ack 2")
		proven := time.Now()
		harness.After(3 * time.Second) // it is drained for DrainTimeout
		w.WantGap(last, proven, "a")
	})
}

// What is missed of a topic goes on until some connection has proven it, however many were lost before; and a connection that
// has proven some before it is lost has a gap of its own.
func TestGapOverSeveralConnections(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe.AckTimeout = harness.Off
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b")
		w.Answer("ack 1")
		harness.After(time.Second)
		last := time.Now()
		w.Answer("a:1")
		harness.After(time.Second)
		w.Srv.Conn(0).Kill()
		harness.After(time.Second) // connected, asked for, not answered
		w.Subscribe("c")
		w.Answer("a:2")
		w.Answer("ack 0 +a")
		w.M.Unsubscribe("b")
		w.WantGap(last, time.Now(), "a", "b") // nobody waits for b any more
		last = time.Now()
		w.Subscribe("d")
		synctest.Wait()
		w.Srv.Conn(1).Reset()
		w.Srv.Down()
		harness.After(time.Minute)
		w.Srv.Restart()
		harness.After(time.Minute)
		w.WantNoGap()
		w.Srv.Conn(2).Close(1012, "")
		harness.After(time.Second)
		w.Answer("ack 0 +a,c,d")
		w.WantGap(last, time.Now(), "a", "b", "c", "d") // b may have been on
		if n := w.M.Metrics().Gaps; n != 2 {
			t.Errorf("%d gaps", n)
		}
	})
}

// Where nothing was applied nothing is missed.
func TestNoGapWithoutTopics(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe.AckTimeout = harness.Off
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch()
		w.Srv.Conn(0).Kill() // no topic
		harness.After(time.Second)
		w.M.Reconnect(0)
		harness.After(time.Second)
		w.Subscribe("a")
		w.Answer("ack 1 -a")
		w.Srv.Conn(2).Kill() // a topic that failed
		harness.After(time.Second)
		w.Answer("ack 2")
		w.M.Unsubscribe("a")
		synctest.Wait()
		w.Answer("ack 3")
		harness.After(harness.DefaultLinger + 1)
		w.Answer("x:1")
		w.Srv.Conn(3).Kill() // a topic that was unsubscribed, longer ago than messages may be late
		harness.After(time.Second)
		w.WantNoGap()
		if n := w.Srv.Conns(); n != 5 {
			t.Errorf("%d connections", n)
		}
		w.Srv.Down() // a topic that was never asked for
		harness.After(time.Second)
		w.Subscribe("b")
		harness.After(time.Second)
		w.Srv.Restart()
		harness.After(time.Minute)
		w.Answer("ack 0 +b")
		w.Sync()
		w.WantNoGap()
	})
}

// A reconnect that was asked for misses as much as any other, and the end of everything misses nothing.
func TestGapOfReconnect(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.DisableHotSwitchover = true
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	cfg.Health.PingInterval = harness.Off
	cfg.Subscribe.AckTimeout = harness.Off
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		for _, end := range []func(){
			func() { w.M.Reconnect(0) },
			func() { go w.M.HotSwitchover(context.Background(), 0) },
		} {
			harness.After(time.Second)
			w.Answer("a:1")
			harness.After(time.Second)
			last := time.Now() // the reply to our close frame
			end()
			harness.After(time.Minute)
			w.WantNoGap()
			w.Answer("ack 0 +a")
			w.WantGap(last, time.Now(), "a")
		}
		w.WantCauses(wsshard.ErrReconnect, wsshard.ErrReconnect)
		opened := time.Now().Add(-time.Minute)
		harness.After(59 * time.Minute)
		w.WantCauses(wsshard.ErrMaxLifetime)
		w.Answer("ack 0 +a")
		if evs := w.App.TakeEvents(wsshard.EventGap); len(evs) != 1 || evs[0].From.Before(opened.Add(30*time.Minute)) || !evs[0].To.Equal(time.Now()) {
			t.Errorf("gaps: %+v", evs)
		}
		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.WantNoGap()
	})
}

// A switchover with proof misses nothing; one without, or one whose drain failed, says so.
func TestGapOfSwitchover(t *testing.T) {
	move := func(w *harness.World, answers ...string) (last time.Time) {
		harness.After(time.Second)
		w.Answer("a:1")
		last = time.Now()
		harness.After(time.Second)
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		for _, text := range answers {
			w.Answer(text)
		}
		if err := <-done; err != nil {
			w.T.Error(err)
		}
		return last
	}
	cfg := harness.NoJitter()
	cfg.Health.PingInterval = harness.Off
	cfg.Switchover.HoldMessages = 3
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		move(w, "ack 2")
		w.WantNoGap()

		move(w, "ack 3", "a:2", "a:3", "a:4")  // too much to hold: cut over without Linger
		w.WantGap(time.Now(), time.Now(), "a") // its last frame was the reply to our close frame
	})
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		harness.After(time.Second)
		w.Net.Conns()[0].StallWrite(true) // it will not hear our close frame
		last := move(w, "ack 2")
		ev := w.App.TakeEvents(wsshard.EventGap)
		if len(ev) != 1 || !ev[0].From.Equal(last.Add(-harness.DefaultLinger)) {
			t.Errorf("gaps: %+v", ev)
		}
	})
}

// Stop ends all gaps that are open, and tells of them: whether the shard is being asked to prove their topics, waits for its next
// attempt, or is parked. What came while nobody could prove it is in them, up to Stop.
func TestGapEndsWithStop(t *testing.T) {
	for name, tt := range map[string]struct {
		attempts int
		state    wsshard.ShardState
		after    func(w *harness.World) // the loss
	}{
		"unproven": {0, wsshard.ShardConnected, func(w *harness.World) { w.Srv.Conn(0).Kill() }},
		"down":     {0, wsshard.ShardBackoff, func(w *harness.World) { w.Srv.Down() }},
		"parked":   {1, wsshard.ShardParked, func(w *harness.World) { w.Srv.Down() }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Connection.MaxConnectAttempts, cfg.Connection.CircuitBreakerThreshold = tt.attempts, -1
			cfg.Subscribe.AckTimeout = harness.Off
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a", "b")
				harness.After(time.Second)
				last := time.Now()
				w.Topics.Publish("a", "1")
				harness.After(time.Second)
				w.Topics.Ack(false)
				tt.after(w)
				harness.After(9 * time.Second)
				w.WantState(0, tt.state)
				w.WantNoGap()
				w.M.Unsubscribe("b") // nobody waits for it any more: where the shard is down it takes its part along
				w.App.TakeEvents()
				if err := w.M.Stop(context.Background()); err != nil {
					t.Fatal(err)
				}
				evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventStopped)
				if len(evs) != 2 || evs[0].Kind != wsshard.EventGap || evs[1].Kind != wsshard.EventStopped {
					t.Fatalf("Stop told %+v, want a gap, and that it has stopped", evs)
				}
				want := []string{"a"}
				if tt.state == wsshard.ShardConnected {
					want = append(want, "b")
				}
				slices.Sort(evs[0].Subs)
				if ev := evs[0]; !ev.From.Equal(last.Add(-harness.DefaultLinger)) || !ev.To.Equal(time.Now()) || !slices.Equal(ev.Subs, want) {
					t.Errorf("gap from %v to %v of %q, want %v to %v of %q", ev.From, ev.To, ev.Subs, last.Add(-harness.DefaultLinger), time.Now(), want)
				}
			})
		})
	}
}
