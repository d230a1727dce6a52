package acceptance

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/hook"
)

// When the process itself was stopped, deadlines say nothing about peers: each shard gets one round of grace, and no more.
func TestLateTimerGrace(t *testing.T) {
	for name, c := range map[string]struct {
		health wsshard.HealthConfig
		fault  func(w *world, shard int)
		cause  string
		dies   time.Duration // without grace
		graced time.Duration // with grace: once more the timeout, from the instant at which it would have died
	}{
		"no pong": {wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: off}, func(w *world, shard int) { w.srv.Conn(shard).Silent(true) },
			"pong-timeout", 30 * time.Second, 40 * time.Second},
		"no data": {wsshard.HealthConfig{}, func(*world, int) {}, "data-timeout", 30 * time.Second, 60 * time.Second},
		"no end": {wsshard.HealthConfig{DataTimeout: off}, func(w *world, shard int) { w.srv.Conn(shard).Net().Write([]byte{0x81, 9, 'x'}) },
			wsshard.ErrMessageTimeout.Error(), 30 * time.Second, 60 * time.Second},
	} {
		for _, late := range []bool{false, true} {
			t.Log(name, late)
			bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1, Health: c.health}, nil, func(w *world) {
				w.start(numbered(5)...)
				begin := time.Now()
				for shard := range 5 {
					c.fault(w, shard)
				}
				after(c.dies - time.Second)
				w.wantSick(begin, "", 0)
				when := c.dies
				if late {
					hook.NoteLate(w.m)
					when = c.graced
				}
				after(when - time.Since(begin) - 1)
				w.wantSick(begin, "", 0)
				after(1)
				evs := w.app.takeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected)
				if len(evs) != 5 {
					t.Errorf("%d of 5 were found after %v", len(evs), when)
				}
			})
		}
	}
}
