package subscriptions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: how are topics put into requests?

var _ wsshard.Resubscriber[string] = harness.Snapshots{}

func withSnapshots(a *harness.App) wsshard.Handler[string] { return harness.Snapshots{App: a} }

// Requests hold MaxPerMessage topics, the oldest first.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		most int
		want []string
	}{
		{0, []string{"+a,b,c,d,e,f,g"}},
		{3, []string{"+a,b,c", "+d,e,f", "+g"}},
		{1, []string{"+a", "+b", "+c", "+d", "+e", "+f", "+g"}},
		{7, []string{"+a,b,c,d,e,f,g"}},
		{-1, []string{"+a,b,c,d,e,f,g"}},
	} {
		harness.Bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: c.most}}, nil, func(w *harness.World) {
			w.Start("a", "b", "c", "d", "e", "f", "g")
			w.WantWire(0, c.want...)
			w.M.Unsubscribe("a", "b", "c", "d", "e", "f", "g")
			w.Sync()
			for i := range c.want {
				c.want[i] = "-" + c.want[i][1:]
			}
			w.WantWire(0, c.want...)
		})
	}
}

func TestBatchDefaultIsHundred(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start(harness.Numbered(250)...)
		synctest.Wait()
		var sizes []int
		for _, msg := range w.Srv.Conn(0).Got() {
			sizes = append(sizes, strings.Count(msg, ",")+1)
		}
		if !slices.Equal(sizes, []int{100, 100, 50}) {
			t.Errorf("250 topics in requests of %v", sizes)
		}
	})
}

// Without a limit all go as one message, however many.
func TestBatchOfAll(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: -1, Subscribe: wsshard.SubscribeConfig{MaxPerMessage: -1}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start(harness.Numbered(20_000)...)
		synctest.Wait()
		if got := w.Srv.Conn(0).Got(); len(got) != 1 || strings.Count(got[0], ",") != 19_999 {
			t.Errorf("20,000 topics went as %d messages", len(got))
		}
		w.WantTopics(harness.Numbered(20_000)...)
	})
}

// gathering is a configuration in which what is said after a Sync is written together, when the pace allows the next.
func gathering(most int) wsshard.Config {
	cfg := slowly()
	cfg.Subscribe.MaxPerMessage = most
	return cfg
}

// What changed before anything was written costs nothing, and the order is that of the last change.
func TestBatchesAreTheDifference(t *testing.T) {
	harness.Bubble(t, gathering(100), withSnapshots, func(w *harness.World) {
		w.Start("a", "b")
		w.WantWire(0, "+a,b")

		w.Subscribe("c")
		w.M.Unsubscribe("c")
		w.Subscribe("d")
		w.M.Unsubscribe("d")
		w.Subscribe("d")
		w.Sync()
		w.WantWire(0, "+d")

		w.M.Unsubscribe("nobody")
		w.M.Resubscribe("nobody")
		w.Subscribe("a")
		w.Sync()
		w.WantWire(0)

		w.M.Resubscribe("a", "b", "a")
		w.M.Resubscribe("a") // once more, and so it is the younger one
		w.M.Unsubscribe("d")
		w.Subscribe("e")
		w.Sync()
		w.WantWire(0, "-d", "=b,a", "+e")

		w.M.Unsubscribe("a")
		w.Subscribe("a") // whoever says that wants a fresh one
		w.Sync()
		w.WantWire(0, "=a")
		w.WantTopics("a", "b", "e")
	})
}

// Without a Resubscriber a fresh snapshot takes an unsubscription and a subscription, and nothing else suffers.
func TestResubscribeWithoutResubscriber(t *testing.T) {
	harness.Bubble(t, gathering(2), nil, func(w *harness.World) {
		w.Start("a", "b", "c", "d")
		w.WantWire(0, "+a,b", "+c,d")
		w.M.Resubscribe("c", "a", "b")
		w.Subscribe("e")
		w.Sync()
		w.WantWire(0, "-c,a", "+c,a", "-b", "+b", "+e") // each is off for as short as can be
		w.WantTopics("a", "b", "c", "d", "e")
	})
}

// Without an Unsubscriber either, it is subscribed once more.
func TestResubscribeWithoutAnything(t *testing.T) {
	for _, s := range stayers[:2] {
		t.Run(s.name, func(t *testing.T) {
			harness.Bubble(t, wsshard.Config{}, s.h, func(w *harness.World) {
				w.Start("a", "b")
				w.M.Resubscribe("b")
				w.Sync()
				w.WantWire(0, "+a,b", "+b")
				if got := w.Topics.On(w.Srv.Conn(0)); !slices.Equal(got, []string{"a", "b"}) {
					t.Errorf("server has %q", got)
				}
			})
		})
	}
}

// Whatever happened while the shard was down, the next connection is told what is wanted then, once.
func TestSubscribeWhileDown(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, withSnapshots, func(w *harness.World) {
		w.Start("a", "b", "c")
		w.Srv.Down()
		harness.After(time.Second)
		w.M.Unsubscribe("b")
		w.Subscribe("d")
		w.Subscribe("e")
		w.M.Unsubscribe("e")
		w.M.Resubscribe("a", "d")
		w.Srv.Restart()
		w.Sync()
		w.WantWire(1, "+c,a,d")
		w.WantTopics("a", "c", "d")
	})
}

