package wsshard

import (
	"errors"
	"maps"
	"slices"
	"time"
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
	list []letGo[S]
	last map[S]time.Time // of each in list, when it was last
}

// note adds topics that the server carries no more, and lets go of what is older than since.
func (o *offs[S]) note(subs []S, at time.Time, overdue bool, since time.Time) {
	if o.last == nil {
		o.last = make(map[S]time.Time, len(subs))
	}
	for _, s := range subs {
		o.list = append(o.list, letGo[S]{s, at, overdue})
		o.last[s] = at
	}
	n := 0
	for n < len(o.list) && o.list[n].at.Before(since) {
		if old := o.list[n]; !o.last[old.sub].After(old.at) {
			delete(o.last, old.sub)
		}
		n++
	}
	if o.list = o.list[n:]; len(o.list) == 0 {
		o.list, o.last = nil, nil
	}
}

// has reports whether s was let go of since then.
func (o *offs[S]) has(s S, since time.Time) bool {
	at, ok := o.last[s]
	return ok && !at.Before(since)
}

// gapFrom returns the earliest instant from which messages of a connection that ended for cause may be missing, apart from the
// server's skew. As a rule that is when the last complete frame came: if a fragmented message was cut off, all of it is missing.
// After a data timeout it is the last data, because pongs prove nothing about data. Where a slow handler left something unread,
// it is the moment until which all had been read: what the peer sent since may be lost, though the last frame was read later
// than it was sent.
func (c *session[S]) gapFrom(cause error) time.Time {
	if at := c.silentAt.Load(); at != 0 { // as it was found then; in its drain it may have come back for a moment
		return c.conn.At(clocked(at))
	}
	if errors.Is(cause, ErrDataTimeout) {
		return c.lastData()
	}
	last := c.lastFrame()
	if at := c.unread.Load(); at != 0 && c.conn.At(time.Duration(at)).Before(last) {
		return c.conn.At(time.Duration(at))
	}
	return last
}

// earliest returns an instant that no loss of this connection from now on begins before, apart from the server's skew.
func (c *session[S]) earliest() time.Time {
	from := c.lastFrame()
	if signs := c.conn.Signs(); !signs.Current {
		from = first(from, c.conn.At(signs.Idle))
	}
	if at := c.unread.Load(); at != 0 {
		from = first(from, c.conn.At(time.Duration(at)))
	}
	if c.sh.dataTimeout() > 0 {
		from = first(from, c.lastData())
	}
	return c.heldBack(from)
}

// heldBack returns the earliest instant at which a topic may have been on whose messages the network held back and lost.
// Where nobody judges pongs it knows none: there the server may never answer a ping.
func (c *session[S]) heldBack(from time.Time) time.Time {
	if judgesPongs(c.m.cfg.Health) {
		return first(from, c.sure())
	}
	return from
}

