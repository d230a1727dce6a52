package wsshard

import (
	"sync"
	"time"
)

// This file answers: when may the new connection of a switchover take over?

// judgement is what the shard loop remembers from one look at the two connections to the next.
type judgement[S comparable] struct {
	due     time.Time // when to look again at the latest; zero: no such time
	readyAt time.Time // since when next is ready, or was last
	apart   bool      // next brings topics since then that cur may never have brought

	// What next had to carry when it had written everything for the first time.
	goal   milestone
	goalAt time.Time // when that was proven; zero: not yet

	// Topics that come and go without a pause would let nothing be still for as long as Linger. Then cur is kept still.
	stillAt               time.Time     // since when it is to be; zero: it is not
	unsubscribedMeanwhile *meanwhile[S] // which topics were since then; nil: it is not
	still                 milestone     // what next must have written since then
	carriedUpto           uint64        // the touch up to which next has settled what cur carries, as it was found last
	sinceAt               time.Time     // since when it carries what is on cur; zero: it does not
}

// snapshot is what one look at both connections of a switchover shows.
type snapshot struct {
	now time.Time

	// The old connection.
	lost    bool      // it has ended by itself
	silent  bool      // it is taken for dead
	frozen  bool      // it has seen that it is to write no requests: what it carries stands still
	stillAt time.Time // since when it is to take no more changes, until the end; zero: it may take some

	// The new one.
	ready    bool      // it seems to carry what the old one carries, and to have proven it
	readyAt  time.Time // since when, if it is ready
	carries  bool      // it does for certain: asked while the old one is frozen
	goalAt   time.Time // since when all is proven that the old one carried at first; zero: it is not
	deadline time.Time // Timeout's; zero: there is none, or the last request is not written yet
	repeats  bool      // a request is to be written once more, for want of an answer
	ignored  bool      // nothing was ever answered, though the old one's requests were
	full     bool      // its reader waits for room
	dataAt   time.Time // since when it holds data that the old one has not delivered; zero: it holds none
	met      bool      // the old one has delivered the keys that are asked for; true where there are no keys
}

// step is what a look at both connections leads to.
type step int

const (
	stepWait   step = iota
	stepFreeze      // have cur write no requests until the next look, for certainty
	stepStill       // keep cur still from now on
	stepCut
	stepFail
)

type verdict struct {
	step   step
	proven bool      // of stepCut: Linger has passed, and keys were delivered where there are any
	err    error     // of stepFail
	look   time.Time // when to look again at the latest; zero: something will wake us
}

// judge decides. It is pure.
func (p *snapshot) judge(linger time.Duration) verdict {
	linger = max(0, linger)
	switch {
	case p.lost: // there is nothing to wait for, and nothing better than next
		return verdict{step: stepCut}
	case p.silent:
		return p.judgeSilent(linger)
	case p.ignored: // all is failed, so nothing would be waited for: but it is next that is dead
		return verdict{step: stepFail, err: ErrSwitchoverTimeout}
	}
	lingered := p.ready && !p.now.Before(p.readyAt.Add(linger))
	proven := lingered && p.met
	late := p.late()
	switch enough := proven || p.ready && (p.full || late); {
	case enough && !p.frozen:
		// Between this look and the end of cur's writing a Subscribe could reach cur alone. So cur stops writing first, and
		// readiness is asked again.
		return verdict{step: stepFreeze}
	case enough && p.carries:
		return verdict{step: stepCut, proven: proven}
	case p.full:
		return verdict{step: stepFail, err: ErrSwitchoverHold}
	case !lingered && p.restless(linger, late):
		return verdict{step: stepStill}
	case late:
		return verdict{step: stepFail, err: ErrSwitchoverTimeout}
	}
	return p.wait(linger, lingered)
}

// wait says when Linger, Timeout or our patience will be over.
func (p *snapshot) wait(linger time.Duration, lingered bool) (v verdict) {
	p.lookAt(&v, p.deadline)
	if p.ready {
		p.lookAt(&v, p.readyAt.Add(linger))
	}
	if !lingered && p.stillAt.IsZero() && !p.goalAt.IsZero() {
		p.lookAt(&v, p.goalAt.Add(restlessAfter(linger)))
	}
	return v
}

// judgeSilent decides where cur is taken for dead: nothing is waited for but a sign that next is better.
func (p *snapshot) judgeSilent(linger time.Duration) (v verdict) {
	brings := !p.dataAt.IsZero() && !p.now.Before(p.dataAt.Add(linger))
	switch {
	case p.ready, !p.goalAt.IsZero(), p.full, brings:
		return verdict{step: stepCut}
	case p.late():
		return verdict{step: stepFail, err: ErrSwitchoverTimeout}
	}
	p.lookAt(&v, p.deadline)
	if !p.dataAt.IsZero() {
		p.lookAt(&v, p.dataAt.Add(linger))
	}
	return v
}

