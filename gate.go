package wsshard

import (
	"context"
	"slices"
	"sync"
	"time"
)

// This file answers: may a dial begin now, to this host by this egress? limiter.go says how a budget is kept.

// urgency orders those who wait at a gate; first come, first served within one.
type urgency int

const (
	urgent  urgency = iota // the shard has no live connection
	asked                  // a switchover that the application or a silent server asked for
	routine                // a switchover because of age or a notice
)

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = time.Hour

// gate admits dials. One serves all shards of a manager, with a door for each (host, egress). At a door come together: the
// budget (ConnectLimiter), dials in flight, Retry-After, and the circuit breaker.
type gate struct {
	limiter   ConnectLimiter
	inFlight  int // dials at one door; not positive: no limit
	threshold int // failures in a row that open the breaker; not positive: never
	reset     time.Duration
	uniform   func() float64
	opened    func(k doorKey, delay time.Duration, cause error) // called without a lock
	closed    func(k doorKey)

	mu    sync.Mutex // protects following fields and all doors; a leaf lock
	doors map[doorKey]*door
}

type doorKey struct{ host, egress string }

type door struct {
	key     doorKey
	waiting [routine + 1][]*visitor
	budget  *visitor // the one that waits for the budget now
	dials   int      // in flight
	blocked [routine + 1]time.Time
	failed  int // in a row
	open    bool
	probe   time.Time // when the open breaker lets one through
	probing bool
	timer   *time.Timer
}

// visitor is one dial that wants to begin.
type visitor struct {
	class  urgency
	turn   chan struct{}      // cap 1; a token when it is its turn
	recall context.CancelFunc // while it waits for the budget: somebody more urgent came
	probe  bool
}

func newGate(cfg ConnectionConfig, uniform func() float64) *gate {
	g := &gate{
		limiter: cfg.Limiter, inFlight: cfg.MaxConcurrentDials, threshold: cfg.CircuitBreakerThreshold,
		reset: cfg.CircuitBreakerResetTimeout, uniform: uniform, doors: make(map[doorKey]*door),
	}
	if g.reset < 0 {
		g.threshold = 0
	}
	return g
}

// setLimit changes how many may be in at once.
func (g *gate) setLimit(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight = n
}

// enter waits until a dial may begin. The caller then reports its end to leave. A switchover is refused with ErrCircuitOpen
// rather than kept waiting for a host that is down.
func (g *gate) enter(ctx context.Context, k doorKey, class urgency) (*visitor, error) {
	v := &visitor{class: class, turn: make(chan struct{}, 1)}
	g.mu.Lock()
	d := g.doors[k]
	if d == nil {
		d = &door{key: k}
		g.doors[k] = d
	}
	if d.open && class != urgent {
		g.mu.Unlock()
		return nil, ErrCircuitOpen
	}
	d.waiting[class] = append(d.waiting[class], v)
	if d.budget != nil && d.budget.class > class {
		d.budget.recall()
	}
	g.admitLocked(d)
	g.mu.Unlock()
	for {
		select {
		case <-v.turn:
		case <-ctx.Done():
			g.giveUp(d, v)
			return nil, context.Cause(ctx)
		}
		if g.limiter == nil {
			return v, nil
		}
		if again, err := g.wait(ctx, d, v); !again {
			return v, err
		}
	}
}

