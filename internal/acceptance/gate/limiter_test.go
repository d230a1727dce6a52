package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: when does a budget let a dial begin?

// queue is a limiter, and when those who waited at it went through.
type queue struct {
	t     *testing.T
	l     wsshard.ConnectLimiter
	begin time.Time

	mu  sync.Mutex
	log []string
}

func limiterTest(t *testing.T, n int, window time.Duration, script func(q *queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		script(&queue{t: t, l: wsshard.NewConnectLimiter(n, window), begin: time.Now()})
	})
}

// come waits for a dial to host, in a goroutine.
func (q *queue) come(ctx context.Context, name, host, egress string) {
	go func() {
		err := q.l.Wait(ctx, host, egress)
		if err != nil {
			name += " " + err.Error()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.log = append(q.log, fmt.Sprintf("%s@%v", name, time.Since(q.begin).Seconds()))
	}()
	synctest.Wait()
}

func (q *queue) want(want ...string) {
	q.t.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Equal(q.log, want) {
		q.t.Errorf("went through: %q, want %q", q.log, want)
	}
	q.log = nil
}

func TestLimiterIsASlidingLog(t *testing.T) {
	limiterTest(t, 3, 10*time.Second, func(q *queue) {
		ctx := q.t.Context()
		q.come(ctx, "a", "h", "")
		time.Sleep(4 * time.Second)
		for _, name := range []string{"b", "c", "d", "e", "f", "g"} {
			q.come(ctx, name, "h", "")
		}
		q.want("a@0", "b@4", "c@4")
		time.Sleep(time.Minute)
		q.want("d@10", "e@14", "f@14", "g@20")
	})
}

func TestLimiterKeepsHostsAndEgressesApart(t *testing.T) {
	limiterTest(t, 1, 10*time.Second, func(q *queue) {
		for i, at := range [][2]string{{"h", ""}, {"i", ""}, {"h", "e"}, {"h", ""}} {
			q.come(q.t.Context(), fmt.Sprint(i), at[0], at[1])
		}
		time.Sleep(time.Minute)
		q.want("0@0", "1@0", "2@0", "3@10")
	})
}

func TestLimiterCancelSpendsNothing(t *testing.T) {
	limiterTest(t, 1, 10*time.Second, func(q *queue) {
		gone, cancel := context.WithCancel(q.t.Context())
		q.come(q.t.Context(), "a", "h", "")
		q.come(gone, "b", "h", "") // the first in line
		q.come(gone, "c", "h", "")
		q.come(q.t.Context(), "d", "h", "")
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		q.mu.Lock()
		slices.Sort(q.log)
		q.mu.Unlock()
		q.want("a@0", "b context canceled@1", "c context canceled@1")
		q.come(gone, "e", "i", "")
		q.want("e context canceled@1")
		q.come(q.t.Context(), "f", "i", "")
		q.want("f@1")
		time.Sleep(time.Minute)
		q.want("d@10")
	})
	limiterTest(t, 1, time.Second, func(q *queue) {
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(q.t.Context())
		cancel(why)
		if err := q.l.Wait(ctx, "h", ""); err != why {
			t.Errorf("Wait: %v, want the cause", err)
		}
	})
}

func TestLimiterBlock(t *testing.T) {
	for _, n := range []int{0, 2} { // without a limit Block holds all the same
		limiterTest(t, n, 10*time.Second, func(q *queue) {
			q.l.Block("h", "", q.begin.Add(5*time.Second))
			q.l.Block("h", "", q.begin.Add(2*time.Second)) // never shortens
			q.come(q.t.Context(), "a", "h", "")
			q.come(q.t.Context(), "other", "h", "e")
			q.want("other@0")
			time.Sleep(4 * time.Second)
			q.l.Block("h", "", q.begin.Add(7*time.Second)) // also for who waits already
			time.Sleep(time.Minute)
			q.want("a@7")
		})
	}
}

// What is blocked stays so, whatever other hosts come by.
func TestLimiterBlockIsNotForgotten(t *testing.T) {
	limiterTest(t, 2, time.Second, func(q *queue) {
		q.l.Block("h", "", q.begin.Add(time.Minute))
		time.Sleep(10 * time.Second)
		q.come(q.t.Context(), "b", "other", "")
		q.come(q.t.Context(), "a", "h", "")
		time.Sleep(time.Hour)
		q.want("b@10", "a@60")
	})
}

// However a host is spelled, it is one to the limiter, and with its port.
func TestLimiterHearsOneSpelling(t *testing.T) {
	for url, want := range map[string]string{"ws://SRV/": "srv:80 ", "wss://Srv/": "srv:443 ", "ws://srv:80": "srv:80 ", "ws://[::A]/": "[::a]:80 "} {
		limiter := &harness.NotingLimiter{}
		cfg := harness.OneConnection(wsshard.ConnectionConfig{Limiter: limiter})
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.App.Addr = url
			w.Begin("a")
			harness.After(0)
			if len(limiter.Keys) != 1 || limiter.Keys[0] != want {
				t.Errorf("%s: the limiter was asked about %q, want %q", url, limiter.Keys, want)
			}
		})
	}
}

