package acceptance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// TestSendDuringCutover: a shard that is connected throughout takes what is sent. While the old connection is read to its end
// that is written on the new one.
func TestSendDuringCutover(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: time.Second}
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.topics.Ack(true)
		var told time.Time
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				slowClose(p, &told, time.Second, "a:1")
			}
		})
		w.start("a")
		after(10 * time.Second)
		send := func(ctx context.Context, text string) {
			if err := w.m.Send(ctx, 0, wsshard.Text(text)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		w.app.message = func(ctx context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if msg.String() == "a:1" {
				send(ctx, "inside a callback")
			}
		}
		c := w.hot(0)
		after(linger - 100*time.Millisecond)
		send(context.Background(), "one")
		send(context.Background(), "two")
		after(600 * time.Millisecond) // it is drained
		send(context.Background(), "in its drain")
		c.want(t, nil, linger+time.Second)
		after(5 * time.Second)
		if got := w.srv.Conn(0).Got(); !slices.Equal(got, []string{"+a", "one", "two"}) {
			t.Errorf("the old connection heard %q", got)
		}
		got := w.srv.Conn(1).Got()
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
			cfg := noJitter()
			cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: 2 * time.Minute}
			if name == "silent" {
				cfg.Health = wsshard.HealthConfig{DataTimeout: 10 * time.Second, PingInterval: off}
			} else {
				cfg.Health.PingInterval = off
			}
			bubble(t, cfg, withTagAcks, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				w.m.Send(context.Background(), 0, wsshard.Text("at once"))
				var sent, heard []string
				var mu sync.Mutex
				var all sync.WaitGroup
				send := func(text string) {
					sent = append(sent, text)
					all.Go(func() {
						if err := w.m.Send(context.Background(), 0, wsshard.Text(text)); err != nil {
							t.Errorf("%s: %v", text, err)
						}
						mu.Lock()
						defer mu.Unlock()
						heard = append(heard, text)
					})
					after(0)
				}
				for i := range 5 {
					send(fmt.Sprint("s", i))
				}
				if name == "alive" {
					w.hot(0).want(t, nil, linger)
				}
				after(11 * time.Second)
				w.wantCauses(wsshard.ErrReplaced)
				w.topics.Publish("a", "1")
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
								w.topics.Publish("a", "2")
							}
						}
					}()
				}
				all.Wait()
				after(0)
				slices.Sort(heard)
				if got := w.srv.Conn(0).Got(); !slices.Equal(got, []string{"+a", "at once"}) {
					t.Errorf("the old connection heard %q", got)
				}
				if got := w.srv.Conn(1).Got(); !slices.Equal(got, append([]string{"+a"}, sent...)) || !slices.Equal(heard, slices.Sorted(slices.Values(sent))) {
					t.Errorf("the new connection heard %q, the senders of %q", got, heard)
				}
			})
		})
	}
}

// TestQueuedSendsEndWithTheNext: where the new connection is lost as well, the shard is down, and that is what senders hear.
func TestQueuedSendsEndWithTheNext(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Hour}
	cfg.Health.PingInterval = off
	bubble(t, cfg, withTagAcks, func(w *world) {
		w.topics.Ack(true)
		var told time.Time
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				slowClose(p, &told, time.Second)
			}
		})
		w.start("a")
		result := make(chan error, 1)
		go func() { result <- w.m.Send(context.Background(), 0, wsshard.Text("x")) }()
		after(0)
		w.hot(0)
		after(linger + 500*time.Millisecond) // it is drained
		w.srv.Conn(1).Reset()
		after(0)
		if err := <-result; err != wsshard.ErrNotConnected {
			t.Errorf("Send: %v", err)
		}
	})
}
