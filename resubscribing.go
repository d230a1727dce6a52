package wsshard

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/lean"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: which topics wait for the fresh snapshot that a SequenceValidator asked for?

// resubscriptions are the topics whose resubscription a SequenceValidator asked for and that was not answered yet: the
// messages still in flight show the same gap, and would ask again and again.
type resubscriptions[S comparable] struct {
	some atomic.Bool // there are any: all that is looked at for each message

	mu    sync.Mutex // protects following fields; under it only the lock of the desired set is taken
	since map[S]time.Time
	most  int // topics in since, since that was made: see lean
}

// claim returns those of subs that are wanted and may be asked for now.
func (r *resubscriptions[S]) claim(subs []S, want *reconcile.Desired[S], now time.Time, timeout time.Duration) (again []S) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since == nil {
		r.since = make(map[S]time.Time)
	}
	for _, s := range subs {
		if at, ok := r.since[s]; ok && (timeout < 0 || now.Sub(at) < timeout) {
			continue
		}
		if _, ok := want.Number(s); !ok {
			continue
		}
		r.since[s] = now
		again = append(again, s)
	}
	r.most = max(r.most, len(r.since))
	r.some.Store(len(r.since) > 0)
	return again
}

// clear notes an answer or valid data.
func (r *resubscriptions[S]) clear(subs []S) {
	if len(subs) == 0 || !r.some.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range subs {
		delete(r.since, s)
	}
	r.since = lean.Fit(r.since, &r.most)
	r.some.Store(len(r.since) > 0)
}

// reset forgets all: a new connection has asked for everything anew.
func (r *resubscriptions[S]) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = nil
	r.some.Store(false)
}
