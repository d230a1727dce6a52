package wsshard

import (
	"slices"
	"sync"
	"time"
)

// This file answers: which messages of a new connection wait for the cutover, and which keys prove that it may come?

// relay is shared by the two connections of a switchover. While the old one delivers, what the new one receives is held in
// order; a held message whose key the old one delivers is let go. After the cutover a goroutine delivers what is held,
// while the new one's read loop still adds to it, until nothing is left: from then on the read loop delivers by itself.
type relay[S comparable] struct {
	most      int  // messages held, and keys remembered; not positive: no limit
	mostBytes int  // not positive: no limit
	keep      bool // duplicates are held too, because a SequenceValidator must see them
	wake      chan struct{}
	room      chan struct{} // cap 1; a token when the read loop that waits in hold is to look again
	over      chan struct{} // closed when delivery is handed over, or will never be

	mu          sync.Mutex // protects following fields; under it only the lock of the connection's clock is taken
	phase       relayPhase
	first, last *heldMessage[S] // in the order of arrival
	count       int
	bytes       int
	blocked     bool                       // the new connection's read loop waits in hold
	full        bool                       // it does before the cutover, and nothing has made room since
	clock       func(run bool)             // of the new connection's reader; nil: not started yet
	ticks       bool                       // that clock runs, although the reader is not in Read
	dataAt      time.Time                  // when data came first that the old connection has not delivered; zero: none
	total       int                        // messages that were held
	dropped     int                        // duplicates among them
	twice       int                        // keys that the new connection brought again
	keys        map[string]struct{}        // delivered by the old connection
	order       []string                   // the same, oldest first
	waiting     map[string]*heldMessage[S] // the newest that is held with a key
	keyed       int                        // messages with a key that the new connection received

	armed   bool                // the new connection is ready: what follows is the proof by keys
	need    map[string]struct{} // keys that the old connection must deliver
	later   bool                // the new connection had brought no key by then: the first key that it brings must be delivered
	since   time.Time           // one key is enough that the new connection received since then; zero: all are needed
	matched time.Time           // when the newest message came that the old connection has delivered, too
}

type relayPhase int

const (
	holding relayPhase = iota
	flushing
	direct
)

type heldMessage[S comparable] struct {
	msg        Message
	v          Verdict[S]
	from       brink     // of a loss that begins with it
	came       time.Time // with a key, before the cutover
	dup        bool      // the old connection has delivered it: held for the SequenceValidator only
	prev, next *heldMessage[S]
	same       *heldMessage[S] // held before it with the same key
}

func newRelay[S comparable](cfg SwitchoverConfig, keep bool, wake chan struct{}) *relay[S] {
	return &relay[S]{
		most: cfg.HoldMessages, mostBytes: cfg.HoldBytes, keep: keep, wake: wake,
		room: make(chan struct{}, 1), over: make(chan struct{}),
		keys: make(map[string]struct{}), waiting: make(map[string]*heldMessage[S]),
	}
}

type offer int

const (
	offerHeld offer = iota
	offerDirect
	offerFull
)

// offer holds a message of the new connection, if there is room and still a reason to.
func (r *relay[S]) offer(msg Message, v *Verdict[S], from brink) offer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == direct {
		r.blockLocked(false)
		return offerDirect
	}
	key := v.Key
	if r.phase == flushing { // the new connection looks for repeats itself by now
		key = ""
	}
	_, dup := r.keys[key]
	var now time.Time
	if brings := !v.NoData && !dup && r.dataAt.IsZero(); key != "" || brings {
		if now = time.Now(); brings {
			r.dataAt = now
			poke(r.wake)
		}
	}
	letGo := dup && !r.keep
	full := !letGo && !r.roomLocked(len(msg.Data))
	r.full = full && r.phase == holding
	r.blockLocked(full)
	if full {
		poke(r.wake)
		return offerFull
	}
	r.total++
	if key != "" {
		r.keyedLocked(key, dup, now)
	}
	if dup {
		r.dropped++
	}
	if letGo {
		return offerHeld
	}
	h := &heldMessage[S]{msg: msg, v: *v, from: from, dup: dup, came: now}
	if h.v.Subs = nil; r.keep { // valid until the next call only
		h.v.Subs = slices.Clone(v.Subs)
	}
	if key != "" && !dup {
		if h.same = r.waiting[key]; h.same != nil {
			r.twice++
		}
		r.waiting[key] = h
	}
	r.pushLocked(h)
	return offerHeld
}

// blockLocked notes whether the read loop waits in hold. Its clock stands still there while the shard loop decides or
// flush is in a callback. When delivery is the read loop's again nothing excuses a wait: then the clock runs, so that health
// sees a reader that nobody woke.
func (r *relay[S]) blockLocked(blocked bool) {
	r.blocked = blocked
	if run := blocked && r.phase == direct; run != r.ticks && r.clock != nil {
		r.ticks = run
		r.clock(run)
	}
}

