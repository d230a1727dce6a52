//go:build race

package wsconn

// This file answers: what does a race build do besides?

// raceEnabled: a buffer that was lent is overwritten after use, so that keeping it shows.
const raceEnabled = true
