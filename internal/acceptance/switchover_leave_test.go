package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestGapOfOneThatWasBehind: a callback that takes the connection along while its reader is behind leaves a gap from where the
// reader was, not from the frame that it had read last: what came behind that is lost unread. So it is where a reader waits in
// hold, and where held messages are being delivered.
func TestGapOfOneThatWasBehind(t *testing.T) {
	for _, low := range []bool{false, true} {
		for _, kind := range leaves {
			if !low && kind.name != "Goexit" {
				continue // it costs its message only
			}
			for _, when := range []string{"plain", "flushing"} {
				t.Run(fmt.Sprint(kind.name, " lowLatency=", low, " ", when), func(t *testing.T) {
					if when == "flushing" && kind.name != "Goexit" {
						t.Skip("held messages have a guard each")
					}
					cfg := noJitter()
					cfg.Connection.LowLatencyMode = low
					cfg.Health.PingInterval = off
					cfg.Switchover.HoldMessages = 4
					bubble(t, cfg, withTags, func(w *world) {
						w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
							switch {
							case strings.HasSuffix(msg.String(), "leave"):
								kind.leave()
							case strings.HasSuffix(msg.String(), "slow"):
								time.Sleep(time.Second)
							}
						}
						w.start("a")
						p := w.srv.Conn(0)
						if when == "flushing" {
							w.hot(0)
							p = w.srv.Conn(1)
							p.Send("a:slow")
							p.Send("a:slow")
							after(linger)
						} else {
							p.Send("a:slow")
						}
						after(500 * time.Millisecond)
						for range 3 { // while the handler sleeps
							p.Send("a:slow")
						}
						after(time.Second)
						p.Send("a:leave")
						after(time.Second)
						p.Send("a:lost")
						lost := time.Now()
						after(10 * time.Second)
						evs := w.app.takeEvents(wsshard.EventGap)
						if len(evs) == 0 || evs[len(evs)-1].From.After(lost) {
							t.Errorf("gaps %+v, though what was sent at %v is lost", evs, lost)
						}
					})
				})
			}
		}
	}
}
