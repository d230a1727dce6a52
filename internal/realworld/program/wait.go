package program

import (
	"testing"
	"time"
)

// This file answers: how does a test wait for what another process does? It asks again and again: there is no signal to wait for.

// Limit is how long a test waits for what must happen. A healthy machine needs a fraction of it.
const Limit = time.Minute

// Eventually waits until ok says so.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, Limit, 2*time.Millisecond, what, ok)
}

// Within asks ok again and again, with pauses.
func Within(t testing.TB, most, pause time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(most); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", most, what)
		}
	}
}
