package gaps

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: in which order do events come, and what if the observer is slow?

// onlooker is an app whose events go to an observer of the test's.
type onlooker struct {
	harness.Courtier
	on func(wsshard.Event[string])
}

func (h onlooker) OnEvent(ev wsshard.Event[string]) { h.on(ev) }

func watching(on func(wsshard.Event[string])) func(a *harness.App) wsshard.Handler[string] {
	return func(a *harness.App) wsshard.Handler[string] {
		return onlooker{harness.NewCourtier(a).(harness.Courtier), on}
	}
}

// story is events as lines: kind, generation, and what else is set.
func story(evs []wsshard.Event[string]) (lines []string) {
	for _, ev := range evs {
		line := fmt.Sprintf("%v shard=%d gen=%d", ev.Kind, ev.ShardID, ev.Generation)
		if ev.Attempt != 0 {
			line += fmt.Sprint(" attempt=", ev.Attempt)
		}
		if ev.Delay != 0 {
			delay := ev.Delay
			if ev.Door != nil { // its step has up to a tenth more
				delay = delay.Truncate(250 * time.Millisecond)
			}
			line += fmt.Sprint(" delay=", delay)
		}
		if len(ev.Subs) > 0 {
			slices.Sort(ev.Subs)
			line += " subs=" + strings.Join(ev.Subs, ",")
		}
		if ev.Switchover != nil {
			line += " trigger=" + ev.Switchover.Trigger
		}
		if ev.Err != nil {
			line += " err"
		}
		lines = append(lines, line)
	}
	return lines
}

// The whole story of a shard, in order, on one goroutine.
func TestEventOrder(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.MaxConnectAttempts = 3
	cfg.Connection.CircuitBreakerThreshold = 2
	cfg.Connection.CircuitBreakerResetTimeout = time.Second
	var mu sync.Mutex
	var evs []wsshard.Event[string]
	goroutines := map[string]bool{}
	harness.Bubble(t, cfg, watching(func(ev wsshard.Event[string]) {
		mu.Lock()
		defer mu.Unlock()
		evs = append(evs, ev)
		stack := make([]byte, 64)
		goroutines[strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]] = true
	}), func(w *harness.World) {
		want := func(lines ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(story(evs), "\n"); got != strings.Join(lines, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(lines, "\n"))
			}
			for i, ev := range evs {
				if ev.Time.IsZero() || i > 0 && ev.Time.Before(evs[i-1].Time) {
					t.Errorf("%v at %v", ev.Kind, ev.Time)
				}
			}
			evs = nil
		}
		w.Srv.Down()
		w.Launch("a", "b")
		harness.After(50 * time.Millisecond)
		w.Srv.Restart()
		harness.After(time.Second)
		w.Answer("ack 0 +a -b")
		want("connecting shard=0 gen=0 attempt=1", "backoff shard=0 gen=0 attempt=1 delay=100ms err",
			"connecting shard=0 gen=0 attempt=2", "connected shard=0 gen=1",
			"subscription-rejected shard=0 gen=1 subs=b err")

		harness.After(time.Minute)
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		w.Answer("ack 0 +a,b")
		want("disconnected shard=0 gen=1 err", "backoff shard=0 gen=0 delay=100ms err", "connecting shard=0 gen=0 attempt=1",
			"connected shard=0 gen=2", "gap shard=0 gen=2 subs=a")

		harness.After(time.Minute)
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		w.Answer("ack 0 +a,b")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want("switchover-started shard=0 gen=2 trigger=call", "switchover-done shard=0 gen=3 trigger=call")

		harness.After(time.Minute)
		w.Srv.Down()
		harness.After(time.Minute)
		want("disconnected shard=0 gen=3 err", "backoff shard=0 gen=0 delay=100ms err",
			"connecting shard=0 gen=0 attempt=1", "backoff shard=0 gen=0 attempt=1 delay=200ms err",
			"connecting shard=0 gen=0 attempt=2", "breaker-open shard=-1 gen=0 delay=250ms err", // which spaces what follows
			"connecting shard=0 gen=0 attempt=3", "parked shard=0 gen=0 attempt=3 subs=a,b err")

		w.Srv.Restart()
		w.M.Reconnect(0)
		harness.After(time.Second)
		w.Answer("ack 0 +a,b")
		want("connecting shard=0 gen=0 attempt=1", "breaker-closed shard=-1 gen=0", "connected shard=0 gen=4", "gap shard=0 gen=4 subs=a,b")

		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		want("disconnected shard=0 gen=4 err", "stopped shard=-1 gen=0")
		if len(goroutines) != 1 {
			t.Errorf("%d goroutines", len(goroutines))
		}
	})
}

