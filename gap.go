package wsshard

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/lean"
)

// This file answers: what may have been missed, and since when?

// gap is what is missed of some topics: from the loss of a connection, or from their unsubscription by the library, until
// each is proven again, or wanted no more. It names every topic that was on then; those that came since are not its business.
type gap[S comparable] struct {
	from, sure time.Time
	to         time.Time    // when the last of those that are over was
	after      uint64       // a connection that proves something is younger than this
	subs       []S          // all that it names
	open       map[S]uint64 // those that it waits for, with the least number under which they are to be proven
}

// letGo is a topic that a connection carried up to an instant, or may have.
type letGo[S comparable] struct {
	sub     S
	at      time.Time
	overdue bool // it was never answered: what came before that may be held back by the network
}

// offs are the topics that were let go of on a connection, oldest first: its next loss may have begun before that. The write
// loop owns it.
type offs[S comparable] struct {
	list lean.Queue[letGo[S]]
	last map[S]time.Time // of each in list, when it was last
	most int             // topics in last, since that was made: see lean
}

// note adds topics that the server carries no more.
func (o *offs[S]) note(subs []S, at time.Time, overdue bool) {
	if o.last == nil {
		o.last = make(map[S]time.Time, len(subs))
	}
	for _, s := range subs {
		o.list.Push(letGo[S]{s, at, overdue})
		o.last[s] = at
	}
	o.most = max(o.most, len(o.last))
}

// trim lets go of what is older than since, and reports whether anything is left.
func (o *offs[S]) trim(since time.Time) (left bool) {
	for o.list.Len() > 0 && o.list.First().at.Before(since) {
		if old := o.list.First(); !o.last[old.sub].After(old.at) {
			delete(o.last, old.sub)
		}
		o.list.Pop()
	}
	if o.list.Len() == 0 {
		*o = offs[S]{}
		return false
	}
	o.last = lean.Fit(o.last, &o.most)
	return true
}

// has reports whether s was let go of since then.
func (o *offs[S]) has(s S, since time.Time) bool {
	at, ok := o.last[s]
	return ok && !at.Before(since)
}

// loss is what a connection leaves when it has ended: which topics were on, and when.
type loss[S comparable] struct {
	gen     uint64    // of the connection
	from    time.Time // since when messages may be missing, apart from the server's skew
	held    time.Time // since when a topic may have been on whose messages the network held back
	sure    time.Time // before it nothing is missing
	carried []S       // what was on when it ended, or may have been
	offs    []letGo[S]
}

// gap is one of this loss that names nothing yet. linger is the server's skew.
func (l *loss[S]) gap(linger time.Duration) *gap[S] {
	from := l.from.Add(-linger)
	return &gap[S]{from: from, sure: first(from, l.sure.Add(-linger)), after: l.gen, open: make(map[S]uint64)}
}

// names returns the topics of which something may be missing.
func (l *loss[S]) names(linger time.Duration) []S {
	from, since := l.from.Add(-linger), l.held.Add(-linger)
	named := make(map[S]struct{}, len(l.carried))
	for _, sub := range l.carried {
		named[sub] = struct{}{}
	}
	for _, o := range l.offs {
		if !o.at.Before(from) || o.overdue && !o.at.Before(since) {
			named[o.sub] = struct{}{}
		}
	}
	return slices.AppendSeq(make([]S, 0, len(named)), maps.Keys(named))
}

// gaps are those of a shard that wait for something.
type gaps[S comparable] struct {
	some atomic.Bool // there are any

	mu   sync.Mutex // protects following fields; under it only that of claims, and that of the desired set, are locked
	list []*gap[S]
}

// miss adds a gap of subs, of which g.open may say under which number they are to be proven. A topic that is missed already stays
// where it is: that gap goes on, and began no later. wants says whether a topic is wanted. over are gaps that wait for nothing.
func (gs *gaps[S]) miss(g *gap[S], subs []S, wants func(S) bool) (over []*gap[S]) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.some.Store(true) // before wants: who unsubscribes a topic from then on looks for it here
	for _, old := range gs.list {
		subs = slices.DeleteFunc(subs, func(sub S) bool {
			least, open := old.open[sub]
			if open {
				old.open[sub] = max(least, g.open[sub])
				old.from, old.sure = first(old.from, g.from), first(old.sure, g.sure)
			}
			return open
		})
	}
	if g.subs = subs; len(subs) == 0 {
		gs.some.Store(len(gs.list) > 0)
		return nil
	}
	least := g.open
	g.open = make(map[S]uint64, len(subs))
	for _, sub := range subs {
		if wants(sub) {
			g.open[sub] = least[sub]
		} else { // nobody waits for it any more
			g.to = time.Now()
		}
	}
	gs.list = append(gs.list, g)
	return gs.overLocked()
}

// proven ticks off the topics that were proven on a connection since it was last asked, or failed: then nothing more of them is
// to come. gen is the connection's generation.
func (gs *gaps[S]) proven(p *claims[S], gen uint64) (over []*gap[S]) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for sub, t := range p.takeTold() {
		if t.at.IsZero() {
			t.at = time.Now()
		}
		for _, g := range gs.list {
			if g.after < gen && t.num >= g.open[sub] {
				g.end(sub, t.at)
			}
		}
	}
	over = gs.overLocked()
	if len(gs.list) == 0 {
		p.tell(false)
	}
	return over
}

// end ticks a topic off.
func (g *gap[S]) end(sub S, at time.Time) {
	if _, open := g.open[sub]; open {
		delete(g.open, sub)
		if at.After(g.to) {
			g.to = at
		}
	}
}

// overLocked takes out the gaps that wait for nothing more.
func (gs *gaps[S]) overLocked() (over []*gap[S]) {
	gs.list = slices.DeleteFunc(gs.list, func(g *gap[S]) bool {
		if len(g.open) == 0 {
			over = append(over, g)
		}
		return len(g.open) == 0
	})
	gs.some.Store(len(gs.list) > 0)
	return over
}

// leaves ends the wait for topics that are wanted no more. While the shard has no connection, which isDown says, nobody knows when
// its gaps will end: then these topics take their part along, and it is told at once.
func (gs *gaps[S]) leaves(subs []S, isDown func() bool) (told []*gap[S]) {
	if !gs.some.Load() {
		return nil
	}
	now, down := time.Now(), isDown()
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.list {
		gone := make(map[S]struct{})
		for _, sub := range subs {
			if _, open := g.open[sub]; open {
				gone[sub] = struct{}{}
			}
			g.end(sub, now)
		}
		if down && len(gone) > 0 && len(g.open) > 0 {
			g.subs = slices.DeleteFunc(g.subs, func(sub S) bool { _, ok := gone[sub]; return ok })
			told = append(told, &gap[S]{from: g.from, sure: g.sure, to: now, subs: slices.Collect(maps.Keys(gone))})
		}
	}
	return append(told, gs.overLocked()...)
}

// missing says of how many topics something is missed at present, and since when at the earliest.
func (gs *gaps[S]) missing() (topics int, since time.Time) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.list {
		if topics += len(g.open); since.IsZero() || g.from.Before(since) {
			since = g.from
		}
	}
	return topics, since
}

// end ends all that is missed yet.
func (gs *gaps[S]) end() (over []*gap[S]) {
	now := time.Now()
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.list {
		for sub := range g.open {
			g.end(sub, now)
		}
	}
	return gs.overLocked()
}
