//go:build unix

package servers

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: what happens to a client whose process stood still, when the server is well?

const frozenShards = 20

// impatience is far below the time for which the client is stopped.
var impatience = wsshard.HealthConfig{
	PingInterval: time.Second, PongTimeout: time.Second, FailureThreshold: 1,
	DataTimeout: 2 * time.Second, MessageTimeout: 2 * time.Second,
}

func TestFourSecondsFrozenDropNothing(t *testing.T) {
	n, book, subjects := startNATS(t), newAccount(), numbered("frozen", 10*frozenShards)
	client := startClient(t, exec.Command(os.Args[0]), spec{URL: n.url(), Name: "shard", Subjects: subjects, PerShard: 10, Health: impatience})
	ask := func() status { return client.tell(order{}).Managers[0] }

	p := &publisher{nc: n.dial(), book: book}
	round := make([][]string, 10)
	for i := range round {
		round[i] = subjects[i*frozenShards : (i+1)*frozenShards]
	}
	end := p.background(round, 2_000)
	const freezes, cold = 2, 4 * time.Second
	for range freezes {
		pings := ask().Metrics.PingsSent
		program.Eventually(t, "every shard has sent a ping", func() bool { return ask().Metrics.PingsSent >= pings+frozenShards })
		client.freeze(cold)
		pings = ask().Metrics.PingsSent
		program.Eventually(t, "every shard has sent two pings more", func() bool { return ask().Metrics.PingsSent >= pings+2*frozenShards })
	}
	end()
	p.round(subjects...)
	program.Eventually(t, "the last message of each subject has come", func() bool { return behind(book.published(), ask().Last) == "" })
	a := client.tell(order{Report: true}).Managers[0]
	client.tell(order{Stop: true})
	book.record.take(a.Heard)
	sum := book.close(t)
	dropped := int(a.Metrics.Connections) - frozenShards
	t.Logf("stopped %d times for %v: %d of %d shards dropped, health failures %d, pings %d: %v",
		freezes, cold, dropped, frozenShards, a.Metrics.HealthFailures, a.Metrics.PingsSent, sum)
	if dropped != 0 || len(a.Troubles) != 0 || a.Connected != frozenShards {
		t.Errorf("%d dropped, %d connected, events %q", dropped, a.Connected, a.Troubles)
	}
	if sum.received != sum.published || sum.again != 0 {
		t.Errorf("%v", sum)
	}
}

// freeze stops the client's process for some time.
func (r *remote) freeze(cold time.Duration) {
	r.Signal(syscall.SIGSTOP)
	<-time.After(cold)
	r.Signal(syscall.SIGCONT)
}
