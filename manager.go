package wsshard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/placement"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how does a manager begin and end? subscribe.go says how subscriptions come and go.

// runLimit is how long Run gives Stop.
const runLimit = 10 * time.Second

// ShardManager keeps a changing set of subscriptions alive over as many connections as they need. All methods may be called
// by any goroutine, and inside any callback.
type ShardManager[S comparable] struct {
	h        Handler[S]
	caps     capabilities[S]
	cfg      *Config // complete; not written after New
	log      *slog.Logger
	dialer   *dialer
	count    counters
	panics   *panicLog
	pending  *wsconn.Unfinished // unfinished messages of all connections
	checkKey bool               // values of S may be unequal to themselves, or impossible to hash
	seed     uint64             // of jitter; 0: none, as always but in tests

	requestID atomic.Uint64
	late      atomic.Int64 // instant when somebody noticed last that the process had been stopped
	base      time.Time    // instants count from it

	mu    sync.Mutex // protects following fields; held for maps and numbers only
	phase phase
	life  *life[S] // what Stop forgets
	run   *run[S]  // the last; nil before the first Start
	notes *note    // for the log, when mu is free
}

// life is what a manager knows of its subscriptions, from New or a Stop to the next Stop. It is under manager.mu.
type life[S comparable] struct {
	table  *placement.Table[S]
	shards []*shard[S]
	wraps  bool          // a source address is used twice, which was said
	over   chan struct{} // closed by Stop
}

type phase int

const (
	fresh      phase = iota // never started
	starting                // Start is running, for the first time
	restarting              // Start is running after a Stop
	running
	stopped
)

// run is what lives between a Start and the end of its Stop.
type run[S comparable] struct {
	ctx    context.Context // ends when Stop begins
	cancel context.CancelCauseFunc
	late   context.Context // ends when Stop has waited long enough: of the last callbacks
	giveUp context.CancelFunc
	before *run[S] // whose callbacks may still be running; nil: none. Under manager.mu
	gate   *gate
	turns  *gate // of switchovers
	events *events[S]
	loops  sync.WaitGroup
	done   chan struct{} // closed when nothing of it is left

	shards []*shard[S] // under manager.mu

	mu    sync.Mutex // protects following fields; a leaf lock
	conns map[*wsconn.Conn]struct{}
}

// New checks cfg, reporting every bad field at once as joined *ConfigError, and starts nothing. h must not be nil.
func New[S comparable](h Handler[S], cfg Config) (*ShardManager[S], error) {
	if v := reflect.ValueOf(h); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, errors.New("wsshard: New needs a Handler, not nil")
	}
	m := &ShardManager[S]{h: h, panics: new(panicLog), log: slog.New(slog.DiscardHandler), seed: testSeed, base: time.Now()}
	if cfg.Logger != nil {
		m.log = slog.New(guardedLog{cfg.Logger.Handler(), &m.count.panics})
	}
	m.caps = findCapabilities(h, m.log)
	limit := 0
	if m.caps.limiter != nil && cfg.MaxSubscriptionsPerShard == 0 {
		if err := m.guard("MaxSubscriptionsPerShard", func() { limit = m.caps.limiter.MaxSubscriptionsPerShard() }, nil); err != nil {
			return nil, err
		}
	}
	complete := cfg.withDefaults(limit)
	m.cfg = &complete
	if err := m.cfg.validate(); err != nil {
		return nil, err
	}
	if m.caps.inspector == nil && !m.cfg.DisableHotSwitchover {
		m.log.Info("the handler has no Inspector, so messages have no keys: what both connections of a hot switchover bring is delivered twice")
	}
	m.dialer = newDialer(m.cfg.Connection)
	m.pending = wsconn.NewUnfinished(m.cfg.Connection.MaxUnfinished)
	m.checkKey = needsKeyCheck(reflect.TypeFor[S]())
	m.forgetLocked()
	return m, nil
}

// instant is t on the manager's clock, which is monotonic and counts from New, marked.
func (m *ShardManager[S]) instant(t time.Time) int64 { return mark(t.Sub(m.base)) }

// at is the point in time of an instant.
func (m *ShardManager[S]) at(instant int64) time.Time { return m.base.Add(clocked(instant)) }

// testSeed makes jitter reproducible; tests set it before New.
var testSeed uint64

func (m *ShardManager[S]) newTable() *placement.Table[S] {
	strategy := map[ShardSelectionStrategy]placement.Strategy{
		LeastLoaded: placement.LeastLoaded, RoundRobin: placement.RoundRobin, Sequential: placement.Sequential,
	}[m.cfg.ShardSelection]
	return placement.New[S](strategy, m.cfg.MaxSubscriptionsPerShard)
}

