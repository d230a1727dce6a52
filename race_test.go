//go:build race

package wsshard_test

import "runtime"

// raceBuild: what LowLatencyMode lends is overwritten after use.
const raceBuild = true

// With more than one processor, the race detector of Go 1.25 and 1.26 breaks down (SIGSEGV, or CHECK failed) in bubbles with many
// timers: timers of one bubble run on several threads, with one race context for all of them. Races are found all the same, since
// the detector goes by what happens before what.
func init() { runtime.GOMAXPROCS(1) }
