//go:build race

package wsshard

// raceEnabled: a buffer that was lent is overwritten after use, so that keeping it shows.
const raceEnabled = true
