package wsshard

import (
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: which request is written next, and what becomes of its topics?

// reconcile writes the next request, if the pace allows.
func (c *session[S]) reconcile(now time.Time, wait time.Duration, next *alarm) (wrote bool, err error) {
	if c.frozen.Load() != 0 {
		return false, nil
	}
	b, ok := c.applied.Next(c.batchSize(), c.room())
	if over := c.applied.TakeOver(); len(over) > 0 {
		c.proof.forget(over)
	}
	if !ok {
		c.makeRoom(now, next)
		c.settled()
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
	if msg.Data == nil {
		c.needsNoWriting(req)
		return true, nil
	}
	return true, c.request(time.Now(), id, req, msg) // encoding may have taken its time
}

// makeRoom has the connection replaced when topics wait for room that only a new one has, and again when that failed.
func (c *session[S]) makeRoom(now time.Time, next *alarm) {
	if !c.applied.Short() || c.applied.Len() < c.m.cfg.MaxSubscriptionsPerShard || c.sh.live.Load() != c {
		return // what is leaving makes room by itself
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
	c.sh.ask(&move{trigger: triggerCapacity, class: gate.Asked})
}

// drop unsubscribes topics that are then subscribed again, for want of a Resubscriber; false when there is no message for
// that.
func (c *session[S]) drop(b reconcile.Batch[S]) (done bool, err error) {
	drop := b
	drop.Kind = reconcile.Unsubscribe
	id, msg, err := c.encode(drop)
	if err != nil {
		c.cannotEncode(b, err)
		return true, nil
	}
	if msg.Data == nil {
		return false, nil
	}
	now := time.Now()
	c.proof.leaves(id, b.Subs, c.claimTime(now)) // before the write: the answer may be faster than we are
	if err := c.writeMessage(msg); err != nil {
		c.m.count.sendFailures.Add(1)
		return true, err
	}
	c.asked = true
	c.applied.Drop(b)
	c.sh.resubscribes(c, c.sh.desired.AskedAgain(b.Subs), now)
	return true, nil
}

// request writes an encoded request and notes what it claims.
func (c *session[S]) request(now time.Time, id uint64, b reconcile.Batch[S], msg Message) error {
	if b.Kind != reconcile.Unsubscribe {
		again := c.proof.wrote(id, b, c.claimTime(now)) // before the write: the answer may be faster than we are
		c.requests.Add(1)
		if again || !c.whole {
			c.wroteAt.Store(int64(c.conn.Since(now)))
		}
	} else {
		c.proof.leaves(id, b.Subs, c.claimTime(now))
	}
	if err := c.writeMessage(msg); err != nil {
		c.m.count.sendFailures.Add(1)
		return err
	}
	c.asked = true
	c.applied.Done(b)
	if b.Kind != reconcile.Unsubscribe && c.proof.acks && c.m.caps.unsubscriber != nil {
		c.applied.Await(b.Subs...)
	}
	return nil
}

// needsNoWriting settles a batch for which the handler has nothing to say.
func (c *session[S]) needsNoWriting(b reconcile.Batch[S]) {
	if b.Kind != reconcile.Unsubscribe {
		c.proof.without(b)
		c.applied.Done(b)
		return
	}
	c.proof.forget(b.Subs)
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
		return max(0, limit-c.applied.Places())
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
	if err == nil && msg.Data != nil {
		err = checkMessage(msg)
	}
	if cap(c.subs) > 1024 {
		c.subs = nil
	}
	return req.ID, msg, err
}

// settleAnswers takes in what was answered, and what was not in time.
func (c *session[S]) settleAnswers(now time.Time, next *alarm) {
	if !c.proof.busy.Load() {
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
	answered, left, overdue := c.proof.takeEnded()
	c.applied.Answered(answered...)
	if len(left)+len(overdue) > 0 {
		c.applied.Left(left...)
		c.applied.Left(overdue...)
		since := c.earliest().Add(-c.sh.linger())
		c.offs.note(left, now, false, since)
		c.offs.note(overdue, now, true, since)
	}
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
func (c *session[S]) settled() {
	if upto := c.applied.Upto(); c.upto.Swap(upto) != upto {
		c.nudge()
	}
	c.caughtUp.Store(true)
	c.whole = true
}
