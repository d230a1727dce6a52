package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does a manager's gate look like from the network?

// named is an app whose URL says which shard dials.
type named struct{ *harness.App }

func (n named) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	return fmt.Sprintf("ws://srv/%d", st.ShardID), nil
}

func byShard(a *harness.App) wsshard.Handler[string] { return named{a} }

// whoDialled is which shards the server's connections belong to, from the i-th on.
func whoDialled(w *harness.World, i int) (shards []string) {
	for ; i < w.Srv.Conns(); i++ {
		shards = append(shards, w.Srv.Conn(i).Request().URL.Path[1:])
	}
	return shards
}

func TestMaxConcurrentDials(t *testing.T) {
	harness.Bubble(t, harness.OneConnection(wsshard.ConnectionConfig{MaxConcurrentDials: 3}), nil, func(w *harness.World) {
		var mu sync.Mutex
		now, most := 0, 0
		w.Net.OnDial(func(context.Context, int, string) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		})
		begin := time.Now()
		w.Start(harness.Numbered(10)...)
		if d := time.Since(begin); most != 3 || d != 5*time.Second { // one, two, three, three, one
			t.Errorf("10 dials of 1 s: %d at once, done after %v; want 3, 5s", most, d)
		}
	})
}

// A shard that is down goes before a switchover that waits for the budget already.
func TestDownGoesFirst(t *testing.T) {
	const window = 10 * time.Second
	cfg := harness.OneConnection(wsshard.ConnectionConfig{Limiter: wsshard.NewConnectLimiter(2, window)})
	harness.Bubble(t, cfg, byShard, func(w *harness.World) {
		w.Start("a", "b")
		harness.After(window)
		w.M.Reconnect(0)
		w.M.Reconnect(1)
		harness.After(time.Second)
		n := w.Srv.Conns()
		var all sync.WaitGroup
		all.Go(func() { // asked for first
			if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
				t.Error(err)
			}
		})
		harness.After(time.Second)
		w.Srv.Conn(n - 1).Kill()
		w.Srv.Conn(n - 2).Kill()
		all.Wait()
		w.Sync()
		if got := whoDialled(w, n); len(got) != 2 {
			t.Errorf("dialled %q: the switchover of a connection that was lost is the reconnect", got)
		}

		harness.After(window)
		n = w.Srv.Conns()
		w.M.Reconnect(0)
		harness.After(time.Second)
		w.M.Reconnect(0)
		harness.After(time.Second) // the budget is spent
		all.Go(func() { w.M.HotSwitchover(context.Background(), 0) })
		harness.After(time.Second)
		w.M.Reconnect(1)
		all.Wait()
		w.Sync()
		if got, want := whoDialled(w, n), []string{"0", "0", "1", "0"}; !slices.Equal(got, want) {
			t.Errorf("dialled %q, want %q", got, want)
		}
	})
}

