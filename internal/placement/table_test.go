package placement

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"
)

// script drives a table and fails at the line that expected something else.
type script struct {
	testing.TB
	*Table[string]
}

// begin returns a table with that many open shards.
func begin(t testing.TB, strategy Strategy, limit, shards int) script {
	c := script{t, New[string](strategy, limit)}
	for id := range shards {
		if got := c.Open(); got != id {
			t.Fatalf("Open: %d, want %d", got, id)
		}
	}
	return c
}

func (c script) want(what string, got, want any) {
	c.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		c.Fatalf("%s: got %#v, want %#v", what, got, want)
	}
}

// answer is what the methods with (shard, ok) return.
type answer struct {
	shard int
	ok    bool
}

var no = answer{}

func on(shard int) answer { return answer{shard, true} }

func (c script) place(s string, want answer) {
	c.Helper()
	shard, ok := c.Place(s)
	c.want("Place "+s, answer{shard, ok}, want)
	c.lookup(s, want)
}

func (c script) displace(s string, want answer) {
	c.Helper()
	shard, ok := c.Displace(s)
	c.want("Displace "+s, answer{shard, ok}, want)
	c.lookup(s, want)
}

func (c script) lookup(s string, want answer) {
	c.Helper()
	shard, ok := c.Lookup(s)
	c.want("Lookup "+s, answer{shard, ok}, want)
}

func (c script) remove(s string, linger bool, want answer) {
	c.Helper()
	shard, ok := c.Remove(s, linger)
	c.want("Remove "+s, answer{shard, ok}, want)
	c.lookup(s, no)
}

// lists checks all that is on a shard.
func (c script) lists(shard int, placed, lingering []string) {
	c.Helper()
	got, gone := c.List(shard), c.Table.Lingering(shard)
	slices.Sort(got)
	slices.Sort(gone)
	c.want("List", got, placed)
	c.want("Lingering", gone, lingering)
	c.want("Count", c.Count(shard), len(placed))
	c.want("Load", c.Load(shard), len(placed)+len(lingering))
}

func (c script) loads(want ...int) {
	c.Helper()
	var got []int
	for shard := range c.Shards() {
		got = append(got, c.Load(shard))
	}
	c.want("loads", got, want)
}

func (c script) room(want int) {
	c.Helper()
	c.want("Room", c.Room(), want)
}

func TestNoShards(t *testing.T) {
	c := begin(t, LeastLoaded, 2, 0)
	c.room(0)
	c.place("a", no)
	c.displace("a", no)
	c.remove("a", true, no)
	c.want("Shards", c.Shards(), 0)
	c.want("Len", c.Len(), 0)
}

func TestPlaceRefusesWhenFull(t *testing.T) {
	for _, strategy := range []Strategy{LeastLoaded, RoundRobin, Sequential} {
		c := begin(t, strategy, 1, 2)
		c.room(2)
		c.place("a", on(0))
		c.place("b", on(1))
		c.room(0)
		c.place("c", no)
		c.want("Len", c.Len(), 2)
		c.remove("a", false, on(0))
		c.room(1)
		c.place("c", on(0))
		c.Open()
		c.place("d", on(2))
		c.loads(1, 1, 1)
	}
}

func TestPlaceTwiceStays(t *testing.T) {
	c := begin(t, RoundRobin, 2, 2)
	c.place("a", on(0))
	c.place("a", on(0))
	c.displace("a", on(0))
	c.loads(1, 0)
	c.want("Len", c.Len(), 1)
	c.place("b", on(1))
}

func TestRemoveFromAnywhereInTheList(t *testing.T) {
	c := begin(t, Sequential, 0, 1)
	for _, s := range []string{"a", "b", "c", "d"} {
		c.place(s, on(0))
	}
	c.remove("a", false, on(0)) // first
	c.lists(0, []string{"b", "c", "d"}, nil)
	c.remove("c", false, on(0)) // last but the one that moved
	c.lists(0, []string{"b", "d"}, nil)
	c.remove("d", false, on(0))
	c.remove("d", false, no)
	c.remove("b", false, on(0)) // only one
	c.lists(0, nil, nil)
	c.place("a", on(0))
	c.lists(0, []string{"a"}, nil)
}

