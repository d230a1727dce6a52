package wsshard

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: what is written on a connection, and when?

// pongSpacing is the least time between two pongs: a flood of pings costs no more than that.
const pongSpacing = 100 * time.Millisecond

// lateLimit is how far past its due time a timer fires when the process itself was stopped: a paused machine, a debugger,
// a long collection. The deadlines of that time say nothing about the peer.
const lateLimit = time.Second

// lateBit is how late a timer fires when at least the reader may be as late: what it was waiting for is there, unread.
const lateBit = 20 * time.Millisecond

// alarm collects the earliest instant at which the write loop has something to do.
type alarm struct{ at time.Time }

func (a *alarm) by(at time.Time) {
	if a.at.IsZero() || at.Before(a.at) {
		a.at = at
	}
}

// writeLoop is the only writer of the connection: it answers, pings, judges and reconciles. It returns why the session
// ends.
func (c *session[S]) writeLoop() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		var next alarm

		// 1st: is the peer well?
		if err := c.judge(now, &next); err != nil {
			return err
		}
		// 2nd: who waits for what was written or answered?
		c.keepBook(now, &next)
		// 3rd: at most one frame, the most urgent that the pace allows.
		wrote, err := c.writeOne(now, &next)
		if err != nil {
			return err
		}
		// 4th: wait for the next reason, or look at once when there may be more to write.
		if wrote && c.ctx.Err() == nil && !c.isRetired() {
			continue
		}
		wait := time.Hour
		if !next.at.IsZero() {
			wait = max(0, time.Until(next.at))
		}
		timer.Reset(wait)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-c.retired:
			return errRetired
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		switch late := time.Since(next.at); {
		case next.at.IsZero():
		case late > lateLimit:
			c.m.late.Store(time.Now().UnixNano())
		case late > lateBit:
			c.patience = time.Now().Add(recheck)
		}
	}
}

// judge asks health, and has a silent connection replaced; any other sickness ends it.
func (c *session[S]) judge(now time.Time, next *alarm) error {
	if late := c.m.late.Load(); late != c.grace {
		c.grace = late
		c.health.grace(c.conn.Now(), c.conn.Signs())
	}
	if now.Before(c.patience) {
		next.by(c.patience)
		return nil
	}
	signs, at := c.conn.Signs(), c.conn.Now()
	if c.sick { // judged for good, and pinged until it is replaced
		if due, ok := c.health.pingAt(at); ok {
			next.by(now.Add(due - at))
		}
		return nil
	}
	c.health.expectData(c.applied.Len() > 0 && c.sh.live.Load() == c, signs.Clock(at))
	timeout := c.sh.dataTimeout()
	cause, missed := c.health.judge(at, signs, timeout)
	c.m.count.sick.Add(uint64(missed))
	switch {
	case cause == nil:
	case cause == ErrDataTimeout:
		c.m.count.sick.Add(1)
		c.sh.silent(c.dataAt.Load() != 0, timeout)
		fallthrough
	case cause == ErrPongTimeout:
		c.silentAt.Store(c.gapFrom(cause).UnixNano())
		if !c.sh.replaceSilent(c, cause) {
			return cause
		}
		c.sick = true
		next.by(now) // to look when the next ping is due
		return nil
	default:
		c.m.count.sick.Add(1)
		return cause
	}
	if due, ok := c.health.due(at, signs, timeout); ok {
		next.by(now.Add(due - at))
	}
	return nil
}

// keepBook takes in what was answered, and tells what is settled by now.
func (c *session[S]) keepBook(now time.Time, next *alarm) {
	if c.frozen.CompareAndSwap(freezeAsked, freezeDone) {
		poke(c.sh.wake)
	}
	if c.frozen.Load() == freezeDone { // applied stands still
		return
	}
	c.settleAnswers(now, next)
	c.upto.Store(c.applied.Upto())
	c.sh.progressed(c)
	c.nudge()
}

// nudge has the shard's loop look at a connection that is to take over: its readiness may have changed.
func (c *session[S]) nudge() {
	if c.relay != nil && c.sh.live.Load() != c {
		poke(c.sh.wake)
	}
}

