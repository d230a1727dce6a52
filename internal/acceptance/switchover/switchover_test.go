package switchover

import (
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: which steps has a switchover, and which proof does it report?

// detecting is an app whose connections are ready when "live" came.
type detecting struct{ *harness.App }

func (detecting) IsReady(msg wsshard.Message, _ wsshard.ConnectionState) bool {
	return msg.String() == "live"
}

func withDetector(a *harness.App) wsshard.Handler[string] { return detecting{a} }

var (
	_ wsshard.Inspector[string]    = harness.Tagged{}
	_ wsshard.Acknowledger[string] = harness.TaggedAcks{}
	_ wsshard.ReadyDetector        = detecting{}
)

// report returns the report of the one switchover that ended since the last look at events.
func report(w *harness.World, kind wsshard.EventKind) (ev wsshard.Event[string]) {
	w.T.Helper()
	evs := w.App.TakeEvents(wsshard.EventSwitchoverDone, wsshard.EventSwitchoverFailed)
	if len(evs) != 1 || evs[0].Kind != kind || evs[0].Switchover == nil {
		w.T.Fatalf("events %+v, want one %v", evs, kind)
	}
	return evs[0]
}

// wantReport checks it.
func wantReport(w *harness.World, want wsshard.SwitchoverReport) {
	w.T.Helper()
	if got := *report(w, wsshard.EventSwitchoverDone).Switchover; got != want {
		w.T.Errorf("report %+v, want %+v", got, want)
	}
}

// TestSwitchoverSteps goes through DESIGN's five steps with answers and keys.
func TestSwitchoverSteps(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		var cut time.Time
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				harness.SlowClose(p, &cut, 300*time.Millisecond, "a:k4", "a:4")
			}
		})
		w.Start("a", "b")
		w.App.Take()
		w.App.TakeEvents()

		// 1st: both connections are subscribed, the old one goes on.
		c := w.Hot(0)
		if got := w.Srv.Conn(1).Got(); !slices.Equal(got, []string{"+a,b"}) {
			t.Errorf("the new connection heard %q", got)
		}
		evs := w.App.TakeEvents(wsshard.EventSwitchoverStarted)
		if len(evs) != 1 || evs[0].Generation != 1 || evs[0].Switchover.Trigger != "call" {
			t.Errorf("events %+v", evs)
		}
		if sm := w.M.Metrics().Shards[0]; sm.State != wsshard.ShardSwitching || !sm.IsConnected || sm.Generation != 1 {
			t.Errorf("the shard is %+v", sm)
		}

		// 2nd: the new one's messages wait; those that the old one delivers are let go.
		w.Topics.Publish("a", "k1")
		w.Topics.Publish("b", "2")
		w.WantGot("a:k1", "b:2")
		w.Srv.Conn(1).Send("a:k3")
		w.WantGot()

		// 3rd: what the new one held when it was ready counts; what came later does not keep it waiting.
		harness.After(harness.DefaultLinger - 1)
		w.Srv.Conn(1).Send("a:k4")
		harness.After(1)
		if d := cut.Sub(c.Began); d != harness.DefaultLinger {
			t.Errorf("the old connection was told to close after %v", d)
		}

		// 4th: the old one's last messages. 5th: the new one's.
		w.WantGot("a:k4", "a:4")
		w.Srv.Conn(1).Send("b:5")
		w.WantCauses()
		c.Want(t, nil, harness.DefaultLinger+300*time.Millisecond)
		w.WantCauses(wsshard.ErrReplaced)
		w.WantGot("ack:+a,b", "b:2", "a:k3", "b:5")
		wantReport(w, wsshard.SwitchoverReport{
			Trigger: "call", Proof: "keys", Overlap: harness.DefaultLinger, Drain: 300 * time.Millisecond, Held: 6, Dropped: 2,
		})
		m := w.M.Metrics()
		if m.HotSwitchovers != 1 || m.DuplicatesDropped != 2 || m.Gaps != 0 || m.Shards[0].State != wsshard.ShardConnected {
			t.Errorf("%+v", m)
		}
		w.WantTopics("a", "b")
	})
}

