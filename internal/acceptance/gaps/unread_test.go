package gaps

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what is known of messages that were left unread?

// An answer to a ping that comes behind a message which was left unread says nothing of that message.
func TestSureIsBeforeWhatWasLeftUnread(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Health = wsshard.HealthConfig{DataTimeout: harness.Off, PingInterval: time.Second, PongTimeout: time.Second, FailureThreshold: 20}
	cfg.Switchover.Settle = 5 * time.Second
	check := func(w *harness.World, lost time.Time) {
		w.T.Helper()
		harness.After(time.Minute)
		evs := w.App.TakeEvents(wsshard.EventGap)
		if len(evs) != 1 || evs[0].Sure.After(lost) {
			w.T.Errorf("gaps %+v, want one that is sure of nothing after %v", evs, lost)
		}
	}
	t.Run("behind a slow handler", func(t *testing.T) {
		harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
			w.Topics.Ack(true)
			w.App.Message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) {
				if m.String() == "a:1" {
					time.Sleep(time.Second)
				}
			}
			w.Start("a")
			harness.After(20 * time.Second)
			w.Net.Conns()[0].StallRead(true)
			w.Topics.Publish("a", "1")
			lost := time.Now()
			w.Topics.Publish("a", "2")
			harness.After(5 * time.Second) // answers to pings come behind it
			w.Net.Conns()[0].StallRead(false)
			harness.After(500 * time.Millisecond)
			w.M.Reconnect(0)
			check(w, lost)
		})
	})
	t.Run("held by a switchover", func(t *testing.T) {
		harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
			cut := false
			w.App.Message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
				if st.Generation == 2 && !cut {
					cut = true
					runtime.Goexit()
				}
			}
			w.Start("a", "b")
			harness.After(20 * time.Second)
			call := w.Hot(0)
			w.Net.SetLatency(10 * time.Millisecond)
			harness.After(100 * time.Millisecond)
			next := w.Net.Conns()[1]
			next.StallRead(true)
			w.Srv.Conn(1).Send("a:1")
			lost := time.Now()
			w.Srv.Conn(1).Send("a:2")
			harness.After(2 * time.Second) // answers to pings come behind it
			next.StallRead(false)
			harness.After(10 * time.Second)
			<-call.Done
			check(w, lost)
		})
	})
}
