package wsshard

import (
	"context"
	"errors"
	"time"
)

// This file answers: how do two sessions hand over delivery, with nothing lost and nothing twice?

// hold keeps a message of the new connection until its turn; false when it may be delivered now.
func (r *reader[S]) hold(msg Message, v *Verdict[S]) bool {
	from := r.brink()
	for {
		switch r.relay.offer(msg, v, from) {
		case offerHeld:
			return true
		case offerDirect:
			if r.live = true; r.ending.Load() {
				r.leaveUnread(from)
				return true
			}
			return false
		}
		select { // full: the peer feels back-pressure until the shard loop has decided
		case <-r.relay.room:
		case <-r.ctx.Done():
			r.relay.leave()
			r.leaveUnread(from)
			return true
		}
	}
}

// flush delivers what was held; then the read loop goes on by itself. A callback that takes the goroutine away ends the
// session: what is held yet is lost then, and known to be.
func (c *session[S]) flush() {
	defer close(c.relay.over)
	defer func() {
		for h := c.relay.take(); h != nil; h = c.relay.take() {
			c.leaveUnread(h.from)
		}
	}()
	if seq := c.core.caps.sequence; seq != nil {
		c.core.guard("ResetSequenceState", c.st.ShardID, func() { seq.ResetSequenceState(c.st) }, c.end)
	}
	for h := c.relay.take(); h != nil; h = c.relay.take() {
		ctx := c.ctx
		if ctx.Err() != nil { // the connection is lost already, but this it did deliver
			if ctx = c.slot.run.ctx; ctx.Err() != nil || errors.Is(context.Cause(c.ctx), ErrSequenceGap) {
				c.leaveUnread(h.from)
				return
			}
		}
		var where string
		c.core.guard("OnMessage", c.st.ShardID, func() { c.deliverHeld(ctx, h, &where) }, c.end)
	}
}

// deliverHeld delivers a message that was held, unless it is a duplicate: then only the SequenceValidator sees it.
func (c *session[S]) deliverHeld(ctx context.Context, h *heldMessage[S], where *string) {
	if !h.dup {
		c.deliver(ctx, h.msg, &h.v, where)
	} else if c.validated(h.msg, &h.v, where) {
		c.repeated(h.v.Key)
		c.core.count.duplicates.Add(1)
	}
}

// quietRepeats is how long a connection that brings nothing may take to bring repeats.
const quietRepeats = time.Minute

// repeats are the keys that the connection before delivered. Whoever delivers owns it.
type repeats struct {
	keys  map[string]struct{}
	span  time.Duration // without a repeat, after which none is to be expected
	until time.Duration // on the reader's clock, when such a span ends; 0: none has begun
}

// over reports whether no repeat is to be expected any more. The span begins with a message, not with the cutover: a new
// connection that lags behind by seconds still has its repeats to bring. It runs on the reader's clock: what a slow handler
// keeps waiting is no later than it came.
func (r *repeats) over(clock time.Duration) bool {
	if r.until == 0 {
		r.until = clock + r.span
	}
	return clock > r.until || len(r.keys) == 0
}

// expect looks for the keys that the connection before delivered; nothing is left of them soon, even if nothing comes.
func (c *session[S]) expect(keys map[string]struct{}) {
	if len(keys) == 0 {
		return
	}
	cfg := &c.core.cfg.Switchover
	r := &repeats{keys: keys, span: max(0, cfg.Linger) + max(0, cfg.DrainTimeout)}
	c.repeats.Store(r)
	c.forget(r, c.readerClock()+quietRepeats)
}

func (c *session[S]) forget(r *repeats, at time.Duration) {
	left := at - c.readerClock()
	if isClosed(c.delivered) || left <= 0 && isClosed(c.relay.over) {
		c.repeats.CompareAndSwap(r, nil)
	} else if c.repeats.Load() == r {
		time.AfterFunc(max(left, time.Second), func() { c.forget(r, at) })
	}
}

// repeated reports whether the connection before has delivered this key, and tells the one after that it was delivered.
func (c *session[S]) repeated(key string) (again bool) {
	if r := c.repeats.Load(); r != nil {
		if _, again = r.keys[key]; again {
			delete(r.keys, key)
			r.until = 0
		}
	}
	if r := c.watch.Load(); r != nil && r.delivered(key) && !again {
		c.core.count.duplicateKeys.Add(1)
	}
	return again
}
