package feed

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file answers: what was sent so far?

// Reason says what a Down was.
type Reason string

const (
	Killed       Reason = "killed"
	Restarted    Reason = "restart"
	Silent       Reason = "silence"
	SlowConsumer Reason = "slow consumer"
	Refused      Reason = "request refused"
)

// Down is one time when the server took something from its clients.
type Down struct {
	At, Until   time.Time // Until: a new connection gets data again; zero while a restart lasts
	Reason      Reason
	Connections int
}

// Stats of a Server.
type Stats struct {
	Connections   int    // open now
	Accepted      uint64 // ever opened
	Requests      uint64 // acknowledged
	Refused       uint64
	SlowConsumers uint64
	Pongs         uint64 // answers to the server's pings
}

// Count of one topic.
type Count struct {
	Topic       string
	Number      uint64 // of its last tick, sent or not
	First, Last uint64 // sent; 0: none
	Distinct    uint64 // numbers sent; one written to two connections counts once
	Missed      uint64 // ticks between First and Last that were written to no connection
}

// Sent is the number of data messages written; a tick written to two connections counts twice.
func (s *Server) Sent() uint64 { return s.acct.totals().sent }

// Distinct is the number of ticks written at least once.
func (s *Server) Distinct() uint64 { return s.acct.totals().distinct }

// Missed sums over the topics the ticks between the first and the last written that were written to no connection.
func (s *Server) Missed() uint64 { return s.acct.totals().missed }

// Count of one topic; false if nobody ever subscribed to it.
func (s *Server) Count(name string) (Count, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.topics[name]
	if !ok {
		return Count{}, false
	}
	s.acct.mu.Lock()
	defer s.acct.mu.Unlock()
	return t.count(), true
}

// Counts of all topics, oldest topic first.
func (s *Server) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acct.mu.Lock()
	defer s.acct.mu.Unlock()
	all := make([]Count, len(s.known))
	for i, t := range s.known {
		all[i] = t.count()
	}
	return all
}

// Downs lists them, oldest first.
func (s *Server) Downs() []Down {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.downs)
}

// Stats is a copy.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Connections = len(s.conns)
	return st
}

// written is one tick in a batch that waits to be written.
type written struct {
	topic *topic
	n     uint64
	end   int // in the batch's bytes
}

// ledger counts what was written. A tick is pending from the moment it is queued until it is written or discarded.
type ledger struct {
	pending atomic.Int64
	mu      sync.Mutex // protects following, and topic.sent of every topic
	sum     sums
	flushed sync.Cond // pending became 0, or a waiter's ctx ended
}

type sums struct{ sent, distinct, missed uint64 }

func (l *ledger) totals() sums {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// settle notes the fate of ticks, of whose batch the first n bytes were written.
func (l *ledger) settle(ticks []written, n int) {
	if len(ticks) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range ticks {
		if w.end > n {
			break
		}
		missed := w.topic.sent.missed()
		if w.topic.sent.add(w.n) != duplicate {
			l.sum.distinct++
		}
		l.sum.sent++
		l.sum.missed += w.topic.sent.missed() - missed
	}
	if l.pending.Add(-int64(len(ticks))) == 0 {
		l.flushed.Broadcast()
	}
}

// wait returns when nothing is pending.
func (l *ledger) wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock() // the waiter is then either before its look at ctx or in Wait, not between
		defer l.mu.Unlock()
		l.flushed.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending.Load() != 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.flushed.Wait()
	}
	return nil
}
