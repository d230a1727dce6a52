package switchover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is held, what is let go, and when is the cut?

// TestHoldLimits: one message more than may be held cuts over at once if the new connection is ready, and gives up if not.
func TestHoldLimits(t *testing.T) {
	for name, cfg := range map[string]wsshard.SwitchoverConfig{
		"messages": {HoldMessages: 3},
		"bytes":    {HoldBytes: 9},
	} {
		cfg := func() wsshard.Config { c := harness.NoJitter(); c.Switchover = cfg; return c }()
		t.Run(name+", ready", func(t *testing.T) {
			harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
				w.Start("a")
				c := w.Hot(0)
				harness.After(100 * time.Millisecond)
				w.Srv.Conn(1).Send("a:1") // this proves it
				w.Srv.Conn(1).Send("a:2")
				w.Srv.Conn(1).Send("a:3")
				harness.After(100 * time.Millisecond)
				w.Srv.Conn(0).Send("a:0")
				w.WantGot("a:0")
				w.Srv.Conn(1).Send("a:4")
				c.Want(t, nil, 200*time.Millisecond)
				w.WantGot("a:1", "a:2", "a:3", "a:4")
				evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
				if len(evs) != 2 || evs[0].Kind != wsshard.EventGap || evs[1].Switchover.Proof != "none" {
					t.Errorf("events %+v", evs)
				} else if at := c.Began.Add(200 * time.Millisecond); !evs[0].From.Equal(at.Add(-harness.DefaultLinger)) || !evs[0].To.Equal(c.Began.Add(100*time.Millisecond)) {
					t.Errorf("gap from %v to %v", evs[0].From, evs[0].To)
				}
			})
		})
		t.Run(name+", not ready", func(t *testing.T) {
			harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
				w.Start("a", "b")
				c := w.Hot(0)
				harness.After(100 * time.Millisecond)
				for i := range 4 {
					w.Srv.Conn(1).Send(fmt.Sprintf("a:%d", i))
				}
				c.Want(t, wsshard.ErrSwitchoverHold, 100*time.Millisecond)
				w.WantCauses(wsshard.ErrSwitchoverHold)
				w.Topics.Publish("a", "5")
				w.WantGot("a:5")
				w.WantTopics("a", "b")
				w.WantNoGap()
			})
		})
	}
}

// TestLetGoTakesNoRoom: what the old connection has delivered as well is not held, whichever was first.
func TestLetGoTakesNoRoom(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Switchover.HoldMessages = 4
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a", "b")
		c := w.Hot(0)
		w.Srv.Conn(1).Send("a:unkeyed, and before all of them")
		for i := range 20 {
			first := i % 2
			for _, conn := range []int{first, 1 - first} {
				w.Srv.Conn(conn).Send(fmt.Sprintf("a:k%d", i))
				harness.After(time.Millisecond)
			}
		}
		for i := range 20 {
			wantOne(w, fmt.Sprintf("a:k%d", i), i)
		}
		c.Want(t, nil, time.Second+harness.DefaultLinger)
		w.WantGot("a:unkeyed, and before all of them")
		if r := report(w, wsshard.EventSwitchoverDone).Switchover; r.Held != 21 || r.Dropped != 20 {
			t.Errorf("report %+v", r)
		}
		if n := w.M.Metrics().DuplicatesDropped; n != 20 {
			t.Errorf("%d duplicates are counted", n)
		}
	})
}

// wantOne checks the i-th message delivered since the last take.
func wantOne(w *harness.World, want string, i int) {
	w.T.Helper()
	w.App.Mu.Lock()
	defer w.App.Mu.Unlock()
	if i >= len(w.App.Got) || w.App.Got[i] != want {
		w.T.Fatalf("delivered %q, want %q at %d", w.App.Got, want, i)
	}
	if i == 19 {
		w.App.Got = nil
	}
}

