package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: when is OnError asked, and what does its answer do?

// diary is an app that notes in which order it was told of connections.
type diary struct {
	*harness.App
	verdict func(err error) bool
	onGone  func()

	mu    sync.Mutex
	lines []string
	errs  []error
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) OnConnect(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	d.note("connect %d", st.Generation)
	return nil, nil
}

func (d *diary) OnDisconnect(_ context.Context, cause error, st wsshard.ConnectionState) {
	d.note("disconnect %d", st.Generation)
	if d.onGone != nil {
		d.onGone()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = append(d.errs, cause)
}

func (d *diary) OnError(_ context.Context, err error, st wsshard.ConnectionState) bool {
	d.note("error %d", st.ReconnectAttempt)
	d.mu.Lock()
	d.errs = append(d.errs, err)
	d.mu.Unlock()
	return d.verdict == nil || d.verdict(err)
}

func (d *diary) take() (lines []string, errs []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines, errs = d.lines, d.errs
	d.lines, d.errs = nil, nil
	return lines, errs
}

func withDiary(d *diary) func(*harness.App) wsshard.Handler[string] {
	return func(a *harness.App) wsshard.Handler[string] {
		d.App = a
		return d
	}
}

func (d *diary) want(t *testing.T, want ...string) []error {
	t.Helper()
	harness.After(0)
	lines, errs := d.take()
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("told %q, want %q", lines, want)
	}
	return errs
}

func TestOnErrorOrder(t *testing.T) {
	d := &diary{}
	harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
		w.Srv.Down()
		w.Begin("a")
		harness.After(150 * time.Millisecond) // two dials were refused
		for i, err := range d.want(t, "error 1", "error 2") {
			var de *wsshard.DialError
			if !errors.As(err, &de) || de.Attempt != i+1 || de.ShardID != 0 || de.URL != "ws://srv/…" || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("attempt %d: %#v", i+1, err)
			}
		}
		w.Srv.Restart()
		w.Sync()
		harness.After(time.Minute)
		d.want(t, "connect 1")

		w.Srv.Conn(0).Reset()
		harness.After(time.Second)
		errs := d.want(t, "disconnect 1", "error 0", "connect 2")
		if len(errs) != 2 || errs[0] != errs[1] || !errors.Is(errs[0], syscall.ECONNRESET) {
			t.Errorf("one loss, two stories: %v", errs)
		}

		w.M.Reconnect(0) // what was asked for is no error
		harness.After(time.Second)
		d.want(t, "disconnect 2", "connect 3")
		w.M.HotSwitchover(context.Background(), 0)
		d.want(t, "connect 4", "disconnect 3")
		w.M.Stop(context.Background())
		if errs := d.want(t, "disconnect 4"); !errors.Is(errs[0], wsshard.ErrStopped) {
			t.Errorf("cause %v", errs)
		}
	})
}

// OnError's false parks the shard, whatever MaxConnectAttempts says, until Reconnect.
func TestOnErrorParks(t *testing.T) {
	d := &diary{}
	fatal := syscall.ECONNREFUSED
	d.verdict = func(err error) bool { return !errors.Is(err, fatal) }
	harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
		w.Start("a")
		harness.After(time.Hour)
		begin := time.Now()
		w.Dialled(begin)
		w.Srv.Down() // lost: tried again; refused: given up
		harness.After(time.Hour)
		w.WantDials(begin, 100*time.Millisecond)
		w.WantState(0, wsshard.ShardParked)
		if evs := w.App.TakeEvents(wsshard.EventParked); len(evs) != 1 || !errors.Is(evs[0].Err, fatal) || len(evs[0].Subs) != 1 {
			t.Errorf("%+v", evs)
		}
		w.Srv.Restart()
		w.M.Reconnect(0)
		w.Sync()
		d.want(t, "connect 1", "disconnect 1", "error 0", "error 1", "connect 2")
	})
}

func TestOnErrorThatPanicsIsNoVerdict(t *testing.T) {
	d := &diary{verdict: func(error) bool { panic("oops") }}
	harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
		w.Srv.Down()
		begin := w.Begin("a")
		harness.After(400 * time.Millisecond)
		w.WantDials(begin, 0, 100*time.Millisecond, 300*time.Millisecond)
		if n := w.M.Metrics().HandlerPanics; n != 3 {
			t.Errorf("%d panics counted", n)
		}
	})
}