// TestSwitchoverProofs: which proof is had, when, and what the report calls it.
func TestSwitchoverProofs(t *testing.T) {
	const settle = time.Second // the default
	say := func(i int, text string) func(w *harness.World) {
		return func(w *harness.World) { w.Srv.Conn(i).Send(text) }
	}
	for name, tt := range map[string]struct {
		handler func(*harness.App) wsshard.Handler[string]
		acks    bool
		after1  time.Duration          // after which
		do      []func(*harness.World) // happens
		ready   time.Duration
		proof   string
		overlap time.Duration
	}{
		"answers":           {handler: harness.WithTagAcks, acks: true, proof: "acks", overlap: harness.DefaultLinger},
		"late answers":      {handler: harness.WithTagAcks, after1: 700 * time.Millisecond, do: []func(*harness.World){say(1, "ack:+a,b")}, ready: 700 * time.Millisecond, proof: "acks", overlap: harness.DefaultLinger},
		"a rejection":       {handler: harness.WithTagAcks, after1: 700 * time.Millisecond, do: []func(*harness.World){say(1, "nack:a"), say(1, "ack:b")}, ready: 700 * time.Millisecond, proof: "acks", overlap: harness.DefaultLinger},
		"not data":          {handler: harness.WithTagAcks, after1: 700 * time.Millisecond, do: []func(*harness.World){say(1, "a:1"), say(1, "b:1"), func(*harness.World) { time.Sleep(time.Second) }, say(1, "ack:a,b")}, ready: 1700 * time.Millisecond, proof: "acks", overlap: harness.DefaultLinger},
		"nothing but time":  {ready: settle, proof: "settle", overlap: harness.DefaultLinger},
		"data, but unnamed": {after1: 100 * time.Millisecond, do: []func(*harness.World){say(1, "a:1"), say(1, "b:1")}, ready: settle, proof: "settle", overlap: harness.DefaultLinger},
		"data for each":     {handler: harness.WithTags, after1: 100 * time.Millisecond, do: []func(*harness.World){say(1, "a:1"), say(1, "b:1")}, ready: 100 * time.Millisecond, proof: "acks", overlap: harness.DefaultLinger},
		"data for one":      {handler: harness.WithTags, after1: 100 * time.Millisecond, do: []func(*harness.World){say(1, "a:1")}, ready: settle, proof: "settle", overlap: harness.DefaultLinger},
		"keys are no stronger than time": {handler: harness.WithTags, after1: 100 * time.Millisecond, do: []func(*harness.World){say(1, "a:k1"), say(0, "a:k1")},
			ready: settle, proof: "settle", overlap: harness.DefaultLinger},
		"keys": {handler: harness.WithTags, after1: 100 * time.Millisecond, do: []func(*harness.World){say(1, "a:k1"), say(1, "b:k1"),
			func(*harness.World) { time.Sleep(time.Second) }, say(0, "a:k1"), say(0, "b:k1")}, ready: 100 * time.Millisecond, proof: "keys", overlap: time.Second},
		"a detector": {handler: withDetector, after1: 3 * time.Second, do: []func(*harness.World){say(1, "live")}, ready: 3 * time.Second, proof: "acks", overlap: harness.DefaultLinger},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), tt.handler, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a", "b")
				w.Topics.Ack(tt.acks)
				c := w.Hot(0)
				harness.After(tt.after1)
				for _, do := range tt.do {
					do(w)
					harness.After(0)
				}
				c.Want(t, nil, tt.ready+tt.overlap)
				r := *report(w, wsshard.EventSwitchoverDone).Switchover
				if r.Proof != tt.proof || r.Ready != tt.ready || r.Overlap != tt.overlap {
					t.Errorf("report %+v, want %s, ready after %v, overlap %v", r, tt.proof, tt.ready, tt.overlap)
				}
				w.WantTopics("a", "b")
			})
		})
	}
}

// TestDetectorAfterTheLastRequest: what IsReady saw before the last request was written proves nothing.
func TestDetectorAfterTheLastRequest(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second}
	harness.Bubble(t, cfg, withDetector, func(w *harness.World) {
		w.Start("a", "b") // one in 1.1 s
		harness.After(10 * time.Second)
		c := w.Hot(0)
		harness.After(time.Second)
		w.Srv.Conn(1).Send("live")
		harness.After(5 * time.Second)
		if c.Over() {
			t.Error("it was ready before its last request")
		}
		w.Srv.Conn(1).Send("live")
		harness.After(0)
		w.Srv.Conn(1).Send("live") // again: it was ready already
		c.Want(t, nil, 6*time.Second+harness.DefaultLinger)
	})
}

// TestSwitchoverWithoutTopics: nothing is to be proven.
func TestSwitchoverWithoutTopics(t *testing.T) {
	for name, handler := range map[string]func(*harness.App) wsshard.Handler[string]{"": nil, "acks": harness.WithTagAcks, "detector": withDetector} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), handler, func(w *harness.World) {
				w.Start()
				w.Hot(0).Want(t, nil, harness.DefaultLinger)
				w.WantCauses(wsshard.ErrReplaced)
				w.WantNoGap()
			})
		})
	}
}
