package wstest

import (
	"context"
	"net"
	"sync"
)

// backlog is how many connections wait for Accept before a dial does.
const backlog = 128

// Listener is a net.Listener on a Net.
type Listener struct {
	net   *Net
	addr  memAddr
	queue chan *Conn
	done  chan struct{} // closed by Close

	mu     sync.Mutex // protects the following
	closed bool
	ends   map[*Conn]struct{} // server ends dialled through this listener and not closed yet
}

func newListener(n *Net, addr string) *Listener {
	return &Listener{
		net:   n,
		addr:  memAddr(addr),
		queue: make(chan *Conn, backlog),
		done:  make(chan struct{}),
		ends:  make(map[*Conn]struct{}),
	}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "mem", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close refuses dials from now on and resets the connections nobody has accepted. Accepted ones stay.
func (l *Listener) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return &net.OpError{Op: "close", Net: "mem", Addr: l.addr, Err: net.ErrClosed}
	}
	l.net.unlisten(l)
	close(l.done)
	l.drain()
	return nil
}

// Addr returns the address given to Listen.
func (l *Listener) Addr() net.Addr { return l.addr }

// enqueue hands a server end to Accept.
func (l *Listener) enqueue(ctx context.Context, server *Conn) error {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.ends[server] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		return errRefused
	}
	select {
	case l.queue <- server:
		// Close may have drained the queue between the check above and the send. Then done is closed by now, and
		// draining again leaves no client connected to nobody. If it is not closed yet, Close drains later.
		select {
		case <-l.done:
			l.drain()
		default:
		}
		return nil
	case <-l.done:
		l.forget(server)
		return errRefused
	case <-ctx.Done():
		l.forget(server)
		return ctx.Err()
	}
}

func (l *Listener) drain() {
	for {
		select {
		case c := <-l.queue:
			c.Reset()
			c.Close()
		default:
			return
		}
	}
}

func (l *Listener) forget(server *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ends, server)
}

// closeAll closes every server end, in whatever phase it is. After Close it leaves none behind.
func (l *Listener) closeAll() {
	l.mu.Lock()
	ends := make([]*Conn, 0, len(l.ends))
	for c := range l.ends {
		ends = append(ends, c)
	}
	l.mu.Unlock()
	for _, c := range ends {
		c.Close()
	}
}
