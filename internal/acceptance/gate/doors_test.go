package gate

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is told of a door, and what is learned of a venue that allows one connection for a key? All of it runs in synctest bubbles.

// A door that is shut is in events, in Metrics.Doors and in one sentence of the log.
func TestDoorIsTold(t *testing.T) {
	var mu sync.Mutex
	var text bytes.Buffer
	var f *fleet
	figure(t, 40, 1, func(cfg *wsshard.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &text}, nil))
	}, func(fl *fleet) {
		f = fl
		n := 0
		f.v.Judge = func(*http.Request) (int, http.Header) {
			if n++; n > 30 {
				return 429, nil
			}
			return 0, nil
		}
		f.start()
		time.Sleep(150 * time.Second)
		doors := f.m.Metrics().Doors
		if len(doors) != 1 {
			t.Fatalf("doors: %+v", doors)
		}
		d := doors[0]
		if d.Host != "venue:80" || d.Egress != "" || d.Reason != "toomany" || d.Status != 429 || d.Waiting != 10 || d.Width != 1 || d.Failed < 3 || !d.Until.After(time.Now()) {
			t.Errorf("%+v", d)
		}
		open := f.take(wsshard.EventBreakerOpen)
		if len(open) != 3 || open[0].Door == nil || open[0].Door.Reason != "toomany" || open[0].ShardID != -1 || open[0].Delay < time.Second || open[1].Time.Sub(open[0].Time) != time.Minute {
			t.Errorf("told %+v", open)
		}
		if n := f.m.Metrics().CircuitBreakerTrips; n != 1 {
			t.Errorf("%d trips", n)
		}
		f.v.Do(func() { n = -1000 })
		f.whole(40, 5*time.Minute)
		if closed := f.take(wsshard.EventBreakerClosed); len(closed) != 1 || closed[0].Door.Reason != "toomany" || closed[0].Door.Lasted < 150*time.Second {
			t.Errorf("told %+v", closed)
		}
		if doors := f.m.Metrics().Doors; len(doors) != 0 {
			t.Errorf("doors: %+v", doors)
		}
	})
	mu.Lock()
	defer mu.Unlock()
	// The refusal comes in the instant in which the last ten are let in: some of them may not be counted yet.
	want := regexp.MustCompile(`"venue:80 answers 429: (2[0-9]|30) connected, [0-9]+ wait, next try in [0-9.]+s; set Connection.Limiter"`)
	if said := want.FindAllString(text.String(), -1); len(said) != 1 || strings.Count(text.String(), "set Connection.Limiter") != 1 {
		t.Errorf("the log does not say %q once: %s", want, text.String())
	}
}

type lockedWriter struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

// Half of a budget that replaces fewer connections in an interval than there are is said, once.
func TestTightRotationIsSaid(t *testing.T) {
	for _, c := range []struct {
		interval time.Duration
		times    int
	}{{15 * time.Minute, 1}, {23 * time.Hour, 0}} {
		var mu sync.Mutex
		var text bytes.Buffer
		figure(t, 90, 1, func(cfg *wsshard.Config) {
			cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &text}, nil))
			cfg.Connection.Limiter = wsshard.NewConnectLimiter(45, 5*time.Minute)
			cfg.Connection.ProactiveReconnectInterval = c.interval
		}, func(f *fleet) {
			f.start()
			time.Sleep(time.Minute)
		})
		mu.Lock()
		if n := strings.Count(text.String(), "than there are shards"); n != c.times {
			t.Errorf("%v: said %d times, want %d", c.interval, n, c.times)
		}
		mu.Unlock()
	}
}

// A venue that ends the old connection when the new one has come: twice in a row, and switchovers close first, and nothing
// rotates any more; gaps are told, and it is remembered over a Stop.
func TestSingleConnectionVenue(t *testing.T) {
	figure(t, 3, 2, func(cfg *wsshard.Config) { cfg.Connection.ProactiveReconnectInterval = 6 * time.Hour }, func(f *fleet) {
		var mu sync.Mutex
		at := make(map[string]*wstest.VenueConn)
		kicks := 0
		f.v.Came = func(c *wstest.VenueConn) {
			mu.Lock()
			old := at[c.Path]
			at[c.Path] = c
			mu.Unlock()
			if old != nil && slices.Contains(f.v.Conns(), old) {
				kicks++
				time.AfterFunc(100*time.Millisecond, func() { old.End(wstest.CloseFrame(4001)) })
			}
		}
		f.start()
		f.whole(3, time.Minute)
		time.Sleep(time.Minute)
		for shard := range 2 {
			f.m.HotSwitchover(context.Background(), shard)
			time.Sleep(time.Minute)
		}
		if evs := f.take(wsshard.EventSingleConnection); len(evs) != 1 || evs[0].Door.Reason != "single-connection" || evs[0].Door.Host != "venue:80" {
			t.Fatalf("told %+v", evs)
		}
		if kicks != 2 {
			t.Fatalf("%d were ended", kicks)
		}
		dials := len(f.v.Dials())
		if err := f.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := len(f.v.Dials()); n != dials+1 || kicks != 2 {
			t.Errorf("%d dials for one switchover, %d were ended by the venue", n-dials, kicks)
		}
		if m := f.m.Metrics(); m.Gaps < 3 || m.ActiveConnections != 3 {
			t.Errorf("%d gaps, %d live", m.Gaps, m.ActiveConnections)
		}
		time.Sleep(48 * time.Hour)
		if n := len(f.v.Dials()); n != dials+1 {
			t.Errorf("%d dials in two days", n-dials-1)
		}
		if err := f.m.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		f.start()
		f.m.Subscribe(1, 2, 3)
		f.whole(3, time.Minute)
		time.Sleep(time.Minute)
		f.m.HotSwitchover(context.Background(), 0)
		time.Sleep(time.Minute)
		if kicks != 2 {
			t.Errorf("it was forgotten: %d were ended by the venue", kicks)
		}
	})
}

