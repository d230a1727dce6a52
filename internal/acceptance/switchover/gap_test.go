package switchover

import (
	"context"
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