// A list that shrank must not hold on to what was on it.
func TestRemoveForgets(t *testing.T) {
	c := begin(t, Sequential, 0, 1)
	c.place("a", on(0))
	c.place("b", on(0))
	c.remove("a", false, on(0))
	c.want("array", c.placed.lists[0][:2], []string{"b", ""})
	c.remove("b", false, on(0))
	c.want("array", c.placed.lists[0][:2], []string{"", ""})
}

func TestLingeringKeepsItsPlace(t *testing.T) {
	c := begin(t, Sequential, 2, 1)
	c.place("a", on(0))
	c.place("b", on(0))
	c.remove("a", true, on(0))
	c.remove("a", true, no)
	c.lists(0, []string{"b"}, []string{"a"})
	c.want("Len", c.Len(), 1)
	c.room(0)
	c.place("c", no)
	c.want("Release elsewhere", c.Release(1, "a"), false)
	c.want("Release of a placed one", c.Release(0, "b"), false)
	c.lists(0, []string{"b"}, []string{"a"})
	c.want("Release", c.Release(0, "a"), true)
	c.want("Release again", c.Release(0, "a"), false)
	c.room(1)
	c.place("c", on(0))
	c.lists(0, []string{"b", "c"}, nil)
}

func TestPlaceTakesItsOldPlaceBack(t *testing.T) {
	c := begin(t, LeastLoaded, 2, 2)
	c.place("a", on(0))
	c.place("b", on(1))
	c.place("c", on(0))
	c.remove("a", true, on(0))
	c.Suspend(0)
	c.place("a", on(0)) // full, suspended, and not the least loaded
	c.lists(0, []string{"a", "c"}, nil)
	c.remove("a", true, on(0))
	c.displace("a", on(0))
	c.lists(0, []string{"a", "c"}, nil)
	c.room(1)
	c.remove("c", true, on(0))
	c.Resume(0)
	c.place("c", on(0))
	c.place("d", on(1))
	c.displace("e", no) // nothing lingers any more
}

func TestLingerAboveTheLimit(t *testing.T) {
	for _, strategy := range []Strategy{LeastLoaded, RoundRobin, Sequential} {
		c := begin(t, strategy, 1, 2)
		c.place("a", on(0))
		c.want("Linger", c.Linger(0, "x"), true)
		c.want("Linger", c.Linger(0, "y"), true)
		c.want("Linger again", c.Linger(1, "x"), false)
		c.want("Linger of a placed one", c.Linger(1, "a"), false)
		c.lists(0, []string{"a"}, []string{"x", "y"})
		c.room(1)
		c.place("b", on(1))
		c.place("c", no)

		// What lingers above the limit frees nothing when it goes.
		c.want("Release", c.Release(0, "x"), true)
		c.room(0)
		c.place("c", no)
		c.displace("c", no)
		c.remove("a", false, on(0))
		c.room(0)
		c.displace("c", on(0))
		c.lists(0, []string{"c"}, nil)

		// What lingers above the limit has no place of its own to take back.
		c.want("Linger", c.Linger(0, "x"), true)
		c.want("Holds", c.Holds("x"), false)
		c.place("x", no)
		c.displace("x", no)
		c.lists(0, []string{"c"}, []string{"x"})
		c.remove("b", false, on(1))
		c.place("x", on(1))
		c.lists(0, []string{"c"}, nil)
		c.lists(1, []string{"x"}, nil)
		c.want("Linger", c.Linger(0, "y"), true)
		c.remove("x", true, on(1))
		c.displace("y", on(1))
		c.lists(0, []string{"c"}, nil)
		c.lists(1, []string{"y"}, nil)

		// Once there is room again, it has.
		c.want("Linger", c.Linger(0, "x"), true)
		c.remove("c", false, on(0))
		c.want("Holds", c.Holds("x"), true)
		c.place("x", on(0))
		c.room(0)
	}
}

