package gate

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how soon is a fleet whole again, and how often does it dial meanwhile? All on defaults, at a venue that
// takes 20 ms to refuse and 40 ms to accept. Each figure was chosen before the gate was written. All of it runs in synctest bubbles.

// A venue that is away, and refuses or is mute meanwhile.
func TestFigureAway(t *testing.T) {
	for _, c := range []struct {
		shards       int
		away, within time.Duration
		failed       int // in all, or, of a long absence, in the first minute
		later        int // in any later minute
		mute         bool
	}{
		{8, 300 * time.Millisecond, 300 * time.Millisecond, 5, 0, false},
		{200, 300 * time.Millisecond, 800 * time.Millisecond, 5, 0, false},
		{2000, 300 * time.Millisecond, 6 * time.Second, 5, 0, false},
		{8, 3 * time.Second, 2500 * time.Millisecond, 9, 0, false},
		{200, 3 * time.Second, 2500 * time.Millisecond, 9, 0, false},
		{2000, 3 * time.Second, 7 * time.Second, 9, 0, false},
		{8, 10 * time.Minute, 6600 * time.Millisecond, 21, 12, false},
		{500, 10 * time.Minute, 6600 * time.Millisecond, 21, 12, false},
		{2000, 10 * time.Minute, 10 * time.Second, 21, 12, false},
		{8, time.Minute, 12 * time.Second, 22, 22, true},
		{200, 10 * time.Minute, 12 * time.Second, 22, 22, true},
	} {
		if !*allFigures && c.shards > 500 && c.away > time.Second {
			continue
		}
		t.Run(fmt.Sprint(c.shards, " ", c.away, " mute=", c.mute), func(t *testing.T) {
			figure(t, c.shards, 4, nil, func(f *fleet) {
				f.settle()
				away := true
				f.v.Down = func() bool { return away && !c.mute }
				f.v.Judge = func(*http.Request) (int, http.Header) {
					if away {
						return wstest.Mute, nil
					}
					return 0, nil
				}
				gone := time.Now()
				f.v.Drop()
				time.Sleep(c.away)
				f.v.Do(func() { away = false })
				back := time.Now()
				f.wantWithin("all live", f.whole(c.shards, time.Minute), c.within)
				f.wantAtMost("failed in the first minute", f.busiest(gone, gone.Add(time.Minute), time.Minute, isFailed), c.failed)
				if c.later > 0 {
					f.wantAtMost("failed in a later minute", f.busiest(gone.Add(time.Minute), back, time.Minute, isFailed), c.later)
				}
			})
		})
	}
}

// budget is a venue's: so many connects in any window.
type venueBudget struct {
	n       int
	window  time.Duration
	counted bool          // those that it refused, too
	retry   bool          // it says when to come again
	penalty time.Duration // for whoever comes too early; begun anew by each attempt
	banned  time.Time
	at      []time.Time
}

func (b *venueBudget) judge(*http.Request) (int, http.Header) {
	now := time.Now()
	for len(b.at) > 0 && now.Sub(b.at[0]) >= b.window {
		b.at = b.at[1:]
	}
	if over := len(b.at) >= b.n || now.Before(b.banned); !over || b.counted {
		b.at = append(b.at, now)
		if !over {
			return 0, nil
		}
	}
	b.banned = now.Add(b.penalty)
	h := http.Header{}
	if b.retry {
		wait := b.window - now.Sub(b.at[max(0, len(b.at)-b.n)])
		h.Set("Retry-After", fmt.Sprint(int(wait/time.Second)+1))
	}
	return 429, h
}

