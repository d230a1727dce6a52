package acceptance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// soonSilent is a config in which five seconds without data are silence.
func soonSilent() wsshard.Config {
	cfg := noJitter()
	cfg.Health = wsshard.HealthConfig{DataTimeout: 5 * time.Second, PingInterval: off}
	return cfg
}

// TestSilentGivesWayToData: the replacement of a silent connection takes over when it has brought data for Linger, though most
// of what it is to carry is not even written. The gap goes on until all is proven.
func TestSilentGivesWayToData(t *testing.T) {
	cfg := soonSilent()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second} // one in 1.1 s
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a", "b", "c", "d")
		w.topics.Publish("a", "1")
		last := time.Now()
		after(5 * time.Second)
		w.app.take()
		after(100 * time.Millisecond)
		w.srv.Conn(1).Send("a:2")
		w.wantGot()
		after(linger - 1)
		w.wantGot()
		w.wantCauses()
		after(1)
		w.wantGot("ack:+a", "a:2")
		w.wantCauses(wsshard.ErrReplaced)
		w.wantReport(wsshard.SwitchoverReport{Trigger: "data-timeout", Proof: "none", Overlap: 100*time.Millisecond + linger, Held: 2})
		w.srv.Conn(1).Send("a:3")
		w.wantGot("a:3")
		w.wantNoGap()
		w.sync()
		w.wantGap(last, last.Add(5*time.Second+3300*time.Millisecond), "a", "b", "c", "d")
		w.wantTopics("a", "b", "c", "d")
	})
}

// TestSilentAnswersAreNoReason: an answer alone shows no better connection; on a quiet market it would end a healthy one.
func TestSilentAnswersAreNoReason(t *testing.T) {
	cfg := soonSilent()
	cfg.Subscribe.AckTimeout = off
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a", "b")
		w.topics.Ack(false)
		after(5 * time.Second)
		w.srv.Conn(1).Send("ack:a")
		after(5 * time.Second)
		w.wantCauses()
		w.srv.Conn(1).Send("ack:b") // all is proven
		w.wantCauses(wsshard.ErrReplaced)
		if r := w.reportAndGap(); r.Proof != "none" {
			t.Errorf("report %+v", r)
		}
	})
}

// reportAndGap returns the report of the switchover that left a gap.
func (w *world) reportAndGap() wsshard.SwitchoverReport {
	w.t.Helper()
	evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	if len(evs) != 2 || evs[0].Kind != wsshard.EventGap || evs[1].Switchover == nil {
		w.t.Fatalf("events %+v, want a gap", evs)
	}
	return *evs[1].Switchover
}

// TestSilentComesBack: data of the old connection before the cutover makes the switchover one of a live connection: Linger and
// keys, the drain, no gap. Whatever found it silent.
func TestSilentComesBack(t *testing.T) {
	for _, when := range []string{"while it dials", "before the new one's data", "within Linger"} {
		t.Run(when, func(t *testing.T) {
			cfg := soonSilent()
			cfg.Subscribe.AckTimeout = off
			bubble(t, cfg, withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				if when == "while it dials" {
					w.net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return nil })
				}
				w.topics.Ack(false)
				after(6 * time.Second)
				back := func() {
					w.srv.Conn(0).Send("a:1")
					after(0)
				}
				if when == "within Linger" {
					w.srv.Conn(1).Send("a:1")
					after(linger / 2)
					back()
				} else {
					back()
					after(2 * time.Second)
					w.srv.Conn(1).Send("a:1")
				}
				after(linger * 2)
				w.srv.Conn(0).Send("a:2")
				after(0)
				w.wantCauses()
				w.wantGot("ack:+a", "a:1", "a:2")
				w.srv.Conn(1).Send("ack:a")
				after(linger - 1)
				w.srv.Conn(0).Send("a:3")
				after(0)
				w.wantCauses()
				after(1)
				w.wantCauses(wsshard.ErrReplaced)
				if r := w.reportAndGaps(false); r.Trigger != "data-timeout" || r.Proof != "acks" {
					t.Errorf("report %+v", r)
				}
			})
		})
	}
}

// TestSilentComesBackAndStays: where the replacement fails after that, the old connection goes on, is judged again, and keeps
// no record of its silence.
func TestSilentComesBackAndStays(t *testing.T) {
	cfg := soonSilent()
	cfg.Subscribe.AckTimeout = off
	cfg.Switchover.Timeout = 3 * time.Second
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.app.onError = func(err error) bool { t.Errorf("OnError(%v)", err); return true }
		w.topics.Ack(true)
		w.start("a")
		w.topics.Ack(false)
		after(6 * time.Second)
		w.srv.Conn(0).Send("a:1")
		after(3 * time.Second)
		w.wantCauses(wsshard.ErrSwitchoverTimeout)
		w.wantTopics("a")
		w.srv.Conn(0).Send("a:2")
		after(0)
		last := time.Now()
		w.wantGot("ack:+a", "a:1", "a:2")
		w.wantNoGap()
		w.topics.Ack(true)
		w.app.onError = nil
		after(5*time.Second - 1)
		w.wantCauses()
		after(1) // silent once more
		after(0)
		w.wantCauses(wsshard.ErrReplaced)
		w.wantGap(last, time.Now(), "a")
	})
}