// wait spends budget on v, whose turn it is. It returns again when somebody more urgent goes first.
func (g *gate) wait(ctx context.Context, d *door, v *visitor) (again bool, err error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	v.recall = cancel
	for class := range v.class {
		if len(d.waiting[class]) > 0 {
			cancel()
		}
	}
	g.mu.Unlock()
	err = g.limiter.Wait(waiting, d.key.host, d.key.egress)
	g.mu.Lock()
	defer g.mu.Unlock()
	d.budget = nil
	if err != nil {
		d.dials--
		if v.probe {
			v.probe, d.probing = false, false
		}
		if again = waiting.Err() != nil && ctx.Err() == nil; again {
			d.waiting[v.class] = slices.Insert(d.waiting[v.class], 0, v)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	g.admitLocked(d)
	return again, err
}

// giveUp takes a visitor that stopped waiting out of the line.
func (g *gate) giveUp(d *door, v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(d.waiting[v.class], v); i >= 0 {
		d.waiting[v.class] = slices.Delete(d.waiting[v.class], i, i+1)
		g.tidyLocked(d)
		return
	}
	// Admitted in the same instant: hand the place on.
	d.dials--
	if d.budget == v {
		d.budget = nil
	}
	if v.probe {
		d.probing = false
	}
	g.admitLocked(d)
}

// admitLocked lets in whoever may begin now, and sets the timer for who may begin later.
func (g *gate) admitLocked(d *door) {
	now := time.Now()
	for {
		v := d.firstLocked(now)
		if v == nil || d.budget != nil || g.inFlight > 0 && d.dials >= g.inFlight {
			break
		}
		if d.open {
			if d.probing || now.Before(d.probe) {
				break
			}
			d.probing, v.probe = true, true
		}
		d.waiting[v.class] = d.waiting[v.class][1:]
		d.dials++
		if g.limiter != nil {
			d.budget = v
			v.recall = func() {}
		}
		v.turn <- struct{}{}
	}
	g.wakeLocked(d, now)
	g.tidyLocked(d)
}

// firstLocked is whose turn it is among those that Retry-After does not hold back.
func (d *door) firstLocked(now time.Time) *visitor {
	for class := range d.waiting {
		if len(d.waiting[class]) > 0 && !now.Before(d.blocked[class]) {
			return d.waiting[class][0]
		}
	}
	return nil
}

// wakeLocked arranges for admitLocked at the next instant at which time alone opens the door.
func (g *gate) wakeLocked(d *door, now time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	var at time.Time
	for class := range d.waiting {
		if len(d.waiting[class]) == 0 {
			continue
		}
		t := d.blocked[class]
		if d.open && !d.probing && d.probe.After(t) {
			t = d.probe
		}
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(at.Sub(now), func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.admitLocked(d)
		})
	}
}

// tidyLocked forgets a door that knows nothing.
func (g *gate) tidyLocked(d *door) {
	if d.dials > 0 || d.failed > 0 || d.open {
		return
	}
	now := time.Now()
	for class := range d.waiting {
		if len(d.waiting[class]) > 0 || now.Before(d.blocked[class]) {
			return
		}
	}
	if g.doors[d.key] == d {
		delete(g.doors, d.key)
	}
}

// outcome is what a dial says of its host.
type outcome int

const (
	hostUnknown outcome = iota // nothing: the dial was cancelled, or failed on our side
	hostUp
	hostDown
)

// leave ends the dial that enter admitted; err is why it failed, retryAfter what the server asked for.
func (g *gate) leave(k doorKey, v *visitor, host outcome, err error, retryAfter time.Duration) {
	g.mu.Lock()
	d := g.doors[k]
	now := time.Now()
	d.dials--
	if v.probe {
		d.probing = false
	}
	var tell func()
	switch {
	case host == hostUp:
		if d.open {
			tell = func() { g.closed(k) }
		}
		d.failed, d.open = 0, false
	case host == hostDown && g.threshold > 0:
		d.failed++
		if !d.open && d.failed >= g.threshold {
			d.open, d.probe = true, now.Add(g.reset)
			tell = func() { g.opened(k, g.reset, err) }
		} else if d.open && v.probe {
			d.probe = now.Add(g.reset)
		}
	}
	var until time.Time
	if retryAfter > 0 {
		retryAfter = min(retryAfter, maxRetryAfter)
		until = now.Add(retryAfter + time.Duration(g.uniform()*float64(retryAfter)/10))
		for class := v.class; class <= routine; class++ { // what a switchover met does not hold back who is down
			if until.After(d.blocked[class]) {
				d.blocked[class] = until
			}
		}
	}
	g.admitLocked(d)
	g.mu.Unlock()
	if tell != nil {
		tell()
	}
	if g.limiter != nil && v.class == urgent && !until.IsZero() {
		g.limiter.Block(k.host, k.egress, until)
	}
}
