package wsshard

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: which steps does a switchover take, so that no message is lost?

// change is one switchover on its way.
type change[S comparable] struct {
	s      *shard[S]
	wish   *wish
	cur    *session[S]
	next   *session[S] // nil until it is open
	relay  *relay[S]
	report *SwitchoverReport

	ticket   *gate.Ticket // at the door, and for a turn
	begun    atomic.Int64 // instant when the dial of next began; 0: not yet
	up       atomic.Pointer[gate.Stay]
	curEnded chan time.Time // cap 1; when cur's connection ended

	began, opened time.Time
	lost          bool // cur ended by itself
	dismissed     bool // cur was silent to the end
	judgement[S]
}

// stage is how far a switchover has come, for whoever looks at it from outside.
type stage[S comparable] struct {
	trigger string
	what    string
	since   time.Time
	next    *session[S] // nil: it is not open
}

// Stages of a switchover.
const (
	stageDial  = "opens its next connection"
	stageProof = "waits for proof that the next connection delivers"
	stageStill = "waits for that proof, and keeps the old connection still"
	stageDrain = "lets the old connection deliver its last"
)

func (ch *change[S]) enter(what string) {
	ch.s.stage.Store(&stage[S]{ch.wish.trigger, what, time.Now(), ch.next})
}

// switchover replaces cur and returns the session that delivers from now on. If it failed that is cur itself, untouched. If cur was lost
// meanwhile and the new one did not come, it is nil.
func (s *shard[S]) switchover(ctx context.Context, cur *session[S], wish *wish) *session[S] {
	if s.closesFirst() {
		cur.end(ErrReconnect)
		<-cur.delivered
		return nil
	}
	ch := &change[S]{
		s: s, wish: wish, cur: cur, began: time.Now(),
		relay:  newRelay[S](s.core.cfg.Switchover, s.core.caps.sequence != nil, s.wake),
		report: &SwitchoverReport{Trigger: wish.trigger, Proof: "none"},
	}
	ch.ticket, ch.curEnded = gate.NewTicket(s.id, 0, gate.Routine), make(chan time.Time, 1)
	s.enter(ShardSwitching)
	ch.enter(stageDial)
	defer s.stage.Store(nil)
	s.emit(Event[S]{Kind: EventSwitchoverStarted, Generation: cur.st.Generation, Switchover: ch.reported()})
	defer context.AfterFunc(cur.ctx, func() { ch.curEnded <- time.Now() })()
	next := ch.run(ctx)
	s.unsubscribedMeanwhile.Store(nil)
	s.run.gate.ReturnTurn(ch.ticket)
	return next
}

func (ch *change[S]) run(ctx context.Context) *session[S] {
	if err := ch.prepare(ctx); err != nil {
		return ch.failed(ctx, err)
	}
	ch.cutOver(ctx)
	return ch.succeeded()
}

