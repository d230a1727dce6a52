package health

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
)

// This file answers: is a process that had been stopped given time, before its peers are blamed?

// When the process itself was stopped, deadlines say nothing about peers: each shard gets one round of grace, and no more.
func TestLateTimerGrace(t *testing.T) {
	for name, c := range map[string]struct {
		health wsshard.HealthConfig
		fault  func(w *harness.World, shard int)
		cause  string
		dies   time.Duration // without grace
		graced time.Duration // with grace: once more the timeout, from the instant at which it would have died
	}{
		"no pong": {wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: harness.Off}, func(w *harness.World, shard int) { w.Srv.Conn(shard).Silent(true) },
			"pong-timeout", 30 * time.Second, 40 * time.Second},
		"no data": {wsshard.HealthConfig{}, func(*harness.World, int) {}, "data-timeout", 30 * time.Second, 60 * time.Second},
		"no end": {wsshard.HealthConfig{DataTimeout: harness.Off}, func(w *harness.World, shard int) { w.Srv.Conn(shard).Net().Write([]byte{0x81, 9, 'x'}) },
			wsshard.ErrMessageTimeout.Error(), 30 * time.Second, 60 * time.Second},
	} {
		for _, late := range []bool{false, true} {
			t.Log(name, late)
			harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1, Health: c.health}, nil, func(w *harness.World) {
				w.Start(harness.Numbered(5)...)
				begin := time.Now()
				for shard := range 5 {
					c.fault(w, shard)
				}
				harness.After(c.dies - time.Second)
				wantSick(w, begin, "", 0)
				when := c.dies
				if late {
					hook.NoteLate(w.M)
					when = c.graced
				}
				harness.After(when - time.Since(begin) - 1)
				wantSick(w, begin, "", 0)
				harness.After(1)
				evs := w.App.TakeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected)
				if len(evs) != 5 {
					t.Errorf("%d of 5 were found after %v", len(evs), when)
				}
			})
		}
	}
}
