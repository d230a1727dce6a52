package wsshard

import (
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: when is a connection sick?

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
}

func newHealth(cfg HealthConfig, now time.Duration) *health {
	return &health{cfg: cfg, nextPing: now + cfg.PingInterval}
}

// expectData says whether a topic is applied.
func (h *health) expectData(on bool, clock time.Duration) {
	if on && !h.fed {
		h.from = clock
	}
	h.fed = on
}

// pingDue says whether a ping is to be sent now.
func (h *health) pingDue(now time.Duration) bool { return h.cfg.PingInterval > 0 && now >= h.nextPing }

// sent notes that a ping leaves now.
func (h *health) sent(now time.Duration, s wsconn.Signs) {
	h.nextPing = now + h.cfg.PingInterval
	h.pinged, h.pingTime, h.reads = true, s.Clock(now), s.Reads
}

// unsent takes sent back: there was nothing to send.
func (h *health) unsent() { h.pinged = false }

// grace starts every deadline afresh: we were late ourselves, and what the peer did meanwhile may not have been read.
func (h *health) grace(now time.Duration, s wsconn.Signs) {
	h.pingTime, h.from = s.Clock(now), s.Clock(now)
}

// judge returns why the connection is sick, nil when it is not, and how many pongs were missed just now (0 or 1).
// dataTimeout is the shard's, not positive when off.
func (h *health) judge(now time.Duration, s wsconn.Signs, dataTimeout time.Duration) (cause error, missed int) {
	clock := s.Clock(now)
	if h.pinged && s.Reads > h.reads { // anything received after the ping is a sign of life
		h.pinged, h.misses = false, 0
	}
	if !s.Waiting {
		return nil, 0
	}
	if h.judgesPongs() && h.pinged && clock-h.pingTime >= h.cfg.PongTimeout {
		h.pinged, missed = false, 1
		if h.misses++; h.misses >= h.cfg.FailureThreshold {
			return ErrPongTimeout, missed
		}
	}
	if h.cfg.MessageTimeout > 0 && s.Begun && clock-s.Began >= h.cfg.MessageTimeout {
		return ErrMessageTimeout, missed
	}
	if h.fed && dataTimeout > 0 && clock-h.lastData(s) >= dataTimeout {
		return ErrDataTimeout, missed
	}
	return nil, missed
}

// due is the earliest instant at which judge or pingDue could answer otherwise, if nothing is received until then.
func (h *health) due(now time.Duration, s wsconn.Signs, dataTimeout time.Duration) (at time.Duration, ok bool) {
	clock := s.Clock(now)
	earliest := func(on bool, d time.Duration) {
		if on && (!ok || d < at) {
			at, ok = d, true
		}
	}
	earliest(h.cfg.PingInterval > 0, h.nextPing)
	earliest(h.judgesPongs() && h.pinged, now+h.pingTime+h.cfg.PongTimeout-clock)
	earliest(h.cfg.MessageTimeout > 0 && s.Begun, now+s.Began+h.cfg.MessageTimeout-clock)
	earliest(h.fed && dataTimeout > 0, now+h.lastData(s)+dataTimeout-clock)
	if ok && at <= now && !s.Waiting {
		at = now + recheck // the clock stands: look again in a while
	}
	return at, ok
}

// recheck is how often an overdue deadline is looked at while the handler is busy.
const recheck = 100 * time.Millisecond

func (h *health) judgesPongs() bool {
	return h.cfg.PingInterval > 0 && h.cfg.PongTimeout > 0 && h.cfg.FailureThreshold > 0
}

func (h *health) lastData(s wsconn.Signs) time.Duration {
	if s.Fed {
		return max(s.Data, h.from)
	}
	return h.from
}
