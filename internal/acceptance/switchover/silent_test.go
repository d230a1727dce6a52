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
)

// This file answers: when does a silent connection give way?

// soonSilent is a config in which five seconds without data are silence.
func soonSilent() wsshard.Config {
	cfg := harness.NoJitter()
	cfg.Health = wsshard.HealthConfig{DataTimeout: 5 * time.Second, PingInterval: harness.Off}
	return cfg
}

// TestSilentGivesWayToData: the replacement of a silent connection takes over when it has brought data for Linger, though most
// of what it is to carry is not even written. The gap goes on until all is proven.
func TestSilentGivesWayToData(t *testing.T) {
	cfg := soonSilent()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second} // one in 1.1 s
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b", "c", "d")
		w.Topics.Publish("a", "1")
		last := time.Now()
		harness.After(5 * time.Second)
		w.App.Take()
		harness.After(100 * time.Millisecond)
		w.Srv.Conn(1).Send("a:2")
		w.WantGot()
		harness.After(harness.DefaultLinger - 1)
		w.WantGot()
		w.WantCauses()
		harness.After(1)
		w.WantGot("ack:+a", "a:2")
		w.WantCauses(wsshard.ErrReplaced)
		wantReport(w, wsshard.SwitchoverReport{Trigger: "data-timeout", Proof: "none", Overlap: 100*time.Millisecond + harness.DefaultLinger, Held: 2})
		w.Srv.Conn(1).Send("a:3")
		w.WantGot("a:3")
		w.WantNoGap()
		w.Sync()
		w.WantGap(last, last.Add(5*time.Second+3300*time.Millisecond), "a", "b", "c", "d")
		w.WantTopics("a", "b", "c", "d")
	})
}

// TestSilentAnswersAreNoReason: an answer alone shows no better connection; on a quiet market it would end a healthy one.
func TestSilentAnswersAreNoReason(t *testing.T) {
	cfg := soonSilent()
	cfg.Subscribe.AckTimeout = harness.Off
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b")
		w.Topics.Ack(false)
		harness.After(5 * time.Second)
		w.Srv.Conn(1).Send("ack:a")
		harness.After(5 * time.Second)
		w.WantCauses()
		w.Srv.Conn(1).Send("ack:b") // all is proven
		w.WantCauses(wsshard.ErrReplaced)
		if r := reportAndGap(w); r.Proof != "none" {
			t.Errorf("report %+v", r)
		}
	})
}

// reportAndGap returns the report of the switchover that left a gap.
func reportAndGap(w *harness.World) wsshard.SwitchoverReport {
	w.T.Helper()
	evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	if len(evs) != 2 || evs[0].Kind != wsshard.EventGap || evs[1].Switchover == nil {
		w.T.Fatalf("events %+v, want a gap", evs)
	}
	return *evs[1].Switchover
}

// TestSilentComesBack: data of the old connection before the cutover makes the switchover one of a live connection: Linger and
// keys, the drain, no gap. Whatever found it silent.
func TestSilentComesBack(t *testing.T) {
	for _, when := range []string{"while it dials", "before the new one's data", "within Linger"} {
		t.Run(when, func(t *testing.T) {
			cfg := soonSilent()
			cfg.Subscribe.AckTimeout = harness.Off
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				if when == "while it dials" {
					w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return nil })
				}
				w.Topics.Ack(false)
				harness.After(6 * time.Second)
				back := func() {
					w.Srv.Conn(0).Send("a:1")
					harness.After(0)
				}
				if when == "within Linger" {
					w.Srv.Conn(1).Send("a:1")
					harness.After(harness.DefaultLinger / 2)
					back()
				} else {
					back()
					harness.After(2 * time.Second)
					w.Srv.Conn(1).Send("a:1")
				}
				harness.After(harness.DefaultLinger * 2)
				w.Srv.Conn(0).Send("a:2")
				harness.After(0)
				w.WantCauses()
				w.WantGot("ack:+a", "a:1", "a:2")
				w.Srv.Conn(1).Send("ack:a")
				harness.After(harness.DefaultLinger - 1)
				w.Srv.Conn(0).Send("a:3")
				harness.After(0)
				w.WantCauses()
				harness.After(1)
				w.WantCauses(wsshard.ErrReplaced)
				if r := reportAndGaps(w, false); r.Trigger != "data-timeout" || r.Proof != "acks" {
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
	cfg.Subscribe.AckTimeout = harness.Off
	cfg.Switchover.Timeout = 3 * time.Second
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.App.Judge = func(err error) bool { t.Errorf("OnError(%v)", err); return true }
		w.Topics.Ack(true)
		w.Start("a")
		w.Topics.Ack(false)
		harness.After(6 * time.Second)
		w.Srv.Conn(0).Send("a:1")
		harness.After(3 * time.Second)
		w.WantCauses(wsshard.ErrSwitchoverTimeout)
		w.WantTopics("a")
		w.Srv.Conn(0).Send("a:2")
		harness.After(0)
		last := time.Now()
		w.WantGot("ack:+a", "a:1", "a:2")
		w.WantNoGap()
		w.Topics.Ack(true)
		w.App.Judge = nil
		harness.After(5*time.Second - 1)
		w.WantCauses()
		harness.After(1) // silent once more
		harness.After(0)
		w.WantCauses(wsshard.ErrReplaced)
		w.WantGap(last, time.Now(), "a")
	})
}

