package wsshard

import (
	"context"
	"errors"
	"time"
)

// This file answers: how is a live connection replaced without losing a message?

// Triggers of a switchover, as its report names them.
const (
	triggerCall     = "call"
	triggerLifetime = "lifetime"
	triggerData     = "data-timeout"
	triggerPong     = "pong-timeout"
	triggerNotice   = "notice"
	triggerCapacity = "capacity"
)

// noticeTwice is how long a notice that is heard again on the new connection starts nothing.
const noticeTwice = time.Minute

// move is a switchover that is asked for or under way.
type move struct {
	trigger string
	class   urgency
	silent  error         // why the old connection is taken for dead; nil: it lives. Under shard.mu
	callers int           // that wait for it. Under shard.mu
	routine bool          // goes on without callers
	aborted bool          // nobody wants it any more. Under shard.mu
	done    chan struct{} // closed when it is over
	err     error         // set before done is closed
}

// ask asks for a switchover as mv describes, or joins the one that is asked for already.
func (s *shard[S]) ask(mv *move) *move {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.move == nil {
		mv.done = make(chan struct{})
		s.move = mv
	}
	now := s.move
	now.callers++
	now.aborted = false
	now.routine = now.routine || mv.trigger != triggerCall
	now.class = min(now.class, mv.class)
	if now.silent == nil {
		now.silent = mv.silent
	}
	poke(s.wake)
	return now
}

// leaveMove says that one caller waits no more. The last one aborts a switchover that nothing else asked for.
func (s *shard[S]) leaveMove(mv *move) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mv.callers--; mv.callers == 0 && !mv.routine {
		mv.aborted = true
	}
	poke(s.wake)
}

// pendingMove returns the switchover that is asked for. One that nobody wants any more ends here.
func (s *shard[S]) pendingMove() *move {
	s.mu.Lock()
	mv := s.move
	aborted := mv != nil && mv.aborted
	s.mu.Unlock()
	if aborted {
		s.answerMove(context.Canceled)
		return nil
	}
	return mv
}

// look returns what may change while a switchover is under way.
func (s *shard[S]) look(mv *move) (silent error, aborted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mv.silent, mv.aborted
}

// answerMove ends the switchover that is asked for, if any.
func (s *shard[S]) answerMove(err error) {
	s.mu.Lock()
	mv := s.move
	s.move = nil
	s.mu.Unlock()
	if mv != nil {
		mv.err = err
		close(mv.done)
	}
}

// replaceSilent asks for c, which is silent, to be replaced; false when it must reconnect instead.
func (s *shard[S]) replaceSilent(c *session[S], cause error) bool {
	if s.m.cfg.DisableHotSwitchover || s.live.Load() != c {
		return false
	}
	trigger := triggerData
	if errors.Is(cause, ErrPongTimeout) {
		trigger = triggerPong
	}
	s.ask(&move{trigger: trigger, class: asked, silent: cause})
	return true
}

// notice takes a server's word that c is about to be closed.
func (s *shard[S]) notice(c *session[S]) {
	switch {
	case s.live.Load() != c:
	case s.noticed.Load() == c.st.Generation && time.Since(c.opened) < noticeTwice:
	case s.m.cfg.DisableHotSwitchover:
		s.askReconnect()
	default:
		s.ask(&move{trigger: triggerNotice, class: routine})
	}
}