// writeOne writes at most one frame: a pong, a ping, what others queued, or the next request. wrote: look again at once.
func (c *session[S]) writeOne(now time.Time, next *alarm) (wrote bool, err error) {
	// 1st: a pong, in the place that the pace keeps for it.
	pinged, spacing := c.out.hasPing(), pongSpacing-now.Sub(c.pongAt)
	if pinged {
		if wait := max(c.pace.waitControl(now), spacing); wait > 0 {
			next.by(now.Add(wait))
		} else {
			return true, c.pong(now, c.pace.chargeControl)
		}
	}
	wait := c.pace.wait(now)
	// 2nd: pings.
	if c.health.pingDue(c.conn.Now()) {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		return true, c.ping()
	}
	// 3rd: what OnConnect, replies and Send left. The latter two take turns with requests, so that neither starves.
	yields := c.turn && !c.out.greets()
	if c.out.any() && !yields {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		if msg, done, ok := c.out.next(); ok {
			c.turn = true
			err := c.writeMessage(msg)
			done(err)
			return true, err
		}
	}
	// 4th: the difference between desired and applied.
	wrote, err = c.reconcile(now, wait, next)
	if wrote || yields && (wait == 0 || c.caughtUp.Load()) {
		c.turn = false
		return wrote || yields, err
	}
	if yields {
		next.by(now.Add(wait))
	}
	// 5th: another pong, in a place that nobody else wants.
	if pinged && err == nil {
		if wait = max(wait, spacing); wait == 0 {
			return true, c.pong(now, func(now time.Time) { c.pace.charge(now, 1) })
		}
		next.by(now.Add(wait))
	}
	return false, err
}

// pong answers the newest ping.
func (c *session[S]) pong(now time.Time, charge func(time.Time)) error {
	c.pongAt = now
	err := c.conn.Pong(c.out.takePing())
	charge(time.Now())
	return writeFailure(err)
}

// wrote charges the pace when frames have left, which may be long after somebody began to write them.
func (c *session[S]) wrote(frames int, err error) error {
	c.pace.charge(time.Now(), frames)
	return writeFailure(err)
}

// writeFailure says how a write failed.
func writeFailure(err error) error {
	if err == nil {
		return nil
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return ErrWriteTimeout
	}
	return &writeError{err}
}

// writeMessage writes a message that was checked.
func (c *session[S]) writeMessage(msg Message) error {
	frames, err := c.conn.Write(msg.Type == TextMessage, msg.Data)
	if err == nil {
		c.m.count.sent.Add(1)
		c.m.count.sentBytes.Add(uint64(len(msg.Data)))
	}
	return c.wrote(frames, err)
}

// checkMessage says why a message cannot be sent.
func checkMessage(msg Message) error {
	switch {
	case len(msg.Data) == 0:
		return errors.Join(ErrInvalidMessage, errors.New("it has no data"))
	case msg.Type != TextMessage && msg.Type != BinaryMessage:
		return errors.Join(ErrInvalidMessage, errors.New("unknown type"))
	case msg.Type == TextMessage && !utf8.Valid(msg.Data):
		return errors.Join(ErrInvalidMessage, errors.New("text that is not UTF-8"))
	}
	return nil
}

// ping sends the connection's kind of ping.
func (c *session[S]) ping() error {
	var msg Message
	if p := c.m.caps.ping; p != nil {
		err := c.m.guard("PingMessage", func() { msg = p.PingMessage(c.st) }, c.end)
		if err == nil {
			err = checkMessage(msg)
		}
		if err != nil {
			c.health.unsent(c.conn.Now())
			c.log.Warn("no ping was sent", "err", err)
			return nil
		}
	} else if text := c.m.cfg.Health.TextPing; text != "" {
		msg = Text(text)
	}
	at := c.conn.Now() // PingMessage may have taken its time
	c.health.sent(at, c.conn.Signs())
	c.pingNum++
	c.pingSent.Store(int64(at))
	c.pingOpen.Store(c.pingNum)
	c.m.count.pings.Add(1)
	if len(msg.Data) > 0 {
		return c.writeMessage(msg)
	}
	return c.wrote(1, c.conn.Ping(pingPayload(c.pingNum)))
}

