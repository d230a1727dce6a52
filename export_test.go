package wsshard

import "time"

// SetSeed makes the jitter of managers made from now on reproducible; 0 ends that.
func SetSeed(seed uint64) { testSeed = seed }

// NoteLate has m believe that a timer fired far past its due time: that the process had been stopped.
func NoteLate[S comparable](m *ShardManager[S]) { m.late.Store(m.instant(time.Now())) }

// HoldsKeys reports whether the live connection of a shard remembers keys, for a switchover or after one.
func HoldsKeys[S comparable](m *ShardManager[S], shard int) bool {
	c := m.life.shards[shard].live.Load()
	return c.watch.Load() != nil || c.repeats.Load() != nil
}

// NamedTopics is how many topics a shard remembers data of.
func NamedTopics[S comparable](m *ShardManager[S], shard int) int {
	f := &m.life.shards[shard].fresh
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}
