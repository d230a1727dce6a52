package health

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does a healthy day stay calm?

// day is 24 hours of a healthy feed at an uneven pace, under the touchiest settings: whatever is found is a false alarm.
func day(t *testing.T, seed uint64, latency time.Duration, onMessage func(n int)) {
	t.Helper()
	cfg := wsshard.Config{
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off}, // nor may age end a connection
		Health:     wsshard.HealthConfig{FailureThreshold: 1},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetLatency(latency)
		random := rand.New(rand.NewPCG(seed, 0))
		delivered := 0
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { delivered++; onMessage(delivered) }
		w.Start("a")
		harness.After(time.Second)
		w.App.TakeEvents()
		sent := 0
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); sent++ {
			w.Topics.Publish("a", fmt.Sprint(sent))
			time.Sleep(time.Duration(random.Int64N(int64(29 * time.Second))))
		}
		harness.After(time.Second)
		for _, ev := range w.App.TakeEvents() {
			t.Errorf("%v after %v: %v %+v", ev.Kind, time.Since(ev.Time), ev.Err, ev.Switchover)
		}
		m := w.M.Metrics()
		if m.HealthFailures != 0 || m.Errors != 0 || m.Connections != 1 {
			t.Errorf("%d health failures, %d errors, %d connections", m.HealthFailures, m.Errors, m.Connections)
		}
		if m.PingsSent < 4318 || m.PongsReceived < m.PingsSent-4 || delivered < sent-10 {
			t.Errorf("%d pings, %d pongs; %d of %d messages", m.PingsSent, m.PongsReceived, delivered, sent)
		}
		t.Logf("%d messages, %d pings: 0 false alarms", delivered, m.PingsSent)
	})
}

func TestHealthyDay(t *testing.T) {
	day(t, 1, 0, func(int) {})
	day(t, 2, 4*time.Second, func(int) {})
}

func TestHealthyDayWithSlowHandler(t *testing.T) {
	day(t, 3, 0, func(n int) {
		if n%97 == 0 { // every 23 minutes or so
			time.Sleep(time.Minute)
		}
	})
	day(t, 4, time.Second, func(n int) {
		if n%10 == 0 {
			time.Sleep(time.Minute)
		}
		if n%11 == 0 {
			time.Sleep(10 * time.Second)
		}
	})
}
