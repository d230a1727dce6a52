package switchover

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what of a connection's promises passes to the next one, and what does not?

// TestReadinessIsAskedAgainAtTheCutover: what the old connection writes after the new one was found ready, and before it is kept
// from writing, is on the new one before that takes over.
func TestReadinessIsAskedAgainAtTheCutover(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		harness.After(time.Second)
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if slices.Contains(req.Subs, "x") { // the old one is in here when it is to stop writing; the new one for longer
				time.Sleep(map[uint64]time.Duration{1: 400 * time.Millisecond, 2: 3 * time.Second}[req.State.Generation])
			}
			return harness.AsTopics(sign, req)
		}
		c := w.Hot(0)
		harness.After(100 * time.Millisecond)
		w.Subscribe("x")
		harness.After(time.Second)
		w.App.Take()
		w.Topics.Publish("x", "1")
		harness.After(time.Second)
		w.WantGot("x:1")
		<-c.Done
		if c.Err != nil || c.Ended.Sub(c.Began) < 3*time.Second {
			t.Errorf("HotSwitchover: %v after %v: x is not there yet", c.Err, c.Ended.Sub(c.Began))
		}
		w.WantNoGap()
		w.WantTopics("a", "x")
	})
}

// TestOnlyWhatDeliversEndsAGap: what is proven on the next connection of a switchover ends no gap before that one delivers: it
// may never come to.
func TestOnlyWhatDeliversEndsAGap(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		harness.After(time.Second)
		w.Topics.Ack(false)
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		c := w.Hot(0)
		w.Srv.Conn(2).Send("ack:+a")
		harness.After(100 * time.Millisecond) // within Linger
		w.WantNoGap()
		w.Srv.Conn(2).Reset()
		<-c.Done
		harness.After(time.Second)
		w.WantNoGap()
		w.Srv.Conn(1).Send("ack:+a")
		harness.After(0)
		if evs := w.App.TakeEvents(wsshard.EventGap); len(evs) != 1 || !evs[0].To.Equal(time.Now()) || evs[0].Generation != 2 {
			t.Errorf("gaps %+v, want one that ends now, by generation 2", evs)
		}
	})
}

// doubting asks for a snapshot of whatever says that it is bad.
type doubting struct{ harness.Snapshots }

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
	with := func(a *harness.App) wsshard.Handler[string] { return doubting{harness.Snapshots{App: a}} }
	harness.Bubble(t, harness.NoJitter(), with, func(w *harness.World) {
		w.Start("a")
		w.Srv.Conn(0).Send("a:bad")
		w.Srv.Conn(0).Send("a:bad")
		w.WantWire(0, "+a", "=a")
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.Srv.Conn(1).Send("a:bad")
		w.WantWire(1, "+a", "=a")
	})
}

// TestPlacesAreFreeOnTheNextConnection: what was unsubscribed without a message for it takes its place until the connection is
// replaced, and no longer.
func TestPlacesAreFreeOnTheNextConnection(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.MaxSubscriptionsPerShard = 2
	with := func(a *harness.App) wsshard.Handler[string] { return struct{ wsshard.Handler[string] }{a} }
	harness.Bubble(t, cfg, with, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Second)
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		harness.After(5 * time.Second)
		w.Subscribe("c")
		harness.After(time.Minute)
		w.WantTopics("a", "c")
		if n, shards := w.Net.Dials(), w.M.ShardCount(); n != 2 || shards != 1 {
			t.Errorf("%d dials, %d shards: c has b's place", n, shards)
		}
	})
}

// TestWhatADrainLeavesUnreadIsMissed: where the old connection of a switchover closed as it should, but a slow handler left some
// of what it had brought unread, that lies in a gap.
func TestWhatADrainLeavesUnreadIsMissed(t *testing.T) {
	for name, sends := range map[string]func(p *wstest.Peer){
		"in the socket": func(p *wstest.Peer) {
			p.Send("a:slow")
			p.Send("a:lost")
		},
		"read already, and the close frame with it": func(p *wstest.Peer) { // one packet
			p.Net().Write([]byte("\x81\x06a:slow\x81\x06a:lost\x88\x02\x03\xe8"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Switchover.DrainTimeout = 100 * time.Millisecond
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
					if msg.String() == "a:slow" {
						time.Sleep(3 * time.Second) // more than ten times DrainTimeout
					}
				}
				w.Topics.Ack(true)
				w.Start("a")
				harness.After(time.Second)
				c := w.Hot(0)
				harness.After(240 * time.Millisecond)
				sends(w.Srv.Conn(0))
				sent := time.Now()
				<-c.Done
				harness.After(time.Second)
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) != 1 || evs[0].From.After(sent) || !slices.Equal(evs[0].Subs, []string{"a"}) {
					t.Errorf("gaps %+v, want one of a, from %v at the latest", evs, sent)
				}
				if c.Err != nil || slices.Contains(w.App.Take(), "a:lost") {
					t.Errorf("HotSwitchover: %v, and nothing was left unread", c.Err)
				}
			})
		})
	}
}

// TestWhatAGoexitLeavesUnreadIsMissed: a gap begins where the reader was when a callback took its goroutine away, not with the
// last frame that has come since.
func TestWhatAGoexitLeavesUnreadIsMissed(t *testing.T) {
	for name, leave := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panic(harness.ErrTest) }} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Connection.LowLatencyMode = true
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
					if msg.String() == "a:slow" {
						time.Sleep(3 * time.Second)
						leave()
					}
				}
				w.Topics.Ack(true)
				w.Start("a")
				harness.After(time.Second)
				w.Srv.Conn(0).Send("a:slow")
				harness.After(100 * time.Millisecond)
				sent := time.Now()
				w.Srv.Conn(0).Send("a:lost")
				harness.After(10 * time.Second)
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) != 1 || evs[0].From.After(sent) || evs[0].To.Before(sent) {
					t.Errorf("gaps %+v, want one around %v", evs, sent)
				}
			})
		})
	}
}

// TestGoexitsAreCounted: a callback that takes its goroutine away is counted, also when its connection had ended before.
func TestGoexitsAreCounted(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) {
			time.Sleep(time.Second)
			runtime.Goexit()
		}
		w.Start("a")
		w.Srv.Conn(0).Send("a:1")
		harness.After(100 * time.Millisecond)
		if err := w.M.Reconnect(0); err != nil {
			t.Fatal(err)
		}
		harness.After(5 * time.Second)
		if n := w.M.Metrics().HandlerPanics; n != 1 {
			t.Errorf("%d panics are counted, want 1", n)
		}
	})
}
