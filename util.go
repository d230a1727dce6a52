package wsshard

import (
	"context"
	"strconv"
	"time"
)

// This file answers: which few lines does the standard library leave to us?

// sleep waits for d, or less when ctx ends; then it returns the cause.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// onClock returns the same instant as the wall clock would show it now. What is measured is monotonic; where the wall clock was
// set in between, what it showed then is of no use to anybody.
func onClock(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	now := time.Now()
	return now.Add(t.Sub(now))
}

// mark makes a number that is not 0 of an instant on a connection's clock, for an atomic in which 0 says that there is none.
func mark(at time.Duration) int64 { return int64(at) + 1 }

// clocked is the instant that was marked.
func clocked(mark int64) time.Duration { return time.Duration(mark - 1) }

// first is the earlier of two instants.
func first(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// latest is the later of two instants.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// poke puts a token into a channel of capacity 1; one that is there already will do.
func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// validPort accepts no port at all.
func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 65536
}

// isClosed reports whether a channel that is only ever closed is.
func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
