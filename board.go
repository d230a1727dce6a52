package wsshard

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: what do a session's loops tell others?

// board is where each loop of a session writes what others read. Instants are on the connection's clock; of those that are
// marked, 0 says that there is none.
type board struct {
	conn   *wsconn.Conn
	opened time.Time // set before the loops start
	judged bool      // a pong that does not come has consequences

	ending atomic.Bool // nothing more is delivered. Whoever ends the session says so

	// The read loop says:
	dataAt     atomic.Int64 // marked: when the last data came
	readyAt    atomic.Int64 // when IsReady was true first after the last request
	readySeen  atomic.Int64 // requests written when IsReady was true last, plus 1
	rtt        atomic.Int64
	answeredAt atomic.Int64 // marked: the writing of the last ping that was answered
	warned     atomic.Int64 // how old the connection was when the last notice came that nobody has heeded, plus 1 ns; 0: none came
	readToEnd  atomic.Bool  // it was read until the peer closed it
	openUntil  atomic.Int64 // marked: until when the peer had certainly not closed, where the reader was behind; 0: until the reader saw it close
	unread     atomic.Int64 // since when messages may be undelivered; 0: none is. Whoever delivers says so
	unreadSure atomic.Int64 // answeredAt when the first of them came, plus 1. Written before unread

	// The write loop says:
	settledUpTo atomic.Uint64 // touches that are settled here
	caughtUp    atomic.Bool   // nothing is left to write
	requests    atomic.Int64  // written
	wroteAt     atomic.Int64  // the last request until all was written for the first time, and repetitions since
	pinged      pinged        // pings without an answer
	silentAt    atomic.Int64  // marked: what gapFrom said when health found the connection silent; 0: it was not, or it has data again
	dataThen    atomic.Int64  // dataAt when it was found silent
}

// revived reports whether a session that was found silent has brought data since.
func (b *board) revived() bool {
	return b.silentAt.Load() == 0 || b.dataAt.Load() != b.dataThen.Load()
}

// closedBefore reports whether the peer may have closed before then, unseen by a reader that was behind.
func (b *board) closedBefore(at time.Time) bool {
	until := b.openUntil.Load()
	return until != 0 && b.conn.At(clocked(until)).Before(at)
}

// brink is where a loss may begin. The reader knows it before it handles a message.
type brink struct {
	read     time.Duration // until when all had been read as it came, on the connection's clock
	answered int64         // marked: the writing of the last ping that was answered by then; 0: none was
}

func (b *board) brink() brink { return brink{b.conn.Signs().Idle, b.answeredAt.Load()} }

// leaveUnread notes that messages may be lost unread, the first of which came at that brink. The earliest one counts.
func (b *board) leaveUnread(from brink) {
	lower(&b.unreadSure, from.answered+1)
	lower(&b.unread, max(1, int64(from.read)))
}

// lower sets a to at, unless it is less and not 0.
func lower(a *atomic.Int64, at int64) {
	for was := a.Load(); was == 0 || at < was; was = a.Load() {
		if a.CompareAndSwap(was, at) {
			return
		}
	}
}

// isReady reports whether IsReady was true after the last request.
func (b *board) isReady() bool { return b.readyAfter(b.requests.Load()) }

// readyAfter reports whether IsReady was true after the first n requests.
func (b *board) readyAfter(n int64) bool { return n == 0 || b.readySeen.Load() > n }

// readerTime is a point in time on the reader's clock.
func (b *board) readerTime() time.Time { return b.conn.At(b.readerClock()) }

func (b *board) readerClock() time.Duration { return b.conn.Signs().Clock(b.conn.Now()) }

// lastFrame is when the last frame of any kind came that was not part of an unfinished message.
func (b *board) lastFrame() time.Time { return b.conn.At(b.conn.Whole()) }

// lastData is when the last data came. Without any it is when the connection was opened.
func (b *board) lastData() time.Time {
	if at := b.dataAt.Load(); at != 0 {
		return b.conn.At(clocked(at))
	}
	return b.opened
}

// gapFrom returns the earliest instant from which messages of a connection that ended for cause may be missing, apart from the
// server's skew. As a rule that is when the last complete frame came: if a fragmented message was cut off, all of it is missing.
// After a data timeout it is the last data, because pongs prove nothing about data. Where a slow handler left something unread,
// it is the moment until which all had been read: what the peer sent since may be lost, though the last frame was read later
// than it was sent.
func (b *board) gapFrom(cause error) time.Time {
	if at := b.silentAt.Load(); at != 0 { // as it was found then; in its drain it may have come back for a moment
		return b.conn.At(clocked(at))
	}
	if errors.Is(cause, ErrDataTimeout) {
		return b.lastData()
	}
	last := b.lastFrame()
	if at := b.unread.Load(); at != 0 && b.conn.At(time.Duration(at)).Before(last) {
		return b.conn.At(time.Duration(at))
	}
	return last
}

// earliest returns an instant that no loss of this connection from now on begins before, apart from the server's skew. needsData
// says that it ends when no data comes for long.
func (b *board) earliest(needsData bool) time.Time {
	from := b.lastFrame()
	if signs := b.conn.Signs(); !signs.Current {
		from = first(from, b.conn.At(signs.Idle))
	}
	if at := b.unread.Load(); at != 0 {
		from = first(from, b.conn.At(time.Duration(at)))
	}
	if needsData {
		from = first(from, b.lastData())
	}
	return b.heldBack(from)
}

// heldBack returns the earliest instant at which a topic may have been on whose messages the network held back and lost.
// Where nobody judges pongs it knows none: there the server may never answer a ping.
func (b *board) heldBack(from time.Time) time.Time {
	if b.judged {
		return first(from, b.sure())
	}
	return from
}

// sure returns the instant before which nothing of this connection is missing, whatever the network held back: the peer has
// answered a ping that was written then, and what it sent before its answer has come before it. An answer behind a message that was
// left unread says nothing.
func (b *board) sure() time.Time {
	at := b.answeredAt.Load()
	if unread := b.unreadSure.Load(); unread != 0 {
		at = min(at, unread-1)
	}
	if at != 0 {
		return b.conn.At(clocked(at))
	}
	return b.opened
}
