package reconcile

import (
	"cmp"
	"slices"

	"github.com/seed-829c304d/wsshard/internal/lean"
)

// This file answers: what has a session written?

// Applied is the set of topics that one session has written. Its methods are for one goroutine, the session's write
// loop; Close may be called from any.
type Applied[S comparable] struct {
	// OffFirst says that a Resubscribe will be written as an unsubscription first: Drop. Set before the first Next.
	OffFirst bool

	d    *Desired[S]
	wake chan struct{} // written by d under its lock; read by its owner

	// past has for each walk the number up to which no touch needs a look. d reads that of lost, so it changes under
	// d.mu only.
	past [walks]uint64

	// owned by the write loop
	on     map[S]uint64   // on the wire, kept ones too
	top    uint64         // no number in on was ever above it
	kept   map[S]struct{} // in on, though not wanted when an unsubscription was due
	failed map[S]uint64   // not in on
	over   []S            // failed and unsubscribed since TakeOver
	redo   []touch[S]     // to be written once more, by number
	short  bool           // Next held topics back, for want of room

	leaving    map[S]struct{} // not in on: unsubscribed, and the server may carry them yet
	unanswered map[S]struct{} // no unsubscription of them is handed out: see Await
	aside      map[S]uint64   // what a walk has passed for that reason, with the number of its touch
	first      []touch[S]     // what Next looks at before all else: dropped topics, then those that were aside
	queued     map[S]struct{} // the topics in first
	low        uint64         // the least number in aside and first, if lowKnown; 0: there is none
	lowKnown   bool

	subs   []S      // of the last batch
	nums   []uint64 // parallel to subs
	looked int      // touches that Next has looked at

	most struct{ on, kept, failed, leaving, unanswered, aside, queued int } // of each map, since it was made: see lean
}

// Done says that b was written, or needs no writing. The topics of an Unsubscribe are leaving from then on: see Left.
func (a *Applied[S]) Done(b Batch[S]) {
	for i, s := range b.Subs {
		delete(a.kept, s)
		delete(a.failed, s)
		if b.Kind == Unsubscribe {
			a.leave(s)
			continue
		}
		a.on[s] = b.Nums[i]
		delete(a.leaving, s) // its place is its own
		a.top = max(a.top, b.Nums[i])
		if len(a.redo) > 0 {
			a.redone(b.Nums[i])
		}
	}
	a.fit()
}

// Keep says that nothing is sent for b, an Unsubscribe: its topics stay on this connection, as kept ones.
func (a *Applied[S]) Keep(b Batch[S]) {
	for _, s := range b.Subs {
		if _, ok := a.on[s]; !ok {
			continue
		}
		if a.kept == nil {
			a.kept = make(map[S]struct{})
		}
		a.kept[s] = struct{}{}
	}
}

// Fail says that b cannot be written, or that the server rejected it: its topics are settled for their numbers without
// being on the wire. A topic that has been written under a newer number stays as it is, since the answer is not meant
// for that. Those of an Unsubscribe are kept.
func (a *Applied[S]) Fail(b Batch[S]) {
	if b.Kind == Unsubscribe {
		a.Keep(b)
		return
	}
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	for i, s := range b.Subs {
		num := b.Nums[i]
		if a.on[s] > num || a.failed[s] > num {
			continue
		}
		delete(a.on, s)
		delete(a.kept, s)
		delete(a.leaving, s)
		if _, ok := a.d.want[s]; !ok {
			a.over = append(a.over, s)
			continue // nor will a removal come that clears it: an answer that was late
		}
		if a.failed == nil {
			a.failed = make(map[S]uint64)
		}
		a.failed[s] = num
	}
}

// Drop says that b was written as an unsubscription. Its topics are leaving, and those that are wanted are what Next hands
// out first of all, as Subscribe: they are off until that is written.
func (a *Applied[S]) Drop(b Batch[S]) {
	back := make([]touch[S], 0, len(b.Subs)+len(a.first))
	for i, s := range b.Subs {
		a.leave(s)
		delete(a.kept, s)
		delete(a.queued, s)
		back = append(back, touch[S]{b.Nums[i], s})
	}
	if len(a.queued) < len(a.first) {
		a.first = slices.DeleteFunc(a.first, func(t touch[S]) bool { return !a.isQueued(t.s) })
	}
	a.first = append(back, a.first...)
	a.queue(b.Subs...)
	a.fit()
}

// queue notes that subs are in first.
func (a *Applied[S]) queue(subs ...S) {
	if a.queued == nil {
		a.queued = make(map[S]struct{}, len(subs))
	}
	for _, s := range subs {
		a.queued[s] = struct{}{}
	}
	a.lowKnown = false
}

func (a *Applied[S]) isQueued(s S) bool {
	_, ok := a.queued[s]
	return ok
}

// leave takes s off the connection, unless it is not on it. Its place stays taken.
func (a *Applied[S]) leave(s S) {
	if _, ok := a.on[s]; !ok {
		return
	}
	delete(a.on, s)
	if a.leaving == nil {
		a.leaving = make(map[S]struct{})
	}
	a.leaving[s] = struct{}{}
}

