// Package placement says which shard each subscription lives on. It knows numbers and sets only: no goroutine, no
// clock, no lock. Whoever holds a Table guards it.
//
//   - table.go: which shard has which subscriptions, and how many more may come?
//   - register.go: where in which shard's list is a subscription?
//   - strategy.go: which shard takes the next one?
//   - numbers.go: which is the next number of a set?
package placement

import "math"

// Table places subscriptions on shards. A shard has places; each is taken by a subscription that is placed, or by one
// that lingers: no longer wanted, but the server still counts it, so its place is not free yet.
//
// A Table is not safe for concurrent use. Unknown shard ids are answered with zero values.
type Table[S comparable] struct {
	limit     int64 // places of a shard, at least 1
	unlimited bool

	placed    register[S]
	lingering register[S] // disjoint from placed
	suspended []bool      // by shard

	// derived from the above by update, never set elsewhere
	rooms    []uint32 // by shard: free places, 0 while suspended
	room     int64    // sum of rooms
	chooser  chooser  // knows the shards that have room
	yielding numbers  // shards where Displace may take a place
}

// New returns a table without shards. limit is the number of places of one shard; 0 or less means no limit.
func New[S comparable](strategy Strategy, limit int) *Table[S] {
	t := &Table[S]{
		limit:     int64(limit),
		placed:    newRegister[S](),
		lingering: newRegister[S](),
		chooser:   newChooser(strategy),
	}
	// A register counts in uint32, so "no limit" is the most it can count.
	if limit <= 0 || limit == math.MaxInt || t.limit > math.MaxUint32 {
		t.limit, t.unlimited = math.MaxUint32, true
	}
	return t
}

// Open adds an empty shard and returns its id: 0, then 1, and so on.
func (t *Table[S]) Open() (shard int) {
	shard = len(t.suspended)
	t.placed.open()
	t.lingering.open()
	t.suspended = append(t.suspended, false)
	t.rooms = append(t.rooms, 0)
	t.update(shard)
	return shard
}

// Shards returns how many shards were opened.
func (t *Table[S]) Shards() int { return len(t.suspended) }

// Len returns how many subscriptions are placed. Those that linger do not count.
func (t *Table[S]) Len() int { return len(t.placed.at) }

// Room returns how many calls of Place can succeed on the shards there are: math.MaxInt where nothing limits them, 0
// where no shard accepts.
func (t *Table[S]) Room() int {
	if t.room > 0 && t.unlimited {
		return math.MaxInt
	}
	return int(min(t.room, math.MaxInt))
}

// Lookup returns the shard on which s is placed.
func (t *Table[S]) Lookup(s S) (shard int, ok bool) { return t.placed.find(s) }

// Holds reports whether s has a place: it is placed, or it lingers and can take its place back.
func (t *Table[S]) Holds(s S) bool {
	_, ok := t.own(s)
	return ok || t.placed.has(s)
}

// Place gives s a place on the shard that the strategy chooses among those that accept and have room. If s lingers it
// takes its own place back instead, even on a full or suspended shard: the server has it there. Only above the limit it
// has none. An s that is placed stays where it is. If ok is false there was no place and nothing has changed.
func (t *Table[S]) Place(s S) (shard int, ok bool) {
	if shard, ok = t.resettle(s); ok {
		return shard, true
	}
	if shard, ok = t.chooser.next(); !ok {
		return 0, false
	}
	t.settle(shard, s)
	return shard, true
}

// Displace is for an s that Place refused. It gives s the place of a subscription that lingers on an accepting shard;
// that one lingers no more. It never puts more on a shard than its next connection may carry. If ok is false there was
// no such place and nothing has changed.
func (t *Table[S]) Displace(s S) (shard int, ok bool) {
	if shard, ok = t.resettle(s); ok {
		return shard, true
	}
	// The lowest, and not the least loaded: a shard that yields one place must be given a new connection, which frees
	// its others too, so it is best to stay there.
	if shard, ok = t.yielding.next(0); !ok {
		return 0, false
	}
	list := t.lingering.lists[shard]
	t.lingering.remove(list[len(list)-1])
	t.settle(shard, s)
	return shard, true
}