// late reports whether Timeout is over. A request that is written once more begins it anew.
func (p *snapshot) late() bool {
	return !p.deadline.IsZero() && !p.now.Before(p.deadline) && !p.repeats
}

// restlessAfter is how long a set that keeps changing is waited for.
func restlessAfter(linger time.Duration) time.Duration { return 4 * linger }

// restless reports whether cur must take no more changes from now on: all that was wanted at first is proven, but what came
// since has not been for as long as it takes. From then on changes reach next only, and what it brings of them waits for
// the cutover, as what is on neither would.
func (p *snapshot) restless(linger time.Duration, late bool) bool {
	return p.stillAt.IsZero() && !p.goalAt.IsZero() && (late || !p.now.Before(p.goalAt.Add(restlessAfter(linger))))
}

// lookAt sees to it that judge is asked again at an instant that is still to come.
func (p *snapshot) lookAt(v *verdict, at time.Time) {
	if at.After(p.now) && (v.look.IsZero() || at.Before(v.look)) {
		v.look = at
	}
}

// milestone is a state of the subscriptions that next had written up to.
type milestone struct {
	set      bool
	upto     uint64 // touches
	requests int64  // that next had written by then
}

// decide looks at both connections, and does what that leads to. cut means that cur is to be retired now.
func (ch *change[S]) decide(silent bool) (cut bool, err error) {
	p := ch.look(silent)
	v := p.judge(ch.s.core.cfg.Switchover.Linger)
	ch.due = v.look
	switch v.step {
	case stepFreeze:
		ch.freeze()
	case stepStill:
		ch.stillAt, ch.unsubscribedMeanwhile = p.now, &meanwhile[S]{subs: make(map[S]struct{})}
		ch.s.unsubscribedMeanwhile.Store(ch.unsubscribedMeanwhile)
		ch.enter(stageStill)
		ch.freeze()
	case stepCut:
		if ch.dismissed = p.silent && !p.lost; v.proven {
			ch.report.Proof = ch.evidence()
		}
		return true, nil
	case stepFail:
		return false, v.err
	case stepWait:
		if ch.stillAt.IsZero() {
			ch.thaw()
		}
	}
	return false, nil
}

// look takes a snapshot. What next held when it became ready begins the proof by keys.
func (ch *change[S]) look(silent bool) (p snapshot) {
	p.now, p.silent, p.stillAt = time.Now(), silent, ch.stillAt
	if p.lost = ch.lost || ch.cur.ending.Load(); p.lost {
		return p
	}
	next := ch.next
	claimed := next.claimTime(p.now)
	p.ignored = ch.cur.claims.heard.Load() && next.claims.ignored(claimed)
	p.repeats = next.claims.repeats(claimed)
	p.deadline = ch.deadline()
	p.frozen = ch.cur.loan.isGiven()
	if p.readyAt, p.ready = ch.ready(p.now); p.ready {
		ch.arm(p.readyAt, p.now)
		p.carries = p.frozen && ch.carriesAll(p.now)
	}
	p.goalAt = ch.reached(p.now)
	p.full, p.dataAt = ch.relay.holds()
	p.met, _ = ch.relay.overlapped()
	return p
}

// arm begins the proof by keys, when next has become ready or is ready for more.
func (ch *change[S]) arm(readyAt, now time.Time) {
	again := !readyAt.Equal(ch.readyAt)
	apart := ch.brings(now)
	if again || apart && !ch.apart {
		since := time.Time{}
		if ch.readyAt, ch.apart = readyAt, apart; apart {
			since = readyAt
		}
		ch.relay.arm(since)
	}
}

// brings reports whether next may have received messages about topics that cur did not carry then: those that cur has
// not written, or that were not proven there when next was opened.
func (ch *change[S]) brings(now time.Time) bool {
	if ch.next.settledUpTo.Load() > ch.cur.settledUpTo.Load() {
		return true
	}
	last, waits := ch.cur.claims.waiting(ch.cur.claimTime(now), func(S, uint64) bool { return true })
	return waits || last.After(ch.opened)
}

// deadline is when the switchover must be over. It is zero if there is no Timeout, or the last request is not written yet.
func (ch *change[S]) deadline() (at time.Time) {
	limit, next := ch.s.core.cfg.Switchover.Timeout, ch.next
	if limit <= 0 || next.settledUpTo.Load() < ch.cur.settledUpTo.Load() && ch.stillAt.IsZero() {
		return at
	}
	return latest(ch.stillAt, next.conn.At(time.Duration(next.wroteAt.Load()))).Add(limit)
}

