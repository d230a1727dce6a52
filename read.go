package wsshard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: what happens to a message that arrives?

// reader is what the read loop owns.
type reader[S comparable] struct {
	*session[S]
	callback string // which one is running, for the log
	login    *pen   // set while Login runs: its reads answer pings
	live     bool   // messages go straight to the handler
	hadData  bool
	stamped  time.Duration // of the last message whose time was published
	fedAt    time.Duration // of the last data whose time was published
}

// begin makes the reader ready for its loop.
func (r *reader[S]) begin() {
	if r.live = r.relay == nil; !r.live {
		r.relay.timedBy(r.conn.Run)
	}
}

// lend has pings that are read during Login answered with its pen; nil: it is over.
func (r *reader[S]) lend(p *pen) { r.login = p }

// run is the read loop's goroutine. What it does at the end it does even when a callback took the goroutine away.
func (r *reader[S]) run() {
	r.core.label(r.ctx, "read", r.st.ShardID)
	defer r.finish()
	defer close(r.readDone)
	var err error
	returned := false
	defer func() {
		var why error
		if value := recover(); value != nil { // in LowLatencyMode there is no guard for each message
			why = r.core.panicked(r.callback, value)
		} else if !returned && r.callback != "" { // runtime.Goexit
			why = r.core.panicked(r.callback, nil)
		}
		r.leaveOff(err, returned)
		if why == nil {
			why = err
		}
		if why != nil { // else a guard has said why
			r.end(why)
		}
	}()
	if seq := r.core.caps.sequence; seq != nil && r.relay == nil { // here, where Send does not wait in vain: the write loop runs
		r.core.guard("ResetSequenceState", r.st.ShardID, func() { seq.ResetSequenceState(r.st) }, r.end)
	}
	err = r.readLoop()
	returned = true
}

// leaveOff notes whether the end of the read loop leaves anything unread. It does not if the peer has closed and the loop went on until
// then. If a callback took the loop away, the messages behind its own are left: in the buffer, and in the socket.
func (r *reader[S]) leaveOff(err error, returned bool) {
	var ce *CloseError
	signs := r.conn.Signs()
	closed := errors.Is(err, io.ErrUnexpectedEOF) && !signs.Begun || errors.As(err, &ce) && !ce.Local
	r.readToEnd.Store(returned && closed && r.unread.Load() == 0)
	if closed && !signs.Current && (ce == nil || ce.Code != 1000) { // no answer to our close frame for certain
		r.openUntil.Store(mark(signs.Idle))
	}
	if !signs.Current || !returned {
		r.leaveUnread(r.brink())
	}
}

// finish waits for the rest of the session and tells the application.
func (r *reader[S]) finish() {
	<-r.written
	how, code := endedAs(r.cause())
	r.slot.run.gate.Ended(r.stay, how, code)
	if r.relay != nil {
		<-r.relay.over // what it holds is delivered, or will never be
	}
	r.slot.run.untrack(r.conn)
	r.slot.run.disconnected(r.st, r.cause())
	close(r.delivered)
	poke(r.slot.wake)
}

// readLoop delivers until the connection fails.
func (r *reader[S]) readLoop() error {
	direct := r.core.cfg.Connection.LowLatencyMode
	for {
		text, data, err := r.conn.Read()
		if err != nil {
			return readCause(err)
		}
		if r.ending.Load() {
			r.leaveUnread(r.brink())
			continue // until the peer has closed
		}
		if direct {
			if !r.live { // it may be held, and what Inspect makes of it may point into it
				data = slices.Clone(data)
			}
			r.message(text, data)
			r.conn.Poison()
		} else {
			r.guarded(text, r.conn.Detach())
		}
	}
}

// guarded handles a message and survives a panic, which costs that message only.
func (r *reader[S]) guarded(text bool, data []byte) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if value := recover(); value != nil {
			err := r.core.panicked(r.callback, value)
			if r.callback == "" {
				r.end(err) // not the application's: what else is wrong is unknown
			}
			r.callback = ""
		} // else runtime.Goexit: see read
	}()
	r.message(text, data)
	returned = true
}

