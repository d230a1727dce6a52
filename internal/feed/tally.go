package feed

import (
	"hash/maphash"
	"sync"
)

// This file answers: what did a handler see?

// Tally counts what a handler sees. The zero value is ready; it is safe for concurrent use, and handlers of different
// topics hardly ever wait for each other.
type Tally struct {
	stripes [64]stripe
}

// Totals of a Tally.
type Totals struct {
	Received   uint64 // calls of Seen
	Missed     uint64 // numbers skipped, less those that came late
	Duplicates uint64
	OutOfOrder uint64 // for the first time, but after a later number of the same topic
}

// Distinct is Received without the duplicates.
func (t Totals) Distinct() uint64 { return t.Received - t.Duplicates }

type stripe struct {
	mu     sync.Mutex // protects following
	topics map[string]*series
	totals Totals
	_      [64]byte // no two stripes in one cache line
}

var seed = maphash.MakeSeed()

// Seen notes tick n of topic and reports whether it is new. It keeps no reference to topic.
func (t *Tally) Seen(topic []byte, n uint64) bool {
	st := &t.stripes[maphash.Bytes(seed, topic)%uint64(len(t.stripes))]
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.topics[string(topic)]
	if s == nil {
		if st.topics == nil {
			st.topics = make(map[string]*series)
		}
		s = new(series)
		st.topics[string(topic)] = s
	}
	missed := s.missed()
	got := s.add(n)
	st.totals.Received++
	st.totals.Missed += s.missed() - missed // may wrap, and then wraps back
	switch got {
	case duplicate:
		st.totals.Duplicates++
	case late:
		st.totals.OutOfOrder++
	}
	return got != duplicate
}

// Last is the highest number seen of topic, 0 if none was.
func (t *Tally) Last(topic string) uint64 {
	st := &t.stripes[maphash.String(seed, topic)%uint64(len(t.stripes))]
	st.mu.Lock()
	defer st.mu.Unlock()
	if s := st.topics[topic]; s != nil {
		return s.last
	}
	return 0
}

// Totals sums up over all topics.
func (t *Tally) Totals() Totals {
	var sum Totals
	for i := range t.stripes {
		st := &t.stripes[i]
		st.mu.Lock()
		sum.Received += st.totals.Received
		sum.Missed += st.totals.Missed
		sum.Duplicates += st.totals.Duplicates
		sum.OutOfOrder += st.totals.OutOfOrder
		st.mu.Unlock()
	}
	return sum
}
