package acceptance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// bare is an app that cannot unsubscribe.
func bare(a *app) wsshard.Handler[string] {
	return struct {
		wsshard.Handler[string]
		wsshard.DisconnectHandler
		wsshard.ErrorHandler
		wsshard.EventObserver[string]
	}{a, a, a, a}
}

// The ways in which a topic stays on its connection although nobody wants it.
var stayers = []struct {
	name string
	h    func(*app) wsshard.Handler[string]
}{
	{"no Unsubscriber", bare},
	{"no message", func(a *app) wsshard.Handler[string] {
		a.encode = onUnsubscribe(wsshard.Message{}, nil)
		return a
	}},
	{"error", func(a *app) wsshard.Handler[string] {
		a.encode = onUnsubscribe(wsshard.Message{}, errors.New("no such thing"))
		return a
	}},
}

func onUnsubscribe(msg wsshard.Message, err error) func(string, wsshard.Request[string]) (wsshard.Message, error) {
	return func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
		if sign == "-" {
			return msg, err
		}
		return asTopics(sign, req)
	}
}

// stays runs a script for each way, with two places in all.
func stays(t *testing.T, cfg wsshard.Config, script func(w *world)) {
	if cfg.MaxSubscriptionsPerShard == 0 {
		cfg.MaxSubscriptionsPerShard, cfg.MaxShards = 2, 1
	}
	cfg.Health.DataTimeout, cfg.Connection.ProactiveReconnectInterval = -1, -1
	for _, s := range stayers {
		t.Run(s.name, func(t *testing.T) { bubble(t, cfg, s.h, script) })
	}
}

// What stays is not wanted any more: not replayed, not listed, and its place is free on the next connection.
func TestStaysUntilTheNextConnection(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		w.sync()
		w.wantTopics("a", "b")
		if got := w.m.ShardSubscriptions(0); !slices.Equal(got, []string{"a"}) || w.m.TotalSubscriptions() != 1 {
			w.t.Errorf("wanted %q, %d in all", got, w.m.TotalSubscriptions())
		}
		w.topics.Publish("b", "1")
		w.wantGot("b:1")
		w.srv.Conn(0).Kill()
		after(time.Second)
		w.wantTopics("a")
		w.subscribe("c")
		w.sync()
		w.wantTopics("a", "c")
		if n := w.srv.Conns(); n != 2 {
			w.t.Errorf("%d connections: the place was free", n)
		}
	})
}

// A subscription that finds no place for that reason alone replaces the connection, and no connection carries more than
// it may.
func TestStaysMakesRoom(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Minute} { // the write loop has not looked yet, or has
		stays(t, wsshard.Config{}, func(w *world) {
			w.start("a", "b")
			w.m.Unsubscribe("b")
			if pause > 0 {
				after(pause)
			}
			results, err := w.m.Subscribe("c", "d")
			if got := outcome(results); got != "added 0, failed -1: capacity" || !errors.Is(err, wsshard.ErrCapacity) {
				w.t.Errorf("Subscribe: %q, %v", got, err)
			}
			w.sync()
			w.wantSwitchovers("capacity")
			w.wantTopics("a", "c")
			w.wantCauses(wsshard.ErrReplaced)
			if n := w.topics.Max(); n > 2 {
				w.t.Errorf("%d topics on one connection, want 2 at most", n)
			}
			w.subscribe("a", "c")
			after(time.Hour)
			if n := w.m.Metrics().HotSwitchovers; n != 1 {
				w.t.Errorf("%d switchovers, want one", n)
			}
		})
	}
}

func TestStaysMakesRoomByReconnect(t *testing.T) {
	stays(t, wsshard.Config{DisableHotSwitchover: true}, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Minute)
		w.subscribe("c")
		w.sync()
		w.wantTopics("a", "c")
		w.wantCauses(wsshard.ErrReconnect)
		if n := w.topics.Max(); n > 2 {
			w.t.Errorf("%d topics on one connection, want 2 at most", n)
		}
		if n := w.srv.Conns(); n != 2 {
			w.t.Errorf("%d connections, want 2", n)
		}
	})
}

// One new connection frees all that stayed.
func TestStaysMakesRoomForMany(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 100, MaxShards: 1}, func(w *world) {
		topics := numbered(160)
		w.start(topics[:100]...)
		w.m.Unsubscribe(topics[40:100]...)
		after(time.Second)
		results, _ := w.m.Subscribe(append(topics[100:], "too many")...)
		for i, r := range results {
			if r.OK() != (i < 60) {
				w.t.Fatalf("result %d: %+v", i, r)
			}
		}
		w.sync()
		w.wantSwitchovers("capacity")
		w.wantTopics(append(topics[:40:40], topics[100:]...)...)
		if n := w.topics.Max(); n > 100 {
			w.t.Errorf("%d topics on one connection, want 100 at most", n)
		}
	})
}

