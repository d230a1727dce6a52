package wsshard

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/lean"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: which of the subscriptions written on a connection are proven to be live there?

// claims follow each topic of a connection from its request to its answer. With an Acknowledger only an answer
// proves a topic; without, what IsReady says after the request where there is a ReadyDetector, else data that names it, or
// Settle. The write loop adds claims, the read loop settles them. What was proven takes no memory.
//
// It follows unsubscriptions as well: until one is answered, or its time is over, the server may send the topic yet.
type claims[S comparable] struct {
	acks     bool          // an Acknowledger answers
	detector bool          // a ReadyDetector proves, and nothing else does. Set before anything is written
	timeout  time.Duration // AckTimeout or Settle
	off      bool          // AckTimeout is off: nothing is written once more, and nothing fails
	lately   func(S) bool  // reports whether late data of an earlier subscription of a topic may come; nil: it never does. The write loop calls it
	open     atomic.Bool   // something is unproven. The read loop looks at this for each message
	busy     atomic.Bool   // the write loop has something to look at
	heard    atomic.Bool   // some answer came
	telling  atomic.Bool   // a gap may wait for topics that are proven here. Written under mu

	mu       sync.Mutex // protects following fields
	claims   map[S]claim
	leaving  map[S]departure
	requests map[uint64]*requested[S] // by request id, while something of it may be answered
	queue    lean.Queue[claimed[S]]   // claims and departures in the order of their deadlines. Some may be void
	failed   map[S]failure
	refused  []S        // rejected since the write loop last looked
	answered []S        // topics whose claim ended, or was late, since then
	left     []S        // unsubscriptions that were answered since then, or, without an Acknowledger, have settled
	overdue  []S        // unsubscriptions that were not answered in time
	told     map[S]told // proven or failed since tell
	bySettle bool       // some topic is proven by nothing but time
	last     time.Time  // when a topic was proven last, or failed

	most struct{ claims, leaving, requests, failed int } // in each map, since it was made: see lean
}

// claim is one written and unanswered topic.
type claim struct {
	request uint64
	num     uint64
	tries   int
	at      time.Time // when it was written
	again   bool      // it was on before, on this connection: data proves nothing
	earlier uint64    // the request before, which was unanswered; 0: none
}

// departure is one unsubscription that is not answered.
type departure struct {
	request uint64
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

// defaultAckTimeout is how long an unsubscription waits for an answer, be it its own or that to the subscription before it,
// where AckTimeout is off.
const defaultAckTimeout = 10 * time.Second

// newProof makes the claims of a connection. acks says that the handler is an Acknowledger.
func newProof[S comparable](acks bool, cfg *Config) *claims[S] {
	p := &claims[S]{acks: acks, timeout: cfg.Switchover.Settle}
	if acks {
		if p.timeout = cfg.Subscribe.AckTimeout; p.timeout < 0 {
			p.timeout, p.off = defaultAckTimeout, true
		}
	}
	return p
}

// wrote claims the topics of a batch that leaves now. again: it was written before, and not answered.
func (p *claims[S]) wrote(request uint64, b reconcile.Batch[S], now time.Time) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claims == nil {
		p.claims = make(map[S]claim, len(b.Subs))
	}
	p.askedLocked(request, b.Subs)
	for i, s := range b.Subs {
		p.dropFailureLocked(s)
		delete(p.told, s)
		if len(p.refused) > 0 { // an answer to the last request came as this one was encoded
			p.refused = slices.DeleteFunc(p.refused, func(r S) bool { return r == s })
		}
		c := claim{request: request, num: b.Nums[i], tries: 1, at: now, again: b.Kind == reconcile.Resubscribe}
		if old, ok := p.claims[s]; ok {
			p.doneLocked(old.earlier)
			if c.earlier = old.request; old.num == c.num {
				c.tries += old.tries
				again = true
			}
		}
		c.again = c.again || p.dropDepartureLocked(s)
		c.again = c.again || p.lately != nil && p.lately(s)
		p.claims[s] = c
		p.queue.Push(claimed[S]{s, request, now})
	}
	p.noteLocked()
	return again
}

