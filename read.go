package wsshard

import (
	"context"
	"slices"
	"strings"
)

// This file answers: what happens to a message that arrives?

// readLoop delivers until the connection fails.
func (c *session[S]) readLoop() error {
	direct := c.m.cfg.Connection.LowLatencyMode
	for {
		text, data, err := c.conn.Read()
		if err != nil {
			return readCause(err)
		}
		if c.ending.Load() {
			c.leaveUnread(c.conn.Signs().Idle)
			continue // until the peer has closed
		}
		if direct {
			if !c.live { // it may be held, and what Inspect makes of it may point into it
				data = slices.Clone(data)
			}
			c.message(text, data)
			if raceEnabled {
				c.conn.Poison()
			}
		} else {
			if !c.conn.Detached() {
				own := make([]byte, len(data)) // exactly: a message that is kept keeps nothing else
				copy(own, data)
				data = own
			}
			c.guarded(text, data)
		}
	}
}

// guarded handles a message and survives a panic, which costs that message only.
func (c *session[S]) guarded(text bool, data []byte) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if r := recover(); r != nil {
			err := c.m.panicked(c.callback, r)
			if c.callback == "" {
				c.end(err) // not the application's: what else is wrong is unknown
			}
			c.callback = ""
		} // else runtime.Goexit: see read
	}()
	c.message(text, data)
	returned = true
}

// message takes one message through the hooks, in the order that the documentation promises: text pong, Inspect (else
// IsHeartbeat and IsDataMessage), Acknowledge, IsReady, and then what deliver does, unless it has to wait for a cutover.
func (c *session[S]) message(text bool, data []byte) {
	stats, caps := &c.sh.stats, &c.m.caps
	stats.messages.Add(1)
	stats.bytes.Add(uint64(len(data)))
	if at := c.conn.Stamp(); at != c.stamped {
		c.stamped = at
		stats.lastMessage.Store(c.m.instant(c.conn.At(at)))
	}
	if text && c.isTextPong(data) {
		c.answered(false)
		return
	}
	msg := Message{Type: BinaryMessage, Data: data}
	if text {
		msg.Type = TextMessage
	}
	var v Verdict[S]
	if caps.inspector != nil {
		c.callback = "Inspect"
		v = caps.inspector.Inspect(msg, c.st)
		v.Subs = c.m.keys(v.Subs)
		msg.Value = v.Value
		c.obey(&v)
	} else {
		if caps.heartbeat != nil {
			c.callback = "IsHeartbeat"
			v.Heartbeat = caps.heartbeat.IsHeartbeat(msg)
		}
		if caps.data != nil && !v.Heartbeat {
			c.callback = "IsDataMessage"
			v.NoData = !caps.data.IsDataMessage(msg)
		}
	}
	if v.Heartbeat {
		c.callback = ""
		if caps.ping != nil && c.m.cfg.Health.TextPong == "" {
			c.answered(true)
		}
		return
	}
	if caps.acknowledger != nil {
		c.callback = "Acknowledge"
		if ack, ok := caps.acknowledger.Acknowledge(msg, c.st); ok {
			if c.acknowledged(ack) { // else it is what the verdict says: in some protocols each message of data names its request
				v.NoData = true
			}
		}
	}
	if !v.NoData {
		c.fed(v.Subs)
	}
	if caps.ready != nil {
		c.callback = "IsReady"
		if caps.ready.IsReady(msg, c.st) && !(c.requests.Load() > 0 && c.isReady()) {
			c.readyAt.Store(int64(c.conn.Now()))
			c.readySeen.Store(c.requests.Load() + 1)
			c.proof.ready()
			c.tellProven()
			poke(c.wake)
		}
	}
	c.callback = ""
	if !c.live && c.hold(msg, &v) {
		return
	}
	if r := c.repeats.Load(); r != nil && r.over(c.readerClock()) {
		c.repeats.Store(nil)
	}
	c.deliver(c.ctx, msg, &v, &c.callback)
}

// anyPong answers a TextPing where no TextPong is set, in any case of it.
const anyPong = "PONG"

// isTextPong reports whether text answers a ping of the application's protocol.
func (c *session[S]) isTextPong(text []byte) bool {
	h := &c.m.cfg.Health
	if h.TextPong != "" {
		return string(text) == h.TextPong
	}
	return h.TextPing != "" && len(text) == len(anyPong) && strings.EqualFold(string(text), anyPong)
}

// obey does what an Inspector's verdict asks for at once.
func (c *session[S]) obey(v *Verdict[S]) {
	if v.Reply.Data != nil {
		if !c.out.answer(v.Reply) {
			c.m.count.repliesDropped.Add(1)
		}
		poke(c.wake)
	}
	if v.Switchover {
		c.sh.notice(c)
	}
}

