package lifecycle

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if Stop comes as somebody begins to wait?

// TestWaitersRaceStop: whoever waits in HotSwitchover, Sync or Send while Stop comes, or calls them beside it, hears; nobody
// waits for ever on a shard whose loop has ended.
func TestWaitersRaceStop(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		for range harness.Fewer(200, 20) {
			harness.Bubble(t, wsshard.Config{DisableHotSwitchover: disabled}, nil, func(w *harness.World) {
				w.Start("a")
				ctx := context.Background()
				var all sync.WaitGroup
				for range 4 {
					for what, call := range map[string]func() error{
						"HotSwitchover": func() error { return w.M.HotSwitchover(ctx, 0) },
						"Sync":          func() error { return w.M.Sync(ctx) },
						"Send":          func() error { return w.M.Send(ctx, 0, wsshard.Text("x")) },
					} {
						all.Go(func() {
							for {
								err := call()
								if errors.Is(err, wsshard.ErrStopped) {
									return
								}
								if err != nil && !errors.Is(err, wsshard.ErrNotConnected) {
									t.Errorf("%s: %v", what, err)
									return
								}
								time.Sleep(time.Millisecond)
							}
						})
					}
				}
				time.Sleep(2 * time.Millisecond)
				w.M.Stop(ctx)
				all.Wait()
			})
		}
	}
}
