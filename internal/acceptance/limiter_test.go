package acceptance

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
		limiter := &noting{}
		cfg := one(wsshard.ConnectionConfig{Limiter: limiter})
		bubble(t, cfg, nil, func(w *world) {
			w.app.url = url
			w.begin("a")
			after(0)
			if len(limiter.keys) != 1 || limiter.keys[0] != want {
				t.Errorf("%s: the limiter was asked about %q, want %q", url, limiter.keys, want)
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
			wantAtMost(t, at, n, window)
		})
	}
}

// wantAtMost checks that no window, wherever it begins, holds more than n of the instants.
func wantAtMost(t *testing.T, at []time.Time, n int, window time.Duration) {
	t.Helper()
	slices.SortFunc(at, time.Time.Compare)
	for i := n; i < len(at); i++ {
		if d := at[i].Sub(at[i-n]); d < window {
			t.Errorf("%d within %v, at most %d may be within %v", n+1, d, n, window)
			return
		}
	}
}

// Several managers share one budget, and what one is told by the server holds for all.
func TestLimiterIsShared(t *testing.T) {
	const window = 10 * time.Second
	limiter := wsshard.NewConnectLimiter(4, window)
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{Limiter: limiter}}
	bubble(t, cfg, nil, func(w *world) {
		var busy atomic.Bool
		w.srv.Reject(func(*http.Request) (int, http.Header, string) {
			if busy.CompareAndSwap(true, false) {
				return http.StatusTooManyRequests, http.Header{"Retry-After": {"60"}}, ""
			}
			return 0, nil, ""
		})
		other := w.another(cfg)
		w.subscribe(numbered(10)...)
		for _, m := range []*wsshard.ShardManager[string]{w.m, other} {
			if err := m.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			defer m.Stop(context.Background())
		}
		if _, err := other.Subscribe("x0", "x1", "x2"); err != nil {
			t.Fatal(err)
		}
		w.sync()
		if err := other.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantAtMost(t, w.net.DialTimes(), 4, window)
		if d := time.Since(w.net.DialTimes()[0]); d != 3*window {
			t.Errorf("13 dials at 4 in 10 s took %v", d)
		}

		after(window)
		busy.Store(true)
		w.m.Reconnect(0)
		after(time.Second)
		begin := time.Now()
		other.Reconnect(0)
		after(2 * time.Minute)
		at := w.net.DialTimes()
		if d := at[len(at)-1].Sub(begin); d < 58*time.Second {
			t.Errorf("the other manager dialled %v after the server had asked for 60 s", d)
		}
		if n := len(w.srv.Live()); n != 13 {
			t.Errorf("%d connections are live, want 13", n)
		}
	})
}

// another is a second manager in the same world.
func (w *world) another(cfg wsshard.Config) *wsshard.ShardManager[string] {
	w.t.Helper()
	cfg.Connection.NetDialContext = w.net.DialContext
	m, err := wsshard.New(wsshard.Handler[string](&app{}), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}