// 300 connects in 5 minutes.
func TestFigureBudget(t *testing.T) {
	for _, c := range []struct {
		name    string
		shards  int
		budget  venueBudget
		within  time.Duration
		dials   int
		refused int // in any minute
	}{
		{"counted", 500, venueBudget{counted: true}, 390 * time.Second, 526, 20},
		{"not counted", 500, venueBudget{}, 390 * time.Second, 526, 20},
		{"2000 counted", 2000, venueBudget{counted: true}, 40 * time.Minute, 2080, 20},
		{"2000 not counted", 2000, venueBudget{}, 40 * time.Minute, 2080, 20},
		{"Retry-After", 500, venueBudget{retry: true}, 6 * time.Minute, 518, 20},
		{"penalty", 500, venueBudget{penalty: 2 * time.Minute}, 13 * time.Minute, 531, 20},
	} {
		if !*allFigures && c.shards > 500 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			figure(t, c.shards, 5, nil, func(f *fleet) {
				b := c.budget
				b.n, b.window = 300, 5*time.Minute
				var mu sync.Mutex
				f.v.Judge = func(r *http.Request) (int, http.Header) {
					mu.Lock()
					defer mu.Unlock()
					return b.judge(r)
				}
				f.start()
				f.wantWithin("all live", f.whole(c.shards, time.Hour), c.within)
				f.wantAtMost("dials", len(f.v.Dials()), c.dials)
				f.wantAtMost("refused in a minute", f.busiest(f.since, time.Now(), time.Minute, isRefused), c.refused)
			})
		})
	}
}

// Shards whose credentials are refused harm no others, and are tried seldom.
func TestFigureBadCredentials(t *testing.T) {
	bad := func(most int) func(r *http.Request) (int, http.Header) {
		return func(r *http.Request) (int, http.Header) {
			var id int
			if fmt.Sscanf(r.URL.Path, "/%d", &id); id < most {
				return 401, nil
			}
			return 0, nil
		}
	}
	figure(t, 500, 6, nil, func(f *fleet) {
		f.v.Judge = bad(250)
		f.start()
		f.whole(250, 30*time.Minute) // from cold; no figure is due for that
		time.Sleep(10 * time.Minute)
		for range 5 {
			f.v.Conns()[0].End(nil)
			f.wantWithin("a healthy one is back", f.whole(250, time.Minute), 500*time.Millisecond)
			time.Sleep(time.Minute)
		}
		f.wantAtMost("401 in a minute", f.busiest(f.since.Add(10*time.Minute), time.Now(), time.Minute, isRefused), 7)
	})
	figure(t, 1, 6, nil, func(f *fleet) {
		f.v.Judge = bad(1)
		f.start()
		time.Sleep(time.Hour)
		f.wantAtMost("401 in half an hour", f.count(time.Now().Add(-30*time.Minute), isRefused), 36)
	})
	figure(t, 100, 6, nil, func(f *fleet) { // a block of the address
		f.v.Judge = bad(1000)
		f.start()
		time.Sleep(20 * time.Minute)
		f.wantAtMost("403 in the first minute", f.busiest(f.since, f.since.Add(time.Minute), time.Minute, isRefused), 13)
		f.wantAtMost("403 in a later minute", f.busiest(f.since.Add(time.Minute), time.Now(), time.Minute, isRefused), 7)
	})
}

// All connections are closed after 0 to 3 s.
func TestFigureAcceptsAndCloses(t *testing.T) {
	for _, shards := range []int{8, 500} {
		figure(t, shards, 7, nil, func(f *fleet) {
			var mu sync.Mutex
			f.v.Life = func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(f.rnd.Float64() * 3 * float64(time.Second))
			}
			f.start()
			time.Sleep(10 * time.Minute)
			f.t.Logf("dials in the first minute: %d", f.busiest(f.since, f.since.Add(time.Minute), time.Minute, anyDial))
			f.wantAtMost("dials in a minute", f.busiest(f.since.Add(time.Minute), time.Now(), time.Minute, anyDial), 305)
		})
	}
}

// 200 shards, two hosts, one of them dead: by attempt, and by call.
func TestFigureTwoHosts(t *testing.T) {
	for _, by := range []string{"attempt", "call"} {
		t.Run(by, func(t *testing.T) {
			figure(t, 200, 8, nil, func(f *fleet) {
				calls := make([]atomic.Int64, 200)
				hosts := []string{"ws://dead/", "ws://alive/"}
				f.url = func(st wsshard.ConnectionState) string {
					n := st.ReconnectAttempt
					if by == "call" {
						n = int(calls[st.ShardID].Add(1)) - 1
					}
					return hosts[n%2]
				}
				dial := f.dial
				dead := &wstest.Venue{Reach: f.v.Reach, Down: func() bool { return true }}
				f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if addr == "dead:80" {
						return dead.DialContext(ctx, network, addr)
					}
					return dial(ctx, network, addr)
				}
				f.start()
				f.wantWithin("all live", f.whole(200, time.Minute), 1500*time.Millisecond)
				f.wantAtMost("dials to the dead one", len(dead.Dials()), 8)
			})
		})
	}
}