// TestKeysCondition: the old connection must have delivered what the new one held when it became ready, or the first that
// came later; before or after that.
func TestKeysCondition(t *testing.T) {
	type step struct {
		conn int
		text string
	}
	for name, tt := range map[string]struct {
		before, ready []step // before the new one is proven, and after that
		proof         string // "": never, so that Timeout cuts, and there is a Gap
	}{
		"held":                    {before: []step{{1, "a:k1"}, {1, "a:k2"}}, ready: []step{{0, "a:k2"}, {0, "a:k1"}}, proof: "keys"},
		"not all":                 {before: []step{{1, "a:k1"}, {1, "a:k2"}}, ready: []step{{0, "a:k2"}}},
		"delivered before":        {before: []step{{0, "a:k1"}, {1, "a:k1"}}, proof: "keys"},
		"let go before":           {before: []step{{1, "a:k1"}, {0, "a:k1"}}, proof: "keys"},
		"the first later":         {before: []step{{0, "a:k1"}}, ready: []step{{1, "a:k2"}, {1, "a:k3"}, {0, "a:k2"}}, proof: "keys"},
		"the first later, missed": {before: []step{{0, "a:k1"}}, ready: []step{{1, "a:k2"}, {1, "a:k3"}, {0, "a:k3"}}},
		"later, but delivered":    {before: []step{{0, "a:k1"}, {0, "a:k2"}}, ready: []step{{1, "a:k2"}}, proof: "keys"},
		"none came":               {before: []step{{0, "a:k1"}}},
		"no keys":                 {before: []step{{0, "a:1"}, {1, "a:1"}}, proof: "acks"},
		"later ones do not count": {before: []step{{1, "a:k1"}, {0, "a:k1"}}, ready: []step{{1, "a:k2"}}, proof: "keys"},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				w.Topics.Ack(false)
				c := w.Hot(0)
				for _, s := range tt.before {
					w.Srv.Conn(s.conn).Send(s.text)
					harness.After(0)
				}
				harness.After(time.Second)
				w.Srv.Conn(1).Send("ack:a")
				harness.After(2 * time.Second)
				for _, s := range tt.ready {
					w.Srv.Conn(s.conn).Send(s.text)
					harness.After(0)
				}
				switch {
				case tt.proof == "": // until Timeout, which then cuts without
					c.Want(t, nil, 10*time.Second)
					if r := reportAndGaps(w, true); r.Proof != "none" {
						t.Errorf("report %+v", r)
					}
				case len(tt.ready) == 0 || name == "later ones do not count":
					c.Want(t, nil, time.Second+harness.DefaultLinger)
				default:
					c.Want(t, nil, 3*time.Second)
				}
				if tt.proof != "" {
					if r := report(w, wsshard.EventSwitchoverDone).Switchover; r.Proof != tt.proof {
						t.Errorf("report %+v", r)
					}
				}
			})
		})
	}
}

// TestDrain: the old connection is read until it is closed, reset, or DrainTimeout; what may be lost is a gap.
func TestDrain(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg   time.Duration
		slow  time.Duration // of each OnMessage
		close func(p *wstest.Peer)
		takes time.Duration
		gap   bool
		last  []string
	}{
		"close reply": {close: func(p *wstest.Peer) { p.Send("a:1") }, last: []string{"a:1"}},
		"EOF":         {close: func(p *wstest.Peer) { p.Send("a:1"); p.Kill() }, last: []string{"a:1"}},
		"late":        {close: func(p *wstest.Peer) { time.Sleep(1900 * time.Millisecond); p.Send("a:1") }, takes: 1900 * time.Millisecond, last: []string{"a:1"}},
		"too late":    {close: func(p *wstest.Peer) { p.Send("a:1"); time.Sleep(5 * time.Second); p.Send("a:2") }, takes: 2 * time.Second, gap: true, last: []string{"a:1"}},
		"reset":       {close: func(p *wstest.Peer) { p.Send("a:1"); time.Sleep(time.Second); p.Reset() }, takes: time.Second, gap: true, last: []string{"a:1"}},
		"no answer":   {close: func(p *wstest.Peer) { time.Sleep(time.Hour) }, takes: 2 * time.Second, gap: true},
		"no limit":    {cfg: harness.Off, close: func(p *wstest.Peer) { time.Sleep(time.Minute); p.Send("a:1") }, takes: time.Minute, last: []string{"a:1"}},
		"short limit": {cfg: time.Millisecond, close: func(p *wstest.Peer) { time.Sleep(time.Hour) }, takes: time.Millisecond, gap: true},
		"slow handler": {slow: 1500 * time.Millisecond, close: func(p *wstest.Peer) { p.Send("a:1"); p.Send("a:2") },
			takes: 3 * time.Second, last: []string{"a:1", "a:2"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Switchover.DrainTimeout = tt.cfg
			cfg.Health.PingInterval = harness.Off
			harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
				w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(tt.slow) }
				w.Srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						var at time.Time
						reply := harness.SlowClose(p, &at, 0)
						p.Conn().SetCloseHandler(func(code int, text string) error {
							tt.close(p)
							return reply(code, text)
						})
					}
				})
				w.Start("a")
				c := w.Hot(0)
				c.Want(t, nil, time.Second+harness.DefaultLinger+tt.takes)
				w.WantGot(tt.last...)
				r := reportAndGaps(w, tt.gap)
				if r.Drain != tt.takes {
					t.Errorf("report %+v", r)
				}
				w.WantCauses(wsshard.ErrReplaced)
			})
		})
	}
}

