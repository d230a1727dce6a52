package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// TestHoldLimits: one message more than may be held cuts over at once if the new connection is ready, and gives up if not.
func TestHoldLimits(t *testing.T) {
	for name, cfg := range map[string]wsshard.SwitchoverConfig{
		"messages": {HoldMessages: 3},
		"bytes":    {HoldBytes: 9},
	} {
		cfg := func() wsshard.Config { c := noJitter(); c.Switchover = cfg; return c }()
		t.Run(name+", ready", func(t *testing.T) {
			bubble(t, cfg, withTags, func(w *world) {
				w.start("a")
				c := w.hot(0)
				after(100 * time.Millisecond)
				w.srv.Conn(1).Send("a:1") // this proves it
				w.srv.Conn(1).Send("a:2")
				w.srv.Conn(1).Send("a:3")
				after(100 * time.Millisecond)
				w.srv.Conn(0).Send("a:0")
				w.wantGot("a:0")
				w.srv.Conn(1).Send("a:4")
				c.want(t, nil, 200*time.Millisecond)
				w.wantGot("a:1", "a:2", "a:3", "a:4")
				evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
				if len(evs) != 2 || evs[0].Kind != wsshard.EventGap || evs[1].Switchover.Proof != "none" {
					t.Errorf("events %+v", evs)
				} else if at := c.began.Add(200 * time.Millisecond); !evs[0].From.Equal(at.Add(-linger)) || !evs[0].To.Equal(c.began.Add(100*time.Millisecond)) {
					t.Errorf("gap from %v to %v", evs[0].From, evs[0].To)
				}
			})
		})
		t.Run(name+", not ready", func(t *testing.T) {
			bubble(t, cfg, withTags, func(w *world) {
				w.start("a", "b")
				c := w.hot(0)
				after(100 * time.Millisecond)
				for i := range 4 {
					w.srv.Conn(1).Send(fmt.Sprintf("a:%d", i))
				}
				c.want(t, wsshard.ErrSwitchoverHold, 100*time.Millisecond)
				w.wantCauses(wsshard.ErrSwitchoverHold)
				w.topics.Publish("a", "5")
				w.wantGot("a:5")
				w.wantTopics("a", "b")
				w.wantNoGap()
			})
		})
	}
}

// TestLetGoTakesNoRoom: what the old connection has delivered as well is not held, whichever was first.
func TestLetGoTakesNoRoom(t *testing.T) {
	cfg := noJitter()
	cfg.Switchover.HoldMessages = 4
	bubble(t, cfg, withTags, func(w *world) {
		w.start("a", "b")
		c := w.hot(0)
		w.srv.Conn(1).Send("a:unkeyed, and before all of them")
		for i := range 20 {
			first := i % 2
			for _, conn := range []int{first, 1 - first} {
				w.srv.Conn(conn).Send(fmt.Sprintf("a:k%d", i))
				after(time.Millisecond)
			}
		}
		for i := range 20 {
			w.wantOne(fmt.Sprintf("a:k%d", i), i)
		}
		c.want(t, nil, time.Second+linger)
		w.wantGot("a:unkeyed, and before all of them")
		if r := w.report(wsshard.EventSwitchoverDone).Switchover; r.Held != 21 || r.Dropped != 20 {
			t.Errorf("report %+v", r)
		}
		if n := w.m.Metrics().DuplicatesDropped; n != 20 {
			t.Errorf("%d duplicates are counted", n)
		}
	})
}

// wantOne checks the i-th message delivered since the last take.
func (w *world) wantOne(want string, i int) {
	w.t.Helper()
	w.app.mu.Lock()
	defer w.app.mu.Unlock()
	if i >= len(w.app.got) || w.app.got[i] != want {
		w.t.Fatalf("delivered %q, want %q at %d", w.app.got, want, i)
	}
	if i == 19 {
		w.app.got = nil
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
			bubble(t, noJitter(), withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				w.topics.Ack(false)
				c := w.hot(0)
				for _, s := range tt.before {
					w.srv.Conn(s.conn).Send(s.text)
					after(0)
				}
				after(time.Second)
				w.srv.Conn(1).Send("ack:a")
				after(2 * time.Second)
				for _, s := range tt.ready {
					w.srv.Conn(s.conn).Send(s.text)
					after(0)
				}
				switch {
				case tt.proof == "": // until Timeout, which then cuts without
					c.want(t, nil, 10*time.Second)
					if r := w.reportAndGaps(true); r.Proof != "none" {
						t.Errorf("report %+v", r)
					}
				case len(tt.ready) == 0 || name == "later ones do not count":
					c.want(t, nil, time.Second+linger)
				default:
					c.want(t, nil, 3*time.Second)
				}
				if tt.proof != "" {
					if r := w.report(wsshard.EventSwitchoverDone).Switchover; r.Proof != tt.proof {
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
		"no limit":    {cfg: off, close: func(p *wstest.Peer) { time.Sleep(time.Minute); p.Send("a:1") }, takes: time.Minute, last: []string{"a:1"}},
		"short limit": {cfg: time.Millisecond, close: func(p *wstest.Peer) { time.Sleep(time.Hour) }, takes: time.Millisecond, gap: true},
		"slow handler": {slow: 1500 * time.Millisecond, close: func(p *wstest.Peer) { p.Send("a:1"); p.Send("a:2") },
			takes: 3 * time.Second, last: []string{"a:1", "a:2"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := noJitter()
			cfg.Switchover.DrainTimeout = tt.cfg
			cfg.Health.PingInterval = off
			bubble(t, cfg, withTags, func(w *world) {
				w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(tt.slow) }
				w.srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						var at time.Time
						reply := slowClose(p, &at, 0)
						p.Conn().SetCloseHandler(func(code int, text string) error {
							tt.close(p)
							return reply(code, text)
						})
					}
				})
				w.start("a")
				c := w.hot(0)
				c.want(t, nil, time.Second+linger+tt.takes)
				w.wantGot(tt.last...)
				r := w.reportAndGaps(tt.gap)
				if r.Drain != tt.takes {
					t.Errorf("report %+v", r)
				}
				w.wantCauses(wsshard.ErrReplaced)
			})
		})
	}
}

