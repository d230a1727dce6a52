package servers

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: what does Stop leave behind?

func TestStopLeavesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		mess func(t *testing.T, n *natsServer, s *Subscriber) (over func()) // what goes on while Stop is called
	}{
		{"under traffic", func(*testing.T, *natsServer, *Subscriber) func() { return func() {} }},
		{"amid switchovers", func(t *testing.T, n *natsServer, s *Subscriber) func() {
			var all sync.WaitGroup
			for shard := range s.Manager.ShardCount() {
				all.Go(func() {
					for {
						if err := s.Manager.HotSwitchover(context.Background(), shard); errors.Is(err, wsshard.ErrStopped) {
							return
						}
					}
				})
			}
			program.Eventually(t, "a switchover is under way", func() bool { return connections(n) > s.Manager.ShardCount() })
			return all.Wait
		}},
		{"with the server gone", func(t *testing.T, n *natsServer, s *Subscriber) func() {
			n.stop()
			program.Eventually(t, "every shard has noticed", func() bool { return s.Manager.Health(1).Connected == 0 })
			return func() {}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, book, open, subjects := startNATS(t), newAccount(), &sockets{}, numbered("stop", 1_000)
			s := n.subscriber(book, wsshard.Config{
				MaxSubscriptionsPerShard: 50,
				Connection:               wsshard.ConnectionConfig{NetDialContext: open.dial},
			}, subjects...)
			p := &publisher{nc: n.dial(), book: book}
			end := p.background(rounds(s.Manager, subjects), 5_000)
			program.Eventually(t, "data flows", func() bool { return book.delivered(0) > 0 })
			over := test.mess(t, n, s)
			stop(t, s)
			if left := open.count(); left != 0 {
				t.Errorf("%d sockets are open after Stop", left)
			}
			over()
			var left []string
			program.Eventually(t, "no goroutine of the manager is left", func() bool {
				left = goroutines()
				return len(left) == 0
			})
			end()
			if len(left) > 0 {
				t.Errorf("after Stop:\n%s", strings.Join(left, "\n\n"))
			}
			if test.name != "with the server gone" {
				program.Eventually(t, "the server has closed its side", func() bool { return connections(n) == 0 })
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.conns) != 0 {
				t.Errorf("%d connections were never told to be over", len(s.conns))
			}
		})
	}
}

// connections counts the shards' connections as the server lists them.
func connections(n *natsServer) (count int) {
	for _, clients := range n.clients() {
		count += len(clients)
	}
	return count
}

// goroutines returns the stacks of those that run code of the library, or were started by it.
func goroutines() (stacks []string) {
	buf := make([]byte, 8<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "github.com/seed-829c304d/wsshard.") || strings.Contains(stack, "wsshard/internal/wsconn") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
