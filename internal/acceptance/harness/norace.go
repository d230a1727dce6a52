//go:build !race

package harness

import "testing"

// This file answers: what does any other build than a race build leave out?

// RaceBuild: what LowLatencyMode lends is left as it is after use.
const RaceBuild = false

// OnAllProcessors: every test has them.
func OnAllProcessors(*testing.T) {}
