package wsshard

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: when does a shard try again, and how is a budget for dials kept?

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

// ConnectLimiter is a budget for dials. Several managers may share one (Config.Connection.Limiter), and an application may
// share its own between processes. Its methods are called from many goroutines. host is that of the URL with its port,
// "feed.example:443", egress what ConnectionState calls so. An error of Wait, while ctx lives, fails the attempt.
type ConnectLimiter interface {
	Wait(ctx context.Context, host, egress string) error // until a dial may begin
	Block(host, egress string, until time.Time)          // Retry-After: no dial before then
}

// NewConnectLimiter allows n dials per (host, egress) in any window: a sliding log, so there is no burst at a window's
// edge; first come, first served. n or window not positive: no limit but Block. Dials take different times to arrive: for a
// server that allows n in a window of its own, make window longer than that by the spread of your handshakes, from the fastest
// to the slowest: some 100 ms for 1 a second. (Not by ConnectTimeout: 1 a second would become one each 11 s.)
func NewConnectLimiter(n int, window time.Duration) ConnectLimiter {
	return &slidingLimiter{n: n, window: window, logs: make(map[gate.Key]*dialLog)}
}

type slidingLimiter struct {
	n      int
	window time.Duration

	mu   sync.Mutex // protects following fields; a leaf lock
	logs map[gate.Key]*dialLog
}

type dialLog struct {
	at      []time.Time // the last n dials, oldest first
	blocked time.Time
	line    []chan struct{} // those who wait, each with a channel of cap 1: a token when it is the first
}

func (l *slidingLimiter) Wait(ctx context.Context, host, egress string) error {
	k := gate.Key{Host: host, Egress: egress}
	first := l.join(k)
	defer l.leave(k, first)
	select {
	case <-first:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for ctx.Err() == nil {
		d := l.take(k, time.Now())
		if d <= 0 {
			return nil
		}
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (l *slidingLimiter) join(k gate.Key) chan struct{} {
	first := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logLocked(k, time.Now())
	if log.line = append(log.line, first); len(log.line) == 1 {
		poke(first)
	}
	return first
}

func (l *slidingLimiter) leave(k gate.Key, me chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logs[k]
	i := slices.Index(log.line, me)
	log.line = slices.Delete(log.line, i, i+1)
	if i == 0 && len(log.line) > 0 {
		poke(log.line[0])
	}
}

// take spends one dial, or says how long to wait before asking again.
func (l *slidingLimiter) take(k gate.Key, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logs[k]
	if d := log.blocked.Sub(now); d > 0 {
		return d
	}
	if l.n <= 0 || l.window <= 0 {
		return 0
	}
	for len(log.at) > 0 && now.Sub(log.at[0]) >= l.window {
		log.at = log.at[1:]
	}
	if len(log.at) >= l.n {
		return l.window - now.Sub(log.at[0])
	}
	log.at = append(log.at, now)
	return 0
}

// spare says how long it takes until less than half of the budget is spent: routine switchovers leave the rest to shards that
// are down.
func (l *slidingLimiter) spare(host, egress string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logs[gate.Key{Host: host, Egress: egress}]
	if log == nil || l.n <= 0 || l.window <= 0 {
		return 0
	}
	half := max(1, l.n/2)
	if len(log.at) < half {
		return 0
	}
	return max(0, l.window-now.Sub(log.at[len(log.at)-half]))
}

// logLocked returns k's log. A new key lets go of the logs that hold nothing any more.
func (l *slidingLimiter) logLocked(k gate.Key, now time.Time) *dialLog {
	log := l.logs[k]
	if log == nil {
		for k, old := range l.logs {
			spent := len(old.at) > 0 && now.Sub(old.at[len(old.at)-1]) < l.window
			if len(old.line) == 0 && !spent && !old.blocked.After(now) {
				delete(l.logs, k)
			}
		}
		log = &dialLog{}
		l.logs[k] = log
	}
	return log
}

func (l *slidingLimiter) Block(host, egress string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logLocked(gate.Key{Host: host, Egress: egress}, time.Now())
	if until.After(log.blocked) {
		log.blocked = until
	}
}
