package reconcile

import (
	"cmp"
	"slices"
)

// This file answers: what has a session written?

// Applied is the set of topics that one session has written. Its methods are for one goroutine, the session's write
// loop; Close may be called from any.
type Applied[S comparable] struct {
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
	redo   []touch[S]     // to be written once more, by number
	short  bool           // Next held topics back, for want of room
	subs   []S            // of the last batch
	nums   []uint64       // parallel to subs
	looked int            // touches that Next has looked at
}

// Done says that b was written, or needs no writing.
func (a *Applied[S]) Done(b Batch[S]) {
	for i, s := range b.Subs {
		delete(a.kept, s)
		delete(a.failed, s)
		if b.Kind == Unsubscribe {
			delete(a.on, s)
			continue
		}
		a.on[s] = b.Nums[i]
		a.top = max(a.top, b.Nums[i])
		if len(a.redo) > 0 {
			a.redone(b.Nums[i])
		}
	}
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
		if _, ok := a.d.want[s]; !ok {
			continue // nor will a removal come that clears it: an answer that was late
		}
		if a.failed == nil {
			a.failed = make(map[S]uint64)
		}
		a.failed[s] = num
	}
}

// Drop says that b, a Resubscribe, was written as an unsubscription: its topics are no longer applied, and Next hands
// out those that are wanted as Subscribe.
//
// The walk for those has not passed them, as it goes on only when nothing is left to resubscribe. Any other batch may be
// dropped too, at the cost of walking once more from its oldest topic.
func (a *Applied[S]) Drop(b Batch[S]) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	for _, s := range b.Subs {
		delete(a.on, s)
		delete(a.kept, s)
		if num, ok := a.d.want[s]; ok {
			a.past[fresh] = min(a.past[fresh], num-1)
		}
	}
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
	a.redo = a.redo[1:]
}
