package wstest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection. Net.Conns returns client ends, Peer.Net a server end; the faults below may be asked
// for at either.
//
// A write succeeds as soon as the buffer of its direction has room, whether or not anything arrives. Bytes that were
// there before a stall may still be read during it.
type Conn struct {
	link          *link
	in, out       *stream
	local, remote memAddr
	onClose       func() // called once, after Close, without a lock; set before the first use

	// protected by link.mu
	closed bool
	reset  bool
}

var _ net.Conn = (*Conn)(nil)

// Read has the contract of net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for {
		now := c.link.now(c.in.reader.deadline)
		if err := c.broken("read", now, c.in.reader.deadline); err != nil {
			return 0, c.fail("read", err)
		}
		c.in.settle(now)
		switch {
		case c.in.arrived > 0 || len(p) == 0:
			n := c.in.take(p)
			c.in.writer.cond.Broadcast()
			return n, nil
		case c.in.fin.seen:
			return 0, io.EOF
		}
		c.in.reader.wait(c.in.nextArrival())
	}
}

// Write has the contract of net.Conn. Concurrent writes do not mix.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.link.mu.Lock()
	for c.out.busy {
		c.out.writer.cond.Wait()
	}
	c.out.busy = true
	defer func() {
		c.out.busy = false
		c.out.writer.cond.Broadcast()
		c.link.mu.Unlock()
	}()
	for {
		now := c.link.now(c.out.writer.deadline)
		if err := c.broken("write", now, c.out.writer.deadline); err != nil {
			return n, c.fail("write", err)
		}
		c.out.settle(now)
		if c.out.fin.sent || c.out.deaf.seen {
			return n, c.fail("write", os.NewSyscallError("write", syscall.EPIPE))
		}
		k := c.out.put(p, now)
		n += k
		if p = p[k:]; len(p) == 0 {
			return n, nil
		}
		c.out.writer.wait(c.out.nextRefusal())
	}
}

// Close ends both directions of this end. What it wrote still arrives, then EOF; the other end can no longer write
// once it could know. A stall holds both back.
func (c *Conn) Close() error {
	c.link.mu.Lock()
	if c.closed {
		c.link.mu.Unlock()
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	at := c.link.arrival()
	if !c.out.fin.sent {
		c.out.fin = event{sent: true, at: at}
	}
	c.in.deaf = event{sent: true, at: at}
	if c.out.deaf.sent {
		// The other end is closed too, and nobody will read any of it. Until then the bytes take up room: a writer that
		// cannot know of the close must not find some.
		c.in.drop()
		c.out.drop()
	}
	c.in.reader.stop()
	c.out.writer.stop()
	c.link.wakeAll()
	c.link.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

// CloseWrite ends the outgoing direction: the other end reads EOF after what was written.
func (c *Conn) CloseWrite() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	if !c.out.fin.sent {
		c.out.fin = event{sent: true, at: c.link.arrival()}
		c.link.wakeAll()
	}
	return nil
}

// Closed reports whether Close was called on this end.
func (c *Conn) Closed() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.closed
}

// BlackHole makes the link half-open, or heals it: nothing arrives in either direction, no end of the stream either,
// and writes succeed until the buffer is full. What was held back arrives when it heals.
func (c *Conn) BlackHole(on bool) { c.link.stall(on, c.in, c.out) }

// StallRead holds back what travels towards this end: at a client end, what the server sends.
func (c *Conn) StallRead(on bool) { c.link.stall(on, c.in) }

// StallWrite holds back what this end sends: the peer stops receiving, and writes block when the buffer is full.
func (c *Conn) StallWrite(on bool) { c.link.stall(on, c.out) }

// Reset breaks the connection at both ends, through a stall too: what was in flight is gone, and every read and write
// fails with ECONNRESET. Each end must still be closed by its owner.
func (c *Conn) Reset() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for _, end := range c.link.ends {
		end.reset = true
		end.in.drop()
	}
	c.link.wakeAll()
}

// LocalAddr returns "client:" and the number of the dial, or the address of the listener at a server end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the LocalAddr of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines. As with every net.Conn, it applies to calls that wait already.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(t, &c.in.reader, &c.out.writer)
}

// SetReadDeadline sets the deadline of Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, &c.in.reader) }

// SetWriteDeadline sets the deadline of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.out.writer) }

func (c *Conn) setDeadline(t time.Time, sides ...*side) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	for _, s := range sides {
		s.deadline = t
		s.cond.Broadcast() // whoever waits arms its alarm anew
	}
	return nil
}

// hold keeps what this end sends from arriving until it is called off, without being a fault: a write does not block
// meanwhile, and stalls stay as they are.
func (c *Conn) hold(on bool) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.out.held = on
	c.link.wakeAll()
}

// broken says why no read or write can succeed on this end any more, or not before its deadline is moved.
func (c *Conn) broken(op string, now, deadline time.Time) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.reset:
		return os.NewSyscallError(op, syscall.ECONNRESET)
	case !deadline.IsZero() && !now.Before(deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "mem", Source: c.local, Addr: c.remote, Err: err}
}

// link is the pair of directions between two ends. One lock for both: a close or a stall concerns both, and whoever
// writes on one is about to wait for the other anyway.
type link struct {
	latency time.Duration
	mu      sync.Mutex // protects the streams and the flags of both ends
	ends    [2]*Conn
}

func newLink(latency time.Duration, buffer int, clientAddr, serverAddr memAddr) (client, server *Conn) {
	l := &link{latency: latency}
	up, down := newStream(l, buffer), newStream(l, buffer)
	up.back, down.back = down, up
	client = &Conn{link: l, in: down, out: up, local: clientAddr, remote: serverAddr}
	server = &Conn{link: l, in: up, out: down, local: serverAddr, remote: clientAddr}
	l.ends = [2]*Conn{client, server}
	return client, server
}

// now returns the time if anything depends on it: neither a plain read nor a plain write asks the clock.
func (l *link) now(deadline time.Time) time.Time {
	if l.latency == 0 && deadline.IsZero() {
		return time.Time{}
	}
	return time.Now()
}

// arrival returns when what is sent now arrives; the zero time is "at once".
func (l *link) arrival() time.Time {
	if l.latency == 0 {
		return time.Time{}
	}
	return time.Now().Add(l.latency)
}

func (l *link) stall(on bool, streams ...*stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, end := range l.ends {
		end.in.settle(now) // what has arrived before the stall has arrived
	}
	for _, s := range streams {
		s.stalled = on
	}
	l.wakeAll()
}

func (l *link) wakeAll() {
	for _, end := range l.ends {
		end.in.reader.cond.Broadcast()
		end.out.writer.cond.Broadcast()
	}
}
