package wsconn

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// This file answers: what has the socket shown of the peer so far?

// ErrHead says that the peer's answer to the handshake went on past the budget that Tap was given for it.
var ErrHead = errors.New("the response head is longer than allowed")

// A Tap is the net.Conn under a WebSocket connection that notes when the peer showed a sign of life.
//
// It keeps the reader's clock: how long the reader has waited in Read, all told. Deadlines are measured on that clock, so
// that time which the reader spends in a callback counts for none of them. A time stamp is taken for each system call,
// never for each message.
type Tap struct {
	net.Conn
	base time.Time

	// owned by the goroutine that reads
	head    int  // what the handshake may still cost; negative: the handshake is over
	line    int  // characters of the head's line so far; negative: the head has ended
	fresh   bool // a data message was handled since the last Read
	message bool // inside a data message: its first frame has come, its end has not
	partial bool // bytes have come since the last frame that was seen to end
	ended   bool // something has ended since the last Read: what is unfinished now is not what was then
	stamp   time.Duration
	counted time.Duration // the stamp that whole has
	failed  error         // what the last Read returned
	ahead   *ahead        // nil: each Read is one of the socket

	whole atomic.Int64 // see Whole

	mu    sync.Mutex // protects following fields; a leaf lock
	signs Signs
}

// waitLeast is how long a Read takes at least when it had to wait for bytes, rather than to copy what was there.
const waitLeast = 200 * time.Microsecond

// Signs is what is known of the peer. Instants count from the Tap's beginning, Waited and what is marked by it on the
// reader's clock.
type Signs struct {
	Waiting bool          // the reader waits for bytes now
	Since   time.Duration // when it began to
	Waited  time.Duration // how long it waited before that
	Reads   uint64        // reads that brought bytes
	Idle    time.Duration // until when everything that had come was read: the last Read that had to wait ended then
	Current bool          // the last Read had to wait: nothing was left unread
	Data    time.Duration // reader's clock when the last data message had been handled
	Fed     bool          // Data was ever set
	Begun   bool          // a message has begun and not ended
	Began   time.Duration // reader's clock when that was noticed
}

// Clock is the reader's clock at now.
func (s Signs) Clock(now time.Duration) time.Duration {
	if s.Waiting && now > s.Since {
		return s.Waited + now - s.Since
	}
	return s.Waited
}

// NewTap begins to watch conn, whose handshake may cost at most head.
func NewTap(conn net.Conn, head int) *Tap {
	return &Tap{Conn: conn, base: time.Now(), head: head, ahead: newAhead(conn)}
}

// Now is the time since the Tap began, as used in Signs.
func (t *Tap) Now() time.Duration { return time.Since(t.base) }

// Since converts a point in time to an instant as used in Signs.
func (t *Tap) Since(at time.Time) time.Duration { return at.Sub(t.base) }

// At converts an instant of Signs to a point in time.
func (t *Tap) At(d time.Duration) time.Time { return t.base.Add(d) }

// Signs returns a copy of what is known.
func (t *Tap) Signs() Signs {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.signs
}

// Established ends the handshake: no budget for bytes from here on. What followed the head in its packet are frames, and the
// last of them may not have ended.
func (t *Tap) Established() {
	t.head = -1
	t.stamp = t.Now()
	t.mu.Lock()
	t.signs.Idle = t.stamp
	t.mu.Unlock()
	t.whole.Store(int64(t.stamp))
}

// Failed is the error that the socket's last read ended with; nil: it brought bytes. Those who parse what was read before may
// call it something else. For the reading goroutine.
func (t *Tap) Failed() error { return t.failed }

// Stamp is when the bytes that are being handled came. For the reading goroutine.
func (t *Tap) Stamp() time.Duration { return t.stamp }

// Fresh notes that a data message was handled. For the reading goroutine.
func (t *Tap) Fresh() { t.fresh = true }

// frame notes that a frame ended here. A control frame between the fragments of a message does not end the message.
func (t *Tap) frame() {
	t.partial = false
	if t.message {
		return
	}
	t.ended = true
	if t.counted != t.stamp {
		t.counted = t.stamp
		t.whole.Store(int64(t.stamp))
	}
}

// Whole is when the last bytes came after which nothing was unfinished. What came since is part of a message, all of which is
// missing when its end does not come.
func (t *Tap) Whole() time.Duration { return time.Duration(t.whole.Load()) }

// BufferSize is the size of the buffer that the reader shall have, where it would have n bytes.
func (t *Tap) BufferSize(n int) int {
	if t.ahead != nil {
		n = min(n, smallBuffer)
	}
	return n
}

func (t *Tap) Read(p []byte) (n int, err error) {
	switch {
	case t.head >= 0:
		return t.readHead(p)
	case t.ahead == nil:
		t.waits()
		n, err = t.Conn.Read(p)
		t.came(n, err)
		return n, err
	case len(t.ahead.rest) == 0:
		t.waits()
		n, err = t.ahead.fill()
		t.came(n, err)
		if err != nil {
			return 0, err
		}
	}
	t.partial = true
	return t.ahead.take(p), nil
}

// waits notes that the reader wants bytes.
func (t *Tap) waits() {
	now := t.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.signs
	s.Waiting, s.Since = true, now
	if t.fresh {
		s.Data, s.Fed, t.fresh = s.Waited, true, false
	}
	if begun := t.message || t.partial; begun != s.Begun || t.ended {
		s.Begun, s.Began = begun, s.Waited
	}
	t.ended = false
}

// came notes what the reader got.
func (t *Tap) came(n int, err error) {
	now := t.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.signs
	s.Waited += now - s.Since
	s.Waiting, s.Current = false, now-s.Since >= waitLeast
	if n > 0 && s.Current {
		s.Idle = now
	}
	if n > 0 {
		s.Reads++
		t.partial, t.stamp = true, now
	}
	t.failed = err
}

func (t *Tap) readHead(p []byte) (n int, err error) {
	defer func() { t.failed = err }()
	if t.head == 0 {
		return 0, ErrHead
	}
	n, err = t.Conn.Read(p[:min(len(p), t.head)])
	t.head = max(0, t.head-HeadCost(p[:n]))
	t.partial = t.beyond(p[:n]) || t.partial
	return n, err
}

// beyond follows the head to the empty line at its end, and reports whether something of b comes after that.
func (t *Tap) beyond(b []byte) bool {
	for _, c := range b {
		switch {
		case t.line < 0:
			return true
		case c == '\n' && t.line == 0:
			t.line = -1
		case c == '\n':
			t.line = 0
		case c != '\r':
			t.line++
		}
	}
	return false
}

// headLine is what a line of a head costs beside its bytes: a short one takes so much more memory than it has bytes.
const headLine = 64

// HeadCost is what bytes of a head cost those who parse it.
func HeadCost(p []byte) int { return len(p) + headLine*bytes.Count(p, []byte("\n")) }
