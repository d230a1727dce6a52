package subscriptions

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if a topic cannot be encoded?

var errBadTopic = errors.New("bad topic")

// The ways in which a request cannot be encoded. Topics that begin with "bad" are the reason.
var badEncodings = []struct {
	name   string
	answer func() (wsshard.Message, error)
	want   func(error) bool
}{
	{"error", func() (wsshard.Message, error) { return wsshard.Message{}, errBadTopic },
		func(err error) bool { return errors.Is(err, errBadTopic) }},
	{"panic", func() (wsshard.Message, error) { panic(errBadTopic) },
		func(err error) bool {
			var pe *wsshard.PanicError
			return errors.As(err, &pe) && errors.Is(err, errBadTopic)
		}},
	{"invalid UTF-8", func() (wsshard.Message, error) { return wsshard.Text("+\xff"), nil },
		func(err error) bool { return errors.Is(err, wsshard.ErrInvalidMessage) }},
	{"unknown type", func() (wsshard.Message, error) { return wsshard.Message{Type: 9, Data: []byte("x")}, nil },
		func(err error) bool { return errors.Is(err, wsshard.ErrInvalidMessage) }},
}

// badWhile refuses requests with a bad topic as long as ill is true, and counts what it is asked.
func badWhile(ill *atomic.Bool, asked *atomic.Int64, answer func() (wsshard.Message, error)) func(string, wsshard.Request[string]) (wsshard.Message, error) {
	return func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
		asked.Add(1)
		if ill.Load() && slices.ContainsFunc(req.Subs, func(s string) bool { return strings.HasPrefix(s, "bad") }) {
			return answer()
		}
		return harness.AsTopics(sign, req)
	}
}

// A topic that cannot be encoded fails alone, wherever it stands and however many there are; it keeps its place and is not
// asked for again, until the next connection or Resubscribe.
func TestBadTopicFailsAlone(t *testing.T) {
	for _, c := range badEncodings {
		t.Run(c.name, func(t *testing.T) {
			harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1000, MaxShards: 1}, nil, func(w *harness.World) {
				var ill atomic.Bool
				var asked atomic.Int64
				ill.Store(true)
				w.App.Encode = badWhile(&ill, &asked, c.answer)
				good := harness.Numbered(995)
				bad := []string{"bad0", "bad1", "bad2", "bad3", "bad4"}
				w.Subscribe(slices.Concat(bad[:1], good[:100], bad[1:2], good[100:150], bad[2:4], good[150:], bad[4:])...)
				w.M.Start(context.Background())
				wantRejected(w, w.M.Sync(context.Background()), c.want, bad...)
				w.WantTopics(good...)
				if n := w.Srv.Conns(); n != 1 {
					t.Errorf("%d connections: none ends for a topic", n)
				}
				if n := w.M.Metrics().SubscriptionsRejected; n != 5 {
					t.Errorf("%d rejected", n)
				}

				// Not in a loop.
				before := asked.Load()
				w.M.Unsubscribe(good[0])
				w.Subscribe(good[0])
				w.Sync(good...)
				harness.After(20 * time.Second)
				if n := asked.Load() - before; n > 2 {
					t.Errorf("%d requests for one topic", n)
				}
				if evs := w.App.TakeEvents(wsshard.EventSubscriptionRejected); len(evs) != 0 {
					t.Errorf("rejected again: %+v", evs)
				}

				// Its place is kept.
				if _, err := w.M.Subscribe("more"); !errors.Is(err, wsshard.ErrCapacity) {
					t.Errorf("a failed topic gave its place away: %v", err)
				}
				if r, err := w.M.Subscribe("bad0"); r[0].Status != wsshard.SubscribeExisting || err != nil {
					t.Errorf("a failed topic is %q, %v", outcome(r), err)
				}

				// Resubscribe and the next connection try again.
				w.M.Resubscribe("bad1")
				wantRejected(w, w.M.Sync(context.Background(), "bad1", good[1]), c.want, "bad1")
				ill.Store(false)
				w.M.Resubscribe("bad1")
				w.Sync("bad1")
				w.WantTopics(append(good[:995:995], "bad1")...)
				w.Srv.Conn(0).Kill()
				harness.After(time.Second)
				w.Sync()
				w.WantTopics(append(good[:995:995], bad...)...)
			})
		})
	}
}

// A bad topic that is unsubscribed is forgotten, and a new subscription of it is tried.
func TestBadTopicTakenBack(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		var ill atomic.Bool
		var asked atomic.Int64
		ill.Store(true)
		w.App.Encode = badWhile(&ill, &asked, badEncodings[0].answer)
		w.Subscribe("bad", "a")
		w.M.Start(context.Background())
		wantRejected(w, w.M.Sync(context.Background()), badEncodings[0].want, "bad")
		w.M.Unsubscribe("bad")
		w.Sync()
		w.WantTopics("a")
		ill.Store(false)
		w.Subscribe("bad")
		w.Sync()
		w.WantTopics("a", "bad")
	})
}

