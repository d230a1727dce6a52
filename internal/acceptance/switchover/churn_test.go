package switchover

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does a switchover end while topics come and go all the time?

// TestSwitchoverUnderChurn: topics that come and go without a pause do not keep a switchover from its end, and none is lost.
func TestSwitchoverUnderChurn(t *testing.T) {
	for name, handler := range map[string]func(*harness.App) wsshard.Handler[string]{
		"nothing": nil, "data": harness.WithTags, "answers": harness.WithTagAcks, "detector": withDetector,
	} {
		for _, every := range []time.Duration{7 * time.Millisecond, 100 * time.Millisecond} {
			t.Run(fmt.Sprint(name, ", every ", every), func(t *testing.T) {
				cfg := harness.NoJitter()
				if name == "nothing" { // a topic that leaves and comes back looks, at this pace, like one that is asked for again
					cfg.Subscribe.MessagesPerWindow = 10
					cfg.Switchover.Settle = 2 * time.Second
				}
				harness.Bubble(t, cfg, handler, func(w *harness.World) {
					w.Topics.Ack(true)
					w.Net.SetLatency(200 * time.Millisecond)
					w.Start(harness.Numbered(5)...)
					harness.After(5 * time.Second)
					stop, gone := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(gone)
						for i := 0; ; i++ {
							select {
							case <-stop:
								return
							case <-time.After(every):
							}
							w.M.Subscribe(fmt.Sprintf("x%d", i%50))
							w.M.Unsubscribe(fmt.Sprintf("x%d", (i+25)%50))
							for _, p := range w.Srv.Live() {
								p.Send("live")
							}
							for topic := range w.Topics.All() {
								w.Topics.Publish(topic, fmt.Sprint("k", i))
							}
						}
					}()
					harness.After(time.Second)
					c := w.Hot(0)
					harness.After(10 * time.Second)
					if !c.Over() {
						t.Error("it does not end")
					} else if c.Err != nil {
						t.Error(c.Err)
					}
					close(stop)
					<-gone
					harness.After(10 * time.Second)
					w.WantTopics(w.M.ShardSubscriptions(0)...)
					w.WantNoGap()
				})
			})
		}
	}
}
