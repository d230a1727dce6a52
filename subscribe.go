package wsshard

import (
	"errors"
	"fmt"
)

// This file answers: where does a subscription go, and how is it taken back?

// SubscribeStatus says what Subscribe did with one item.
type SubscribeStatus int

const (
	SubscribeFailed   SubscribeStatus = iota // nothing changed: see Err
	SubscribeAdded                           // it is wanted from now on
	SubscribeExisting                        // it was wanted already
)

// String returns the status in a word: "added".
func (s SubscribeStatus) String() string { return name(s, "failed", "added", "existing") }

// SubscribeResult is the fate of one item of Subscribe.
type SubscribeResult struct {
	ShardID int // -1: none
	Status  SubscribeStatus
	Err     error // ErrCapacity, ErrInvalidSubscription
}

// OK reports whether the item is wanted now.
func (r SubscribeResult) OK() bool { return r.Status != SubscribeFailed }

// Subscribe wants subs. It never waits for the network: see Sync. Before the first Start they are kept; after Stop it
// returns ErrStopped until Start has returned. The results are one an item, in order; err is nil when every item is placed
// or was wanted already, else it wraps ErrCapacity or ErrInvalidSubscription. An item that fails changes nothing. A call
// first opens the shards that its items need; then Config.ShardSelection decides. An item costs the same whatever the
// number of shards.
func (m *ShardManager[S]) Subscribe(subs ...S) ([]SubscribeResult, error) {
	results := make([]SubscribeResult, len(subs))
	m.mu.Lock()
	defer m.unlock()
	if m.phase == stopped || m.phase == restarting {
		for i := range results {
			results[i] = SubscribeResult{ShardID: -1, Err: ErrStopped}
		}
		return results, ErrStopped
	}
	failed, invalid := m.placeLocked(subs, func(i int, r SubscribeResult) { results[i] = r })
	var err error
	if failed > 0 {
		err = fmt.Errorf("%w: %d of %d subscriptions", ErrCapacity, failed, len(subs))
	}
	if invalid > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d of %d", ErrInvalidSubscription, invalid, len(subs)))
	}
	return results, err
}

// placeLocked places subs and wants them on their shards. It reports each item's result to each.
func (m *ShardManager[S]) placeLocked(subs []S, each func(int, SubscribeResult)) (full, invalid int) {
	table := m.life.table
	m.makeRoomLocked(m.countNewLocked(subs))
	had := make(map[int]int) // for each shard that gets some: how many it had
	for i, sub := range subs {
		if !m.isKey(sub) {
			invalid++
			each(i, SubscribeResult{ShardID: -1, Err: ErrInvalidSubscription})
			continue
		}
		before := table.Len()
		id, ok := table.Place(sub)
		if !ok { // the place of its own that was counted on went to another
			m.makeRoomLocked(1)
			id, ok = table.Place(sub)
		}
		if !ok { // its session finds no room for it, and has itself replaced: see makeRoom
			id, ok = table.Displace(sub)
		}
		switch {
		case !ok:
			full++
			each(i, SubscribeResult{ShardID: -1, Err: ErrCapacity})
		case table.Len() == before:
			each(i, SubscribeResult{ShardID: id, Status: SubscribeExisting})
		default:
			if _, ok := had[id]; !ok {
				had[id] = table.Count(id) - 1
			}
			each(i, SubscribeResult{ShardID: id, Status: SubscribeAdded})
		}
	}
	for id, n := range had {
		m.life.shards[id].desired.Add(table.Since(id, n)...)
	}
	return full, invalid
}

// makeRoomLocked opens the shards that newcomers need, as far as that is allowed.
func (m *ShardManager[S]) makeRoomLocked(newcomers int) {
	if m.phase == running && m.cfg.DisableAutoRebalance {
		return
	}
	opened := 0
	for newcomers > m.life.table.Room() && (m.cfg.MaxShards <= 0 || len(m.life.shards) < m.cfg.MaxShards) {
		s := m.openLocked()
		opened++
		if m.phase == running {
			m.count.rebalances.Add(1)
			m.launchLocked(s)
		}
	}
	m.life.table.Reserve(min(newcomers, m.life.table.Room()))
	if opened > 0 && m.phase == running {
		shards := len(m.life.shards)
		m.noteLocked(func() { m.log.Info("opened shards", "count", opened, "shards", shards) })
	}
}

// countNewLocked counts the items that need a place. One that lingers has its own. One that is named twice counts once
// where that may matter.
func (m *ShardManager[S]) countNewLocked(subs []S) (n int) {
	isNew := func(sub S) bool { return m.isKey(sub) && !m.life.table.Holds(sub) }
	for _, sub := range subs {
		if isNew(sub) {
			n++
		}
	}
	if n <= max(1, m.life.table.Room()) {
		return n
	}
	seen := make(map[S]struct{}, n)
	for _, sub := range subs {
		if isNew(sub) {
			seen[sub] = struct{}{}
		}
	}
	return len(seen)
}

