package reconcile

import (
	"cmp"
	"slices"

	"github.com/seed-829c304d/wsshard/internal/lean"
)

// This file answers: what was touched since a number?

// A touch says that s was added, removed or asked for again. It counts only while want or gone has s with this number.
type touch[S comparable] struct {
	num uint64
	s   S
}

// slack spares small sets a compaction every few touches.
const slack = 64

func (d *Desired[S]) touchLocked(s S) uint64 {
	d.last++
	d.order = append(d.order, touch[S]{d.last, s})
	return d.last
}

// sinceLocked returns the touches with a number above num.
func (d *Desired[S]) sinceLocked(num uint64) []touch[S] {
	if num == d.last {
		return nil
	}
	i, _ := slices.BinarySearchFunc(d.order, num+1, func(t touch[S], n uint64) int { return cmp.Compare(t.num, n) })
	return d.order[i:]
}

// compactLocked lets go of the touches that no longer count, once they are as many as those that may.
//
// A session that does not look keeps removals in the order. Those found at the last compaction are reckoned as needed
// (held), or each touch from then on would go through all of them for nothing; what came since is not, or a session that
// does look would never see the order shrink. So between two compactions there are touches in proportion to what the
// second goes through.
func (d *Desired[S]) compactLocked() {
	passed := d.passedLocked()
	if passed == d.last {
		d.held = 0
	}
	if len(d.order) <= 2*(len(d.want)+d.held)+slack {
		return
	}
	d.order = slices.DeleteFunc(d.order, func(t touch[S]) bool {
		if num, ok := d.want[t.s]; ok {
			return num != t.num
		}
		if d.gone[t.s] == t.num && t.num <= passed {
			delete(d.gone, t.s)
		}
		return d.gone[t.s] != t.num
	})
	d.held = len(d.gone)
	d.order = lean.FitSlice(d.order)
}

// passedLocked returns the number up to which every session has looked for topics to unsubscribe.
func (d *Desired[S]) passedLocked() uint64 {
	passed := d.last
	for _, a := range d.sessions {
		passed = min(passed, a.past[lost])
	}
	return passed
}
