//go:build !race

package wsshard

const raceEnabled = false
