package wsshard

import (
	"sync"
	"time"
)

// This file answers: how do two connections of a shard hand over delivery, with nothing lost and nothing twice?

// relay is shared by the two connections of a switchover. While the old one delivers, what the new one receives is held in
// order; a held message whose key the old one delivers is let go. After the cutover a goroutine delivers what is held,
// while the new one's read loop still adds to it, until nothing is left: from then on the read loop delivers by itself.
type relay[S comparable] struct {
	most      int  // messages held, and keys remembered; not positive: no limit
	mostBytes int  // not positive: no limit
	keep      bool // duplicates are held too: a SequenceValidator must see them
	wake      chan struct{}
	room      chan struct{} // cap 1; a token when a full relay has room again
	over      chan struct{} // closed when delivery is handed over, or will never be

	mu      sync.Mutex // protects following fields; a leaf lock
	phase   relayPhase
	held    []heldMessage[S]
	gone    int // taken from the front of held so far
	bytes   int
	full    bool
	total   int                 // messages that were held
	dropped int                 // duplicates among them
	keys    map[string]struct{} // delivered by the old connection
	order   []string            // the same, oldest first
	waiting map[string]int      // keys that are held, by their place counted from the first message ever held
	keyed   int                 // messages with a key that the new connection received

	armed bool                // the new connection is ready: what follows is the proof by keys
	need  map[string]struct{} // keys that the old connection must deliver
	later bool                // nothing with a key was held then: the first one that comes counts
}

type relayPhase int

const (
	holding relayPhase = iota
	flushing
	direct
)

type heldMessage[S comparable] struct {
	msg Message
	v   Verdict[S]
	dup bool
}

func newRelay[S comparable](cfg SwitchoverConfig, keep bool, wake chan struct{}) *relay[S] {
	return &relay[S]{
		most: cfg.HoldMessages, mostBytes: cfg.HoldBytes, keep: keep, wake: wake,
		room: make(chan struct{}, 1), over: make(chan struct{}),
		keys: make(map[string]struct{}), waiting: make(map[string]int),
	}
}

type offer int

const (
	offerHeld offer = iota
	offerDirect
	offerFull
)

// offer holds a message of the new connection, if there is room and still a reason to.
func (r *relay[S]) offer(msg Message, v *Verdict[S], clone bool) offer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == direct {
		return offerDirect
	}
	if r.most > 0 && len(r.held) >= r.most || r.mostBytes > 0 && r.bytes > 0 && r.bytes+len(msg.Data) > r.mostBytes {
		r.full = true
		poke(r.wake)
		return offerFull
	}
	h := heldMessage[S]{msg: msg, v: *v}
	h.v.Subs = nil // valid until the next call only
	r.total++
	if v.Key != "" {
		r.keyed++
		_, h.dup = r.keys[v.Key]
		if r.armed && r.later {
			r.later = false
			if !h.dup {
				r.need[v.Key] = struct{}{}
			}
			poke(r.wake)
		}
	}
	if h.dup {
		r.dropped++
		if !r.keep {
			return offerHeld // let go
		}
	} else if v.Key != "" {
		r.waiting[v.Key] = r.gone + len(r.held)
	}
	if clone {
		h.msg = msg.Clone()
	}
	r.held = append(r.held, h)
	r.bytes += len(msg.Data)
	return offerHeld
}

// delivered notes a key that the old connection delivers now; again when it did so before.
func (r *relay[S]) delivered(key string) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again = r.keys[key]; again {
		return true
	}
	r.keys[key] = struct{}{}
	r.order = append(r.order, key)
	if r.most > 0 && len(r.order) > r.most {
		delete(r.keys, r.order[0])
		r.order = r.order[1:]
	}
	if at, ok := r.waiting[key]; ok {
		delete(r.waiting, key)
		h := &r.held[at-r.gone]
		h.dup = true
		r.dropped++
		if !r.keep {
			r.bytes -= len(h.msg.Data)
			h.msg = Message{}
		}
	}
	if _, ok := r.need[key]; ok {
		delete(r.need, key)
		poke(r.wake)
	}
	return false
}

// arm begins the proof by keys: the new connection is ready.
func (r *relay[S]) arm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.later, r.need = true, r.keyed == 0, make(map[string]struct{}, len(r.waiting))
	for key := range r.waiting {
		r.need[key] = struct{}{}
	}
}

// overlapped reports whether the old connection has delivered all that the proof asks for. used: there are keys at all;
// without any there is nothing to ask for.
func (r *relay[S]) overlapped() (met, used bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	used = r.keyed > 0 || len(r.order) > 0
	return r.armed && (!used || !r.later && len(r.need) == 0), used
}

func (r *relay[S]) isFull() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}

// counts is what a SwitchoverReport says of held messages.
func (r *relay[S]) counts() (held, dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total, r.dropped
}

// discard ends a switchover that failed: nothing held is delivered.
func (r *relay[S]) discard() {
	r.mu.Lock()
	r.phase, r.held, r.keys, r.order, r.waiting = direct, nil, nil, nil, nil
	r.mu.Unlock()
	close(r.over)
}

// release begins to hand out what is held. The keys go to the new connection, which goes on to look for repeats.
func (r *relay[S]) release() (keys map[string]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = flushing
	keys = r.keys
	r.keys, r.order, r.waiting, r.need = nil, nil, nil, nil
	return keys
}

// take returns the next held message; false when delivery is the read loop's from now on.
func (r *relay[S]) take() (h heldMessage[S], ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.held) > 0 {
		h = r.held[0]
		r.held[0] = heldMessage[S]{}
		r.held, r.gone = r.held[1:], r.gone+1
		r.bytes -= len(h.msg.Data)
		poke(r.room)
		if !h.dup || r.keep {
			return h, true
		}
	}
	r.phase, r.held = direct, nil
	return h, false
}

// hold keeps a message of the new connection until its turn; false when it may be delivered now.
func (c *session[S]) hold(msg Message, v *Verdict[S]) bool {
	for {
		switch c.relay.offer(msg, v, c.m.cfg.Connection.LowLatencyMode) {
		case offerHeld:
			return true
		case offerDirect:
			c.live = true
			return c.ending.Load()
		}
		select { // full: the peer feels back-pressure until the shard's loop has decided
		case <-c.relay.room:
		case <-c.ctx.Done():
			return true
		}
	}
}

// flush delivers what was held; then the read loop goes on by itself.
func (c *session[S]) flush() {
	defer close(c.relay.over)
	ctx := c.ctx
	if c.m.caps.sequence != nil {
		c.m.guard("ResetSequenceState", func() { c.m.caps.sequence.ResetSequenceState(c.st) }, c.end)
	}
	for {
		h, ok := c.relay.take()
		if !ok {
			return
		}
		if c.ctx.Err() != nil { // the connection is lost already, but this it did deliver
			if ctx = c.sh.run.ctx; ctx.Err() != nil {
				continue
			}
		}
		var where string
		c.m.guard("OnMessage", func() { c.deliver(ctx, h.msg, &h.v, &where) }, c.end)
	}
}

// repeats are the keys that the connection before delivered. Whoever delivers owns it.
type repeats struct {
	keys  map[string]struct{}
	until time.Duration // on the new connection's clock
}

// repeated reports whether the connection before has delivered this key, and tells the one after that we did.
func (c *session[S]) repeated(key string) bool {
	if r := c.repeats; r != nil {
		if _, ok := r.keys[key]; ok {
			delete(r.keys, key)
			return true
		}
	}
	if r := c.watch.Load(); r != nil && r.delivered(key) {
		c.m.count.duplicateKeys.Add(1)
	}
	return false
}