// Remove ends the placement of s and returns the shard it was on. With linger its place stays taken until Release.
func (t *Table[S]) Remove(s S, linger bool) (shard int, ok bool) {
	if shard, ok = t.placed.remove(s); !ok {
		return 0, false
	}
	if linger {
		t.lingering.add(shard, s)
	}
	t.update(shard)
	return shard, true
}

// Linger has s linger on a shard, above the limit if need be: it was removed, and then could not be unsubscribed. It
// reports whether it did; an s that is placed or lingers stays as it is.
func (t *Table[S]) Linger(shard int, s S) bool {
	if !t.known(shard) || t.placed.has(s) || t.lingering.has(s) {
		return false
	}
	t.lingering.add(shard, s)
	t.update(shard)
	return true
}

// Release frees the place of an s that lingers on this very shard. It reports whether it did.
func (t *Table[S]) Release(shard int, s S) bool {
	if on, ok := t.lingering.find(s); !ok || on != shard {
		return false
	}
	t.lingering.remove(s)
	t.update(shard)
	return true
}

// Lingering returns a copy of what lingers on a shard; nil when nothing does.
func (t *Table[S]) Lingering(shard int) []S { return t.lingering.list(shard) }

// Suspend keeps a shard from accepting: neither Place nor Displace chooses it until Resume. What it has stays.
func (t *Table[S]) Suspend(shard int) { t.suspend(shard, true) }

// Resume has a shard accept again.
func (t *Table[S]) Resume(shard int) { t.suspend(shard, false) }

// Load returns how many places of a shard are taken, be it by placed or by lingering subscriptions.
func (t *Table[S]) Load(shard int) int { return t.placed.count(shard) + t.lingering.count(shard) }

// Count returns how many subscriptions are placed on a shard.
func (t *Table[S]) Count(shard int) int { return t.placed.count(shard) }

// AppendCounts appends the Count of each shard. It costs a copy of 4 bytes a shard.
func (t *Table[S]) AppendCounts(counts []uint32) []uint32 { return append(counts, t.placed.counts...) }

// List returns a copy of what is placed on a shard, in no order; nil when nothing is.
func (t *Table[S]) List(shard int) []S { return t.placed.list(shard) }

// Since returns what was placed on a shard after the first n, unless some of that was removed. It is valid until the
// table changes, and must not be changed.
func (t *Table[S]) Since(shard, n int) []S { return t.placed.lists[shard][n:] }

// Reserve says that about n more subscriptions are coming. It only makes placing them faster.
func (t *Table[S]) Reserve(n int) { t.placed.reserve(n) }

// resettle answers for an s that has a place already, wanted or not: it is placed there from now on.
func (t *Table[S]) resettle(s S) (shard int, ok bool) {
	if shard, ok = t.placed.find(s); ok {
		return shard, true
	}
	if shard, ok = t.own(s); !ok {
		return 0, false
	}
	t.settle(shard, s)
	return shard, true
}

// own returns the shard where s lingers, unless placed ones have taken all places there.
func (t *Table[S]) own(s S) (shard int, ok bool) {
	shard, ok = t.lingering.find(s)
	return shard, ok && int64(t.Count(shard)) < t.limit
}

// settle places s, which lingers no more.
func (t *Table[S]) settle(shard int, s S) {
	if was, lingered := t.lingering.remove(s); lingered {
		t.update(was)
	}
	t.placed.add(shard, s)
	t.update(shard)
}

func (t *Table[S]) suspend(shard int, yes bool) {
	if t.known(shard) {
		t.suspended[shard] = yes
		t.update(shard)
	}
}

func (t *Table[S]) known(shard int) bool { return shard >= 0 && shard < len(t.suspended) }

// update derives anew all that depends on one shard's lists. Every change of a shard ends here, so that no caller has
// to know what follows from it.
func (t *Table[S]) update(shard int) {
	accepts, load := !t.suspended[shard], t.Load(shard)
	var room int64
	if accepts {
		room = max(0, t.limit-int64(load)) // Linger goes above the limit
	}
	t.room += room - int64(t.rooms[shard])
	t.rooms[shard] = uint32(room)
	t.chooser.set(shard, load, room > 0)

	// A shard whose placed ones fill it has nothing to yield: what lingers there is above the limit.
	yields := accepts && t.lingering.count(shard) > 0 && int64(t.Count(shard)) < t.limit
	t.yielding.put(shard, yields)
}
