package wsshard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how does one connection live and end? read.go and write.go are its two loops.

// closeGrace is how long the peer has to answer our close frame before the socket is closed.
const closeGrace = time.Second

// stuckGrace is how long a write to a dismissed connection may take, the close frame among them: its peer is taken for dead,
// and the connection that replaces it waits for us.
const stuckGrace = 100 * time.Millisecond

// errRetired ends the write loop of a session that is being replaced.
var errRetired = errors.New("wsshard: retired")

// session is one connection of one shard. Two goroutines serve it: the read loop delivers, the write loop writes
// everything. The first to fail ends the other, through ctx; the read loop's goroutine returns last.
type session[S comparable] struct {
	sh     *shard[S]
	m      *ShardManager[S]
	st     ConnectionState
	conn   *wsconn.Conn
	log    *slog.Logger
	opened time.Time
	ctx    context.Context // of the callbacks; ended by end, read through context.Cause
	cancel context.CancelCauseFunc

	wake   chan struct{} // cap 1; the write loop has something to look at
	ending atomic.Bool   // nothing more is delivered
	out    outbox
	proof  *proof[S]
	login  *loginConn[S]            // set while Login runs
	relay  *relay[S]                // set for the next connection of a switchover
	stay   *gate.Stay               // the connection, as its door sees it
	watch  atomic.Pointer[relay[S]] // set on the old one, when the dial begins; read by whoever delivers

	heir    atomic.Pointer[session[S]] // set when it is retired: what is sent from now on is written there
	repeats atomic.Pointer[repeats]    // keys that the connection before delivered; nil: none to look for

	retired   chan struct{} // closed by the shard's loop: send a close frame, write nothing more
	readDone  chan struct{} // closed when the read loop has ended
	written   chan struct{} // closed when the write loop has ended and the socket is closed
	delivered chan struct{} // closed after OnDisconnect: the last callback is over

	// owned by the read loop
	callback string // which one is running, for the log
	live     bool   // messages go straight to the handler
	hadData  bool
	stamped  time.Duration // of the last message whose time was published
	fedAt    time.Duration // of the last data whose time was published

	// owned by the write loop
	applied  *reconcile.Applied[S]
	pace     pace
	health   *health
	batch    int       // topics in the next request: fewer after one that could not be encoded
	crowded  time.Time // when a replacement was asked for, for want of room
	asked    bool
	sick     bool          // a replacement was asked for
	pongAt   time.Time     // of the last pong
	pongFor  time.Duration // when the ping came that it answered
	pongDebt time.Time     // when the pongs so far would be over, were each pongSpacing after the one before
	whole    bool          // all that was wanted has been written, once at least
	turn     bool          // a request is next: the last frame was one that the outbox held
	pingNum  uint64
	grace    int64     // the manager's lateness that was forgiven last
	patience time.Time // until when nothing is judged: we were a bit late
	subs     []S       // scratch
	offs     offs[S]   // what was on, and is no more
	carried  []S       // set when it ends: what was on then, or may have been

	// written by one loop, read by others
	upto       atomic.Uint64 // touches that are settled here
	caughtUp   atomic.Bool   // nothing is left to write
	requests   atomic.Int64  // written
	readySeen  atomic.Int64  // requests written when IsReady was true last, plus 1
	readyAt    atomic.Int64  // on the connection's clock: when it was true first after that
	wroteAt    atomic.Int64  // on the connection's clock: the last request until all was written for the first time, and repetitions since
	frozen     atomic.Int32  // see freeze
	dataAt     atomic.Int64  // marked: the last data
	rtt        atomic.Int64
	answeredAt atomic.Int64 // marked: the writing of the last ping that was answered
	pinged     pinged       // those that were not
	warned     atomic.Int64 // how old the connection was when a notice came last that nobody has heeded, plus 1 ns; 0: none came
	complete   atomic.Bool  // it was read until the peer closed it
	openUntil  atomic.Int64 // marked: until when the peer had not closed for certain, where the reader was behind; 0: until the reader saw it
	silentAt   atomic.Int64 // marked: see gapFrom, as it was when it was found silent; 0: it was not, or it has data again
	dataThen   atomic.Int64 // dataAt when it was found silent
	unread     atomic.Int64 // on the connection's clock: what came since may be undelivered; 0: nothing is
}

func newSession[S comparable](sh *shard[S], st ConnectionState) *session[S] {
	c := &session[S]{
		sh: sh, m: sh.m, st: st,
		log:       sh.log.With("gen", st.Generation),
		wake:      make(chan struct{}, 1),
		proof:     newProof[S](sh.m.caps.acknowledger != nil, sh.m.cfg),
		retired:   make(chan struct{}),
		readDone:  make(chan struct{}),
		written:   make(chan struct{}),
		delivered: make(chan struct{}),
		pace:      newPace(sh.m.cfg.Subscribe),
	}
	c.proof.detector = sh.m.caps.ready != nil && !c.proof.acks
	c.proof.lately = func(sub S) bool { return c.offs.has(sub, time.Now().Add(-sh.linger())) }
	return c
}

