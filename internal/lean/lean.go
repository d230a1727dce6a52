// Package lean keeps what grows with the number of topics from staying as large as it once was. Go's maps and slices never give
// back what was deleted from them, and maps.Clone copies the holes too.
//
// All of it costs in proportion to what was deleted: a copy is made when three quarters are gone at least.
package lean

import "slices"

// This file answers: when is a container too large for what is left in it?

// few is how many are not worth a copy.
const few = 64

// Fit returns m, or a copy that is no larger than it must. most is the largest number that m had, or was made for, since it was
// made. Fit keeps it where it is called after m has grown, too, and not only after it has shrunk. nil stays nil.
func Fit[M ~map[K]V, K comparable, V any](m M, most *int) M {
	*most = max(*most, len(m))
	if *most <= few || len(m) > *most/4 {
		return m
	}
	*most = len(m)
	if m == nil {
		return nil
	}
	fit := make(M, len(m))
	for k, v := range m {
		fit[k] = v
	}
	return fit
}

// FitSlice returns s, or a copy that is no larger than it must. It does not see what stands before the beginning of s: see Queue.
func FitSlice[T any](s []T) []T {
	switch {
	case cap(s) <= few || len(s) > cap(s)/4:
		return s
	case len(s) == 0:
		return nil // slices.Clone would keep the array
	}
	return slices.Clone(s)
}

// Queue is first in, first out. The zero value is empty.
type Queue[T any] struct {
	all    []T
	passed int // of all, from the beginning
}

func (q *Queue[T]) Len() int { return len(q.all) - q.passed }

// Push adds v behind all others.
func (q *Queue[T]) Push(v T) { q.all = append(q.all, v) }

// First returns the one that has waited longest. There must be one.
func (q *Queue[T]) First() T { return q.all[q.passed] }

// Pop takes it out.
func (q *Queue[T]) Pop() {
	clear(q.all[q.passed : q.passed+1]) // or the array would keep it from being collected
	q.passed++
	switch left := q.all[q.passed:]; {
	case len(left) == 0:
		q.all, q.passed = FitSlice(q.all[:0]), 0
	case q.passed > few && q.passed >= len(left):
		q.all, q.passed = slices.Clone(left), 0
	}
}

// List returns those that wait, the first first. It is valid until the queue changes, and must not be changed.
func (q *Queue[T]) List() []T { return q.all[q.passed:] }
