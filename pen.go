package wsshard

import (
	"errors"
	"net"
	"time"
	"unicode/utf8"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how does a frame leave, and what may be sent at all?

// closeGrace is how long the peer has to answer our close frame before the socket is closed.
const closeGrace = time.Second

// stuckGrace is how long a write to a dismissed connection may take, the close frame among them: its peer is taken for dead,
// and the connection that replaces it waits for us.
const stuckGrace = 100 * time.Millisecond

// pen writes frames on one connection and keeps account of its pace. One goroutine at a time has it: Login's, while Login runs,
// then the write loop, to which writer.take hands it over.
type pen struct {
	conn  *wsconn.Conn
	out   *outbox // of which it takes the pings
	count *counters

	pace     pace
	pongAt   time.Time     // of the last pong
	pongFor  time.Duration // when the ping came that it answered
	pongDebt time.Time     // when the pongs so far would be over, were each pongSpacing after the one before
}

// pongWait reports whether a ping waits, and how long its pong waits for its spacing.
func (p *pen) pongWait(now time.Time) (pinged bool, wait time.Duration) {
	oldest, ok := p.out.nextPing()
	wait = pongSpacing - now.Sub(p.pongAt)
	if oldest.came == p.pongFor && p.pongDebt.Sub(now) <= (mostPings-1)*pongSpacing {
		wait = 0
	}
	return ok, max(0, wait)
}

// pong answers the ping that has waited longest.
func (p *pen) pong(now time.Time, charge func(time.Time)) error {
	oldest := p.out.takePing(p.conn.Now())
	p.pongAt, p.pongFor = now, oldest.came
	if p.pongDebt.Before(now) {
		p.pongDebt = now
	}
	p.pongDebt = p.pongDebt.Add(pongSpacing)
	err := p.conn.Pong(oldest.payload)
	charge(time.Now())
	return writeFailure(err)
}

// pongNow answers the ping that has waited longest, unless it is too early for that: then it is answered later.
func (p *pen) pongNow() error {
	now := time.Now()
	pinged, _ := p.pongWait(now)
	if !pinged || max(p.pace.waitControl(now), pongSpacing-now.Sub(p.pongAt)) > 0 {
		return nil
	}
	return p.pong(now, p.pace.chargeControl)
}

// ping writes a ping frame.
func (p *pen) ping(payload string) error { return p.wrote(1, p.conn.Ping(payload)) }

// write writes a message that was checked.
func (p *pen) write(msg Message) error {
	frames, err := p.conn.Write(msg.Type == TextMessage, msg.Data)
	if err == nil {
		p.count.sent.Add(1)
		p.count.sentBytes.Add(uint64(len(msg.Data)))
	}
	return p.wrote(frames, err)
}

// wrote charges the pace when frames have left, which may be long after somebody began to write them.
func (p *pen) wrote(frames int, err error) error {
	p.pace.charge(time.Now(), frames)
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

// writeError marks an error of the socket's write side.
type writeError struct{ err error }

func (e *writeError) Error() string { return "wsshard: write: " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

func isWriteError(err error) bool {
	var we *writeError
	return errors.As(err, &we)
}

// closeCode is the code of the close frame that cause calls for: the peer's own is echoed.
func closeCode(cause error) int {
	var ce *CloseError
	switch {
	case errors.As(cause, &ce):
		return ce.Code
	case errors.Is(cause, ErrMaxUnfinished):
		return 1009
	}
	return 1000
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