// message takes one message through the hooks, in the order that the documentation promises: text pong, Inspect (else
// IsHeartbeat and IsDataMessage), Acknowledge, IsReady, and then what deliver does, unless it has to wait for a cutover. onStack finds it by this name: callbacks run in it.
func (r *reader[S]) message(text bool, data []byte) {
	stats, caps := &r.slot.stats, &r.core.caps
	stats.messages.Add(1)
	stats.bytes.Add(uint64(len(data)))
	if at := r.conn.Stamp(); at != r.stamped {
		r.stamped = at
		stats.lastMessage.Store(r.core.instant(r.conn.At(at)))
	}
	if text && r.isTextPong(data) {
		r.answered(false)
		return
	}
	msg := Message{Type: BinaryMessage, Data: data}
	if text {
		msg.Type = TextMessage
	}
	v := r.inspect(msg)
	msg.Value = v.Value
	if v.Heartbeat {
		r.callback = ""
		if caps.ping != nil && r.core.cfg.Health.TextPong == "" {
			r.answered(true)
		}
		return
	}
	if caps.acknowledger != nil {
		r.callback = "Acknowledge"
		if ack, ok := caps.acknowledger.Acknowledge(msg, r.st); ok {
			if r.acknowledged(ack) { // else it is what the verdict says: in some protocols each message of data names its request
				v.NoData = true
			}
		}
	}
	if !v.NoData {
		r.fed(v.Subs)
	}
	if caps.ready != nil {
		r.callback = "IsReady"
		if caps.ready.IsReady(msg, r.st) && !(r.requests.Load() > 0 && r.isReady()) {
			r.readyAt.Store(int64(r.conn.Now()))
			r.readySeen.Store(r.requests.Load() + 1)
			r.claims.ready()
			r.tellProven()
			poke(r.wake)
		}
	}
	r.callback = ""
	if !r.live && r.hold(msg, &v) {
		return
	}
	if sought := r.repeats.Load(); sought != nil && sought.over(r.readerClock()) {
		r.repeats.Store(nil)
	}
	r.deliver(r.ctx, msg, &v, &r.callback)
}

// inspect asks the handler what a message is, and obeys what an Inspector says of it.
func (r *reader[S]) inspect(msg Message) (v Verdict[S]) {
	caps := &r.core.caps
	if caps.inspector != nil {
		r.callback = "Inspect"
		v = caps.inspector.Inspect(msg, r.st)
		v.Subs = r.core.keys(v.Subs)
		r.obey(&v)
		return v
	}
	if caps.heartbeat != nil {
		r.callback = "IsHeartbeat"
		v.Heartbeat = caps.heartbeat.IsHeartbeat(msg)
	}
	if caps.data != nil && !v.Heartbeat {
		r.callback = "IsDataMessage"
		v.NoData = !caps.data.IsDataMessage(msg)
	}
	return v
}

// anyPong answers a TextPing where no TextPong is set, in any case of it.
const anyPong = "PONG"

// isTextPong reports whether text answers a ping of the application's protocol.
func (r *reader[S]) isTextPong(text []byte) bool {
	h := &r.core.cfg.Health
	if h.TextPong != "" {
		return string(text) == h.TextPong
	}
	return h.TextPing != "" && len(text) == len(anyPong) && strings.EqualFold(string(text), anyPong)
}

// obey does what an Inspector's verdict asks for at once.
func (r *reader[S]) obey(v *Verdict[S]) {
	if v.Reply.Data != nil {
		if !r.out.answer(v.Reply) {
			r.core.count.repliesDropped.Add(1)
		}
		poke(r.wake)
	}
	if v.Switchover {
		r.keeper.notice(r.session)
	}
}

// fed notes data, for the data timeout, freshness and proof.
func (r *reader[S]) fed(subs []S) {
	r.conn.Fresh()
	if at := r.conn.Stamp(); at != r.fedAt || !r.hadData {
		if !r.hadData {
			r.hadData = true
			r.slot.dataTimeoutNow.Store(0)
		}
		r.fedAt = at
		r.dataAt.Store(mark(at))
	}
	if len(subs) == 0 {
		return
	}
	if r.claims.open.Load() {
		if r.claims.data(subs) {
			poke(r.wake)
		}
		r.tellProven()
	}
	r.slot.fresh.note(subs, r.core.instant(r.conn.At(r.fedAt)), r.slot.desired)
}

