package wsshard

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: how does one connection live and end: its three parts, and the signals between them?
//
// A session has three parts. The reader belongs to the read loop, the writer to the write loop, and neither names a field of the
// other. The board is where each writes what others read.
//
// How a request is sent (write.go):
//
//  1. Subscribe changes the desired set, which puts a token into wake.
//  2. The write loop judges the peer's health, and takes in what was answered.
//  3. It writes at most one frame, the most urgent: a pong, a ping, what others left in the outbox, or the next request.
//  4. For a request it asks applied for the next batch, has the handler encode it, claims its topics, writes, and notes them as
//     applied.
//  5. It publishes on the board how far it has come, pokes whoever waits for that, and waits for the next reason to write.
//
// How a message is received (read.go):
//
//  1. The read loop reads a whole message, and notes ping and pong frames on the way.
//  2. It asks the handler what the message is, notes on the board that data came, and settles claims that it proves or answers.
//  3. While the session is not the one that delivers, the relay holds the message (handover.go).
//  4. Else the read loop asks for its place in the sequence, drops it if the connection before has delivered its key, and calls
//     OnMessage. Nothing is read meanwhile.
//
// Who sends what to whom:
//
//	wake       anybody → write loop: look again
//	retired    shard loop → write loop: send a close frame and write nothing more; another session takes over
//	readDone   read loop → write loop: nothing more will be read
//	written    write loop → read loop: nothing more will be written, and the socket is closed
//	delivered  read loop → shard loop: OnDisconnect has returned, the session is over
//	ctx        whoever ends the session → all of it, with the cause
//	slot.wake  both loops → shard loop: look again
//	relay.over deliverer of what was held → read loop: delivery is handed over

// errRetired ends the write loop of a session that is being replaced.
var errRetired = errors.New("wsshard: retired")

// session is one connection of one shard. Two goroutines serve it: the read loop delivers, the write loop writes
// everything. The first to fail ends the other, through ctx; the read loop's goroutine returns last.
type session[S comparable] struct {
	core   *core[S]
	slot   *slot[S]
	keeper keeper[S]
	st     ConnectionState
	log    *slog.Logger
	ctx    context.Context // of the callbacks; ended by end, read through context.Cause
	cancel context.CancelCauseFunc

	out    outbox
	claims *claims[S]
	relay  *relay[S]  // set for the next connection of a switchover
	stay   *gate.Stay // the connection, as its door sees it

	wake      chan struct{} // cap 1
	retired   chan struct{} // closed by the shard loop
	readDone  chan struct{} // closed when the read loop has ended
	written   chan struct{} // closed when the write loop has ended and the socket is closed
	delivered chan struct{} // closed after OnDisconnect: the last callback is over

	reader reader[S]
	writer writer[S]
	board

	// The shard loop says, in a switchover:
	watch atomic.Pointer[relay[S]]   // of the old one, when the dial begins; read by whoever delivers
	heir  atomic.Pointer[session[S]] // when it is retired: what is sent from now on is written there

	repeats atomic.Pointer[repeats] // keys that the connection before delivered; nil: none to look for
	loan    loan[S]

	// The write loop leaves these before it closes written.
	carried []S        // what was on then, or may have been
	off     []S        // of these, what had been unsubscribed to be asked for again
	offs    []letGo[S] // what was on, and is no more
}

// keeper is the shard, as its sessions see it.
type keeper[S comparable] interface {
	// delivers reports whether c is the session that delivers.
	delivers(c *session[S]) bool
	// notice takes a server's word that c is about to be closed.
	notice(c *session[S])
	// replaceSilent asks for c, which is silent, to be replaced; false when it must reconnect instead.
	replaceSilent(c *session[S], cause error) bool
	// replaceFull asks for a connection that has room for what the live one has none for.
	replaceFull()
	// progressed is called by the write loop of c whenever on, what it has applied, may have changed.
	progressed(c *session[S], on *reconcile.Applied[S])
	// stays takes note that topics without a subscription stay on c.
	stays(c *session[S], subs []S)
}

