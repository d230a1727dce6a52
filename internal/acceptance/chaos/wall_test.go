//go:build wallstep

package chaos

import "time"

// This file answers: what if the wall clock is stepped?
//
// A bubble has a clock of its own, which nobody can step. time.StepWallClock comes from an overlay of package time that shifts what
// every time.Now says of the wall and leaves its monotonic part alone, in a bubble too: .ci/wallstep makes it, and runs chaos so.
func init() { chaosWall = time.StepWallClock }