// reportAndGaps returns the report of a switchover, whose cutover left a gap or not.
func reportAndGaps(w *harness.World, gap bool) wsshard.SwitchoverReport {
	w.T.Helper()
	evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	if len(evs) == 0 || len(evs) == 2 != gap || evs[len(evs)-1].Switchover == nil {
		w.T.Fatalf("events %+v, want a gap: %v", evs, gap)
	}
	if gap && !slices.Equal(evs[0].Subs, []string{"a"}) {
		w.T.Errorf("gap of %q", evs[0].Subs)
	}
	return *evs[len(evs)-1].Switchover
}

// TestRepeatsAfterTheCutover: what the old connection delivered last may come on the new one after the cutover, late.
func TestRepeatsAfterTheCutover(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		slow := time.Duration(0)
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(slow) }
		w.Start("a")
		c := w.Hot(0)
		harness.After(1100 * time.Millisecond)
		keys := "a:k1,a:k2,a:k3,a:k4"
		for key := range strings.SplitSeq("a:k0,"+keys, ",") {
			w.Srv.Conn(0).Send(key)
		}
		w.Srv.Conn(1).Send("a:k0") // the proof by keys
		c.Want(t, nil, time.Second+harness.DefaultLinger)
		w.App.Take()
		if !hook.HoldsKeys(w.M, 0) {
			t.Error("the keys are forgotten")
		}
		harness.After(5 * time.Second) // it lags, but the first that comes is expected still
		w.Srv.Conn(1).Send("a:k1")
		harness.After(time.Second)
		w.Srv.Conn(1).Send("a:k2")
		harness.After(time.Second)
		slow = 10 * time.Second // a slow handler makes nothing come later than it did
		w.Srv.Conn(1).Send("a:5")
		w.Srv.Conn(1).Send("a:k3")
		harness.After(20 * time.Second)
		w.WantGot("a:5")
		slow = 0
		w.Srv.Conn(1).Send("a:k3") // one key twice on one connection
		w.WantGot("a:k3")
		harness.After(3 * time.Second)
		w.Srv.Conn(1).Send("a:6")
		w.Srv.Conn(1).Send("a:k4")
		w.WantGot("a:6", "a:k4") // nobody remembers by now
		if hook.HoldsKeys(w.M, 0) {
			t.Error("the keys are kept")
		}
		if m := w.M.Metrics(); m.DuplicatesDropped != 4 {
			t.Errorf("%d duplicates", m.DuplicatesDropped)
		}
	})
}

// TestKeysAreForgotten: keys take memory from the dial to shortly after the cutover, also if nothing comes then.
func TestKeysAreForgotten(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Switchover.MaxConcurrent = 1
	cfg.MaxSubscriptionsPerShard = 1
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a", "b")
		w.Net.OnDial(harness.HangingDial)
		first := w.Hot(1)
		c := w.Hot(0) // waits for its turn
		if hook.HoldsKeys(w.M, 0) {
			t.Error("keys are kept while the switchover waits")
		}
		w.Net.OnDial(nil)
		first.Cancel()
		harness.After(0)
		if !hook.HoldsKeys(w.M, 0) {
			t.Error("no keys are kept during the overlap")
		}
		w.Topics.Publish("a", "k1")
		harness.After(2 * time.Second)
		if !c.Over() || !hook.HoldsKeys(w.M, 0) {
			t.Error("the keys are forgotten at once")
		}
		harness.After(time.Minute)
		if hook.HoldsKeys(w.M, 0) {
			t.Error("the keys are kept for ever")
		}
		w.Net.OnDial(func(context.Context, int, string) error { return fmt.Errorf("no") })
		w.Hot(0)
		if hook.HoldsKeys(w.M, 0) {
			t.Error("the keys are kept after a failure")
		}
	})
}

// TestDuplicateKeys: a key that comes twice on one connection is delivered twice, and counted.
func TestDuplicateKeys(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		w.Start("a")
		w.Hot(0)
		w.Srv.Conn(0).Send("a:k1")
		w.Srv.Conn(0).Send("a:k1")
		w.Srv.Conn(1).Send("a:k2")
		w.Srv.Conn(1).Send("a:k2")
		w.WantGot("a:k1", "a:k1")
		w.Srv.Conn(1).Send("a:k3")
		w.Srv.Conn(1).Send("a:k3")
		harness.After(0)
		w.Srv.Conn(0).Send("a:k3")
		w.WantGot("a:k3")
		harness.After(time.Minute)
		w.WantGot("a:k2", "a:k2")
		if m := w.M.Metrics(); m.DuplicateKeys != 3 || m.DuplicatesDropped != 2 {
			t.Errorf("%d keys twice, %d duplicates dropped", m.DuplicateKeys, m.DuplicatesDropped)
		}
	})
}