// fed notes data, for the data timeout, freshness and proof.
func (c *session[S]) fed(subs []S) {
	c.conn.Fresh()
	if at := c.conn.Stamp(); at != c.fedAt || !c.hadData {
		if !c.hadData {
			c.hadData = true
			c.sh.quiet.Store(0)
		}
		c.fedAt = at
		c.dataAt.Store(mark(at))
	}
	if len(subs) == 0 {
		return
	}
	if c.proof.open.Load() {
		if c.proof.data(subs) {
			poke(c.wake)
		}
		c.tellProven()
	}
	c.sh.fresh.note(subs, c.m.instant(c.conn.At(c.fedAt)), c.sh.desired)
}

// acknowledged takes an answer of the server, and reports whether it answered something that was unanswered.
func (c *session[S]) acknowledged(ack Ack[S]) (answered bool) {
	ack.Confirmed, ack.Rejected = c.m.keys(ack.Confirmed), c.m.keys(ack.Rejected)
	confirmed, rejected, answered := c.proof.answer(ack, c.sh.desired.Number)
	c.tellProven()
	c.sh.resubs.clear(confirmed)
	if len(rejected) > 0 {
		err := ack.Err
		if err == nil {
			err = ErrRejected
		}
		c.rejected(rejected, err)
	}
	poke(c.wake)
	return answered
}

// rejected tells of topics that failed on this connection.
func (c *session[S]) rejected(subs []S, err error) {
	c.m.count.rejected.Add(uint64(len(subs)))
	c.log.Warn("subscriptions failed", "count", len(subs), "err", err)
	c.m.emit(c.sh.run, Event[S]{Kind: EventSubscriptionRejected, ShardID: c.sh.id, Generation: c.st.Generation, Err: err, Subs: subs})
}

// deliver hands a message to the handler, unless its sequence or its key speaks against it. Only the session whose turn it
// is to deliver calls it. where names the callback that is running.
func (c *session[S]) deliver(ctx context.Context, msg Message, v *Verdict[S], where *string) {
	if c.m.caps.sequence != nil && !c.validated(msg, v, where) {
		return
	}
	if v.Key != "" && c.repeated(v.Key) {
		c.m.count.duplicates.Add(1)
		return
	}
	*where = "OnMessage"
	c.m.h.OnMessage(ctx, msg, c.st)
	*where = ""
}

// validated asks the SequenceValidator.
func (c *session[S]) validated(msg Message, v *Verdict[S], where *string) bool {
	*where = "ValidateSequence"
	valid := c.inSequence(c.m.caps.sequence.ValidateSequence(msg, c.st), v.Subs)
	*where = ""
	return valid
}

// inSequence does what the validation asks for, and says whether the message is still to be delivered.
func (c *session[S]) inSequence(v SequenceValidation[S], subs []S) bool {
	reconnect := v.Gap && v.Recovery == SequenceReconnect
	drop := reconnect || v.Gap && v.Recovery == SequenceDropMessage
	if drop {
		c.m.count.sequenceDrops.Add(1)
	}
	if reconnect {
		c.end(ErrSequenceGap) // first: what is to be asked for again is the next connection's to ask
	}
	if !v.Gap && len(v.Resubscribe) == 0 {
		c.sh.resubs.clear(subs)
	}
	if len(v.Resubscribe) > 0 {
		if again := c.sh.resubs.claim(c.m.keys(v.Resubscribe), c.sh.desired, c.readerTime(), c.m.cfg.Subscribe.AckTimeout); len(again) > 0 {
			c.sh.desired.Again(again...)
		}
	}
	return !drop
}

// answered notes the answer to a ping that the application's protocol speaks: a text pong, or a heartbeat.
func (c *session[S]) answered(heartbeat bool) {
	c.m.count.pongs.Add(1)
	sent, newest, certain := c.pinged.byText(heartbeat)
	if newest > 0 {
		c.rtt.Store(int64(c.conn.Now() - newest))
	}
	if certain {
		c.answeredAt.Store(mark(sent))
	}
}

// onPong is called by the read loop for a pong frame.
func (c *session[S]) onPong(payload string) {
	c.m.count.pongs.Add(1)
	if sent, ok := c.pinged.byFrame(payload); ok { // what the peer sent before has come before
		c.rtt.Store(int64(c.conn.Now() - sent))
		c.answeredAt.Store(mark(sent))
	}
}

// onPing is called by the read loop for a ping frame. The write loop answers; during Login there is none.
func (c *session[S]) onPing(payload string) {
	if c.out.ping(ping{payload, c.conn.Stamp()}) {
		poke(c.wake)
	}
	if c.login != nil {
		c.login.pong() // a server that waits for it may say nothing before; an error will show in what follows
	}
}
