package acceptance

import (
	"context"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

func TestSmoke(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start("a", "b", "c")
		w.wantTopics("a", "b", "c")
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
		w.m.Unsubscribe("b")
		w.subscribe("d")
		w.sync()
		w.wantTopics("a", "c", "d")
		w.srv.Conn(0).Kill()
		after(time.Second)
		w.wantTopics("a", "c", "d")
		w.topics.Publish("d", "1")
		w.wantGot("d:1")
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.wantTopics("a", "c", "d")
		w.topics.Publish("d", "2")
		w.wantGot("d:2")
		for _, e := range w.app.takeEvents() {
			t.Log(e.Kind, e.Generation, e.Err, e.From, e.To, e.Switchover)
		}
		t.Logf("%+v", w.m.Metrics())
	})
}
