package gate

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// This file answers: what does a door cost with many at it?

// waiters are how many wait while one comes and goes.
var waiters = []int{10, 10_000}

// BenchmarkGate: one dial begins and ends, and its shard lines up again, while others wait: in line; for a turn, each at its own
// time; or on the bench. Whoever comes and goes holds the gate's lock for nearly all of that.
func BenchmarkGate(b *testing.B) {
	for _, n := range waiters {
		b.Run(fmt.Sprintf("line/%d_waiters", n), func(b *testing.B) {
			q := newQueue(b, n, Down)
			for b.Loop() {
				t := q.shift()
				q.g.Leave(t, Result{Verdict: Neither})
				q.join(t)
			}
		})
		b.Run(fmt.Sprintf("turns/%d_waiters", n), func(b *testing.B) {
			q := newQueue(b, n, Asked)
			t := NewTicket(n, 0, Down)
			for b.Loop() {
				q.g.Join(context.Background(), t, q.key)
				q.g.Leave(t, Result{Verdict: Neither})
			}
		})
		b.Run(fmt.Sprintf("bench/%d_waiters", n), func(b *testing.B) {
			q := newBench(b, n)
			t := NewTicket(n, 0, Asked)
			for b.Loop() {
				q.g.Join(context.Background(), t, q.key)
				q.g.Leave(t, Result{Verdict: Neither})
			}
		})
	}
}

// BenchmarkDoors is the gate's part of Metrics(): all of it is under the gate's lock.
func BenchmarkDoors(b *testing.B) {
	for _, n := range waiters {
		for name, q := range map[string]*queue{"line": newQueue(b, n, Down), "bench": newBench(b, n)} {
			b.Run(fmt.Sprintf("%s/%d_waiters", name, n), func(b *testing.B) {
				for b.Loop() {
					q.g.Doors()
				}
			})
		}
	}
}

// queue is a door with its line.
type queue struct {
	g    *Gate
	key  Key
	line []*Ticket
}

// newQueue has n wait at a door that lets one dial at a time. What is Asked waits for the only turn.
func newQueue(b *testing.B, n int, u Urgency) *queue {
	q := &queue{g: New(Rules{Width: 1, StableAfter: time.Hour}, nil), key: Key{"srv:80", ""}}
	q.g.Resize(n, 1)
	if u == Asked {
		t := NewTicket(-1, 0, u)
		q.g.Join(context.Background(), t, q.key)
		if stay, _ := q.g.Leave(t, Result{Verdict: Up}); stay == nil {
			b.Fatal("the turn is not taken")
		}
	}
	for i := range n {
		q.join(NewTicket(i, 0, u))
	}
	return q
}

func (q *queue) join(t *Ticket) {
	q.g.Join(context.Background(), t, q.key)
	q.line = append(q.line, t)
}

// shift takes out the one that is let in.
func (q *queue) shift() *Ticket {
	t := q.line[0]
	q.line = q.line[1:]
	return t
}

// newBench has n wait on the bench of a door.
func newBench(b *testing.B, n int) *queue {
	q := &queue{g: New(Rules{Width: 1, StableAfter: time.Hour, Uniform: func() float64 { return 0 }}, nil), key: Key{"srv:80", ""}}
	for i := range n {
		d := q.g.doorLocked(q.key)
		s := &seat{}
		d.bench.seats[i] = s
		d.bench.change(s, func() { s.refusals, s.next = 1, time.Now().Add(time.Hour) })
		q.join(NewTicket(i, 0, Down))
	}
	return q
}
