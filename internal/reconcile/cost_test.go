package reconcile

import (
	"math/rand/v2"
	"testing"
)

// What Next looks at is what it finds, however large the set is: each walk looks at each touch once, and twice at what it
// hands out.

const large = 10_000

func numbered(from, n int) []int {
	subs := make([]int, n)
	for i := range subs {
		subs[i] = from + i
	}
	return subs
}

// restored returns a session that has written large topics.
func restored() (*Desired[int], *Applied[int]) {
	d := New[int]()
	d.Add(numbered(0, large)...)
	a := d.Watch(make(chan struct{}, 1))
	all(a)
	a.looked = 0
	return d, a
}

func TestNextLooksAtTheDifference(t *testing.T) {
	costs := []struct {
		name string
		do   func(d *Desired[int], a *Applied[int])
		most int
	}{
		{"at rest", func(_ *Desired[int], a *Applied[int]) {
			for range 100 {
				a.Next(100, -1)
			}
		}, 0},
		{"one change", func(d *Desired[int], a *Applied[int]) {
			d.Remove(5)
			all(a)
			d.Add(5)
			all(a)
			d.Again(5)
			all(a)
		}, 20},
		{"a new session, in batches", func(d *Desired[int], a *Applied[int]) {
			b := d.Watch(make(chan struct{}, 1))
			for batch, ok := b.Next(100, -1); ok; batch, ok = b.Next(100, -1) {
				b.Done(batch)
			}
			a.looked = b.looked
		}, 2 * large},
		{"a paced session with all outstanding", func(d *Desired[int], a *Applied[int]) {
			d.Again(numbered(0, large)...)
			for range 10 {
				batch, _ := a.Next(100, -1)
				a.Done(batch)
			}
		}, large + 10*200}, // nothing was lost; ten batches
		{"a paced session that drops", func(d *Desired[int], a *Applied[int]) {
			d.Again(numbered(0, large)...)
			for range large/100 + 10 {
				batch, _ := a.Next(100, -1)
				if batch.Kind == Resubscribe {
					a.Drop(batch)
				} else {
					a.Done(batch)
				}
			}
		}, 4*large + 10*200}, // nothing was lost or kept, all was dropped; ten batches
		{"no room", func(d *Desired[int], a *Applied[int]) {
			d.Add(numbered(large, large)...)
			for range 100 {
				a.Next(0, 0)
			}
		}, 3*large + 100}, // and each time at the first that has none
		{"kept topics come back behind many that have no room", func(d *Desired[int], a *Applied[int]) {
			d.Remove(numbered(0, 100)...)
			batch, _ := a.Next(0, 0)
			a.Keep(batch)
			d.Add(numbered(large, large)...)
			d.Add(numbered(0, 100)...)
			for batch, ok := a.Next(1, 0); ok; batch, ok = a.Next(1, 0) {
				a.Done(batch)
			}
		}, 3*(large+200) + 500},
		{"late rejections", func(d *Desired[int], a *Applied[int]) {
			for s := range 100 {
				a.Fail(Batch[int]{Subscribe, []int{s}, []uint64{uint64(s) + 1}})
				a.Next(0, -1)
			}
		}, 0},
		{"written once more", func(d *Desired[int], a *Applied[int]) {
			a.Redo(numbered(0, 1000)...)
			all(a)
		}, 0},
	}
	for _, cost := range costs {
		t.Run(cost.name, func(t *testing.T) {
			d, a := restored()
			cost.do(d, a)
			if a.looked > cost.most {
				t.Errorf("looked at %d touches, want at most %d", a.looked, cost.most)
			}
		})
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	d, a := restored()
	one := make([]int, 1)
	churn := func() {
		for i := range 1000 {
			one[0] = i
			d.Remove(one...)
			d.Add(one...)
			batch, _ := a.Next(100, -1)
			a.Done(batch)
		}
	}
	churn()
	for range 30 {
		churn() // up to the size that the order keeps
	}
	if n := testing.AllocsPerRun(10, churn); n > 1 {
		t.Errorf("%v allocations in 1000 changes", n)
	}
}

// However long topics come and go, what is kept follows those that are wanted and those that a session has yet to
// unsubscribe.
func TestMemory(t *testing.T) {
	fast := func(d *Desired[int]) func() {
		a := d.Watch(make(chan struct{}, 1))
		return func() { all(a) }
	}
	slow := func(d *Desired[int]) func() {
		d.Watch(make(chan struct{}, 1))
		return func() {}
	}
	none := func(*Desired[int]) func() { return func() {} }
	for _, c := range []struct {
		name     string
		sessions []func(*Desired[int]) func()
		topics   int // that come and go; 0: always new ones
		gone     int
	}{
		{"no session", []func(*Desired[int]) func(){none}, 0, 0},
		{"a session", []func(*Desired[int]) func(){fast}, 0, 0},
		{"two sessions", []func(*Desired[int]) func(){fast, fast}, 0, 0},
		{"a session that does not look", []func(*Desired[int]) func(){slow}, 500, 500},
		{"one of two does not look", []func(*Desired[int]) func(){slow, fast}, 500, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := New[int]()
			var looks []func()
			for _, session := range c.sessions {
				looks = append(looks, session(d))
			}
			d.Add(numbered(-100, 100)...)
			for i := range 20_000 {
				s := i
				if c.topics > 0 {
					s %= c.topics
				}
				d.Add(s)
				for _, look := range looks {
					look()
				}
				d.Remove(s)
				d.Again(-1 - i%100)
				for _, look := range looks {
					look()
				}
				if most := 2*(101+c.gone) + slack; len(d.order) > most || len(d.gone) > most {
					t.Fatalf("after %d: %d touches and %d removals, want at most %d", i, len(d.order), len(d.gone), most)
				}
			}
		})
	}
}

