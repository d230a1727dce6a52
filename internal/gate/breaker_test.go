package gate

import (
	"testing"
	"time"
)

// This file answers: what do several dials in flight, and those that were cancelled, do to a door that is shut? All of it runs in synctest bubbles.

// The host's own word is never passed over: of two times that it named to dials in flight together the later one holds, in whichever
// order they came.
func TestTheLaterRetryAfterHolds(t *testing.T) {
	for _, asked := range [][2]time.Duration{{time.Minute, 10 * time.Second}, {10 * time.Second, time.Minute}} {
		gateTest(t, defaults, func(s *street) {
			s.fails(3, Up)
			first, second := s.come("first", Down), s.come("second", Down)
			first.leaveWith(Result{Verdict: TooMany, RetryAfter: asked[0], Status: 429})
			second.leaveWith(Result{Verdict: TooMany, RetryAfter: asked[1], Status: 429})
			next := s.come("next", Down)
			time.Sleep(time.Minute - 1)
			s.wantIn([]*guest{next})
			time.Sleep(time.Nanosecond)
			s.wantIn([]*guest{next}, "next")
		})
	}
}

// A probe that was cancelled has not asked the host: the next one may, at once, and no pause has become longer.
func TestACancelledProbeCostsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		shuts  func(s *street)
		v      Verdict
		pauses []time.Duration
	}{
		{"down", func(s *street) { s.fails(5, Failed) }, Failed, seconds(.25, .5, 1)},
		{"too many", func(s *street) { s.fails(1, TooMany) }, TooMany, seconds(1, 4, 16)},
	} {
		t.Run(c.name, func(t *testing.T) {
			gateTest(t, defaults, func(s *street) {
				c.shuts(s)
				for _, pause := range c.pauses {
					one, two := s.come("one", Down), s.come("two", Down)
					time.Sleep(pause - 1)
					s.wantIn([]*guest{one, two})
					time.Sleep(time.Nanosecond)
					s.wantIn([]*guest{one, two}, "one")
					one.leave(Unknown)
					s.wantIn([]*guest{two}, "two")
					two.leave(c.v)
				}
			})
		})
	}
}