func pingPayload(n uint64) string { return strconv.FormatUint(n, 10) }

// reconcile writes the next request, if the pace allows.
func (c *session[S]) reconcile(now time.Time, wait time.Duration, next *alarm) (wrote bool, err error) {
	if c.frozen.Load() != 0 {
		return false, nil
	}
	b, ok := c.applied.Next(c.batchSize(), c.room())
	if !ok {
		c.makeRoom(now, next)
		c.settled(now)
		return false, nil
	}
	c.caughtUp.Store(false)
	if wait > 0 && !(b.Kind == reconcile.Unsubscribe && c.m.caps.unsubscriber == nil) {
		next.by(now.Add(wait))
		return false, nil
	}
	req := b
	if b.Kind == reconcile.Resubscribe && c.m.caps.resubscriber == nil {
		if dropped, err := c.drop(b); dropped || err != nil {
			return true, err
		}
		req.Kind = reconcile.Subscribe // nothing ends it, so it is subscribed once more
	}
	id, msg, err := c.encode(req)
	if err != nil {
		c.cannotEncode(b, err)
		return true, nil
	}
	if len(msg.Data) == 0 {
		c.needsNoWriting(req)
		return true, nil
	}
	return true, c.request(time.Now(), id, req, msg) // encoding may have taken its time
}

// makeRoom has the connection replaced when topics wait for room that only a new one has, and again when that failed.
func (c *session[S]) makeRoom(now time.Time, next *alarm) {
	if !c.applied.Short() || c.sh.live.Load() != c {
		return
	}
	again := c.m.cfg.Backoff.MaxDelay
	if since := now.Sub(c.crowded); !c.crowded.IsZero() && since < again {
		next.by(now.Add(again - since))
		return
	}
	c.crowded = now
	next.by(now.Add(again))
	if c.m.cfg.DisableHotSwitchover {
		c.sh.askReconnect()
		return
	}
	c.sh.ask(&move{trigger: triggerCapacity, class: asked})
}

// drop unsubscribes topics that are then subscribed again, for want of a Resubscriber; false when there is no message for
// that.
func (c *session[S]) drop(b reconcile.Batch[S]) (done bool, err error) {
	drop := b
	drop.Kind = reconcile.Unsubscribe
	_, msg, err := c.encode(drop)
	if err != nil {
		c.cannotEncode(b, err)
		return true, nil
	}
	if len(msg.Data) == 0 {
		return false, nil
	}
	if err := c.writeMessage(msg); err != nil {
		c.m.count.sendFailures.Add(1)
		return true, err
	}
	c.asked = true
	c.applied.Drop(b)
	return true, nil
}

// request writes an encoded request and notes what it claims.
func (c *session[S]) request(now time.Time, id uint64, b reconcile.Batch[S], msg Message) error {
	if b.Kind != reconcile.Unsubscribe {
		again := c.proof.wrote(id, b, c.claimTime(now)) // before the write: the answer may be faster than we are
		c.provenAt.Store(0)
		c.requests.Add(1)
		if again || !c.whole {
			c.wroteAt.Store(now.UnixNano())
		}
	} else {
		c.proof.forget(b.Subs)
	}
	if err := c.writeMessage(msg); err != nil {
		c.m.count.sendFailures.Add(1)
		return err
	}
	c.asked = true
	c.applied.Done(b)
	return nil
}

// needsNoWriting settles a batch for which the handler has nothing to say.
func (c *session[S]) needsNoWriting(b reconcile.Batch[S]) {
	c.proof.forget(b.Subs)
	if b.Kind != reconcile.Unsubscribe {
		c.applied.Done(b)
		return
	}
	c.applied.Keep(b)
	c.m.stays(c.sh, b.Subs)
}

// cannotEncode asks for half as much, or gives up the one topic that is left.
func (c *session[S]) cannotEncode(b reconcile.Batch[S], err error) {
	c.m.count.sendFailures.Add(1)
	if len(b.Subs) > 1 {
		c.batch = len(b.Subs) / 2
		return
	}
	switch b.Kind {
	case reconcile.Unsubscribe:
		c.log.Warn("unsubscription cannot be encoded", "err", err)
		c.applied.Keep(b)
		c.m.stays(c.sh, b.Subs)
		return
	case reconcile.Resubscribe:
		c.applied.Done(b) // it failed, but it is on the connection as before
	default:
		c.applied.Fail(b)
	}
	c.proof.fail(b, err)
	c.rejected(append([]S(nil), b.Subs...), err)
}

