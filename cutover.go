package wsshard

import (
	"sync"
	"time"
)

// This file answers: when may the new connection of a switchover take over?

// judgement is what the shard's loop remembers from one look at the two connections to the next.
type judgement[S comparable] struct {
	due     time.Time // when to look again at the latest; zero: no such time
	readyAt time.Time // since when next is ready, or was last

	// What next had to carry when it had written everything for the first time.
	goal   milestone
	goalAt time.Time // when that was proven; zero: not yet

	// Topics that come and go without a pause would let nothing be still for as long as Linger. Then cur is kept still.
	stillAt time.Time   // since when it is to be; zero: it is not
	leavers *leavers[S] // nil: it is not
	still   milestone   // what next must have written since then
	sinceAt time.Time   // since when it carries what is on cur; zero: it does not
}

// milestone is a state of the subscriptions that next had written up to.
type milestone struct {
	set      bool
	upto     uint64 // touches
	requests int64  // that next had written by then
}

// patience is how long a set that keeps changing is waited for, and then the proof by keys.
func (ch *change[S]) patience() time.Duration { return 4 * max(0, ch.s.m.cfg.Switchover.Linger) }

// decide looks at both connections. cut means that cur is to be retired now.
func (ch *change[S]) decide(silent bool) (cut bool, err error) {
	cfg := &ch.s.m.cfg.Switchover
	now := time.Now()
	ch.due = time.Time{}
	if ch.lost || ch.cur.ending.Load() {
		return true, nil // there is nothing to wait for, and nothing better than next
	}
	if !silent && ch.cur.proof.heard.Load() && ch.next.proof.ignored(ch.next.claimTime(now)) {
		return false, ErrSwitchoverTimeout // all is failed, so nothing would be waited for: but it is next that is dead
	}
	since, ready := ch.ready(now)
	if ready && !since.Equal(ch.readyAt) {
		ch.readyAt = since
		ch.relay.arm()
	}
	met, used := ch.relay.overlapped()
	lingered := ready && now.Sub(ch.readyAt) >= cfg.Linger
	enough := lingered && (met || ch.unmatched(now))
	full := ch.relay.isFull()
	deadline, timed := ch.deadline()
	late := timed && !now.Before(deadline) && !ch.next.proof.repeats(ch.next.claimTime(now))
	if ready && (silent || full || late || enough) {
		// Between this look and the end of cur's writing a Subscribe could reach cur alone. So cur stops writing first,
		// and readiness is asked again.
		if !silent {
			if !ch.freeze() {
				return false, nil
			}
			ready = ch.carriesAll(now)
		}
		if ready {
			ch.report.Proof = ch.proof(met && used)
			if full && !(lingered && met) {
				ch.report.Proof = "none"
			}
			return true, nil
		}
	}
	restless := ch.restless(now, lingered || ready && silent, late)
	switch {
	case full:
		return false, ErrSwitchoverHold
	case restless:
		ch.stillAt, ch.leavers = now, &leavers[S]{subs: make(map[S]struct{})}
		ch.s.leavers.Store(ch.leavers)
		ch.freeze()
		return false, nil
	case late:
		return false, ErrSwitchoverTimeout
	}
	if ch.stillAt.IsZero() {
		ch.thaw()
	}
	ch.lookAt(now, deadline)
	ch.lookAt(now, ch.readyAt.Add(cfg.Linger))
	if !ch.stillAt.IsZero() {
		ch.lookAt(now, ch.readyAt.Add(ch.patience()))
	}
	return false, nil
}

// lookAt sees to it that decide is asked again at an instant that is still to come.
func (ch *change[S]) lookAt(now, at time.Time) {
	if at.After(now) && (ch.due.IsZero() || at.Before(ch.due)) {
		ch.due = at
	}
}

// deadline is when the switchover must be over, once the last request is written.
func (ch *change[S]) deadline() (at time.Time, ok bool) {
	limit, next := ch.s.m.cfg.Switchover.Timeout, ch.next
	if limit <= 0 || next.upto.Load() < ch.cur.upto.Load() && ch.stillAt.IsZero() {
		return at, false
	}
	return latest(ch.stillAt, next.conn.At(time.Duration(next.wroteAt.Load()))).Add(limit), true
}

