package gate

import (
	"context"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how long does the switchover of a whole fleet take?

// A venue that takes 40 ms to accept gives notice to all at once. The door lets 16 dial at a time; nothing else bounds them. A notice of
// 30 s must be enough for more than these.
func TestFigureFleetHasNotice(t *testing.T) {
	figure(t, 1000, 6, nil, func(f *fleet) {
		f.settle()
		for _, c := range f.v.Conns() {
			c.Say(wstest.TextFrame("maintenance"))
		}
		f.wantWithin("all switched over", f.switched(1000, time.Minute), 5*time.Second)
		if m := f.m.Metrics(); m.Gaps != 0 || m.HotSwitchoverFailures != 0 || f.v.Live() != 1000 {
			t.Errorf("%d gaps, %d failed, %d live", m.Gaps, m.HotSwitchoverFailures, f.v.Live())
		}

		// Whoever asks for it waits for turns: 31 at a time, each a little more than Settle and Linger.
		for shard := range 1000 {
			go f.m.HotSwitchover(context.Background(), shard)
		}
		took := f.switched(2000, 2*time.Minute)
		f.wantWithin("all switched over because somebody asked", took, 50*time.Second)
		if took < 40*time.Second {
			t.Errorf("over after %v: turns did not bound it", took)
		}
	})
}
