package acceptance

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what is told of one shard, and of one message?

// Uptime is how long the shard had a connection, however many it had: the time that two were open in a switchover counts once.
func TestUptimeAndLastMessage(t *testing.T) {
	bubble(t, dialsOnly(), nil, func(w *world) {
		var last time.Time
		check := func(up time.Duration) {
			t.Helper()
			synctest.Wait()
			if sm := w.m.Metrics().Shards[0]; sm.TotalUptime != up || !sm.LastMessageAt.Equal(last) {
				t.Errorf("up for %v, last message at %v; want %v and %v", sm.TotalUptime, sm.LastMessageAt, up, last)
			}
		}
		say := func() {
			w.topics.Publish("a", "")
			synctest.Wait()
			last = time.Now()
		}
		w.start("a")
		check(0)
		after(10 * time.Second)
		say()
		check(10 * time.Second)
		after(5 * time.Second)
		check(15 * time.Second)
		say()

		w.srv.Down()
		after(time.Minute)
		check(15 * time.Second)
		w.srv.Restart()
		w.sync()
		again := time.Now()
		after(4 * time.Second)
		check(15*time.Second + time.Since(again))
		say()

		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		check(15*time.Second + time.Since(again))
		say()
		check(15*time.Second + time.Since(again))
	})
}

// The state is the one that the reconnect loop is in, and failures count until a connection is stable or the shard is revived.
func TestShardStates(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxConnectAttempts = 2
	bubble(t, cfg, nil, func(w *world) {
		check := func(state wsshard.ShardState, failed int) {
			t.Helper()
			w.wantState(0, state)
			if n := w.m.Metrics().Shards[0].ReconnectAttempt; n != failed {
				t.Errorf("%v after %d failed attempts, want %d", state, n, failed)
			}
		}
		down := false
		w.net.OnDial(func(context.Context, int, string) error {
			time.Sleep(time.Second)
			if down {
				return errTest
			}
			return nil
		})
		w.begin("a")
		check(wsshard.ShardConnecting, 0)
		after(time.Second)
		check(wsshard.ShardConnected, 0)
		after(time.Hour)
		down = true
		w.peerWith("a").Kill()
		check(wsshard.ShardBackoff, 0)
		after(100 * ms)
		check(wsshard.ShardConnecting, 0)
		after(time.Second)
		check(wsshard.ShardBackoff, 1)
		after(200 * ms)
		check(wsshard.ShardConnecting, 1)
		after(time.Second)
		check(wsshard.ShardParked, 2)
		down = false
		if err := w.m.Reconnect(0); err != nil {
			t.Fatal(err)
		}
		check(wsshard.ShardConnecting, 0)
		after(time.Second)
		check(wsshard.ShardConnected, 0)
	})
}

// typist notes the kind of each message.
type typist struct {
	*app
	mu    sync.Mutex
	types []wsshard.MessageType
}

func (h *typist) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.types = append(h.types, msg.Type)
}

// A message is delivered as the kind that it came as.
func TestMessageTypes(t *testing.T) {
	for name, direct := range map[string]bool{"default": false, "low latency": true} {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: direct}}
			h := &typist{}
			wrap := func(a *app) wsshard.Handler[string] { h.app = a; return h }
			bubble(t, cfg, wrap, func(w *world) {
				w.start("a")
				peer := w.peerWith("a")
				peer.Send("text")
				peer.SendBinary([]byte("binary"))
				synctest.Wait()
				h.mu.Lock()
				defer h.mu.Unlock()
				if want := []wsshard.MessageType{wsshard.TextMessage, wsshard.BinaryMessage}; !slices.Equal(h.types, want) {
					t.Errorf("delivered as %v, want %v", h.types, want)
				}
			})
		})
	}
}

// choosy cannot encode "bad".
type choosy struct{ *app }

func (h choosy) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if slices.Contains(req.Subs, "bad") {
		return wsshard.Message{}, errTest
	}
	return h.app.SubscriptionMessage(req)
}

// A request that could not be encoded, or not be written, is counted.
func TestSendFailuresAreCounted(t *testing.T) {
	cfg := dialsOnly()
	wrap := func(a *app) wsshard.Handler[string] { return choosy{a} }
	bubble(t, cfg, wrap, func(w *world) {
		check := func(want uint64) {
			t.Helper()
			if n := w.m.Metrics().SubscriptionSendFailures; n != want {
				t.Errorf("%d requests failed, want %d", n, want)
			}
		}
		w.start("a")
		check(0)
		w.subscribe("bad")
		synctest.Wait()
		check(1)
		w.net.Conns()[0].StallWrite(true)
		w.subscribe(strings.Repeat("b", 1<<20))
		after(5 * time.Second)
		check(2)
	})
}