// One that comes back has its own place still.
func TestStaysAndComesBack(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Second)
		w.subscribe("b")
		w.sync()
		if n := w.m.ShardCount(); n != 1 {
			w.t.Errorf("%d shards: b needed no new one", n)
		}
		if got := w.m.ShardSubscriptions(0); !slices.Equal(got, []string{"a", "b"}) {
			w.t.Errorf("wanted %q", got)
		}
		w.srv.Conn(0).Kill()
		after(time.Second)
		if got := w.topics.On(w.peer("b")); !slices.Equal(got, []string{"a", "b"}) {
			w.t.Errorf("replayed %q", got)
		}
	})
}

// Where another shard may be opened, nothing is replaced.
func TestStaysAndAnotherShard(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Second)
		w.subscribe("c")
		w.sync()
		w.wantTopics("a", "b", "c")
		w.wantSwitchovers()
		if id, _ := w.m.SubscriptionShard("c"); id != 1 {
			w.t.Errorf("c is on shard %d", id)
		}
	})
}

// While nothing is connected nothing stays.
func TestStaysNotWhileDown(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *world) {
		w.start("a", "b")
		w.srv.Down()
		after(time.Second)
		w.m.Unsubscribe("b")
		w.subscribe("c")
		w.m.Unsubscribe("c")
		w.subscribe("d")
		w.srv.Restart()
		after(time.Minute)
		w.wantTopics("a", "d")
		w.wantSwitchovers()
		if n := w.srv.Conns(); n != 2 {
			w.t.Errorf("%d connections, want 2", n)
		}
	})
}

// What stayed on a connection that was then lost is free at once, too: it must not draw a subscription to a parked shard.
func TestStaysNotOnAParkedShard(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Second)
		w.park("a")
		w.subscribe("b")
		w.sync("b")
		if id, _ := w.m.SubscriptionShard("b"); id != 1 {
			w.t.Errorf("b is on the parked shard")
		}
		w.wantTopics("b")
	})
}

// What was never written does not stay.
func TestStaysNotUnwritten(t *testing.T) {
	stays(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 1}}, func(w *world) {
		w.start("a")
		w.subscribe("b") // waits for the pace
		w.m.Unsubscribe("b")
		after(2 * time.Second)
		w.subscribe("c")
		w.sync()
		w.wantTopics("a", "c")
		w.wantSwitchovers()
	})
}

// A switchover that fails is tried again: nobody else would ask.
func TestStaysMakesRoomAtLast(t *testing.T) {
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{MaxDelay: 7 * time.Second}}
	stays(t, cfg, func(w *world) {
		w.start("a", "b")
		w.m.Unsubscribe("b")
		after(time.Second)
		failures := 0
		w.net.OnDial(func(context.Context, int, string) error {
			failures++
			if failures > 2 {
				return nil
			}
			return errors.New("no way")
		})
		w.subscribe("c")
		begin := time.Now()
		w.sync()
		if took := time.Since(begin); took < 14*time.Second || took > 16*time.Second {
			w.t.Errorf("c was live after %v, want two delays of 7 s and a switchover", took)
		}
		w.wantTopics("a", "c")
		w.wantCauses(wsshard.ErrReplaced)
		w.wantSwitchovers("capacity")
	})
}

// A switchover that is under way already may come too late to help: what was just unsubscribed is on its connection as
// well. Then one more is needed.
func TestStaysOnBothConnections(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *world) {
		w.start("a", "b")
		done := make(chan error)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(500 * time.Millisecond)
		if n := len(w.srv.Live()); n != 2 {
			w.t.Fatalf("%d connections in a switchover", n)
		}
		w.m.Unsubscribe("b")
		w.subscribe("c")
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.sync()
		w.wantTopics("a", "c")
		w.wantSwitchovers("call", "capacity")
		if n := w.topics.Max(); n > 2 {
			w.t.Errorf("%d topics on one connection, want 2 at most", n)
		}
	})
}

// wantSwitchovers checks what brought about the switchovers that succeeded since the last look at events.
func (w *world) wantSwitchovers(triggers ...string) {
	w.t.Helper()
	var got []string
	for _, ev := range w.app.takeEvents(wsshard.EventSwitchoverDone) {
		got = append(got, ev.Switchover.Trigger)
	}
	if !slices.Equal(got, triggers) {
		w.t.Errorf("switchovers by %q, want %q", got, triggers)
	}
}