// change is one switchover on its way.
type change[S comparable] struct {
	s      *shard[S]
	mv     *move
	cur    *session[S]
	next   *session[S] // nil until it is open
	relay  *relay[S]
	report *SwitchoverReport

	began, opened, readyAt time.Time
	lost                   bool // cur ended by itself
	turn                   *visitor
	due                    time.Time // when to look again at the latest; zero: no such time
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
	s.enter(ShardSwitching)
	s.emit(Event[S]{Kind: EventSwitchoverStarted, Generation: cur.st.Generation, Switchover: ch.reported()})
	cur.watch.Store(ch.relay) // its keys are remembered from here on
	err := ch.prepare(ctx)
	if err == nil {
		err = ch.cutOver(ctx)
	}
	cur.watch.Store(nil)
	if ch.turn != nil {
		s.run.turns.leave(turnKey, ch.turn, hostUnknown, nil, 0)
	}
	if err != nil {
		return ch.failed(ctx, err)
	}
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
			dialled = nil
			if res.err != nil {
				return res.err
			}
			ch.next = res.session
			ch.opened = time.Now()
			ch.report.Dial = ch.opened.Sub(ch.began)
			nextGone = ch.next.ctx.Done()
			ch.next.start()
		case <-curGone:
			curGone, ch.lost = nil, true
		case <-nextGone:
			return context.Cause(ch.next.ctx)
		case <-s.wake:
		case <-timer.C:
		}

		// 2nd: is it still wanted?
		silent, aborted := s.look(ch.mv)
		stop := error(nil)
		switch {
		case ctx.Err() != nil:
			stop = context.Cause(ctx)
		case s.reconnectAsked():
			stop = ErrReconnect
		case aborted && !ch.lost:
			stop = context.Canceled
		case ch.lost && ch.next == nil && dialled == nil:
			stop = ErrNotConnected
		}
		if stop != nil {
			if dialled != nil {
				cancel(stop)
				if res := <-dialled; res.err == nil {
					ch.next = res.session
					ch.next.start()
				}
			}
			return stop
		}

		// 3rd: may it be cut over?
		if ch.next != nil {
			if cut, err := ch.decide(silent != nil); cut || err != nil {
				return err
			}
		}
	}
}

var turnKey = doorKey{host: "switchover"}

// dial waits for a turn, which a silent connection does not need, and opens the new one.
func (ch *change[S]) dial(ctx context.Context) <-chan attemptResult[S] {
	s := ch.s
	silent, _ := s.look(ch.mv)
	if silent != nil {
		return s.attemptAsync(ctx, ch.mv.class, ch.relay)
	}
	done := make(chan attemptResult[S], 1)
	go func() {
		v, err := s.run.turns.enter(ctx, turnKey, ch.mv.class)
		if err != nil {
			done <- attemptResult[S]{err: err}
			return
		}
		ch.turn = v
		done <- <-s.attemptAsync(ctx, ch.mv.class, ch.relay)
	}()
	return done
}

// decide looks at both connections. cut means that cur is to be retired now.
func (ch *change[S]) decide(silent bool) (cut bool, err error) {
	cfg := &ch.s.m.cfg.Switchover
	now := time.Now()
	ch.due = time.Time{}
	if ch.lost {
		return true, nil // there is nothing to wait for, and nothing better than next
	}
	ready := ch.ready()
	if ready && ch.readyAt.IsZero() {
		ch.readyAt = now
		ch.relay.arm()
	} else if !ready {
		ch.readyAt = time.Time{}
	}
	met, used := ch.relay.overlapped()
	lingered := ready && now.Sub(ch.readyAt) >= cfg.Linger
	full := ch.relay.isFull()
	deadline, timed := ch.deadline()
	late := timed && !now.Before(deadline)
	switch {
	case ready && (silent || full || late || lingered && met):
		// Between this look and the end of cur's writing a Subscribe could reach cur alone. So cur stops writing first,
		// and readiness is asked again.
		if !ch.freeze() {
			return false, nil
		}
		if !ch.ready() {
			ch.thaw()
			return false, nil
		}
		ch.report.Proof = ch.proof(met && used)
		if full && !(lingered && met) {
			ch.report.Proof = "none"
		}
		return true, nil
	case full:
		return false, ErrSwitchoverHold
	case late:
		return false, ErrSwitchoverTimeout
	}
	ch.thaw()
	if timed {
		ch.due = deadline
	}
	if linger := ch.readyAt.Add(cfg.Linger); ready && !lingered && (ch.due.IsZero() || linger.Before(ch.due)) {
		ch.due = linger
	}
	return false, nil
}

// deadline is when the switchover must be over, once the last request is written.
func (ch *change[S]) deadline() (at time.Time, ok bool) {
	limit := ch.s.m.cfg.Switchover.Timeout
	if limit <= 0 || ch.next.upto.Load() < ch.cur.upto.Load() {
		return at, false
	}
	return time.Unix(0, ch.next.wroteAt.Load()).Add(limit), true
}

// ready reports whether next carries all that cur carries, and has proven it. What cur has not applied either does not
// count: it is lost on neither.
func (ch *change[S]) ready() bool {
	next, upto := ch.next, ch.cur.upto.Load()
	if next.upto.Load() < upto {
		return false
	}
	if next.proven() {
		return true
	}
	if next.proof.acks || ch.s.m.caps.ready == nil {
		return next.caughtUpBeyond(upto) && !next.proof.unprovenUpto(upto)
	}
	return false
}

