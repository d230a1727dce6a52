package wsshard

import (
	"context"
	"sync"
)

// This file answers: what besides subscriptions waits to be written on a connection?

// maxReplies is how many replies to the server wait; beyond that the oldest goes.
const maxReplies = 64

// mostPings is how many pings wait for an answer each; beyond that only the newest is answered.
const mostPings = 16

// outbox holds what others want the write loop to write.
type outbox struct {
	mu      sync.Mutex // protects following fields; a leaf lock
	pings   []string   // payloads of those that are unanswered
	first   []Message  // from OnConnect
	replies []Message
	sends   []*send
	closed  error // no more sends
}

// send is a message from Send.
type send struct {
	ctx  context.Context
	msg  Message
	done chan error // cap 1
}

// ping notes a ping frame; true when the write loop does not know of one yet. Of those that come while mostPings wait, only the
// newest is answered, after them.
func (o *outbox) ping(payload string) (wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pings) > mostPings {
		o.pings[mostPings] = payload
		return false
	}
	o.pings = append(o.pings, payload)
	return len(o.pings) == 1
}

// takePing takes the one that has waited longest.
func (o *outbox) takePing() (payload string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	payload, o.pings = o.pings[0], o.pings[1:]
	if len(o.pings) == 0 {
		o.pings = nil
	}
	return payload
}

func (o *outbox) hasPing() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pings) > 0
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

func (o *outbox) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.first)+len(o.replies)+len(o.sends) > 0
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
