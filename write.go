package wsshard

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"
	"unicode/utf8"
)

// This file answers: what is written on a connection, and when?

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
			c.m.late.Store(c.m.instant(time.Now()))
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
	if c.sick && c.revived() { // it has come back before it was replaced
		c.sick = false
		c.silentAt.Store(0)
	}
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
		c.dataThen.Store(c.dataAt.Load())
		c.silentAt.Store(mark(c.conn.Since(c.gapFrom(cause))))
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
	if c.frozen.Load() == freezeDone { // applied stands still, and may be read only
		c.tellProven()
		c.sh.progressed(c)
		return
	}
	c.settleAnswers(now, next)
	c.tellProven()
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
	pinged, spacing := c.pongWait(now)
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

// pongWait reports whether a ping waits, and how long its pong waits for its spacing.
func (c *session[S]) pongWait(now time.Time) (pinged bool, wait time.Duration) {
	p, ok := c.out.nextPing()
	wait = pongSpacing - now.Sub(c.pongAt)
	if p.came == c.pongFor && c.pongDebt.Sub(now) <= (mostPings-1)*pongSpacing {
		wait = 0
	}
	return ok, max(0, wait)
}

// pong answers the ping that has waited longest.
func (c *session[S]) pong(now time.Time, charge func(time.Time)) error {
	p := c.out.takePing(c.conn.Now())
	c.pongAt, c.pongFor = now, p.came
	if c.pongDebt.Before(now) {
		c.pongDebt = now
	}
	c.pongDebt = c.pongDebt.Add(pongSpacing)
	err := c.conn.Pong(p.payload)
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
	case msg.Data == nil: // empty is another matter
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
	c.pinged.add(c.pingNum, at, c.m.cfg.Health.PongTimeout)
	c.m.count.pings.Add(1)
	if msg.Data != nil {
		return c.writeMessage(msg)
	}
	return c.wrote(1, c.conn.Ping(pingPayload(c.pingNum)))
}

func pingPayload(n uint64) string { return strconv.FormatUint(n, 10) }

// Send writes msg to the shard's live connection, within the pace; nil means written to the socket. While that one is read
// to its end in a switchover, the next is meant, and what waits for the pace when it is replaced is written there, in its
// order. What it does on the server does not survive a reconnect or a switchover.
// ErrNotConnected, with ErrShardParked when the shard gave up; ErrUnknownShard, ErrStopped, ErrInvalidMessage, the cause of
// ctx; ErrInCallback from inside the callback that encodes a request: it is queued. msg.Data passes to the library.
func (m *ShardManager[S]) Send(ctx context.Context, shardID int, msg Message) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	if err := checkMessage(msg); err != nil {
		return err
	}
	c := s.live.Load()
	if c == nil {
		return s.whyDown()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	writer := onStack("writeLoop")
	out := &send{ctx: ctx, msg: msg, done: make(chan error, 1)}
	for {
		err := c.out.send(out)
		if err == nil {
			break
		}
		if c = c.heir.Load(); c == nil {
			return err
		}
	}
	poke(c.wake)
	if writer {
		return ErrInCallback
	}
	select {
	case err := <-out.done:
		if err == ErrNotConnected && s.run.ctx.Err() != nil {
			return ErrStopped
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
