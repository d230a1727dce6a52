package wsshard

import (
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

	mu       sync.Mutex // protects following fields; a leaf lock
	claims   map[S]claim
	requests map[uint64][]S // of claims, by request id
	queue    []claimed[S]   // claims in the order of their deadlines; some are void by now
	failed   map[S]failure
	refused  []S  // rejected since the write loop last looked
	bySettle bool // some topic is proven by nothing but time
}

// claim is one written and unanswered topic.
type claim struct {
	request uint64
	num     uint64
	tries   int
}

type claimed[S comparable] struct {
	sub     S
	request uint64
	at      time.Time
}

// failure is one topic that is given up on this connection.
type failure struct {
	num uint64
	err error
}

func newProof[S comparable](acks bool, cfg *Config) *proof[S] {
	p := &proof[S]{acks: acks, timeout: cfg.Switchover.Settle}
	if acks {
		p.timeout = cfg.Subscribe.AckTimeout
		p.off = p.timeout < 0
	}
	return p
}

// wrote claims the topics of a batch that leaves now.
func (p *proof[S]) wrote(request uint64, b reconcile.Batch[S], now time.Time) {
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
		c := claim{request: request, num: b.Nums[i], tries: 1}
		if old, ok := p.claims[s]; ok && old.num == c.num {
			c.tries += old.tries
		}
		p.claims[s] = c
		if !p.off {
			p.queue = append(p.queue, claimed[S]{s, request, now})
		}
	}
	p.open.Store(len(p.claims) > 0)
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
		p.failLocked(s, b.Nums[i], err)
	}
	p.tidyLocked()
}

func (p *proof[S]) failLocked(s S, num uint64, err error) {
	if p.failed == nil {
		p.failed = make(map[S]failure)
	}
	delete(p.claims, s)
	p.failed[s] = failure{num, err}
}

// answer takes an acknowledgement and returns the topics that it newly rejects. number is that of a topic's last request.
func (p *proof[S]) answer(a Ack[S], number func(S) (uint64, bool)) (rejected []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	confirm := func(s S) {
		c, ok := p.claims[s]
		switch {
		case ok && (a.Request == 0 || c.request == a.Request):
			delete(p.claims, s)
			delete(p.failed, s)
		case !ok && a.Request == 0: // late, after it was given up
			delete(p.failed, s)
		}
	}
	reject := func(s S) {
		c, ok := p.claims[s]
		num := c.num
		if !ok {
			if a.Request != 0 {
				return
			}
			if num, ok = number(s); !ok {
				return
			}
			if _, again := p.failed[s]; again {
				return
			}
		} else if a.Request != 0 && c.request != a.Request {
			return
		}
		err := a.Err
		if err == nil {
			err = ErrRejected
		}
		p.failLocked(s, num, err)
		p.refused = append(p.refused, s)
		rejected = append(rejected, s)
	}
	whole := p.requests[a.Request]
	if len(a.Confirmed) > 0 || a.Err != nil && len(a.Rejected) == 0 {
		whole = nil
	}
	for _, s := range a.Rejected {
		reject(s)
	}
	if a.Err != nil && a.Request != 0 && len(a.Confirmed)+len(a.Rejected) == 0 {
		for _, s := range p.requests[a.Request] {
			reject(s)
		}
	}
	for _, s := range a.Confirmed {
		confirm(s)
	}
	for _, s := range whole {
		confirm(s)
	}
	if len(a.Confirmed) == 0 {
		delete(p.requests, a.Request)
	}
	p.tidyLocked()
	return rejected
}

// data settles the topics that a message names, and says whether that left nothing unproven.
func (p *proof[S]) data(subs []S) (proven bool) {
	if p.acks || len(subs) == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range subs {
		delete(p.claims, s)
	}
	p.tidyLocked()
	return len(p.claims) == 0
}

// expire ends claims whose time is over: settled without an Acknowledger; with one, to be written once more, or failed.
func (p *proof[S]) expire(now time.Time) (redo, failed []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && !p.off {
		q := p.queue[0]
		c, ok := p.claims[q.sub]
		if ok && c.request == q.request {
			if now.Sub(q.at) < p.timeout {
				break
			}
			switch {
			case !p.acks:
				delete(p.claims, q.sub)
				p.bySettle = true
			case c.tries < 2:
				redo = append(redo, q.sub)
			default:
				p.failLocked(q.sub, c.num, ErrAckTimeout)
				failed = append(failed, q.sub)
			}
		}
		p.queue = p.queue[1:]
	}
	p.tidyLocked()
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

// unprovenUpto reports whether a request of up to this number is neither proven nor failed.
func (p *proof[S]) unprovenUpto(num uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.claims {
		if c.num <= num {
			return true
		}
	}
	return false
}

// state says whether s is unanswered, and why it failed.
func (p *proof[S]) state(s S) (waiting bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, waiting = p.claims[s]
	return waiting, p.failed[s].err
}
