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
	uniform   func() float64                                    // under mu
	opened    func(k doorKey, delay time.Duration, cause error) // called without a lock
	closed    func(k doorKey)

	mu      sync.Mutex // protects following fields and all doors; a leaf lock
	doors   map[doorKey]*door
	news    []func() // what opened and closed are to hear, in order
	telling bool     // somebody is calling them
}

type doorKey struct{ host, egress string }

type door struct {
	key     doorKey
	waiting [routine + 1][]*visitor
	budget  *visitor // the one that waits for the budget now
	dials   int      // in flight
	blocked [routine + 1]time.Time
	failed  int       // in a row
	last    time.Time // of those
	open    bool
	probe   time.Time // when the open breaker lets one through
	probing bool
	timer   *time.Timer
}

// visitor is one dial that wants to begin.
type visitor struct {
	class  urgency
	turn   chan error         // cap 1; nil when it is its turn, else why it will not be
	recall context.CancelFunc // while it has the turn to wait for the budget: something else comes first
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
	for _, d := range g.doors {
		g.admitLocked(d)
	}
}

// enter waits until a dial may begin. The caller then reports its end to leave. A switchover is refused with ErrCircuitOpen
// rather than kept waiting for a host that is down, unless it may be the probe. lost is closed when a switchover's shard
// has lost its connection meanwhile: from then on it is as urgent as any; nil: never.
func (g *gate) enter(ctx context.Context, k doorKey, class urgency, lost <-chan struct{}) (*visitor, error) {
	v := &visitor{class: class, turn: make(chan error, 1)}
	d := g.join(k, v)
	for {
		select {
		case err := <-v.turn:
			if err != nil {
				return nil, err
			}
		case <-lost:
			lost = nil
			g.hurry(d, v)
			continue
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

// join puts v in line.
func (g *gate) join(k doorKey, v *visitor) *door {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[k]
	if d == nil {
		g.sweepLocked()
		d = &door{key: k}
		g.doors[k] = d
	}
	d.waiting[v.class] = append(d.waiting[v.class], v)
	g.admitLocked(d)
	return d
}

// hurry moves v to the end of those who are down.
func (g *gate) hurry(d *door, v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(d.waiting[v.class], v); i >= 0 {
		d.waiting[v.class] = slices.Delete(d.waiting[v.class], i, i+1)
		d.waiting[urgent] = append(d.waiting[urgent], v)
	}
	v.class = urgent
	g.admitLocked(d)
}

// wait spends budget on v, whose turn it is. It returns again when something else comes first. What it does at the end it
// does even when the limiter, which may be the application's, took the goroutine away.
func (g *gate) wait(ctx context.Context, d *door, v *visitor) (again bool, err error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	v.recall = cancel
	if g.overtakenLocked(d, v, time.Now()) {
		cancel()
	}
	g.mu.Unlock()
	returned := false
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		d.budget = nil
		if err != nil || !returned {
			d.dials--
			if v.probe {
				v.probe, d.probing = false, false
			}
			if again = returned && waiting.Err() != nil && ctx.Err() == nil; again {
				d.waiting[v.class] = slices.Insert(d.waiting[v.class], 0, v)
			}
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
		g.admitLocked(d)
	}()
	err = g.limiter.Wait(waiting, d.key.host, d.key.egress)
	returned = true
	return again, err
}

// giveUp takes a visitor that stopped waiting out of the line.
func (g *gate) giveUp(d *door, v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(d.waiting[v.class], v); i >= 0 {
		d.waiting[v.class] = slices.Delete(d.waiting[v.class], i, i+1)
	} else if err := <-v.turn; err == nil { // admitted in the same instant: hand the place on
		d.dials--
		if d.budget == v {
			d.budget = nil
		}
		if v.probe {
			d.probing = false
		}
	}
	g.admitLocked(d)
}

// admitLocked lets in whoever may begin now, and sets the timer for who may begin later.
func (g *gate) admitLocked(d *door) {
	now := time.Now()
	if d.budget != nil && g.overtakenLocked(d, d.budget, now) {
		d.budget.recall()
	}
	for d.budget == nil && d.dials < g.placesLocked(d) {
		v := d.firstLocked(now)
		if v == nil {
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
			v.recall = func() {} // wait looks again
		}
		v.turn <- nil
	}
	if d.open {
		for class := asked; class <= routine; class++ {
			for _, v := range d.waiting[class] {
				v.turn <- ErrCircuitOpen
			}
			d.waiting[class] = nil
		}
	}
	g.wakeLocked(d, now)
	g.tidyLocked(d, now)
}

// placesLocked is how many dials may be in flight. Each failure in a row takes a place, so that a host which refuses at once
// sees no more dials before the breaker opens than one which does not answer.
func (g *gate) placesLocked(d *door) int {
	switch {
	case g.inFlight <= 0:
		return 1 << 30
	case d.open:
		return g.inFlight
	}
	return max(1, g.inFlight-d.failed)
}

// overtakenLocked reports whether v, whose turn it is to wait for the budget, should go back into the line.
func (g *gate) overtakenLocked(d *door, v *visitor, now time.Time) bool {
	for class := range v.class {
		if len(d.waiting[class]) > 0 && !now.Before(d.blocked[class]) {
			return true
		}
	}
	return now.Before(d.blocked[v.class]) || d.open && !v.probe
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
func (g *gate) tidyLocked(d *door, now time.Time) {
	if d.idleLocked(now) && d.failed == 0 && g.doors[d.key] == d {
		delete(g.doors, d.key)
	}
}

// sweepLocked forgets doors at which nothing happened for long: a handler may name a new host each time.
func (g *gate) sweepLocked() {
	now := time.Now()
	for k, d := range g.doors {
		if d.idleLocked(now) && now.Sub(d.last) > maxRetryAfter {
			delete(g.doors, k)
		}
	}
}

func (d *door) idleLocked(now time.Time) bool {
	if d.dials > 0 || d.open {
		return false
	}
	for class := range d.waiting {
		if len(d.waiting[class]) > 0 || now.Before(d.blocked[class]) {
			return false
		}
	}
	return true
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
	switch {
	case host == hostUp:
		if d.open {
			g.news = append(g.news, func() { g.closed(k) })
		}
		d.failed, d.open = 0, false
	case host == hostDown && g.threshold > 0:
		d.failed, d.last = d.failed+1, now
		if !d.open && d.failed >= g.threshold {
			d.open, d.probe = true, now.Add(g.reset)
			g.news = append(g.news, func() { g.opened(k, g.reset, err) })
		} else if d.open && v.probe {
			d.probe = now.Add(g.reset)
		}
	}
	var until time.Time
	if retryAfter > 0 {
		jittered := retryAfter + time.Duration(g.uniform()*float64(min(retryAfter, maxRetryAfter))/10)
		until = now.Add(min(jittered, maxRetryAfter))
		for class := v.class; class <= routine; class++ { // what a switchover met does not hold back who is down
			if until.After(d.blocked[class]) {
				d.blocked[class] = until
			}
		}
	}
	down := v.class == urgent
	g.admitLocked(d)
	g.mu.Unlock()
	g.tell()
	if g.limiter != nil && down && !until.IsZero() {
		g.limiter.Block(k.host, k.egress, until)
	}
}

// tell passes on the news, one caller at a time: else a breaker that opens and closes at once could be heard to close and
// then to open.
func (g *gate) tell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.telling {
		return
	}
	g.telling = true
	for len(g.news) > 0 {
		next := g.news[0]
		g.news = g.news[1:]
		g.mu.Unlock()
		next()
		g.mu.Lock()
	}
	g.telling = false
}