// prepare opens next and returns nil when the cutover may begin: cur writes nothing more by then.
func (ch *change[S]) prepare(ctx context.Context) error {
	s, cur := ch.s, ch.cur
	dialCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dialled := ch.dial(dialCtx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var nextGone <-chan struct{}
	curGone := cur.delivered
	for {
		// 1st: wait until something happens.
		wait := time.Hour
		if !ch.due.IsZero() {
			wait = max(0, time.Until(ch.due))
		}
		timer.Reset(wait)
		select {
		case res := <-dialled:
			s.took(res)
			if dialled = nil; res.err != nil {
				return res.err
			}
			ch.next = res.session
			ch.opened = time.Now()
			ch.report.Dial = ch.opened.Sub(ch.began)
			nextGone = ch.next.ctx.Done()
			ch.enter(stageProof)
			ch.next.start()
		case <-curGone:
			curGone, ch.lost = nil, true
			s.down(cur)
			s.enter(ShardConnecting)
			s.run.gate.Raise(ch.ticket, gate.Down)
		case <-nextGone:
			return context.Cause(ch.next.ctx)
		case <-s.wake:
		case <-timer.C:
		}

		// 2nd: is it still wanted?
		silent, stop := ch.wanted(ctx)
		if stop != nil {
			cancel(stop)
			if dialled != nil {
				res := <-dialled
				if s.took(res); res.err == nil {
					ch.next = res.session
					ch.next.start()
				}
			}
			return stop
		}

		// 3rd: may it be cut over?
		if ch.next != nil {
			if cut, err := ch.decide(silent); cut || err != nil {
				return err
			}
		}
	}
}

// wanted says whether cur is taken for dead by now, and why the switchover is to end, if so.
func (ch *change[S]) wanted(ctx context.Context) (silent bool, stop error) {
	s := ch.s
	silent, aborted := ch.urge()
	switch {
	case ctx.Err() != nil:
		stop = context.Cause(ctx)
	case ch.lost:
		s.takeReconnect() // this is what makes the new connection
	case s.reconnectAsked():
		stop = ErrReconnect
	case aborted:
		stop = context.Canceled
	}
	return silent, stop
}

// urge tells the gate how urgent this is by now. For a silent cur, or one that its server is about to close, it waits for no turn: that
// would protect nothing.
func (ch *change[S]) urge() (silent, aborted bool) {
	s := ch.s
	class, silent, aborted := s.look(ch.wish)
	s.run.gate.Raise(ch.ticket, class)
	if s.warned(ch.wish) {
		s.run.gate.Noticed(ch.ticket)
	}
	if silent {
		s.run.gate.SkipTurn(ch.ticket)
	}
	return silent, aborted
}

// dial begins to open next. It waits until the door and a turn are both free, and holds neither while it waits for the other;
// a silent or lost cur, or one whose server has given notice, needs no turn.
func (ch *change[S]) dial(ctx context.Context) <-chan attemptResult[S] {
	s := ch.s
	ch.urge()
	o := newOpening[S](&s.slot, s, s.state())
	o.ticket, o.relay, o.hurried = ch.ticket, ch.relay, s.hurried
	o.hooks = openingHooks{
		begin: func() {
			ch.begun.Store(s.core.instant(time.Now()))
			ch.cur.watch.Store(ch.relay) // its keys are remembered from here on
		},
		up: ch.up.Store,
	}
	if cur := s.live.Load(); cur != nil {
		o.lost = cur.ctx.Done()
	}
	return o.begin(ctx)
}

// keyTime is how long after next's login cur may be ended for it.
const keyTime = 2 * time.Second

// tellKeys says to the gate what this switchover has shown of hosts that allow one connection for a key, or for a client.
func (ch *change[S]) tellKeys(failure error) {
	g, stay := ch.s.run.gate, ch.up.Load()
	how, _ := endedAs(ch.cur.cause())
	kicked := false
	if ch.lost && how == gate.Theirs && stay != nil {
		at := <-ch.curEnded
		kicked = !at.Before(ch.s.core.at(ch.begun.Load())) && (ch.opened.IsZero() || at.Sub(ch.opened) <= keyTime)
	}
	switch {
	case kicked || failure == nil && stay != nil:
		g.Kicked(stay, kicked)
	case failure != nil && !ch.lost && ch.unwanted(failure):
		g.Crowded(ch.cur.stay.Key())
	}
}

// unwanted reports whether the host refused next, or closed it while it was young.
func (ch *change[S]) unwanted(failure error) bool {
	var he *HandshakeError
	if errors.As(failure, &he) {
		return he.StatusCode >= 400 && he.StatusCode < 500 && !slices.Contains([]int{408, 418, 425, 429}, he.StatusCode)
	}
	how, _ := endedAs(failure)
	return ch.next != nil && how == gate.Theirs && time.Since(ch.next.opened) < ch.s.core.cfg.Backoff.StableAfter
}

// cutOver lets cur deliver its last, and next deliver from then on.
func (ch *change[S]) cutOver(ctx context.Context) {
	s, cur, next := ch.s, ch.cur, ch.next
	ch.enter(stageDrain)
	cut := time.Now()
	ch.report.Overlap = cut.Sub(ch.opened)
	if !ch.readyAt.IsZero() {
		ch.report.Ready = ch.readyAt.Sub(ch.opened)
		ch.report.Overlap = cut.Sub(ch.readyAt)
	}
	down := ch.lost
	ch.lost = ch.lost || cur.ctx.Err() != nil
	switch {
	case ch.lost:
	case ch.dismissed:
		cur.dismiss(next)
	default:
		cur.retire(next)
	}
	<-cur.delivered // bounded by DrainTimeout and the handler
	cur.watch.Store(nil)
	ch.report.Drain = time.Since(cut)
	ch.count()

	silent := s.closeWish(ch.wish) // who asks from now on means next
	switch {
	case down:
	case ch.lost:
		s.down(cur)
	case ctx.Err() != nil:
	case silent != nil:
		s.openGap(cur.loss(cur.gapFrom(silent)))
	case ch.report.Proof == "none", !cur.readToEnd.Load():
		s.openGap(cur.loss(cur.gapFrom(nil)))
	case cur.closedBefore(ch.readyAt): // then neither has brought what came until next was proven
		s.openGap(cur.loss(cur.conn.At(clocked(cur.openUntil.Load()))))
	default:
		ch.openGapOfUnproven()
	}
	if s.noticed.Store(0); ch.wish.noticed { // before it can hear one as the session that delivers
		s.noticed.Store(next.st.Generation)
	}
	s.promote(next)
	next.expect(ch.relay.release())
	go next.flush()
}

// openGapOfUnproven begins a gap of topics that cur had and that next is not known to carry, though the cutover did not wait for
// them: they were taken back and wanted anew since next had settled all up to a touch. Without an Unsubscriber cur went on with them.
// With one that is a new subscription, of which nothing is promised until it is proven, unless cur had the old one, and had just
// unsubscribed it to ask once more.
func (ch *change[S]) openGapOfUnproven() {
	s, cur, next := ch.s, ch.cur, ch.next
	anew := make(map[S]struct{})
	for _, sub := range s.desired.Since(ch.carriedUpto) {
		if again := s.desired.AskedAgain([]S{sub}); len(again) == 0 || ch.unsubscribedMeanwhile.has(sub) { // else next carries it, and asks once more
			anew[sub] = struct{}{}
		}
	}
	var subs []S
	g := cur.loss(cur.gapFrom(nil)).gap(s.linger())
	had := cur.off
	if s.core.caps.unsubscriber == nil {
		had = cur.carried
	}
	for _, sub := range had {
		num, wanted := s.desired.Number(sub)
		_, isAnew := anew[sub]
		if wanted && isAnew && !next.claims.toldUnder(sub, num) {
			subs = append(subs, sub)
			g.open[sub] = num
		}
	}
	if len(subs) > 0 {
		s.miss(g, subs)
	}
}

// count takes over what the relay counted.
func (ch *change[S]) count() {
	held, dropped, twice := ch.relay.counts()
	ch.report.Held, ch.report.Dropped = held, dropped
	ch.s.core.count.duplicateKeys.Add(uint64(twice))
	if !ch.relay.keep {
		ch.s.core.count.duplicates.Add(uint64(dropped))
	}
}

// reported is a copy of the report for an event.
func (ch *change[S]) reported() *SwitchoverReport {
	r := *ch.report
	return &r
}

func (ch *change[S]) succeeded() *session[S] {
	s, wish := ch.s, ch.wish
	s.core.count.switched.Add(1)
	ch.tellKeys(nil)
	if ch.lost {
		s.emit(Event[S]{Kind: EventConnected, Generation: ch.next.st.Generation})
	}
	s.log.Info("switched over", "gen", ch.next.st.Generation, "trigger", ch.report.Trigger, "proof", ch.report.Proof)
	s.emit(Event[S]{Kind: EventSwitchoverDone, Generation: ch.next.st.Generation, Switchover: ch.reported()})
	wish.end(nil)
	s.heed(ch.next)
	return ch.next
}

// failed ends next. cur goes on, unless it was silent: then it reconnects.
func (ch *change[S]) failed(ctx context.Context, err error) *session[S] {
	s := ch.s
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	silent := s.closeWish(ch.wish) // who asks from now on means another
	ch.thaw()
	if ch.next != nil {
		ch.next.end(err)
	}
	ch.cur.watch.Store(nil)
	ch.relay.discard()
	if ch.next != nil {
		<-ch.next.delivered
	}
	ch.report.Held, ch.report.Dropped, _ = ch.relay.counts()
	s.core.count.switchFailed.Add(1)
	ch.tellKeys(err)
	if ctx.Err() == nil {
		s.log.Warn("switchover failed", "trigger", ch.report.Trigger, "err", err)
		s.emit(Event[S]{Kind: EventSwitchoverFailed, Generation: ch.cur.st.Generation, Err: err, Switchover: ch.reported()})
	}
	poke(s.wake)      // what was asked for meanwhile
	poke(ch.cur.wake) // if it was silent and is not any more, it is judged again
	switch {
	case ch.lost:
		ch.wish.end(err)
		return nil
	case silent != nil:
		ch.cur.end(silent)
		ch.wish.end(err)
		return nil
	}
	s.enter(ShardConnected)
	ch.wish.end(err)
	return ch.cur
}
