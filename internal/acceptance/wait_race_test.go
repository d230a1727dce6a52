package acceptance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestWaitersRaceStop: whoever waits in HotSwitchover, Sync or Send while Stop comes, or calls them beside it, hears; nobody
// waits for ever on a shard whose loop has ended.
func TestWaitersRaceStop(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		for range fewer(200, 20) {
			bubble(t, wsshard.Config{DisableHotSwitchover: disabled}, nil, func(w *world) {
				w.start("a")
				ctx := context.Background()
				var all sync.WaitGroup
				for range 4 {
					for what, call := range map[string]func() error{
						"HotSwitchover": func() error { return w.m.HotSwitchover(ctx, 0) },
						"Sync":          func() error { return w.m.Sync(ctx) },
						"Send":          func() error { return w.m.Send(ctx, 0, wsshard.Text("x")) },
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
				w.m.Stop(ctx)
				all.Wait()
			})
		}
	}
}
