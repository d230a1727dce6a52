// Package reconcile keeps what a shard wants apart from what a session has written, and says which request brings the
// two closer.
//
// Desired is the shard's set: each topic with the number of the request that wants it. It outlives connections. Applied
// is one session's set: what went out on this connection, under the same numbers. It dies with the connection, so
// whatever befell the last one, the next starts from nothing and needs no repair.
//
// Nothing is queued between them. Desired remembers in which order topics were touched, and Applied how far it has
// looked; an entry of that order says where to look, and the set alone says what to do.
package reconcile

import (
	"slices"
	"sync"

	"github.com/seed-829c304d/wsshard/internal/lean"
)

// This file answers: what does a shard want?

// Desired is the set of topics a shard should carry. Its methods may be called from any goroutine and never wait.
type Desired[S comparable] struct {
	mu       sync.Mutex // protects following fields; a leaf lock
	last     uint64     // the newest number; the first is 1
	want     map[S]uint64
	gone     map[S]uint64   // number of the removal, until every session has looked at it
	again    map[S]struct{} // those of want that were asked for again since they were added
	order    []touch[S]     // by number; holds that of each topic in want and gone, besides older ones
	held     int            // topics in gone that the last compaction could not let go
	sessions []*Applied[S]

	most struct{ want, gone, again int } // of each map, since it was made: see lean
}

func New[S comparable]() *Desired[S] {
	return &Desired[S]{want: make(map[S]uint64), gone: make(map[S]uint64)}
}

// Add wants each of subs that is not wanted yet.
func (d *Desired[S]) Add(subs ...S) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.want) == 0 && len(subs) > slack {
		d.want, d.most.want = make(map[S]uint64, len(subs)), len(subs)
	}
	d.order = slices.Grow(d.order, len(subs))
	before := d.last
	for _, s := range subs {
		if _, ok := d.want[s]; !ok {
			d.want[s] = d.touchLocked(s)
			delete(d.gone, s)
		}
	}
	d.changedLocked(before)
}

// Remove no longer wants subs.
func (d *Desired[S]) Remove(subs ...S) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.last
	for _, s := range subs {
		if _, ok := d.want[s]; !ok {
			continue
		}
		delete(d.want, s)
		delete(d.again, s)
		if len(d.sessions) == 0 {
			d.last++ // nobody has written s, so nobody needs to hear that it left
			continue
		}
		d.gone[s] = d.touchLocked(s)
	}
	d.changedLocked(before)
}

// Again gives each of subs that is wanted a new number, so that every session asks for it anew.
func (d *Desired[S]) Again(subs ...S) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.last
	if d.again == nil {
		d.again = make(map[S]struct{}, len(subs))
	}
	for _, s := range subs {
		if _, ok := d.want[s]; ok {
			d.want[s] = d.touchLocked(s)
			d.again[s] = struct{}{}
		}
	}
	d.changedLocked(before)
}

func (d *Desired[S]) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.want)
}

// Number returns the number of the request that wants s.
func (d *Desired[S]) Number(s S) (num uint64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	num, ok = d.want[s]
	return num, ok
}

// AskedAgain returns those of subs for which Again was called since they were added.
func (d *Desired[S]) AskedAgain(subs []S) (again []S) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range subs {
		if _, ok := d.again[s]; ok {
			again = append(again, s)
		}
	}
	return again
}

// List returns the wanted topics, those of the oldest request first.
func (d *Desired[S]) List() []S {
	d.mu.Lock()
	defer d.mu.Unlock()
	subs := make([]S, 0, len(d.want))
	for _, t := range d.order {
		if d.want[t.s] == t.num {
			subs = append(subs, t.s)
		}
	}
	return subs
}

// Watch begins a session: its applied set is empty and reads d from the oldest topic on. wake, of capacity 1, receives
// a token at once and whenever d may have changed since; a token that finds it full is dropped, so its owner may send
// others for other reasons.
func (d *Desired[S]) Watch(wake chan struct{}) *Applied[S] {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := &Applied[S]{d: d, wake: wake, on: make(map[S]uint64, len(d.want))}
	a.most.on = len(d.want)
	for w := range a.past {
		a.past[w] = d.last
	}
	a.past[fresh] = 0 // the other walks look for topics that are applied already
	d.sessions = append(d.sessions, a)
	a.wakeLocked()
	return a
}

// changedLocked ends each method that touches topics; before is the newest number there was when it began.
func (d *Desired[S]) changedLocked(before uint64) {
	if d.last == before {
		return
	}
	d.compactLocked()
	d.fitLocked()
	for _, a := range d.sessions {
		a.wakeLocked()
	}
}

// fitLocked gives back what the maps need no more. Each method that removes something ends with it.
func (d *Desired[S]) fitLocked() {
	d.want = lean.Fit(d.want, &d.most.want)
	d.gone = lean.Fit(d.gone, &d.most.gone)
	d.again = lean.Fit(d.again, &d.most.again)
}
