package lean

import (
	"maps"
	"slices"
	"testing"
	"testing/quick"
)

// TestFit: however a map grows and shrinks, its copies hold the same, it was made for few more than are left, and what is copied
// is no more than what was deleted.
func TestFit(t *testing.T) {
	m, want := make(map[int]int), make(map[int]int)
	most, deleted, copied := 0, 0, 0
	step := func(change func()) {
		change()
		before := most
		m = Fit(m, &most)
		if most < before {
			copied += len(m)
		}
		if len(m) < most/4 && most > few {
			t.Fatalf("%d are left in a map for %d", len(m), most)
		}
	}
	for round, keep := range []int{0, 10, 1000, 300, 0} {
		for k := range 5000 {
			step(func() { m[k], want[k] = round, round })
		}
		for k := keep; k < 5000; k++ {
			deleted++
			step(func() { delete(m, k); delete(want, k) })
		}
		if !maps.Equal(m, want) {
			t.Fatalf("round %d: %d are left, want %d", round, len(m), len(want))
		}
	}
	if copied > deleted/2 {
		t.Errorf("%d were copied, %d deleted", copied, deleted)
	}
	most = 1000 // it was made for so many, and never had them
	if Fit(map[int]int{1: 1}, &most); most != 1 {
		t.Errorf("it is as if made for %d", most)
	}
	if got := Fit(map[int]int(nil), new(int)); got != nil {
		t.Error("nil is nil no more")
	}
}

func TestFitSlice(t *testing.T) {
	s := make([]int, 100, 1000)
	if s = FitSlice(s); len(s) != 100 || cap(s) > 200 {
		t.Errorf("%d in %d", len(s), cap(s))
	}
	if again := FitSlice(s); &again[0] != &s[0] {
		t.Error("it was copied twice")
	}
	if s = FitSlice(make([]int, 0, 1000)); cap(s) > 0 || s != nil {
		t.Error("none in", cap(s))
	}
}

// TestQueue: what comes out is what went in, in order, and what is kept follows what waits.
func TestQueue(t *testing.T) {
	naive := func(ops []uint8) bool {
		var q Queue[int]
		var want []int
		n := 0
		for _, op := range ops {
			for range op {
				n++
				q.Push(n)
				want = append(want, n)
			}
			for range min(len(want), int(op)*int(op)/100) {
				if q.First() != want[0] {
					return false
				}
				q.Pop()
				want = want[1:]
			}
			if q.Len() != len(want) || !slices.Equal(q.List(), want) || len(q.all) > 2*len(want)+few+1 {
				return false
			}
		}
		return true
	}
	if err := quick.Check(naive, nil); err != nil {
		t.Error(err)
	}
	var q Queue[int]
	for i := range 10_000 {
		q.Push(i)
	}
	for range 9990 {
		q.Pop()
	}
	if cap(q.all) > 200 {
		t.Errorf("10 wait in %d", cap(q.all))
	}
}