// start begins to read and to write. applied is empty, so all that is desired will be written.
func (c *session[S]) start() {
	c.applied = c.sh.desired.Watch(c.wake)
	c.applied.OffFirst = c.m.caps.resubscriber == nil && c.m.caps.unsubscriber != nil
	c.proof.tell(c.relay != nil || c.sh.missing.Load())
	c.health = newHealth(c.m.cfg.Health, c.conn.Now())
	c.grace = c.m.late.Load()
	if c.live = c.relay == nil; !c.live {
		c.relay.timedBy(c.conn.Run)
	}
	c.wroteAt.Store(int64(c.conn.Now()))
	context.AfterFunc(c.ctx, func() { // while a write is stuck nobody else would look
		c.ending.Store(true)
		c.conn.SetWriteDeadline(time.Now().Add(closeGrace))
	})
	go c.read()
	go c.write()
}

// end ends the session for cause, unless it is ending already.
func (c *session[S]) end(cause error) {
	if c.isRetired() {
		cause = ErrReplaced
	}
	c.cancel(cause)
	c.ending.Store(true)
	poke(c.wake)
}

// cause is why the session ended; nil while it lives.
func (c *session[S]) cause() error {
	if c.isRetired() {
		return ErrReplaced
	}
	return context.Cause(c.ctx)
}

func (c *session[S]) isRetired() bool {
	select {
	case <-c.retired:
		return true
	default:
		return false
	}
}

// retire has the session write no more, for heir, which replaces it. What its peer still sends is delivered, until it has
// closed or DrainTimeout. What waits to be sent goes to heir.
func (c *session[S]) retire(heir *session[S]) {
	c.heir.Store(heir)
	close(c.retired)
}

// dismiss is retire for a session whose peer is taken for dead: nothing more is delivered, nothing is waited for.
func (c *session[S]) dismiss(heir *session[S]) {
	c.ending.Store(true)
	c.retire(heir)
	c.conn.SetWriteDeadline(time.Now().Add(stuckGrace))
}

// revived reports whether a session that was found silent has brought data since.
func (c *session[S]) revived() bool {
	return c.silentAt.Load() == 0 || c.dataAt.Load() != c.dataThen.Load()
}

// read is the read loop's goroutine. What it does at the end it does even when a callback took the goroutine away.
func (c *session[S]) read() {
	defer c.finish()
	defer close(c.readDone)
	var err error
	returned := false
	defer func() {
		var why error
		if r := recover(); r != nil { // in LowLatencyMode there is no guard for each message
			why = c.m.panicked(c.callback, r)
		} else if !returned && c.callback != "" { // runtime.Goexit
			why = c.m.panicked(c.callback, nil)
		}
		c.readToEnd(err, returned)
		if why == nil {
			why = err
		}
		if why != nil { // else a guard has said why
			c.end(why)
		}
	}()
	if seq := c.m.caps.sequence; seq != nil && c.relay == nil { // here, where Send does not wait in vain: the write loop runs
		c.m.guard("ResetSequenceState", func() { seq.ResetSequenceState(c.st) }, c.end)
	}
	err = c.readLoop()
	returned = true
}

// readToEnd notes what the end of the read loop leaves unread: nothing, where the peer has closed and the loop went on until then.
// A callback that took the loop away leaves what lay behind its message in the buffer, and what is in the socket.
func (c *session[S]) readToEnd(err error, returned bool) {
	var ce *CloseError
	signs := c.conn.Signs()
	closed := errors.Is(err, io.ErrUnexpectedEOF) && !signs.Begun || errors.As(err, &ce) && !ce.Local
	c.complete.Store(returned && closed && c.unread.Load() == 0)
	if closed && !signs.Current && (ce == nil || ce.Code != 1000) { // no answer to our close frame for certain
		c.openUntil.Store(mark(signs.Idle))
	}
	if !signs.Current || !returned {
		c.leaveUnread(signs.Idle)
	}
}

// closedBefore reports whether the peer may have closed before then, unseen by a reader that was behind.
func (c *session[S]) closedBefore(at time.Time) bool {
	until := c.openUntil.Load()
	return until != 0 && c.conn.At(clocked(until)).Before(at)
}

// leaveUnread notes that from here on messages may be lost unread. The earliest such instant counts.
func (c *session[S]) leaveUnread(since time.Duration) {
	at := max(1, int64(since))
	for was := c.unread.Load(); was == 0 || at < was; was = c.unread.Load() {
		if c.unread.CompareAndSwap(was, at) {
			return
		}
	}
}

