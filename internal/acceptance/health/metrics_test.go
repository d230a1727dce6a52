package health

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what is told of one shard, and of one message?

// Uptime is how long the shard had a connection, however many it had: the time that two were open in a switchover counts once.
func TestUptimeAndLastMessage(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		var last time.Time
		check := func(up time.Duration) {
			t.Helper()
			synctest.Wait()
			if sm := w.M.Metrics().Shards[0]; sm.TotalUptime != up || !sm.LastMessageAt.Equal(last) {
				t.Errorf("up for %v, last message at %v; want %v and %v", sm.TotalUptime, sm.LastMessageAt, up, last)
			}
		}
		say := func() {
			w.Topics.Publish("a", "")
			synctest.Wait()
			last = time.Now()
		}
		w.Start("a")
		check(0)
		harness.After(10 * time.Second)
		say()
		check(10 * time.Second)
		harness.After(5 * time.Second)
		check(15 * time.Second)
		say()

		w.Srv.Down()
		harness.After(time.Minute)
		check(15 * time.Second)
		w.Srv.Restart()
		w.Sync()
		again := time.Now()
		harness.After(4 * time.Second)
		check(15*time.Second + time.Since(again))
		say()

		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		harness.After(3 * time.Second)
		check(15*time.Second + time.Since(again))
		say()
		check(15*time.Second + time.Since(again))
	})
}

// The state is the one that the reconnect loop is in, and failures count until a connection is stable or the shard is revived.
func TestShardStates(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxConnectAttempts = 2
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		check := func(state wsshard.ShardState, failed int) {
			t.Helper()
			w.WantState(0, state)
			if n := w.M.Metrics().Shards[0].ReconnectAttempt; n != failed {
				t.Errorf("%v after %d failed attempts, want %d", state, n, failed)
			}
		}
		down := false
		w.Net.OnDial(func(context.Context, int, string) error {
			time.Sleep(time.Second)
			if down {
				return harness.ErrTest
			}
			return nil
		})
		w.Begin("a")
		check(wsshard.ShardConnecting, 0)
		harness.After(time.Second)
		check(wsshard.ShardConnected, 0)
		harness.After(time.Hour)
		down = true
		w.PeerWith("a").Kill()
		check(wsshard.ShardBackoff, 0)
		harness.After(100 * time.Millisecond)
		check(wsshard.ShardConnecting, 0)
		harness.After(time.Second)
		check(wsshard.ShardBackoff, 1)
		harness.After(200 * time.Millisecond)
		check(wsshard.ShardConnecting, 1)
		harness.After(time.Second)
		check(wsshard.ShardParked, 2)
		down = false
		if err := w.M.Reconnect(0); err != nil {
			t.Fatal(err)
		}
		check(wsshard.ShardConnecting, 0)
		harness.After(time.Second)
		check(wsshard.ShardConnected, 0)
	})
}

// typist notes the kind of each message.
type typist struct {
	*harness.App
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
			wrap := func(a *harness.App) wsshard.Handler[string] { h.App = a; return h }
			harness.Bubble(t, cfg, wrap, func(w *harness.World) {
				w.Start("a")
				peer := w.PeerWith("a")
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
type choosy struct{ *harness.App }

func (h choosy) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if slices.Contains(req.Subs, "bad") {
		return wsshard.Message{}, harness.ErrTest
	}
	return h.App.SubscriptionMessage(req)
}

// A request that could not be encoded, or not be written, is counted.
func TestSendFailuresAreCounted(t *testing.T) {
	cfg := harness.DialsOnly()
	wrap := func(a *harness.App) wsshard.Handler[string] { return choosy{a} }
	harness.Bubble(t, cfg, wrap, func(w *harness.World) {
		check := func(want uint64) {
			t.Helper()
			if n := w.M.Metrics().SubscriptionSendFailures; n != want {
				t.Errorf("%d requests failed, want %d", n, want)
			}
		}
		w.Start("a")
		check(0)
		w.Subscribe("bad")
		synctest.Wait()
		check(1)
		w.Net.Conns()[0].StallWrite(true)
		w.Subscribe(strings.Repeat("b", 1<<20))
		harness.After(5 * time.Second)
		check(2)
	})
}
