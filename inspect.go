package wsshard

import (
	"context"
	"fmt"
	"time"
)

// This file answers: what can be asked of a manager, and of one shard?

// shardOf returns a shard that can be talked to.
func (m *ShardManager[S]) shardOf(id int) (*shard[S], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.phase == stopped || m.phase == restarting:
		return nil, ErrStopped
	case id < 0 || id >= len(m.life.shards):
		return nil, ErrUnknownShard
	case m.phase != running:
		return nil, ErrNotConnected
	}
	return m.life.shards[id], nil
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

// HotSwitchover replaces the shard's connection and returns when the new one has taken over; it joins a switchover in
// progress. On error the old connection is untouched: ErrSwitchoverTimeout, ErrSwitchoverHold, ErrCircuitOpen, a *DialError.
// ErrNotConnected when the shard is down, with ErrShardParked when it gave up; ErrUnknownShard, ErrStopped. A ctx that ends
// aborts the switchover, unless something else asked for it too. ErrInCallback: it has begun.
func (m *ShardManager[S]) HotSwitchover(ctx context.Context, shardID int) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	if s.live.Load() == nil {
		return s.whyDown()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	mv := s.ask(&move{trigger: triggerCall, class: asked})
	if s.live.Load() == nil && !m.cfg.DisableHotSwitchover { // lost in between: its loop may have looked already
		s.leaveMove(mv)
		return s.whyDown()
	}
	if m.inCallback(ctx) {
		return ErrInCallback // its caller is counted for good: nothing aborts it
	}
	select {
	case <-mv.done:
		return mv.err
	case <-ctx.Done():
		s.leaveMove(mv)
		return context.Cause(ctx)
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

// Send writes msg to the shard's live connection, within the pace; nil means written to the socket. While that one is read
// to its end in a switchover, the next is meant, and what waits for the pace when it is replaced is written there, in its
// order. What it does on the server does not survive a reconnect or a switchover.
// ErrNotConnected, with ErrShardParked when the shard gave up; ErrUnknownShard, ErrStopped, ErrInvalidMessage, the cause of
// ctx; ErrInCallback from inside the callback that encodes a request: it is queued. msg.Data passes to the library.
func (m *ShardManager[S]) Send(ctx context.Context, shardID int, msg Message) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	if err := checkMessage(msg); err != nil {
		return err
	}
	c := s.live.Load()
	if c == nil {
		return s.whyDown()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	writer := onStack("writeLoop")
	out := &send{ctx: ctx, msg: msg, done: make(chan error, 1)}
	for {
		err := c.out.send(out)
		if err == nil {
			break
		}
		if c = c.heir.Load(); c == nil {
			return err
		}
	}
	poke(c.wake)
	if writer {
		return ErrInCallback
	}
	select {
	case err := <-out.done:
		if err == ErrNotConnected && s.run.ctx.Err() != nil {
			return ErrStopped
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ShardCount is the number of shards, connected or not.
func (m *ShardManager[S]) ShardCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.life.shards)
}

// TotalSubscriptions is the number of subscriptions that are wanted.
func (m *ShardManager[S]) TotalSubscriptions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life.table.Len()
}

// ShardSubscriptions returns a copy of what a shard wants, oldest first; nil for an unknown shard.
func (m *ShardManager[S]) ShardSubscriptions(shardID int) []S {
	m.mu.Lock()
	shards := m.life.shards
	m.mu.Unlock()
	if shardID < 0 || shardID >= len(shards) {
		return nil
	}
	return shards[shardID].desired.List() // of any length, so it is not for manager.mu to wait for
}

// SubscriptionShard says which shard a subscription is on.
func (m *ShardManager[S]) SubscriptionShard(sub S) (shardID int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isKey(sub) {
		return -1, false
	}
	if id, ok := m.life.table.Lookup(sub); ok {
		return id, true
	}
	return -1, false
}

// ShardFreshness is the time since the last data on the shard's live connection; false when it is down, had none, or is
// unknown.
func (m *ShardManager[S]) ShardFreshness(shardID int) (time.Duration, bool) {
	s, err := m.shardOf(shardID)
	if err != nil {
		return 0, false
	}
	c := s.live.Load()
	if c == nil {
		return 0, false
	}
	at := c.dataAt.Load()
	if at == 0 {
		return 0, false
	}
	return time.Since(c.conn.At(clocked(at))), true
}

// IsSubscriptionFresh reports whether data came within maxStaleness: for this topic where Inspect names topics, else on its
// shard. False for what is not subscribed, or whose shard is down.
func (m *ShardManager[S]) IsSubscriptionFresh(sub S, maxStaleness time.Duration) bool {
	id, ok := m.SubscriptionShard(sub)
	if !ok {
		return false
	}
	age, ok := m.ShardFreshness(id)
	if !ok {
		return false
	}
	s, err := m.shardOf(id)
	if err != nil {
		return false
	}
	if at, named := s.fresh.of(sub); named {
		return at != 0 && time.Since(m.at(at)) <= maxStaleness
	}
	return age <= maxStaleness
}

// Health says how many shards are connected.
type Health struct {
	Connected, Total int
	Healthy          bool // enough of them; no shards is healthy
}

// Health compares the share of connected shards with minConnectedRatio, in [0, 1].
func (m *ShardManager[S]) Health(minConnectedRatio float64) Health {
	m.mu.Lock()
	shards := m.life.shards // only ever appended to
	m.mu.Unlock()
	h := Health{Total: len(shards)}
	for _, s := range shards {
		if s.live.Load() != nil {
			h.Connected++
		}
	}
	h.Healthy = h.Total == 0 || float64(h.Connected) >= minConnectedRatio*float64(h.Total)
	return h
}

// Metrics returns a copy of all that is counted. It holds nobody up, however many shards there are: totals and numbers of
// subscriptions are of one moment, what else is told of each shard is of the moments after it.
func (m *ShardManager[S]) Metrics() Metrics {
	now := time.Now()
	all, shards, runs, counts := m.countNow(m.ShardCount())
	for _, run := range runs { // what is counted by shards is added to the totals when their run is over
		for _, s := range run {
			all.MessagesReceived += s.stats.messages.Load()
			all.BytesReceived += s.stats.bytes.Load()
			if s.live.Load() != nil {
				all.ActiveConnections++
			}
		}
	}
	all.Shards = make([]ShardMetrics, len(shards))
	for i, s := range shards {
		sm := s.stats.snapshot(now, m.cfg.Backoff.StableAfter)
		if at := s.stats.lastMessage.Load(); at != 0 {
			sm.LastMessageAt = onClock(m.at(at))
		}
		sm.ShardID, sm.SubscriptionCount = s.id, int(counts[i])
		if c := s.live.Load(); c != nil {
			sm.RTT = time.Duration(c.rtt.Load())
		}
		all.Shards[i] = sm
	}
	return all
}

// countNow takes what has to be of one moment: the totals, the shards of this life and of each run that is not over, and
// how many subscriptions each shard has. It touches no shard. room is how many shards to expect; lists of shards are only
// ever appended to, so they need no copy.
func (m *ShardManager[S]) countNow(room int) (totals Metrics, shards []*shard[S], runs [][]*shard[S], counts []uint32) {
	counts = make([]uint32, 0, room+16)
	m.mu.Lock()
	defer m.mu.Unlock()
	totals = m.count.snapshot()
	for r := m.run; r != nil; r = r.before {
		runs = append(runs, r.shards)
	}
	totals.TotalSubscriptions = m.life.table.Len()
	shards = m.life.shards
	for i := range shards {
		counts = append(counts, uint32(m.life.table.Count(i)))
	}
	return totals, shards, runs, counts
}
