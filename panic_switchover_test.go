package wsshard_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// TestPanicsDuringSwitchover: every callback, for the old connection or the next, leaves in every way while both are there.
// HotSwitchover returns, the shard is well, and Stop leaves nothing.
func TestPanicsDuringSwitchover(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		for _, callback := range callbacks {
			for _, kind := range waysOut() {
				t.Run(fmt.Sprintf("%s %s lowLatency=%v", callback, kind.name, lowLatency), func(t *testing.T) {
					cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
					everywhere(t, callback, cfg, func(w everyWorld) {
						w.m.Start(context.Background())
						w.sync()
						w.wantTopics("a", "b")
						w.srv.OnOpen(func(p *wstest.Peer) { p.Send("hb"); p.Send("held") })
						var left, calls atomic.Int64
						w.e.at = func(_ context.Context, where string, _ wsshard.ConnectionState) {
							if where == callback && calls.Add(1) <= 2 {
								left.Add(1)
								kind.leave()
							}
						}
						result := make(chan error, 1)
						go func() { result <- w.m.HotSwitchover(context.Background(), 0) }()
						for range 30 {
							after(100 * time.Millisecond)
							w.topics.Publish("a", "x")
							w.say("hb")
						}
						after(time.Minute)
						select {
						case err := <-result:
							t.Logf("HotSwitchover: %v", err)
						default:
							t.Error("HotSwitchover has not returned")
						}
						if n := w.m.Metrics().HandlerPanics; n != uint64(left.Load()) {
							t.Errorf("%d panics are counted of %d", n, left.Load())
						}
						w.wantWell()
					})
				})
			}
		}
	}
}

// TestPanicInHeldMessages: what waits for the cutover is guarded message by message too.
func TestPanicInHeldMessages(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			switch msg.String() {
			case "two":
				panic("two")
			case "four":
				runtime.Goexit()
			}
		}
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() != 1 {
				return
			}
			for _, s := range []string{"one", "two", "three", "four", "five"} {
				p.Send(s)
			}
		})
		w.start("a")
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.wantGot("one", "three")
		after(time.Second)
		causes := w.app.takeCauses()
		if len(causes) != 2 || causes[0] != wsshard.ErrReplaced {
			t.Fatalf("disconnected with %v", causes)
		}
		if pe, ok := causes[1].(*wsshard.PanicError); !ok || pe.Value != "runtime.Goexit" {
			t.Errorf("the new connection ended with %v", causes[1])
		}
		if n := w.m.Metrics().HandlerPanics; n != 2 {
			t.Errorf("%d panics are counted", n)
		}
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
	})
}
