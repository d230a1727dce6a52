package wsshard

import (
	"strconv"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: is a connection sick, and which of our pings does an answer answer?

// health judges one connection. It is pure: time and what the socket showed are passed in. Instants count from the
// connection's beginning; deadlines run on the reader's clock (wsconn.Signs.Clock), which stands still in a callback, so
// that a slow handler is never taken for a dead peer. It belongs to the session's write loop.
type health struct {
	cfg HealthConfig

	nextPing time.Duration
	pinged   bool          // a ping is unanswered so far
	pingTime time.Duration // reader's clock when it was sent
	reads    uint64        // reads that had brought bytes by then
	misses   int

	fed  bool          // topics are applied: data is expected
	from time.Duration // reader's clock since then

	graced time.Duration // reader's clock of the last grace: nothing before it counts
}

func newHealth(cfg HealthConfig, now time.Duration) *health {
	return &health{cfg: cfg, nextPing: now + cfg.PingInterval}
}

// expectData says whether data is due: a topic is applied, and the connection is the one that delivers.
func (h *health) expectData(on bool, clock time.Duration) {
	if on && !h.fed {
		h.from = clock
	}
	h.fed = on
}

// pingDue says whether a ping is to be sent now.
func (h *health) pingDue(now time.Duration) bool { return h.cfg.PingInterval > 0 && now >= h.nextPing }

// pingAt is when the next ping will be due, if that is not now.
func (h *health) pingAt(now time.Duration) (at time.Duration, ok bool) {
	return h.nextPing, h.cfg.PingInterval > 0 && h.nextPing > now
}

// sent notes that a ping leaves now.
func (h *health) sent(now time.Duration, s wsconn.Signs) {
	h.nextPing = now + h.cfg.PingInterval
	h.pinged, h.pingTime, h.reads = true, s.Clock(now), s.Reads
}

// unsent notes that there was nothing to send, until the next ping is due.
func (h *health) unsent(now time.Duration) { h.nextPing = now + h.cfg.PingInterval }

// grace starts every deadline afresh: we were late ourselves, and what the peer did meanwhile may not have been read.
func (h *health) grace(now time.Duration, s wsconn.Signs) {
	h.graced = s.Clock(now)
	h.pingTime, h.from = h.graced, h.graced
}

// judge returns why the connection is sick, nil when it is not, and how many pongs were missed just now (0 or 1).
// dataTimeout is the shard's, not positive when off.
func (h *health) judge(now time.Duration, s wsconn.Signs, dataTimeout time.Duration) (cause error, missed int) {
	clock := s.Clock(now)
	if s.Reads > h.reads { // anything received after the ping is a sign of life, also when its time is over
		h.pinged, h.misses = false, 0
	}
	if !s.Waiting { // the read loop is in a callback: frames that came since are not handled yet, and may be the ones that are missed
		clock = s.Asked
	}
	if h.judgesPongs() && h.pinged && clock-h.pingTime >= h.cfg.PongTimeout {
		h.pinged, missed = false, 1
		if h.misses++; h.misses >= h.cfg.FailureThreshold {
			return ErrPongTimeout, missed
		}
	}
	if h.cfg.MessageTimeout > 0 && s.Begun && clock-h.began(s) >= h.cfg.MessageTimeout {
		return ErrMessageTimeout, missed
	}
	if h.fed && dataTimeout > 0 && clock-h.lastData(s) >= dataTimeout {
		return ErrDataTimeout, missed
	}
	return nil, missed
}

// due is the earliest instant at which judge or pingDue could answer otherwise, if nothing is received until then. A ping
// that is due already waits for the pace: that is not for us to watch.
func (h *health) due(now time.Duration, s wsconn.Signs, dataTimeout time.Duration) (at time.Duration, ok bool) {
	clock := s.Clock(now)
	earliest := func(on bool, d time.Duration) {
		if on && (!ok || d < at) {
			at, ok = d, true
		}
	}
	earliest(h.judgesPongs() && h.pinged, now+h.pingTime+h.cfg.PongTimeout-clock)
	earliest(h.cfg.MessageTimeout > 0 && s.Begun, now+h.began(s)+h.cfg.MessageTimeout-clock)
	earliest(h.cfg.MessageTimeout > 0 && !s.Begun, now+h.cfg.MessageTimeout) // nobody wakes us when one begins
	earliest(h.fed && dataTimeout > 0, now+h.lastData(s)+dataTimeout-clock)
	if ok && !s.Waiting {
		at = max(at, now+recheck) // the clock stands: it comes no nearer
	}
	ping, waits := h.pingAt(now)
	earliest(waits, ping)
	return at, ok
}

// recheck is how often a deadline that is near is looked at while the handler is busy.
const recheck = 100 * time.Millisecond

func (h *health) judgesPongs() bool { return judgesPongs(h.cfg) }

// judgesPongs reports whether a ping that is not answered has consequences.
func judgesPongs(cfg HealthConfig) bool {
	return cfg.PingInterval > 0 && cfg.PongTimeout > 0 && cfg.FailureThreshold > 0
}

func (h *health) began(s wsconn.Signs) time.Duration { return max(s.Began, h.graced) }

func (h *health) lastData(s wsconn.Signs) time.Duration {
	if s.Fed {
		return max(s.Data, h.from)
	}
	return h.from
}

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
