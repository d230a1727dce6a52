package wsshard

import (
	"context"
	"slices"
	"time"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: what is written on a connection, and when?

// If our own timer fires later than lateLimit, the process itself was stopped: a paused machine, a debugger, a long collection. The
// deadlines of that time say nothing about the peer.
const lateLimit = time.Second

// If our own timer fires later than lateBit, the machine is busy and the read loop may lag as well: the frame that we are about to miss
// may be in the socket already.
const lateBit = 20 * time.Millisecond

// alarm collects the earliest instant at which the write loop has something to do.
type alarm struct{ at time.Time }

func (a *alarm) by(at time.Time) {
	if a.at.IsZero() || at.Before(a.at) {
		a.at = at
	}
}

// writer is what the write loop owns.
type writer[S comparable] struct {
	*session[S]
	pen          *pen
	applied      *reconcile.Applied[S]
	health       *health
	batch        int       // topics in the next request. 0: the most; fewer after a request that could not be encoded
	crowded      time.Time // when a replacement was asked for, for want of room
	asked        bool      // a request has been written
	sick         bool      // a replacement was asked for
	caughtUpOnce bool      // all that was wanted has been written, once at least
	sendersYield bool      // a request is next: the last frame was one that the outbox held
	pingNum      uint64
	grace        int64     // the pause of the process that was forgiven last
	judgeAfter   time.Time // until when nothing is judged: we were a bit late
	subs         []S       // scratch
	offs         offs[S]   // what was on, and is no more
}

// take hands the pen over, when Login has returned.
func (w *writer[S]) take(p *pen) { w.pen = p }

// begin makes the writer ready for its loop.
func (w *writer[S]) begin() {
	w.applied = w.slot.desired.Watch(w.wake)
	w.applied.OffFirst = w.core.caps.resubscriber == nil && w.core.caps.unsubscriber != nil
	w.claims.tell(w.relay != nil || w.slot.gaps.some.Load())
	w.health = newHealth(w.core.cfg.Health, w.conn.Now())
	w.grace = w.core.pausedAt.Load()
	w.wroteAt.Store(int64(w.conn.Now()))
}

// hadLately reports whether late data of an earlier subscription of a topic may still come.
func (w *writer[S]) hadLately(sub S) bool {
	return w.offs.has(sub, time.Now().Add(-w.slot.linger()))
}

// run is the write loop's goroutine. It also closes the connection.
func (w *writer[S]) run() {
	w.core.label(w.ctx, "write", w.st.ShardID)
	defer close(w.written)
	defer w.closeConn()
	w.end(w.writeOut())
}

// writeOut runs the write loop and, when no more can be written, lets the reader have what the peer sent before.
func (w *writer[S]) writeOut() (cause error) {
	returned := false
	defer func() {
		if !returned { // a callback left by runtime.Goexit
			w.end(&PanicError{Value: errGoexit})
		}
	}()
	err := w.writeLoop()
	returned = true
	w.passOn() // now: a callback that waits in Send keeps the reader from its end
	switch {
	case w.ctx.Err() != nil:
		return context.Cause(w.ctx)
	case w.isRetired() && w.ending.Load(): // dismissed
		w.conn.SendClose(1000, stuckGrace)
		return ErrReplaced
	case w.isRetired():
		w.conn.SendClose(1000, closeGrace)
		w.drain(w.core.cfg.Switchover.DrainTimeout)
		return ErrReplaced
	case isWriteError(err):
		// The peer closed, and its close frame may still wait behind data to be read: that is the true cause.
		w.drain(closeGrace)
	}
	return err
}

// passOn leaves what waits to be sent to the session that takes over. Without one it fails.
func (w *writer[S]) passOn() {
	heir := w.heir.Load()
	if heir == nil {
		w.out.fail(ErrNotConnected)
		return
	}
	w.out.moveTo(&heir.out, ErrNotConnected)
	poke(heir.wake)
}

// drain waits until the peer has closed and all it sent was delivered, at most limit on the reader's clock: time in
// OnMessage does not count, within reason. Not positive: no limit.
func (w *writer[S]) drain(limit time.Duration) {
	begin, start := time.Now(), w.conn.Signs().Clock(w.conn.Now())
	for {
		left := limit - (w.conn.Signs().Clock(w.conn.Now()) - start)
		if limit > 0 && (left <= 0 || time.Since(begin) > 10*limit) {
			return
		}
		var late <-chan time.Time
		t := time.NewTimer(max(left, time.Millisecond))
		if limit > 0 {
			late = t.C
		}
		select {
		case <-w.readDone:
		case <-w.ctx.Done():
		case <-late:
			t.Stop()
			continue
		}
		t.Stop()
		return
	}
}

// closeConn says goodbye and closes the socket.
func (w *writer[S]) closeConn() {
	w.ending.Store(true)
	cause := context.Cause(w.ctx)
	if !w.isRetired() && !isAny(cause, ErrPongTimeout, ErrMessageTimeout, ErrWriteTimeout) && !isWriteError(cause) {
		w.conn.SendClose(closeCode(cause), closeGrace)
		t := time.NewTimer(closeGrace)
		select {
		case <-w.readDone:
		case <-t.C:
		case <-w.slot.run.grace.Done():
		}
		t.Stop()
	}
	w.conn.Kill()
	w.off, w.session.offs = w.applied.Off(), w.offs.list.List()
	w.carried = slices.Concat(w.applied.List(), w.applied.Leaving(), w.off)
	w.applied.Close()
	w.passOn()
}

// writeLoop is the only writer of the connection: it answers, pings, judges and reconciles. It returns why the session
// ends. onStack finds it by this name: who calls Send inside it, as a request is encoded, must not wait for it.
func (w *writer[S]) writeLoop() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		var next alarm

		// 1st: is the peer well?
		if err := w.judge(now, &next); err != nil {
			return err
		}
		// 2nd: who waits for what was written or answered?
		w.keepBook(now, &next)
		// 3rd: at most one frame, the most urgent that the pace allows.
		wrote, err := w.writeOne(now, &next)
		if err != nil {
			return err
		}
		// 4th: wait for the next reason, or look at once when there may be more to write.
		if wrote && w.ctx.Err() == nil && !w.isRetired() {
			continue
		}
		wait := time.Hour
		if !next.at.IsZero() {
			wait = max(0, time.Until(next.at))
		}
		timer.Reset(wait)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-w.retired:
			return errRetired
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		switch late := time.Since(next.at); {
		case next.at.IsZero():
		case late > lateLimit:
			w.core.pausedAt.Store(w.core.instant(time.Now()))
		case late > lateBit:
			w.judgeAfter = time.Now().Add(recheck)
		}
	}
}

