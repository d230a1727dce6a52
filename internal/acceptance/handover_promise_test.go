package acceptance

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what of a connection's promises passes to the next one, and what does not?

// TestReadinessIsAskedAgainAtTheCutover: what the old connection writes after the new one was found ready, and before it is kept
// from writing, is on the new one before that takes over.
func TestReadinessIsAskedAgainAtTheCutover(t *testing.T) {
	bubble(t, noJitter(), withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a")
		after(time.Second)
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if slices.Contains(req.Subs, "x") { // the old one is in here when it is to stop writing; the new one for longer
				time.Sleep(map[uint64]time.Duration{1: 400 * time.Millisecond, 2: 3 * time.Second}[req.State.Generation])
			}
			return asTopics(sign, req)
		}
		c := w.hot(0)
		after(100 * time.Millisecond)
		w.subscribe("x")
		after(time.Second)
		w.app.take()
		w.topics.Publish("x", "1")
		after(time.Second)
		w.wantGot("x:1")
		<-c.done
		if c.err != nil || c.ended.Sub(c.began) < 3*time.Second {
			t.Errorf("HotSwitchover: %v after %v: x is not there yet", c.err, c.ended.Sub(c.began))
		}
		w.wantNoGap()
		w.wantTopics("a", "x")
	})
}

// TestOnlyWhatDeliversEndsAGap: what is proven on the next connection of a switchover ends no gap before that one delivers: it
// may never come to.
func TestOnlyWhatDeliversEndsAGap(t *testing.T) {
	bubble(t, noJitter(), withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a")
		after(time.Second)
		w.topics.Ack(false)
		w.srv.Conn(0).Kill()
		after(time.Second)
		c := w.hot(0)
		w.srv.Conn(2).Send("ack:+a")
		after(100 * time.Millisecond) // within Linger
		w.wantNoGap()
		w.srv.Conn(2).Reset()
		<-c.done
		after(time.Second)
		w.wantNoGap()
		w.srv.Conn(1).Send("ack:+a")
		after(0)
		if evs := w.app.takeEvents(wsshard.EventGap); len(evs) != 1 || !evs[0].To.Equal(time.Now()) || evs[0].Generation != 2 {
			t.Errorf("gaps %+v, want one that ends now, by generation 2", evs)
		}
	})
}

// doubting asks for a snapshot of whatever says that it is bad.
type doubting struct{ snapshots }

func (doubting) ValidateSequence(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	if topic, bad := strings.CutSuffix(msg.String(), ":bad"); bad {
		v.Gap, v.Resubscribe = true, []string{topic}
	}
	return v
}

func (doubting) ResetSequenceState(wsshard.ConnectionState) {}

// TestANewConnectionOwesNoSnapshot: a snapshot that the last connection still owed is asked for anew on the next one, if that is
// bad too, however soon; on one and the same it is not.
func TestANewConnectionOwesNoSnapshot(t *testing.T) {
	with := func(a *app) wsshard.Handler[string] { return doubting{snapshots{a}} }
	bubble(t, noJitter(), with, func(w *world) {
		w.start("a")
		w.srv.Conn(0).Send("a:bad")
		w.srv.Conn(0).Send("a:bad")
		w.wantWire(0, "+a", "=a")
		w.srv.Conn(0).Kill()
		after(time.Second)
		w.srv.Conn(1).Send("a:bad")
		w.wantWire(1, "+a", "=a")
	})
}

// TestPlacesAreFreeOnTheNextConnection: what was unsubscribed without a message for it takes its place until the connection is
// replaced, and no longer.
func TestPlacesAreFreeOnTheNextConnection(t *testing.T) {
	cfg := noJitter()
	cfg.MaxSubscriptionsPerShard = 2
	with := func(a *app) wsshard.Handler[string] { return struct{ wsshard.Handler[string] }{a} }
	bubble(t, cfg, with, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Second)
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		w.subscribe("c")
		after(time.Minute)
		w.wantTopics("a", "c")
		if n, shards := w.net.Dials(), w.m.ShardCount(); n != 2 || shards != 1 {
			t.Errorf("%d dials, %d shards: c has b's place", n, shards)
		}
	})
}

// TestWhatADrainLeavesUnreadIsMissed: where the old connection of a switchover closed as it should, but a slow handler left some
// of what it had brought unread, that lies in a gap.
func TestWhatADrainLeavesUnreadIsMissed(t *testing.T) {
	cfg := noJitter()
	cfg.Switchover.DrainTimeout = 100 * time.Millisecond
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if msg.String() == "a:slow" {
				time.Sleep(3 * time.Second) // more than ten times DrainTimeout
			}
		}
		w.topics.Ack(true)
		w.start("a")
		after(time.Second)
		c := w.hot(0)
		after(240 * time.Millisecond)
		w.srv.Conn(0).Send("a:slow")
		w.srv.Conn(0).Send("a:lost")
		sent := time.Now()
		<-c.done
		after(time.Second)
		evs := w.app.takeEvents(wsshard.EventGap)
		if len(evs) != 1 || evs[0].From.After(sent) || !slices.Equal(evs[0].Subs, []string{"a"}) {
			t.Errorf("gaps %+v, want one of a, from %v at the latest", evs, sent)
		}
		if c.err != nil || slices.Contains(w.app.take(), "a:lost") {
			t.Errorf("HotSwitchover: %v, and nothing was left unread", c.err)
		}
	})
}

// TestWhatAGoexitLeavesUnreadIsMissed: a gap begins where the reader was when a callback took its goroutine away, not with the
// last frame that has come since.
func TestWhatAGoexitLeavesUnreadIsMissed(t *testing.T) {
	for name, leave := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panic(errTest) }} {
		t.Run(name, func(t *testing.T) {
			cfg := noJitter()
			cfg.Connection.LowLatencyMode = true
			bubble(t, cfg, withTagAcks, func(w *world) {
				w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
					if msg.String() == "a:slow" {
						time.Sleep(3 * time.Second)
						leave()
					}
				}
				w.topics.Ack(true)
				w.start("a")
				after(time.Second)
				w.srv.Conn(0).Send("a:slow")
				after(100 * time.Millisecond)
				sent := time.Now()
				w.srv.Conn(0).Send("a:lost")
				after(10 * time.Second)
				evs := w.app.takeEvents(wsshard.EventGap)
				if len(evs) != 1 || evs[0].From.After(sent) || evs[0].To.Before(sent) {
					t.Errorf("gaps %+v, want one around %v", evs, sent)
				}
			})
		})
	}
}

// TestGoexitsAreCounted: a callback that takes its goroutine away is counted, also when its connection had ended before.
func TestGoexitsAreCounted(t *testing.T) {
	bubble(t, noJitter(), withTags, func(w *world) {
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) {
			time.Sleep(time.Second)
			runtime.Goexit()
		}
		w.start("a")
		w.srv.Conn(0).Send("a:1")
		after(100 * time.Millisecond)
		if err := w.m.Reconnect(0); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		if n := w.m.Metrics().HandlerPanics; n != 1 {
			t.Errorf("%d panics are counted, want 1", n)
		}
	})
}
