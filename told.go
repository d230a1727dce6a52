package wsshard

import "time"

// This file answers: what do the gaps of a shard hear of a connection's topics?

// told is the end of a claim.
type told struct {
	at  time.Time // when it was proven; zero: it failed, and so the connection before was the last to carry it, for as long as that delivered
	num uint64
}

// tell has what is proven from now on remembered until takeTold, or not.
func (p *claims[S]) tell(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.telling.Store(yes)
	if !yes {
		p.told = nil
	}
}

// toldUnder reports whether a claim of s ended under this number, or a newer one, and was not taken.
func (p *claims[S]) toldUnder(s S, num uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.told[s]
	return ok && t.num >= num
}

// takeTold returns what was proven, or failed, since the last call.
func (p *claims[S]) takeTold() map[S]told {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.told = nil
	return told
}

func (p *claims[S]) tellLocked(s S, num uint64, at time.Time) {
	if p.telling.Load() {
		if p.told == nil {
			p.told = make(map[S]told)
		}
		p.told[s] = told{at, num}
	}
}
