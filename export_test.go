package wsshard

import "time"

// SetSeed makes the jitter of managers made from now on reproducible; 0 ends that.
func SetSeed(seed uint64) { testSeed = seed }

// NoteLate has m believe that a timer fired far past its due time: that the process had been stopped.
func NoteLate[S comparable](m *ShardManager[S]) { m.pausedAt.Store(m.instant(time.Now())) }

// HoldsKeys reports whether the live connection of a shard remembers keys, for a switchover or after one.
func HoldsKeys[S comparable](m *ShardManager[S], shard int) bool {
	c := m.life.shards[shard].live.Load()
	return c.watch.Load() != nil || c.repeats.Load() != nil
}

// Without has m take its handler for one that lacks these capabilities, each named by its field of capabilities. Before Start.
func Without[S comparable](m *ShardManager[S], names ...string) {
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

// NamedTopics is how many topics a shard remembers data of.
func NamedTopics[S comparable](m *ShardManager[S], shard int) int {
	f := &m.life.shards[shard].fresh
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}