func TestDisplace(t *testing.T) {
	c := begin(t, Sequential, 2, 3)
	for i, s := range []string{"a", "b", "c", "d", "e", "f"} {
		c.place(s, on(i/2))
	}
	c.displace("x", no)
	c.remove("a", true, on(0))
	c.remove("c", true, on(1))
	c.remove("d", true, on(1))
	c.remove("e", true, on(2))
	c.Suspend(0)
	c.room(0)
	c.place("x", no)
	c.displace("x", on(1))
	c.displace("y", on(1)) // the connection that is replaced anyway
	c.lists(1, []string{"x", "y"}, nil)
	c.displace("z", on(2))
	c.lists(2, []string{"f", "z"}, nil)
	c.displace("w", no)
	c.Resume(0)
	c.displace("w", on(0))
	c.lists(0, []string{"b", "w"}, nil)
	c.want("Len", c.Len(), 6)
}

func TestSuspend(t *testing.T) {
	for _, strategy := range []Strategy{LeastLoaded, RoundRobin, Sequential} {
		c := begin(t, strategy, 2, 3)
		c.Suspend(0)
		c.Suspend(0)
		c.room(4)
		c.place("a", on(1))
		c.Suspend(2)
		c.place("b", on(1))
		c.place("c", no)
		c.room(0)
		c.remove("a", false, on(1))
		c.Suspend(1)
		c.room(0)
		c.place("c", no)
		c.remove("b", false, on(1)) // a suspended shard lets go
		c.room(0)
		c.Resume(1)
		c.Resume(1)
		c.room(2)
		c.place("c", on(1))
		c.Resume(0)
		c.Resume(2)
		c.room(5)
		c.loads(0, 1, 0)
	}
}

func TestRoomWithoutLimit(t *testing.T) {
	for _, limit := range []int{0, -1, math.MaxInt} {
		c := begin(t, LeastLoaded, limit, 2)
		c.room(math.MaxInt)
		for i := range 1000 {
			c.place(strconv.Itoa(i), on(i%2))
		}
		c.room(math.MaxInt)
		c.Suspend(0)
		c.room(math.MaxInt)
		c.Suspend(1)
		c.room(0)
		c.Resume(1)
		c.place("a", on(1))
	}
}

func TestUnknownShard(t *testing.T) {
	c := begin(t, LeastLoaded, 1, 1)
	c.place("a", on(0))
	for _, shard := range []int{-1, 1, math.MaxInt, math.MinInt} {
		c.Suspend(shard)
		c.Resume(shard)
		c.want("Linger", c.Linger(shard, "x"), false)
		c.want("Release", c.Release(shard, "a"), false)
		c.lists(shard, nil, nil)
	}
	c.loads(1)
}

func TestListsAreCopies(t *testing.T) {
	c := begin(t, LeastLoaded, 0, 1)
	c.place("a", on(0))
	c.want("Linger", c.Linger(0, "x"), true)
	c.List(0)[0], c.Table.Lingering(0)[0] = "b", "y"
	c.lists(0, []string{"a"}, []string{"x"})
}

// The map that Reserve leaves behind must have all that the old one had, and a large one must not be copied for a few.
func TestReserve(t *testing.T) {
	c := begin(t, Sequential, 0, 1)
	reserve := func(n int, copies bool) {
		t.Helper()
		before := c.placed.most
		c.Reserve(n)
		c.want("copied for "+strconv.Itoa(n), c.placed.most != before, copies)
	}
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			c.place(strconv.Itoa(i), on(0))
		}
	}
	reserve(-1, false)
	reserve(0, false)
	fill(0, 1000)
	reserve(1000, false)
	reserve(5000, true)
	reserve(4900, false) // there is room for them
	for i := range 1000 {
		c.lookup(strconv.Itoa(i), on(0))
	}
	fill(1000, 2500)
	reserve(3500, false)
	reserve(3501, true)
	fill(2500, 3000)
	c.want("Len", c.Len(), 3000)
}
