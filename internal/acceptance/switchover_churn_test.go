package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestSwitchoverUnderChurn: topics that come and go without a pause do not keep a switchover from its end, and none is lost.
func TestSwitchoverUnderChurn(t *testing.T) {
	for name, handler := range map[string]func(*app) wsshard.Handler[string]{
		"nothing": nil, "data": withTags, "answers": withTagAcks, "detector": withDetector,
	} {
		for _, every := range []time.Duration{7 * time.Millisecond, 100 * time.Millisecond} {
			t.Run(fmt.Sprint(name, ", every ", every), func(t *testing.T) {
				cfg := noJitter()
				if name == "nothing" { // a topic that leaves and comes back looks, at this pace, like one that is asked for again
					cfg.Subscribe.MessagesPerWindow = 10
					cfg.Switchover.Settle = 2 * time.Second
				}
				bubble(t, cfg, handler, func(w *world) {
					w.topics.Ack(true)
					w.net.SetLatency(200 * time.Millisecond)
					w.start(numbered(5)...)
					after(5 * time.Second)
					stop, gone := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(gone)
						for i := 0; ; i++ {
							select {
							case <-stop:
								return
							case <-time.After(every):
							}
							w.m.Subscribe(fmt.Sprintf("x%d", i%50))
							w.m.Unsubscribe(fmt.Sprintf("x%d", (i+25)%50))
							for _, p := range w.srv.Live() {
								p.Send("live")
							}
							for topic := range w.topics.All() {
								w.topics.Publish(topic, fmt.Sprint("k", i))
							}
						}
					}()
					after(time.Second)
					c := w.hot(0)
					after(10 * time.Second)
					if !c.over() {
						t.Error("it does not end")
					} else if c.err != nil {
						t.Error(c.err)
					}
					close(stop)
					<-gone
					after(10 * time.Second)
					w.wantTopics(w.m.ShardSubscriptions(0)...)
					w.wantNoGap()
				})
			})
		}
	}
}