// Reconnect leaves one connection, made at once, and asks nobody.
func TestReconnectInEachState(t *testing.T) {
	t.Run("connected", func(t *testing.T) {
		d := &diary{}
		harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
			w.Start("a")
			harness.After(time.Second) // not stable: no backoff all the same
			begin := time.Now()
			w.Dialled(begin)
			w.M.Reconnect(0)
			harness.After(0)
			w.WantDials(begin, 0)
			errs := d.want(t, "connect 1", "disconnect 1", "connect 2")
			if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrReconnect) {
				t.Errorf("cause %v", errs)
			}
			if code := w.Srv.Conn(0).CloseCode(); code != 1000 {
				t.Errorf("closed with %d", code)
			}
			w.WantTopics("a")
		})
	})
	t.Run("backoff", func(t *testing.T) {
		cfg := harness.DialsOnly()
		cfg.Backoff.InitialDelay = 20 * time.Second
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.Srv.Down()
			begin := w.Begin("a")
			harness.After(time.Second)
			w.WantState(0, wsshard.ShardBackoff)
			w.M.Reconnect(0)
			harness.After(0)
			w.WantDials(begin, 0, time.Second)
			w.WantState(0, wsshard.ShardBackoff)
			w.Srv.Restart()
			w.M.Reconnect(0)
			w.Sync()
			w.WantDials(begin, time.Second)
			harness.After(time.Hour)
			w.WantDials(begin)
			w.WantTopics("a")
		})
	})
	t.Run("connecting", func(t *testing.T) {
		d := &diary{}
		harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return nil })
			begin := w.Begin("a")
			harness.After(time.Second)
			w.M.Reconnect(0)
			w.Sync()
			harness.After(time.Hour)
			w.WantDials(begin, 0) // it goes on, and its connection is the new one
			d.want(t, "connect 1")
			if n := len(w.Srv.Live()); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	})
	t.Run("connecting in vain", func(t *testing.T) {
		harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return syscall.ECONNREFUSED })
			begin := w.Begin("a")
			harness.After(time.Second)
			w.M.Reconnect(0)
			harness.After(9 * time.Second)
			w.WantDials(begin, 0, 3*time.Second, 6200*time.Millisecond, 9600*time.Millisecond) // once without a wait
		})
	})
	t.Run("switching", func(t *testing.T) {
		d := &diary{}
		harness.Bubble(t, harness.DialsOnly(), withDiary(d), func(w *harness.World) {
			w.Start("a")
			w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return nil })
			moved := make(chan error, 1)
			go func() { moved <- w.M.HotSwitchover(context.Background(), 0) }()
			harness.After(time.Second)
			w.M.Reconnect(0)
			if err := <-moved; err != nil && !errors.Is(err, wsshard.ErrReconnect) && !errors.Is(err, wsshard.ErrNotConnected) {
				t.Errorf("HotSwitchover: %v", err)
			}
			harness.After(time.Minute)
			w.WantTopics("a")
			if n := len(w.Srv.Live()); n != 1 || w.M.Metrics().ActiveConnections != 1 {
				t.Errorf("%d connections", n)
			}
			for _, line := range d.lines {
				if line[:2] == "er" {
					t.Errorf("told of an %s", line)
				}
			}
		})
	})
	t.Run("unknown, stopped", func(t *testing.T) {
		harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
			if err := w.M.Reconnect(0); !errors.Is(err, wsshard.ErrUnknownShard) {
				t.Error(err)
			}
			w.Start("a")
			for _, id := range []int{-1, 1, math.MaxInt} {
				if err := w.M.Reconnect(id); !errors.Is(err, wsshard.ErrUnknownShard) {
					t.Error(id, err)
				}
			}
			w.M.Stop(context.Background())
			if err := w.M.Reconnect(0); !errors.Is(err, wsshard.ErrStopped) {
				t.Error(err)
			}
		})
	})
}

// Without switchovers the lifetime ends a connection, which is neither an error nor a reason to wait.
func TestLifetimeWithoutSwitchover(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.DisableHotSwitchover = true
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	d := &diary{}
	harness.Bubble(t, cfg, withDiary(d), func(w *harness.World) {
		begin := w.Begin("a")
		harness.After(83 * time.Minute) // the third comes after 84 at the earliest
		at := w.Dialled(begin)
		if len(at) != 2 || at[1] < 30*time.Minute || at[1] > time.Hour {
			w.T.Fatalf("dialled at %v, want the second 30 to 60 minutes after the first", at)
		}
		errs := d.want(t, "connect 1", "disconnect 1", "connect 2")
		if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrMaxLifetime) {
			t.Errorf("cause %v", errs)
		}
		if code := w.Srv.Conn(0).CloseCode(); code != 1000 {
			t.Errorf("closed with %d", code)
		}
		w.WantTopics("a")
	})
}

// A handler may ask for a reconnect in whatever it is told of the loss: the next dial is then at once, and its connection
// stays.
func TestReconnectInsideCallbacks(t *testing.T) {
	for name, hook := range map[string]func(d *diary, w *harness.World){
		"OnDisconnect": func(d *diary, w *harness.World) { d.onGone = func() { w.M.Reconnect(0) } },
		"OnError":      func(d *diary, w *harness.World) { d.verdict = func(error) bool { return w.M.Reconnect(0) == nil } },
		"OnError, parking": func(d *diary, w *harness.World) {
			d.verdict = func(error) bool { w.M.Reconnect(0); return false }
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Backoff.InitialDelay = 20 * time.Second
			d := &diary{}
			harness.Bubble(t, cfg, withDiary(d), func(w *harness.World) {
				hook(d, w)
				w.Start("a")
				begin := time.Now()
				w.Dialled(begin)
				var want []time.Duration
				for i := range 20 {
					w.Srv.Conn(i).Reset()
					want = append(want, time.Since(begin))
					harness.After(200 * time.Millisecond) // no sooner does the gate let anybody dial a server that accepts and closes
				}
				w.WantDials(begin, want...)
				w.WantTopics("a")
				harness.After(time.Hour)
				w.WantDials(begin)
			})
		})
	}
}
