package switchover

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: may topics come and go during a switchover?

// resubscribing is an app that can ask again.
type resubscribing struct{ harness.TaggedAcks }

func (r resubscribing) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return r.Request("=", req)
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
	handlers := []func(*harness.App) wsshard.Handler[string]{
		nil, harness.WithTags, harness.WithTagAcks, withDetector,
		func(a *harness.App) wsshard.Handler[string] {
			return resubscribing{harness.TaggedAcks{Tagged: harness.Tagged{App: a}}}
		},
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		cfg := harness.NoJitter()
		cfg.Subscribe.MaxPerMessage = []int{0, 1, 3}[rnd.IntN(3)]
		cfg.Subscribe.MessagesPerWindow = []int{0, 0, 5}[rnd.IntN(3)]
		cfg.Switchover.Settle = []time.Duration{0, harness.Off, 100 * time.Millisecond}[rnd.IntN(3)]
		cfg.Switchover.Linger = []time.Duration{0, harness.Off, 20 * time.Millisecond}[rnd.IntN(3)]
		harness.Bubble(t, cfg, handlers[rnd.IntN(len(handlers))], func(w *harness.World) {
			w.Topics.Ack(true)
			w.Net.SetLatency(time.Duration(rnd.IntN(3)) * 10 * time.Millisecond)
			w.Srv.OnOpen(func(p *wstest.Peer) {
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
			topics := harness.Numbered(12)
			w.Start(topics[:6]...)
			harness.After(2 * time.Second)
			var all sync.WaitGroup
			at := func(do func()) {
				d := time.Duration(rnd.IntN(150)) * 10 * time.Millisecond // often in one instant with something else
				all.Go(func() { time.Sleep(d); do() })
			}
			for range 2 {
				ctx, cancel := context.WithCancel(context.Background())
				at(func() { w.M.HotSwitchover(ctx, 0) })
				for range rnd.IntN(30) {
					some := topics[rnd.IntN(12):]
					some = some[:min(len(some), 1+rnd.IntN(4))]
					switch rnd.IntN(3) {
					case 0:
						at(func() { w.M.Subscribe(some...) })
					case 1:
						at(func() { w.M.Unsubscribe(some...) })
					default:
						at(func() { w.M.Resubscribe(some...) })
					}
				}
				switch rnd.IntN(8) {
				case 0:
					at(cancel)
				case 1:
					at(func() { w.M.Reconnect(0) })
				case 2:
					at(func() { w.Srv.Live()[0].Reset() })
				case 3:
					at(func() { live := w.Srv.Live(); live[len(live)-1].Close(1012, "") })
				}
				all.Wait()
				cancel()
			}
			harness.After(30 * time.Second)
			w.WantTopics(w.M.ShardSubscriptions(0)...)
			if n := len(w.Srv.Live()); n != 1 {
				t.Errorf("%d connections are open", n)
			}
			w.Sync()
			w.App.Take()
			want := []string{}
			for _, topic := range slices.Sorted(slices.Values(w.M.ShardSubscriptions(0))) {
				w.Topics.Publish(topic, "last")
				want = append(want, topic+":last")
			}
			harness.After(time.Second)
			if got := slices.DeleteFunc(w.App.Take(), func(text string) bool { return text == "live" }); !slices.Equal(got, want) {
				t.Errorf("delivered %q, want %q", got, want)
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// What is unsubscribed before it was answered is nothing to wait for: not in a switchover either.
func TestSwitchoverForgetsTheUnsubscribed(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), harness.NewCourtier, func(w *harness.World) {
		w.Begin("a", "b")
		harness.After(time.Second)
		w.Srv.Conn(0).Send("ack 0 +a,b")
		harness.After(time.Second)
		done := make(chan error, 1)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		w.Srv.Conn(1).Send("ack 0 +a")
		harness.After(time.Second)
		w.M.Unsubscribe("b")
		harness.After(2 * time.Second)
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("HotSwitchover: %v", err)
			}
		default:
			t.Error("the new connection waits for an answer that nobody needs")
		}
		harness.After(10 * time.Second) // its unsubscription waits for the answer to the subscription, or until that is overdue
		w.WantTopics("a")
	})
}
