package reconcile

import (
	"math"
	"slices"

	"github.com/seed-829c304d/wsshard/internal/lean"
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

// Next returns the next request: the topics that were dropped and those that waited for an answer, then what must be
// written once more, what to unsubscribe, to resubscribe, and to subscribe, of which the kept topics come first. It has at
// most max topics, if max is positive. The connection may carry room topics more, any number if room is negative: topics
// that it does not carry yet are held back beyond that, but for those that are leaving, which have a place.
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
	if kind, ok := a.firstLocked(max, room); ok {
		return Batch[S]{kind, a.subs, a.nums}, true
	}
	if a.onceMoreLocked(max) {
		return Batch[S]{Subscribe, a.subs, a.nums}, true
	}
	for w, kind := range [walks]Kind{lost: Unsubscribe, renewed: Resubscribe, regained: Subscribe, fresh: Subscribe} {
		places := math.MaxInt
		if walk(w) == fresh && room >= 0 {
			places = room
		}
		if a.walkLocked(walk(w), max, places) {
			return Batch[S]{kind, a.subs, a.nums}, true
		}
		if walk(w) == lost {
			d.compactLocked() // this may have been the session that the removals were held for
			d.fitLocked()
		}
	}
	a.fit()
	if cap(a.subs) > slack {
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

// firstLocked fills the batch with those of first that are a difference of one kind: what is off, if anything is and has
// room, else what stands first. It lets go of what is no difference any more.
func (a *Applied[S]) firstLocked(max, room int) (kind Kind, ok bool) {
	if len(a.first) == 0 {
		return 0, false
	}
	left := a.first[:0]
	for _, t := range a.first {
		num, kind, differs := a.differsLocked(t)
		if !differs {
			delete(a.queued, t.s)
			a.lowKnown = false
			continue
		}
		left = append(left, t)
		if kind != Subscribe || len(a.subs) == max {
			continue
		}
		if room >= 0 && !a.isLeaving(t.s) {
			if room == 0 {
				a.short = true
				continue
			}
			room--
		}
		a.subs, a.nums = append(a.subs, t.s), append(a.nums, num)
	}
	clear(a.first[len(left):])
	if a.first = lean.FitSlice(left); len(left) == 0 {
		a.first, a.queued = nil, nil
	}
	if len(a.subs) > 0 {
		return Subscribe, true
	}
	for _, t := range a.first {
		num, k, _ := a.differsLocked(t)
		if k == Subscribe { // it has no room
			continue
		}
		if len(a.subs) == max || len(a.subs) > 0 && k != kind {
			break
		}
		kind = k
		a.subs, a.nums = append(a.subs, t.s), append(a.nums, num)
	}
	return kind, len(a.subs) > 0
}

// differsLocked says what is to be asked for a topic now, whatever it was that was touched, and under which number.
func (a *Applied[S]) differsLocked(t touch[S]) (num uint64, kind Kind, ok bool) {
	on, carried := a.on[t.s]
	want, wanted := a.d.want[t.s]
	switch {
	case carried && a.Kept(t.s):
		return 0, 0, false // the walk for those finds it
	case carried && (!wanted || a.OffFirst && on != want) && a.setAside(t):
		return 0, 0, false // it has been written since, and that is unanswered
	case carried && !wanted:
		if gone, ok := a.d.gone[t.s]; ok {
			return gone, Unsubscribe, true
		}
		return t.num, Unsubscribe, true // the walk has passed the removal, which is held for nobody else
	case carried:
		return want, Resubscribe, on != want
	}
	return want, Subscribe, wanted && a.failed[t.s] != want
}

func (a *Applied[S]) isLeaving(s S) bool {
	_, ok := a.leaving[s]
	return ok
}

// walkLocked fills the batch with what w finds, and passes the touches before the first of them, be there room for it
// or not.
func (a *Applied[S]) walkLocked(w walk, limit, places int) bool {
	d := a.d
	if missing := min(limit, places, len(d.want)-len(a.on)-len(a.failed)); w == fresh && missing > 0 {
		a.subs, a.nums = slices.Grow(a.subs, missing), slices.Grow(a.nums, missing)
	}
	held := false // a touch that found no room: none behind it is passed
	for _, t := range d.sinceLocked(a.past[w]) {
		a.looked++
		if !a.asksLocked(w, t) {
			if len(a.subs) == 0 && !held {
				a.past[w] = t.num
			}
			continue
		}
		switch hasPlace := a.isLeaving(t.s); {
		case places > 0 || hasPlace:
			a.subs, a.nums = append(a.subs, t.s), append(a.nums, t.num)
			if !hasPlace {
				places--
			}
			if len(a.subs) == limit {
				return true
			}
			continue
		case len(a.leaving) == 0: // nobody behind it has a place either
			a.short = len(a.subs) == 0
			return len(a.subs) > 0
		}
		held, a.short = true, true
	}
	if len(a.subs) == 0 && !held {
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
		if _, failed := a.failed[t.s]; failed { // all there is to unsubscribe of a failed topic
			delete(a.failed, t.s)
			a.over = append(a.over, t.s)
		}
		_, on := a.on[t.s]
		return on && !a.Kept(t.s) && !a.setAside(t)
	case renewed:
		num, on := a.on[t.s]
		return on && num != t.num && d.want[t.s] == t.num && !a.Kept(t.s) && !(a.OffFirst && a.setAside(t))
	case regained:
		return a.Kept(t.s) && d.want[t.s] == t.num
	}
	// The walks before this one came to their end first: a topic that is applied and wanted has the same number in both, or
	// was set aside.
	if t.num <= a.top || len(a.aside) > 0 {
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

// setAside lets a walk pass a topic whose request is unanswered.
func (a *Applied[S]) setAside(t touch[S]) bool {
	if _, waits := a.unanswered[t.s]; !waits {
		return false
	}
	if a.aside == nil {
		a.aside = make(map[S]uint64)
	}
	if _, ok := a.aside[t.s]; !ok || t.num > a.aside[t.s] {
		a.aside[t.s] = t.num
	}
	a.lowKnown = false
	return true
}
