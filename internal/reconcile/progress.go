package reconcile

import (
	"maps"
	"slices"
)

// This file answers: how far has a session come?

// Upto returns the number up to which every touch is settled on this connection, but for unsubscriptions that wait for an
// answer: what is too much on a connection is missed nowhere. It does not shrink, but by Drop of anything else than a
// Resubscribe.
func (a *Applied[S]) Upto() uint64 {
	upto := a.past[0]
	for _, past := range a.past {
		upto = min(upto, past)
	}
	if low := a.lowest(); low > 0 {
		upto = min(upto, low-1)
	}
	return upto
}

// lowest returns the least number among the wanted topics that walks have passed and that are not settled; 0: there is none.
func (a *Applied[S]) lowest() uint64 {
	if a.lowKnown {
		return a.low
	}
	a.low, a.lowKnown = 0, true
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	note := func(s S, num uint64) {
		if _, wanted := a.d.want[s]; wanted && (a.low == 0 || num < a.low) {
			a.low = num
		}
	}
	for s, num := range a.aside {
		note(s, num)
	}
	for _, t := range a.first {
		note(t.s, t.num)
	}
	return a.low
}

// List returns the topics that the connection carries, kept ones too, in no order.
func (a *Applied[S]) List() []S { return slices.AppendSeq(make([]S, 0, len(a.on)), maps.Keys(a.on)) }

// Leaving returns the topics that the server may carry yet, in no order.
func (a *Applied[S]) Leaving() []S { return slices.Collect(maps.Keys(a.leaving)) }

// Off returns the topics that were dropped to be subscribed again, and have not been.
func (a *Applied[S]) Off() (off []S) {
	for _, t := range a.first {
		if _, on := a.on[t.s]; !on {
			off = append(off, t.s)
		}
	}
	return off
}

// Since returns the topics that are wanted under a number above num.
func (d *Desired[S]) Since(num uint64) []S {
	d.mu.Lock()
	defer d.mu.Unlock()
	var subs []S
	for _, t := range d.sinceLocked(num) {
		if d.want[t.s] == t.num {
			subs = append(subs, t.s)
		}
	}
	return subs
}
