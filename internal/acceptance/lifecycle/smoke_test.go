package lifecycle

import (
	"context"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does the shortest script work?

func TestSmoke(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a", "b", "c")
		w.WantTopics("a", "b", "c")
		w.Topics.Publish("a", "1")
		w.WantGot("a:1")
		w.M.Unsubscribe("b")
		w.Subscribe("d")
		w.Sync()
		w.WantTopics("a", "c", "d")
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.WantTopics("a", "c", "d")
		w.Topics.Publish("d", "1")
		w.WantGot("d:1")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.WantTopics("a", "c", "d")
		w.Topics.Publish("d", "2")
		w.WantGot("d:2")
		for _, e := range w.App.TakeEvents() {
			t.Log(e.Kind, e.Generation, e.Err, e.From, e.To, e.Switchover)
		}
		t.Logf("%+v", w.M.Metrics())
	})
}
