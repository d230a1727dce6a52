package switchover

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what becomes of sends that wait as the cut comes?

// TestSendDuringCutover: a shard that is connected throughout takes what is sent. While the old connection is read to its end
// that is written on the new one.
func TestSendDuringCutover(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: time.Second}
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		var told time.Time
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				harness.SlowClose(p, &told, time.Second, "a:1")
			}
		})
		w.Start("a")
		harness.After(10 * time.Second)
		send := func(ctx context.Context, text string) {
			if err := w.M.Send(ctx, 0, wsshard.Text(text)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		w.App.Message = func(ctx context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if msg.String() == "a:1" {
				send(ctx, "inside a callback")
			}
		}
		c := w.Hot(0)
		harness.After(harness.DefaultLinger - 100*time.Millisecond)
		send(context.Background(), "one")
		send(context.Background(), "two")
		harness.After(600 * time.Millisecond) // it is drained
		send(context.Background(), "in its drain")
		c.Want(t, nil, harness.DefaultLinger+time.Second)
		harness.After(5 * time.Second)
		if got := w.Srv.Conn(0).Got(); !slices.Equal(got, []string{"+a", "one", "two"}) {
			t.Errorf("the old connection heard %q", got)
		}
		got := w.Srv.Conn(1).Got()
		slices.Sort(got)
		if !slices.Equal(got, []string{"+a", "in its drain", "inside a callback"}) {
			t.Errorf("the new connection heard %q", got)
		}
	})
}

// TestQueuedSendsMove: what waits for the pace when its connection is replaced, be that alive or silent, is written on the next
// one, in its order and before what is sent later. Nobody hears of it.
func TestQueuedSendsMove(t *testing.T) {
	for _, name := range []string{"alive", "silent"} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: 2 * time.Minute}
			if name == "silent" {
				cfg.Health = wsshard.HealthConfig{DataTimeout: 10 * time.Second, PingInterval: harness.Off}
			} else {
				cfg.Health.PingInterval = harness.Off
			}
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				w.M.Send(context.Background(), 0, wsshard.Text("at once"))
				var sent, heard []string
				var mu sync.Mutex
				var all sync.WaitGroup
				send := func(text string) {
					sent = append(sent, text)
					all.Go(func() {
						if err := w.M.Send(context.Background(), 0, wsshard.Text(text)); err != nil {
							t.Errorf("%s: %v", text, err)
						}
						mu.Lock()
						defer mu.Unlock()
						heard = append(heard, text)
					})
					harness.After(0)
				}
				for i := range 5 {
					send(fmt.Sprint("s", i))
				}
				if name == "alive" {
					w.Hot(0).Want(t, nil, harness.DefaultLinger)
				}
				harness.After(11 * time.Second)
				w.WantCauses(wsshard.ErrReplaced)
				w.Topics.Publish("a", "1")
				send("later")
				if name == "silent" {
					stop := make(chan struct{})
					defer close(stop)
					go func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Second):
								w.Topics.Publish("a", "2")
							}
						}
					}()
				}
				all.Wait()
				harness.After(0)
				slices.Sort(heard)
				if got := w.Srv.Conn(0).Got(); !slices.Equal(got, []string{"+a", "at once"}) {
					t.Errorf("the old connection heard %q", got)
				}
				if got := w.Srv.Conn(1).Got(); !slices.Equal(got, append([]string{"+a"}, sent...)) || !slices.Equal(heard, slices.Sorted(slices.Values(sent))) {
					t.Errorf("the new connection heard %q, the senders of %q", got, heard)
				}
			})
		})
	}
}

// TestQueuedSendsEndWithTheNext: where the new connection is lost as well, the shard is down, and that is what senders hear.
func TestQueuedSendsEndWithTheNext(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Hour}
	cfg.Health.PingInterval = harness.Off
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		var told time.Time
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				harness.SlowClose(p, &told, time.Second)
			}
		})
		w.Start("a")
		result := make(chan error, 1)
		go func() { result <- w.M.Send(context.Background(), 0, wsshard.Text("x")) }()
		harness.After(0)
		w.Hot(0)
		harness.After(harness.DefaultLinger + 500*time.Millisecond) // it is drained
		w.Srv.Conn(1).Reset()
		harness.After(0)
		if err := <-result; err != wsshard.ErrNotConnected {
			t.Errorf("Send: %v", err)
		}
	})
}