// leaves notes an unsubscription that is written now.
func (p *claims[S]) leaves(request uint64, subs []S, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving == nil {
		p.leaving = make(map[S]departure, len(subs))
	}
	p.askedLocked(request, subs)
	for _, s := range subs {
		p.forgetLocked(s)
		p.leaving[s] = departure{request, now}
		p.queue.Push(claimed[S]{s, request, now})
	}
	p.noteLocked()
}

// forget drops claims and failures of topics that are unsubscribed without a word.
func (p *claims[S]) forget(subs []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range subs {
		p.forgetLocked(s)
	}
	p.noteLocked()
}

func (p *claims[S]) forgetLocked(s S) {
	p.dropClaimLocked(s)
	p.dropFailureLocked(s)
	delete(p.told, s)
}

func (p *claims[S]) dropClaimLocked(s S) (c claim, ok bool) {
	if c, ok = p.claims[s]; ok {
		delete(p.claims, s)
		p.doneLocked(c.request)
		p.doneLocked(c.earlier)
	}
	return c, ok
}

func (p *claims[S]) dropFailureLocked(s S) {
	if f, ok := p.failed[s]; ok {
		delete(p.failed, s)
		p.doneLocked(f.request)
	}
}

// noteLocked gives back what the maps need no more, and publishes whether anything is left. Each method that changes something ends
// with it.
func (p *claims[S]) noteLocked() {
	p.claims = lean.Fit(p.claims, &p.most.claims)
	p.leaving = lean.Fit(p.leaving, &p.most.leaving)
	p.requests = lean.Fit(p.requests, &p.most.requests)
	p.failed = lean.Fit(p.failed, &p.most.failed)
	if len(p.claims) == 0 {
		p.claims = nil
	}
	if len(p.leaving) == 0 {
		p.leaving = nil
	}
	if len(p.failed) == 0 {
		p.failed = nil
	}
	if p.claims == nil && p.leaving == nil {
		p.queue = lean.Queue[claimed[S]]{}
	}
	if len(p.requests) == 0 {
		p.requests = nil
	}
	p.open.Store(p.claims != nil)
	p.busy.Store(p.queue.Len()+len(p.refused)+len(p.answered)+len(p.left)+len(p.overdue) > 0)
}

// without says that topics are settled for which nothing has to be written.
func (p *claims[S]) without(b reconcile.Batch[S]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range b.Subs {
		p.forgetLocked(s)
		p.tellLocked(s, b.Nums[i], time.Now())
	}
	p.noteLocked()
}

// fail gives topics up on this connection.
func (p *claims[S]) fail(b reconcile.Batch[S], err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range b.Subs {
		p.failLocked(s, failure{num: b.Nums[i], err: err})
	}
	p.noteLocked()
}

// failLocked gives a topic up. Where f remembers a request, that stays known until the topic is written again.
func (p *claims[S]) failLocked(s S, f failure) {
	if r := p.requests[f.request]; r != nil {
		r.open++
	}
	p.settleLocked(s)
	p.dropFailureLocked(s)
	if p.failed == nil {
		p.failed = make(map[S]failure)
	}
	p.failed[s] = f
	p.tellLocked(s, f.num, time.Time{})
}

// settleLocked ends a claim.
func (p *claims[S]) settleLocked(s S) {
	c, ok := p.dropClaimLocked(s)
	if !ok {
		return
	}
	p.last = time.Now()
	if p.acks {
		p.answered = append(p.answered, s)
	}
	p.tellLocked(s, c.num, time.Now())
}

// goneLocked ends an unsubscription.
func (p *claims[S]) goneLocked(s S) {
	if p.dropDepartureLocked(s) {
		p.left = append(p.left, s)
	}
}

func (p *claims[S]) dropDepartureLocked(s S) (dropped bool) {
	d, ok := p.leaving[s]
	if ok {
		delete(p.leaving, s)
		p.doneLocked(d.request)
	}
	return ok
}

