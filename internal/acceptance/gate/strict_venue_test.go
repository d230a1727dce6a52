package gate

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does a strict venue find a fault with a day of a thousand shards?

// venue is a server with Binance's limits: 300 connects in any 5 minutes for an address, 5 frames in any second for a
// connection, control frames included. It pings while it is being subscribed to, and then every 20 minutes.
type venue struct {
	connects []time.Time

	mu     sync.Mutex
	faults []string
}

const (
	venueConnects, venueWindow = 300, 5 * time.Minute
	venueFrames, venueSecond   = 5, time.Second
)

func openVenue(w *harness.World) *venue {
	v := &venue{}
	w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		now := time.Now()
		if n := len(v.connects); n >= venueConnects && now.Sub(v.connects[n-venueConnects]) < venueWindow {
			v.faults = append(v.faults, fmt.Sprintf("connect %d at %v", n, now))
			return http.StatusTooManyRequests, nil, ""
		}
		v.connects = append(v.connects, now)
		return 0, nil, ""
	})
	w.Srv.OnOpen(func(p *wstest.Peer) {
		go func() {
			for wait := 700 * time.Millisecond; ; wait = 20 * time.Minute {
				select {
				case <-p.Gone():
					v.judge(p)
					return
				case <-time.After(wait):
					p.Ping("")
				}
			}
		}()
	})
	return v
}

// judge looks at all that a connection ever sent.
func (v *venue) judge(p *wstest.Peer) {
	log := p.FrameLog()
	for i := venueFrames; i < len(log); i++ {
		if d := log[i].At.Sub(log[i-venueFrames].At); d < venueSecond {
			v.mu.Lock()
			v.faults = append(v.faults, fmt.Sprintf("%d frames in %v, the last a %s", venueFrames+1, d, log[i].Kind))
			v.mu.Unlock()
		}
	}
}

// What a user sets for such a venue: a Limiter and MessagesPerWindow with its numbers, and a lifetime below its 24 h.
func TestADayAtAStrictVenue(t *testing.T) {
	shards, day := harness.Fewer(1000, 310), time.Duration(harness.Fewer(24, 6))*time.Hour
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: 20,
		Connection: wsshard.ConnectionConfig{
			Limiter:                    wsshard.NewConnectLimiter(venueConnects, venueWindow),
			ProactiveReconnectInterval: day - time.Hour,
		},
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 2, MessagesPerWindow: venueFrames, Window: venueSecond},
		Health: wsshard.HealthConfig{ // seldom, for the sake of the test's own time
			PingInterval: 20 * time.Minute, MessageTimeout: 20 * time.Minute, DataTimeout: -1,
		},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetLatency(30 * time.Millisecond)
		v := openVenue(w)
		w.Subscribe(harness.Numbered(20 * shards)...)
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		w.Sync()
		up := time.Since(begin)
		time.Sleep(day - up)
		m := w.M.Metrics()
		if m.ActiveConnections != shards || m.Errors != 0 || m.Gaps != 0 || m.HotSwitchovers < uint64(shards) || m.HotSwitchoverFailures != 0 {
			t.Errorf("after a day %d are connected; %d errors, %d gaps, %d switchovers, %d of them failed",
				m.ActiveConnections, m.Errors, m.Gaps, m.HotSwitchovers, m.HotSwitchoverFailures)
		}
		harness.WantAtMost(t, v.connects, venueConnects, venueWindow)
		if err := w.M.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		harness.After(time.Minute)
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, f := range v.faults[:min(10, len(v.faults))] {
			t.Error(f)
		}
		t.Logf("%d shards of 20 topics were up after %v; %d connects and %d messages sent in a day, %d faults",
			shards, up, len(v.connects), m.MessagesSent, len(v.faults))
	})
}
