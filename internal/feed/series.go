package feed

import "slices"

// This file answers: which numbers of a topic were seen?

// A series says which numbers of one topic were seen. Its size grows with the holes in it, not with the numbers.
type series struct {
	first, last uint64 // 0: none yet
	distinct    uint64
	holes       []hole // between first and last, ascending
}

// hole: the numbers from lo to hi were not seen.
type hole struct{ lo, hi uint64 }

type sighting int

const (
	inOrder   sighting = iota // the first, or later than the last
	late                      // for the first time, but after a later one
	duplicate                 // not for the first time
)

func (s *series) add(n uint64) sighting {
	switch {
	case s.distinct == 0:
		s.first, s.last = n, n
	case n > s.last:
		if n > s.last+1 {
			s.holes = append(s.holes, hole{s.last + 1, n - 1})
		}
		s.last = n
	case n < s.first:
		if n+1 < s.first {
			s.holes = slices.Insert(s.holes, 0, hole{n + 1, s.first - 1})
		}
		s.first = n
		s.distinct++
		return late
	case !s.fill(n):
		return duplicate
	default:
		s.distinct++
		return late
	}
	s.distinct++
	return inOrder
}

// missed counts the numbers between first and last that were not seen.
func (s *series) missed() uint64 {
	if s.distinct == 0 {
		return 0
	}
	return s.last - s.first + 1 - s.distinct
}

// fill takes n out of the hole it is in.
func (s *series) fill(n uint64) bool {
	i, _ := slices.BinarySearchFunc(s.holes, n, func(h hole, n uint64) int {
		if h.hi < n {
			return -1
		}
		return 1
	})
	if i == len(s.holes) || n < s.holes[i].lo {
		return false
	}
	switch h := s.holes[i]; {
	case h.lo == h.hi:
		s.holes = slices.Delete(s.holes, i, i+1)
	case n == h.lo:
		s.holes[i].lo++
	case n == h.hi:
		s.holes[i].hi--
	default:
		s.holes[i].hi = n - 1
		s.holes = slices.Insert(s.holes, i+1, hole{n + 1, h.hi})
	}
	return true
}
