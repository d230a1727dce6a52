package reconcile

// This file answers: how far has a session come?

// Upto returns the number up to which every touch is settled on this connection. It does not shrink, but by Drop of
// anything else than a Resubscribe.
func (a *Applied[S]) Upto() uint64 {
	upto := a.past[0]
	for _, past := range a.past {
		upto = min(upto, past)
	}
	return upto
}

// List returns the topics that the connection carries, kept ones too, in no order.
func (a *Applied[S]) List() []S {
	list := make([]S, 0, len(a.on))
	for s := range a.on {
		list = append(list, s)
	}
	return list
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
