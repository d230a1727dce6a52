package gaps

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what is known of a topic that the old connection of a switchover had unsubscribed, to ask for it again?

// It is on neither connection until the next one, which has not been asked before the cutover, has it.
func TestGapOfATopicThatIsOffAtTheCut(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 1, Window: 2 * time.Second}
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b")
		harness.After(10 * time.Second)
		w.Topics.Ack(false)
		w.M.Unsubscribe("b")
		w.M.Subscribe("b")
		call := w.Hot(0)
		w.Srv.Conn(1).Send("ack:+a")
		harness.After(time.Second)
		if !call.Over() || call.Err != nil {
			t.Fatalf("it is over: %v, %v", call.Over(), call.Err)
		}
		w.WantNoGap() // yet: nobody has answered for b
		harness.After(2 * time.Second)
		w.Srv.Conn(1).Send("ack:+b")
		harness.After(time.Second)
		evs := w.App.TakeEvents(wsshard.EventGap)
		if len(evs) != 1 || len(evs[0].Subs) != 1 || evs[0].Subs[0] != "b" || !evs[0].To.Equal(time.Now().Add(-time.Second)) {
			t.Errorf("gaps %+v, want one of b", evs)
		}
	})
}
