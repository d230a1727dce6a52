package wsshard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: how does a shard keep one live session?

// shard is a slot with an id and a desired set. It outlives connections. Its reconnect loop owns which sessions live.
type shard[S comparable] struct {
	slot[S]
	places  places[S]
	live    atomic.Pointer[session[S]] // the one that delivers; nil: none
	door    atomic.Pointer[gate.Key]   // where live is, or was last; nil: it never was
	hurried chan struct{}              // cap 1; a reconnect was asked for: who waits at the gate goes first
	waiting atomic.Bool                // some Sync waits
	lingers atomic.Bool                // places may be taken by topics that are not on the live session
	noticed atomic.Uint64              // generation of the session that a notice brought
	stage   atomic.Pointer[stage[S]]   // of the switchover that is under way; nil: none is

	// Topics that are unsubscribed while a switchover keeps the live session still; nil: none does.
	unsubscribedMeanwhile atomic.Pointer[meanwhile[S]]

	// owned by the reconnect loop
	tries    *attempts
	renewals *attempts // of lifetime switchovers
	uniform  func() float64
	gen      uint64
	failedAt map[gate.Key]bool // doors at which dials have failed since the last stable connection

	mu        sync.Mutex // protects following fields. Under it only the locks of claims and of the desired set are taken
	reconnect bool       // asked for
	over      bool       // the loop has ended: nobody answers any more
	wish      *wish      // the switchover that is asked for or under way
	waits     []*syncWait[S]
}

// places is the table of the manager that says which topics have a place where, as a shard sees it. A shard of a run that is
// ending changes nothing in it.
type places[S comparable] interface {
	// suspend keeps new subscriptions away from a parked shard.
	suspend(s *shard[S], yes bool)
	// stays takes note that topics without a subscription stay on c, a connection of the shard: their places are taken until the next one.
	stays(s *shard[S], c *session[S], subs []S)
	// releaseLingering frees the places of topics that are not on the shard's connection; on says which are.
	releaseLingering(s *shard[S], on func(S) bool)
}

func newShard[S comparable](c *core[S], p places[S], id int) *shard[S] {
	s := &shard[S]{
		slot:    slot[S]{core: c, id: id, egress: c.dialer.egress(id), desired: reconcile.New[S](), wake: make(chan struct{}, 1)},
		places:  p,
		hurried: make(chan struct{}, 1),
		uniform: newUniform(c.seed, id),
	}
	s.tries = newAttempts(c.cfg.Backoff, s.uniform)
	renewal := c.cfg.Backoff
	renewal.MaxDelay = max(0, c.cfg.Connection.ProactiveReconnectInterval/4)
	s.renewals = newAttempts(renewal, s.uniform)
	s.stats.state, s.stats.since = ShardStopped, time.Now()
	s.stats.egress = s.egress
	return s
}