// A switchover that waits for a turn behind another, and loses its connection, waits no more.
func TestLostNeedsNoTurn(t *testing.T) {
	cfg := harness.OneConnection(wsshard.ConnectionConfig{})
	cfg.Switchover.MaxConcurrent = 1
	harness.Bubble(t, cfg, byShard, func(w *harness.World) {
		w.Start("a", "b")
		w.Net.OnDial(func(ctx context.Context, k int, _ string) error {
			if k == 3 { // the switchover that has the turn
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		go w.M.HotSwitchover(context.Background(), 0)
		synctest.Wait()
		go w.M.HotSwitchover(context.Background(), 1)
		synctest.Wait()
		if n := w.Net.Dials(); n != 3 {
			t.Fatalf("%d dials, want 3", n)
		}
		before := time.Now()
		for _, p := range w.Srv.Live() {
			if p.Request().URL.Path == "/1" {
				p.Kill()
			}
		}
		w.Sync("b")
		if d := time.Since(before); d != 0 {
			t.Errorf("shard 1 was down for %v", d)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	const step = 1100 * time.Millisecond // the first of the ladder, and a tenth
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, c := range []struct {
		name   string
		status int
		value  func() string
		least  time.Duration // to the next dial
		most   time.Duration
	}{
		{"429", 429, func() string { return "30" }, 30 * time.Second, 33 * time.Second},
		{"418", 418, func() string { return "30" }, 30 * time.Second, 33 * time.Second},
		{"503", 503, func() string { return "30" }, 30 * time.Second, 33 * time.Second},
		{"date", 503, func() string { return date(30 * time.Second) }, 30 * time.Second, 33 * time.Second},
		{"day", 429, func() string { return "86400" }, time.Hour, time.Hour},
		{"days of a ban", 418, func() string { return "86400000" }, 72 * time.Hour, 72 * time.Hour},
		{"fraction", 429, func() string { return "2.5" }, 2500 * time.Millisecond, 2750 * time.Millisecond},
		{"date far away", 429, func() string { return date(1000 * time.Hour) }, time.Hour, time.Hour},
		{"past", 429, func() string { return date(-time.Hour) }, time.Second, step},
		{"overflow", 429, func() string { return "99999999999999999999999999" }, time.Hour, time.Hour},
		{"negative", 429, func() string { return "-30" }, time.Second, step},
		{"junk", 429, func() string { return "soon" }, time.Second, step},
		{"of another status", 403, func() string { return "30" }, time.Second, step},
		{"none", 429, func() string { return "" }, time.Second, step},
		{"none, a ban", 418, func() string { return "" }, 2 * time.Minute, 132 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.Bubble(t, harness.OneConnection(wsshard.ConnectionConfig{}), nil, func(w *harness.World) {
				first := true
				w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
					if first {
						first = false
						return c.status, http.Header{"Retry-After": {c.value()}}, ""
					}
					return 0, nil, ""
				})
				w.Start("a")
				at := w.Net.DialTimes()
				if d := at[1].Sub(at[0]); len(at) != 2 || d < c.least || d > c.most {
					t.Errorf("%d dials, the second after %v, want %v to %v", len(at), d, c.least, c.most)
				}
			})
		})
	}
}

// What a server tells a switchover holds back no shard that is down.
func TestRetryAfterOfASwitchover(t *testing.T) {
	harness.Bubble(t, harness.OneConnection(wsshard.ConnectionConfig{}), byShard, func(w *harness.World) {
		w.Start("a", "b")
		busy := true
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
			if busy {
				busy = false
				return 429, http.Header{"Retry-After": {"600"}}, ""
			}
			return 0, nil, ""
		})
		var he *wsshard.HandshakeError
		err := w.M.HotSwitchover(context.Background(), 0)
		if !errors.As(err, &he) || he.RetryAfter != 10*time.Minute {
			t.Errorf("HotSwitchover: %v", err)
		}
		begin := time.Now()
		w.M.Reconnect(1)
		harness.After(0)
		w.Sync()
		if d := time.Since(begin); d != 0 {
			t.Errorf("the other shard was held back for %v", d)
		}
		if err := w.M.HotSwitchover(context.Background(), 1); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d < 10*time.Minute {
			t.Errorf("a switchover went through after %v", d)
		}
	})
}

// Stop ends every wait at the gate at once.
func TestStopAtTheGate(t *testing.T) {
	hang := func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() }
	refuse := func(context.Context, int, string) error { return net.ErrClosed }
	for _, c := range []struct {
		name   string
		cfg    wsshard.ConnectionConfig
		onDial func(context.Context, int, string) error
		status int
	}{
		{"dials in flight", wsshard.ConnectionConfig{MaxConcurrentDials: 1}, hang, 0},
		{"budget", wsshard.ConnectionConfig{Limiter: wsshard.NewConnectLimiter(1, time.Hour)}, nil, 0},
		{"budget of others", wsshard.ConnectionConfig{Limiter: deaf{}}, nil, 0},
		{"breaker", wsshard.ConnectionConfig{CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: time.Hour}, refuse, 0},
		{"Retry-After", wsshard.ConnectionConfig{}, nil, 429},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.Bubble(t, harness.OneConnection(c.cfg), nil, func(w *harness.World) {
				w.Net.OnDial(c.onDial)
				w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
					return c.status, http.Header{"Retry-After": {"600"}}, ""
				})
				w.Subscribe(harness.Numbered(10)...)
				if err := w.M.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				harness.After(5 * time.Second)
				begin := time.Now()
				if err := w.M.Stop(context.Background()); err != nil || time.Since(begin) > time.Second {
					t.Errorf("Stop: %v after %v", err, time.Since(begin))
				}
			})
		})
	}
}

