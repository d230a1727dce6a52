package switchover

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: when does the gap of a switchover end?

// TestGapEndsWithTheLastProof: where the old connection is lost during the overlap, what it carried is missed until all of
// that is proven on the new one, also what was asked for when the new one had proven everything else.
func TestGapEndsWithTheLastProof(t *testing.T) {
	for name, pace := range map[string]wsshard.SubscribeConfig{
		"written":   {},
		"unwritten": {MessagesPerWindow: 3, Window: time.Second}, // OnConnect's, a's, and one place kept for pongs
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Subscribe = pace
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				harness.After(10 * time.Second)
				w.App.Connect = connectGreeting
				c := w.Hot(0)
				harness.After(100 * time.Millisecond)
				w.Topics.Ack(false)
				w.Subscribe("x")
				harness.After(10 * time.Millisecond)
				w.Srv.Conn(0).Send("ack:x")
				w.Srv.Conn(0).Send("x:1")
				last := time.Now()
				harness.After(10 * time.Millisecond)
				w.Srv.Conn(0).Reset()
				c.Want(t, nil, 120*time.Millisecond)
				harness.After(2 * time.Second)
				w.WantNoGap()
				w.Srv.Conn(1).Send("ack:x")
				w.WantGap(last, time.Now(), "a", "x")
				w.WantTopics("a", "x")
			})
		})
	}
}

// buried takes a second to hear of the end of a connection.
type buried struct{ harness.TaggedAcks }

func (h buried) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	time.Sleep(time.Second)
	h.TaggedAcks.OnDisconnect(ctx, cause, st)
}

// TestGapWaitsForNothingNew: what is asked for while the old connection is being buried has nothing to do with the gap, and is
// never waited for.
func TestGapWaitsForNothingNew(t *testing.T) {
	with := func(a *harness.App) wsshard.Handler[string] {
		return buried{harness.TaggedAcks{Tagged: harness.Tagged{App: a}}}
	}
	harness.Bubble(t, harness.NoJitter(), with, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		harness.After(10 * time.Second)
		w.Hot(0)
		harness.After(100 * time.Millisecond)
		w.Srv.Conn(0).Send("a:1")
		last := time.Now()
		harness.After(10 * time.Millisecond)
		w.Srv.Conn(0).Reset()
		proven := time.Now().Add(-110 * time.Millisecond)
		harness.After(500 * time.Millisecond)
		w.Topics.Ack(false)
		w.Subscribe("x")
		harness.After(2 * time.Second)
		w.WantGap(last, proven, "a")
		w.Srv.Conn(1).Send("ack:x")
		w.WantNoGap()
	})
}

func connectGreeting(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
	return []wsshard.Message{wsshard.Text("hello")}, nil
}

// TestGapOfTruncatedDrain: an old connection that breaks off in the middle of a message did not deliver all it had.
func TestGapOfTruncatedDrain(t *testing.T) {
	for name, part := range map[string][]byte{
		"header":          {0x81},
		"payload":         {0x81, 4, 'a', ':'},
		"first fragment":  {0x01, 3, 'a', ':', '1'},
		"nothing":         {},
		"a whole message": {0x81, 3, 'a', ':', '1'},
		"part of a ping":  {0x89, 3, 'x'},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						p.Conn().SetCloseHandler(func(int, string) error {
							p.Net().Write(part)
							p.Kill()
							return nil
						})
					}
				})
				w.Start("a")
				w.Hot(0).Want(t, nil, harness.DefaultLinger)
				gaps := len(w.App.TakeEvents(wsshard.EventGap))
				if want := name != "nothing" && name != "a whole message"; gaps == 1 != want {
					t.Errorf("%d gaps, want one: %v", gaps, want)
				}
			})
		})
	}
}