// batchSize is how many topics the next request may have. It grows back after one that could not be encoded.
func (c *session[S]) batchSize() int {
	most := c.m.cfg.Subscribe.MaxPerMessage
	if c.batch == 0 {
		return most
	}
	n := c.batch
	if c.batch *= 2; most > 0 && c.batch >= most || c.batch > 1<<20 {
		c.batch = 0
	}
	return n
}

// room is how many topics more the connection may carry; negative: any number.
func (c *session[S]) room() int {
	if limit := c.m.cfg.MaxSubscriptionsPerShard; limit > 0 {
		return max(0, limit-c.applied.Len())
	}
	return -1
}

// encode asks the handler for a request. The handler gets a copy of the topics, and may sort it as it likes.
func (c *session[S]) encode(b reconcile.Batch[S]) (id uint64, msg Message, err error) {
	c.subs = append(c.subs[:0], b.Subs...)
	req := Request[S]{ID: c.m.requestID.Add(1), Subs: c.subs, First: !c.asked, State: c.st}
	name, call := "SubscriptionMessage", c.m.h.SubscriptionMessage
	switch {
	case b.Kind == reconcile.Unsubscribe && c.m.caps.unsubscriber == nil:
		return req.ID, msg, nil
	case b.Kind == reconcile.Unsubscribe:
		name, call = "UnsubscriptionMessage", c.m.caps.unsubscriber.UnsubscriptionMessage
	case b.Kind == reconcile.Resubscribe:
		name, call = "ResubscriptionMessage", c.m.caps.resubscriber.ResubscriptionMessage
	}
	if panicked := c.m.guard(name, func() { msg, err = call(req) }, c.end); panicked != nil {
		return req.ID, msg, panicked
	}
	if err == nil && len(msg.Data) > 0 {
		err = checkMessage(msg)
	}
	if cap(c.subs) > 1024 {
		c.subs = nil
	}
	return req.ID, msg, err
}

// settleAnswers takes in what was answered, and what was not in time.
func (c *session[S]) settleAnswers(now time.Time, next *alarm) {
	if !c.proof.open.Load() && !c.proof.hasRefused() {
		return
	}
	for _, s := range c.proof.takeRefused() {
		if num, ok := c.applied.Number(s); ok {
			c.applied.Fail(reconcile.Batch[S]{Kind: reconcile.Subscribe, Subs: []S{s}, Nums: []uint64{num}})
		}
	}
	at := c.claimTime(now)
	redo, failed := c.proof.expire(at)
	c.applied.Redo(redo...)
	if len(failed) > 0 {
		c.rejected(failed, ErrAckTimeout)
	}
	if due, ok := c.proof.due(); ok {
		wait := due.Sub(at)
		if c.proof.acks && !c.conn.Signs().Waiting {
			wait = max(wait, recheck) // it comes no nearer
		}
		next.by(now.Add(wait))
	}
}

// claimTime is what claims are timed by. An answer is read by the goroutine that runs OnMessage, so the time that is spent
// there does not count against the server; Settle is nobody's fault, and counts it.
func (c *session[S]) claimTime(now time.Time) time.Time {
	if !c.proof.acks {
		return now
	}
	return c.readerTime()
}

// readerTime is a point in time on the reader's clock.
func (c *session[S]) readerTime() time.Time { return c.conn.At(c.readerClock()) }

func (c *session[S]) readerClock() time.Duration { return c.conn.Signs().Clock(c.conn.Now()) }

// settled publishes that nothing is left to write.
func (c *session[S]) settled(now time.Time) {
	if upto := c.applied.Upto(); c.upto.Swap(upto) != upto {
		c.nudge()
	}
	c.caughtUp.Store(true)
	c.whole = true
	if !c.proven() {
		return
	}
	if c.provenAt.Load() == 0 {
		c.provenAt.Store(now.UnixNano())
	}
	c.sh.closeGap(c)
}
