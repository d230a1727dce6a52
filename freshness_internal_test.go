package wsshard

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// A server that names topics nobody asked for, ever new ones, fills no memory; what is wanted is kept.
func TestUnaskedTopicsAreForgotten(t *testing.T) {
	want := reconcile.New[string]()
	want.Add("a", "b")
	var f freshness[string]
	var r resubscriptions[string]
	f.note([]string{"a", "b"}, 1, want)
	for i := range 10_000 {
		unasked := fmt.Sprint("unasked", i)
		f.note([]string{unasked}, 2, want)
		if n := len(r.claim([]string{unasked}, want, time.Unix(0, 0), time.Second)); n != 0 {
			t.Fatalf("a topic that is not wanted is asked for %d times", n)
		}
	}
	if len(f.at) > 1100 || len(r.since) != 0 || r.some.Load() {
		t.Errorf("%d topics are noted, %d are waited for", len(f.at), len(r.since))
	}
	for _, s := range []string{"a", "b"} {
		if at, named := f.of(s); at != 1 || !named {
			t.Errorf("%s: %d, %v", s, at, named)
		}
		if again := r.claim([]string{s}, want, time.Unix(0, 0), time.Second); len(again) != 1 {
			t.Errorf("%s cannot be asked for", s)
		}
	}
}
