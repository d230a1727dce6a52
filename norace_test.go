//go:build !race

package wsshard_test

const raceBuild = false