func newSession[S comparable](sl *slot[S], k keeper[S], st ConnectionState) *session[S] {
	c := &session[S]{
		core: sl.core, slot: sl, keeper: k, st: st,
		log:       sl.log.With("gen", st.Generation),
		wake:      make(chan struct{}, 1),
		claims:    newProof[S](sl.core.caps.acknowledger != nil, sl.core.cfg),
		retired:   make(chan struct{}),
		readDone:  make(chan struct{}),
		written:   make(chan struct{}),
		delivered: make(chan struct{}),
		board:     board{judged: judgesPongs(sl.core.cfg.Health)},
	}
	c.reader.session, c.writer.session = c, c
	c.claims.detector = sl.core.caps.ready != nil && !c.claims.acks
	c.claims.lately = c.writer.hadLately
	return c
}

// start begins to read and to write. applied is empty, so all that is desired will be written.
func (c *session[S]) start() {
	c.writer.begin()
	c.reader.begin()
	context.AfterFunc(c.ctx, func() { // while a write is stuck nobody else would look
		c.ending.Store(true)
		c.conn.SetWriteDeadline(time.Now().Add(closeGrace))
	})
	go c.reader.run()
	go c.writer.run()
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

// cause is why the session ended. It is nil while the session lives.
func (c *session[S]) cause() error {
	if c.isRetired() {
		return ErrReplaced
	}
	return context.Cause(c.ctx)
}

func (c *session[S]) isRetired() bool { return isClosed(c.retired) }

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

// loss is what is missing of a session that has ended, from an instant on.
func (c *session[S]) loss(from time.Time) *loss[S] {
	return &loss[S]{gen: c.st.Generation, from: from, held: c.heldBack(from), sure: c.sure(), carried: c.carried, offs: c.offs}
}

// rejected tells of topics that failed on this connection.
func (c *session[S]) rejected(subs []S, err error) {
	c.core.count.rejected.Add(uint64(len(subs)))
	c.log.Warn("subscriptions failed", "count", len(subs), "err", err)
	c.slot.emit(Event[S]{Kind: EventSubscriptionRejected, Generation: c.st.Generation, Err: err, Subs: subs})
}

// tellProven tells the shard's gaps which topics were proven here since it was last called, or failed. Before the session delivers
// it says nothing; promote has it say all then.
func (c *session[S]) tellProven() {
	if !c.claims.telling.Load() || !c.keeper.delivers(c) {
		return
	}
	c.slot.tellGaps(c.slot.gaps.proven(c.claims, c.st.Generation), c.st.Generation)
}

// claimTime is what claims are timed by. An answer is read by the goroutine that runs OnMessage, so the time that is spent
// there does not count against the server. Settle is nobody's fault, and counts it.
func (c *session[S]) claimTime(now time.Time) time.Time {
	if !c.claims.acks {
		return now
	}
	return c.readerTime()
}

// loan is how the write loop lends what it has applied to the shard loop, which asks for it to compare two connections. While it is
// lent the write loop writes no request, so that it stands still.
type loan[S comparable] struct {
	state   atomic.Int32
	applied *reconcile.Applied[S] // the write loop writes it while the state is loanAsked, the shard loop reads it while it is loanGiven
}

const (
	loanNone int32 = iota
	loanAsked
	loanGiven
)

// ask is called by the shard loop. news says that the write loop has not heard of it yet.
func (l *loan[S]) ask() (news bool) { return l.state.CompareAndSwap(loanNone, loanAsked) }

// give is called by the write loop; true when it was asked.
func (l *loan[S]) give(applied *reconcile.Applied[S]) bool {
	if l.state.Load() != loanAsked {
		return false
	}
	l.applied = applied
	return l.state.CompareAndSwap(loanAsked, loanGiven)
}

// isAsked tells the write loop that it is to write no request.
func (l *loan[S]) isAsked() bool { return l.state.Load() != loanNone }

// isGiven reports whether what is applied stands still.
func (l *loan[S]) isGiven() bool { return l.state.Load() == loanGiven }

// lent is what the shard loop may read now; nil: nothing.
func (l *loan[S]) lent() *reconcile.Applied[S] {
	if !l.isGiven() {
		return nil
	}
	return l.applied
}

// giveBack is called by the shard loop. news says that the write loop has not heard of it yet.
func (l *loan[S]) giveBack() (news bool) { return l.state.Swap(loanNone) != loanNone }
