package wsshard

import (
	"sync"
	"time"
)

// This file answers: what does an EventObserver hear, and in which order?

// EventKind says what an Event is about.
type EventKind int

const (
	EventConnecting           EventKind = iota // an attempt begins
	EventConnected                             // a connection is live, and none was before
	EventDisconnected                          // Err: the cause; no connection is live now
	EventBackoff                               // Delay until the next attempt; Err: of the last
	EventParked                                // the shard gave up; Subs: its topics
	EventSwitchoverStarted                     // Switchover.Trigger
	EventSwitchoverDone                        // Switchover
	EventSwitchoverFailed                      // Err, Switchover; the old connection goes on
	EventBreakerOpen                           // Door was shut, or a shard sent to its bench, and once a minute while it lasts; Delay until the probe; Err: of the dial that shut it
	EventBreakerClosed                         // Door is open again, or its bench empty
	EventSubscriptionRejected                  // Subs, Err
	EventGap                                   // From, To, Subs
	EventStopped                               // the last event

	// EventSingleConnection: Door.Reason single-connection (the host ended the old connection of two switchovers in a row when
	// the new one had come: from now on switchovers at that door close first, and routine ones stop), connections (it refused
	// the new one of two in a row though the old one lived: routine ones wait a quarter of their interval) or displacing (two
	// shards end each other's connections, three times in a row: they seem to use one key).
	EventSingleConnection EventKind = 18
)

// String returns the kind in words: "switchover-done".
func (k EventKind) String() string {
	if k == EventSingleConnection {
		return "single-connection"
	}
	return name(k, "connecting", "connected", "disconnected", "backoff", "parked", "switchover-started", "switchover-done",
		"switchover-failed", "breaker-open", "breaker-closed", "subscription-rejected", "gap", "stopped")
}

// Event is something that happened. A slow observer loses the oldest, counted in Metrics.EventsDropped; Gap, Parked and
// SubscriptionRejected are merged with an earlier one of their shard instead, never lost.
//
// A Gap runs from the arrival of the last frame of any kind on the old connection, less Config.Switchover.Linger, to the moment
// at which the last of its topics was proven on a new one, had failed there, or was wanted no more; it is sent then. There is one
// for every connection that was lost, every silent one that was replaced, every cutover without proof or with a drain that
// failed, where a topic was on; and for topics that the library itself unsubscribed to ask for them again. Subs are all that
// were on since From, also those that were unsubscribed meanwhile, and those whose unsubscription was not answered, though an
// Acknowledger would have told, since Sure; what came later neither belongs to it nor holds it up.
//
// What was missed lies between Sure and To. Sure is the writing of the last ping that was answered, less Linger (the
// connection's beginning, if there was none): the network may have held back what the server sent before From, but what it
// sent before Sure has come. A backfill by the server's own times begins there. While a shard has no connection, topics that
// are unsubscribed take their part of its Gap along, which is told at once; and Stop ends all that are open. What was under way
// when Stop came is in none.
type Event[S comparable] struct {
	Kind       EventKind
	ShardID    int               // -1: none
	Generation uint64            // of the connection; 0: there is none, or the event is of no one connection
	Time       time.Time         // when it happened; heard later by a slow observer
	Err        error             // why, where EventKind says so
	Delay      time.Duration     // of EventBackoff and EventBreakerOpen
	Attempt    int               // failures in a row, of dials and of connections that were not stable; of EventConnecting: one more
	From, To   time.Time         // of EventGap
	Sure       time.Time         // of EventGap: before it nothing is missing, whatever the network held back; not after From
	Subs       []S               // of EventParked, EventSubscriptionRejected and EventGap; belongs to the observer
	Switchover *SwitchoverReport // nil but for Switchover*
	Door       *DoorReport       // nil but for Breaker* and SingleConnection; belongs to the observer
}

// SwitchoverReport says how a switchover went.
type SwitchoverReport struct {
	Trigger string // call, lifetime, data-timeout, pong-timeout, notice, capacity
	// Proof is what showed that the new connection delivers: keys, acks, settle, or none, and then there is a Gap. It is none
	// where Timeout or a full hold skipped Linger or keys, where the old connection was silent, and where it was lost.
	Proof string
	// Dial: until the new connection was open. Ready: from then until all was proven on it. Overlap: from then to the
	// cutover. Drain: from the cutover until the old connection had delivered its last.
	Dial, Ready, Overlap, Drain time.Duration
	Held                        int // messages that waited for the cutover
	Dropped                     int // of those, duplicates of what the old connection delivered
}

// maxEvents is how many events wait for a slow observer.
const maxEvents = 1024

// events is the queue between the manager and its observer.
type events[S comparable] struct {
	wake chan struct{} // cap 1; a token when there may be something, or the end
	done chan struct{} // closed when all is delivered after close

	mu    sync.Mutex // protects following fields; a leaf lock
	queue []Event[S]
	over  bool // nothing more will come
}

func newEvents[S comparable]() *events[S] {
	return &events[S]{wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (q *events[S]) push(ev Event[S]) (dropped bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ev.Time = time.Now()
	if len(q.queue) >= maxEvents {
		if keep(ev.Kind) && q.mergeLocked(ev) {
			return false
		}
		dropped = q.dropLocked()
		if !dropped && !keep(ev.Kind) { // nothing but events that are kept: the new one goes
			return true
		}
	}
	q.queue = append(q.queue, ev)
	poke(q.wake)
	return dropped
}

func keep(k EventKind) bool {
	return k == EventGap || k == EventParked || k == EventSubscriptionRejected || k == EventStopped
}

// dropLocked drops the oldest event that may be dropped.
func (q *events[S]) dropLocked() bool {
	for i, ev := range q.queue {
		if !keep(ev.Kind) {
			q.queue = append(q.queue[:i], q.queue[i+1:]...)
			return true
		}
	}
	return false
}

// mergeLocked adds ev to an event of the same kind and shard.
func (q *events[S]) mergeLocked(ev Event[S]) bool {
	for i := range q.queue {
		old := &q.queue[i]
		if old.Kind != ev.Kind || old.ShardID != ev.ShardID {
			continue
		}
		if ev.From.Before(old.From) {
			old.From = ev.From
		}
		if ev.To.After(old.To) {
			old.To = ev.To
		}
		if ev.Sure.Before(old.Sure) {
			old.Sure = ev.Sure
		}
		known := make(map[S]bool, len(old.Subs))
		for _, s := range old.Subs {
			known[s] = true
		}
		for _, s := range ev.Subs {
			if !known[s] {
				old.Subs = append(old.Subs, s)
			}
		}
		old.Time, old.Generation, old.Attempt = ev.Time, ev.Generation, ev.Attempt
		if ev.Err != nil {
			old.Err = ev.Err
		}
		return true
	}
	return false
}

func (q *events[S]) pop() (ev Event[S], ok, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.queue = nil
		return ev, false, q.over
	}
	ev = q.queue[0]
	q.queue = q.queue[1:]
	return ev, true, false
}

// close lets deliver return when all is delivered.
func (q *events[S]) close() {
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	poke(q.wake)
}

// deliver hands events to on, one by one, until close. An observer that leaves by runtime.Goexit takes this goroutine
// along: the next one goes on where it was.
func (q *events[S]) deliver(on func(Event[S])) {
	over := false
	defer func() {
		if over {
			close(q.done)
		} else {
			go q.deliver(on)
		}
	}()
	for !over {
		var ev Event[S]
		var ok bool
		if ev, ok, over = q.pop(); ok {
			on(ev)
		} else if !over {
			<-q.wake
		}
	}
}
