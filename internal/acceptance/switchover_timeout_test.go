package acceptance

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestTimeout: it counts from the last request that was written, and ends the wait for proof.
func TestTimeout(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second, AckTimeout: off}
	cfg.Switchover.Timeout = 3 * time.Second
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a", "b", "c") // one in 1.1 s
		w.topics.Ack(false)
		c := w.hot(0)
		c.want(t, wsshard.ErrSwitchoverTimeout, 2200*time.Millisecond+3*time.Second)
		ev := w.report(wsshard.EventSwitchoverFailed)
		if ev.Err != wsshard.ErrSwitchoverTimeout || ev.Switchover.Proof != "none" || ev.Generation != 1 {
			t.Errorf("%+v, %+v", ev, ev.Switchover)
		}
		w.wantCauses(wsshard.ErrSwitchoverTimeout)
		w.wantTopics("a", "b", "c")
		w.topics.Publish("c", "1")
		w.wantGot("ack:+a", "ack:+b", "ack:+c", "c:1")
		if sm := w.m.Metrics().Shards[0]; sm.State != wsshard.ShardConnected || sm.Generation != 1 {
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
			c := noJitter()
			c.Switchover = cfg
			bubble(t, c, withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				c := w.hot(0)
				w.srv.Conn(1).Send("a:k1")
				after(time.Second)
				if name == "linger" {
					w.srv.Conn(0).Send("a:k1")
				}
				c.want(t, nil, 3*time.Second)
				if r := w.reportAndGaps(true); r.Proof != "none" {
					t.Errorf("report %+v", r)
				}
			})
		})
	}
}

// TestTimeoutTies: what is proven in the instant in which Timeout ends is proven.
func TestTimeoutTies(t *testing.T) {
	t.Run("settle", func(t *testing.T) {
		cfg := noJitter()
		cfg.Switchover = wsshard.SwitchoverConfig{Timeout: 2 * time.Second, Settle: 2 * time.Second}
		bubble(t, cfg, nil, func(w *world) {
			w.start("a")
			w.hot(0).want(t, nil, 2*time.Second)
		})
	})
	// An answer that does not come: the request is written once more, which begins Timeout anew, and then the topic has
	// failed. So one that the server never answers does not keep the shard from moving.
	t.Run("no answer", func(t *testing.T) {
		bubble(t, noJitter(), withTagAcks, func(w *world) {
			w.topics.Ack(true)
			w.start("a", "b")
			w.topics.Ack(false)
			c := w.hot(0)
			w.srv.Conn(1).Send("ack:a")
			c.want(t, nil, 20*time.Second)
			if got := w.app.takeEvents(wsshard.EventSubscriptionRejected); len(got) != 1 || got[0].Subs[0] != "b" {
				t.Errorf("rejected %+v", got)
			}
		})
	})
	t.Run("none", func(t *testing.T) {
		cfg := noJitter()
		cfg.Switchover.Timeout = off
		cfg.Subscribe.AckTimeout = off
		bubble(t, cfg, withTagAcks, func(w *world) {
			w.topics.Ack(true)
			w.start("a")
			w.topics.Ack(false)
			c := w.hot(0)
			after(time.Hour)
			if c.over() {
				t.Error("it did not wait")
			}
			w.srv.Conn(1).Send("ack:a")
			c.want(t, nil, time.Hour+linger)
		})
	})
}

// TestGateIsNotTimed: neither waiting for the gate nor the pace counts; ConnectTimeout does.
func TestGateIsNotTimed(t *testing.T) {
	cfg := noJitter()
	cfg.Connection.Limiter = wsshard.NewConnectLimiter(1, time.Hour)
	cfg.Connection.ConnectTimeout = time.Second
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		c := w.hot(0)
		after(59 * time.Minute)
		if w.net.Dials() != 1 || w.m.Metrics().Shards[0].State != wsshard.ShardSwitching {
			t.Error("it did not wait")
		}
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
		c.want(t, nil, time.Hour+time.Second+linger)
		if r := w.report(wsshard.EventSwitchoverDone).Switchover; r.Dial != time.Hour {
			t.Errorf("report %+v", r)
		}
	})
}

// TestLingerFromTheLastProof: what is subscribed during the overlap lingers, too, from its own proof; what is unsubscribed
// keeps nobody waiting.
func TestLingerFromTheLastProof(t *testing.T) {
	bubble(t, noJitter(), withTagAcks, func(w *world) {
		w.topics.Ack(true)
		w.start("a", "b")
		c := w.hot(0)
		after(200 * time.Millisecond)
		w.m.Unsubscribe("b")
		after(40 * time.Millisecond)
		w.subscribe("c") // answered at once by both
		after(200 * time.Millisecond)
		w.topics.Ack(false)
		w.m.Resubscribe("a")
		after(700 * time.Millisecond)
		w.srv.Conn(1).Send("ack:a")
		after(100 * time.Millisecond)
		w.m.Unsubscribe("c")
		c.want(t, nil, 1140*time.Millisecond+linger)
		w.wantTopics("a")
	})
}
