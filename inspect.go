package wsshard

import (
	"time"
)

// This file answers: what can be seen of a manager, and of one shard?

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
	all.Doors = m.doors()
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

// doors are the reports of those that are shut or have a line.
func (m *ShardManager[S]) doors() (all []DoorReport) {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	for _, report := range r.gate.Doors() {
		all = append(all, *doorReport(report))
	}
	return all
}