// stamped puts into the URL when it was asked for it.
type stamped struct {
	*harness.App
	hosts []string // taken in turn
	asked atomic.Int64
}

func (s *stamped) URL(context.Context, wsshard.ConnectionState) (string, error) {
	n := int(s.asked.Add(1)) - 1
	return fmt.Sprintf("ws://%s/%d", s.hosts[n%len(s.hosts)], time.Now().Unix()), nil
}

// Whoever waited at the gate dials by a URL of now: a token in one does not wait. A URL for another host is one for another
// door: whoever waits goes there at once.
func TestGateLetsNoURLGrowOld(t *testing.T) {
	for _, c := range []struct {
		hosts []string
	}{
		{[]string{"srv"}},
		{[]string{"srv", "srv", "srv", "elsewhere"}},
	} {
		s := &stamped{hosts: c.hosts}
		cfg := harness.OneConnection(wsshard.ConnectionConfig{Limiter: wsshard.NewConnectLimiter(1, time.Minute)})
		harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { s.App = a; return s }, func(w *harness.World) {
			w.Start("a", "b", "c")
			for i := range 3 {
				r := w.Srv.Conn(i).Request()
				var at int64
				fmt.Sscanf(r.URL.Path, "/%d", &at)
				if age := w.Net.DialTimes()[i].Sub(time.Unix(at, 0)); age > 2*time.Second {
					t.Errorf("%v: connection %d was dialled by a URL of %v ago", c.hosts, i, age)
				}
			}
			if n := s.asked.Load(); n < 60 {
				t.Errorf("URL was called %d times in the minutes in which two waited", n)
			}
		})
	}
}

// deaf is an application's limiter that lets nobody through.
type deaf struct{}

func (deaf) Wait(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }
func (deaf) Block(string, string, time.Time)             {}

// rude is an application's limiter that behaves badly the first times.
type rude struct {
	mu   sync.Mutex
	do   []func()
	left int
}

func (r *rude) Wait(context.Context, string, string) error {
	r.mu.Lock()
	r.left--
	i := r.left
	r.mu.Unlock()
	if i >= 0 {
		r.do[i%len(r.do)]()
	}
	return nil
}

func (r *rude) Block(string, string, time.Time) { panic("Block") }

// What the application plugs in below may panic or call t.Fatal: it fails the attempt, and no more.
func TestGateSurvivesTheApplication(t *testing.T) {
	rudeness := []func(){func() { panic("value") }, func() { panic(errors.New("error")) }, runtime.Goexit}
	limiter := &rude{do: rudeness, left: 6}
	cfg := harness.OneConnection(wsshard.ConnectionConfig{Limiter: limiter, MaxConcurrentDials: 1})
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		busy := 1
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
			if busy--; busy >= 0 {
				return 429, http.Header{"Retry-After": {"1"}}, "" // Block panics
			}
			return 0, nil, ""
		})
		w.Start("a")
		if n := w.M.Metrics().HandlerPanics; n != 7 {
			t.Errorf("%d panics are counted, want 7", n)
		}
	})
	cfg = harness.OneConnection(wsshard.ConnectionConfig{MaxConcurrentDials: 1})
	var dial func(context.Context, string, string) (net.Conn, error)
	n := 0
	cfg.Connection.NetDialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if n++; n <= 3 {
			rudeness[n-1]()
		}
		return dial(ctx, network, addr)
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		dial = w.Net.DialContext
		w.Start("a")
		if n := w.M.Metrics().HandlerPanics; n != 3 {
			t.Errorf("%d panics are counted, want 3", n)
		}
	})
}
