package reconcile

import (
	"math"
	"slices"
)

// This file answers: which request comes next?

type Kind uint8

const (
	Subscribe Kind = iota
	Unsubscribe
	Resubscribe
)

// Batch is one request on the way from applied to desired. Subs and Nums are parallel, oldest touch first, and valid
// until the next Next. The numbers of an Unsubscribe are those of the removals.
type Batch[S comparable] struct {
	Kind Kind
	Subs []S
	Nums []uint64
}

// A walk looks for one kind of difference along the order of touches.
type walk int

const (
	lost     walk = iota // applied, not wanted
	renewed              // applied, wanted under a newer number
	regained             // kept, wanted
	fresh                // wanted, not applied
	walks
)

// Next returns the next request: what must be written once more, then what to unsubscribe, to resubscribe, and to
// subscribe, of which the kept topics come first. It has at most max topics, if max is positive. The connection may
// carry room topics more, any number if room is negative: topics that it does not carry yet are held back beyond that.
//
// Next leaves applied as it is. Until Done, Keep, Fail or Drop says what became of the batch it returns the same one,
// changes of desired aside; with a smaller max, the first part of it.
//
// A walk stops before the first touch that asks for something and goes on when that is done; the touches behind it need
// no second look. So all calls together look at each touch once in a walk, and each at what it returns besides.
func (a *Applied[S]) Next(max, room int) (Batch[S], bool) {
	if max <= 0 {
		max = math.MaxInt
	}
	a.subs, a.nums, a.short = a.subs[:0], a.nums[:0], false
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.onceMoreLocked(max) {
		return Batch[S]{Subscribe, a.subs, a.nums}, true
	}
	for w, kind := range [walks]Kind{lost: Unsubscribe, renewed: Resubscribe, regained: Subscribe, fresh: Subscribe} {
		if walk(w) == fresh && room >= 0 {
			max = min(max, room)
		}
		if a.walkLocked(walk(w), max) {
			return Batch[S]{kind, a.subs, a.nums}, true
		}
		if walk(w) == lost {
			d.compactLocked() // this may have been the session that the removals were held for
		}
	}
	if cap(a.subs) > 1024 {
		a.subs, a.nums = nil, nil // not a size that a session at rest should keep
	}
	return Batch[S]{}, false
}

// onceMoreLocked fills the batch with topics of redo. One that was removed or touched since is struck off: its new
// number asks for it by itself.
func (a *Applied[S]) onceMoreLocked(max int) bool {
	for i := 0; i < len(a.redo) && i < max; {
		t := a.redo[i]
		if a.on[t.s] != t.num || a.d.want[t.s] != t.num {
			a.crossOut(i)
			continue
		}
		a.subs, a.nums = append(a.subs, t.s), append(a.nums, t.num)
		i++
	}
	return len(a.subs) > 0
}

// walkLocked fills the batch with what w finds, and passes the touches before the first of them, be there room for it
// or not.
func (a *Applied[S]) walkLocked(w walk, limit int) bool {
	d := a.d
	if missing := min(limit, len(d.want)-len(a.on)-len(a.failed)); w == fresh && missing > 0 {
		a.subs, a.nums = slices.Grow(a.subs, missing), slices.Grow(a.nums, missing)
	}
	for _, t := range d.sinceLocked(a.past[w]) {
		a.looked++
		if !a.asksLocked(w, t) {
			if len(a.subs) == 0 {
				a.past[w] = t.num
			}
			continue
		}
		if len(a.subs) < limit {
			a.subs, a.nums = append(a.subs, t.s), append(a.nums, t.num)
		}
		if len(a.subs) == limit {
			a.short = limit == 0
			return limit > 0
		}
	}
	if len(a.subs) == 0 {
		a.past[w] = d.last
	}
	return len(a.subs) > 0
}

// asksLocked reports whether t is a difference of the kind that w looks for.
func (a *Applied[S]) asksLocked(w walk, t touch[S]) bool {
	d := a.d
	switch w {
	case lost:
		if d.gone[t.s] != t.num {
			return false
		}
		delete(a.failed, t.s) // all there is to unsubscribe of a failed topic
		_, on := a.on[t.s]
		return on && !a.Kept(t.s)
	case renewed:
		num, on := a.on[t.s]
		return on && num != t.num && d.want[t.s] == t.num && !a.Kept(t.s)
	case regained:
		return a.Kept(t.s) && d.want[t.s] == t.num
	}
	// The walks before this one came to their end first: a topic that is applied and wanted has the same number in both.
	if t.num <= a.top {
		if _, on := a.on[t.s]; on {
			return false
		}
	}
	if a.failed[t.s] == t.num {
		return false
	}
	// Each wanted topic has one touch that counts, so if there are no more touches than topics, all of them count.
	return len(d.order) == len(d.want) || d.want[t.s] == t.num
}
