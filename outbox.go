package wsshard

import (
	"context"
	"sync"
	"time"
)

// This file answers: what besides subscriptions waits to be written on a connection?

// maxReplies is how many replies to the server wait; beyond that the oldest goes.
const maxReplies = 64

// mostPings is how many pings wait for an answer each. When more come only the newest is answered after them, and so it stays
// until none has come for as long as pongs are apart.
const mostPings = 16

// pongSpacing is the least time between two pongs: a flood of pings costs no more than that. Pings that came together are
// answered together, as long as that makes no more in the long run.
const pongSpacing = 100 * time.Millisecond

// outbox holds what others want the write loop to write.
type outbox struct {
	mu      sync.Mutex    // protects following fields; under it only that of the outbox that takes over is locked
	pings   []ping        // those that are to be answered
	flooded bool          // more came than wait for an answer each: the last of pings is the newest
	ponged  time.Duration // of the last pong, on the connection's clock
	first   []Message     // from OnConnect
	replies []Message
	sends   []*send
	closed  error // no more sends
}

// ping is a ping frame of the peer's.
type ping struct {
	payload string
	came    time.Duration // on the connection's clock
}

// send is a message from Send.
type send struct {
	ctx  context.Context
	msg  Message
	done chan error // cap 1
}

// ping notes a ping frame; true when the write loop does not know of one yet.
func (o *outbox) ping(p ping) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wake = len(o.pings) == 0
	if wake && p.came-o.ponged >= pongSpacing {
		o.flooded = false
	}
	switch o.flooded = o.flooded || len(o.pings) > mostPings; {
	case !o.flooded || wake:
		o.pings = append(o.pings, p)
	default:
		o.pings[len(o.pings)-1] = p
	}
	return wake
}

// takePing takes the one that has waited longest, at now on the connection's clock.
func (o *outbox) takePing(now time.Duration) (p ping) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ponged = now
	p, o.pings = o.pings[0], o.pings[1:]
	if len(o.pings) == 0 {
		o.pings = nil
	}
	return p
}

// nextPing is the one that takePing would take, if there is one.
func (o *outbox) nextPing() (p ping, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pings) == 0 {
		return p, false
	}
	return o.pings[0], true
}

// answer queues a reply; false when an older one had to go.
func (o *outbox) answer(msg Message) (room bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	room = len(o.replies) < maxReplies
	if !room {
		o.replies = o.replies[1:]
	}
	o.replies = append(o.replies, msg)
	return room
}

// send queues a message of the application.
func (o *outbox) send(s *send) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return o.closed
	}
	o.sends = append(o.sends, s)
	return nil
}

func (o *outbox) any() bool { return o.waiting() > 0 }

// waiting is how many messages wait to be written.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.first) + len(o.replies) + len(o.sends)
}

// greets reports whether something is left that goes before all else.
func (o *outbox) greets() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.first) > 0
}

// next takes the next message: what OnConnect said, then replies, then what was sent. done hears how it went.
func (o *outbox) next() (msg Message, done func(error), ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(o.first) > 0:
		msg, o.first = o.first[0], o.first[1:]
		return msg, func(error) {}, true
	case len(o.replies) > 0:
		msg, o.replies = o.replies[0], o.replies[1:]
		return msg, func(error) {}, true
	}
	for len(o.sends) > 0 {
		s := o.sends[0]
		o.sends = o.sends[1:]
		if s.ctx.Err() != nil { // nobody waits for it any more
			s.done <- context.Cause(s.ctx)
			continue
		}
		return s.msg, func(err error) { s.done <- err }, true
	}
	return msg, nil, false
}

// fail refuses all sends, from now on too.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = err
	for _, s := range o.sends {
		s.done <- err
	}
	o.sends, o.replies, o.first = nil, nil, nil
}

// moveTo leaves the sends that wait to another outbox, in their order and before all that it is given from now on; here err
// refuses them from now on. Replies, and what OnConnect said, go: they are for the server at the other end of this connection,
// and the new one's gets its own.
func (o *outbox) moveTo(heir *outbox, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	heir.mu.Lock()
	defer heir.mu.Unlock()
	o.closed = err
	for _, s := range o.sends {
		if heir.closed != nil {
			s.done <- heir.closed
		} else {
			heir.sends = append(heir.sends, s)
		}
	}
	o.sends, o.replies, o.first = nil, nil, nil
}
