package wsshard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: how does a shard keep one live session?

// maxQuiet bounds the data timeout of a quiet market, which doubles each time that a new connection is as silent.
const maxQuiet = 15 * time.Minute

// shard is a slot with an id and a desired set. It outlives connections. Its reconnect loop owns which sessions live.
type shard[S comparable] struct {
	m       *ShardManager[S]
	run     *run[S] // nil until started; set before its goroutine begins
	id      int
	egress  string
	log     *slog.Logger // written by the reconnect loop before anything else
	desired *reconcile.Desired[S]
	stats   shardStats
	fresh   freshness[S]
	resubs  resubscriptions[S]
	live    atomic.Pointer[session[S]] // the one that delivers; nil: none
	door    atomic.Pointer[gate.Key]   // where live is, or was last; nil: it never was
	quiet   atomic.Int64               // data timeout after silent replacements; 0: the configured one
	wake    chan struct{}              // cap 1; the reconnect loop has something to look at
	hurried chan struct{}              // cap 1; a reconnect was asked for: who waits at the gate goes first
	waiting atomic.Bool                // some Sync waits
	lingers atomic.Bool                // places may be taken by topics that are not on the live session
	missing atomic.Bool                // there are gaps
	noticed atomic.Uint64              // generation of the session that a notice brought
	leavers atomic.Pointer[leavers[S]] // set while a switchover keeps the live session still

	// owned by the reconnect loop
	tries    *attempts
	renewals *attempts // of lifetime switchovers
	uniform  func() float64
	gen      uint64
	failedAt map[gate.Key]bool // doors at which dials have failed since the last stable connection

	mu        sync.Mutex // protects following fields; a leaf lock
	reconnect bool       // asked for
	over      bool       // the loop has ended: nobody answers any more
	move      *move      // the switchover that is asked for or under way
	waits     []*syncWait[S]
	gaps      []*gap[S] // what is being missed, until it is proven again
}

func newShard[S comparable](m *ShardManager[S], id int) *shard[S] {
	s := &shard[S]{
		m: m, id: id, egress: m.dialer.egress(id),
		desired: reconcile.New[S](),
		wake:    make(chan struct{}, 1),
		hurried: make(chan struct{}, 1),
		uniform: newUniform(m.seed, id),
	}
	s.tries = newAttempts(m.cfg.Backoff, s.uniform)
	renewal := m.cfg.Backoff
	renewal.MaxDelay = max(0, m.cfg.Connection.ProactiveReconnectInterval/4)
	s.renewals = newAttempts(renewal, s.uniform)
	s.stats.state = ShardStopped
	s.stats.egress = s.egress
	return s
}

// reconnectLoop keeps the shard connected until ctx ends. Each turn is one attempt and the life of what it opened.
func (s *shard[S]) reconnectLoop(ctx context.Context) {
	defer s.stopped()
	s.log = s.m.log.With("shard", s.id, "egress", s.egress) // here, where no lock is held
	fresh := true
	for ctx.Err() == nil {
		// 1st: one attempt.
		s.enter(ShardConnecting)
		s.emit(Event[S]{Kind: EventConnecting, Attempt: s.tries.failed + 1})
		res := s.attempt(ctx)
		err := res.err
		s.tries.dials += res.turned

		// 2nd: hold what it opened, and what replaces that, until nothing is live.
		intended := false
		if err == nil {
			s.takeReconnect() // one that was asked for meanwhile has its new connection
			err, intended = s.hold(ctx, res.session, fresh)
			fresh = !errors.Is(err, ErrMaxLifetime)
		} else if ctx.Err() == nil {
			s.refused(res)
		}
		if ctx.Err() != nil {
			return
		}

		// 3rd: is there a point in going on?
		if intended {
			continue
		}
		if !s.retry(ctx, err) {
			s.park(ctx, err)
			continue
		}

		// 4th: wait for the next attempt, unless the gate spaces it.
		if !res.waits {
			s.backOff(ctx, err)
		}
	}
}

// refused notes an attempt that failed.
func (s *shard[S]) refused(res attemptResult[S]) {
	s.failsAt(res.door)
	s.tries.refused()
	s.failed(res.err)
}

