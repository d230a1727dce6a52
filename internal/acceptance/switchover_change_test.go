package acceptance

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// resubscribing is an app that can ask again.
type resubscribing struct{ taggedAcks }

func (r resubscribing) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return r.request("=", req)
}

var _ wsshard.Resubscriber[string] = resubscribing{}

// TestChangesDuringSwitchover draws from a seed what is asked for at which moment of two switchovers, some of which are given
// up, broken by a Reconnect or lose a connection. In the end the server has what is wanted, each topic once, and nobody asked
// for what made no sense.
func TestChangesDuringSwitchover(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 30
	}
	handlers := []func(*app) wsshard.Handler[string]{
		nil, withTags, withTagAcks, withDetector,
		func(a *app) wsshard.Handler[string] { return resubscribing{taggedAcks{tagged{a}}} },
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		cfg := noJitter()
		cfg.Subscribe.MaxPerMessage = []int{0, 1, 3}[rnd.IntN(3)]
		cfg.Subscribe.MessagesPerWindow = []int{0, 0, 5}[rnd.IntN(3)]
		cfg.Switchover.Settle = []time.Duration{0, off, 100 * time.Millisecond}[rnd.IntN(3)]
		cfg.Switchover.Linger = []time.Duration{0, off, 20 * time.Millisecond}[rnd.IntN(3)]
		bubble(t, cfg, handlers[rnd.IntN(len(handlers))], func(w *world) {
			w.topics.Ack(true)
			w.net.SetLatency(time.Duration(rnd.IntN(3)) * 10 * time.Millisecond)
			w.srv.OnOpen(func(p *wstest.Peer) {
				go func() { // for the detector
					for {
						select {
						case <-p.Gone():
							return
						case <-time.After(30 * time.Millisecond):
							p.Send("live")
						}
					}
				}()
			})
			topics := numbered(12)
			w.start(topics[:6]...)
			after(2 * time.Second)
			var all sync.WaitGroup
			at := func(do func()) {
				d := time.Duration(rnd.IntN(150)) * 10 * time.Millisecond // often in one instant with something else
				all.Go(func() { time.Sleep(d); do() })
			}
			for range 2 {
				ctx, cancel := context.WithCancel(context.Background())
				at(func() { w.m.HotSwitchover(ctx, 0) })
				for range rnd.IntN(30) {
					some := topics[rnd.IntN(12):]
					some = some[:min(len(some), 1+rnd.IntN(4))]
					switch rnd.IntN(3) {
					case 0:
						at(func() { w.m.Subscribe(some...) })
					case 1:
						at(func() { w.m.Unsubscribe(some...) })
					default:
						at(func() { w.m.Resubscribe(some...) })
					}
				}
				switch rnd.IntN(8) {
				case 0:
					at(cancel)
				case 1:
					at(func() { w.m.Reconnect(0) })
				case 2:
					at(func() { w.srv.Live()[0].Reset() })
				case 3:
					at(func() { live := w.srv.Live(); live[len(live)-1].Close(1012, "") })
				}
				all.Wait()
				cancel()
			}
			after(30 * time.Second)
			w.wantTopics(w.m.ShardSubscriptions(0)...)
			if n := len(w.srv.Live()); n != 1 {
				t.Errorf("%d connections are open", n)
			}
			w.sync()
			w.app.take()
			want := []string{}
			for _, topic := range slices.Sorted(slices.Values(w.m.ShardSubscriptions(0))) {
				w.topics.Publish(topic, "last")
				want = append(want, topic+":last")
			}
			after(time.Second)
			if got := slices.DeleteFunc(w.app.take(), func(text string) bool { return text == "live" }); !slices.Equal(got, want) {
				t.Errorf("delivered %q, want %q", got, want)
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
