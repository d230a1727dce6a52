package lifecycle

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what may an application's slog.Handler do?

// curious is a slog.Handler that does something at each line.
type curious struct {
	slog.Handler
	at func(msg string)
}

func (c *curious) Enabled(context.Context, slog.Level) bool      { return true }
func (c *curious) WithAttrs([]slog.Attr) slog.Handler            { c.at("with"); return c }
func (c *curious) Handle(_ context.Context, r slog.Record) error { c.at(r.Message); return nil }
func newCurious(at func(msg string)) (c *curious, logger *slog.Logger) {
	c = &curious{at: at}
	return c, slog.New(c)
}

// TestLoggerMayAskTheManager: a slog.Handler is the application's code, so no lock is held while it runs. In a bubble a lock
// that is waited for would stop the clock, so this one is outside.
func TestLoggerMayAskTheManager(t *testing.T) {
	var m *wsshard.ShardManager[string]
	lines := make(map[string]bool)
	seen := make(chan string, 1000)
	_, logger := newCurious(func(msg string) {
		if m != nil {
			m.Metrics()
			m.Unsubscribe("none")
			seen <- msg
		}
	})
	net := wstest.NewNet()
	srv := wstest.NewServer(t, net, "srv:80")
	wstest.NewTopics(srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m, _ = wsshard.New(&harness.App{}, wsshard.Config{
			Logger: logger, MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{NetDialContext: net.DialContext},
			Switchover: wsshard.SwitchoverConfig{Settle: 1, Linger: 1},
		})
		ctx := context.Background()
		m.Start(ctx)
		m.Subscribe("a", "b")
		m.Sync(ctx)
		m.HotSwitchover(ctx, 0)
		srv.Live()[0].Kill()
		m.Sync(ctx)
		m.Stop(ctx)

		m, _ = wsshard.New(&harness.App{}, wsshard.Config{
			Logger: logger, MaxSubscriptionsPerShard: 1,
			Connection: wsshard.ConnectionConfig{SourceIPs: []string{"127.0.0.1"}, ShardsPerIP: 1},
		})
		m.Subscribe("a", "b")
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it waits for ever")
	}
	close(seen)
	for msg := range seen {
		lines[msg] = true
	}
	for _, want := range []string{"started", "opened shards", "switched over", "connected", "stopped", "with",
		"more shards than source addresses allow for: addresses are shared from here on"} {
		if !lines[want] {
			t.Errorf("no line says %q: %v", want, lines)
		}
	}
}

// TestLoggerThatPanics costs its lines, and nothing else.
func TestLoggerThatPanics(t *testing.T) {
	_, logger := newCurious(func(msg string) { panic(msg) })
	harness.Bubble(t, wsshard.Config{Logger: logger}, nil, func(w *harness.World) {
		w.Start("a")
		w.Srv.Live()[0].Kill()
		harness.After(time.Minute)
		w.WantTopics("a")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
		if n := w.M.Metrics().HandlerPanics; n < 5 {
			t.Errorf("%d panics are counted", n)
		}
	})
}

// TestStopInLogger: a line is written by a goroutine that Stop would wait for.
func TestStopInLogger(t *testing.T) {
	for _, line := range []string{"connected", "disconnected", "stopped"} {
		c, logger := newCurious(func(string) {})
		harness.Bubble(t, wsshard.Config{Logger: logger}, nil, func(w *harness.World) {
			said := 0
			c.at = func(msg string) {
				if msg == line {
					said++
					if err := w.M.Stop(context.Background()); err != wsshard.ErrInCallback {
						t.Errorf("Stop as %q is logged: %v", line, err)
					}
				}
			}
			w.M.Start(context.Background())
			harness.After(time.Second)
			if line != "connected" {
				w.Srv.Live()[0].Kill()
				harness.After(time.Second)
			}
			w.M.Stop(context.Background())
			if said == 0 {
				t.Errorf("nothing said %q", line)
			}
		})
	}
}

// TestRunKeepsToItsOwn: Run waits for the run that it began, though another one takes its place before Start has returned.
func TestRunKeepsToItsOwn(t *testing.T) {
	c, logger := newCurious(func(string) {})
	harness.Bubble(t, wsshard.Config{Logger: logger}, nil, func(w *harness.World) {
		first := true
		c.at = func(msg string) {
			if msg == "started" && first {
				first = false
				w.M.Stop(context.Background())
				w.M.Start(context.Background())
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		begin := time.Now()
		if err := w.M.Run(ctx); err != wsshard.ErrStopped || !time.Now().Equal(begin) {
			t.Errorf("Run: %v after %v", err, time.Since(begin))
		}
		if !w.M.IsRunning() {
			t.Error("Run stopped another one's run")
		}
	})
}