// hold keeps the shard on a live session, replacing it by switchover, until there is none. It returns why the last one ended.
// intended means that we ended it ourselves: the caller then reconnects at once, without OnError and without backoff. fresh
// says that no connection of ours made way for cur: the shard has had none yet, or has lost it.
func (s *shard[S]) hold(ctx context.Context, cur *session[S], fresh bool) (cause error, intended bool) {
	s.renewals.restart()
	waited := s.takeMove() // with DisableHotSwitchover somebody waits for cur; who asks from now on means its successor
	s.promote(cur)
	s.connected(cur)
	if waited != nil {
		waited.end(nil)
	}
	age := time.NewTimer(s.lifetime(fresh))
	defer age.Stop()
	slot := false // of the rotation: age has one
	for {
		// 1st: wait until something happens.
		select {
		case <-cur.delivered:
		case <-s.wake:
		case <-age.C:
			var again time.Duration
			again, slot = s.grownOld(cur, slot)
			age.Reset(again)
		}

		// 2nd: break it, or replace it, where somebody asks for that.
		if cur.ctx.Err() == nil && s.takeReconnect() {
			cur.end(ErrReconnect)
			if !errors.Is(context.Cause(cur.ctx), ErrReconnect) { // it had just ended by itself: the request is for what follows
				s.askReconnect()
			}
		}
		mv, next := s.pendingMove(), cur
		if mv != nil && cur.ctx.Err() == nil {
			next = s.switchover(ctx, cur, mv)
		}

		// 3rd: is none live any more?
		if next == nil || next == cur && cur.ctx.Err() != nil {
			<-cur.delivered
			if s.live.Load() == cur { // else the switchover saw it go
				s.down(cur)
			}
			s.m.releaseLingering(s, func(S) bool { return false }) // the next connection begins with none of it
			if !s.closesFirst() {
				s.answerMove(ErrNotConnected)
			}
			cause = cur.cause()
			return cause, isAny(cause, ErrReconnect, ErrMaxLifetime)
		}

		// 4th: how long may it live?
		switch {
		case mv == nil:
		case next != cur:
			s.tries.outlived(time.Since(cur.opened))
			s.renewals.restart()
			_, silent, _ := s.look(mv)
			age.Reset(s.lifetime(silent || !cur.isRetired()))
			cur = next
		case mv.aged: // no failure to get a new connection ends a live one
			slot = true
			age.Reset(s.renewals.delay())
		}
	}
}

// closesFirst reports whether a new connection takes the place of the old one only when that is closed: switchovers are
// disabled, or the host allows one connection for a key.
func (s *shard[S]) closesFirst() bool {
	door := s.door.Load()
	return s.m.cfg.DisableHotSwitchover || door != nil && s.run.gate.Single(*door)
}

// promote makes cur the session that delivers.
func (s *shard[S]) promote(cur *session[S]) {
	s.live.Store(cur)
	door := cur.stay.Key()
	s.door.Store(&door)
	select {
	case <-s.hurried: // here is what was asked for
	default:
	}
	s.lingers.Store(true) // cur may carry less than the one before
	s.resubs.reset()
	s.stats.set(func(st *shardStats) {
		if !st.opened.IsZero() {
			st.uptime += cur.opened.Sub(st.opened) // both were open since
		}
		st.state, st.opened, st.gen = ShardConnected, cur.opened, cur.st.Generation
	})
	cur.tellProven()
	poke(cur.wake) // those who wait in Sync ask this one from now on
}

// connected tells that a session is live after none was, and lets it read.
func (s *shard[S]) connected(cur *session[S]) {
	s.log.Info("connected", "gen", cur.st.Generation)
	s.emit(Event[S]{Kind: EventConnected, Generation: cur.st.Generation})
	cur.start()
}

// down notes that the session that delivered is lost.
func (s *shard[S]) down(cur *session[S]) {
	s.live.Store(nil)
	cause := cur.cause()
	up := time.Since(cur.opened)
	switch {
	case s.run.ctx.Err() != nil:
	case isAny(cause, ErrReconnect, ErrMaxLifetime):
		s.tries.outlived(up)
	default:
		s.failsAt(cur.stay.Key())
		s.tries.lost(up)
		s.failed(cause)
	}
	s.stats.set(func(st *shardStats) {
		if !st.opened.IsZero() {
			st.uptime += time.Since(st.opened)
		}
		st.opened = time.Time{}
	})
	if s.run.ctx.Err() == nil {
		s.openGap(cur, cur.gapFrom(cause))
		s.log.Warn("disconnected", "gen", cur.st.Generation, "cause", cause)
	}
	s.emit(Event[S]{Kind: EventDisconnected, Generation: cur.st.Generation, Err: cause})
}

// failed counts a failed attempt or a lost connection.
func (s *shard[S]) failed(err error) {
	s.m.count.errors.Add(1)
	s.stats.set(func(st *shardStats) { st.err, st.failed = err, s.tries.dials })
}

// retry asks OnError and the limit on attempts.
func (s *shard[S]) retry(ctx context.Context, err error) bool {
	again := true
	if h := s.m.caps.failure; h != nil {
		st := s.state()
		if s.m.apart("OnError", func() { again = h.OnError(ctx, err, st) }) != nil {
			again = true // a panic is no verdict
		}
	}
	most := s.m.cfg.Connection.MaxConnectAttempts
	return again && (most <= 0 || s.tries.failed < most)
}

// backOff waits before the next attempt, or less when a reconnect is asked for.
func (s *shard[S]) backOff(ctx context.Context, err error) {
	delay := s.tries.delay()
	s.enter(ShardBackoff)
	s.log.Debug("backoff", "delay", delay, "attempt", s.tries.failed, "err", err)
	s.emit(Event[S]{Kind: EventBackoff, Delay: delay, Attempt: s.tries.failed, Err: err})
	s.pause(ctx, delay)
}