// Left says that the server carries subs no more, those of them that are leaving: their places are free.
func (a *Applied[S]) Left(subs ...S) {
	for _, s := range subs {
		delete(a.leaving, s)
	}
	if len(a.leaving) == 0 {
		a.leaving = nil
	}
	a.fit()
}

// Await says that the request for subs is unanswered. Until Answered, no unsubscription of them is handed out, nor with
// OffFirst a Resubscribe: a server may refuse to end what it has not begun, and then begin it.
func (a *Applied[S]) Await(subs ...S) {
	if a.unanswered == nil {
		a.unanswered = make(map[S]struct{}, len(subs))
	}
	for _, s := range subs {
		a.unanswered[s] = struct{}{}
	}
	a.most.unanswered = max(a.most.unanswered, len(a.unanswered))
}

// Answered says that the request for subs was answered, or that nobody waits for that any more.
func (a *Applied[S]) Answered(subs ...S) {
	for _, s := range subs {
		delete(a.unanswered, s)
		num, ok := a.aside[s]
		if !ok {
			continue
		}
		delete(a.aside, s)
		a.lowKnown = false
		if !a.isQueued(s) {
			a.first = append(a.first, touch[S]{num, s})
			a.queue(s)
		}
	}
	if len(a.unanswered) == 0 {
		a.unanswered, a.aside = nil, nil
	}
	a.fit()
}

// Redo has subs written once more under their present numbers, those of them that are applied then.
func (a *Applied[S]) Redo(subs ...S) {
	sorted := true
	for _, s := range subs {
		num, ok := a.on[s]
		if !ok {
			continue
		}
		sorted = sorted && (len(a.redo) == 0 || a.redo[len(a.redo)-1].num < num)
		a.redo = append(a.redo, touch[S]{num, s})
	}
	if !sorted {
		slices.SortFunc(a.redo, func(t, u touch[S]) int { return cmp.Compare(t.num, u.num) })
		a.redo = slices.Compact(a.redo)
	}
}

// Len returns how many topics the connection carries: those on the wire, kept ones too, failed ones not.
func (a *Applied[S]) Len() int { return len(a.on) }

// Places returns how many topics the server may reckon to the connection: those on the wire and those that are leaving.
func (a *Applied[S]) Places() int { return len(a.on) + len(a.leaving) }

// Number returns the number under which s is on the wire. A kept topic has that of its subscription.
func (a *Applied[S]) Number(s S) (num uint64, ok bool) {
	num, ok = a.on[s]
	return num, ok
}

// Failed returns the number under which s failed.
func (a *Applied[S]) Failed(s S) (num uint64, ok bool) {
	num, ok = a.failed[s]
	return num, ok
}

// TakeOver returns the failed topics that were found to be unwanted since the last call: nobody asks any more why they failed.
func (a *Applied[S]) TakeOver() []S {
	over := a.over
	a.over = nil
	return over
}

// Kept reports whether s is on the wire only because nothing was sent to end it.
func (a *Applied[S]) Kept(s S) bool {
	_, ok := a.kept[s]
	return ok
}

// Short reports whether the last Next held topics back for want of room that kept ones take: only a new connection has it.
func (a *Applied[S]) Short() bool { return a.short && len(a.kept) > 0 }

// Settled reports whether nothing is left to ask for s: it is not wanted, or was written or failed under the number
// that wants it.
func (a *Applied[S]) Settled(s S) bool {
	num, ok := a.d.Number(s)
	return !ok || a.on[s] == num || a.failed[s] == num
}

// Close ends the session: no wake follows. It may be called more than once.
func (a *Applied[S]) Close() {
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions = slices.DeleteFunc(d.sessions, func(b *Applied[S]) bool { return a == b })
	d.compactLocked()
	d.fitLocked()
}

// fit gives back what the maps need no more. Next ends with it, and so does each method that may take out many.
func (a *Applied[S]) fit() {
	a.on = lean.Fit(a.on, &a.most.on)
	a.kept = lean.Fit(a.kept, &a.most.kept)
	a.failed = lean.Fit(a.failed, &a.most.failed)
	a.leaving = lean.Fit(a.leaving, &a.most.leaving)
	a.unanswered = lean.Fit(a.unanswered, &a.most.unanswered)
	a.aside = lean.Fit(a.aside, &a.most.aside)
	a.queued = lean.Fit(a.queued, &a.most.queued)
}

func (a *Applied[S]) wakeLocked() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// redone crosses out the topic with this number, unless it was not to be written once more. As a rule it is the first.
func (a *Applied[S]) redone(num uint64) {
	i, ok := slices.BinarySearchFunc(a.redo, num, func(t touch[S], n uint64) int { return cmp.Compare(t.num, n) })
	if ok {
		a.crossOut(i)
	}
}

func (a *Applied[S]) crossOut(i int) {
	if i > 0 {
		a.redo = slices.Delete(a.redo, i, i+1)
		return
	}
	a.redo[0] = touch[S]{}
	if a.redo = a.redo[1:]; len(a.redo) == 0 {
		a.redo = nil // or it would keep the array
	}
}