// reached returns since when the goal is proven: all that cur carried when next had written as much for the first time. It returns zero
// if the goal is not proven yet.
func (ch *change[S]) reached(now time.Time) time.Time {
	if !ch.goal.set && ch.next.settledUpTo.Load() >= ch.cur.settledUpTo.Load() {
		ch.goal = milestone{true, ch.cur.settledUpTo.Load(), ch.next.requests.Load()}
	}
	if ch.goal.set && ch.goalAt.IsZero() {
		if _, proven := ch.proven(now, ch.goal); proven {
			ch.goalAt = now
		}
	}
	return ch.goalAt
}

// ready reports whether next seems to carry all that cur carries, and to have proven it, and since when. It is asked often. Of a cur that
// is not kept still it knows the board only: carriesAll is the exact question.
func (ch *change[S]) ready(now time.Time) (since time.Time, ok bool) {
	if ch.stillAt.IsZero() {
		upto := ch.cur.settledUpTo.Load()
		if ch.next.settledUpTo.Load() < upto {
			return since, false
		}
		return ch.proven(now, milestone{true, upto, ch.next.requests.Load()})
	}
	if !ch.freeze() || !ch.carriesAll(now) {
		ch.sinceAt = time.Time{}
		return since, false
	}
	if ch.sinceAt.IsZero() {
		ch.sinceAt = now
	}
	return ch.sinceAt, true
}

// proven reports whether all up to m is proven on next, and since when.
func (ch *change[S]) proven(now time.Time, m milestone) (since time.Time, ok bool) {
	next := ch.next
	if ch.byDetector() {
		return latest(ch.opened, next.conn.At(time.Duration(next.readyAt.Load()))), next.readyAfter(m.requests)
	}
	last, waits := next.claims.waiting(next.claimTime(now), func(sub S, num uint64) bool { return num <= m.upto && ch.s.wants(sub) })
	return latest(ch.opened, last), !waits
}

// carriesAll reports whether all that is wanted and on cur, which is frozen or gone, is settled and proven on next. What cur
// has not applied either does not count: it is lost on neither.
func (ch *change[S]) carriesAll(now time.Time) bool {
	next, on := ch.next, ch.cur.loan.lent()
	counts := func(sub S, _ uint64) bool {
		_, is := on.Number(sub)
		return is && ch.s.wants(sub) && !ch.unsubscribedMeanwhile.has(sub)
	}
	// In this order: a topic that is settled was claimed before, and one that is touched meanwhile shows up in Since.
	m := ch.still
	if !m.set {
		m = milestone{true, next.settledUpTo.Load(), next.requests.Load()}
		for _, sub := range ch.s.desired.Since(m.upto) {
			if counts(sub, 0) {
				return false
			}
		}
		if ch.unsubscribedMeanwhile != nil { // what is written from now on is not on cur, or is but asked for again
			ch.still = m
		}
	}
	ch.carriedUpto = m.upto
	if ch.byDetector() {
		return next.readyAfter(m.requests)
	}
	_, waits := next.claims.waiting(next.claimTime(now), counts)
	return !waits
}

// meanwhile are the topics that were unsubscribed since the old connection is kept still: wanted anew, they are on neither.
type meanwhile[S comparable] struct {
	mu   sync.Mutex // protects following; a leaf lock
	subs map[S]struct{}
}

func (m *meanwhile[S]) note(subs []S) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range subs {
		m.subs[s] = struct{}{}
	}
}

func (m *meanwhile[S]) has(s S) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.subs[s]
	return ok
}

// byDetector reports whether IsReady proves, instead of answers, data or time.
func (ch *change[S]) byDetector() bool { return ch.s.core.caps.ready != nil && !ch.next.claims.acks }

// evidence names what showed that next delivers: the weakest link.
func (ch *change[S]) evidence() string {
	_, keys := ch.relay.overlapped()
	switch {
	case !ch.next.claims.acks && !ch.byDetector() && (ch.s.core.caps.inspector == nil || ch.next.claims.settledByTime()):
		return "settle"
	case keys:
		return "keys"
	}
	return "acks"
}

// freeze has cur write no requests. It returns false until cur has seen it. While cur is frozen its applied set stands still and is
// lent to us.
func (ch *change[S]) freeze() bool {
	if ch.cur.loan.ask() {
		poke(ch.cur.wake)
	}
	return ch.cur.loan.isGiven()
}

func (ch *change[S]) thaw() {
	if ch.cur.loan.giveBack() {
		poke(ch.cur.wake)
	}
}
