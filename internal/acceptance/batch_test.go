package acceptance

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
)

// asTopics encodes a request as the server of topics reads it.
func asTopics(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

// snapshots is an app that asks for fresh snapshots by a message of its own.
type snapshots struct{ *app }

func (h snapshots) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return h.request("=", req)
}

var _ wsshard.Resubscriber[string] = snapshots{}

func withSnapshots(a *app) wsshard.Handler[string] { return snapshots{a} }

// wantWire checks what the i-th connection has received since the last look.
func (w *world) wantWire(i int, want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.srv.Conn(i).Got(); !slices.Equal(got, want) {
		w.t.Errorf("connection %d received %q, want %q", i, got, want)
	}
}

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
		bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: c.most}}, nil, func(w *world) {
			w.start("a", "b", "c", "d", "e", "f", "g")
			w.wantWire(0, c.want...)
			w.m.Unsubscribe("a", "b", "c", "d", "e", "f", "g")
			w.sync()
			for i := range c.want {
				c.want[i] = "-" + c.want[i][1:]
			}
			w.wantWire(0, c.want...)
		})
	}
}

func TestBatchDefaultIsHundred(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start(numbered(250)...)
		synctest.Wait()
		var sizes []int
		for _, msg := range w.srv.Conn(0).Got() {
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
	bubble(t, cfg, nil, func(w *world) {
		w.start(numbered(20_000)...)
		synctest.Wait()
		if got := w.srv.Conn(0).Got(); len(got) != 1 || strings.Count(got[0], ",") != 19_999 {
			t.Errorf("20,000 topics went as %d messages", len(got))
		}
		w.wantTopics(numbered(20_000)...)
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
	bubble(t, gathering(100), withSnapshots, func(w *world) {
		w.start("a", "b")
		w.wantWire(0, "+a,b")

		w.subscribe("c")
		w.m.Unsubscribe("c")
		w.subscribe("d")
		w.m.Unsubscribe("d")
		w.subscribe("d")
		w.sync()
		w.wantWire(0, "+d")

		w.m.Unsubscribe("nobody")
		w.m.Resubscribe("nobody")
		w.subscribe("a")
		w.sync()
		w.wantWire(0)

		w.m.Resubscribe("a", "b", "a")
		w.m.Resubscribe("a") // once more, and so it is the younger one
		w.m.Unsubscribe("d")
		w.subscribe("e")
		w.sync()
		w.wantWire(0, "-d", "=b,a", "+e")

		w.m.Unsubscribe("a")
		w.subscribe("a") // whoever says that wants a fresh one
		w.sync()
		w.wantWire(0, "=a")
		w.wantTopics("a", "b", "e")
	})
}

// Without a Resubscriber a fresh snapshot takes an unsubscription and a subscription, and nothing else suffers.
func TestResubscribeWithoutResubscriber(t *testing.T) {
	bubble(t, gathering(2), nil, func(w *world) {
		w.start("a", "b", "c", "d")
		w.wantWire(0, "+a,b", "+c,d")
		w.m.Resubscribe("c", "a", "b")
		w.subscribe("e")
		w.sync()
		w.wantWire(0, "-c,a", "+c,a", "-b", "+b", "+e") // each is off for as short as can be
		w.wantTopics("a", "b", "c", "d", "e")
	})
}

// Without an Unsubscriber either, it is subscribed once more.
func TestResubscribeWithoutAnything(t *testing.T) {
	for _, s := range stayers[:2] {
		t.Run(s.name, func(t *testing.T) {
			bubble(t, wsshard.Config{}, s.h, func(w *world) {
				w.start("a", "b")
				w.m.Resubscribe("b")
				w.sync()
				w.wantWire(0, "+a,b", "+b")
				if got := w.topics.On(w.srv.Conn(0)); !slices.Equal(got, []string{"a", "b"}) {
					t.Errorf("server has %q", got)
				}
			})
		})
	}
}

// Whatever happened while the shard was down, the next connection is told what is wanted then, once.
func TestSubscribeWhileDown(t *testing.T) {
	bubble(t, wsshard.Config{}, withSnapshots, func(w *world) {
		w.start("a", "b", "c")
		w.srv.Down()
		after(time.Second)
		w.m.Unsubscribe("b")
		w.subscribe("d")
		w.subscribe("e")
		w.m.Unsubscribe("e")
		w.m.Resubscribe("a", "d")
		w.srv.Restart()
		w.sync()
		w.wantWire(1, "+c,a,d")
		w.wantTopics("a", "c", "d")
	})
}

// In a switchover both connections follow: what is taken back on the old one is not on the new one, whenever that was.
func TestSubscribeWhileSwitching(t *testing.T) {
	for _, at := range []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond, 1300 * time.Millisecond} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			bubble(t, wsshard.Config{}, withSnapshots, func(w *world) {
				w.net.SetLatency(40 * time.Millisecond)
				w.start("a", "b", "c")
				after(time.Second)
				done := make(chan error)
				go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
				time.Sleep(at)
				w.m.Unsubscribe("b")
				w.subscribe("d")
				w.m.Resubscribe("a")
				w.sync()
				after(50 * time.Millisecond)
				if got := w.topics.On(w.srv.Conn(0)); !slices.Equal(got, []string{"a", "c", "d"}) {
					t.Errorf("the old connection has %q", got)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.sync()
				after(time.Second)
				w.wantTopics("a", "c", "d")
				if n := w.srv.Conns(); n != 2 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// The same before the first connection, and while it is being made.
func TestSubscribeWhileConnecting(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.net.OnDial(func(ctx context.Context, _ int, _ string) error {
			time.Sleep(time.Second)
			return nil
		})
		w.subscribe("a", "b")
		w.m.Start(context.Background())
		after(time.Second / 2)
		w.m.Unsubscribe("a")
		w.subscribe("c")
		w.sync()
		w.wantWire(0, "+b,c")
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
		return asTopics(sign, req)
	}
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 10, Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 3}}
	bubble(t, cfg, nil, func(w *world) {
		w.app.encode = note
		w.start(numbered(40)...)
		w.m.Resubscribe(numbered(40)...)
		w.sync()
		for _, p := range w.srv.Live() {
			p.Kill()
		}
		after(time.Second)
		w.m.Unsubscribe(numbered(5)...)
		w.sync()
		w.wantTopics(numbered(40)[5:]...)
		if len(firsts) != 8 {
			t.Errorf("%d connections, want 8", len(firsts))
		}
	})
}

// First stays true while nothing was written: a request that could not be encoded, or that needs no message.
func TestFirstIsTheFirstWritten(t *testing.T) {
	bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1}}, nil, func(w *world) {
		var firsts []string
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.First {
				firsts = append(firsts, sign+req.Subs[0])
			}
			if sign == "+" && req.Subs[0] == "silent" {
				return wsshard.Message{}, nil
			}
			return asTopics(sign, req)
		}
		w.start("silent")
		w.m.Resubscribe("silent")
		w.sync()
		w.wantWire(0, "-silent")
		w.subscribe("a")
		w.sync()
		w.wantWire(0, "+a")
		if want := []string{"+silent", "-silent"}; !slices.Equal(firsts, want) {
			t.Errorf("First for %q, want %q", firsts, want)
		}
	})
}

