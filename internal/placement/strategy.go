package placement

// This file answers: which shard takes the next one?

// Strategy is how Place chooses among the shards that accept and have room.
type Strategy int

const (
	// LeastLoaded takes a shard of least load.
	LeastLoaded Strategy = iota
	// RoundRobin takes them in turn, by rising id.
	RoundRobin
	// Sequential takes the lowest id, and so fills one shard before the next.
	Sequential
)

// chooser is told what becomes of each shard, and asked for the best one. No call walks over the shards.
type chooser interface {
	// set tells the load of a shard and whether it can be chosen. Ids rise by one as they are first told.
	set(shard, load int, open bool)
	// next returns the shard for one more subscription, which the caller then places there.
	next() (shard int, ok bool)
}

func newChooser(strategy Strategy) chooser {
	switch strategy {
	case RoundRobin:
		return new(roundRobin)
	case Sequential:
		return new(sequential)
	default:
		return new(leastLoaded)
	}
}

type sequential struct{ open numbers }

func (c *sequential) set(shard, _ int, open bool) { c.open.put(shard, open) }

func (c *sequential) next() (shard int, ok bool) { return c.open.next(0) }

type roundRobin struct {
	open numbers
	turn int // the id after the last one chosen
}

func (c *roundRobin) set(shard, _ int, open bool) { c.open.put(shard, open) }

func (c *roundRobin) next() (shard int, ok bool) {
	if shard, ok = c.open.next(c.turn); !ok {
		shard, ok = c.open.next(0)
	}
	if ok {
		c.turn = shard + 1
	}
	return shard, ok
}

// leastLoaded keeps the open shards of equal load in one ring. A load changes by one at a time, so a heap would do its
// sifting for nothing; and rings threaded through the shards need no memory of their own, where a slice for each load
// would keep what it once grew to.
type leastLoaded struct {
	shards []link   // by id
	first  []uint32 // by load: a shard of that ring, valid while loads has the load
	loads  numbers  // of the rings that are not empty
}

type link struct {
	prev, next uint32
	load       int
	open       bool // in the ring of its load
}

func (c *leastLoaded) set(shard, load int, open bool) {
	if shard == len(c.shards) {
		c.shards = append(c.shards, link{})
	}
	l := &c.shards[shard]
	if l.open {
		c.leave(uint32(shard), l)
	}
	l.load, l.open = load, open
	if open {
		c.enter(uint32(shard), l)
	}
}

// next takes the first that came to the lowest load: shards of equal load have their turns.
func (c *leastLoaded) next() (shard int, ok bool) {
	load, ok := c.loads.next(0)
	if !ok {
		return 0, false
	}
	return int(c.first[load]), true
}

// leave takes a shard out of the ring of its load.
func (c *leastLoaded) leave(shard uint32, l *link) {
	if l.next == shard {
		c.loads.remove(l.load)
		return
	}
	c.shards[l.prev].next, c.shards[l.next].prev = l.next, l.prev
	if c.first[l.load] == shard {
		c.first[l.load] = l.next
	}
}

// enter puts a shard at the end of the ring of its load.
func (c *leastLoaded) enter(shard uint32, l *link) {
	for l.load >= len(c.first) {
		c.first = append(c.first, 0)
	}
	if !c.loads.has(l.load) {
		c.loads.add(l.load)
		c.first[l.load] = shard
		l.prev, l.next = shard, shard
		return
	}
	first := c.first[l.load]
	last := c.shards[first].prev
	l.prev, l.next = last, first
	c.shards[last].next, c.shards[first].prev = shard, shard
}
