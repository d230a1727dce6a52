package wsshard

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever is asked for and whenever, no window has more frames than it may, one place is left to control frames, and a
// wait is as long as it was said to be.
func TestPaceProperty(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n, window := 1+rnd.IntN(8), time.Duration(1+rnd.IntN(5000))*time.Millisecond
		p := newPace(SubscribeConfig{MessagesPerWindow: n, Window: window})
		long := window + window/10
		var all, controls []time.Time // when each frame left
		within := func(left []time.Time, d time.Duration, now time.Time) (frames int) {
			for _, at := range left {
				if now.Sub(at) < d {
					frames++
				}
			}
			return frames
		}
		now := time.Unix(1e9, 0)
		for range 300 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(window) / float64(2*n)))
			control := rnd.IntN(3) == 0
			wait, charge := p.wait, func(now time.Time) { p.charge(now, 1) }
			if control {
				wait, charge = p.waitControl, p.chargeControl
			}
			due := wait(now)
			var may bool
			switch {
			case n == 1 && control: // in turns
				may = within(all, long, now) == 0 && within(controls, 2*long, now) == 0
			case n == 1:
				may = within(all, long, now) == 0
			case control:
				may = within(controls, long, now) == 0
			default:
				may = within(all, long, now)-within(controls, long, now) < n-1
			}
			if may != (due == 0) {
				t.Fatalf("seed %d: limit %d, %d frames within the window, control %v: wait %v", seed, n, within(all, long, now), control, due)
			}
			if rnd.IntN(2) == 0 { // or change one's mind
				continue
			}
			if due > 0 {
				if wait(now.Add(due-1)) == 0 {
					t.Fatalf("seed %d: told to wait %v, and it was too long", seed, due)
				}
				now = now.Add(due)
				if d := wait(now); d != 0 {
					t.Fatalf("seed %d: told to wait %v, then %v", seed, due, d)
				}
			}
			charge(now)
			all = append(all, now)
			if control {
				controls = append(controls, now)
			}
		}
		for i := range all {
			if i >= n && all[i].Sub(all[i-n]) < long {
				t.Fatalf("seed %d: %d frames within %v", seed, n+1, all[i].Sub(all[i-n]))
			}
		}
	}
}

func TestPaceWithoutLimit(t *testing.T) {
	now := time.Now()
	for _, n := range []int{0, -1, math.MaxInt} {
		p := newPace(SubscribeConfig{MessagesPerWindow: n, Window: time.Second})
		for range 1000 {
			if p.wait(now) != 0 {
				t.Fatalf("MessagesPerWindow %d waits", n)
			}
			if n <= 0 && p.waitControl(now) != 0 {
				t.Fatalf("MessagesPerWindow %d lets a control frame wait", n)
			}
			p.charge(now, 3)
			p.chargeControl(now)
		}
	}
}

// A message of many frames is charged for all of them, up to the whole window.
func TestPaceFrames(t *testing.T) {
	for _, c := range []struct{ n, frames, free int }{{5, 1, 3}, {5, 3, 1}, {5, 4, 0}, {5, 50, 0}, {2, 1, 0}, {1, 2, 0}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			p, now, free := newPace(SubscribeConfig{MessagesPerWindow: c.n, Window: time.Second}), time.Now(), 0
			for p.charge(now, c.frames); p.wait(now) == 0; p.charge(now, 1) {
				free++
			}
			if free != c.free {
				t.Errorf("room for %d more, want %d", free, c.free)
			}
			if d := p.wait(now); d != 1100*time.Millisecond {
				t.Errorf("then a wait of %v", d)
			}
		})
	}
}
