package wsconn

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// This file answers: what has the socket shown of the peer so far?

// A Tap is the net.Conn under a WebSocket connection that notes when the peer showed a sign of life.
//
// It keeps the reader's clock, which stands still inside callbacks, and only there. Deadlines are measured on that clock, so
// that time which the reader spends in a callback counts for none of them. A callback begins when the reader leaves with a
// message and ends when it returns for the next one. A time stamp is taken for each system call, and where frames or messages
// without data came between; a message of data costs none.
type Tap struct {
	net.Conn
	base time.Time

	// owned by the goroutine that reads
	head    *head         // nil: the handshake is over
	rest    []byte        // what came with the head and is not taken yet
	clock   time.Duration // the reader's, at mark
	mark    time.Duration
	stands  bool // the clock does, since mark
	idled   bool // something without data came since mark
	fresh   bool // a data message was handled since the last Read
	message bool // inside a data message: its first frame has come, its end has not
	partial bool // bytes have come since the last frame that was seen to end
	ended   bool // something has ended since the last Read: what is unfinished now is not what was then
	stamp   time.Duration
	counted time.Duration // the stamp that whole has
	failed  error         // what the last Read returned
	source  source        // of what comes after rest; nil: the handshake is not over

	whole atomic.Int64 // see Whole

	writes int // calls of Write; owned by the goroutine that writes

	mu      sync.Mutex // protects following fields; a leaf lock
	signs   Signs
	outside time.Duration // what Run let the clock run, and clock has not
}

// waitLeast is how long a Read takes at least when it had to wait for bytes, rather than to copy what was there.
const waitLeast = 200 * time.Microsecond

// Signs is what is known of the peer. Instants count from the Tap's beginning, Waited, Asked and what is marked by it on
// the reader's clock.
type Signs struct {
	Waiting bool          // the reader waits for bytes now
	Since   time.Duration // when it began to
	Waited  time.Duration // the reader's clock then, or when the last Read had ended
	Asked   time.Duration // the reader's clock when it began to wait last: all that had come by then was handled
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

// NewTap begins to watch conn, whose handshake may cost at most budget.
func NewTap(conn net.Conn, budget int) *Tap {
	return &Tap{Conn: conn, base: time.Now(), head: &head{left: budget}}
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

// Extensions are the values of Sec-WebSocket-Extensions, as the server sent them. For the reading goroutine.
func (t *Tap) Extensions() []string {
	if t.head != nil {
		return t.head.extensions
	}
	return nil
}

// Established ends the handshake: no budget for bytes from here on. What followed the head in its packet are frames, and the
// last of them may not have ended. A callback is what comes next. Where the reader cannot borrow a buffer, it gets one of so
// many bytes.
func (t *Tap) Established(buffer int) {
	t.source = newSource(t.Conn, buffer)
	if t.head != nil {
		t.rest, t.head = t.head.raw, nil
	}
	t.partial = len(t.rest) > 0
	t.stamp = t.Now()
	t.mark, t.stands = t.stamp, true
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

// returns notes that the reader comes for the next message. Where the last one was data the callback's end is not noted before
// the reader waits, or something without data comes.
func (t *Tap) returns() {
	if !t.fresh {
		t.idles()
	}
}

// idles notes that the reader handles something without data: the clock runs.
func (t *Tap) idles() {
	if t.stands {
		t.runs(t.Now())
	}
	t.idled = true
}

// leaves notes that the reader leaves with a message: the clock stands until it returns.
func (t *Tap) leaves() {
	if t.idled && !t.stands {
		t.runs(t.Now())
	}
	t.stands, t.idled = true, false
}

// runs sets the clock to now, and has it run from here.
func (t *Tap) runs(now time.Duration) {
	if !t.stands {
		t.clock += now - t.mark
	}
	t.mark, t.stands = now, false
}

// Read serves the handshake. What comes after it is fetched.
func (t *Tap) Read(p []byte) (n int, err error) {
	if t.head == nil {
		return 0, net.ErrClosed
	}
	return t.readHead(p)
}

// fetch waits for bytes and returns them where they lie: valid until the next fetch. They may lie in p, if that is long.
func (t *Tap) fetch(p []byte) (b []byte, err error) {
	if b, t.rest = t.rest, nil; len(b) > 0 {
		return b, nil
	}
	t.source.free()
	t.waits()
	b, err = t.source.fill(p)
	t.came(len(b), err)
	return b, err
}

// Write counts the frames that leave.
func (t *Tap) Write(p []byte) (n int, err error) {
	t.writes++
	return t.Conn.Write(p)
}

// waits notes that the reader wants bytes.
func (t *Tap) waits() {
	now := t.Now()
	t.runs(now)
	t.idled = false
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock, t.outside = t.clock+t.outside, 0
	s := &t.signs
	s.Waiting, s.Since, s.Waited, s.Asked = true, now, t.clock, t.clock
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
	t.runs(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.signs
	s.Waited = t.clock
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

// Run lets the reader's clock run, or stand still again, while the reader waits outside of Read. Anybody may call it.
func (t *Tap) Run(run bool) {
	now := t.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.signs
	switch {
	case run && !s.Waiting:
		s.Since, s.Asked = now, s.Waited
	case !run && s.Waiting:
		s.Waited += now - s.Since
		t.outside += now - s.Since
	}
	s.Waiting = run
}
