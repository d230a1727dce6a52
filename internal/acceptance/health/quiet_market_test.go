package health

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: is a market that is merely quiet told from a connection that is silent?

// silences returns when data timeouts were noticed, counted from begin.
func silences(w *harness.World, begin time.Time) (at []time.Duration) {
	for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected) {
		if ev.Switchover != nil && ev.Switchover.Trigger == "data-timeout" || ev.Err == wsshard.ErrDataTimeout {
			at = append(at, ev.Time.Sub(begin))
		}
	}
	return at
}

// In a quiet market each connection is as silent as the last. Each gets twice the time of the one before, up to 15 minutes,
// and data ends that.
func TestQuietMarket(t *testing.T) {
	cfg := wsshard.Config{
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
		Switchover: wsshard.SwitchoverConfig{Settle: harness.Off},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		w.Topics.Publish("a", "1")
		harness.After(90 * time.Minute)
		want, at := []time.Duration{}, time.Duration(0)
		for _, d := range []time.Duration{30, 30, 60, 120, 240, 480, 900, 900, 900, 900} {
			at += d * time.Second
			want = append(want, at)
		}
		if got := silences(w, begin); !slices.Equal(got, want) {
			t.Errorf("silences after %v, want %v", got, want)
		}
		w.WantTopics("a")
		if n := len(w.App.TakeCauses()); n != len(want) {
			t.Errorf("%d connections ended", n)
		}

		begin = time.Now()
		w.Topics.Publish("a", "2") // one message: the market is awake
		harness.After(95 * time.Second)
		if got := silences(w, begin); !slices.Equal(got, []time.Duration{30 * time.Second, 60 * time.Second}) {
			t.Errorf("silences after data: %v", got)
		}
	})
}

// From its first connection on a market may be quiet.
func TestQuietMarketFromTheBeginning(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		cfg := wsshard.Config{
			DisableHotSwitchover: disabled,
			Backoff:              wsshard.BackoffConfig{InitialDelay: time.Nanosecond, DisableJitter: true},
			Connection:           wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
			Switchover:           wsshard.SwitchoverConfig{Settle: harness.Off},
		}
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.Start("a")
			begin := time.Now()
			harness.After(8 * time.Minute)
			got := silences(w, begin)
			for i := range got {
				got[i] = got[i].Truncate(time.Microsecond)
			}
			want := []time.Duration{30 * time.Second, 60 * time.Second, 120 * time.Second, 240 * time.Second, 480 * time.Second}
			if disabled {
				want = want[:4] // a nanosecond of backoff each
			}
			if !slices.Equal(got, want) {
				t.Errorf("silences after %v, want %v", got, want)
			}
		})
	}
}

// A data timeout that is longer than the bound stays what it is.
func TestQuietMarketLongTimeout(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{DataTimeout: 20 * time.Minute},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
		Switchover: wsshard.SwitchoverConfig{Settle: harness.Off},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		harness.After(61 * time.Minute)
		if got := silences(w, begin); !slices.Equal(got, []time.Duration{20 * time.Minute, 40 * time.Minute, 60 * time.Minute}) {
			t.Errorf("silences after %v", got)
		}
	})
}

// A silent connection is replaced, not broken: no waiting for MaxConcurrent, no Linger and no keys once all is proven, always a
// Gap.
func TestSilentIsReplaced(t *testing.T) {
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: 1,
		Connection:               wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
		Switchover:               wsshard.SwitchoverConfig{MaxConcurrent: 1, Linger: time.Minute, Timeout: time.Hour},
	}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Inspects
		}{a, func(m wsshard.Message, st wsshard.ConnectionState) wsshard.Verdict[string] {
			v := harness.ByTopic(m, st)
			v.Key = m.String() // of which the old connection will deliver none
			return v
		}}
	}, func(w *harness.World) {
		w.Start(harness.Numbered(5)...)
		begin := time.Now()
		for _, sub := range harness.Numbered(5) {
			w.Topics.Publish(sub, "1")
		}
		harness.After(30*time.Second - 1)
		w.App.Take()
		w.App.TakeEvents()
		harness.After(1)
		for _, sub := range harness.Numbered(5) { // all five next connections are there: this proves them
			live := w.Srv.Live()
			for _, p := range live[len(live)-5:] {
				if slices.Contains(w.Topics.On(p), sub) {
					p.Send(sub + ":2")
				}
			}
		}
		got := w.App.Take()
		slices.Sort(got)
		if strings.Join(got, " ") != "t0000:2 t0001:2 t0002:2 t0003:2 t0004:2" {
			t.Errorf("delivered %q", got)
		}
		for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverDone, wsshard.EventGap, wsshard.EventDisconnected) {
			switch ev.Kind {
			case wsshard.EventGap:
				if !ev.From.Equal(begin.Add(-time.Minute)) || !ev.To.Equal(begin.Add(30*time.Second)) || len(ev.Subs) != 1 {
					t.Errorf("gap from %v to %v: %q", ev.From, ev.To, ev.Subs)
				}
			case wsshard.EventSwitchoverDone:
				if !ev.Time.Equal(begin.Add(30*time.Second)) || ev.Switchover.Trigger != "data-timeout" {
					t.Errorf("%v: %+v", ev.Time, ev.Switchover)
				}
			default:
				t.Errorf("%v: %v", ev.Kind, ev.Err)
			}
		}
		if m := w.M.Metrics(); m.HotSwitchovers != 5 || m.Gaps != 5 || m.Errors != 0 {
			t.Errorf("%d switchovers, %d gaps, %d errors", m.HotSwitchovers, m.Gaps, m.Errors)
		}
	})
}

// While its replacement is long in coming a silent connection is pinged still, and when none comes it reconnects.
func TestSilentWithoutReplacement(t *testing.T) {
	cfg := wsshard.Config{
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off, ConnectTimeout: 10 * time.Minute},
		Backoff:    wsshard.BackoffConfig{DisableJitter: true},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		w.Net.OnDial(harness.NoAnswer)
		harness.After(9 * time.Minute)
		if n := w.Srv.Conn(0).Pings(); n != 27 {
			t.Errorf("%d pings", n)
		}
		w.Net.OnDial(nil)
		harness.After(2 * time.Minute)
		w.WantCauses(wsshard.ErrDataTimeout)
		w.WantTopics("a")
		for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverFailed, wsshard.EventGap) {
			if at := ev.Time.Sub(begin); ev.Kind == wsshard.EventSwitchoverFailed && at != 10*time.Minute+30*time.Second {
				t.Errorf("failed after %v", at)
			} else if ev.Kind == wsshard.EventGap && (!ev.From.Equal(begin.Add(-harness.DefaultLinger)) || ev.Time.Sub(begin) > 10*time.Minute+32*time.Second) {
				t.Errorf("gap: %+v", ev)
			}
		}
	})
}
