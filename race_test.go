//go:build race

package wsshard_test

// raceBuild: what LowLatencyMode lends is overwritten after use.
const raceBuild = true