// Whoever comes and goes when, no window holds more than n.
func TestLimiterAnyWindow(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(7, seed))
			n, window := 1+rnd.IntN(5), time.Duration(1+rnd.IntN(1000))*time.Millisecond
			l := wsshard.NewConnectLimiter(n, window)
			var mu sync.Mutex
			var at []time.Time
			var all sync.WaitGroup
			for range 200 {
				come, patience := time.Duration(rnd.IntN(5000))*time.Millisecond, time.Duration(rnd.IntN(20000))*time.Millisecond
				all.Go(func() {
					time.Sleep(come)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if l.Wait(ctx, "h", "") == nil {
						mu.Lock()
						defer mu.Unlock()
						at = append(at, time.Now())
					}
				})
			}
			all.Wait()
			harness.WantAtMost(t, at, n, window)
		})
	}
}

// Several managers share one budget, and what one is told by the server holds for all.
func TestLimiterIsShared(t *testing.T) {
	const window = 10 * time.Second
	limiter := wsshard.NewConnectLimiter(4, window)
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{Limiter: limiter}}
	cfg.Health.DataTimeout = harness.Off // a silent connection and its replacement would be two
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		var busy atomic.Bool
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
			if busy.CompareAndSwap(true, false) {
				return http.StatusTooManyRequests, http.Header{"Retry-After": {"60"}}, ""
			}
			return 0, nil, ""
		})
		other := another(w, cfg)
		w.Subscribe(harness.Numbered(10)...)
		for _, m := range []*wsshard.ShardManager[string]{w.M, other} {
			if err := m.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			defer m.Stop(context.Background())
		}
		if _, err := other.Subscribe("x0", "x1", "x2"); err != nil {
			t.Fatal(err)
		}
		w.Sync()
		if err := other.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		harness.WantAtMost(t, w.Net.DialTimes(), 4, window)
		if d := time.Since(w.Net.DialTimes()[0]); d != 3*window {
			t.Errorf("13 dials at 4 in 10 s took %v", d)
		}

		harness.After(window)
		busy.Store(true)
		w.M.Reconnect(0)
		harness.After(time.Second)
		begin := time.Now()
		other.Reconnect(0)
		harness.After(2 * time.Minute)
		at := w.Net.DialTimes()
		if d := at[len(at)-1].Sub(begin); d < 58*time.Second {
			t.Errorf("the other manager dialled %v after the server had asked for 60 s", d)
		}
		if n := len(w.Srv.Live()); n != 13 {
			t.Errorf("%d connections are live, want 13", n)
		}
	})
}

// another is a second manager in the same world.
func another(w *harness.World, cfg wsshard.Config) *wsshard.ShardManager[string] {
	w.T.Helper()
	cfg.Connection.NetDialContext = w.Net.DialContext
	m, err := wsshard.New(wsshard.Handler[string](&harness.App{}), cfg)
	if err != nil {
		w.T.Fatal(err)
	}
	return m
}