// Start begins to connect and returns. ctx is the manager's life, not a limit for beginning: Sync has that. It places what InitialSubscriber names together with what Subscribe has left since
// New; when that finds no place (ErrCapacity) or cannot be a key, nothing is started. A manager whose ctx ended stops
// itself. Start after Stop begins afresh: nothing connects before the callbacks of the last run have returned. ErrStarted
// when it is running, ErrStopped when Stop came in between.
func (m *ShardManager[S]) Start(ctx context.Context) error {
	_, err := m.start(ctx)
	return err
}

// start returns the run that it began.
func (m *ShardManager[S]) start(ctx context.Context) (*run[S], error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	from, life := m.phase, m.life
	switch from {
	case fresh:
		m.phase = starting
	case stopped:
		m.phase = restarting
	default:
		m.mu.Unlock()
		return nil, ErrStarted
	}
	m.mu.Unlock()

	subs, err := m.initial(from, life)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.unlock()
	if m.life != life { // Stop came in between, and maybe the next Start: the phase would not tell
		return nil, ErrStopped
	}
	if err := m.placeInitialLocked(subs); err != nil {
		m.phase = from
		return nil, err
	}
	return m.beginLocked(ctx), nil
}

// initial asks the handler what to begin life with. However that ends, the phase is right afterwards.
func (m *ShardManager[S]) initial(from phase, life *life[S]) (subs []S, err error) {
	if m.caps.initial == nil {
		return nil, nil
	}
	returned := false
	defer func() {
		if !returned || err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.life == life {
				m.phase = from
			}
		}
	}()
	err = m.guard("Subscriptions", func() { subs = m.caps.initial.Subscriptions() }, nil)
	returned = true
	return subs, err
}

// beginLocked starts a run with the shards that are there, at least one.
func (m *ShardManager[S]) beginLocked(ctx context.Context) *run[S] {
	r := &run[S]{before: m.run, conns: make(map[*wsconn.Conn]struct{}), done: make(chan struct{})}
	if r.before != nil && isClosed(r.before.done) {
		r.before = nil
	}
	r.ctx, r.cancel = context.WithCancelCause(m.withCallback(context.WithoutCancel(ctx)))
	r.late, r.giveUp = context.WithCancel(context.WithoutCancel(r.ctx))
	uniform := newUniform(m.seed, -1)
	dials := m.cfg.Connection
	if dials.Limiter != nil {
		dials.Limiter = guardedLimiter[S]{m, dials.Limiter}
	}
	r.gate = newGate(dials, uniform)
	r.gate.opened = func(k doorKey, delay time.Duration, cause error) { m.breakerOpened(r, k, delay, cause) }
	r.gate.closed = func(k doorKey) { m.breakerClosed(r, k) }
	r.turns = newGate(ConnectionConfig{}, uniform)
	if m.caps.observer != nil {
		r.events = newEvents[S]()
	}
	m.run = r
	m.phase = running
	if len(m.life.shards) == 0 {
		m.openLocked()
	}
	for _, s := range m.life.shards {
		m.launchLocked(s)
	}
	shards, subs := len(m.life.shards), m.life.table.Len()
	m.noteLocked(func() { m.log.Info("started", "shards", shards, "subscriptions", subs) })
	end := context.AfterFunc(ctx, func() { m.end(r) })
	context.AfterFunc(r.ctx, func() {
		end()
		m.finish(r)
	})
	if r.events != nil {
		m.observe(r)
	}
	return r
}

// launchLocked starts a shard's loop.
func (m *ShardManager[S]) launchLocked(s *shard[S]) {
	r := m.run
	s.run = r
	s.stats.set(func(st *shardStats) { st.state = ShardConnecting })
	r.shards = append(r.shards, s)
	r.turns.setLimit(m.concurrentSwitchovers(len(r.shards)))
	before := r.before
	r.loops.Go(func() {
		if before != nil { // a callback of the last run may still be running for this shard's id
			select {
			case <-before.done:
			case <-r.ctx.Done():
			}
		}
		s.reconnectLoop(r.ctx)
	})
}

func (m *ShardManager[S]) concurrentSwitchovers(shards int) int {
	if n := m.cfg.Switchover.MaxConcurrent; n != 0 {
		return n
	}
	return max(4, shards/32)
}

