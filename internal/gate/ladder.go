package gate

import "time"

// This file answers: how long is each pause?

const (
	firstDown   = 250 * time.Millisecond
	secondDial  = 2 * time.Second // a dial that is so old leaves its place to the next
	wide        = 16              // dials before and after what a host's budget was seen to be
	mostProbes  = 3               // of a host that is down, at once
	apart       = 200 * time.Millisecond
	manyClosed  = 5                // sessions that ended young, in a row
	manyNot     = 5                // shards that were refused in person, in a row
	stale       = 10 * time.Second // without a dial, a door's width is that of its beginning
	reminder    = time.Minute
	displaced   = 2 * time.Second // within which one connection ends another
	maxRetry    = time.Hour
	maxTeaRetry = 72 * time.Hour
)

// downStep is the n-th pause, from 1, of a host that is down.
func downStep(n int, most time.Duration) time.Duration { return double(firstDown, n, most) }

// busyStep is the n-th pause after "too many". From the 13th on it doubles, or it would never leave a penalty that each attempt
// begins anew.
func busyStep(n int) time.Duration {
	switch {
	case n <= 1:
		return time.Second
	case n == 2:
		return 4 * time.Second
	case n == 3:
		return 16 * time.Second
	}
	return double(time.Minute, n-11, 15*time.Minute)
}

// teaStep is the n-th pause after a 418: a ban.
func teaStep(n int) time.Duration { return double(2*time.Minute, n, time.Hour) }

// seatStep is the n-th pause of a shard that is refused in person.
func seatStep(n int) time.Duration { return double(time.Second, n, time.Minute) }

// benchStep is the n-th pause of the bench as a whole.
func benchStep(n int) time.Duration { return double(time.Second, n, 10*time.Second) }

// double is first for n up to 1, and doubles with each more, up to most.
func double(first time.Duration, n int, most time.Duration) time.Duration {
	for ; n > 1 && first < most; n-- {
		first *= 2
	}
	return min(first, most)
}