// reportAndGaps returns the report of a switchover, whose cutover left a gap or not.
func (w *world) reportAndGaps(gap bool) wsshard.SwitchoverReport {
	w.t.Helper()
	evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	if len(evs) == 0 || len(evs) == 2 != gap || evs[len(evs)-1].Switchover == nil {
		w.t.Fatalf("events %+v, want a gap: %v", evs, gap)
	}
	if gap && !slices.Equal(evs[0].Subs, []string{"a"}) {
		w.t.Errorf("gap of %q", evs[0].Subs)
	}
	return *evs[len(evs)-1].Switchover
}

// TestRepeatsAfterTheCutover: what the old connection delivered last may come on the new one after the cutover, late.
func TestRepeatsAfterTheCutover(t *testing.T) {
	bubble(t, noJitter(), withTags, func(w *world) {
		slow := time.Duration(0)
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(slow) }
		w.start("a")
		c := w.hot(0)
		after(1100 * time.Millisecond)
		keys := "a:k1,a:k2,a:k3,a:k4"
		for key := range strings.SplitSeq("a:k0,"+keys, ",") {
			w.srv.Conn(0).Send(key)
		}
		w.srv.Conn(1).Send("a:k0") // the proof by keys
		c.want(t, nil, time.Second+linger)
		w.app.take()
		if !hook.HoldsKeys(w.m, 0) {
			t.Error("the keys are forgotten")
		}
		after(5 * time.Second) // it lags, but the first that comes is expected still
		w.srv.Conn(1).Send("a:k1")
		after(time.Second)
		w.srv.Conn(1).Send("a:k2")
		after(time.Second)
		slow = 10 * time.Second // a slow handler makes nothing come later than it did
		w.srv.Conn(1).Send("a:5")
		w.srv.Conn(1).Send("a:k3")
		after(20 * time.Second)
		w.wantGot("a:5")
		slow = 0
		w.srv.Conn(1).Send("a:k3") // one key twice on one connection
		w.wantGot("a:k3")
		after(3 * time.Second)
		w.srv.Conn(1).Send("a:6")
		w.srv.Conn(1).Send("a:k4")
		w.wantGot("a:6", "a:k4") // nobody remembers by now
		if hook.HoldsKeys(w.m, 0) {
			t.Error("the keys are kept")
		}
		if m := w.m.Metrics(); m.DuplicatesDropped != 4 {
			t.Errorf("%d duplicates", m.DuplicatesDropped)
		}
	})
}

// TestKeysAreForgotten: keys take memory from the dial to shortly after the cutover, also if nothing comes then.
func TestKeysAreForgotten(t *testing.T) {
	cfg := noJitter()
	cfg.Switchover.MaxConcurrent = 1
	cfg.MaxSubscriptionsPerShard = 1
	bubble(t, cfg, withTags, func(w *world) {
		w.start("a", "b")
		w.net.OnDial(hang)
		first := w.hot(1)
		c := w.hot(0) // waits for its turn
		if hook.HoldsKeys(w.m, 0) {
			t.Error("keys are kept while the switchover waits")
		}
		w.net.OnDial(nil)
		first.cancel()
		after(0)
		if !hook.HoldsKeys(w.m, 0) {
			t.Error("no keys are kept during the overlap")
		}
		w.topics.Publish("a", "k1")
		after(2 * time.Second)
		if !c.over() || !hook.HoldsKeys(w.m, 0) {
			t.Error("the keys are forgotten at once")
		}
		after(time.Minute)
		if hook.HoldsKeys(w.m, 0) {
			t.Error("the keys are kept for ever")
		}
		w.net.OnDial(func(context.Context, int, string) error { return fmt.Errorf("no") })
		w.hot(0)
		if hook.HoldsKeys(w.m, 0) {
			t.Error("the keys are kept after a failure")
		}
	})
}

// TestDuplicateKeys: a key that comes twice on one connection is delivered twice, and counted.
func TestDuplicateKeys(t *testing.T) {
	bubble(t, noJitter(), withTags, func(w *world) {
		w.start("a")
		w.hot(0)
		w.srv.Conn(0).Send("a:k1")
		w.srv.Conn(0).Send("a:k1")
		w.srv.Conn(1).Send("a:k2")
		w.srv.Conn(1).Send("a:k2")
		w.wantGot("a:k1", "a:k1")
		w.srv.Conn(1).Send("a:k3")
		w.srv.Conn(1).Send("a:k3")
		after(0)
		w.srv.Conn(0).Send("a:k3")
		w.wantGot("a:k3")
		after(time.Minute)
		w.wantGot("a:k2", "a:k2")
		if m := w.m.Metrics(); m.DuplicateKeys != 3 || m.DuplicatesDropped != 2 {
			t.Errorf("%d keys twice, %d duplicates dropped", m.DuplicateKeys, m.DuplicatesDropped)
		}
	})
}