// wakeLocked has the read loop that waits in hold look again. Whatever makes room, or a reason to need none, or ends the
// hold, calls it.
func (r *relay[S]) wakeLocked() {
	if r.full = false; r.blocked {
		poke(r.room)
	}
}

// enterLocked begins a phase.
func (r *relay[S]) enterLocked(phase relayPhase) {
	r.phase = phase
	r.wakeLocked()
	r.blockLocked(r.blocked)
}

// leave says that the read loop waits in hold no more: its session has ended.
func (r *relay[S]) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blockLocked(false)
}

// timedBy gives the relay the clock of the new connection's reader.
func (r *relay[S]) timedBy(clock func(run bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = clock
}

func (r *relay[S]) roomLocked(size int) bool {
	return (r.most <= 0 || r.count < r.most) && (r.mostBytes <= 0 || r.count == 0 || r.bytes+size <= r.mostBytes)
}

// keyedLocked notes that the new connection received a key; dup: the old one has delivered it.
func (r *relay[S]) keyedLocked(key string, dup bool, now time.Time) {
	if r.keyed++; dup {
		r.matchLocked(now)
	}
	if r.armed && r.later {
		r.later = false
		if !dup {
			r.need[key] = struct{}{}
		}
		poke(r.wake)
	}
}

// matchLocked notes that both connections brought a key, which came on the new one at that instant.
func (r *relay[S]) matchLocked(came time.Time) {
	if came.Before(r.matched) {
		return
	}
	if r.armed && r.matched.Before(r.since) && !came.Before(r.since) {
		poke(r.wake)
	}
	r.matched = came
}

func (r *relay[S]) pushLocked(h *heldMessage[S]) {
	if h.prev = r.last; h.prev != nil {
		h.prev.next = h
	} else {
		r.first = h
	}
	r.last = h
	r.count++
	r.bytes += len(h.msg.Data)
}

func (r *relay[S]) removeLocked(h *heldMessage[S]) {
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		r.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		r.last = h.prev
	}
	r.count--
	r.bytes -= len(h.msg.Data)
	r.wakeLocked()
}

// delivered notes a key that the old connection delivers now; again when it did so before.
func (r *relay[S]) delivered(key string) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase != holding { // the switchover failed as the old connection's read loop was on its way here
		return false
	}
	if _, again = r.keys[key]; again {
		return true
	}
	r.keys[key] = struct{}{}
	r.order = append(r.order, key)
	if r.most > 0 && len(r.order) > r.most {
		delete(r.keys, r.order[0])
		r.order = r.order[1:]
	}
	if h := r.waiting[key]; h != nil {
		r.matchLocked(h.came)
	}
	for h := r.waiting[key]; h != nil; h = h.same {
		h.dup = true
		r.dropped++
		if !r.keep {
			r.removeLocked(h)
		}
	}
	delete(r.waiting, key)
	r.wakeLocked() // the message that waits may be this one
	if _, ok := r.need[key]; ok {
		delete(r.need, key)
		poke(r.wake)
	}
	return false
}

// arm begins the proof by keys, when the new connection is ready. The old one must deliver all keys that are held. It cannot do so if
// the new one brings topics that the old one does not bring, or did not bring in time: then one key that the new one received after
// since is enough, too.
func (r *relay[S]) arm(since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.later, r.need, r.since = true, r.keyed == 0, make(map[string]struct{}, len(r.waiting)), since
	for key := range r.waiting {
		r.need[key] = struct{}{}
	}
}

// overlapped reports whether the old connection has delivered all keys that the proof asks for. used says that there are keys at all.
// Without any the proof asks for none.
func (r *relay[S]) overlapped() (met, used bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	used = r.keyed > 0 || len(r.order) > 0
	all := !r.later && len(r.need) == 0
	one := !r.since.IsZero() && !r.matched.Before(r.since)
	return r.armed && (!used || all || one), used
}

// holds says whether the read loop waits for room, and since when there is data that only the new connection brought.
func (r *relay[S]) holds() (full bool, dataAt time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full, r.dataAt
}

// counts is what a SwitchoverReport says of held messages. twice: keys that the new connection brought again.
func (r *relay[S]) counts() (held, dropped, twice int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total, r.dropped, r.twice
}

// discard ends a switchover that failed: nothing held is delivered.
func (r *relay[S]) discard() {
	r.mu.Lock()
	r.first, r.last, r.count, r.bytes = nil, nil, 0, 0
	r.keys, r.order, r.waiting, r.need = nil, nil, nil, nil
	r.enterLocked(direct)
	r.mu.Unlock()
	close(r.over)
}

// release begins to hand out what is held. The keys go to the new connection, which goes on to look for repeats.
func (r *relay[S]) release() (keys map[string]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys = r.keys
	r.keys, r.order, r.waiting, r.need = nil, nil, nil, nil
	r.enterLocked(flushing)
	return keys
}

// take returns the next held message; nil when delivery is the read loop's from now on.
func (r *relay[S]) take() *heldMessage[S] {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.first
	if h == nil {
		r.enterLocked(direct)
		return nil
	}
	r.removeLocked(h)
	h.next, h.same = nil, nil
	return h
}
