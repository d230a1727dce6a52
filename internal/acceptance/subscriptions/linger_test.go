package subscriptions

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what becomes of a topic that cannot be unsubscribed?

// bare is an app that cannot unsubscribe.
func bare(a *harness.App) wsshard.Handler[string] {
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
	h    func(*harness.App) wsshard.Handler[string]
}{
	{"no Unsubscriber", bare},
	{"no message", func(a *harness.App) wsshard.Handler[string] {
		a.Encode = onUnsubscribe(wsshard.Message{}, nil)
		return a
	}},
	{"error", func(a *harness.App) wsshard.Handler[string] {
		a.Encode = onUnsubscribe(wsshard.Message{}, errors.New("no such thing"))
		return a
	}},
}

func onUnsubscribe(msg wsshard.Message, err error) func(string, wsshard.Request[string]) (wsshard.Message, error) {
	return func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
		if sign == "-" {
			return msg, err
		}
		return harness.AsTopics(sign, req)
	}
}

// stays runs a script for each way, with two places in all.
func stays(t *testing.T, cfg wsshard.Config, script func(w *harness.World)) {
	if cfg.MaxSubscriptionsPerShard == 0 {
		cfg.MaxSubscriptionsPerShard, cfg.MaxShards = 2, 1
	}
	cfg.Health.DataTimeout, cfg.Connection.ProactiveReconnectInterval = -1, -1
	for _, s := range stayers {
		t.Run(s.name, func(t *testing.T) { harness.Bubble(t, cfg, s.h, script) })
	}
}

// What stays is not wanted any more: not replayed, not listed, and its place is free on the next connection.
func TestStaysUntilTheNextConnection(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		w.Sync()
		w.WantTopics("a", "b")
		if got := w.M.ShardSubscriptions(0); !slices.Equal(got, []string{"a"}) || w.M.TotalSubscriptions() != 1 {
			w.T.Errorf("wanted %q, %d in all", got, w.M.TotalSubscriptions())
		}
		w.Topics.Publish("b", "1")
		w.WantGot("b:1")
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.WantTopics("a")
		w.Subscribe("c")
		w.Sync()
		w.WantTopics("a", "c")
		if n := w.Srv.Conns(); n != 2 {
			w.T.Errorf("%d connections: the place was free", n)
		}
	})
}

// A subscription that finds no place for that reason alone replaces the connection, and no connection carries more than
// it may.
func TestStaysMakesRoom(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Minute} { // the write loop has not looked yet, or has
		stays(t, wsshard.Config{}, func(w *harness.World) {
			w.Start("a", "b")
			w.M.Unsubscribe("b")
			if pause > 0 {
				harness.After(pause)
			}
			results, err := w.M.Subscribe("c", "d")
			if got := outcome(results); got != "added 0, failed -1: capacity" || !errors.Is(err, wsshard.ErrCapacity) {
				w.T.Errorf("Subscribe: %q, %v", got, err)
			}
			w.Sync()
			wantSwitchovers(w, "capacity")
			w.WantTopics("a", "c")
			w.WantCauses(wsshard.ErrReplaced)
			if n := w.Topics.Max(); n > 2 {
				w.T.Errorf("%d topics on one connection, want 2 at most", n)
			}
			w.Subscribe("a", "c")
			harness.After(time.Hour)
			if n := w.M.Metrics().HotSwitchovers; n != 1 {
				w.T.Errorf("%d switchovers, want one", n)
			}
		})
	}
}

func TestStaysMakesRoomByReconnect(t *testing.T) {
	stays(t, wsshard.Config{DisableHotSwitchover: true}, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Minute)
		w.Subscribe("c")
		w.Sync()
		w.WantTopics("a", "c")
		w.WantCauses(wsshard.ErrReconnect)
		if n := w.Topics.Max(); n > 2 {
			w.T.Errorf("%d topics on one connection, want 2 at most", n)
		}
		if n := w.Srv.Conns(); n != 2 {
			w.T.Errorf("%d connections, want 2", n)
		}
	})
}

// One new connection frees all that stayed.
func TestStaysMakesRoomForMany(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 100, MaxShards: 1}, func(w *harness.World) {
		topics := harness.Numbered(160)
		w.Start(topics[:100]...)
		w.M.Unsubscribe(topics[40:100]...)
		harness.After(time.Second)
		results, _ := w.M.Subscribe(append(topics[100:], "too many")...)
		for i, r := range results {
			if r.OK() != (i < 60) {
				w.T.Fatalf("result %d: %+v", i, r)
			}
		}
		w.Sync()
		wantSwitchovers(w, "capacity")
		w.WantTopics(append(topics[:40:40], topics[100:]...)...)
		if n := w.Topics.Max(); n > 100 {
			w.T.Errorf("%d topics on one connection, want 100 at most", n)
		}
	})
}

