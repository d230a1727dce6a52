//go:build integration

package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: does wsshard understand npm's ws?

// wsFeed speaks server.js' protocol.
type wsFeed struct {
	url string

	mu     sync.Mutex // protects following fields
	got    map[string][]int
	causes []error
	gaps   int
	errs   []string
}

var (
	_ wsshard.Handler[string]       = (*wsFeed)(nil)
	_ wsshard.Unsubscriber[string]  = (*wsFeed)(nil)
	_ wsshard.Inspector[string]     = (*wsFeed)(nil)
	_ wsshard.Acknowledger[string]  = (*wsFeed)(nil)
	_ wsshard.DisconnectHandler     = (*wsFeed)(nil)
	_ wsshard.EventObserver[string] = (*wsFeed)(nil)
)

// wsMessage is an ack or a tick.
type wsMessage struct {
	Ack   uint64 `json:"ack"`
	Topic string `json:"topic"`
	N     int    `json:"n"`
	Pad   string `json:"pad"`
}

func (f *wsFeed) URL(context.Context, wsshard.ConnectionState) (string, error) { return f.url, nil }

func (f *wsFeed) request(op string, req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(map[string]any{"op": op, "id": req.ID, "topics": req.Subs})
}

func (f *wsFeed) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return f.request("subscribe", req)
}

func (f *wsFeed) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return f.request("unsubscribe", req)
}

func (f *wsFeed) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	m := &wsMessage{}
	if err := json.Unmarshal(msg.Data, m); err != nil {
		f.mu.Lock()
		f.errs = append(f.errs, fmt.Sprintf("%.50q: %v", msg.Data, err))
		f.mu.Unlock()
	}
	v.Value = m
	if m.Topic != "" {
		v.Key, v.Subs = fmt.Sprint(m.Topic, " ", m.N), []string{m.Topic}
	}
	return v
}

func (f *wsFeed) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	m := msg.Value.(*wsMessage)
	return wsshard.Ack[string]{Request: m.Ack}, m.Ack != 0
}

func (f *wsFeed) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	m := msg.Value.(*wsMessage)
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Topic != "" {
		f.got[m.Topic] = append(f.got[m.Topic], m.N)
	}
	if m.Pad != strings.Repeat("x", len(m.Pad)) && m.Pad != strings.Repeat("äöü", len(m.Pad)/6) {
		f.errs = append(f.errs, fmt.Sprintf("%s %d came with %.50q", m.Topic, m.N, m.Pad))
	}
}

func (f *wsFeed) OnDisconnect(_ context.Context, cause error, _ wsshard.ConnectionState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.causes = append(f.causes, cause)
}

func (f *wsFeed) OnEvent(ev wsshard.Event[string]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ev.Kind == wsshard.EventGap {
		f.gaps++
	}
}

// received copies what came.
func (f *wsFeed) received(topic string) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got[topic])
}

func (f *wsFeed) takeCauses() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	causes := f.causes
	f.causes = nil
	return causes
}

// wsWorld is a server with a manager.
type wsWorld struct {
	*wsServer
	m    *wsshard.ShardManager[string]
	feed *wsFeed
}

func startWorld(t *testing.T, dir string, cfg wsshard.Config, topics ...string) *wsWorld {
	t.Helper()
	srv := startWS(t, dir)
	feed := &wsFeed{url: fmt.Sprintf("ws://127.0.0.1:%d/", srv.port), got: make(map[string][]int)}
	cfg.Backoff = wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond}
	m, err := wsshard.New(feed, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Subscribe(topics...); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &wsWorld{wsServer: srv, m: m, feed: feed}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Errorf("Stop: %v", err)
		}
		for _, err := range feed.errs {
			t.Error(err)
		}
		for _, line := range srv.heard("error") {
			t.Errorf("client %d: %s", line.Client, line.Text)
		}
	})
	w.sync()
	return w
}