// Stop closes every connection with a close frame and waits. nil: no goroutine and no descriptor is left. ctx.Err(): every
// socket is closed; what is left are goroutines inside a callback that ignores its ctx, each ending when it returns.
// ErrInCallback: the end has begun. Stop forgets subscriptions, shard ids and per-shard metrics; totals stay. A manager that
// is not running is stopped at once.
func (m *ShardManager[S]) Stop(ctx context.Context) error {
	m.mu.Lock()
	r := m.run
	m.forgetLocked()
	m.phase = stopped
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel(ErrStopped)
	if m.inCallback(ctx) {
		return ErrInCallback
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	if isClosed(r.done) {
		return nil
	}
	m.kill(r)
	return ctx.Err()
}

// end stops a run whose ctx ended.
func (m *ShardManager[S]) end(r *run[S]) {
	m.mu.Lock()
	if m.run == r && m.phase == running {
		m.forgetLocked()
		m.phase = stopped
	}
	m.mu.Unlock()
	r.cancel(ErrStopped)
}

// forgetLocked begins a new life: no subscriptions, no shards.
func (m *ShardManager[S]) forgetLocked() {
	if m.life != nil {
		close(m.life.over)
	}
	m.life = &life[S]{table: m.newTable(), over: make(chan struct{})}
}

// finish waits for all that belongs to a run whose ctx has ended.
func (m *ShardManager[S]) finish(r *run[S]) {
	r.loops.Wait() // no shard is launched once ctx has ended
	m.mu.Lock()
	before := r.before
	m.mu.Unlock()
	if before != nil {
		<-before.done
	}
	m.panics.flush(m.log)
	m.log.Info("stopped")
	m.emit(r, Event[S]{Kind: EventStopped, ShardID: -1})
	if r.events != nil {
		r.events.close()
		<-r.events.done
	}
	m.mu.Lock()
	for _, s := range r.shards {
		m.count.received.Add(s.stats.messages.Load())
		m.count.receivedBytes.Add(s.stats.bytes.Load())
	}
	r.before, r.shards = nil, nil
	m.mu.Unlock()
	r.giveUp()
	close(r.done)
}

// kill closes every socket at once, also those of runs before r that have not ended yet.
func (m *ShardManager[S]) kill(r *run[S]) {
	for r != nil {
		r.kill()
		m.mu.Lock()
		r = r.before
		m.mu.Unlock()
	}
}

// kill closes r's sockets, and tells the last callbacks that nobody waits.
func (r *run[S]) kill() {
	r.giveUp()
	r.mu.Lock()
	conns := make([]*wsconn.Conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	for _, c := range conns {
		c.Kill()
	}
}

func (m *ShardManager[S]) track(r *run[S], c *wsconn.Conn) {
	r.mu.Lock()
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	if r.late.Err() != nil { // kill has been and gone
		c.Kill()
	}
}

func (m *ShardManager[S]) untrack(r *run[S], c *wsconn.Conn) {
	r.mu.Lock()
	delete(r.conns, c)
	r.mu.Unlock()
}

// Run is Start, wait for ctx, Stop within 10 s: it fits an errgroup. nil if ctx ended, else why: an error of Start or of
// Stop, ErrStopped when somebody else stopped the manager.
func (m *ShardManager[S]) Run(ctx context.Context) error {
	r, err := m.start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	<-r.ctx.Done()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), runLimit)
	defer cancel()
	if m.inCallback(ctx) {
		return ErrInCallback
	}
	select {
	case <-r.done:
	case <-limit.Done():
		m.kill(r)
		return fmt.Errorf("wsshard: not stopped after %v: %w", runLimit, limit.Err())
	}
	if ctx.Err() != nil {
		return nil
	}
	return ErrStopped
}

// IsRunning reports whether the manager is between Start and Stop.
func (m *ShardManager[S]) IsRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == running
}

// Handler returns the handler given to New.
func (m *ShardManager[S]) Handler() Handler[S] { return m.h }

// emit hands an event to the observer, if there is one.
func (m *ShardManager[S]) emit(r *run[S], ev Event[S]) {
	if r == nil || r.events == nil {
		return
	}
	if r.events.push(ev) {
		m.count.eventsDropped.Add(1)
	}
}

// observe starts the goroutine that calls the observer.
func (m *ShardManager[S]) observe(r *run[S]) {
	go r.events.deliver(func(ev Event[S]) {
		m.guard("OnEvent", func() { m.caps.observer.OnEvent(ev) }, nil)
	})
}

func (m *ShardManager[S]) breakerOpened(r *run[S], k doorKey, delay time.Duration, cause error) {
	m.count.trips.Add(1)
	m.log.Warn("circuit breaker opened", "host", k.host, "egress", k.egress, "probe_in", delay, "err", cause)
	m.emit(r, Event[S]{Kind: EventBreakerOpen, ShardID: -1, Delay: delay, Err: cause})
}

func (m *ShardManager[S]) breakerClosed(r *run[S], k doorKey) {
	m.log.Info("circuit breaker closed", "host", k.host, "egress", k.egress)
	m.emit(r, Event[S]{Kind: EventBreakerClosed, ShardID: -1})
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
