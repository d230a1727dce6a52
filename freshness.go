package wsshard

import (
	"sync"

	"github.com/seed-829c304d/wsshard/internal/lean"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: when did data last come for a topic?

// freshness notes the last data of each topic that an Inspector names.
type freshness[S comparable] struct {
	mu   sync.Mutex // protects following fields; under it only the lock of the desired set is taken
	at   map[S]int64
	most int // topics in at, since that was made: see lean
}

func (f *freshness[S]) note(subs []S, at int64, want *reconcile.Desired[S]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at = make(map[S]int64)
	}
	for _, s := range subs {
		f.at[s] = at
	}
	f.most = max(f.most, len(f.at))
	f.trimLocked(want)
}

// of returns when data last came for s, and whether topics are named at all.
func (f *freshness[S]) of(s S) (at int64, named bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at[s], f.at != nil
}

// forget drops the topics that are unsubscribed.
func (f *freshness[S]) forget(subs []S) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range subs {
		delete(f.at, s)
	}
	f.at = lean.Fit(f.at, &f.most)
}

// trimLocked drops topics that a server sent unasked, when many have gathered.
func (f *freshness[S]) trimLocked(want *reconcile.Desired[S]) {
	const few = 1024
	if len(f.at) <= few || len(f.at) <= 2*want.Len()+few {
		return
	}
	for s := range f.at {
		if _, ok := want.Number(s); !ok {
			delete(f.at, s)
		}
	}
	f.at = lean.Fit(f.at, &f.most)
}
