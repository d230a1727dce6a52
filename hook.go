package wsshard

import (
	"time"

	"github.com/seed-829c304d/wsshard/internal/hook"
)

// This file answers: what may the tests of internal/acceptance do that no application can? See internal/hook.

// hooked is a manager of whatever subscriptions.
type hooked interface {
	hookLate()
	hookWithout(names []string)
	hookHoldsKeys(shard int) bool
	hookNamedTopics(shard int) int
}

func init() {
	hook.SetSeed = func(seed uint64) { testSeed = seed }
	hook.NoteLate = func(m any) { m.(hooked).hookLate() }
	hook.Without = func(m any, names ...string) { m.(hooked).hookWithout(names) }
	hook.HoldsKeys = func(m any, shard int) bool { return m.(hooked).hookHoldsKeys(shard) }
	hook.NamedTopics = func(m any, shard int) int { return m.(hooked).hookNamedTopics(shard) }
}

func (m *ShardManager[S]) hookLate() { m.pausedAt.Store(m.instant(time.Now())) }

func (m *ShardManager[S]) hookWithout(names []string) {
	for _, name := range names {
		switch name {
		case "unsubscriber":
			m.caps.unsubscriber = nil
		case "resubscriber":
			m.caps.resubscriber = nil
		case "ping":
			m.caps.ping = nil
		case "sequence":
			m.caps.sequence = nil
		case "acknowledger":
			m.caps.acknowledger = nil
		case "ready":
			m.caps.ready = nil
		case "inspector":
			m.caps.inspector = nil
		default:
			panic("no such capability: " + name)
		}
	}
}

func (m *ShardManager[S]) hookHoldsKeys(shard int) bool {
	c := m.life.shards[shard].live.Load()
	return c.watch.Load() != nil || c.repeats.Load() != nil
}

func (m *ShardManager[S]) hookNamedTopics(shard int) int {
	f := &m.life.shards[shard].fresh
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}