func (w *wsWorld) sync() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), program.Limit)
	defer cancel()
	if err := w.m.Sync(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// wantTopics waits until the server's own table is what is desired, shard by shard.
func (w *wsWorld) wantTopics(want ...string) {
	w.t.Helper()
	program.Eventually(w.t, "the server lists what is desired", func() bool {
		var desired, listed []string
		for shard := range w.m.ShardCount() {
			subs := w.m.ShardSubscriptions(shard)
			slices.Sort(subs)
			desired = append(desired, strings.Join(subs, ","))
		}
		var all []string
		for _, topics := range w.tell(wsCommand{Do: "list"}).Topics {
			slices.Sort(topics)
			listed = append(listed, strings.Join(topics, ","))
			all = append(all, topics...)
		}
		return sameSet(desired, listed) && sameSet(all, want)
	})
}

// dropped waits until connections have ended and others have taken their place, and returns the causes.
func (w *wsWorld) dropped(count int) (causes []error) {
	w.t.Helper()
	program.Eventually(w.t, "every connection is replaced", func() bool {
		causes = append(causes, w.feed.takeCauses()...)
		return len(causes) >= count && w.m.Health(1).Healthy
	})
	w.sync()
	return causes
}

func TestWS(t *testing.T) {
	dir := installWS(t)
	t.Run("subscriptions", func(t *testing.T) { testWSSubscriptions(t, dir) })
	t.Run("close codes", func(t *testing.T) { testWSCloseCodes(t, dir) })
	t.Run("ping", func(t *testing.T) { testWSPing(t, dir) })
	t.Run("permessage-deflate", func(t *testing.T) { testWSDeflate(t, dir) })
	t.Run("fragments", func(t *testing.T) { testWSFragments(t, dir) })
	t.Run("terminate", func(t *testing.T) { testWSTerminate(t, dir) })
	t.Run("switchovers", func(t *testing.T) { testWSSwitchovers(t, dir) })
}

func testWSSubscriptions(t *testing.T, dir string) {
	topics := numbered("t", 300)
	w := startWorld(t, dir, wsshard.Config{MaxSubscriptionsPerShard: 100}, topics...)
	w.wantTopics(topics...)
	if err := w.m.Unsubscribe(topics[:150]...); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.Subscribe(numbered("u", 120)...); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.wantTopics(append(numbered("u", 120), topics[150:]...)...)
}

func testWSCloseCodes(t *testing.T, dir string) {
	topics := numbered("t", 20)
	w := startWorld(t, dir, wsshard.Config{MaxSubscriptionsPerShard: 10}, topics...)
	echoes := 0
	for _, code := range []int{0, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		text := fmt.Sprint("reason for ", code)
		want, echo := wsshard.CloseError{Code: code, Text: text}, code
		switch {
		case code == 0: // a close frame without a code
			want, echo = wsshard.CloseError{Code: 1005}, 1000
		case code == 1014: // gorilla takes it for illegal
			want, echo = wsshard.CloseError{Code: 1002, Text: "bad close code 1014", Local: true}, 1002
		case code >= 1012 && code < 3000: // only servers send these
			echo = 1000
		}
		w.tell(wsCommand{Do: "close", Code: code, Text: text})
		for _, cause := range w.dropped(2) {
			var ce *wsshard.CloseError
			if !errors.As(cause, &ce) || *ce != want {
				t.Errorf("close %d: the cause is %v", code, cause)
			}
		}
		w.wantTopics(topics...)
		closed := w.heard("closed")[echoes:]
		if echoes += 2; len(closed) != 2 || closed[0].Code != echo || closed[1].Code != echo {
			t.Errorf("close %d: the server heard %v, want two answers with %d", code, closed, echo)
		}
	}
}

func testWSPing(t *testing.T, dir string) {
	w := startWorld(t, dir, wsshard.Config{
		Health: wsshard.HealthConfig{PingInterval: 20 * time.Millisecond, PongTimeout: -1, DataTimeout: -1},
	}, "t")
	for i, text := range []string{"", "hello", strings.Repeat("p", 125)} {
		w.tell(wsCommand{Do: "ping", Text: text})
		program.Eventually(t, "the pong has come", func() bool { return len(w.heard("pong")) > i })
		if got := w.heard("pong")[i].Text; got != text {
			t.Errorf("ping %q was answered by %q", text, got)
		}
	}
	var metrics wsshard.Metrics
	program.Eventually(t, "our pings are answered", func() bool {
		metrics = w.m.Metrics()
		return metrics.PongsReceived >= 5
	})
	if metrics.Shards[0].RTT <= 0 || metrics.PingsSent < metrics.PongsReceived || metrics.Connections != 1 {
		t.Errorf("round trip %v, %d pings, %d pongs, %d connections", metrics.Shards[0].RTT, metrics.PingsSent, metrics.PongsReceived, metrics.Connections)
	}
}

func testWSDeflate(t *testing.T, dir string) {
	for _, offered := range []bool{true, false} {
		wire := &sockets{}
		w := startWorld(t, dir, wsshard.Config{Connection: wsshard.ConnectionConfig{EnableCompression: offered, NetDialContext: wire.dial}}, "t")
		want := []int{}
		for i := range 50 {
			w.tell(wsCommand{Do: "tick", Topics: []string{"t"}, Pad: i * i * 50})
			want = append(want, i+1)
		}
		program.Eventually(t, "all has come", func() bool { return len(w.feed.received("t")) == len(want) })
		if got := w.feed.received("t"); !slices.Equal(got, want) {
			t.Errorf("received %v", got)
		}
		if _, err := w.m.Subscribe(numbered("more", 400)...); err != nil { // compressed in our direction
			t.Fatal(err)
		}
		w.sync()
		w.wantTopics(append(numbered("more", 400), "t")...)
		extensions, payload := w.heard("open")[0].Extensions, int64(w.m.Metrics().BytesReceived)
		t.Logf("offered %v: negotiated %q, %d bytes on the wire for %d", offered, extensions, wire.read.Load(), payload)
		if strings.Contains(extensions, "permessage-deflate") != offered || (wire.read.Load() < payload/5) != offered {
			t.Errorf("offered %v: negotiated %q, %d bytes on the wire for %d", offered, extensions, wire.read.Load(), payload)
		}
	}
}

func testWSFragments(t *testing.T, dir string) {
	w := startWorld(t, dir, wsshard.Config{}, "t")
	for range 10 {
		w.tell(wsCommand{Do: "fragments", Topics: []string{"t"}})
	}
	program.Eventually(t, "all has come", func() bool { return len(w.feed.received("t")) == 10 })
	program.Eventually(t, "a pong from within a message has come", func() bool { return len(w.heard("pong")) > 0 })
	if got := w.heard("pong")[0].Text; got != "between" {
		t.Errorf("the pong says %q", got)
	}
}

func testWSTerminate(t *testing.T, dir string) {
	topics := numbered("t", 20)
	w := startWorld(t, dir, wsshard.Config{MaxSubscriptionsPerShard: 10}, topics...)
	for i := range 5 {
		w.tell(wsCommand{Do: "terminate"})
		for _, cause := range w.dropped(2) {
			var ce *wsshard.CloseError
			if errors.As(cause, &ce) || !errors.Is(cause, io.ErrUnexpectedEOF) && !errors.Is(cause, syscall.ECONNRESET) && !errors.Is(cause, net.ErrClosed) {
				t.Errorf("terminated: the cause is %v", cause)
			}
		}
		w.wantTopics(topics...)
		program.Eventually(t, "a Gap for each shard", func() bool {
			w.feed.mu.Lock()
			defer w.feed.mu.Unlock()
			return w.feed.gaps == 2*(i+1)
		})
	}
	w.tell(wsCommand{Do: "tick", Topics: topics})
	program.Eventually(t, "data flows again", func() bool {
		return !slices.ContainsFunc(topics, func(s string) bool { return len(w.feed.received(s)) == 0 })
	})
}

func testWSSwitchovers(t *testing.T, dir string) {
	const shards, switchovers = 4, 40
	topics := numbered("t", 5*shards)
	w := startWorld(t, dir, wsshard.Config{
		MaxSubscriptionsPerShard: len(topics) / shards,
		Switchover:               wsshard.SwitchoverConfig{Linger: 50 * time.Millisecond},
	}, topics...)
	w.tell(wsCommand{Do: "run", Topics: topics, MS: 2})
	var workers sync.WaitGroup
	for shard := range shards {
		workers.Go(func() {
			for range switchovers / shards {
				ctx, cancel := context.WithTimeout(t.Context(), program.Limit)
				if err := w.m.HotSwitchover(ctx, shard); err != nil {
					t.Errorf("shard %d: %v", shard, err)
				}
				cancel()
			}
		})
	}
	workers.Wait()
	w.tell(wsCommand{Do: "stop"})
	numbers := w.tell(wsCommand{Do: "numbers"}).Numbers
	published, received, again := 0, 0, 0
	for _, topic := range topics {
		program.Eventually(t, "the last number has come", func() bool { return slices.Contains(w.feed.received(topic), numbers[topic]) })
		got := w.feed.received(topic)
		published += numbers[topic]
		received += len(slices.Compact(slices.Sorted(slices.Values(got))))
		again += len(got) - len(slices.Compact(slices.Sorted(slices.Values(got))))
		if !slices.IsSorted(got) {
			t.Errorf("%s: out of order", topic)
		}
	}
	t.Logf("%d switchovers: published %d, received %d, duplicates %d, dropped as duplicates %d", switchovers, published, received, again, w.m.Metrics().DuplicatesDropped)
	if received != published || again != 0 {
		t.Errorf("%d published, %d received, %d twice", published, received, again)
	}
}