// judge asks health whether the peer is well. A silent connection it has replaced. Any other sickness is the cause of its end.
func (w *writer[S]) judge(now time.Time, next *alarm) error {
	if late := w.core.pausedAt.Load(); late != w.grace {
		w.grace = late
		w.health.grace(w.conn.Now(), w.conn.Signs())
	}
	if now.Before(w.judgeAfter) {
		next.by(w.judgeAfter)
		return nil
	}
	signs, at := w.conn.Signs(), w.conn.Now()
	if w.sick && w.revived() { // it has come back before it was replaced
		w.sick = false
		w.silentAt.Store(0)
	}
	if w.sick { // judged for good, and pinged until it is replaced
		if due, ok := w.health.pingAt(at); ok {
			next.by(now.Add(due - at))
		}
		return nil
	}
	w.health.expectData(w.applied.Len() > 0 && w.keeper.delivers(w.session), signs.Clock(at))
	timeout := w.slot.dataTimeout()
	cause, missed := w.health.judge(at, signs, timeout)
	w.core.count.sick.Add(uint64(missed))
	switch {
	case cause == nil:
	case cause == ErrDataTimeout:
		w.core.count.sick.Add(1)
		w.slot.silent(w.dataAt.Load() != 0, timeout)
		fallthrough
	case cause == ErrPongTimeout:
		w.dataThen.Store(w.dataAt.Load())
		w.silentAt.Store(mark(w.conn.Since(w.gapFrom(cause))))
		if !w.keeper.replaceSilent(w.session, cause) {
			return cause
		}
		w.sick = true
		next.by(now) // to look when the next ping is due
		return nil
	default:
		w.core.count.sick.Add(1)
		return cause
	}
	if due, ok := w.health.due(at, signs, timeout); ok {
		next.by(now.Add(due - at))
	}
	return nil
}