// A venue that refuses the second connection while the first one lives: nobody is touched, and it is not asked again and again.
func TestCrowdedVenue(t *testing.T) {
	figure(t, 3, 2, func(cfg *wsshard.Config) { cfg.Connection.ProactiveReconnectInterval = 4 * time.Hour }, func(f *fleet) {
		f.v.Judge = func(*http.Request) (int, http.Header) {
			if f.v.Live() >= 3 {
				return 400, nil
			}
			return 0, nil
		}
		f.start()
		f.whole(3, time.Minute)
		time.Sleep(12 * time.Hour)
		if evs := f.take(wsshard.EventSingleConnection); len(evs) < 3 || len(evs) > 20 || evs[0].Door.Reason != "connections" {
			t.Errorf("told %d times: %+v", len(evs), evs)
		}
		if n := len(f.v.Dials()); n > 60 {
			t.Errorf("%d dials in twelve hours", n)
		}
		if m := f.m.Metrics(); m.Gaps != 0 || m.ActiveConnections != 3 || m.Shards[0].Generation != 1 {
			t.Errorf("%d gaps, %d live", m.Gaps, m.ActiveConnections)
		}
	})
}

// Two shards with one key end each other's connections.
func TestDisplacingShards(t *testing.T) {
	figure(t, 2, 3, nil, func(f *fleet) {
		var last *wstest.VenueConn
		f.v.Came = func(c *wstest.VenueConn) {
			if old := last; old != nil {
				time.AfterFunc(50*time.Millisecond, func() { old.End(wstest.CloseFrame(4009)) })
			}
			last = c
		}
		f.start()
		time.Sleep(2 * time.Minute)
		if evs := f.take(wsshard.EventSingleConnection); len(evs) == 0 || evs[0].Door.Reason != "displacing" {
			t.Errorf("told %+v", evs)
		}
	})
}

// Whoever backs off hears that the handler names another host, at which nothing has failed yet.
func TestBackoffHearsOfAnotherHost(t *testing.T) {
	figure(t, 1, 3, func(cfg *wsshard.Config) {
		cfg.Backoff = wsshard.BackoffConfig{InitialDelay: time.Hour, MaxDelay: time.Hour, DisableJitter: true}
	}, func(f *fleet) {
		var mu sync.Mutex
		url := "ws://other/"
		f.url = func(wsshard.ConnectionState) string {
			mu.Lock()
			defer mu.Unlock()
			return url
		}
		bad := true
		f.v.Judge = func(*http.Request) (int, http.Header) {
			if bad {
				return 404, nil
			}
			return 0, nil
		}
		f.start()
		time.Sleep(10 * time.Minute)
		if n := len(f.v.Dials()); n != 1 {
			t.Errorf("%d dials", n)
		}
		f.v.Do(func() { bad = false })
		mu.Lock()
		url = "ws://venue/"
		mu.Unlock()
		f.wantWithin("live at the other host", f.whole(1, time.Minute), 1600*time.Millisecond)
	})
}

// A wait at a door is no commitment: a Reconnect is heard there, and the handler's other host is reached at once; without one,
// within a second and a half.
func TestReconnectPassesAShutDoor(t *testing.T) {
	for _, asked := range []bool{true, false} {
		figure(t, 1, 3, nil, func(f *fleet) {
			var mu sync.Mutex
			url := "ws://busy/"
			f.url = func(wsshard.ConnectionState) string {
				mu.Lock()
				defer mu.Unlock()
				return url
			}
			f.v.Judge = func(r *http.Request) (int, http.Header) {
				if r.Host == "busy" {
					return 429, http.Header{"Retry-After": {"3600"}}
				}
				return 0, nil
			}
			f.start()
			time.Sleep(10 * time.Minute)
			if n := len(f.v.Dials()); n != 1 {
				t.Errorf("%d dials of a host that asked for an hour", n)
			}
			if n := f.m.Metrics().Shards[0].ReconnectAttempt; n < 300 {
				t.Errorf("ReconnectAttempt is %d after ten minutes of being turned away", n)
			}
			f.m.Reconnect(0) // passes no Retry-After
			time.Sleep(time.Minute)
			if n := len(f.v.Dials()); n != 1 {
				t.Errorf("%d dials of a host that asked for an hour", n)
			}
			mu.Lock()
			url = "ws://venue/"
			mu.Unlock()
			most := 1600 * time.Millisecond
			if asked {
				f.m.Reconnect(0)
				most = 60 * time.Millisecond
			}
			f.wantWithin("live", f.whole(1, time.Minute), most)
		})
	}
}