// data settles the topics that a message names, and says whether that left nothing unproven.
func (p *claims[S]) data(subs []S) (proven bool) {
	if p.acks || p.detector || len(subs) == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range subs {
		if c, ok := p.claims[s]; ok && !c.again {
			p.settleLocked(s)
		}
	}
	p.noteLocked()
	return len(p.claims) == 0
}

// ready settles all that is written by now: IsReady was true.
func (p *claims[S]) ready() {
	if !p.detector {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.claims {
		p.settleLocked(s)
	}
	p.noteLocked()
}

// expire ends claims whose time is over. Without an Acknowledger they are settled. With one, redo are to be written once more, and
// failed are given up.
func (p *claims[S]) expire(now time.Time) (redo, failed []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	redo, failed = p.expireLocked(now)
	p.noteLocked()
	return redo, failed
}

func (p *claims[S]) expireLocked(now time.Time) (redo, failed []S) {
	for p.queue.Len() > 0 {
		q := p.queue.First()
		c, claimed := p.claims[q.sub]
		claimed = claimed && c.request == q.request
		leaves := p.leaving[q.sub].request == q.request
		if (claimed || leaves) && now.Sub(q.at) < p.timeout {
			break
		}
		p.queue.Pop()
		switch {
		case leaves && p.acks:
			p.dropDepartureLocked(q.sub)
			p.overdue = append(p.overdue, q.sub)
		case leaves:
			p.goneLocked(q.sub)
		case !claimed, p.detector:
		case !p.acks:
			p.settleLocked(q.sub)
			p.bySettle = true
		case p.off: // it is waited for, but for an unsubscription no longer
			p.answered = append(p.answered, q.sub)
		case c.tries < 2:
			redo = append(redo, q.sub)
			p.answered = append(p.answered, q.sub)
		default:
			p.failLocked(q.sub, failure{c.num, ErrAckTimeout, c.request})
			failed = append(failed, q.sub)
		}
	}
	return redo, failed
}

// due is when expire has something to do next.
func (p *claims[S]) due() (at time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.Len() == 0 {
		return at, false
	}
	return p.queue.First().at.Add(p.timeout), true
}

// takeEnded returns the topics whose claims, and those whose unsubscriptions ended since the last call.
func (p *claims[S]) takeEnded() (answered, left, overdue []S) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answered, left, overdue = p.answered, p.left, p.overdue
	p.answered, p.left, p.overdue = nil, nil, nil
	p.noteLocked()
	return answered, left, overdue
}

// settledByTime reports whether time alone proved some topic.
func (p *claims[S]) settledByTime() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bySettle
}

// takeRefused returns the topics rejected since the last call.
func (p *claims[S]) takeRefused() []S {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.refused
	p.refused = nil
	p.noteLocked()
	return r
}

// unproven counts the topics that are neither proven nor failed.
func (p *claims[S]) unproven() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.claims)
}

// waiting reports whether a claim that counts is unproven at now, and when the last topic was proven. What time alone ends by
// now is ended, be the write loop ever so slow to say so.
func (p *claims[S]) waiting(now time.Time, counts func(s S, num uint64) bool) (last time.Time, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.acks {
		p.expireLocked(now)
		p.noteLocked()
	}
	for s, c := range p.claims {
		if failed := p.overdueLocked(c, now) && c.tries > 1; !failed && counts(s, c.num) {
			return p.last, true
		}
	}
	return p.last, false
}

// ignored reports whether no answer came at all, though a topic was asked for twice and its time is over at now.
func (p *claims[S]) ignored(now time.Time) bool {
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
func (p *claims[S]) repeats(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.claims {
		if c.tries == 1 && p.overdueLocked(c, now) {
			return true
		}
	}
	return false
}

func (p *claims[S]) overdueLocked(c claim, now time.Time) bool {
	return p.acks && !p.off && now.Sub(c.at) >= p.timeout
}

// state says whether s is unanswered, and why it failed.
func (p *claims[S]) state(s S) (waiting bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, waiting = p.claims[s]
	return waiting, p.failed[s].err
}