// openLocked adds a shard. It is not launched.
func (m *ShardManager[S]) openLocked() *shard[S] {
	id := m.life.table.Open()
	s := newShard[S](m.core, m, id)
	m.life.shards = append(m.life.shards, s)
	if _, wraps := m.dialer.source(id); wraps && !m.life.wraps {
		m.life.wraps = true
		m.noteLocked(func() {
			m.log.Warn("more shards than source addresses allow for: addresses are shared from here on", "shard", id,
				"addresses", len(m.cfg.Connection.SourceIPs), "shards_per_ip", m.cfg.Connection.ShardsPerIP)
		})
	}
	return s
}

// placeInitialLocked places what Start was given, all or nothing.
func (m *ShardManager[S]) placeInitialLocked(subs []S) error {
	for i, sub := range subs {
		if !m.isKey(sub) {
			return fmt.Errorf("%w: item %d of Subscriptions", ErrInvalidSubscription, i)
		}
	}
	newcomers, room := m.countNewLocked(subs), m.life.table.Room()
	limit := m.cfg.MaxSubscriptionsPerShard
	if most := m.cfg.MaxShards; most > 0 && limit > 0 && newcomers > room && (newcomers-room-1)/limit >= most-len(m.life.shards) {
		return fmt.Errorf("%w: %d subscriptions to start with, over %d shards of %d", ErrCapacity, m.life.table.Len()+newcomers, most, limit)
	}
	m.placeLocked(subs, func(int, SubscribeResult) {})
	return nil
}

// Unsubscribe takes subs back. Unknown items are ignored; its only error is ErrStopped. Without an Unsubscriber a topic may
// still be delivered while its connection lives.
func (m *ShardManager[S]) Unsubscribe(subs ...S) error {
	m.mu.Lock()
	defer m.unlock()
	if m.phase == stopped || m.phase == restarting {
		return ErrStopped
	}
	for id, gone := range m.byShardLocked(subs) {
		s := m.life.shards[id]
		for _, sub := range gone {
			linger := m.caps.unsubscriber == nil && s.live.Load() != nil
			m.life.table.Remove(sub, linger)
			if linger {
				s.lingers.Store(true)
			}
		}
		s.desired.Remove(gone...)
		for _, g := range s.gaps.leaves(gone, s.isDown) {
			s.emitGap(g, s.liveGeneration())
			m.noteLocked(func() { m.log.Warn("gap", "shard", id, "from", g.from, "to", g.to, "topics", len(g.subs)) })
		}
		if l := s.unsubscribedMeanwhile.Load(); l != nil {
			l.note(gone)
		}
		s.fresh.forget(gone)
		s.resubs.clear(gone)
	}
	return nil
}

// Resubscribe asks the server again for subs, for a fresh snapshot; it also revives failed topics. Unknown items are
// ignored; its only error is ErrStopped. It never waits for the network.
func (m *ShardManager[S]) Resubscribe(subs ...S) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == stopped || m.phase == restarting {
		return ErrStopped
	}
	for id, again := range m.byShardLocked(subs) {
		m.life.shards[id].desired.Again(again...)
	}
	return nil
}

// byShardLocked sorts the wanted ones among subs by their shard, each once.
func (m *ShardManager[S]) byShardLocked(subs []S) map[int][]S {
	by := make(map[int][]S)
	seen := make(map[S]struct{}, len(subs))
	for _, sub := range subs {
		if !m.isKey(sub) {
			continue
		}
		if _, twice := seen[sub]; twice {
			continue
		}
		seen[sub] = struct{}{}
		if id, ok := m.life.table.Lookup(sub); ok {
			by[id] = append(by[id], sub)
		}
	}
	return by
}

// stays takes note that topics without a subscription stay on c, a connection of s: their places are taken until the next one.
func (m *ShardManager[S]) stays(s *shard[S], c *session[S], subs []S) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.knowsLocked(s) {
		return
	}
	for _, sub := range subs {
		m.life.table.Linger(s.id, sub)
	}
	if s.live.Load() != c { // else they are where they were, and a look at each batch would be a look at all that linger
		s.lingers.Store(true)
	}
}

// releaseLingering frees the places of topics that are not on s's connection; on says which are.
func (m *ShardManager[S]) releaseLingering(s *shard[S], on func(S) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.knowsLocked(s) {
		return
	}
	s.lingers.Store(false) // those that are on it stay there until the next one
	for _, sub := range m.life.table.Lingering(s.id) {
		if !on(sub) {
			m.life.table.Release(s.id, sub)
		}
	}
}

// suspend keeps new subscriptions away from a parked shard.
func (m *ShardManager[S]) suspend(s *shard[S], yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.knowsLocked(s):
	case yes:
		m.life.table.Suspend(s.id)
	default:
		m.life.table.Resume(s.id)
	}
}

// knowsLocked reports whether s belongs to the present life: a shard of a run that is ending must not touch its successor.
func (m *ShardManager[S]) knowsLocked(s *shard[S]) bool {
	return s.id < len(m.life.shards) && m.life.shards[s.id] == s
}

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
