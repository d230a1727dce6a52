package switchover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what must hold after switchovers at an unfriendly server?

// What must hold after TestUnfriendlyServer: check is called at rest.
func (s *sim) check(sum *simTotals) {
	for i, topic := range s.topics {
		if s.churns && i < simLate {
			continue
		}
		seen := s.got[topic.name]
		sum.Published += len(topic.at)
		sum.Delivered += len(seen)
		if len(seen) == 0 {
			continue
		}
		first, last, times := seen[0].n, 0, map[int]int{}
		for _, m := range seen {
			if m.n < first {
				// Subscribed during the overlap, and honoured on the new connection first: all of the old comes before all
				// of the new.
				continue
			}
			if times[m.n]++; times[m.n] > 1 {
				sum.Twice++
				if s.mode.plain && s.movedNear(m.at) {
					continue // each of the two connections brings it
				}
				if !s.lostNear(m.at) {
					s.t.Errorf("%s:%d came twice, at %v on connection %d", topic.name, m.n, m.at.Sub(s.begin), m.gen)
				}
			} else if m.n < last {
				sum.Disordered++
				if s.mode.lossy && !s.mode.faults {
					continue // the old connection was not live either: see the one that was subscribed during the overlap
				}
				s.t.Errorf("%s:%d came after %d, at %v", topic.name, m.n, last, m.at.Sub(s.begin))
			}
			last = max(last, m.n)
		}
		for n := first; n <= len(topic.at); n++ {
			at := topic.at[n-1]
			if left := s.left[topic.name]; !left.IsZero() && at.After(left.Add(-simSkew-s.latency)) {
				break
			}
			if times[n] > 0 || time.Since(at) < simSkew+s.latency {
				continue
			}
			sum.Missing++
			if why := s.excused(topic.name, at); why != "" {
				s.t.Errorf("%s:%d, published at %v, is missing: %s", topic.name, n, at.Sub(s.begin), why)
			}
		}
	}
	for _, span := range s.spans {
		if sum.Dropped += span.report.Dropped; span.failed {
			sum.Failed++
		} else {
			sum.Switchovers++
		}
		if !s.mode.faults && (span.failed || span.report.Proof == "none") {
			s.t.Errorf("switchover %+v", span)
		}
	}
	if sum.Gaps += len(s.gaps); !s.mode.faults && len(s.gaps) > 0 {
		s.t.Errorf("gaps: %+v", s.gaps)
	}
	if s.t.Failed() {
		s.t.Logf("latency %v, honoured within %v, skew %v, changes %v, each %v", s.latency, s.honour, s.skew, s.churns, s.pause)
		s.t.Log(strings.Join(s.story, "\n"))
	}
}

// excused says why a message must not be missing; "": it may.
func (s *sim) excused(topic string, at time.Time) string {
	switch {
	case s.mode.faults:
		if !slices.ContainsFunc(s.gaps, func(ev wsshard.Event[string]) bool {
			return slices.Contains(ev.Subs, topic) && !at.Before(ev.Sure) && !at.After(ev.To)
		}) {
			return "it lies in no gap"
		}
	case !s.mode.lossy:
		return "nothing may be"
	default:
		for _, span := range s.spans {
			if !at.Before(span.from.Add(-simSkew-s.latency)) && !at.After(span.to.Add(simHonour)) {
				if span.report.Proof == "settle" {
					return ""
				}
				return fmt.Sprintf("its switchover had %+v", span.report)
			}
		}
		return "there was no switchover"
	}
	return ""
}

// movedNear reports whether a switchover was under way about then.
func (s *sim) movedNear(at time.Time) bool {
	return slices.ContainsFunc(s.spans, func(span simSpan) bool {
		return !at.Before(span.from) && !at.After(span.to.Add(simHonour))
	})
}

// lostNear reports whether a connection was lost about then: only the two of a switchover know each other's keys.
func (s *sim) lostNear(at time.Time) bool {
	return slices.ContainsFunc(s.gaps, func(ev wsshard.Event[string]) bool {
		return !at.Before(ev.From) && !at.After(ev.To.Add(simHonour))
	})
}
