package wsshard

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: which of the subscriptions written on a connection are proven to be live there?

// proof follows each topic from its request to its answer. With an Acknowledger only an answer proves it; without, data
// that names it, or Settle. The write loop adds claims, the read loop settles them. What was proven takes no memory.
type proof[S comparable] struct {
	acks    bool          // an Acknowledger answers
	timeout time.Duration // AckTimeout or Settle
	off     bool          // no such timeout
	open    atomic.Bool   // something is unproven: what the read loop looks at for each message
	heard   atomic.Bool   // some answer came

	mu       sync.Mutex // protects following fields; a leaf lock
	claims   map[S]claim
	requests map[uint64][]S // of claims, by request id
	queue    []claimed[S]   // claims in the order of their deadlines; some are void by now
	failed   map[S]failure
	refused  []S       // rejected since the write loop last looked
	bySettle bool      // some topic is proven by nothing but time
	last     time.Time // when a topic was proven last, or failed
}

// claim is one written and unanswered topic.
type claim struct {
	request uint64
	num     uint64
	tries   int
	at      time.Time // when it was written
}

type claimed[S comparable] struct {
	sub     S
	request uint64
	at      time.Time
}

// failure is one topic that is given up on this connection.
type failure struct {
	num     uint64
	err     error
	request uint64 // that was not answered in time, and may be yet; 0: it was rejected, or never written
}

func newProof[S comparable](acks bool, cfg *Config) *proof[S] {
	p := &proof[S]{acks: acks, timeout: cfg.Switchover.Settle}
	if acks {
		p.timeout = cfg.Subscribe.AckTimeout
		p.off = p.timeout < 0
	}
	return p
}

// wrote claims the topics of a batch that leaves now. again: it was written before, and not answered.
func (p *proof[S]) wrote(request uint64, b reconcile.Batch[S], now time.Time) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claims == nil {
		p.claims = make(map[S]claim, len(b.Subs))
	}
	if p.acks {
		if p.requests == nil {
			p.requests = make(map[uint64][]S)
		}
		p.requests[request] = append([]S(nil), b.Subs...)
	}
	for i, s := range b.Subs {
		delete(p.failed, s)
		if len(p.refused) > 0 { // an answer to the last request came as this one was encoded
			p.refused = slices.DeleteFunc(p.refused, func(r S) bool { return r == s })
		}
		c := claim{request: request, num: b.Nums[i], tries: 1, at: now}
		if old, ok := p.claims[s]; ok && old.num == c.num {
			c.tries += old.tries
			again = true
		}
		p.claims[s] = c
		if !p.off {
			p.queue = append(p.queue, claimed[S]{s, request, now})
		}
	}
	p.open.Store(len(p.claims) > 0)
	return again
}

// forget drops what is unsubscribed.
func (p *proof[S]) forget(subs []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range subs {
		delete(p.claims, s)
		delete(p.failed, s)
	}
	p.tidyLocked()
}

// tidyLocked lets go of what no claim needs any more.
func (p *proof[S]) tidyLocked() {
	if len(p.claims) == 0 {
		p.claims, p.requests, p.queue = nil, nil, nil
		p.open.Store(false)
	}
}

// fail gives topics up on this connection.
func (p *proof[S]) fail(b reconcile.Batch[S], err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range b.Subs {
		p.failLocked(s, failure{num: b.Nums[i], err: err})
	}
	p.tidyLocked()
}

func (p *proof[S]) failLocked(s S, f failure) {
	if p.failed == nil {
		p.failed = make(map[S]failure)
	}
	p.settleLocked(s)
	p.failed[s] = f
}

// settleLocked ends a claim.
func (p *proof[S]) settleLocked(s S) {
	if _, ok := p.claims[s]; ok {
		delete(p.claims, s)
		p.last = time.Now()
	}
}

