package lifecycle

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does each callback happen where a test provokes it?

// everyWorld is a world whose handler is an every. Its one shard holds three topics.
type everyWorld struct {
	*harness.World
	e *harness.Every
}

// everywhere runs a script in a bubble, as harness.Bubble does.
func everywhere(t *testing.T, callback string, cfg wsshard.Config, script func(w everyWorld)) {
	t.Helper()
	e := &harness.Every{}
	d := &harness.Dials{E: e}
	d.With(&cfg)
	harness.Bubble(t, cfg, func(*harness.App) wsshard.Handler[string] { return e.HandlerFor(callback) }, func(w *harness.World) {
		d.Dial = w.Net.DialContext
		w.Topics.Ack(true)
		script(everyWorld{w, e})
	})
}

// provoke starts the manager and reaches every callback at least once, as long as none of them keeps it from doing so. It
// takes a minute.
func (w everyWorld) provoke() {
	started := make(chan struct{})
	go func() { // a callback of Start may take this goroutine along
		defer close(started)
		w.M.Start(context.Background())
	}()
	<-started
	harness.After(10 * time.Second)
	w.M.Subscribe("b") // where this is not the first time
	harness.After(time.Second)
	w.M.Subscribe("c")
	w.M.Unsubscribe("b")
	harness.After(time.Second)
	w.M.Resubscribe("a")
	harness.After(time.Second)
	w.say("hb")
	w.Topics.Publish("a", "provoked")
	harness.After(30 * time.Second) // a ping
	harness.BusyOnce(w.Srv)
	for _, p := range w.Srv.Live() {
		p.Kill()
	}
	harness.After(20 * time.Second)
}

// say sends a message on all live connections.
func (w everyWorld) say(text string) {
	for _, p := range w.Srv.Live() {
		p.Send(text)
	}
	synctest.Wait()
}

// wantWell starts the manager if it is not running, and checks that the server has its topics and that it delivers. What was
// asked for twice is not its business: where an answer was lost that is right.
func (w everyWorld) wantWell() {
	w.T.Helper()
	if err := w.M.Start(context.Background()); err != nil && err != wsshard.ErrStarted {
		w.T.Fatalf("Start: %v", err)
	}
	w.M.Subscribe("a", "c")
	w.M.Unsubscribe("b")
	harness.After(2 * time.Minute)
	if all := w.Topics.All(); !maps.Equal(all, map[string]int{"a": 1, "c": 1}) {
		w.T.Errorf("the server has %v, want a and c once", all)
	}
	w.take()
	if n := w.Topics.Publish("c", "well"); n != 1 {
		w.T.Errorf("c is on %d connections", n)
	}
	if got := w.take(); !slices.Equal(got, []string{"c:well"}) {
		w.T.Errorf("delivered %q", got)
	}
}

func (w everyWorld) take() []string {
	synctest.Wait()
	w.e.Mu.Lock()
	defer w.e.Mu.Unlock()
	got := w.e.Got
	w.e.Got = nil
	return got
}

// TestProvoke: the tests that go through callbacks do reach each of them.
func TestProvoke(t *testing.T) {
	for _, callback := range harness.Callbacks {
		everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
			w.provoke()
			if w.e.Called(callback) == 0 {
				t.Errorf("%s was not called", callback)
			}
			w.wantWell()
		})
	}
}
