//go:build !race

package acceptance

import "testing"

const raceBuild = false

// onAllProcessors: every test has them.
func onAllProcessors(*testing.T) {}
