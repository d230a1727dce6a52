package wsshard

import (
	"strconv"
	"sync"
	"time"
)

// This file answers: which of our pings does an answer answer?

// mostPinged bounds the pings that are unanswered and remembered.
const mostPinged = 16

// pinged are the pings of a connection that nobody has answered yet, oldest first. The write loop adds to them, the read loop
// takes them away.
//
// The pong of a ping frame names its ping. A text pong does not, nor does a heartbeat of the application: each of those answers the
// oldest ping, since nothing shows that the peer has seen a later one. Heartbeats that come though nobody has asked are the
// peer's own; from then on no heartbeat answers anything for certain.
type pinged struct {
	mu      sync.Mutex // a leaf lock; protects following fields
	open    []sentPing
	unasked bool // a heartbeat came while no ping was open
}

// sentPing is one ping: its number and when it was written, on the connection's clock.
type sentPing struct {
	num  uint64
	sent time.Duration
}

// add notes a ping that is written now. However long an answer takes, it may come yet: a peer that leaves some pings unanswered is
// known to have seen them later than it has.
func (p *pinged) add(num uint64, sent time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == mostPinged {
		p.open = p.open[1:]
	}
	p.open = append(p.open, sentPing{num, sent})
}

// byFrame takes the pong of a ping frame, which answers the ping of that number and all before it.
func (p *pinged) byFrame(payload string) (sent time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, ping := range p.open {
		if pingPayload(ping.num) == payload {
			p.open = p.open[i+1:]
			return ping.sent, true
		}
	}
	return 0, false
}

// byText takes a text pong, or a heartbeat that may be one. sent is when the ping was written that it answers for certain, and
// newest when the last one was.
func (p *pinged) byText(heartbeat bool) (sent, newest time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		p.unasked = p.unasked || heartbeat
		return 0, 0, false
	}
	sent, newest = p.open[0].sent, p.open[len(p.open)-1].sent
	p.open = p.open[1:]
	return sent, newest, !heartbeat || !p.unasked
}

// pingPayload is what a ping frame carries, and its pong repeats.
func pingPayload(n uint64) string { return strconv.FormatUint(n, 10) }
