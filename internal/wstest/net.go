package wstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// DefaultBuffer is how many bytes a direction of a connection holds unless SetBuffer says otherwise.
const DefaultBuffer = 64 << 10

// Net is a network: a set of listeners and the connections dialled to them.
type Net struct {
	open atomic.Int64 // client ends not closed

	mu        sync.Mutex // protects the following
	listeners map[string]*Listener
	latency   time.Duration
	buffer    int
	onDial    func(ctx context.Context, k int, addr string) error
	dials     []time.Time
	conns     []*Conn
}

// NewNet returns a network without listeners, latency or faults.
func NewNet() *Net {
	return &Net{listeners: make(map[string]*Listener), buffer: DefaultBuffer}
}

// SetLatency sets how long bytes travel one way, on connections dialled from now on. Dialling itself takes no time.
func (n *Net) SetLatency(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = d
}

// SetBuffer sets how many bytes each direction takes before a write blocks, on connections dialled from now on.
func (n *Net) SetBuffer(bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buffer = max(bytes, 1)
}

// OnDial installs a hook that runs before each dial, k counting from 1, in the goroutine that dials. An error refuses
// the dial; waiting for ctx is a host that never answers. Nil removes it.
func (n *Net) OnDial(f func(ctx context.Context, k int, addr string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onDial = f
}

// Listen returns a listener for addr, a string that dials must match exactly. One that was there is closed.
func (n *Net) Listen(addr string) *Listener {
	l := newListener(n, addr)
	n.mu.Lock()
	old := n.listeners[addr]
	n.listeners[addr] = l
	n.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return l
}

// DialContext has the shape of net.Dialer's. It is refused when nobody listens on addr, and waits when the backlog of
// the listener is full. Every error is a *net.OpError.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	k, hook := n.beginDial()
	refuse := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: memAddr(addr), Err: err}
	}
	if hook != nil {
		if err := hook(ctx, k, addr); err != nil {
			return refuse(err)
		}
	}
	if err := ctx.Err(); err != nil {
		return refuse(err)
	}
	n.mu.Lock()
	l, latency, buffer := n.listeners[addr], n.latency, n.buffer
	n.mu.Unlock()
	if l == nil {
		return refuse(errRefused)
	}
	client, server := newLink(latency, buffer, memAddr(fmt.Sprintf("client:%d", k)), memAddr(addr))
	client.onClose = func() { n.open.Add(-1) }
	server.onClose = func() { l.forget(server) }
	if err := l.enqueue(ctx, server); err != nil {
		return refuse(err)
	}
	n.open.Add(1)
	n.mu.Lock()
	n.conns = append(n.conns, client)
	n.mu.Unlock()
	return client, nil
}

// Dials returns how many dials have begun, whatever became of them.
func (n *Net) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dials)
}

// DialTimes returns when each dial began.
func (n *Net) DialTimes() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

// Conns returns the client ends of all connections ever made, oldest first.
func (n *Net) Conns() []*Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.conns)
}

// Open returns how many client ends have not been closed by the client. A connection that was reset or ended by the
// server counts until then, as a file descriptor does.
func (n *Net) Open() int { return int(n.open.Load()) }

func (n *Net) beginDial() (k int, hook func(context.Context, int, string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials = append(n.dials, time.Now())
	return len(n.dials), n.onDial
}

// unlisten forgets l, unless another listener has taken its address since.
func (n *Net) unlisten(l *Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[string(l.addr)] == l {
		delete(n.listeners, string(l.addr))
	}
}

var errRefused error = os.NewSyscallError("connect", syscall.ECONNREFUSED)

// memAddr is an address on a Net.
type memAddr string

func (a memAddr) Network() string { return "mem" }
func (a memAddr) String() string  { return string(a) }
