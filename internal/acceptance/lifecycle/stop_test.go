package lifecycle

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does Stop end, whatever a callback does?

// TestStopWhileACallbackBlocks: inside a callback that ignores its context Stop gives up when its own ends. Every socket is
// closed then; the goroutines that are left end when the callback returns, and the next Stop says so.
func TestStopWhileACallbackBlocks(t *testing.T) {
	for _, callback := range harness.Callbacks {
		if callback == "Subscriptions" {
			continue // see TestStopWhileStarting
		}
		t.Run(callback, func(t *testing.T) {
			everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
				var entered atomic.Bool
				release := make(chan struct{})
				w.e.At = func(_ context.Context, where string, _ wsshard.ConnectionState) {
					if where == callback && entered.CompareAndSwap(false, true) {
						<-release
					}
				}
				w.provoke()
				if !entered.Load() {
					t.Fatal("it was not called")
				}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
				defer cancel()
				if err := w.M.Stop(ctx); err != context.DeadlineExceeded || time.Since(begin) != 7*time.Second {
					t.Errorf("Stop: %v after %v", err, time.Since(begin))
				}
				if n := w.Net.Open(); n != 0 {
					t.Errorf("%d sockets are open", n)
				}
				time.Sleep(time.Hour)
				if len(harness.Ours()) == 0 {
					t.Error("no goroutine is left: what did Stop wait for?")
				}
				close(release)
				harness.WantLoops(t, "released", 0)
				if err := w.M.Stop(ctx); err != nil {
					t.Errorf("the next Stop: %v", err)
				}
				w.wantWell()
			})
		})
	}
}

// TestDialThatIgnoresItsContext: what a NetDialContext brings too late is closed.
func TestDialThatIgnoresItsContext(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(time.Minute); return nil })
		w.M.Start(context.Background())
		harness.After(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := w.M.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop: %v", err)
		}
		harness.After(time.Hour)
		if n := w.Net.Open(); n != 0 {
			t.Errorf("%d sockets are open", n)
		}
		harness.WantLoops(t, "an hour later", 0)
	})
}

// TestStopOfTheRunBefore: a run that was stopped inside a callback is over only when that callback returns. Who then gives up
// waiting for the next run closes the sockets of both.
func TestStopOfTheRunBefore(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		release := make(chan struct{})
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			w.Srv.Live()[0].Net().(*wstest.Conn).BlackHole(true) // our close frame gets no answer
			if err := w.M.Stop(ctx); err != wsshard.ErrInCallback {
				t.Errorf("Stop inside: %v", err)
			}
			<-release
		}
		w.Start("a")
		w.Topics.Publish("a", "1")
		synctest.Wait()
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.M.Stop(ended); err != context.Canceled {
			t.Errorf("Stop: %v", err)
		}
		if n := w.Net.Open(); n != 0 {
			t.Errorf("%d sockets are open", n)
		}
		close(release)
	})
}
