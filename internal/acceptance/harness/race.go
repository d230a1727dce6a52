//go:build race

package harness

import (
	"runtime"
	"testing"
)

// This file answers: what does a race build do besides?

// RaceBuild: what LowLatencyMode lends is overwritten after use.
const RaceBuild = true

// With more than one processor, the race detector of Go 1.25 and 1.26 breaks down (SIGSEGV, or CHECK failed) in bubbles with many
// timers: timers of one bubble run on several threads, with one race context for all of them. Races are found all the same, since
// the detector goes by what happens before what.
func init() { runtime.GOMAXPROCS(1) }

// OnAllProcessors gives a test without a bubble all processors, at least two, until it ends.
func OnAllProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}