// TestSilentDeliversNoMore: when its replacement takes over, nothing of the old connection is delivered, and nobody waits for it:
// neither for its close reply nor for a write that is stuck.
func TestSilentDeliversNoMore(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprint("stuck ", stuck), func(t *testing.T) {
			cfg := soonSilent()
			cfg.Connection.WriteTimeout = time.Hour
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				w.App.Take()
				old := w.Srv.Conn(0)
				var told time.Time
				harness.SlowClose(old, &told, time.Hour, "a:late")
				harness.After(4999 * time.Millisecond)
				w.Topics.Ack(false)
				w.App.TakeEvents()
				harness.After(time.Millisecond)
				if stuck {
					w.Net.Conns()[0].StallWrite(true)
					go w.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<21)))
					harness.After(time.Second)
				}
				begin := time.Now()
				w.Srv.Conn(1).Send("ack:a")
				w.Srv.Conn(1).Send("a:1")
				harness.After(100 * time.Millisecond)
				w.WantGot("ack:a", "a:1")
				w.WantCauses(wsshard.ErrReplaced)
				evs := w.App.TakeEvents(wsshard.EventSwitchoverDone)
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
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a", "b")
		harness.After(5 * time.Second)
		for i := range 4 {
			w.WantGot()
			w.Srv.Conn(1).Send(fmt.Sprintf("a:%d", i))
			harness.After(0)
		}
		w.WantGot("a:0", "a:1", "a:2", "a:3")
		w.WantCauses(wsshard.ErrReplaced)
		harness.After(time.Minute)
		if r := reportAndGapAfter(w); r.Proof != "none" {
			t.Errorf("report %+v", r)
		}
		w.WantTopics("a", "b")
	})
}

// reportAndGapAfter returns the report of the switchover whose gap ended later.
func reportAndGapAfter(w *harness.World) (r wsshard.SwitchoverReport) {
	w.T.Helper()
	evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverDone)
	at := slices.IndexFunc(evs, func(ev wsshard.Event[string]) bool { return ev.Kind == wsshard.EventSwitchoverDone })
	if at < 0 || len(evs) < at+2 {
		w.T.Fatalf("events %+v, want a gap", evs)
	}
	return *evs[at].Switchover
}

// TestFullHoldThatDrains: the old connection delivers, in its drain, all that the new one holds, while the new one's reader waits
// for room. It must be woken: else the shard would be connected, healthy and deaf for ever.
func TestFullHoldThatDrains(t *testing.T) {
	for _, limit := range []string{"messages", "bytes"} {
		for _, keys := range []string{"a:k1", "a:k1 a:k2", "a:k2", "a:k2 a:k1", "a:k1 a:k2 a:k3"} {
			t.Run(limit+" "+keys, func(t *testing.T) {
				cfg := harness.NoJitter()
				if cfg.Switchover.HoldMessages = 1; limit == "bytes" {
					cfg.Switchover.HoldMessages, cfg.Switchover.HoldBytes = off1, 5
				}
				harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
					w.Start("a")
					var told time.Time
					harness.SlowClose(w.Srv.Conn(0), &told, time.Second, strings.Fields(keys)...)
					c := w.Hot(0)
					w.Srv.Conn(1).Send("a:k1") // proves it, and is held
					harness.After(100 * time.Millisecond)
					w.Srv.Conn(1).Send("a:k2") // finds no room: cut over
					c.Want(t, nil, 1100*time.Millisecond)
					w.Srv.Conn(1).Send("a:k3")
					w.Srv.Conn(1).Send("a:4")
					harness.After(time.Second)
					got := w.App.Take()
					slices.Sort(got)
					got = slices.Compact(got) // of keys no more are remembered than of messages
					if want := []string{"a:4", "a:k1", "a:k2", "a:k3"}; !slices.Equal(got, want) {
						t.Errorf("delivered %q, want %q", got, want)
					}
					w.Hot(0)
					harness.After(time.Minute)
					w.WantTopics("a")
				})
			})
		}
	}
}