// TestSilentDeliversNoMore: when its replacement takes over, nothing of the old connection is delivered, and nobody waits for it:
// neither for its close reply nor for a write that is stuck.
func TestSilentDeliversNoMore(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprint("stuck ", stuck), func(t *testing.T) {
			cfg := soonSilent()
			cfg.Connection.WriteTimeout = time.Hour
			bubble(t, cfg, withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				w.app.take()
				old := w.srv.Conn(0)
				var told time.Time
				slowClose(old, &told, time.Hour, "a:late")
				after(4999 * time.Millisecond)
				w.topics.Ack(false)
				w.app.takeEvents()
				after(time.Millisecond)
				if stuck {
					w.net.Conns()[0].StallWrite(true)
					go w.m.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<21)))
					after(time.Second)
				}
				begin := time.Now()
				w.srv.Conn(1).Send("ack:a")
				w.srv.Conn(1).Send("a:1")
				after(100 * time.Millisecond)
				w.wantGot("ack:a", "a:1")
				w.wantCauses(wsshard.ErrReplaced)
				evs := w.app.takeEvents(wsshard.EventSwitchoverDone)
				if len(evs) != 1 || evs[0].Time.Sub(begin) > 100*time.Millisecond || !stuck && !evs[0].Time.Equal(begin) {
					t.Errorf("events %+v, which began at %v", evs, begin)
				}
			})
		})
	}
}

// TestSilentHoldIsFull: a replacement that has more than may be held works: it takes over at once.
func TestSilentHoldIsFull(t *testing.T) {
	cfg := soonSilent()
	cfg.Switchover.HoldMessages = 3
	cfg.Switchover.Linger = time.Minute
	bubble(t, cfg, withTags, func(w *world) {
		w.start("a", "b")
		after(5 * time.Second)
		for i := range 4 {
			w.wantGot()
			w.srv.Conn(1).Send(fmt.Sprintf("a:%d", i))
			after(0)
		}
		w.wantGot("a:0", "a:1", "a:2", "a:3")
		w.wantCauses(wsshard.ErrReplaced)
		after(time.Minute)
		if r := w.reportAndGapAfter(); r.Proof != "none" {
			t.Errorf("report %+v", r)
		}
		w.wantTopics("a", "b")
	})
}

// reportAndGapAfter returns the report of the switchover whose gap ended later.
func (w *world) reportAndGapAfter() (r wsshard.SwitchoverReport) {
	w.t.Helper()
	evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	at := slices.IndexFunc(evs, func(ev wsshard.Event[string]) bool { return ev.Kind == wsshard.EventSwitchoverDone })
	if at < 0 || len(evs) < at+2 {
		w.t.Fatalf("events %+v, want a gap", evs)
	}
	return *evs[at].Switchover
}

// TestFullHoldThatDrains: the old connection delivers, in its drain, all that the new one holds, while the new one's reader waits
// for room. It must be woken: else the shard would be connected, healthy and deaf for ever.
func TestFullHoldThatDrains(t *testing.T) {
	for _, limit := range []string{"messages", "bytes"} {
		for _, keys := range []string{"a:k1", "a:k1 a:k2", "a:k2", "a:k2 a:k1", "a:k1 a:k2 a:k3"} {
			t.Run(limit+" "+keys, func(t *testing.T) {
				cfg := noJitter()
				if cfg.Switchover.HoldMessages = 1; limit == "bytes" {
					cfg.Switchover.HoldMessages, cfg.Switchover.HoldBytes = off1, 5
				}
				bubble(t, cfg, withTags, func(w *world) {
					w.start("a")
					var told time.Time
					slowClose(w.srv.Conn(0), &told, time.Second, strings.Fields(keys)...)
					c := w.hot(0)
					w.srv.Conn(1).Send("a:k1") // proves it, and is held
					after(100 * time.Millisecond)
					w.srv.Conn(1).Send("a:k2") // finds no room: cut over
					c.want(t, nil, 1100*time.Millisecond)
					w.srv.Conn(1).Send("a:k3")
					w.srv.Conn(1).Send("a:4")
					after(time.Second)
					got := w.app.take()
					slices.Sort(got)
					got = slices.Compact(got) // of keys no more are remembered than of messages
					if want := []string{"a:4", "a:k1", "a:k2", "a:k3"}; !slices.Equal(got, want) {
						t.Errorf("delivered %q, want %q", got, want)
					}
					w.hot(0)
					after(time.Minute)
					w.wantTopics("a")
				})
			})
		}
	}
}