// A slow observer delays nothing but events. The oldest are dropped and counted; what must not be lost is not.
func TestSlowObserver(t *testing.T) {
	var mu sync.Mutex
	var evs []wsshard.Event[string]
	cfg := harness.NoJitter()
	cfg.Backoff.MaxDelay = 100 * time.Millisecond
	cfg.Connection.CircuitBreakerResetTimeout = harness.Off
	cfg.MaxSubscriptionsPerShard = 2
	harness.Bubble(t, cfg, watching(func(ev wsshard.Event[string]) {
		if ev.Kind == wsshard.EventConnected && ev.Generation == 1 {
			time.Sleep(time.Hour)
		}
		mu.Lock()
		defer mu.Unlock()
		evs = append(evs, ev)
	}), func(w *harness.World) {
		w.Launch("a", "b")
		w.Answer("ack 0 +a")
		harness.After(time.Second)
		var downs []time.Time
		for range 20 { // each leaves a gap, a rejection, and some hundred attempts
			w.Answer("ack 0 +a -b")
			w.Srv.Down()
			downs = append(downs, time.Now())
			harness.After(10 * time.Second)
			w.Srv.Restart()
			harness.After(time.Second)
		}
		w.Answer("ack 0 +a,b")
		w.Sync() // nothing waits for it
		harness.After(2 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		gaps, rejections, attempts := 0, 0, 0
		last := time.Time{}
		for _, ev := range evs {
			switch ev.Kind {
			case wsshard.EventGap:
				gaps++
				if ev.To.After(last) { // a gap that is merged keeps the place of the first
					last = ev.To
				}
			case wsshard.EventSubscriptionRejected:
				rejections++
			case wsshard.EventConnecting:
				attempts++
			}
		}
		m := w.M.Metrics()
		if m.Gaps != 20 || m.SubscriptionsRejected != 20 {
			t.Errorf("%d gaps, %d rejections happened", m.Gaps, m.SubscriptionsRejected)
		}
		if gaps == 0 || rejections == 0 || !last.Equal(m.Shards[0].LastGap) {
			t.Errorf("%d gaps and %d rejections were told of, the last gap ended at %v, not %v", gaps, rejections, last, m.Shards[0].LastGap)
		}
		if m.EventsDropped == 0 || attempts+int(m.EventsDropped) < w.Net.Dials() || len(evs) > 1100 {
			t.Errorf("%d events, %d of them attempts of %d; %d dropped", len(evs), attempts, w.Net.Dials(), m.EventsDropped)
		}
		for _, at := range downs {
			if !slices.ContainsFunc(evs, func(ev wsshard.Event[string]) bool {
				return ev.Kind == wsshard.EventGap && !at.Before(ev.From) && !at.After(ev.To)
			}) {
				t.Errorf("what was lost at %v is in no gap", at)
			}
		}
	})
}

// EventStopped is the last, and Stop waits until it is told.
func TestStoppedIsLast(t *testing.T) {
	var evs []wsshard.Event[string]
	cfg := harness.NoJitter()
	cfg.MaxSubscriptionsPerShard = 1
	harness.Bubble(t, cfg, watching(func(ev wsshard.Event[string]) {
		time.Sleep(time.Second)
		evs = append(evs, ev)
	}), func(w *harness.World) {
		w.Launch(harness.Numbered(10)...)
		w.Srv.Down()
		harness.After(time.Second)
		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		n := len(evs)
		if n == 0 || evs[n-1].Kind != wsshard.EventStopped {
			t.Fatalf("events: %q", story(evs))
		}
		harness.After(time.Minute)
		if len(evs) != n {
			t.Errorf("events after the last: %q", story(evs[n:]))
		}
		for _, ev := range evs[:n-1] {
			if ev.Kind == wsshard.EventDisconnected && ev.Err == nil {
				t.Error("disconnected without a cause")
			}
		}
	})
}

// An observer that panics, or takes its goroutine away, hears the rest all the same.
func TestObserverPanics(t *testing.T) {
	var evs []wsshard.Event[string]
	harness.Bubble(t, harness.NoJitter(), watching(func(ev wsshard.Event[string]) {
		evs = append(evs, ev)
		switch len(evs) {
		case 1:
			panic(errors.New("observer"))
		case 2:
			runtime.Goexit()
		}
	}), func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(story(evs), "; "); got != "connecting shard=0 gen=0 attempt=1; connected shard=0 gen=1; disconnected shard=0 gen=1 err; stopped shard=-1 gen=0" {
			t.Error(got)
		}
		if n := w.M.Metrics().HandlerPanics; n != 2 {
			t.Errorf("%d panics", n)
		}
	})
}
