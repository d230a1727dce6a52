package wsshard

import (
	"context"
	"time"
)

// This file answers: how is a live connection replaced without losing a message?

// change is one switchover on its way.
type change[S comparable] struct {
	s      *shard[S]
	mv     *move
	cur    *session[S]
	next   *session[S] // nil until it is open
	relay  *relay[S]
	report *SwitchoverReport

	haste *haste

	began, opened time.Time
	lost          bool // cur ended by itself
	dismissed     bool // cur was silent to the end
	turn          *visitor
	skipTurn      func() // ends the wait for a turn, without one
	judgement[S]
}

// switchover replaces cur and returns the session that delivers from now on: the new one; cur itself, untouched, when it
// failed; nil when cur was lost meanwhile and the new one did not come.
func (s *shard[S]) switchover(ctx context.Context, cur *session[S], mv *move) *session[S] {
	if s.m.cfg.DisableHotSwitchover {
		cur.end(ErrReconnect)
		<-cur.delivered
		return nil
	}
	ch := &change[S]{
		s: s, mv: mv, cur: cur, began: time.Now(),
		relay:  newRelay[S](s.m.cfg.Switchover, s.m.caps.sequence != nil, s.wake),
		report: &SwitchoverReport{Trigger: mv.trigger, Proof: "none"},
	}
	ch.haste = &haste{class: routine, begin: func() { cur.watch.Store(ch.relay) }} // its keys are remembered from there on
	s.enter(ShardSwitching)
	s.emit(Event[S]{Kind: EventSwitchoverStarted, Generation: cur.st.Generation, Switchover: ch.reported()})
	next := ch.run(ctx)
	s.leavers.Store(nil)
	if ch.turn != nil {
		s.run.turns.leave(turnKey, ch.turn, hostUnknown, nil, 0)
	}
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
	turned := ch.takeTurn(dialCtx)
	var dialled <-chan attemptResult[S]
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
		case t := <-turned:
			if turned, ch.turn = nil, t.turn; t.err != nil {
				return t.err
			}
			dialled = s.attemptAsync(dialCtx, s.state(), ch.haste, ch.relay)
		case res := <-dialled:
			if dialled = nil; res.err != nil {
				return res.err
			}
			ch.next = res.session
			ch.opened = time.Now()
			ch.report.Dial = ch.opened.Sub(ch.began)
			nextGone = ch.next.ctx.Done()
			ch.next.start()
		case <-curGone:
			curGone, ch.lost = nil, true
			s.down(cur)
			s.enter(ShardConnecting)
			ch.haste.raise(urgent)
		case <-nextGone:
			return context.Cause(ch.next.ctx)
		case <-s.wake:
		case <-timer.C:
		}

		// 2nd: is it still wanted?
		silent, stop := ch.wanted(ctx)
		if stop != nil {
			cancel(stop)
			if turned != nil {
				ch.turn = (<-turned).turn
			}
			if dialled != nil {
				if res := <-dialled; res.err == nil {
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
	class, silent, aborted := s.look(ch.mv)
	ch.haste.raise(class)
	if silent {
		ch.skipTurn()
	}
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

var turnKey = doorKey{host: "switchover"}

type turnResult struct {
	turn *visitor // nil: it did without
	err  error
}

// takeTurn waits for a turn, unless the old connection is silent or lost, or until it is.
func (ch *change[S]) takeTurn(ctx context.Context) <-chan turnResult {
	done := make(chan turnResult, 1)
	class, silent, _ := ch.s.look(ch.mv)
	ch.haste.raise(class)
	waiting, skip := context.WithCancel(ctx)
	if ch.skipTurn = skip; silent {
		skip()
	}
	go func() {
		defer skip()
		defer context.AfterFunc(ch.cur.ctx, skip)()
		var t turnResult
		if waiting.Err() == nil {
			t.turn, t.err = ch.haste.enter(waiting, ch.s.run.turns, turnKey, nil)
		}
		if ctx.Err() == nil { // else it was told to do without
			t.err = nil
		}
		done <- t
	}()
	return done
}

// cutOver lets cur deliver its last, and next deliver from then on.
func (ch *change[S]) cutOver(ctx context.Context) {
	s, cur, next := ch.s, ch.cur, ch.next
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

	silent := s.closeMove(ch.mv) // who asks from now on means next
	switch {
	case down:
	case ch.lost:
		s.down(cur)
	case ctx.Err() != nil:
	case silent != nil:
		s.openGap(cur, cur.gapFrom(silent))
	case ch.report.Proof == "none", !cur.complete.Load():
		s.openGap(cur, cur.gapFrom(nil))
	}
	if s.noticed.Store(0); ch.mv.noticed { // before it can hear one as the session that delivers
		s.noticed.Store(next.st.Generation)
	}
	s.promote(next)
	next.expect(ch.relay.release())
	go next.flush()
}

// count takes over what the relay counted.
func (ch *change[S]) count() {
	held, dropped, twice := ch.relay.counts()
	ch.report.Held, ch.report.Dropped = held, dropped
	ch.s.m.count.duplicateKeys.Add(uint64(twice))
	if !ch.relay.keep {
		ch.s.m.count.duplicates.Add(uint64(dropped))
	}
}

// reported is a copy of the report for an event.
func (ch *change[S]) reported() *SwitchoverReport {
	r := *ch.report
	return &r
}

func (ch *change[S]) succeeded() *session[S] {
	s, mv := ch.s, ch.mv
	s.m.count.switched.Add(1)
	if ch.lost {
		s.emit(Event[S]{Kind: EventConnected, Generation: ch.next.st.Generation})
	}
	s.log.Info("switched over", "gen", ch.next.st.Generation, "trigger", ch.report.Trigger, "proof", ch.report.Proof)
	s.emit(Event[S]{Kind: EventSwitchoverDone, Generation: ch.next.st.Generation, Switchover: ch.reported()})
	mv.end(nil)
	s.heed(ch.next)
	return ch.next
}

// failed ends next. cur goes on, unless it was silent: then it reconnects.
func (ch *change[S]) failed(ctx context.Context, err error) *session[S] {
	s := ch.s
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	silent := s.closeMove(ch.mv) // who asks from now on means another
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
	s.m.count.switchFailed.Add(1)
	if ctx.Err() == nil {
		s.log.Warn("switchover failed", "trigger", ch.report.Trigger, "err", err)
		s.emit(Event[S]{Kind: EventSwitchoverFailed, Generation: ch.cur.st.Generation, Err: err, Switchover: ch.reported()})
	}
	poke(s.wake)      // what was asked for meanwhile
	poke(ch.cur.wake) // if it was silent and is not any more, it is judged again
	switch {
	case ch.lost:
		ch.mv.end(err)
		return nil
	case silent != nil:
		ch.cur.end(silent)
		ch.mv.end(err)
		return nil
	}
	s.enter(ShardConnected)
	ch.mv.end(err)
	return ch.cur
}
