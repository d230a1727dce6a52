package harness

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what do several suites configure alike?

// NoDial dials nothing.
func NoDial(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }

// Is reports of an error whether it wraps target.
func Is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

// NoJitter has nothing happen by chance or by itself.
func NoJitter() wsshard.Config {
	return wsshard.Config{
		Backoff:    wsshard.BackoffConfig{DisableJitter: true},
		Health:     wsshard.HealthConfig{DataTimeout: Off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: Off},
	}
}

// OneConnection makes a config with one topic a shard, where nothing is random.
func OneConnection(c wsshard.ConnectionConfig) wsshard.Config {
	if c.CircuitBreakerThreshold == 0 {
		c.CircuitBreakerThreshold = -1
	}
	return wsshard.Config{
		MaxSubscriptionsPerShard: 1,
		Connection:               c,
		Backoff:                  wsshard.BackoffConfig{InitialDelay: time.Second, Multiplier: 1, DisableJitter: true},
		Health:                   wsshard.HealthConfig{DataTimeout: -1},
	}
}

// Off is a duration that turns its field off.
const Off = time.Duration(-1)

// WantAtMost checks that no window, wherever it begins, holds more than n of the instants.
func WantAtMost(t *testing.T, at []time.Time, n int, window time.Duration) {
	t.Helper()
	slices.SortFunc(at, time.Time.Compare)
	for i := n; i < len(at); i++ {
		if d := at[i].Sub(at[i-n]); d < window {
			t.Errorf("%d within %v, at most %d may be within %v", n+1, d, n, window)
			return
		}
	}
}

// DialsOnly is a config in which nothing but the backoff decides when to dial.
func DialsOnly() wsshard.Config {
	return wsshard.Config{
		Connection: wsshard.ConnectionConfig{CircuitBreakerResetTimeout: -1, ProactiveReconnectInterval: -1},
		Backoff:    wsshard.BackoffConfig{DisableJitter: true},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	}
}

const ms = time.Millisecond

// NotingLimiter is a limiter that notes what it is asked.
type NotingLimiter struct {
	mu   sync.Mutex
	Keys []string
}

func (n *NotingLimiter) Wait(_ context.Context, host, egress string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Keys = append(n.Keys, host+" "+egress)
	return nil
}

func (n *NotingLimiter) Block(string, string, time.Time) {}

// HangingDial is a dial that nobody answers.
func HangingDial(ctx context.Context, _ int, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// ErrTest is a failure that a test makes.
var ErrTest = errors.New("test")

// DefaultLinger is Config.Switchover.Linger when it is not set.
const DefaultLinger = 250 * time.Millisecond
