package servers

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: what does a handler that takes its time cost?

// blocked makes the handler of one shard wait, from its next delivery on, until release is called.
type blocked struct {
	shard   int
	entered chan struct{} // closed when the handler waits
	release chan struct{} // closed to let it go
	done    bool          // owned by the shard's handler
}

func block(book *account, shard int) *blocked {
	b := &blocked{shard: shard, entered: make(chan struct{}), release: make(chan struct{})}
	book.before = func(d Delivery) {
		if d.Shard == b.shard && !b.done {
			b.done = true
			close(b.entered)
			<-b.release
		}
	}
	return b
}

// A handler that works for long is not taken for a dead peer: neither by missed pongs nor by silence.
func TestASlowHandlerIsNotADeadPeer(t *testing.T) {
	n, book, subjects := startNATS(t), newAccount(), numbered("slow", 40)
	b := block(book, 2)
	s := n.subscriber(book, wsshard.Config{
		MaxSubscriptionsPerShard: 10,
		DisableHotSwitchover:     true, // so that every sickness is a disconnect
		Health: wsshard.HealthConfig{
			PingInterval: 250 * time.Millisecond, PongTimeout: 250 * time.Millisecond, FailureThreshold: 2,
			DataTimeout: time.Second, MessageTimeout: time.Second,
		},
	}, subjects...)
	p := &publisher{nc: n.dial(), book: book}
	end := p.background(rounds(s.Manager, subjects), 1_000)
	<-b.entered
	before := s.Manager.Metrics()
	program.Eventually(t, "the other shards have sent 12 pings each", func() bool { // three times as long as it takes to lose patience
		return s.Manager.Metrics().PingsSent >= before.PingsSent+4*12
	})
	lag := book.delivered(2)
	close(b.release)
	program.Eventually(t, "some more is delivered", func() bool { return book.delivered(2) > lag+100 })
	end()
	book.caughtUp(t)
	sum, after := book.close(t), s.Manager.Metrics()
	t.Logf("one handler of four blocked for %d pings of the others: reconnections %d, %v", after.PingsSent-before.PingsSent, after.Reconnections, sum)
	if gen := after.Shards[2].Generation; gen != 1 || sum.missing != 0 {
		t.Errorf("the slow shard is at connection %d, %v; want the first and nothing missing", gen, sum)
	}
}

// A client that is too slow for the server is thrown out by it. Then there is a Gap around what was lost.
func TestASlowConsumerIsTold(t *testing.T) {
	n, book, subjects := startNATS(t, impatient), newAccount(), numbered("slow", 20)
	b := block(book, 1)
	s := n.subscriber(book, wsshard.Config{MaxSubscriptionsPerShard: 10}, subjects...)
	p := &publisher{nc: n.dial(), book: book, pad: func(int) int { return 60_000 }}
	p.round(subjects...)
	<-b.entered
	program.Eventually(t, "the server loses patience", func() bool {
		p.round(subjects...)
		return n.NumSlowConsumers() > 0
	})
	p.round(subjects...)
	close(b.release)
	program.Eventually(t, "the Gap is over", func() bool { return book.count(wsshard.EventGap) > 0 })
	p.round(subjects...)
	book.caughtUp(t)
	sum := book.close(t)
	t.Logf("thrown out as slow consumer: %v", sum)
	if sum.missing != 0 || sum.inGap == 0 || sum.again != 0 {
		t.Errorf("%v, want some missing, all of it inside the Gap", sum)
	}
	n.wantSubscriptions(s, subjects)
}

// impatient lets a client have little unread.
func impatient(n *natsServer) {
	n.opts.MaxPending = 1 << 20
	n.opts.WriteDeadline = 200 * time.Millisecond
	n.opts.MaxPayload = server.MAX_PAYLOAD_SIZE
}
