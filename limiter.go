package wsshard

import (
	"context"
	"slices"
	"sync"
	"time"
)

// This file answers: how is a budget for dials kept?

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
	return &slidingLimiter{n: n, window: window, logs: make(map[doorKey]*dialLog)}
}

type slidingLimiter struct {
	n      int
	window time.Duration

	mu   sync.Mutex // protects following fields; a leaf lock
	logs map[doorKey]*dialLog
}

type dialLog struct {
	at      []time.Time // the last n dials, oldest first
	blocked time.Time
	line    []chan struct{} // those who wait, each with a channel of cap 1: a token when it is the first
}

func (l *slidingLimiter) Wait(ctx context.Context, host, egress string) error {
	k := doorKey{host, egress}
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

func (l *slidingLimiter) join(k doorKey) chan struct{} {
	first := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logLocked(k, time.Now())
	if log.line = append(log.line, first); len(log.line) == 1 {
		poke(first)
	}
	return first
}

func (l *slidingLimiter) leave(k doorKey, me chan struct{}) {
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
func (l *slidingLimiter) take(k doorKey, now time.Time) time.Duration {
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

// logLocked returns k's log. A new key lets go of the logs that hold nothing any more.
func (l *slidingLimiter) logLocked(k doorKey, now time.Time) *dialLog {
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
	log := l.logLocked(doorKey{host, egress}, time.Now())
	if until.After(log.blocked) {
		log.blocked = until
	}
}
