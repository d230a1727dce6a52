package wsshard

import (
	"context"
	"errors"
	"fmt"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: when is what was asked for true on the server?

// ErrNotSubscribed: from Sync, in a *SubscriptionError, for an item that nobody wants.
var ErrNotSubscribed = errors.New("wsshard: not subscribed")

// syncWait is one Sync call's part of one shard.
type syncWait[S comparable] struct {
	subs    []S
	next    int         // the first that is not known to be applied on session
	session *session[S] // that was asked
	errs    []error
	done    chan struct{} // closed when it is over; errs is complete then
}

// Sync waits until subs (none given: all) are applied on live connections: written, or confirmed where the handler is an
// Acknowledger. It joins one *SubscriptionError a failed topic (unwanted ones among them: ErrNotSubscribed), and
// ErrShardParked for parked shards. Before the first Start it waits for that. ErrStopped, ErrInCallback, or the cause of ctx
// end it early.
func (m *ShardManager[S]) Sync(ctx context.Context, subs ...S) error {
	if m.inCallback(ctx) {
		return ErrInCallback
	}
	waits, stop, errs := m.beginSync(subs)
	if stop == nil {
		return ErrStopped
	}
	defer func() {
		for s, w := range waits {
			s.removeWait(w)
		}
	}()
	for _, w := range waits {
		select {
		case <-w.done:
			errs = append(errs, w.errs...)
		case <-stop:
			return ErrStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

// beginSync registers with every shard that has some of subs; errs are for the others. stop is closed when the manager
// stops, nil if it is stopped.
func (m *ShardManager[S]) beginSync(subs []S) (waits map[*shard[S]]*syncWait[S], stop <-chan struct{}, errs []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == stopped || m.phase == restarting {
		return nil, nil, nil
	}
	waits = make(map[*shard[S]]*syncWait[S])
	add := func(s *shard[S], subs []S) {
		w := &syncWait[S]{subs: subs, done: make(chan struct{})}
		waits[s] = w
		s.addWait(w)
	}
	if len(subs) == 0 {
		for _, s := range m.life.shards {
			add(s, s.desired.List())
		}
		return waits, m.life.over, nil
	}
	for _, sub := range subs {
		known := false
		if m.isKey(sub) {
			_, known = m.life.table.Lookup(sub)
		}
		if !known {
			errs = append(errs, &SubscriptionError[S]{Sub: sub, Err: ErrNotSubscribed})
		}
	}
	for id, part := range m.byShardLocked(subs) {
		add(m.life.shards[id], part)
	}
	return waits, m.life.over, errs
}

// addWait registers a Sync. A parked shard answers at once.
func (s *shard[S]) addWait(w *syncWait[S]) {
	s.mu.Lock()
	s.waits = append(s.waits, w)
	s.waiting.Store(true)
	s.mu.Unlock()
	parked := false // asked after w is in: whoever parks sets the state and then fails those who wait
	s.stats.set(func(st *shardStats) { parked = st.state == ShardParked })
	if parked {
		s.failWaits(ErrShardParked)
	} else if c := s.live.Load(); c != nil {
		poke(c.wake)
	}
}

func (s *shard[S]) removeWait(w *syncWait[S]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range s.waits {
		if o == w {
			s.waits = append(s.waits[:i], s.waits[i+1:]...)
			break
		}
	}
	s.waiting.Store(len(s.waits) > 0)
}

// failWaits ends all Syncs of a shard that will not connect.
func (s *shard[S]) failWaits(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waits {
		w.errs = []error{fmt.Errorf("%w: shard %d", why, s.id)}
		close(w.done)
	}
	s.waits = nil
	s.waiting.Store(false)
}

// progressed is called by the write loop of c whenever on, what it has applied, may have changed: it answers those who wait, and frees the
// places of what is not on the connection any more.
func (s *shard[S]) progressed(c *session[S], on *reconcile.Applied[S]) {
	if s.live.Load() != c {
		return
	}
	if s.lingers.Load() { // cleared there, so that a session looks when it begins and after each Unsubscribe only
		s.places.releaseLingering(s, func(sub S) bool { _, is := on.Number(sub); return is })
	}
	if !s.waiting.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.waits[:0]
	for _, w := range s.waits {
		if w.session != c { // a new connection begins with nothing applied
			w.session, w.next, w.errs = c, 0, nil
		}
		if w.advance(c, on) {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	clear(s.waits[len(left):])
	s.waits = left
	s.waiting.Store(len(left) > 0)
}

// advance passes what is applied by now; true when that is all.
func (w *syncWait[S]) advance(c *session[S], on *reconcile.Applied[S]) bool {
	for ; w.next < len(w.subs); w.next++ {
		sub := w.subs[w.next]
		if !on.Settled(sub) {
			return false
		}
		waiting, err := c.claims.state(sub)
		if waiting && c.claims.acks {
			return false
		}
		if _, wanted := c.slot.desired.Number(sub); err != nil && wanted {
			w.errs = append(w.errs, &SubscriptionError[S]{Sub: sub, Err: err})
		}
	}
	return true
}