func (c *session[S]) caughtUpBeyond(num uint64) bool { return c.upto.Load() > num }

// proof names what showed that next delivers: the weakest link.
func (ch *change[S]) proof(keys bool) string {
	switch {
	case ch.next.proof.acks || ch.s.m.caps.ready != nil:
	case ch.s.m.caps.inspector == nil, ch.next.proof.settledByTime():
		return "settle"
	}
	switch {
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

// freeze stops cur's reconciling; false until cur has seen it.
func (ch *change[S]) freeze() bool {
	if ch.cur.frozen.CompareAndSwap(freezeNone, freezeAsked) {
		poke(ch.cur.wake)
	}
	return ch.cur.frozen.Load() == freezeDone || ch.cur.ending.Load()
}

func (ch *change[S]) thaw() {
	if ch.cur.frozen.Swap(freezeNone) != freezeNone {
		poke(ch.cur.wake)
	}
}

// cutOver lets cur deliver its last, and next deliver from then on.
func (ch *change[S]) cutOver(ctx context.Context) error {
	s, cur, next := ch.s, ch.cur, ch.next
	cut := time.Now()
	ch.report.Overlap = cut.Sub(ch.opened)
	if !ch.readyAt.IsZero() {
		ch.report.Ready = ch.readyAt.Sub(ch.opened)
		ch.report.Overlap = cut.Sub(ch.readyAt)
	}
	if ch.lost = ch.lost || cur.ctx.Err() != nil; !ch.lost {
		close(cur.retired)
	}
	<-cur.delivered // bounded by DrainTimeout and the handler
	ch.report.Drain = time.Since(cut)
	ch.report.Held, ch.report.Dropped = ch.relay.counts()

	silent, _ := s.look(ch.mv)
	switch {
	case ch.lost:
		s.down(cur)
	case ctx.Err() != nil:
	case silent != nil:
		s.openGap(cur, cur.gapFrom(silent))
	case ch.report.Proof == "none", !cur.complete.Load():
		s.openGap(cur, cur.lastFrame())
	}
	s.promote(next)
	cfg := &s.m.cfg.Switchover
	next.repeats = &repeats{
		keys:  ch.relay.release(),
		until: next.conn.Now() + max(0, cfg.Linger) + max(0, cfg.DrainTimeout),
	}
	go next.flush()
	s.closeGap(next)
	return nil
}

// reported is a copy of the report for an event.
func (ch *change[S]) reported() *SwitchoverReport {
	r := *ch.report
	return &r
}

func (ch *change[S]) succeeded() *session[S] {
	s := ch.s
	s.m.count.switched.Add(1)
	s.noticed.Store(0)
	if ch.mv.trigger == triggerNotice {
		s.noticed.Store(ch.next.st.Generation)
	}
	if ch.lost {
		s.emit(Event[S]{Kind: EventConnected, Generation: ch.next.st.Generation})
	}
	s.log.Info("switched over", "gen", ch.next.st.Generation, "trigger", ch.report.Trigger, "proof", ch.report.Proof)
	s.emit(Event[S]{Kind: EventSwitchoverDone, Generation: ch.next.st.Generation, Switchover: ch.reported()})
	s.answerMove(nil)
	return ch.next
}

// failed ends next. cur goes on, unless it was silent: then it reconnects.
func (ch *change[S]) failed(ctx context.Context, err error) *session[S] {
	s := ch.s
	ch.thaw()
	if ch.next != nil {
		ch.next.end(err)
	}
	ch.relay.discard()
	if ch.next != nil {
		<-ch.next.delivered
	}
	ch.report.Held, ch.report.Dropped = ch.relay.counts()
	s.m.count.switchFailed.Add(1)
	if ctx.Err() == nil {
		s.log.Warn("switchover failed", "trigger", ch.report.Trigger, "err", err)
		s.emit(Event[S]{Kind: EventSwitchoverFailed, Generation: ch.cur.st.Generation, Err: err, Switchover: ch.reported()})
	}
	silent, _ := s.look(ch.mv)
	s.answerMove(err)
	poke(s.wake) // what was asked for meanwhile
	if !ch.lost && silent == nil {
		s.enter(ShardConnected)
		return ch.cur
	}
	if !ch.lost {
		ch.cur.end(silent)
		<-ch.cur.delivered
	}
	return nil
}
