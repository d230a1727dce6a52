//go:build !race

package wsshard_test

import "testing"

const raceBuild = false

// onAllProcessors: every test has them.
func onAllProcessors(*testing.T) {}
