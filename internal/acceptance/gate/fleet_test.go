package gate

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how is a fleet of shards driven against a venue, and counted?

var allFigures = flag.Bool("figures", false, "those of 2,000 shards, too, which take minutes")

// fleet is a handler of one topic a shard, and the manager that it is for.
type fleet struct {
	t     *testing.T
	v     *wstest.Venue
	m     *wsshard.ShardManager[int]
	n     int
	rnd   *rand.Rand // of the venue's; under mu
	mu    sync.Mutex
	url   func(st wsshard.ConnectionState) string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	since time.Time

	events []wsshard.Event[int] // of doors; under mu
}

func (f *fleet) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	if f.url != nil {
		return f.url(st), nil
	}
	return fmt.Sprintf("ws://venue/%d", st.ShardID), nil
}

func (f *fleet) SubscriptionMessage(wsshard.Request[int]) (wsshard.Message, error) {
	return wsshard.Text("sub"), nil
}
func (f *fleet) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[int] {
	return wsshard.Verdict[int]{Switchover: string(msg.Data) == "maintenance"}
}
func (f *fleet) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

func (f *fleet) OnEvent(ev wsshard.Event[int]) {
	if ev.Door != nil || ev.Kind == wsshard.EventSwitchoverFailed || ev.Kind == wsshard.EventGap {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.events = append(f.events, ev)
	}
}

func (f *fleet) take(kind wsshard.EventKind) (evs []wsshard.Event[int]) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range f.events {
		if ev.Kind == kind {
			evs = append(evs, ev)
		}
	}
	f.events = nil
	return evs
}

// figure runs a script with n shards, which are started by it. With -short, where the race detector makes each step slow, large
// fleets are left out: many shards find no race that some do not.
func figure(t *testing.T, n int, seed uint64, with func(cfg *wsshard.Config), script func(f *fleet)) {
	t.Helper()
	if testing.Short() && n > 100 {
		t.Logf("%d shards are left out with -short", n)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		hook.SetSeed(seed + 1)
		defer hook.SetSeed(0)
		f := &fleet{t: t, n: n, rnd: rand.New(rand.NewPCG(seed, 99))}
		f.v = &wstest.Venue{Reach: 20 * time.Millisecond, Answer: 20 * time.Millisecond}
		cfg := wsshard.Config{MaxSubscriptionsPerShard: 1}
		f.dial = f.v.DialContext
		cfg.Connection.NetDialContext = func(ctx context.Context, network, addr string) (net.Conn, error) { return f.dial(ctx, network, addr) }
		cfg.Health = wsshard.HealthConfig{DataTimeout: -1, PingInterval: time.Hour} // for the sake of the test's own time
		if with != nil {
			with(&cfg)
		}
		m, err := wsshard.New(f, cfg)
		if err != nil {
			t.Fatal(err)
		}
		f.m = m
		subs := make([]int, n)
		for i := range subs {
			subs[i] = i
		}
		if _, err := m.Subscribe(subs...); err != nil {
			t.Fatal(err)
		}
		f.since = time.Now()
		defer func() {
			if err := m.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		script(f)
	})
}

func (f *fleet) start() {
	if err := f.m.Start(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// settle starts and waits until all are live and old.
func (f *fleet) settle() {
	f.t.Helper()
	f.start()
	f.whole(f.n, time.Minute)
	time.Sleep(10 * time.Minute)
}

// whole waits until n are live, and says how long that took. It fails after most.
func (f *fleet) whole(n int, most time.Duration) time.Duration {
	f.t.Helper()
	begin := time.Now()
	for f.v.Live() < n {
		if time.Since(begin) > most {
			f.t.Fatalf("%d of %d live after %v", f.v.Live(), n, most)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

// switched waits until there were n switchovers in all, and says how long that took. It fails after most.
func (f *fleet) switched(n uint64, most time.Duration) time.Duration {
	f.t.Helper()
	begin := time.Now()
	for f.m.Metrics().HotSwitchovers < n {
		if time.Since(begin) > most {
			f.t.Fatalf("%d of %d after %v", f.m.Metrics().HotSwitchovers, n, most)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(begin)
}

// count is how many dials since an instant fit.
func (f *fleet) count(since time.Time, fits func(d wstest.VenueDial) bool) (n int) {
	for _, d := range f.v.Dials() {
		if !d.At.Before(since) && fits(d) {
			n++
		}
	}
	return n
}

func isFailed(d wstest.VenueDial) bool  { return d.Status != 101 }
func isRefused(d wstest.VenueDial) bool { return d.Status >= 400 }
func anyDial(wstest.VenueDial) bool     { return true }

// busiest is the most dials of a kind in any window between two instants.
func (f *fleet) busiest(from, to time.Time, window time.Duration, fits func(d wstest.VenueDial) bool) (most int) {
	var at []time.Time
	for _, d := range f.v.Dials() {
		if fits(d) && !d.At.Before(from) && d.At.Before(to) {
			at = append(at, d.At)
		}
	}
	first := 0
	for i := range at {
		for at[i].Sub(at[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func (f *fleet) wantAtMost(what string, got, most int) {
	f.t.Helper()
	f.t.Logf("%s: %d (at most %d)", what, got, most)
	if got > most {
		f.t.Errorf("%s: %d, at most %d are due", what, got, most)
	}
}

func (f *fleet) wantWithin(what string, got, most time.Duration) {
	f.t.Helper()
	f.t.Logf("%s: %v (at most %v)", what, got, most)
	if got > most {
		f.t.Errorf("%s: %v, %v is due", what, got, most)
	}
}
