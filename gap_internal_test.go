package wsshard

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestGapBeginsWhileItsTopicsLeave: a gap that begins in the instant in which the application unsubscribes a topic of it either
// leaves that out or hears of it. One that did neither would wait for a topic that nobody wants, and never be told.
func TestGapBeginsWhileItsTopicsLeave(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	subs := make([]string, 500)
	for i := range subs {
		subs[i] = fmt.Sprint(i)
	}
	for round := range 300 {
		s := newShard[string](m.core, m, 0)
		s.log, s.run = m.log, &run[string]{}
		s.desired.Add(subs...)
		now := time.Now()
		g := &gap[string]{from: now, sure: now, open: make(map[string]uint64)}
		var both sync.WaitGroup
		both.Go(func() { s.miss(g, slices.Clone(subs)) })
		both.Go(func() {
			for _, sub := range subs {
				s.desired.Remove(sub)
				s.gaps.leaves([]string{sub}, s.isDown)
			}
		})
		both.Wait()
		if len(s.gaps.list) > 0 {
			t.Fatalf("round %d: a gap waits for %d topics that left", round, len(s.gaps.list[0].open))
		}
	}
}
