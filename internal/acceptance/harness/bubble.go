package harness

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how does a script run against a manager on a fake clock?

// Fewer is how often something is done: all times, or short times with -short.
func Fewer(all, short int) int {
	if testing.Short() {
		return min(all, short)
	}
	return all
}

// Bubble runs a script against a manager that is not started yet; at the end it is stopped and nothing may be left. h, when
// not nil, wraps the app into the handler to test.
func Bubble(t *testing.T, cfg wsshard.Config, h func(*App) wsshard.Handler[string], script func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &World{T: t, Net: wstest.NewNet(), App: &App{}}
		w.Srv = wstest.NewServer(t, w.Net, "srv:80")
		w.Topics = wstest.NewTopics(w.Srv)
		if cfg.Connection.NetDialContext == nil {
			cfg.Connection.NetDialContext = w.Net.DialContext
		}
		var handler wsshard.Handler[string] = w.App
		if h != nil {
			handler = h(w.App)
		}
		m, err := wsshard.New(handler, cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.M = m
		defer func() { // also after t.Fatal in the script
			if err := m.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			synctest.Wait()
			if n := w.Net.Open(); n != 0 {
				t.Errorf("%d sockets are open after Stop", n)
			}
		}()
		script(w)
	})
}

// After lets time pass.
func After(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Each calls f at once and then at each interval, while time passes up to limit.
func Each(interval, limit time.Duration, f func()) {
	for end := time.Now().Add(limit); time.Now().Before(end); After(interval) {
		f()
	}
}
