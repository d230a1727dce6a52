package acceptance

import (
	"context"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// TestGapEndsWithTheLastProof: where the old connection is lost during the overlap, what it carried is missed until all of
// that is proven on the new one, also what was asked for when the new one had proven everything else.
func TestGapEndsWithTheLastProof(t *testing.T) {
	for name, pace := range map[string]wsshard.SubscribeConfig{
		"written":   {},
		"unwritten": {MessagesPerWindow: 3, Window: time.Second}, // OnConnect's, a's, and one place kept for pongs
	} {
		t.Run(name, func(t *testing.T) {
			cfg := noJitter()
			cfg.Subscribe = pace
			bubble(t, cfg, withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				after(10 * time.Second)
				w.app.onConnect = connectGreeting
				c := w.hot(0)
				after(100 * time.Millisecond)
				w.topics.Ack(false)
				w.subscribe("x")
				after(10 * time.Millisecond)
				w.srv.Conn(0).Send("ack:x")
				w.srv.Conn(0).Send("x:1")
				last := time.Now()
				after(10 * time.Millisecond)
				w.srv.Conn(0).Reset()
				c.want(t, nil, 120*time.Millisecond)
				after(2 * time.Second)
				w.wantNoGap()
				w.srv.Conn(1).Send("ack:x")
				w.wantGap(last, time.Now(), "a", "x")
				w.wantTopics("a", "x")
			})
		})
	}
}

// buried takes a second to hear of the end of a connection.
type buried struct{ taggedAcks }

func (h buried) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	time.Sleep(time.Second)
	h.taggedAcks.OnDisconnect(ctx, cause, st)
}

// TestGapWaitsForNothingNew: what is asked for while the old connection is being buried has nothing to do with the gap, and is
// never waited for.
func TestGapWaitsForNothingNew(t *testing.T) {
	with := func(a *app) wsshard.Handler[string] { return buried{taggedAcks{tagged{a}}} }
	bubble(t, noJitter(), with, func(w *world) {
		w.topics.Ack(true)
		w.start("a")
		after(10 * time.Second)
		w.hot(0)
		after(100 * time.Millisecond)
		w.srv.Conn(0).Send("a:1")
		last := time.Now()
		after(10 * time.Millisecond)
		w.srv.Conn(0).Reset()
		proven := time.Now().Add(-110 * time.Millisecond)
		after(500 * time.Millisecond)
		w.topics.Ack(false)
		w.subscribe("x")
		after(2 * time.Second)
		w.wantGap(last, proven, "a")
		w.srv.Conn(1).Send("ack:x")
		w.wantNoGap()
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
			bubble(t, noJitter(), withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						p.Conn().SetCloseHandler(func(int, string) error {
							p.Net().Write(part)
							p.Kill()
							return nil
						})
					}
				})
				w.start("a")
				w.hot(0).want(t, nil, linger)
				gaps := len(w.app.takeEvents(wsshard.EventGap))
				if want := name != "nothing" && name != "a whole message"; gaps == 1 != want {
					t.Errorf("%d gaps, want one: %v", gaps, want)
				}
			})
		})
	}
}
