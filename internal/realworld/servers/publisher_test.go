package servers

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: who publishes, at which rate?

// publisher publishes through nats.go.
type publisher struct {
	nc   *nats.Conn
	book *account
	pad  func(number int) int // bytes to add to a payload; nil: none
}

// round publishes one message for each subject. true: the server has them all.
func (p *publisher) round(subjects ...string) (sure bool) {
	numbers := make([]int, len(subjects))
	sure = true
	for i, subject := range subjects {
		var payload []byte
		payload, numbers[i] = p.book.enter(subject)
		if p.pad != nil {
			payload = append(append(payload, ' '), bytes.Repeat([]byte{'x'}, p.pad(numbers[i]))...)
		}
		sure = p.nc.Publish(subject, payload) == nil && sure
	}
	if sure = sure && p.nc.FlushTimeout(program.Limit) == nil; !sure {
		for i, subject := range subjects {
			p.book.doubt(subject, numbers[i])
		}
	}
	return sure
}

// run publishes the rounds again and again, each at once and at most one a millisecond: so few messages share a frame. It
// makes so many messages a second, and returns when ctx ends.
func (p *publisher) run(ctx context.Context, rounds [][]string, perSecond int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	published, begin := 0, time.Now()
	for i := 0; ; {
		if due := int(time.Since(begin).Seconds() * float64(perSecond)); published < due && p.nc.IsConnected() {
			round := rounds[i%len(rounds)]
			i++
			if published += len(round); !p.round(round...) {
				begin, published = time.Now(), 0 // the server is away: nothing to catch up with
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// background runs run until the returned function is called, which waits for its end.
func (p *publisher) background(rounds [][]string, perSecond int) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { p.run(ctx, rounds, perSecond) })
	return func() {
		cancel()
		done.Wait()
	}
}

// rounds puts one subject of each shard into each round, so that each goes to a connection of its own.
func rounds(m *wsshard.ShardManager[string], subjects []string) (rounds [][]string) {
	return roundsOver(subjects, func(subject string) int {
		shard, _ := m.SubscriptionShard(subject)
		return shard
	})
}

func roundsOver(subjects []string, shardOf func(subject string) int) (rounds [][]string) {
	of := make(map[int]int)
	for _, subject := range subjects {
		shard := shardOf(subject)
		i := of[shard]
		if of[shard]++; i == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[i] = append(rounds[i], subject)
	}
	return rounds
}

func numbered(prefix string, n int) []string {
	subjects := make([]string, n)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("%s.%d", prefix, i)
	}
	return subjects
}

func synced(t *testing.T, s *Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), program.Limit)
	defer cancel()
	if err := s.Manager.Sync(ctx); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

func stop(t *testing.T, s *Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), program.Limit)
	defer cancel()
	if err := s.Manager.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}