// TestGapOfOneThatClosedEarly: a server that closes the old connection before the new one is ready has kept from both what came in
// between. A reader that is busy cannot see when that was: the gap begins with what it had read last, and ends with the proof. Where
// it was up to date when the new one was ready, the server had not closed by then, and nothing is missed.
func TestGapOfOneThatClosedEarly(t *testing.T) {
	for name, early := range map[string]bool{"before the proof": true, "after the proof": false} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Health.PingInterval = harness.Off
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
					if msg.String() == "a:slow" {
						time.Sleep(3 * time.Second)
					}
				}
				w.Topics.Ack(true)
				w.Start("a")
				harness.After(time.Second)
				w.Topics.Ack(false)
				c := w.Hot(0)
				harness.After(100 * time.Millisecond)
				var read time.Time
				closes := func() {
					read = time.Now()
					w.Srv.Conn(0).Send("a:slow")
					harness.After(50 * time.Millisecond)
					w.Srv.Conn(0).Send("a:1")
					w.Srv.Conn(0).Close(1001, "")
					harness.After(50 * time.Millisecond)
				}
				if early {
					closes()
				}
				w.Srv.Conn(1).Send("ack:a")
				proven := time.Now()
				harness.After(50 * time.Millisecond)
				if !early {
					closes()
				}
				<-c.Done
				harness.After(time.Second)
				if got := w.App.Take(); c.Err != nil || !slices.Contains(got, "a:1") {
					t.Errorf("HotSwitchover: %v, delivered %q: all that came before the close", c.Err, got)
				}
				if early {
					w.WantGap(read, proven, "a")
				} else {
					w.WantNoGap()
				}
			})
		})
	}
}

// TestGapOfWhatIsWantedAnew: a topic that is taken back and wanted anew while the old connection delivers its last is on that one, if
// nobody can tell it otherwise; on the new one it is proven by the answer to its new request alone. What lies in between is a gap.
func TestGapOfWhatIsWantedAnew(t *testing.T) {
	for _, tt := range []struct {
		name     string
		pace     int // frames in a minute
		answered bool
	}{
		{"answered before the old connection is done", 10, true},
		{"answered after it", 10, false},
		{"not even asked for by then", 2, false}, // one of them is kept for pongs
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Health.PingInterval = harness.Off
			cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: tt.pace, Window: time.Minute, AckTimeout: harness.Off}
			with := func(a *harness.App) wsshard.Handler[string] {
				tags := harness.TaggedAcks{Tagged: harness.Tagged{App: a}}
				return struct {
					wsshard.Handler[string]
					wsshard.Inspector[string]
					wsshard.Acknowledger[string]
					wsshard.EventObserver[string]
				}{a, tags, tags, a}
			}
			harness.Bubble(t, cfg, with, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				harness.After(10 * time.Minute)
				var closing time.Time
				harness.SlowClose(w.Srv.Conn(0), &closing, time.Second)
				c := w.Hot(0)
				harness.After(500 * time.Millisecond) // Linger is over: it drains
				w.Topics.Ack(false)
				w.M.Unsubscribe("a")
				w.Subscribe("a")
				harness.After(100 * time.Millisecond)
				if tt.answered {
					w.Srv.Conn(1).Send("ack:a")
				}
				<-c.Done
				done := time.Now()
				harness.After(90 * time.Second)
				w.WantNoGap()
				w.Srv.Conn(1).Send("ack:a")
				if tt.answered {
					w.WantNoGap()
				} else {
					w.WantGap(done, time.Now(), "a")
				}
				if c.Err != nil || closing.IsZero() {
					t.Errorf("HotSwitchover: %v, and nothing was asked for anew", c.Err)
				}
			})
		})
	}
}

// TestGapOfWhatIsAskedForOnceMore: what the new connection was refused and has asked for once more before the old one is lost is missed
// until that request is answered. The refusal is no end of it: it was given to the request before.
func TestGapOfWhatIsAskedForOnceMore(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b")
		w.Answer("ack 0 +a,b")
		harness.After(time.Second)
		c := w.Hot(0)
		w.Answer("ack 0 +b -a")
		harness.After(10 * time.Millisecond)
		w.M.Resubscribe("a")
		harness.After(10 * time.Millisecond)
		w.Srv.Conn(0).Send("a:1")
		last := time.Now()
		w.WantWritten("+a,b", "+a")
		w.Srv.Conn(0).Reset()
		<-c.Done
		harness.After(time.Second)
		w.WantNoGap()
		w.Answer("ack 0 +a")
		w.WantGap(last, time.Now(), "a", "b")
		if c.Err != nil {
			t.Error(c.Err)
		}
	})
}