// answer takes an acknowledgement. It returns the topics that it newly rejects, and those whose last request it confirms;
// number is that of a topic's last request. answered: something of it was unanswered, be it given up by now.
func (p *proof[S]) answer(a Ack[S], number func(S) (uint64, bool)) (confirmed, rejected []S, answered bool) {
	p.heard.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	answers := func(request uint64) bool { return a.Request == 0 || a.Request == request }
	confirm := func(s S) {
		num := uint64(0)
		if c, ok := p.claims[s]; ok && answers(c.request) {
			p.settleLocked(s)
			num, answered = c.num, true
		} else if f := p.failed[s]; !ok && f.request != 0 && answers(f.request) { // late, after it was given up
			delete(p.failed, s)
			num, answered = f.num, true
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
			answered = true
			rejected = append(rejected, s)
		case f.request != 0 && answers(f.request): // late: it was told of already, but now it is known why
			said.num, answered = f.num, true
		case a.Request == 0 && wanted && !claimed && !failed: // what was confirmed once is taken back
			said.num = last
			rejected = append(rejected, s)
		default:
			return
		}
		p.failLocked(s, said)
		p.refused = append(p.refused, s)
	}
	whole := p.requests[a.Request]
	if whole == nil && a.Request != 0 {
		for s, f := range p.failed {
			if f.request == a.Request {
				whole = append(whole, s)
			}
		}
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
		if _, open := p.requests[a.Request]; open {
			answered = true // be it one that newer requests have taken over
		}
		delete(p.requests, a.Request)
	}
	p.tidyLocked()
	return confirmed, rejected, answered
}

// data settles the topics that a message names, and says whether that left nothing unproven.
func (p *proof[S]) data(subs []S) (proven bool) {
	if p.acks || len(subs) == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range subs {
		p.settleLocked(s)
	}
	p.tidyLocked()
	return len(p.claims) == 0
}

// expire ends claims whose time is over: settled without an Acknowledger; with one, to be written once more, or failed.
func (p *proof[S]) expire(now time.Time) (redo, failed []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	redo, failed = p.expireLocked(now)
	p.tidyLocked()
	return redo, failed
}

func (p *proof[S]) expireLocked(now time.Time) (redo, failed []S) {
	for len(p.queue) > 0 && !p.off {
		q := p.queue[0]
		c, ok := p.claims[q.sub]
		if ok && c.request == q.request {
			if now.Sub(q.at) < p.timeout {
				break
			}
			switch {
			case !p.acks:
				p.settleLocked(q.sub)
				p.bySettle = true
			case c.tries < 2:
				redo = append(redo, q.sub)
			default:
				p.failLocked(q.sub, failure{c.num, ErrAckTimeout, c.request})
				failed = append(failed, q.sub)
			}
		}
		p.queue = p.queue[1:]
	}
	return redo, failed
}

// due is when expire has something to do next.
func (p *proof[S]) due() (at time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off || len(p.queue) == 0 {
		return at, false
	}
	return p.queue[0].at.Add(p.timeout), true
}

// settledByTime reports whether time alone proved some topic.
func (p *proof[S]) settledByTime() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bySettle
}

// takeRefused returns the topics rejected since the last call.
func (p *proof[S]) takeRefused() []S {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.refused
	p.refused = nil
	return r
}

func (p *proof[S]) hasRefused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.refused) > 0
}

// unproven counts the topics that are neither proven nor failed.
func (p *proof[S]) unproven() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.claims)
}

// waiting reports whether a claim that counts is unproven at now, and when the last topic was proven. What time alone ends by
// now is ended, be the write loop ever so slow to say so.
func (p *proof[S]) waiting(now time.Time, counts func(s S, num uint64) bool) (last time.Time, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.acks {
		p.expireLocked(now)
		p.tidyLocked()
	}
	for s, c := range p.claims {
		if failed := p.overdueLocked(c, now) && c.tries > 1; !failed && counts(s, c.num) {
			return p.last, true
		}
	}
	return p.last, false
}

// ignored reports whether no answer came at all, though a topic was asked for twice and its time is over at now.
func (p *proof[S]) ignored(now time.Time) bool {
	if !p.acks || p.heard.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.failed {
		if f.request != 0 {
			return true
		}
	}
	for _, c := range p.claims {
		if c.tries > 1 && p.overdueLocked(c, now) {
			return true
		}
	}
	return false
}

// repeats reports whether a request is to be written once more at now, for want of an answer.
func (p *proof[S]) repeats(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.claims {
		if c.tries == 1 && p.overdueLocked(c, now) {
			return true
		}
	}
	return false
}

func (p *proof[S]) overdueLocked(c claim, now time.Time) bool {
	return p.acks && !p.off && now.Sub(c.at) >= p.timeout
}

// state says whether s is unanswered, and why it failed.
func (p *proof[S]) state(s S) (waiting bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, waiting = p.claims[s]
	return waiting, p.failed[s].err
}
