package reconcile

import (
	"slices"
	"testing"
)

// This file answers: who hears that a failed topic is wanted no more? Whoever keeps why it failed must let go of it.

func TestOverIsWhatFailedAndIsUnwanted(t *testing.T) {
	d := New[string]()
	a := d.Watch(make(chan struct{}, 1))
	fail := func(s string, num uint64) {
		a.Fail(Batch[string]{Kind: Subscribe, Subs: []string{s}, Nums: []uint64{num}})
	}
	want := func(want ...string) {
		t.Helper()
		for {
			b, ok := a.Next(10, -1)
			if !ok {
				break
			}
			a.Done(b)
		}
		if got := a.TakeOver(); !slices.Equal(got, want) {
			t.Errorf("over are %q, want %q", got, want)
		}
		if again := a.TakeOver(); len(again) > 0 {
			t.Errorf("over once more: %q", again)
		}
	}
	d.Add("stays", "goes", "comes back", "works")
	for _, s := range []string{"stays", "goes", "comes back"} {
		num, _ := d.Number(s)
		fail(s, num)
	}
	want()
	d.Remove("goes", "comes back", "works")
	d.Add("comes back") // before anybody looked
	want("goes")
	d.Add("late")
	num, _ := d.Number("late")
	want()
	d.Remove("late")
	fail("late", num) // the refusal comes when it is wanted no more
	want("late")
}
