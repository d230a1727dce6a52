package wsconn

import "time"

// This file answers: does the peer send nothing but frames without data?

// More than so many frames within such a time, without a byte of data between them, are a flood: a peer that means well sends
// a few control frames a second.
const (
	floodFrames = 10_000
	floodTime   = 10 * time.Second
)

// floodSlot is how far apart arrivals are told. They are taken for earlier, never for later, so nobody is cut too early.
const floodSlot = 10 * time.Millisecond

// flood counts frames without data since the last byte of data, as far as they are not older than floodTime. A quiet peer's
// takes a few entries.
type flood struct {
	slots []slot // oldest first
	sum   int
}

type slot struct {
	at time.Duration // the beginning of it
	n  int
}

// add counts a frame that came at now, and reports whether it is one too many.
func (f *flood) add(now time.Duration) (tooMany bool) {
	at := now.Truncate(floodSlot)
	if n := len(f.slots); n == 0 || f.slots[n-1].at != at {
		old := 0
		for old < n && f.slots[old].at <= now-floodTime {
			f.sum -= f.slots[old].n
			old++
		}
		f.slots = append(f.slots[:0], f.slots[old:]...)
		f.slots = append(f.slots, slot{at: at})
	}
	f.slots[len(f.slots)-1].n++
	f.sum++
	return f.sum > floodFrames
}

// data has come: what was before it is no flood.
func (f *flood) data() { f.slots, f.sum = f.slots[:0], 0 }
