package wsshard

import "slices"

// This file answers: what does an acknowledgement say of what was asked?

// requested is a request of which something may be answered yet.
type requested[S comparable] struct {
	subs []S
	open int // claims, departures and failures that remember it
}

// answer takes an acknowledgement. It returns the topics that it newly rejects, and those whose last request it confirms;
// number is that of a topic's last request. met: something of it was unanswered, be it given up by now.
func (p *claims[S]) answer(a Ack[S], number func(S) (uint64, bool)) (confirmed, rejected []S, met bool) {
	p.heard.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.noteLocked()
	answers := func(request uint64) bool { return a.Request == 0 || a.Request == request }
	gone := func(s S) { // an unsubscription is over, however it was answered
		if d, ok := p.leaving[s]; ok && answers(d.request) {
			p.goneLocked(s)
			met = true
		}
	}
	confirm := func(s S) {
		num := uint64(0)
		if c, ok := p.claims[s]; ok && answers(c.request) {
			p.settleLocked(s)
			num, met = c.num, true
		} else if f := p.failed[s]; !ok && f.request != 0 && answers(f.request) { // late, after it was given up
			p.dropFailureLocked(s)
			num, met = f.num, true
		} else {
			gone(s)
		}
		if last, ok := number(s); ok && last == num {
			confirmed = append(confirmed, s)
		}
	}
	reject := func(s S) {
		c, claimed := p.claims[s]
		f, failed := p.failed[s]
		last, wanted := number(s)
		said := failure{num: c.num, err: a.Err}
		if said.err == nil {
			said.err = ErrRejected
		}
		switch {
		case claimed && answers(c.request):
			rejected, met = append(rejected, s), true
		case f.request != 0 && answers(f.request): // late: it was told of already, but now it is known why
			said.num, met = f.num, true
		case a.Request == 0 && wanted && !claimed && !failed: // what was confirmed once is taken back
			said.num = last
			rejected = append(rejected, s)
		default:
			gone(s)
			return
		}
		p.failLocked(s, said)
		p.refused = append(p.refused, s)
	}
	var whole []S
	if r := p.requests[a.Request]; r != nil {
		whole = r.subs
	}
	for _, s := range a.Rejected {
		reject(s)
	}
	for _, s := range a.Confirmed {
		confirm(s)
	}
	if len(a.Confirmed) == 0 { // the rest of the request is meant too
		rest := confirm
		if a.Err != nil && len(a.Rejected) == 0 {
			rest = reject
		}
		for _, s := range whole {
			rest(s)
		}
		if _, open := p.requests[a.Request]; open { // newer ones have taken over what it asked for
			delete(p.requests, a.Request)
			met = true
		}
	}
	return confirmed, rejected, met
}

// askedLocked remembers what a request was for, where it can be answered.
func (p *claims[S]) askedLocked(request uint64, subs []S) {
	if !p.acks {
		return
	}
	if p.requests == nil {
		p.requests = make(map[uint64]*requested[S])
	}
	p.requests[request] = &requested[S]{slices.Clone(subs), len(subs)}
}

// doneLocked says that one topic less remembers a request.
func (p *claims[S]) doneLocked(request uint64) {
	if r := p.requests[request]; r != nil {
		if r.open--; r.open <= 0 {
			delete(p.requests, request)
		}
	}
}
