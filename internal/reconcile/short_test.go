package reconcile

import "testing"

// Short is about topics that wait for what kept ones hold: not about those that wait for an unsubscription of ours, nor
// about a room that was small from the beginning.
func TestShort(t *testing.T) {
	d := New[string]()
	a := d.Watch(make(chan struct{}, 1))
	next := func(room int, want Kind, subs ...string) {
		t.Helper()
		b, ok := a.Next(0, room)
		if ok != (len(subs) > 0) || ok && (b.Kind != want || len(b.Subs) != len(subs)) {
			t.Fatalf("Next: %+v, %v, want %v %q", b, ok, want, subs)
		}
		if !ok {
			return
		}
		if b.Kind == Unsubscribe {
			a.Keep(b)
		} else {
			a.Done(b)
		}
	}
	short := func(want bool) {
		t.Helper()
		if a.Short() != want {
			t.Errorf("Short is %v", !want)
		}
	}
	short(false)
	d.Add("a", "b", "c")
	next(2, Subscribe, "a", "b")
	next(0, Subscribe)
	short(false) // nothing is kept
	d.Remove("a")
	next(0, Unsubscribe, "a")
	short(false) // Next has not looked since
	next(0, Subscribe)
	short(true)
	next(1, Subscribe, "c")
	short(false)
	next(0, Subscribe)
	short(false)
	d.Add("d")
	next(0, Subscribe)
	short(true)
	d.Remove("d")
	next(0, Subscribe)
	short(false)
}