// keepBook takes in the answers that have come, and publishes how far the connection has come.
func (w *writer[S]) keepBook(now time.Time, next *alarm) {
	if w.loan.give(w.applied) {
		poke(w.slot.wake)
	}
	if w.loan.isGiven() { // applied stands still, and may be read only
		w.tellProven()
		w.keeper.progressed(w.session, w.applied)
		return
	}
	w.settleAnswers(now, next)
	w.trim(now, next)
	w.tellProven()
	w.settledUpTo.Store(w.applied.Upto())
	w.keeper.progressed(w.session, w.applied)
	w.nudge()
}

// nudge has the shard loop look at a connection that is to take over: its readiness may have changed.
func (w *writer[S]) nudge() {
	if w.relay != nil && !w.keeper.delivers(w.session) {
		poke(w.slot.wake)
	}
}

// writeOne writes at most one frame: a pong, a ping, what others queued, or the next request. wrote: look again at once.
func (w *writer[S]) writeOne(now time.Time, next *alarm) (wrote bool, err error) {
	// 1st: a pong, in the place that the pace keeps for it.
	pinged, spacing := w.pen.pongWait(now)
	if pinged {
		if wait := max(w.pen.pace.waitControl(now), spacing); wait > 0 {
			next.by(now.Add(wait))
		} else {
			return true, w.pen.pong(now, w.pen.pace.chargeControl)
		}
	}
	wait := w.pen.pace.wait(now)
	// 2nd: pings.
	if w.health.pingDue(w.conn.Now()) {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		return true, w.ping()
	}
	// 3rd: what OnConnect, replies and Send left. The latter two take turns with requests, so that neither starves.
	yields := w.sendersYield && !w.out.greets()
	if w.out.any() && !yields {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		if msg, done, ok := w.out.next(); ok {
			w.sendersYield = true
			err := w.pen.write(msg)
			done(err)
			return true, err
		}
	}
	// 4th: the difference between desired and applied.
	wrote, err = w.reconcile(now, wait, next)
	if wrote || yields && (wait == 0 || w.caughtUp.Load()) {
		w.sendersYield = false
		return wrote || yields, err
	}
	if yields {
		next.by(now.Add(wait))
	}
	// 5th: another pong, in a place that nobody else wants.
	if pinged && err == nil {
		if wait = max(wait, spacing); wait == 0 {
			return true, w.pen.pong(now, func(now time.Time) { w.pen.pace.charge(now, 1) })
		}
		next.by(now.Add(wait))
	}
	return false, err
}

// ping sends the connection's kind of ping.
func (w *writer[S]) ping() error {
	var msg Message
	if p := w.core.caps.ping; p != nil {
		err := w.core.guard("PingMessage", w.st.ShardID, func() { msg = p.PingMessage(w.st) }, w.end)
		if err == nil {
			err = checkMessage(msg)
		}
		if err != nil {
			w.health.unsent(w.conn.Now())
			w.log.Warn("no ping was sent", "err", err)
			return nil
		}
	} else if text := w.core.cfg.Health.TextPing; text != "" {
		msg = Text(text)
	}
	at := w.conn.Now() // PingMessage may have taken its time
	w.health.sent(at, w.conn.Signs())
	w.pingNum++
	w.pinged.add(w.pingNum, at)
	w.core.count.pings.Add(1)
	if msg.Data != nil {
		return w.pen.write(msg)
	}
	return w.pen.ping(pingPayload(w.pingNum))
}