// finish waits for the rest of the session and tells the application.
func (c *session[S]) finish() {
	<-c.written
	how, code := endedAs(c.cause())
	c.sh.run.gate.Ended(c.stay, how, code)
	if c.relay != nil {
		<-c.relay.over // what it holds is delivered, or will never be
	}
	c.m.untrack(c.sh.run, c.conn)
	c.m.disconnected(c.sh.run, c.st, c.cause())
	close(c.delivered)
	poke(c.sh.wake)
}

// disconnected calls OnDisconnect.
func (m *ShardManager[S]) disconnected(r *run[S], st ConnectionState, cause error) {
	if m.caps.disconnect != nil {
		m.apart("OnDisconnect", func() { m.caps.disconnect.OnDisconnect(r.late, cause, st) })
	}
}

// write is the write loop's goroutine; it also closes the connection.
func (c *session[S]) write() {
	defer close(c.written)
	defer c.closeConn()
	c.end(c.writeOut())
}

// writeOut runs the write loop and, when no more can be written, lets the reader have what the peer sent before.
func (c *session[S]) writeOut() (cause error) {
	returned := false
	defer func() {
		if !returned { // a callback left by runtime.Goexit
			c.end(&PanicError{Value: errGoexit})
		}
	}()
	err := c.writeLoop()
	returned = true
	c.passOn() // now: a callback that waits in Send keeps the reader from its end
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case c.isRetired() && c.ending.Load(): // dismissed
		c.conn.SendClose(1000, stuckGrace)
		return ErrReplaced
	case c.isRetired():
		c.conn.SendClose(1000, closeGrace)
		c.drain(c.m.cfg.Switchover.DrainTimeout)
		return ErrReplaced
	case isWriteError(err):
		// The peer closed, and its close frame may still wait behind data to be read: that is the true cause.
		c.drain(closeGrace)
	}
	return err
}

// passOn leaves what waits to be sent to the session that takes over. Without one it fails.
func (c *session[S]) passOn() {
	heir := c.heir.Load()
	if heir == nil {
		c.out.fail(ErrNotConnected)
		return
	}
	c.out.moveTo(&heir.out, ErrNotConnected)
	poke(heir.wake)
}

// drain waits until the peer has closed and all it sent was delivered, at most limit on the reader's clock: time in
// OnMessage does not count, within reason. Not positive: no limit.
func (c *session[S]) drain(limit time.Duration) {
	begin, start := time.Now(), c.conn.Signs().Clock(c.conn.Now())
	for {
		left := limit - (c.conn.Signs().Clock(c.conn.Now()) - start)
		if limit > 0 && (left <= 0 || time.Since(begin) > 10*limit) {
			return
		}
		var late <-chan time.Time
		t := time.NewTimer(max(left, time.Millisecond))
		if limit > 0 {
			late = t.C
		}
		select {
		case <-c.readDone:
		case <-c.ctx.Done():
		case <-late:
			t.Stop()
			continue
		}
		t.Stop()
		return
	}
}

// closeConn says goodbye and closes the socket.
func (c *session[S]) closeConn() {
	c.ending.Store(true)
	cause := context.Cause(c.ctx)
	if !c.isRetired() && !isAny(cause, ErrPongTimeout, ErrMessageTimeout, ErrWriteTimeout) && !isWriteError(cause) {
		c.conn.SendClose(closeCode(cause), closeGrace)
		t := time.NewTimer(closeGrace)
		select {
		case <-c.readDone:
		case <-t.C:
		case <-c.sh.run.late.Done():
		}
		t.Stop()
	}
	c.conn.Kill()
	c.carried = slices.Concat(c.applied.List(), c.applied.Leaving(), c.applied.Off())
	c.applied.Close()
	c.passOn()
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

// writeError marks an error of the socket's write side.
type writeError struct{ err error }

func (e *writeError) Error() string { return "wsshard: write: " + e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

func isWriteError(err error) bool {
	var we *writeError
	return errors.As(err, &we)
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

// mark makes a number that is not 0 of an instant on a connection's clock, for an atomic in which 0 says that there is none.
func mark(at time.Duration) int64 { return int64(at) + 1 }

// clocked is the instant that was marked.
func clocked(mark int64) time.Duration { return time.Duration(mark - 1) }

// lastFrame is when the last frame of any kind came that was not part of an unfinished message.
func (c *session[S]) lastFrame() time.Time { return c.conn.At(c.conn.Whole()) }

// lastData is when the last data came; without any, when the connection was opened.
func (c *session[S]) lastData() time.Time {
	if at := c.dataAt.Load(); at != 0 {
		return c.conn.At(clocked(at))
	}
	return c.opened
}

// isReady reports whether IsReady was true after the last request.
func (c *session[S]) isReady() bool { return c.readyAfter(c.requests.Load()) }

// readyAfter reports whether IsReady was true after the first n requests.
func (c *session[S]) readyAfter(n int64) bool { return n == 0 || c.readySeen.Load() > n }
