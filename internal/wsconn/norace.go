//go:build !race

package wsconn

// This file answers: what does any other build than a race build leave out?

const raceEnabled = false