// acknowledged takes an answer of the server, and reports whether it answered something that was unanswered.
func (r *reader[S]) acknowledged(ack Ack[S]) (answered bool) {
	ack.Confirmed, ack.Rejected = r.core.keys(ack.Confirmed), r.core.keys(ack.Rejected)
	confirmed, rejected, answered := r.claims.answer(ack, r.slot.desired.Number)
	r.tellProven()
	r.slot.resubs.clear(confirmed)
	if len(rejected) > 0 {
		err := ack.Err
		if err == nil {
			err = ErrRejected
		}
		r.rejected(rejected, err)
	}
	poke(r.wake)
	return answered
}

// deliver hands a message to the handler, unless its sequence or its key speaks against it. Only the session whose turn it
// is to deliver calls it. where names the callback that is running.
func (c *session[S]) deliver(ctx context.Context, msg Message, v *Verdict[S], where *string) {
	if c.core.caps.sequence != nil && !c.validated(msg, v, where) {
		return
	}
	if v.Key != "" && c.repeated(v.Key) {
		c.core.count.duplicates.Add(1)
		return
	}
	*where = "OnMessage"
	c.core.h.OnMessage(ctx, msg, c.st)
	*where = ""
}

// validated asks the SequenceValidator.
func (c *session[S]) validated(msg Message, v *Verdict[S], where *string) bool {
	*where = "ValidateSequence"
	valid := c.inSequence(c.core.caps.sequence.ValidateSequence(msg, c.st), v.Subs)
	*where = ""
	return valid
}

// inSequence does what the validation asks for, and says whether the message is still to be delivered.
func (c *session[S]) inSequence(v SequenceValidation[S], subs []S) bool {
	reconnect := v.Gap && v.Recovery == SequenceReconnect
	drop := reconnect || v.Gap && v.Recovery == SequenceDropMessage
	if drop {
		c.core.count.sequenceDrops.Add(1)
	}
	if reconnect {
		c.end(ErrSequenceGap) // first: what is to be asked for again is the next connection's to ask
	}
	if !v.Gap && len(v.Resubscribe) == 0 {
		c.slot.resubs.clear(subs)
	}
	if len(v.Resubscribe) > 0 {
		if again := c.slot.resubs.claim(c.core.keys(v.Resubscribe), c.slot.desired, c.readerTime(), c.core.cfg.Subscribe.AckTimeout); len(again) > 0 {
			c.slot.desired.Again(again...)
		}
	}
	return !drop
}

// answered notes the answer to a ping that the application's protocol speaks: a text pong, or a heartbeat.
func (r *reader[S]) answered(heartbeat bool) {
	r.core.count.pongs.Add(1)
	sent, newest, certain := r.pinged.byText(heartbeat)
	if newest > 0 {
		r.rtt.Store(int64(r.conn.Now() - newest))
	}
	if certain {
		r.answeredAt.Store(mark(sent))
	}
}

// onPong is called by the read loop for a pong frame.
func (r *reader[S]) onPong(payload string) {
	r.core.count.pongs.Add(1)
	if sent, ok := r.pinged.byFrame(payload); ok { // what the peer sent before has come before
		r.rtt.Store(int64(r.conn.Now() - sent))
		r.answeredAt.Store(mark(sent))
	}
}

// onPing is called by whoever reads, for a ping frame. The write loop answers. During Login there is none, so Login's pen does.
func (r *reader[S]) onPing(payload string) {
	if r.out.ping(ping{payload, r.conn.Stamp()}) {
		poke(r.wake)
	}
	if r.login != nil {
		r.login.pongNow() // a server that waits for it may say nothing before; an error will show in what follows
	}
}

// readCause turns what wsconn.Read returned into the cause that the application sees.
func readCause(err error) error {
	switch e := err.(type) {
	case *wsconn.Closed:
		return &CloseError{Code: e.Code, Text: e.Text}
	case *wsconn.Violation:
		return &CloseError{Code: e.Code, Text: e.Text, Local: true}
	}
	if errors.Is(err, wsconn.ErrUnfinished) {
		return ErrMaxUnfinished
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("wsshard: connection lost: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("wsshard: read: %w", cut(err))
}
