package health

import (
	"context"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what can be seen of a manager, and does it agree with the server?

// What is handed out belongs to the caller.
func TestInspectCopies(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("c", "a", "b")
		subs := w.M.ShardSubscriptions(0)
		if want := []string{"c", "a", "b"}; !slices.Equal(subs, want) {
			t.Errorf("oldest first: %q, want %q", subs, want)
		}
		slices.Sort(subs)
		subs[0] = "scribble"
		_ = append(subs[:0], "more")
		metrics := w.M.Metrics()
		metrics.Shards[0].SubscriptionCount = 99
		if got := w.M.ShardSubscriptions(0); !slices.Equal(got, []string{"c", "a", "b"}) || w.M.Metrics().Shards[0].SubscriptionCount != 3 {
			t.Errorf("a copy was none: %q", got)
		}
		w.M.Unsubscribe("a", "b", "c")
		if got := w.M.ShardSubscriptions(0); got == nil || len(got) != 0 {
			t.Errorf("a shard without topics: %#v, want empty and not nil", got)
		}
		for _, id := range []int{-1, 1, math.MaxInt, math.MinInt} {
			if got := w.M.ShardSubscriptions(id); got != nil {
				t.Errorf("shard %d has %q", id, got)
			}
		}
	})
}

func TestInspectPlaces(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 2, ShardSelection: wsshard.Sequential}, nil, func(w *harness.World) {
		where := func(sub string, want int) {
			t.Helper()
			if id, ok := w.M.SubscriptionShard(sub); id != want || ok != (want >= 0) {
				t.Errorf("%q is on %d, %v, want %d", sub, id, ok, want)
			}
		}
		totals := func(subs, shards int) {
			t.Helper()
			m := w.M.Metrics()
			if n, k := w.M.TotalSubscriptions(), w.M.ShardCount(); n != subs || k != shards || m.TotalSubscriptions != subs || len(m.Shards) != shards {
				t.Errorf("%d subscriptions on %d shards, Metrics: %d on %d; want %d on %d", n, k, m.TotalSubscriptions, len(m.Shards), subs, shards)
			}
		}
		totals(0, 0)
		where("a", -1)
		w.Subscribe("a", "b", "c")
		totals(3, 2)
		w.Start()
		where("b", 0)
		where("c", 1)
		w.M.Unsubscribe("b")
		where("b", -1)
		totals(2, 2)
		w.M.Stop(context.Background())
		where("a", -1)
		totals(0, 0)
	})
}

func TestInspectFreshnessByShard(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: -1}}, nil, func(w *harness.World) {
		never := func(why string) {
			t.Helper()
			if d, ok := w.M.ShardFreshness(0); ok || d != 0 {
				t.Errorf("%s: fresh since %v", why, d)
			}
			if w.M.IsSubscriptionFresh("a", math.MaxInt64) {
				t.Errorf("%s: a is fresh", why)
			}
		}
		never("before Start")
		w.Start("a", "b")
		never("before the first message")
		synctest.Wait()
		w.Topics.Publish("b", "1")
		harness.After(3 * time.Second)
		if d, ok := w.M.ShardFreshness(0); !ok || d != 3*time.Second {
			t.Errorf("fresh since %v, %v, want 3 s", d, ok)
		}
		for age, want := range map[time.Duration]bool{3 * time.Second: true, 3*time.Second - 1: false, 0: false, -1: false} {
			if got := w.M.IsSubscriptionFresh("a", age); got != want {
				t.Errorf("fresh within %v: %v", age, got)
			}
		}
		if w.M.IsSubscriptionFresh("nobody's", math.MaxInt64) {
			t.Error("what is not subscribed is fresh")
		}
		for _, id := range []int{-1, 1} {
			if _, ok := w.M.ShardFreshness(id); ok {
				t.Errorf("shard %d is fresh", id)
			}
		}
		w.Srv.Down()
		synctest.Wait()
		never("while down")
		w.Srv.Restart()
		w.Sync()
		never("on a new connection")
		w.M.Stop(context.Background())
		never("after Stop")
	})
}

// Where Inspect names topics, each has its own age.
func TestInspectFreshnessByTopic(t *testing.T) {
	h := func(a *harness.App) wsshard.Handler[string] {
		return struct {
			wsshard.Handler[string]
			wsshard.Unsubscriber[string]
			wsshard.Inspector[string]
		}{a, a, naming{}}
	}
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: -1}}, h, func(w *harness.World) {
		w.Start("a", "b", "c")
		synctest.Wait()
		w.Topics.Publish("a", "1")
		harness.After(time.Second)
		w.Topics.Publish("b", "1")
		harness.After(time.Second)
		fresh := func(age time.Duration) (topics string) {
			for _, sub := range []string{"a", "b", "c"} {
				if w.M.IsSubscriptionFresh(sub, age) {
					topics += sub
				}
			}
			return topics
		}
		if a, b, c := fresh(time.Second), fresh(2*time.Second), fresh(time.Hour); a != "b" || b != "ab" || c != "ab" {
			t.Errorf("fresh within 1 s: %q, 2 s: %q, 1 h: %q", a, b, c)
		}
		w.M.Unsubscribe("a")
		w.Subscribe("a") // has not had anything yet
		if got := fresh(time.Hour); got != "b" {
			t.Errorf("after a was taken back: %q", got)
		}
	})
}

// naming says whose data a message is.
type naming struct{}

