package wsshard

import (
	"context"
	"sync"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: what lives between a Start and the end of its Stop?

// run is a manager between a Start and the end of its Stop, as its shards and sessions see it.
type run[S comparable] struct {
	core   *core[S]
	ctx    context.Context // ends when Stop begins
	cancel context.CancelCauseFunc
	grace  context.Context // ends when Stop has waited long enough: of the last callbacks
	giveUp context.CancelFunc
	gate   *gate.Gate
	events *events[S] // nil: nobody observes
	loops  sync.WaitGroup
	done   chan struct{} // closed when nothing of it is left

	mu    sync.Mutex // protects following fields; a leaf lock
	conns map[*wsconn.Conn]struct{}
}

// newRun begins a run. It has no gate yet.
func newRun[S comparable](ctx context.Context, c *core[S]) *run[S] {
	r := &run[S]{core: c, conns: make(map[*wsconn.Conn]struct{}), done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(c.withCallback(context.WithoutCancel(ctx)))
	r.grace, r.giveUp = context.WithCancel(context.WithoutCancel(r.ctx))
	if c.caps.observer != nil {
		r.events = newEvents[S]()
	}
	return r
}

// emit hands an event to the observer, if there is one.
func (r *run[S]) emit(ev Event[S]) {
	if r == nil || r.events == nil {
		return
	}
	if r.events.push(ev) {
		r.core.count.eventsDropped.Add(1)
	}
}

// observe starts the goroutine that calls the observer.
func (r *run[S]) observe() {
	go func() {
		r.core.label(r.ctx, "events", noShard)
		r.events.deliver(func(ev Event[S]) {
			r.core.guard("OnEvent", ev.ShardID, func() { r.core.caps.observer.OnEvent(ev) }, nil)
		})
	}()
}

// disconnected calls OnDisconnect.
func (r *run[S]) disconnected(st ConnectionState, cause error) {
	if h := r.core.caps.disconnect; h != nil {
		r.core.apart("OnDisconnect", st.ShardID, func() { h.OnDisconnect(r.grace, cause, st) })
	}
}

func (r *run[S]) track(c *wsconn.Conn) {
	r.mu.Lock()
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	if r.grace.Err() != nil { // kill has been and gone
		c.Kill()
	}
}

func (r *run[S]) untrack(c *wsconn.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// kill closes the run's sockets, and tells the last callbacks that nobody waits.
func (r *run[S]) kill() {
	r.giveUp()
	r.mu.Lock()
	conns := make([]*wsconn.Conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	for _, c := range conns {
		c.Kill()
	}
}