// One that comes back has its own place still.
func TestStaysAndComesBack(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Second)
		w.Subscribe("b")
		w.Sync()
		if n := w.M.ShardCount(); n != 1 {
			w.T.Errorf("%d shards: b needed no new one", n)
		}
		if got := w.M.ShardSubscriptions(0); !slices.Equal(got, []string{"a", "b"}) {
			w.T.Errorf("wanted %q", got)
		}
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		if got := w.Topics.On(w.Peer("b")); !slices.Equal(got, []string{"a", "b"}) {
			w.T.Errorf("replayed %q", got)
		}
	})
}

// Where another shard may be opened, nothing is replaced.
func TestStaysAndAnotherShard(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Second)
		w.Subscribe("c")
		w.Sync()
		w.WantTopics("a", "b", "c")
		wantSwitchovers(w)
		if id, _ := w.M.SubscriptionShard("c"); id != 1 {
			w.T.Errorf("c is on shard %d", id)
		}
	})
}

// While nothing is connected nothing stays.
func TestStaysNotWhileDown(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *harness.World) {
		w.Start("a", "b")
		w.Srv.Down()
		harness.After(time.Second)
		w.M.Unsubscribe("b")
		w.Subscribe("c")
		w.M.Unsubscribe("c")
		w.Subscribe("d")
		w.Srv.Restart()
		harness.After(time.Minute)
		w.WantTopics("a", "d")
		wantSwitchovers(w)
		if n := w.Srv.Conns(); n != 2 {
			w.T.Errorf("%d connections, want 2", n)
		}
	})
}

// What stayed on a connection that was then lost is free at once, too: it must not draw a subscription to a parked shard.
func TestStaysNotOnAParkedShard(t *testing.T) {
	stays(t, wsshard.Config{MaxSubscriptionsPerShard: 2}, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Second)
		park(w, "a")
		w.Subscribe("b")
		w.Sync("b")
		if id, _ := w.M.SubscriptionShard("b"); id != 1 {
			w.T.Errorf("b is on the parked shard")
		}
		w.WantTopics("b")
	})
}

// What was never written does not stay.
func TestStaysNotUnwritten(t *testing.T) {
	stays(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 1}}, func(w *harness.World) {
		w.Start("a")
		w.Subscribe("b") // waits for the pace
		w.M.Unsubscribe("b")
		harness.After(2 * time.Second)
		w.Subscribe("c")
		w.Sync()
		w.WantTopics("a", "c")
		wantSwitchovers(w)
	})
}

// A switchover that fails is tried again: nobody else would ask.
func TestStaysMakesRoomAtLast(t *testing.T) {
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{MaxDelay: 7 * time.Second}}
	stays(t, cfg, func(w *harness.World) {
		w.Start("a", "b")
		w.M.Unsubscribe("b")
		harness.After(time.Second)
		failures := 0
		w.Net.OnDial(func(context.Context, int, string) error {
			failures++
			if failures > 2 {
				return nil
			}
			return errors.New("no way")
		})
		w.Subscribe("c")
		begin := time.Now()
		w.Sync()
		if took := time.Since(begin); took < 14*time.Second || took > 16*time.Second {
			w.T.Errorf("c was live after %v, want two delays of 7 s and a switchover", took)
		}
		w.WantTopics("a", "c")
		w.WantCauses(wsshard.ErrReplaced)
		wantSwitchovers(w, "capacity")
	})
}

// A switchover that is under way already may come too late to help: what was just unsubscribed is on its connection as
// well. Then one more is needed.
func TestStaysOnBothConnections(t *testing.T) {
	stays(t, wsshard.Config{}, func(w *harness.World) {
		w.Start("a", "b")
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(500 * time.Millisecond)
		if n := len(w.Srv.Live()); n != 2 {
			w.T.Fatalf("%d connections in a switchover", n)
		}
		w.M.Unsubscribe("b")
		w.Subscribe("c")
		if err := <-done; err != nil {
			w.T.Error(err)
		}
		w.Sync()
		w.WantTopics("a", "c")
		wantSwitchovers(w, "call", "capacity")
		if n := w.Topics.Max(); n > 2 {
			w.T.Errorf("%d topics on one connection, want 2 at most", n)
		}
	})
}

// wantSwitchovers checks what brought about the switchovers that succeeded since the last look at events.
func wantSwitchovers(w *harness.World, triggers ...string) {
	w.T.Helper()
	var got []string
	for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverDone) {
		got = append(got, ev.Switchover.Trigger)
	}
	if !slices.Equal(got, triggers) {
		w.T.Errorf("switchovers by %q, want %q", got, triggers)
	}
}