func (naming) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	topic, _, _ := strings.Cut(msg.String(), ":")
	v.Subs = []string{topic}
	return v
}

func TestHealth(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1}, nil, func(w *harness.World) {
		if h := w.M.Health(1); !h.Healthy || h.Total != 0 || h.Connected != 0 {
			t.Errorf("without shards: %+v", h)
		}
		w.Subscribe("a", "b", "c", "d")
		if h := w.M.Health(0.1); h.Healthy || h.Total != 4 || h.Connected != 0 {
			t.Errorf("before Start: %+v", h)
		}
		w.Start()
		if h := w.M.Health(1); !h.Healthy || h.Total != 4 || h.Connected != 4 {
			t.Errorf("all connected: %+v", h)
		}
		w.Peer("b").Kill()
		synctest.Wait() // it backs off
		for ratio, want := range map[float64]bool{0: true, -1: true, 0.5: true, 0.75: true, 0.7501: false, 1: false, 2: false, math.Inf(1): false} {
			if h := w.M.Health(ratio); h.Healthy != want || h.Connected != 3 || h.Total != 4 {
				t.Errorf("Health(%v) with one of four down: %+v", ratio, h)
			}
		}
	})
}

// The totals agree with what the server saw.
func TestMetricsAgreeWithTheServer(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 4, Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 3}}
	cfg.Health = wsshard.HealthConfig{PingInterval: 5 * time.Second, PongTimeout: time.Second, DataTimeout: -1}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start(harness.Numbered(10)...)
		synctest.Wait()
		for i, topic := range harness.Numbered(10) {
			w.Topics.Publish(topic, strings.Repeat("x", i))
		}
		w.Peer("t0003").Kill()
		harness.After(12 * time.Second)
		w.M.Unsubscribe("t0001", "t0002")
		w.M.Send(context.Background(), 1, wsshard.Text("hello"))
		w.Sync()
		synctest.Wait()
		checkMetrics(w, 10, 10*len("t0000:")+45, 1)

		before := w.M.Metrics()
		w.M.Stop(context.Background())
		checkTotalsKept(w, before)
		if got := w.M.Metrics(); len(got.Shards) != 0 || got.TotalSubscriptions != 0 || got.ActiveConnections != 0 {
			t.Errorf("after Stop: %+v", got)
		}
		w.M.Start(context.Background())
		w.Subscribe("t0000")
		w.Sync()
		synctest.Wait()
		w.Topics.Publish("t0000", "")
		synctest.Wait()
		checkTotalsKept(w, before)
		checkMetrics(w, 11, 11*len("t0000:")+45, 1)
		if sm := w.M.Metrics().Shards[0]; sm.MessagesReceived != 1 || sm.Generation != 1 || sm.TotalUptime != 0 || sm.LastError != nil {
			t.Errorf("a shard of a new run: %+v", sm)
		}
	})
}

// checkMetrics compares the totals with the server's logs and with these counts.
func checkMetrics(w *harness.World, messages, bytes, reconnections int) {
	w.T.Helper()
	var sent, sentBytes, pings uint64
	for i := range w.Srv.Conns() {
		for _, f := range w.Srv.Conn(i).FrameLog() {
			switch f.Kind {
			case wstest.KindData:
				sent++
				sentBytes += uint64(len(f.Text))
			case wstest.KindPing:
				pings++
			}
		}
	}
	m := w.M.Metrics()
	for what, pair := range map[string][2]uint64{
		"Connections":       {m.Connections, uint64(w.Srv.Conns())},
		"Reconnections":     {m.Reconnections, uint64(reconnections)},
		"ActiveConnections": {uint64(m.ActiveConnections), uint64(len(w.Srv.Live()))},
		"MessagesSent":      {m.MessagesSent, sent},
		"BytesSent":         {m.BytesSent, sentBytes},
		"PingsSent":         {m.PingsSent, pings},
		"PongsReceived":     {m.PongsReceived, pings},
		"MessagesReceived":  {m.MessagesReceived, uint64(messages)},
		"BytesReceived":     {m.BytesReceived, uint64(bytes)},
		"Errors":            {m.Errors, 1},
	} {
		if pair[0] != pair[1] {
			w.T.Errorf("%s = %d, want %d", what, pair[0], pair[1])
		}
	}
	subs := 0
	for i, sm := range m.Shards {
		subs += sm.SubscriptionCount
		if sm.ShardID != i || !sm.IsConnected || sm.State != wsshard.ShardConnected || sm.ConnectedAt.IsZero() {
			w.T.Errorf("shard %d: %+v", i, sm)
		}
	}
	if subs != m.TotalSubscriptions || subs != len(w.Topics.All()) {
		w.T.Errorf("%d subscriptions by shard, %d in all, %d on the server", subs, m.TotalSubscriptions, len(w.Topics.All()))
	}
}

// checkTotalsKept checks that no total is less than it was.
func checkTotalsKept(w *harness.World, before wsshard.Metrics) {
	w.T.Helper()
	was, is := reflect.ValueOf(before), reflect.ValueOf(w.M.Metrics())
	for i := range was.NumField() {
		if was.Field(i).Kind() == reflect.Uint64 && is.Field(i).Uint() < was.Field(i).Uint() {
			w.T.Errorf("%s went from %d to %d", was.Type().Field(i).Name, was.Field(i).Uint(), is.Field(i).Uint())
		}
	}
}
