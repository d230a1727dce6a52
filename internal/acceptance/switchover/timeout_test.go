package switchover

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if a switchover's time is up?

// TestTimeout: it counts from the last request that was written, and ends the wait for proof.
func TestTimeout(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second, AckTimeout: harness.Off}
	cfg.Switchover.Timeout = 3 * time.Second
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b", "c") // one in 1.1 s
		w.Topics.Ack(false)
		c := w.Hot(0)
		c.Want(t, wsshard.ErrSwitchoverTimeout, 2200*time.Millisecond+3*time.Second)
		ev := report(w, wsshard.EventSwitchoverFailed)
		if ev.Err != wsshard.ErrSwitchoverTimeout || ev.Switchover.Proof != "none" || ev.Generation != 1 {
			t.Errorf("%+v, %+v", ev, ev.Switchover)
		}
		w.WantCauses(wsshard.ErrSwitchoverTimeout)
		w.WantTopics("a", "b", "c")
		w.Topics.Publish("c", "1")
		w.WantGot("ack:+a", "ack:+b", "ack:+c", "c:1")
		if sm := w.M.Metrics().Shards[0]; sm.State != wsshard.ShardConnected || sm.Generation != 1 {
			t.Errorf("the shard is %+v", sm)
		}
	})
}

// TestTimeoutCutsWithoutKeys: where the rest is proven, Timeout ends the wait for Linger and keys. What skipped them is no
// proof, and a Gap.
func TestTimeoutCutsWithoutKeys(t *testing.T) {
	for name, cfg := range map[string]wsshard.SwitchoverConfig{
		"keys":   {Timeout: 3 * time.Second},
		"linger": {Timeout: 3 * time.Second, Linger: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			c := harness.NoJitter()
			c.Switchover = cfg
			harness.Bubble(t, c, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				c := w.Hot(0)
				w.Srv.Conn(1).Send("a:k1")
				harness.After(time.Second)
				if name == "linger" {
					w.Srv.Conn(0).Send("a:k1")
				}
				c.Want(t, nil, 3*time.Second)
				if r := reportAndGaps(w, true); r.Proof != "none" {
					t.Errorf("report %+v", r)
				}
			})
		})
	}
}

// TestTimeoutTies: what is proven in the instant in which Timeout ends is proven.
func TestTimeoutTies(t *testing.T) {
	t.Run("settle", func(t *testing.T) {
		cfg := harness.NoJitter()
		cfg.Switchover = wsshard.SwitchoverConfig{Timeout: 2 * time.Second, Settle: 2 * time.Second}
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.Start("a")
			w.Hot(0).Want(t, nil, 2*time.Second)
		})
	})
	// An answer that does not come: the request is written once more, which begins Timeout anew, and then the topic has
	// failed. So one that the server never answers does not keep the shard from moving.
	t.Run("no answer", func(t *testing.T) {
		harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
			w.Topics.Ack(true)
			w.Start("a", "b")
			w.Topics.Ack(false)
			c := w.Hot(0)
			w.Srv.Conn(1).Send("ack:a")
			c.Want(t, nil, 20*time.Second)
			if got := w.App.TakeEvents(wsshard.EventSubscriptionRejected); len(got) != 1 || got[0].Subs[0] != "b" {
				t.Errorf("rejected %+v", got)
			}
		})
	})
	t.Run("none", func(t *testing.T) {
		cfg := harness.NoJitter()
		cfg.Switchover.Timeout = harness.Off
		cfg.Subscribe.AckTimeout = harness.Off
		harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
			w.Topics.Ack(true)
			w.Start("a")
			w.Topics.Ack(false)
			c := w.Hot(0)
			harness.After(time.Hour)
			if c.Over() {
				t.Error("it did not wait")
			}
			w.Srv.Conn(1).Send("ack:a")
			c.Want(t, nil, time.Hour+harness.DefaultLinger)
		})
	})
}

// TestARequestIsWaitedForTwice: a topic whose answer is overdue has not failed before its request was written once more, which the
// pace may hold up for long, and was not answered then either. Until then the old connection delivers, and Timeout waits.
func TestARequestIsWaitedForTwice(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Health.PingInterval = harness.Off
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: 2 * time.Minute} // one in 121 s
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		harness.After(10 * time.Minute)
		w.Topics.Ack(false)
		c := w.Hot(0)
		harness.After(2 * time.Minute)
		w.WantWire(1, "+a")
		if c.Over() {
			t.Fatalf("HotSwitchover: %v, though the request is to be written once more", c.Err)
		}
		harness.After(5 * time.Second)
		w.WantWire(1, "+a")
		w.Srv.Conn(1).Send("ack:a")
		c.Want(t, nil, 125*time.Second+harness.DefaultLinger)
		w.WantNoGap()
	})
}

// TestGateIsNotTimed: neither waiting for the gate nor the pace counts; ConnectTimeout does.
func TestGateIsNotTimed(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.Limiter = wsshard.NewConnectLimiter(1, time.Hour)
	cfg.Connection.ConnectTimeout = time.Second
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		c := w.Hot(0)
		harness.After(59 * time.Minute)
		if w.Net.Dials() != 1 || w.M.Metrics().Shards[0].State != wsshard.ShardSwitching {
			t.Error("it did not wait")
		}
		w.Topics.Publish("a", "1")
		w.WantGot("a:1")
		c.Want(t, nil, time.Hour+time.Second+harness.DefaultLinger)
		if r := report(w, wsshard.EventSwitchoverDone).Switchover; r.Dial != time.Hour {
			t.Errorf("report %+v", r)
		}
	})
}

// TestLingerFromTheLastProof: what is subscribed during the overlap lingers, too, from its own proof; what is unsubscribed
// keeps nobody waiting.
func TestLingerFromTheLastProof(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b")
		c := w.Hot(0)
		harness.After(200 * time.Millisecond)
		w.M.Unsubscribe("b")
		harness.After(40 * time.Millisecond)
		w.Subscribe("c") // answered at once by both
		harness.After(200 * time.Millisecond)
		w.Topics.Ack(false)
		w.M.Resubscribe("a")
		harness.After(700 * time.Millisecond)
		w.Srv.Conn(1).Send("ack:a")
		harness.After(100 * time.Millisecond)
		w.M.Unsubscribe("c")
		c.Want(t, nil, 1140*time.Millisecond+harness.DefaultLinger)
		w.WantTopics("a")
	})
}
