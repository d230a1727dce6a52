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
		// 2nd: at most one frame, the most urgent that the pace allows.
		wrote, err := c.writeOne(now, &next)
		if err != nil {
			return err
		}
		// 3rd: wait for the next reason, or look at once when there may be more to write.
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
		if !next.at.IsZero() && time.Since(next.at) > lateLimit {
			c.m.late.Store(time.Now().UnixNano())
		}
	}
}

// judge asks health, and has a silent connection replaced; any other sickness ends it.
func (c *session[S]) judge(now time.Time, next *alarm) error {
	if late := c.m.late.Load(); late != c.grace {
		c.grace = late
		c.health.grace(c.conn.Now(), c.conn.Signs())
	}
	if c.sick {
		return nil
	}
	signs, at := c.conn.Signs(), c.conn.Now()
	c.health.expectData(c.applied.Len() > 0, signs.Clock(at))
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
		if !c.sh.replaceSilent(c, cause) {
			return cause
		}
		c.sick = true
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

// writeOne writes at most one frame: a pong, a ping, what others queued, or the next request.
func (c *session[S]) writeOne(now time.Time, next *alarm) (wrote bool, err error) {
	// 1st: pongs, which may use the place that the pace keeps for control frames.
	if c.out.hasPing() {
		if wait := max(c.pace.waitControl(now), pongSpacing-now.Sub(c.pongAt)); wait > 0 {
			next.by(now.Add(wait))
		} else {
			c.pongAt = now
			return true, c.wrote(now, 1, c.conn.Pong(c.out.takePing()))
		}
	}
	wait := c.pace.wait(now)
	// 2nd: pings.
	if c.health.pingDue(c.conn.Now()) {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		return true, c.ping(now)
	}
	// 3rd: what OnConnect, replies and Send left.
	if c.out.any() {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		if msg, done, ok := c.out.next(); ok {
			err := c.writeMessage(now, msg)
			done(err)
			return true, err
		}
	}
	// 4th: the difference between desired and applied.
	return c.reconcile(now, wait, next)
}

// wrote charges the pace, and says how a write failed.
func (c *session[S]) wrote(now time.Time, frames int, err error) error {
	c.pace.charge(now, frames)
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
func (c *session[S]) writeMessage(now time.Time, msg Message) error {
	frames, err := c.conn.Write(msg.Type == TextMessage, msg.Data)
	if err == nil {
		c.m.count.sent.Add(1)
		c.m.count.sentBytes.Add(uint64(len(msg.Data)))
	}
	return c.wrote(now, frames, err)
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
func (c *session[S]) ping(now time.Time) (err error) {
	at := c.conn.Now()
	c.health.sent(at, c.conn.Signs())
	c.pingNum++
	c.pingSent.Store(int64(at))
	c.pingOpen.Store(c.pingNum)
	c.m.count.pings.Add(1)
	switch {
	case c.m.caps.ping != nil:
		var msg Message
		err := c.m.guard("PingMessage", func() { msg = c.m.caps.ping.PingMessage(c.st) }, c.end)
		if err != nil || checkMessage(msg) != nil {
			c.health.unsent()
			c.pingOpen.Store(0)
			c.log.Warn("no ping was sent", "err", errors.Join(err, checkMessage(msg)))
			return nil
		}
		return c.writeMessage(now, msg)
	case c.m.cfg.Health.TextPing != "":
		return c.writeMessage(now, Text(c.m.cfg.Health.TextPing))
	}
	return c.wrote(now, 1, c.conn.Ping(pingPayload(c.pingNum)))
}

func pingPayload(n uint64) string { return strconv.FormatUint(n, 10) }

// reconcile writes the next request, if the pace allows, and keeps book of what is settled.
func (c *session[S]) reconcile(now time.Time, wait time.Duration, next *alarm) (wrote bool, err error) {
	c.settleAnswers(now, next)
	c.upto.Store(c.applied.Upto())
	c.sh.progressed(c)
	if c.frozen.CompareAndSwap(freezeAsked, freezeDone) {
		poke(c.sh.wake)
	}
	if c.frozen.Load() != 0 {
		return false, nil
	}
	b, ok := c.applied.Next(c.batchSize(), c.room())
	if !ok {
		c.settled(now)
		return false, nil
	}
	c.caughtUp.Store(false)
	if b.Kind == reconcile.Resubscribe && c.m.caps.resubscriber == nil {
		return c.renew(now, b, wait, next)
	}
	if wait > 0 && !(b.Kind == reconcile.Unsubscribe && c.m.caps.unsubscriber == nil) {
		next.by(now.Add(wait))
		return false, nil
	}
	id, msg, err := c.encode(b)
	if err != nil {
		c.cannotEncode(b, err)
		return true, nil
	}
	if len(msg.Data) == 0 {
		c.needsNoWriting(b)
		return true, nil
	}
	return true, c.request(now, id, b, msg)
}

// renew unsubscribes topics that are then subscribed again, for want of a Resubscriber.
func (c *session[S]) renew(now time.Time, b reconcile.Batch[S], wait time.Duration, next *alarm) (bool, error) {
	drop := b
	drop.Kind = reconcile.Unsubscribe
	if c.m.caps.unsubscriber != nil {
		if wait > 0 {
			next.by(now.Add(wait))
			return false, nil
		}
		_, msg, err := c.encode(drop)
		if err != nil {
			c.cannotEncode(b, err)
			return true, nil
		}
		if len(msg.Data) > 0 {
			if err := c.writeMessage(now, msg); err != nil {
				c.m.count.sendFailures.Add(1)
				return true, err
			}
		}
	}
	c.applied.Drop(b)
	return true, nil
}

// request writes an encoded request and notes what it claims.
func (c *session[S]) request(now time.Time, id uint64, b reconcile.Batch[S], msg Message) error {
	if b.Kind != reconcile.Unsubscribe {
		c.proof.wrote(id, b, now) // before the write: the answer may be faster than we are
		c.requests.Add(1)
		c.wroteAt.Store(now.UnixNano())
	} else {
		c.proof.forget(b.Subs)
	}
	if err := c.writeMessage(now, msg); err != nil {
		c.m.count.sendFailures.Add(1)
		return err
	}
	c.asked = true
	c.applied.Done(b)
	return nil
}

// needsNoWriting settles a batch for which the handler has nothing to say.
func (c *session[S]) needsNoWriting(b reconcile.Batch[S]) {
	if b.Kind != reconcile.Unsubscribe {
		c.applied.Done(b)
		return
	}
	c.applied.Keep(b)
	c.proof.forget(b.Subs)
	c.m.stays(c.sh, b.Subs)
}

// cannotEncode asks for half as much, or gives up the one topic that is left.
func (c *session[S]) cannotEncode(b reconcile.Batch[S], err error) {
	c.m.count.sendFailures.Add(1)
	if len(b.Subs) > 1 {
		c.batch = len(b.Subs) / 2
		return
	}
	c.applied.Fail(b)
	if b.Kind == reconcile.Unsubscribe {
		c.log.Warn("unsubscription cannot be encoded", "err", err)
		c.m.stays(c.sh, b.Subs)
		return
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
	redo, failed := c.proof.expire(now)
	c.applied.Redo(redo...)
	if len(failed) > 0 {
		c.rejected(failed, ErrAckTimeout)
	}
	if at, ok := c.proof.due(); ok {
		next.by(at)
	}
}

// settled publishes that nothing is left to write.
func (c *session[S]) settled(now time.Time) {
	c.upto.Store(c.applied.Upto())
	c.caughtUp.Store(true)
	if c.provenAt.Load() == 0 && c.proven() {
		c.provenAt.Store(now.UnixNano())
		c.sh.provenNow(c, now)
	}
	if c.relay != nil && c.sh.live.Load() != c {
		poke(c.sh.wake) // its readiness may have changed
	}
}
