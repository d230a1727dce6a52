package servers

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: does a hot switchover on a real server lose or repeat anything?

func TestHundredSwitchoversLoseNothing(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(*natsServer)
	}{{"plain", func(*natsServer) {}}, {"tls", secured}} {
		t.Run(test.name, func(t *testing.T) {
			const shards, switchovers, rate = 20, 100, 10_000
			n, book, subjects := startNATS(t, test.server), newAccount(), numbered("hot", 10*shards)
			s := n.subscriber(book, wsshard.Config{
				MaxSubscriptionsPerShard: 10,
				Switchover:               wsshard.SwitchoverConfig{Linger: 100 * time.Millisecond, Timeout: 3 * time.Second},
			}, subjects...)
			p := &publisher{nc: n.dial(), book: book}
			began := time.Now()
			end := p.background(rounds(s.Manager, subjects), rate)

			took := make([]time.Duration, switchovers)
			var workers sync.WaitGroup
			for w := range 4 {
				workers.Go(func() {
					for i := w; i < switchovers; i += 4 {
						ctx, cancel := context.WithTimeout(t.Context(), program.Limit)
						begin := time.Now()
						if err := s.Manager.HotSwitchover(ctx, i%shards); err != nil {
							t.Errorf("switchover %d: %v", i, err)
						}
						took[i] = time.Since(begin)
						cancel()
					}
				})
			}
			workers.Wait()
			end()
			p.round(subjects...) // a message lost just now shows as missing
			book.caughtUp(t)
			elapsed := time.Since(began)
			n.wantSubscriptions(s, subjects)
			stop(t, s) // every event has been heard

			sum, metrics := book.close(t), s.Manager.Metrics()
			slices.Sort(took)
			proofs, held, dropped := make(map[string]int), 0, 0
			for _, r := range book.Reports {
				proofs[r.Proof]++
				held += r.Held
				dropped += r.Dropped
			}
			t.Logf("%d switchovers of %d shards under %.0f messages/s: %v", len(book.Reports), shards, float64(sum.published)/elapsed.Seconds(), sum)
			t.Logf("proofs %v, held %d, duplicates dropped %d, Gap events %d; a switchover took p50 %v, p99 %v", proofs, held, metrics.DuplicatesDropped, len(book.Gaps),
				took[switchovers/2].Round(time.Millisecond), took[switchovers*99/100].Round(time.Millisecond))
			// A machine that is slow may cut without proof, and says so each time.
			if len(book.Reports) != switchovers || len(book.Gaps) != proofs["none"] || metrics.Errors != 0 {
				t.Errorf("%d switchovers, %d Gap events, %d errors; want %d, %d, 0", len(book.Reports), len(book.Gaps), metrics.Errors, switchovers, proofs["none"])
			}
			if sum.received != sum.published || sum.again+sum.keyed != 0 {
				t.Errorf("%v, want all received and no duplicates", sum)
			}
			if dropped == 0 || metrics.DuplicatesDropped < uint64(dropped) {
				t.Errorf("%d duplicates dropped by the reports, %d by the metrics", dropped, metrics.DuplicatesDropped)
			}
		})
	}
}