// A session that does not look must not make each touch go through all that is held for it.
func TestCompactionsAreRare(t *testing.T) {
	d := New[int]()
	d.Watch(make(chan struct{}, 1))
	d.Add(numbered(0, large)...)
	d.Remove(numbered(0, large)...)
	compactions := 0
	for range 4 * large {
		before := len(d.order)
		d.Add(0)
		d.Remove(0)
		if len(d.order) != before+2 {
			compactions++
		}
	}
	if compactions > 10 {
		t.Errorf("%d compactions", compactions)
	}
}

// When the last session to look has looked, or has died, nothing is held.
func TestShrinks(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(a *Applied[int])
	}{
		{"looked", func(a *Applied[int]) { all(a) }},
		{"closed", func(a *Applied[int]) { a.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, a := restored()
			b := d.Watch(make(chan struct{}, 1))
			all(b)
			d.Remove(numbered(10, large)...)
			all(b)
			d.Watch(make(chan struct{}, 1)) // cannot have written what left before
			if len(d.gone) != large-10 {
				t.Fatalf("%d removals held", len(d.gone))
			}
			c.do(a)
			if len(d.order) != 10 || cap(d.order) > 4*(10+slack) || len(d.gone) != 0 {
				t.Errorf("%d touches in %d, %d removals", len(d.order), cap(d.order), len(d.gone))
			}
		})
	}
}

func TestRestGivesBackTheBatch(t *testing.T) {
	_, a := restored()
	if cap(a.subs) != 0 || cap(a.nums) != 0 {
		t.Errorf("%d topics", cap(a.subs))
	}
}

// Redo in any order costs what sorting does.
func TestRedoInDisorder(t *testing.T) {
	_, a := restored()
	for _, s := range rand.New(rand.NewPCG(1, 2)).Perm(large)[:1000] {
		a.Redo(s)
	}
	batch, _ := a.Next(0, 0)
	if len(batch.Subs) != 1000 {
		t.Errorf("%d topics", len(batch.Subs))
	}
	for i := range batch.Nums[1:] {
		if batch.Nums[i] >= batch.Nums[i+1] {
			t.Fatal("not by number")
		}
	}
}
