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
	h := hearing[S]{claims: p, ack: a, number: number}
	var whole []S
	if r := p.requests[a.Request]; r != nil {
		whole = r.subs
	}
	for _, s := range a.Rejected {
		h.rejectLocked(s)
	}
	for _, s := range a.Confirmed {
		h.confirmLocked(s)
	}
	if len(a.Confirmed) == 0 { // the rest of the request is meant too
		h.restLocked(whole)
	}
	return h.confirmed, h.rejected, h.met
}

// hearing is an acknowledgement that is being taken in.
type hearing[S comparable] struct {
	*claims[S]
	ack    Ack[S]
	number func(S) (uint64, bool) // of a topic's last request

	confirmed, rejected []S
	met                 bool
}

// answers reports whether the acknowledgement may be meant for a request.
func (h *hearing[S]) answers(request uint64) bool {
	return h.ack.Request == 0 || h.ack.Request == request
}

// confirmLocked settles a topic whose request was fulfilled.
func (h *hearing[S]) confirmLocked(s S) {
	num := uint64(0)
	if c, ok := h.claims.claims[s]; ok && h.answers(c.request) {
		h.settleLocked(s)
		num, h.met = c.num, true
	} else if f := h.failed[s]; !ok && f.request != 0 && h.answers(f.request) { // late, after it was given up
		h.dropFailureLocked(s)
		num, h.met = f.num, true
	} else {
		h.leftLocked(s)
	}
	if last, ok := h.number(s); ok && last == num {
		h.confirmed = append(h.confirmed, s)
	}
}

// rejectLocked gives a topic up whose request was refused.
func (h *hearing[S]) rejectLocked(s S) {
	c, claimed := h.claims.claims[s]
	f, failed := h.failed[s]
	last, wanted := h.number(s)
	said := failure{num: c.num, err: h.ack.Err}
	if said.err == nil {
		said.err = ErrRejected
	}
	switch {
	case claimed && h.answers(c.request):
		h.rejected, h.met = append(h.rejected, s), true
	case f.request != 0 && h.answers(f.request): // late: it was told of already, but now it is known why
		said.num, h.met = f.num, true
	case h.ack.Request == 0 && wanted && !claimed && !failed: // what was confirmed once is taken back
		said.num = last
		h.rejected = append(h.rejected, s)
	default:
		h.leftLocked(s)
		return
	}
	h.failLocked(s, said)
	h.refused = append(h.refused, s)
}

// leftLocked ends an unsubscription, however it was answered.
func (h *hearing[S]) leftLocked(s S) {
	if d, ok := h.leaving[s]; ok && h.answers(d.request) {
		h.goneLocked(s)
		h.met = true
	}
}

// restLocked answers what a request asked for besides the topics that the acknowledgement names.
func (h *hearing[S]) restLocked(whole []S) {
	rest := h.confirmLocked
	if h.ack.Err != nil && len(h.ack.Rejected) == 0 {
		rest = h.rejectLocked
	}
	for _, s := range whole {
		rest(s)
	}
	if _, open := h.requests[h.ack.Request]; open { // newer ones have taken over what it asked for
		delete(h.requests, h.ack.Request)
		h.met = true
	}
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