// A Message without Data says nothing and counts as done.
func TestNothingToSay(t *testing.T) {
	bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1}}, nil, func(w *world) {
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if sign == "+" && req.Subs[0] == "b" {
				return wsshard.Message{}, nil
			}
			return asTopics(sign, req)
		}
		w.start("a", "b", "c")
		w.wantWire(0, "+a", "+c")
		w.sync("b")
		m := w.m.Metrics()
		if m.SubscriptionSendFailures != 0 || m.MessagesSent != 2 {
			t.Errorf("%d failures, %d sent, want 0 and 2", m.SubscriptionSendFailures, m.MessagesSent)
		}
	})
}

// What the handler does to req.Subs is its own affair, and what it keeps is not asked of us.
func TestHandlerOwnsNothingOfARequest(t *testing.T) {
	bubble(t, gathering(3), withSnapshots, func(w *world) {
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			slices.Sort(req.Subs)
			msg, err := asTopics(sign, req)
			for i := range req.Subs {
				req.Subs[i] = "scribble"
			}
			_ = append(req.Subs[:0], "x", "y", "z", "more")
			return msg, err
		}
		w.start("d", "b", "a", "c")
		w.wantWire(0, "+a,b,d", "+c")
		w.m.Resubscribe("c", "b")
		w.m.Unsubscribe("d")
		w.sync()
		w.wantWire(0, "-d", "=b,c")
		w.wantTopics("a", "b", "c")
		w.srv.Conn(0).Kill()
		after(time.Second)
		w.wantTopics("a", "b", "c")
	})
}