// restless reports whether cur must take no more changes from now on: all that was wanted at first is proven, but what came
// since has not been for as long as it takes. From then on changes reach next only, and what it brings of them waits for
// the cutover, as what is on neither would.
func (ch *change[S]) restless(now time.Time, pause, late bool) bool {
	if pause || !ch.stillAt.IsZero() {
		return false
	}
	if !ch.goal.set {
		if ch.next.upto.Load() < ch.cur.upto.Load() {
			return false
		}
		ch.goal = milestone{true, ch.cur.upto.Load(), ch.next.requests.Load()}
	}
	if ch.goalAt.IsZero() {
		if _, proven := ch.proven(now, ch.goal); !proven {
			return false
		}
		ch.goalAt = now
	}
	over := ch.goalAt.Add(ch.patience())
	ch.lookAt(now, over)
	return late || !now.Before(over)
}

// unmatched reports whether the proof by keys is given up: next brings topics that cur, which is kept still, never will.
func (ch *change[S]) unmatched(now time.Time) bool {
	return !ch.stillAt.IsZero() && now.Sub(ch.readyAt) >= ch.patience()
}

// ready reports whether next seems to carry what cur carries, and to have proven it; and since when. It is asked often, and
// of a cur that is not kept still it knows only what is published: carriesAll is the exact question.
func (ch *change[S]) ready(now time.Time) (since time.Time, ok bool) {
	if ch.stillAt.IsZero() {
		upto := ch.cur.upto.Load()
		if ch.next.upto.Load() < upto {
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
	last, waits := next.proof.waiting(next.claimTime(now), func(sub S, num uint64) bool {
		_, wanted := ch.s.desired.Number(sub) // one that nobody needs is not waited for
		return wanted && num <= m.upto
	})
	return latest(ch.opened, last), !waits
}

// carriesAll reports whether all that is wanted and on cur, which is frozen or gone, is settled and proven on next. What cur
// has not applied either does not count: it is lost on neither.
func (ch *change[S]) carriesAll(now time.Time) bool {
	next := ch.next
	counts := func(sub S, _ uint64) bool {
		_, on := ch.cur.applied.Number(sub)
		return on && !ch.leavers.has(sub)
	}
	// In this order: what is settled was claimed before, and what is touched meanwhile shows up in Since.
	m := ch.still
	if !m.set {
		m = milestone{true, next.upto.Load(), next.requests.Load()}
		for _, sub := range ch.s.desired.Since(m.upto) {
			if counts(sub, 0) {
				return false
			}
		}
		if ch.leavers != nil { // what is written from now on is not on cur, or is but asked for again
			ch.still = m
		}
	}
	if ch.byDetector() {
		return next.readyAfter(m.requests)
	}
	_, waits := next.proof.waiting(next.claimTime(now), counts)
	return !waits
}

// leavers are the topics that were unsubscribed since the old connection is kept still: wanted anew, they are on neither.
type leavers[S comparable] struct {
	mu   sync.Mutex // protects following; a leaf lock
	subs map[S]struct{}
}

func (l *leavers[S]) note(subs []S) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range subs {
		l.subs[s] = struct{}{}
	}
}

func (l *leavers[S]) has(s S) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.subs[s]
	return ok
}

// byDetector reports whether IsReady proves, instead of answers, data or time.
func (ch *change[S]) byDetector() bool { return ch.s.m.caps.ready != nil && !ch.next.proof.acks }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// proof names what showed that next delivers: the weakest link.
func (ch *change[S]) proof(keys bool) string {
	switch {
	case !ch.next.proof.acks && !ch.byDetector() && (ch.s.m.caps.inspector == nil || ch.next.proof.settledByTime()):
		return "settle"
	case keys:
		return "keys"
	}
	return "acks"
}

const (
	freezeNone int32 = iota
	freezeAsked
	freezeDone
)

// freeze stops cur's reconciling; false until cur has seen it. While it is frozen, what it has applied stands still and may
// be read.
func (ch *change[S]) freeze() bool {
	if ch.cur.frozen.CompareAndSwap(freezeNone, freezeAsked) {
		poke(ch.cur.wake)
	}
	return ch.cur.frozen.Load() == freezeDone
}

func (ch *change[S]) thaw() {
	if ch.cur.frozen.Swap(freezeNone) != freezeNone {
		poke(ch.cur.wake)
	}
}