// In a switchover both connections follow: what is taken back on the old one is not on the new one, whenever that was.
func TestSubscribeWhileSwitching(t *testing.T) {
	for _, at := range []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond, 1300 * time.Millisecond} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			harness.Bubble(t, wsshard.Config{}, withSnapshots, func(w *harness.World) {
				w.Net.SetLatency(40 * time.Millisecond)
				w.Start("a", "b", "c")
				harness.After(time.Second)
				done := make(chan error)
				go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
				time.Sleep(at)
				w.M.Unsubscribe("b")
				w.Subscribe("d")
				w.M.Resubscribe("a")
				w.Sync()
				harness.After(50 * time.Millisecond)
				if got := w.Topics.On(w.Srv.Conn(0)); !slices.Equal(got, []string{"a", "c", "d"}) {
					t.Errorf("the old connection has %q", got)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.Sync()
				harness.After(time.Second)
				w.WantTopics("a", "c", "d")
				if n := w.Srv.Conns(); n != 2 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// The same before the first connection, and while it is being made.
func TestSubscribeWhileConnecting(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Net.OnDial(func(ctx context.Context, _ int, _ string) error {
			time.Sleep(time.Second)
			return nil
		})
		w.Subscribe("a", "b")
		w.M.Start(context.Background())
		harness.After(time.Second / 2)
		w.M.Unsubscribe("a")
		w.Subscribe("c")
		w.Sync()
		w.WantWire(0, "+b,c")
	})
}

// Request ids are one sequence of the manager, over shards, connections and kinds, and First is for the first request
// that a connection hears.
func TestRequests(t *testing.T) {
	var mu sync.Mutex
	ids := map[uint64]bool{}
	firsts := map[[2]uint64]int{}
	note := func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		if req.ID == 0 || ids[req.ID] {
			t.Errorf("request id %d twice", req.ID)
		}
		ids[req.ID] = true
		conn := [2]uint64{uint64(req.State.ShardID), req.State.Generation}
		if req.First != (firsts[conn] == 0) {
			t.Errorf("request %d of connection %v has First %v", firsts[conn], conn, req.First)
		}
		firsts[conn]++
		return harness.AsTopics(sign, req)
	}
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 10, Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 3}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Encode = note
		w.Start(harness.Numbered(40)...)
		w.M.Resubscribe(harness.Numbered(40)...)
		w.Sync()
		for _, p := range w.Srv.Live() {
			p.Kill()
		}
		harness.After(time.Second)
		w.M.Unsubscribe(harness.Numbered(5)...)
		w.Sync()
		w.WantTopics(harness.Numbered(40)[5:]...)
		if len(firsts) != 8 {
			t.Errorf("%d connections, want 8", len(firsts))
		}
	})
}

// First stays true while nothing was written: a request that could not be encoded, or that needs no message.
func TestFirstIsTheFirstWritten(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1}}, nil, func(w *harness.World) {
		var firsts []string
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.First {
				firsts = append(firsts, sign+req.Subs[0])
			}
			if sign == "+" && req.Subs[0] == "silent" {
				return wsshard.Message{}, nil
			}
			return harness.AsTopics(sign, req)
		}
		w.Start("silent")
		w.M.Resubscribe("silent")
		w.Sync()
		w.WantWire(0, "-silent")
		w.Subscribe("a")
		w.Sync()
		w.WantWire(0, "+a")
		if want := []string{"+silent", "-silent"}; !slices.Equal(firsts, want) {
			t.Errorf("First for %q, want %q", firsts, want)
		}
	})
}

// A Message without Data says nothing and counts as done.
func TestNothingToSay(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1}}, nil, func(w *harness.World) {
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if sign == "+" && req.Subs[0] == "b" {
				return wsshard.Message{}, nil
			}
			return harness.AsTopics(sign, req)
		}
		w.Start("a", "b", "c")
		w.WantWire(0, "+a", "+c")
		w.Sync("b")
		m := w.M.Metrics()
		if m.SubscriptionSendFailures != 0 || m.MessagesSent != 2 {
			t.Errorf("%d failures, %d sent, want 0 and 2", m.SubscriptionSendFailures, m.MessagesSent)
		}
	})
}

// What the handler does to req.Subs is its own affair, and what it keeps is not asked of us.
func TestHandlerOwnsNothingOfARequest(t *testing.T) {
	harness.Bubble(t, gathering(3), withSnapshots, func(w *harness.World) {
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			slices.Sort(req.Subs)
			msg, err := harness.AsTopics(sign, req)
			for i := range req.Subs {
				req.Subs[i] = "scribble"
			}
			_ = append(req.Subs[:0], "x", "y", "z", "more")
			return msg, err
		}
		w.Start("d", "b", "a", "c")
		w.WantWire(0, "+a,b,d", "+c")
		w.M.Resubscribe("c", "b")
		w.M.Unsubscribe("d")
		w.Sync()
		w.WantWire(0, "-d", "=b,c")
		w.WantTopics("a", "b", "c")
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.WantTopics("a", "b", "c")
	})
}