// The venue refuses new connections for 30 s, all that live rotate, and then it restarts.
func TestFigureTooManyThenRestart(t *testing.T) {
	figure(t, 500, 9, nil, func(f *fleet) {
		f.settle()
		busy := true
		f.v.Judge = func(*http.Request) (int, http.Header) {
			if busy {
				return 429, nil
			}
			return 0, nil
		}
		for i := range 8 {
			go f.m.HotSwitchover(context.Background(), i)
		}
		time.Sleep(30 * time.Second)
		f.v.Do(func() { busy = false })
		f.v.Drop()
		f.wantWithin("all live", f.whole(500, time.Minute), 2500*time.Millisecond)
	})
}

// Rotation, 2,000 shards: they started together, and are restarted by the venue after 5 hours.
func TestFigureRotation(t *testing.T) {
	shards := 100
	if *allFigures {
		shards = 2000
	}
	figure(t, shards, 10, func(cfg *wsshard.Config) {
		cfg.Health.PingInterval = -1
		cfg.Switchover = wsshard.SwitchoverConfig{Settle: -1, Linger: -1}
	}, func(f *fleet) {
		var mu sync.Mutex
		born := make(map[*wstest.VenueConn]time.Time)
		var longest time.Duration
		f.v.Came = func(c *wstest.VenueConn) {
			mu.Lock()
			defer mu.Unlock()
			born[c] = time.Now()
		}
		look := func() {
			mu.Lock()
			defer mu.Unlock()
			live := make(map[*wstest.VenueConn]bool)
			for _, c := range f.v.Conns() {
				live[c] = true
			}
			for c, at := range born {
				if longest = max(longest, time.Since(at)); !live[c] {
					delete(born, c)
				}
			}
		}
		f.start()
		f.whole(shards, time.Minute)
		for hour := range 96 * 6 {
			if hour == 5*6 {
				f.v.Drop()
				f.whole(shards, time.Minute)
			}
			time.Sleep(10 * time.Minute)
			look()
		}
		longest -= 10 * time.Minute // what a look may be late
		f.wantWithin("longest life", longest, 23*time.Hour+6*time.Minute)
		f.wantAtMost("dials in 5 min", f.busiest(f.since.Add(5*time.Hour+10*time.Minute), time.Now(), 5*time.Minute, anyDial), 31)
		if n := len(f.v.Dials()); n < 4*shards {
			f.t.Errorf("%d dials of %d shards in 4 days", n, shards)
		}
		if m := f.m.Metrics(); m.Gaps > uint64(shards) || m.HotSwitchoverFailures > 0 {
			f.t.Errorf("%d gaps, %d switchovers failed", m.Gaps, m.HotSwitchoverFailures)
		}
	})
}

// A thousand shards, 300 connects in 310 s: who is lost is soon back, whatever rotates, at any interval.
func TestFigureLostBesideRotation(t *testing.T) {
	for _, interval := range []time.Duration{0, 15 * time.Minute} {
		shards := 400
		if *allFigures {
			shards = 1000 // at 15 minutes, half of the budget does not suffice
		}
		figure(t, shards, 11, func(cfg *wsshard.Config) {
			cfg.Connection.Limiter = wsshard.NewConnectLimiter(300, 310*time.Second)
			cfg.Connection.ProactiveReconnectInterval = interval
			cfg.Health.PingInterval = -1
			cfg.Switchover = wsshard.SwitchoverConfig{Settle: -1, Linger: -1}
		}, func(f *fleet) {
			f.start()
			f.whole(shards, time.Hour)
			time.Sleep(40 * time.Minute)
			var sum, worst time.Duration
			const tries = 30
			for i := range tries {
				time.Sleep(time.Duration(47+i) * time.Second)
				before := f.m.Metrics().Shards[i].Generation
				begin := time.Now()
				f.m.Reconnect(i)
				for {
					time.Sleep(20 * time.Millisecond)
					if s := f.m.Metrics().Shards[i]; s.Generation > before && s.IsConnected {
						break
					}
				}
				sum, worst = sum+time.Since(begin), max(worst, time.Since(begin))
			}
			f.t.Logf("interval %v: worst %v", interval, worst)
			f.wantWithin("back, on average", sum/tries, time.Second)
		})
	}
}
