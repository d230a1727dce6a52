package wsshard

import "time"

// This file answers: may a frame be written now?

// pace keeps one connection below the server's limit on messages. It is a sliding log of the last frames: a token bucket
// would let nearly twice the limit through in its first window. Every frame is charged. One place of the window is kept for
// control frames, so that neither they nor the others can take it all. It belongs to the session's write loop, and before
// that to the login.
type pace struct {
	window time.Duration
	most   int         // frames in a window, less the kept place; 0: no limit
	log    []time.Time // a ring of the last that many
	next   int         // the oldest of them, once there are that many
	single bool        // the kept place is the only one: both kinds take turns
	kept   time.Time   // when the kept place was used last
}

// stretched is how long our window is: longer than the server's, because frames that leave evenly do not arrive so.
func stretched(window time.Duration) time.Duration { return window + min(window/10, time.Second) }

func newPace(cfg SubscribeConfig) pace {
	return pace{
		window: stretched(cfg.Window),
		most:   max(min(1, cfg.MessagesPerWindow), cfg.MessagesPerWindow-1, 0),
		single: cfg.MessagesPerWindow == 1,
	}
}

// wait is how long a frame must wait; 0: it may leave now.
func (p *pace) wait(now time.Time) time.Duration {
	if len(p.log) < p.most || p.most == 0 {
		return 0
	}
	return left(p.window, p.log[p.next], now)
}

// waitControl is the same for a control frame in the kept place.
func (p *pace) waitControl(now time.Time) time.Duration {
	switch {
	case p.most == 0 || p.kept.IsZero() && !p.single:
		return 0
	case p.single && p.kept.IsZero():
		return p.wait(now)
	case p.single:
		return max(p.wait(now), left(2*p.window, p.kept, now))
	}
	return left(p.window, p.kept, now)
}

// left is what is left of d since a time.
func left(d time.Duration, since, now time.Time) time.Duration { return max(0, d-now.Sub(since)) }

// charge notes that frames left.
func (p *pace) charge(now time.Time, frames int) {
	for range min(frames, p.most) {
		if len(p.log) < p.most {
			p.log = append(p.log, now)
			continue
		}
		p.log[p.next] = now
		p.next = (p.next + 1) % p.most
	}
}

// chargeControl notes that a control frame left in the kept place.
func (p *pace) chargeControl(now time.Time) {
	p.kept = now
	if p.single {
		p.charge(now, 1)
	}
}
