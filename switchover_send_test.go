package wsshard_test

import (
	"context"
	"slices"
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
