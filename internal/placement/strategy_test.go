package placement

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		strategy Strategy
		want     []int
	}{
		{LeastLoaded, []int{400, 400, 400}},
		{RoundRobin, []int{400, 400, 400}},
		{Sequential, []int{500, 500, 200}},
		{Strategy(-1), []int{400, 400, 400}},
	} {
		c := begin(t, test.strategy, 500, 3)
		for i := range 1200 {
			if _, ok := c.Place(strconv.Itoa(i)); !ok {
				t.Fatalf("strategy %d: no place for %d", test.strategy, i)
			}
		}
		c.loads(test.want...)
		c.room(300)
	}
}

func TestLeastLoadedLevelsOut(t *testing.T) {
	c := begin(t, LeastLoaded, 4, 2)
	c.place("a", on(0))
	c.place("b", on(1))
	c.place("c", on(0))
	c.Open()
	c.place("d", on(2))
	c.loads(2, 1, 1)
	c.remove("a", true, on(0)) // lingering is load
	c.place("e", on(1))
	c.place("f", on(2))
	c.loads(2, 2, 2)
	c.want("Release", c.Release(0, "a"), true)
	c.place("g", on(0))
	c.Suspend(0)
	c.want("Linger", c.Linger(1, "x"), true)
	c.place("h", on(2))
	c.remove("c", false, on(0))
	c.remove("g", false, on(0))
	c.Resume(0) // comes back with another load than it left with
	c.place("i", on(0))
	c.loads(1, 3, 3)
}

// The one shard of the lowest load goes, and the next load is far above.
func TestLeastLoadedLeavesAGap(t *testing.T) {
	c := begin(t, LeastLoaded, 0, 2)
	c.Suspend(0)
	for i := range 5000 {
		c.place(strconv.Itoa(i), on(1))
	}
	c.Resume(0)
	c.place("a", on(0))
	c.Suspend(0)
	c.place("b", on(1))
	c.Suspend(1)
	c.place("c", no)
	c.Resume(1)
	c.place("c", on(1))
	c.loads(1, 5002)
}

func TestRoundRobinTakesTurns(t *testing.T) {
	c := begin(t, RoundRobin, 3, 3)
	c.place("a", on(0))
	c.place("b", on(1))
	c.remove("a", false, on(0))
	c.place("c", on(2)) // whatever the load
	c.Open()
	c.place("d", on(3))
	c.Suspend(0)
	c.place("e", on(1))
	c.place("f", on(2))
	c.Resume(0)
	c.place("g", on(3))
	c.place("h", on(0))
	c.place("i", on(1)) // full
	c.place("j", on(2)) // full
	c.place("k", on(3)) // full
	c.place("l", on(0))
	c.place("m", on(0))
	c.place("n", no)
	c.remove("b", false, on(1))
	c.remove("d", false, on(3))
	c.place("n", on(1))
	c.place("o", on(3))
	c.place("p", no)
	c.remove("h", false, on(0))
	c.remove("i", false, on(1))
	c.place("p", on(0)) // a refusal was no turn
}

func TestSequentialReusesFreedPlaces(t *testing.T) {
	c := begin(t, Sequential, 2, 3)
	for i, s := range []string{"a", "b", "c", "d", "e"} {
		c.place(s, on(i/2))
	}
	c.remove("c", false, on(1))
	c.remove("b", false, on(0))
	c.Suspend(0)
	c.place("f", on(1))
	c.place("g", on(2))
	c.place("h", no)
	c.Resume(0)
	c.place("h", on(0))
	c.place("i", no)
}

func TestNumbers(t *testing.T) {
	var n numbers
	search := func(from int) answer {
		i, ok := n.next(from)
		return answer{i, ok}
	}
	if got := search(0); got != no {
		t.Fatalf("empty: %v", got)
	}
	n.remove(5) // not there
	top := math.MaxInt32
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{64, 4096, 1 << 20} {
		n = numbers{}
		var model []int
		for range 3000 {
			i := random.IntN(size)
			at, in := slices.BinarySearch(model, i)
			if n.has(i) != in {
				t.Fatalf("has(%d): %v", i, !in)
			}
			n.put(i, !in)
			if in {
				model = slices.Delete(model, at, at+1)
			} else {
				model = slices.Insert(model, at, i)
			}
			n.put(i, !in) // once more changes nothing
			for _, from := range []int{0, i, i + 1, random.IntN(size), size, top} {
				want := no
				if at, _ := slices.BinarySearch(model, from); at < len(model) {
					want = on(model[at])
				}
				if got := search(from); got != want {
					t.Fatalf("next(%d) of %d below %d: %v, want %v", from, len(model), size, got, want)
				}
			}
		}
	}
}
