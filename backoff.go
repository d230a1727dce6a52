package wsshard

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// This file answers: when does a shard try again?

// attempts counts a shard's failures in a row and spaces what follows them. It belongs to the shard loop.
type attempts struct {
	cfg     BackoffConfig
	ladder  *backoff.ExponentialBackOff
	failed  int            // dials, and sessions that were not stable
	dials   int            // of those, the dials
	uniform func() float64 // in [0, 1)
}

func newAttempts(cfg BackoffConfig, uniform func() float64) *attempts {
	a := &attempts{cfg: cfg, uniform: uniform}
	// The library's own jitter goes past MaxInterval, and it gives up by itself: both are switched off.
	a.ladder = backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(cfg.InitialDelay),
		backoff.WithMaxInterval(cfg.MaxDelay),
		backoff.WithMultiplier(cfg.Multiplier),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxElapsedTime(0),
	)
	return a
}

// lost notes that a session ended which had been up for so long. Only a stable one lets the backoff start over: a server
// that accepts and closes gets backoff, not a spin.
func (a *attempts) lost(uptime time.Duration) {
	if !a.outlived(uptime) {
		a.failed++
	}
}

// outlived notes that a session was up for so long, which is no failure, and reports whether it was stable.
func (a *attempts) outlived(uptime time.Duration) bool {
	stable := uptime >= a.cfg.StableAfter
	if stable {
		a.restart()
	}
	return stable
}

// refused notes a failed dial.
func (a *attempts) refused() {
	a.failed++
	a.dials++
}

func (a *attempts) restart() {
	a.failed, a.dials = 0, 0
	a.ladder.Reset()
}

// delay is how long to wait now: full jitter over a cap that grows with each call.
func (a *attempts) delay() time.Duration {
	most := min(a.ladder.NextBackOff(), a.cfg.MaxDelay)
	if a.cfg.DisableJitter {
		return most
	}
	return time.Duration(a.uniform() * float64(most))
}

// newUniform makes the source of a shard's jitter: the process's own, or a reproducible one where a test set a seed.
func newUniform(seed uint64, shard int) func() float64 {
	if seed == 0 {
		return rand.Float64
	}
	return rand.New(rand.NewPCG(seed, uint64(shard))).Float64
}

// sharedUniform is a source of jitter for several goroutines.
type sharedUniform struct {
	mu   sync.Mutex // protects following
	next func() float64
}

func (u *sharedUniform) float() float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.next()
}
