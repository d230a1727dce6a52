package wsshard

import "time"

// This file answers: may a frame be written now?

// pace keeps one connection below the server's limit on messages. It is a sliding log of the last frames: a token bucket
// would let nearly twice the limit through in its first window. Every frame is charged; one place of the window is kept for
// control frames. It belongs to the session's write loop, and before that to the login.
type pace struct {
	window time.Duration
	log    []time.Time // a ring of the last frames, one for each that a window may hold; empty: no limit
	next   int
}

// stretch is how much longer our window is than the server's: frames that leave evenly do not arrive so.
const stretch = 1.1

func newPace(cfg SubscribeConfig) pace {
	p := pace{window: time.Duration(stretch * float64(cfg.Window))}
	if cfg.MessagesPerWindow > 0 {
		p.log = make([]time.Time, cfg.MessagesPerWindow)
	}
	return p
}

// wait is how long a message must wait; 0: it may leave now.
func (p *pace) wait(now time.Time) time.Duration { return p.until(now, max(1, len(p.log)-1)) }

// waitControl is the same for a control frame, which may use the place that is kept.
func (p *pace) waitControl(now time.Time) time.Duration { return p.until(now, len(p.log)) }

// until is how long from now fewer than n frames will have left within the window.
func (p *pace) until(now time.Time, n int) time.Duration {
	if len(p.log) == 0 {
		return 0
	}
	nth := p.log[(p.next-n+len(p.log))%len(p.log)]
	if nth.IsZero() {
		return 0
	}
	return max(0, p.window-now.Sub(nth))
}

// charge notes that frames leave now.
func (p *pace) charge(now time.Time, frames int) {
	for range min(frames, len(p.log)) {
		p.log[p.next] = now
		p.next = (p.next + 1) % len(p.log)
	}
}