// reconnectLoop keeps the shard connected until ctx ends. Each turn is one attempt and the life of what it opened.
func (s *shard[S]) reconnectLoop(ctx context.Context) {
	s.core.label(ctx, "shard", s.id)
	defer s.stopped()
	s.log = s.core.log.With("shard", s.id, "egress", s.egress) // here, where no lock is held
	fresh := true
	for ctx.Err() == nil {
		// 1st: one attempt.
		s.enter(ShardConnecting)
		s.emit(Event[S]{Kind: EventConnecting, Attempt: s.tries.failed + 1})
		res := s.attempt(ctx)
		s.took(res)
		err := res.err
		s.tries.dials += res.turned

		// 2nd: hold the session that it opened, and those that replace it, until none is live.
		intended := false
		if err == nil {
			s.takeReconnect() // one that was asked for meanwhile has its new connection
			err, intended = s.hold(ctx, res.take(), fresh)
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

// attempt takes the steps to a new connection, and waits for them.
func (s *shard[S]) attempt(ctx context.Context) attemptResult[S] {
	o := newOpening[S](&s.slot, s, s.state())
	o.ticket, o.hurried = gate.NewTicket(s.id, s.tries.failed, gate.Down), s.hurried
	return <-o.begin(ctx)
}

// took notes that an attempt has taken a generation.
func (s *shard[S]) took(res attemptResult[S]) {
	if res.opened {
		s.gen++
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
	waited := s.takeWish() // with DisableHotSwitchover somebody waits for cur; who asks from now on means its successor
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
		wish, next := s.pendingWish(), cur
		if wish != nil && cur.ctx.Err() == nil {
			next = s.switchover(ctx, cur, wish)
		}

		// 3rd: is none live any more?
		if next == nil || next == cur && cur.ctx.Err() != nil {
			<-cur.delivered
			if s.live.Load() == cur { // else the switchover saw it go
				s.down(cur)
			}
			s.places.releaseLingering(s, func(S) bool { return false }) // the next connection begins with none of it
			if !s.closesFirst() {
				s.answerWish(ErrNotConnected)
			}
			cause = cur.cause()
			return cause, isAny(cause, ErrReconnect, ErrMaxLifetime)
		}

		// 4th: how long may it live?
		switch {
		case wish == nil:
		case next != cur:
			s.tries.outlived(time.Since(cur.opened))
			s.renewals.restart()
			_, silent, _ := s.look(wish)
			age.Reset(s.lifetime(silent || !cur.isRetired()))
			cur = next
		case wish.aged: // no failure to get a new connection ends a live one
			slot = true
			age.Reset(s.renewals.delay())
		}
	}
}

// failsAt notes where a dial failed, or a session was lost, since the last stable connection.
func (s *shard[S]) failsAt(door gate.Key) {
	if s.tries.failed == 0 || s.failedAt == nil || len(s.failedAt) >= 16 {
		s.failedAt = make(map[gate.Key]bool)
	}
	s.failedAt[door] = true
}

// closesFirst reports whether a new connection takes the place of the old one only when that is closed: switchovers are
// disabled, or the host allows one connection for a key.
func (s *shard[S]) closesFirst() bool {
	door := s.door.Load()
	return s.core.cfg.DisableHotSwitchover || door != nil && s.run.gate.Single(*door)
}

func (s *shard[S]) delivers(c *session[S]) bool { return s.live.Load() == c }

func (s *shard[S]) isDown() bool { return s.live.Load() == nil }

// liveGeneration is that of the live connection; 0: there is none.
func (s *shard[S]) liveGeneration() uint64 {
	if c := s.live.Load(); c != nil {
		return c.st.Generation
	}
	return 0
}

func (s *shard[S]) stays(c *session[S], subs []S) { s.places.stays(s, c, subs) }

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
		st.become(ShardConnected)
		st.opened, st.gen = cur.opened, cur.st.Generation
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
		s.openGap(cur.loss(cur.gapFrom(cause)))
		s.log.Warn("disconnected", "gen", cur.st.Generation, "cause", cause)
	}
	s.emit(Event[S]{Kind: EventDisconnected, Generation: cur.st.Generation, Err: cause})
}

// failed counts a failed attempt or a lost connection.
func (s *shard[S]) failed(err error) {
	s.core.count.errors.Add(1)
	s.stats.set(func(st *shardStats) { st.err, st.failed = err, s.tries.dials })
}

// retry asks OnError and the limit on attempts.
func (s *shard[S]) retry(ctx context.Context, err error) bool {
	again := true
	if h := s.core.caps.failure; h != nil {
		st := s.state()
		if s.core.apart("OnError", s.id, func() { again = h.OnError(ctx, err, st) }) != nil {
			again = true // a panic is no verdict
		}
	}
	most := s.core.cfg.Connection.MaxConnectAttempts
	return again && (most <= 0 || s.tries.failed < most)
}

// backOff waits before the next attempt, or less when a reconnect is asked for.
func (s *shard[S]) backOff(ctx context.Context, err error) {
	delay := s.tries.delay()
	s.stats.set(func(st *shardStats) {
		st.become(ShardBackoff)
		st.next = time.Now().Add(delay)
	})
	s.log.Debug("backoff", "delay", delay, "attempt", s.tries.failed, "err", err)
	s.emit(Event[S]{Kind: EventBackoff, Delay: delay, Attempt: s.tries.failed, Err: err})
	s.pause(ctx, delay)
}

// park gives up until a reconnect is asked for.
func (s *shard[S]) park(ctx context.Context, err error) {
	s.enter(ShardParked)
	s.places.suspend(s, true)
	s.log.Error("parked", "attempts", s.tries.failed, "err", err)
	s.emit(Event[S]{Kind: EventParked, Attempt: s.tries.failed, Err: err, Subs: s.desired.List()})
	s.answerWish(errParked)
	s.failWaits(ErrShardParked)
	s.pause(ctx, -1)
	if ctx.Err() == nil {
		s.places.suspend(s, false)
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
		ask.Reset(askEvery(s.core))
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
			answer = newOpening[S](&s.slot, s, s.state()).askURL(ctx)
		case door := <-answer:
			answer = nil
			if door.Host != "" && !s.failedAt[door] {
				return
			}
			ask.Reset(askEvery(s.core))
		case <-ctx.Done():
			return
		case <-s.wake:
			if !s.closesFirst() {
				s.answerWish(ErrNotConnected)
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
	s.tellGaps(s.gaps.end(), 0)
	s.answerWish(ErrStopped)
	s.failWaits(ErrStopped)
}

// state describes the next attempt.
func (s *shard[S]) state() ConnectionState {
	if c := s.live.Load(); c != nil && time.Since(c.opened) >= s.core.cfg.Backoff.StableAfter {
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

// Reconnect breaks the shard's connection and makes a new one, at once; it revives a parked shard. It does not wait. A shard
// that is connecting goes on. ErrUnknownShard, ErrStopped, ErrNotConnected before Start.
func (m *ShardManager[S]) Reconnect(shardID int) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	s.askReconnect()
	s.stats.revive()
	m.suspend(s, false)
	return nil
}

// errParked is what a shard that gave up answers: it is down, too.
var errParked = fmt.Errorf("%w: %w", ErrNotConnected, ErrShardParked)

// whyDown says why a shard has no live connection.
func (s *shard[S]) whyDown() error {
	if s.stats.parked() {
		return errParked
	}
	return ErrNotConnected
}