// park gives up until a reconnect is asked for.
func (s *shard[S]) park(ctx context.Context, err error) {
	s.enter(ShardParked)
	s.m.suspend(s, true)
	s.log.Error("parked", "attempts", s.tries.failed, "err", err)
	s.emit(Event[S]{Kind: EventParked, Attempt: s.tries.failed, Err: err, Subs: s.desired.List()})
	s.answerMove(errParked)
	s.failWaits(ErrShardParked)
	s.pause(ctx, -1)
	if ctx.Err() == nil {
		s.m.suspend(s, false)
		s.tries.restart()
		s.stats.set(func(st *shardStats) { st.failed = 0 })
	}
}

// pause waits for d, for ever if negative, or until a reconnect is asked for; not for ever, also until the handler names a host
// at which no dial has failed yet.
func (s *shard[S]) pause(ctx context.Context, d time.Duration) {
	over, ask := stoppedTimer(), stoppedTimer()
	defer over.Stop()
	defer ask.Stop()
	if d >= 0 {
		over.Reset(d)
		ask.Reset(askEvery(s.m))
	}
	ctx, cancel := context.WithCancel(ctx)
	var answer <-chan gate.Key // nil: URL is not being asked
	defer func() {
		cancel()
		if answer != nil {
			<-answer
		}
	}()
	for !s.takeReconnect() {
		select {
		case <-over.C:
			return
		case <-ask.C:
			answer = s.askURL(ctx)
		case door := <-answer:
			answer = nil
			if door.Host != "" && !s.failedAt[door] {
				return
			}
			ask.Reset(askEvery(s.m))
		case <-ctx.Done():
			return
		case <-s.wake:
			if !s.closesFirst() {
				s.answerMove(ErrNotConnected)
			}
		}
	}
}

// stopped is the end of the reconnect loop.
func (s *shard[S]) stopped() {
	s.enter(ShardStopped)
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.endGaps()
	s.answerMove(ErrStopped)
	s.failWaits(ErrStopped)
}

// wants reports whether a topic is desired now. What nobody needs any more is not waited for.
func (s *shard[S]) wants(sub S) bool {
	_, ok := s.desired.Number(sub)
	return ok
}

func (s *shard[S]) enter(state ShardState) {
	s.stats.set(func(st *shardStats) { st.state = state })
}

func (s *shard[S]) emit(ev Event[S]) {
	ev.ShardID = s.id
	s.m.emit(s.run, ev)
}

// state describes the next attempt.
func (s *shard[S]) state() ConnectionState {
	if c := s.live.Load(); c != nil && time.Since(c.opened) >= s.m.cfg.Backoff.StableAfter {
		s.tries.restart()
	}
	return ConnectionState{
		ShardID:           s.id,
		Generation:        s.gen + 1,
		SubscriptionCount: s.desired.Len(),
		IsReconnect:       s.gen > 0,
		ReconnectAttempt:  s.tries.dials,
		Egress:            s.egress,
	}
}

// takeReconnect reports whether a reconnect was asked for.
func (s *shard[S]) takeReconnect() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reconnect
	s.reconnect = false
	return r
}

// reconnectAsked leaves the request to takeReconnect.
func (s *shard[S]) reconnectAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reconnect
}

func (s *shard[S]) askReconnect() {
	s.mu.Lock()
	s.reconnect = true
	s.mu.Unlock()
	poke(s.wake)
	poke(s.hurried)
}

// dataTimeout is how long a connection of this shard may be without data; not positive: for ever.
func (s *shard[S]) dataTimeout() time.Duration {
	if q := s.quiet.Load(); q > 0 {
		return time.Duration(q)
	}
	return s.m.cfg.Health.DataTimeout
}

// silent notes a data timeout after so long. Where the connection before was silent too and this one never brought data,
// the market is quiet: the next one gets more time. The first data ends that.
func (s *shard[S]) silent(hadData bool, after time.Duration) {
	base := s.m.cfg.Health.DataTimeout
	if s.quiet.Load() == 0 || hadData {
		s.quiet.Store(int64(base))
	} else {
		s.quiet.Store(int64(max(base, min(2*after, maxQuiet))))
	}
}

// Reconnect breaks the shard's connection and makes a new one, at once; it revives a parked shard. It does not wait. A shard
// that is connecting goes on. ErrUnknownShard, ErrStopped, ErrNotConnected before Start.
func (m *ShardManager[S]) Reconnect(shardID int) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	s.askReconnect()
	s.stats.set(func(st *shardStats) {
		if st.state == ShardParked { // from here on it is not: Subscribe and Sync may follow at once
			st.state = ShardConnecting
		}
	})
	m.suspend(s, false)
	return nil
}

// errParked is what a shard that gave up answers: it is down, too.
var errParked = fmt.Errorf("%w: %w", ErrNotConnected, ErrShardParked)

// whyDown says why a shard has no live connection.
func (s *shard[S]) whyDown() error {
	err := ErrNotConnected
	s.stats.set(func(st *shardStats) {
		if st.state == ShardParked {
			err = errParked
		}
	})
	return err
}
