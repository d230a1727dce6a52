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

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/placement"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how does a manager begin and end? subscribe.go says how subscriptions come and go.

// runLimit is how long Run gives Stop.
const runLimit = 10 * time.Second

// ShardManager keeps a changing set of subscriptions alive over as many connections as they need. All methods may be called
// by any goroutine, and inside any callback.
type ShardManager[S comparable] struct {
	*core[S]

	mu    sync.Mutex // protects following fields; held for maps and numbers only
	phase phase
	life  *life[S]   // what Stop forgets
	run   *roster[S] // the last; nil before the first Start
	notes *note      // for the log, when mu is free
}

// life is what a manager knows of its subscriptions, from New or a Stop to the next Stop. It is under manager.mu.
type life[S comparable] struct {
	table  *placement.Table[S]
	shards []*shard[S]
	wraps  bool          // a source address is used twice, which was said
	tight  bool          // the budget is too small for the rotation, which was said
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

// roster is a run with the shards that it has launched. It is under manager.mu.
type roster[S comparable] struct {
	*run[S]
	before *roster[S] // whose callbacks may still be running; nil: none
	shards []*shard[S]
}

// managers numbers those of this process.
var managers atomic.Uint64

// New checks cfg, reporting every bad field at once as joined *ConfigError, and starts nothing. h must not be nil.
func New[S comparable](h Handler[S], cfg Config) (*ShardManager[S], error) {
	if v := reflect.ValueOf(h); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, errors.New("wsshard: New needs a Handler, not nil")
	}
	m := &ShardManager[S]{core: &core[S]{h: h, log: slog.New(slog.DiscardHandler), seed: testSeed, number: managers.Add(1), base: time.Now()}}
	if cfg.Logger != nil {
		m.log = slog.New(guardedLog{cfg.Logger.Handler(), &m.count.panics})
	}
	m.caps = findCapabilities(h, m.log)
	limit := 0
	if m.caps.limiter != nil && cfg.MaxSubscriptionsPerShard == 0 {
		if err := m.guard("MaxSubscriptionsPerShard", noShard, func() { limit = m.caps.limiter.MaxSubscriptionsPerShard() }, nil); err != nil {
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
	m.asks = &sharedUniform{next: newUniform(m.seed, -2)}
	m.checkKey = needsKeyCheck(reflect.TypeFor[S]())
	m.forgetLocked()
	return m, nil
}

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
func (m *ShardManager[S]) start(ctx context.Context) (*roster[S], error) {
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
	err = m.guard("Subscriptions", noShard, func() { subs = m.caps.initial.Subscriptions() }, nil)
	returned = true
	return subs, err
}

// beginLocked starts a run with the shards that are there, at least one.
func (m *ShardManager[S]) beginLocked(ctx context.Context) *roster[S] {
	r := &roster[S]{run: newRun(ctx, m.core), before: m.run}
	if r.before != nil && isClosed(r.before.done) {
		r.before = nil
	}
	var last *gate.Gate
	if m.run != nil {
		last = m.run.gate
	}
	r.gate = newGate(r.run, last)
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
		r.observe()
	}
	return r
}

// launchLocked starts a shard's loop.
func (m *ShardManager[S]) launchLocked(s *shard[S]) {
	r := m.run
	s.run = r.run
	s.enter(ShardConnecting)
	r.shards = append(r.shards, s)
	r.gate.Resize(len(r.shards), m.concurrentSwitchovers(len(r.shards)))
	m.checkRotationLocked(len(r.shards))
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

// checkRotationLocked says once where half of a budget is not enough to replace so many shards in an interval.
func (m *ShardManager[S]) checkRotationLocked(shards int) {
	own, ok := m.cfg.Connection.Limiter.(*slidingLimiter)
	every := m.cfg.Connection.ProactiveReconnectInterval
	if !ok || m.life.tight || every <= 0 || own.n <= 0 || own.window <= 0 {
		return
	}
	if most := float64(every) / float64(own.window) * float64(max(1, own.n/2)); float64(shards) > most {
		m.life.tight = true
		m.noteLocked(func() {
			m.log.Warn("half of Connection.Limiter's budget replaces fewer connections in Connection.ProactiveReconnectInterval than there are shards: they live longer",
				"shards", shards, "replaced", int(most))
		})
	}
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
func (m *ShardManager[S]) end(r *roster[S]) {
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
func (m *ShardManager[S]) finish(r *roster[S]) {
	r.loops.Wait() // no shard is launched once ctx has ended
	m.mu.Lock()
	before := r.before
	m.mu.Unlock()
	if before != nil {
		<-before.done
	}
	m.panics.flush(m.log)
	m.log.Info("stopped")
	r.emit(Event[S]{Kind: EventStopped, ShardID: -1})
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
func (m *ShardManager[S]) kill(r *roster[S]) {
	for r != nil {
		r.run.kill()
		m.mu.Lock()
		r = r.before
		m.mu.Unlock()
	}
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

// noteLocked leaves a line to unlock.
func (m *ShardManager[S]) noteLocked(say func()) { m.notes = &note{say, m.notes} }

// unlock is mu.Unlock for those who may leave notes.
func (m *ShardManager[S]) unlock() {
	notes := m.notes
	m.notes = nil
	m.mu.Unlock()
	notes.tell()
}