// A fresh snapshot that cannot be asked for leaves the subscription as it is: it is on the connection still.
func TestBadResubscription(t *testing.T) {
	for name, h := range map[string]func(*harness.App) wsshard.Handler[string]{"Resubscriber": withSnapshots, "Unsubscriber": nil} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, MaxShards: 1}, h, func(w *harness.World) {
				ill := false
				w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
					if ill && sign != "+" {
						return wsshard.Message{}, errBadTopic
					}
					return harness.AsTopics(sign, req)
				}
				w.Start("a", "b")
				ill = true
				w.M.Resubscribe("b")
				wantRejected(w, w.M.Sync(context.Background()), badEncodings[0].want, "b")
				ill = false
				w.WantTopics("a", "b")
				w.M.Resubscribe("b")
				w.Sync()
				w.M.Unsubscribe("b")
				w.Subscribe("c")
				w.Sync()
				w.WantTopics("a", "c")

				ill = true // and what failed can be taken back, too
				w.M.Resubscribe("c")
				wantRejected(w, w.M.Sync(context.Background()), badEncodings[0].want, "c")
				ill = false
				w.M.Unsubscribe("c")
				w.Subscribe("d")
				w.Sync()
				w.WantTopics("a", "d")
				if n := w.Topics.Max(); n > 2 {
					t.Errorf("%d topics on one connection, want 2 at most", n)
				}
			})
		})
	}
}

// Halving finds one bad topic in few requests, and the size grows back.
func TestBadTopicIsFoundByHalving(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: -1, Subscribe: wsshard.SubscribeConfig{MaxPerMessage: -1}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		var ill atomic.Bool
		var asked atomic.Int64
		ill.Store(true)
		w.App.Encode = badWhile(&ill, &asked, badEncodings[0].answer)
		topics := harness.Numbered(10_000)
		topics[7_000] = "bad"
		w.Subscribe(topics...)
		w.M.Start(context.Background())
		wantRejected(w, w.M.Sync(context.Background()), badEncodings[0].want, "bad")
		if n := asked.Load(); n > 100 {
			t.Errorf("%d requests to find one in 10,000", n)
		}
		if got := w.Topics.On(w.Srv.Conn(0)); len(got) != 9_999 {
			t.Errorf("server has %d topics", len(got))
		}
	})
}

// Halving must also come to its end where the pace makes each request wait.
func TestBadTopicUnderPace(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 1}, Health: wsshard.HealthConfig{DataTimeout: -1}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		var ill atomic.Bool
		var asked atomic.Int64
		ill.Store(true)
		w.App.Encode = badWhile(&ill, &asked, badEncodings[0].answer)
		topics := harness.Numbered(300)
		topics[33], topics[250] = "bad1", "bad2"
		w.Subscribe(topics...)
		w.M.Start(context.Background())
		go func() {
			for range 60 { // each wakes the write loop
				time.Sleep(100 * time.Millisecond)
				w.M.Resubscribe(topics[0])
			}
		}()
		begin := time.Now()
		wantRejected(w, w.M.Sync(context.Background()), badEncodings[0].want, "bad1", "bad2")
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("took %v", took)
		}
		harness.After(time.Minute)
		w.WantTopics(slices.DeleteFunc(slices.Clone(topics), func(s string) bool { return strings.HasPrefix(s, "bad") })...)
	})
}

// The events and Sync's error name the failed topics, each once, and why.
func wantRejected(w *harness.World, err error, why func(error) bool, topics ...string) {
	w.T.Helper()
	var told, synced []string
	for _, ev := range w.App.TakeEvents(wsshard.EventSubscriptionRejected) {
		if !why(ev.Err) || ev.ShardID != 0 || ev.Generation == 0 {
			w.T.Errorf("event %+v", ev)
		}
		told = append(told, ev.Subs...)
	}
	joined, _ := err.(interface{ Unwrap() []error })
	if joined == nil {
		w.T.Fatalf("Sync: %v", err)
	}
	for _, err := range joined.Unwrap() {
		var se *wsshard.SubscriptionError[string]
		if !errors.As(err, &se) || !why(se.Err) {
			w.T.Errorf("Sync: %v", err)
			continue
		}
		synced = append(synced, se.Sub)
	}
	slices.Sort(told)
	slices.Sort(synced)
	if want := slices.Sorted(slices.Values(topics)); !slices.Equal(told, want) || !slices.Equal(synced, want) {
		w.T.Errorf("rejected by events %q, by Sync %q, want %q", told, synced, want)
	}
}
