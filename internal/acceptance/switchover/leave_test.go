package switchover

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what of a connection that is behind when it is replaced?

// TestGapOfOneThatWasBehind: a callback that takes the connection along while its reader is behind leaves a gap from where the
// reader was, not from the frame that it had read last: what came behind that is lost unread. So it is where a reader waits in
// hold, and where held messages are being delivered.
func TestGapOfOneThatWasBehind(t *testing.T) {
	for _, low := range []bool{false, true} {
		for _, kind := range harness.WaysOut {
			if !low && kind.Name != "Goexit" {
				continue // it costs its message only
			}
			for _, when := range []string{"plain", "flushing"} {
				t.Run(fmt.Sprint(kind.Name, " lowLatency=", low, " ", when), func(t *testing.T) {
					if when == "flushing" && kind.Name != "Goexit" {
						t.Skip("held messages have a guard each")
					}
					cfg := harness.NoJitter()
					cfg.Connection.LowLatencyMode = low
					cfg.Health.PingInterval = harness.Off
					cfg.Switchover.HoldMessages = 4
					harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
						w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
							switch {
							case strings.HasSuffix(msg.String(), "leave"):
								kind.Leave()
							case strings.HasSuffix(msg.String(), "slow"):
								time.Sleep(time.Second)
							}
						}
						w.Start("a")
						p := w.Srv.Conn(0)
						if when == "flushing" {
							w.Hot(0)
							p = w.Srv.Conn(1)
							p.Send("a:slow")
							p.Send("a:slow")
							harness.After(harness.DefaultLinger)
						} else {
							p.Send("a:slow")
						}
						harness.After(500 * time.Millisecond)
						for range 3 { // while the handler sleeps
							p.Send("a:slow")
						}
						harness.After(time.Second)
						p.Send("a:leave")
						harness.After(time.Second)
						p.Send("a:lost")
						lost := time.Now()
						harness.After(10 * time.Second)
						evs := w.App.TakeEvents(wsshard.EventGap)
						if len(evs) == 0 || evs[len(evs)-1].From.After(lost) {
							t.Errorf("gaps %+v, though what was sent at %v is lost", evs, lost)
						}
					})
				})
			}
		}
	}
}
