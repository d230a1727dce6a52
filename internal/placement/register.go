package placement

import "github.com/seed-829c304d/wsshard/internal/lean"

// This file answers: where in which shard's list is a subscription?

// register keeps one list a shard. Beside each subscription it holds its position, so that leaving costs the same on a
// long list as on a short one, and a list can be read out without a walk over the map.
type register[S comparable] struct {
	at     map[S]position
	lists  [][]S    // by shard
	counts []uint32 // by shard: the lengths of lists, close together
	most   int      // as many as at was made for, or has had since
}

// position is 8 bytes: there is one for each of a million subscriptions.
type position struct{ shard, index uint32 }

func newRegister[S comparable]() register[S] {
	return register[S]{at: make(map[S]position)}
}

func (r *register[S]) open() { r.lists, r.counts = append(r.lists, nil), append(r.counts, 0) }

func (r *register[S]) has(s S) bool {
	_, ok := r.at[s]
	return ok
}

func (r *register[S]) find(s S) (shard int, ok bool) {
	p, ok := r.at[s]
	return int(p.shard), ok
}

func (r *register[S]) count(shard int) int {
	if shard < 0 || shard >= len(r.lists) {
		return 0
	}
	return len(r.lists[shard])
}

func (r *register[S]) list(shard int) []S {
	if r.count(shard) == 0 {
		return nil
	}
	return append([]S(nil), r.lists[shard]...)
}

// add appends s, which is on no list, to that of a shard that exists.
func (r *register[S]) add(shard int, s S) {
	list := r.lists[shard]
	r.at[s] = position{uint32(shard), uint32(len(list))}
	r.lists[shard] = append(list, s)
	r.counts[shard]++
}

// remove moves the last of the list to where s was.
func (r *register[S]) remove(s S) (shard int, ok bool) {
	p, ok := r.at[s]
	if !ok {
		return 0, false
	}
	list := r.lists[p.shard]
	end := len(list) - 1
	if last := list[end]; int(p.index) != end {
		list[p.index] = last
		r.at[last] = p
	}
	clear(list[end:]) // or the array would keep it from being collected
	r.lists[p.shard] = lean.FitSlice(list[:end])
	r.counts[p.shard]--
	r.most = max(r.most, len(r.at))
	delete(r.at, s)
	r.at = lean.Fit(r.at, &r.most)
	return int(p.shard), true
}

// reserve moves to a larger map only where that costs no more than the n to come, so that many small calls do not copy
// a large map again and again.
func (r *register[S]) reserve(n int) {
	if n <= len(r.at) || n <= r.most-len(r.at) {
		return
	}
	r.most = len(r.at) + n
	at := make(map[S]position, r.most)
	for s, p := range r.at {
		at[s] = p
	}
	r.at = at
}