func first(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// sure returns the instant before which nothing of this connection is missing, whatever the network held back: the peer has
// answered a ping that was written then, and what it sent before its answer has come before it.
func (c *session[S]) sure() time.Time {
	if at := c.answeredAt.Load(); at != 0 {
		return c.conn.At(clocked(at))
	}
	return c.opened
}

// linger is how much later than another a connection of this server may bring a message.
func (s *shard[S]) linger() time.Duration { return max(0, s.m.cfg.Switchover.Linger) }

// openGap begins a gap of what the ended session lost carried since then, less the server's skew.
func (s *shard[S]) openGap(lost *session[S], from time.Time) {
	g := s.lossOf(lost, from)
	since := lost.heldBack(from).Add(-s.linger())
	named := make(map[S]struct{}, len(lost.carried))
	for _, sub := range lost.carried {
		named[sub] = struct{}{}
	}
	for _, o := range lost.offs.list {
		if !o.at.Before(g.from) || o.overdue && !o.at.Before(since) {
			named[o.sub] = struct{}{}
		}
	}
	if len(named) > 0 {
		s.miss(g, slices.AppendSeq(make([]S, 0, len(named)), maps.Keys(named)))
	}
}

// lossOf is a gap that names nothing yet.
func (s *shard[S]) lossOf(lost *session[S], from time.Time) *gap[S] {
	from = from.Add(-s.linger())
	return &gap[S]{from: from, sure: first(from, lost.sure().Add(-s.linger())), after: lost.st.Generation, open: make(map[S]uint64)}
}

// openGapOfUnproven begins a gap of what cur went on with and next is not known to carry, though the cutover did not wait for it:
// what was wanted anew since next had settled all up to a touch. With an Unsubscriber that is a new subscription, of which nothing
// is promised until it is proven.
func (s *shard[S]) openGapOfUnproven(cur, next *session[S], upto uint64, l *leavers[S]) {
	anew := make(map[S]struct{})
	for _, sub := range s.desired.Since(upto) {
		if again := s.desired.AskedAgain([]S{sub}); len(again) == 0 || l.has(sub) { // else next carries it, and asks once more
			anew[sub] = struct{}{}
		}
	}
	var subs []S
	g := s.lossOf(cur, cur.gapFrom(nil))
	for _, sub := range cur.carried {
		num, wanted := s.desired.Number(sub)
		_, isAnew := anew[sub]
		if wanted && isAnew && !next.proof.toldUnder(sub, num) {
			subs = append(subs, sub)
			g.open[sub] = num
		}
	}
	if len(subs) > 0 {
		s.miss(g, subs)
	}
}

// resubscribes begins a gap of topics that c has just unsubscribed, at an instant, to ask for them again.
func (s *shard[S]) resubscribes(c *session[S], subs []S, at time.Time) {
	if len(subs) == 0 { // taken back and added anew: nothing was promised in between
		return
	}
	from := at.Add(-s.linger())
	c.proof.tell(true) // before the gap is there, or another's end could undo it
	s.miss(&gap[S]{from: from, sure: from, after: c.st.Generation - 1, open: make(map[S]uint64)}, subs)
}

// miss adds a gap of subs, of which g.open may say under which number they are to be proven. A topic that is missed already stays where it is: that gap goes on, and began no later.
func (s *shard[S]) miss(g *gap[S], subs []S) {
	s.mu.Lock()
	s.missing.Store(true) // before wants: who unsubscribes a topic from then on looks for it here
	for _, old := range s.gaps {
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
		s.missing.Store(len(s.gaps) > 0)
		s.mu.Unlock()
		return
	}
	least := g.open
	g.open = make(map[S]uint64, len(subs))
	for _, sub := range subs {
		if s.wants(sub) {
			g.open[sub] = least[sub]
		} else { // nobody waits for it any more
			g.to = time.Now()
		}
	}
	s.gaps = append(s.gaps, g)
	over := s.overLocked()
	s.mu.Unlock()
	s.tellGaps(over, g.after)
}

// tellProven tells the shard's gaps which topics were proven on c since it was last asked, or failed: then nothing more of them
// is to come. Before c delivers it says nothing; promote has it say all then.
func (c *session[S]) tellProven() {
	s := c.sh
	if !c.proof.telling.Load() || s.live.Load() != c {
		return
	}
	s.mu.Lock()
	for sub, t := range c.proof.takeTold() {
		for _, g := range s.gaps {
			if g.after < c.st.Generation && t.num >= g.open[sub] {
				g.end(sub, t.at)
			}
		}
	}
	over := s.overLocked()
	if len(s.gaps) == 0 {
		c.proof.tell(false)
	}
	s.mu.Unlock()
	s.tellGaps(over, c.st.Generation)
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
func (s *shard[S]) overLocked() (over []*gap[S]) {
	s.gaps = slices.DeleteFunc(s.gaps, func(g *gap[S]) bool {
		if len(g.open) == 0 {
			over = append(over, g)
		}
		return len(g.open) == 0
	})
	s.missing.Store(len(s.gaps) > 0)
	return over
}

// leaves ends the wait for topics that are wanted no more. While the shard has no connection, nobody knows when its gaps will
// end: then these topics take their part along, and it is told at once.
func (s *shard[S]) leaves(subs []S) (told []*gap[S]) {
	if !s.missing.Load() {
		return nil
	}
	now, down := time.Now(), s.live.Load() == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.gaps {
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
	return append(told, s.overLocked()...)
}

// endGaps tells of all that is missed yet: Stop forgets what was wanted.
func (s *shard[S]) endGaps() {
	now := time.Now()
	s.mu.Lock()
	for _, g := range s.gaps {
		for sub := range g.open {
			g.end(sub, now)
		}
	}
	over := s.overLocked()
	s.mu.Unlock()
	s.tellGaps(over, 0)
}

// tellGaps says of gaps that they are over; gen is the connection that ended them.
func (s *shard[S]) tellGaps(over []*gap[S], gen uint64) {
	for _, g := range over {
		s.emitGap(g, gen)
		s.log.Warn("gap", "gen", gen, "from", g.from, "to", g.to, "topics", len(g.subs))
	}
}

// liveGeneration is that of the live connection; 0: there is none.
func (s *shard[S]) liveGeneration() uint64 {
	if c := s.live.Load(); c != nil {
		return c.st.Generation
	}
	return 0
}

// emitGap counts a gap and tells the observer. It calls nobody, so a lock may be held.
func (s *shard[S]) emitGap(g *gap[S], gen uint64) {
	if g.to.Before(g.from) {
		g.to = g.from
	}
	s.m.count.gaps.Add(1)
	s.stats.set(func(st *shardStats) { st.gaps, st.lastGap = st.gaps+1, onClock(g.to) })
	s.emit(Event[S]{Kind: EventGap, Generation: gen, From: onClock(g.from), To: onClock(g.to), Sure: onClock(g.sure), Subs: g.subs})
}
