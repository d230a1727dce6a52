package acceptance

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
)

// diary is an app that notes in which order it was told of connections.
type diary struct {
	*app
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

func withDiary(d *diary) func(*app) wsshard.Handler[string] {
	return func(a *app) wsshard.Handler[string] {
		d.app = a
		return d
	}
}

func (d *diary) want(t *testing.T, want ...string) []error {
	t.Helper()
	after(0)
	lines, errs := d.take()
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("told %q, want %q", lines, want)
	}
	return errs
}

func TestOnErrorOrder(t *testing.T) {
	d := &diary{}
	bubble(t, dialsOnly(), withDiary(d), func(w *world) {
		w.srv.Down()
		w.begin("a")
		after(150 * ms) // two dials were refused
		for i, err := range d.want(t, "error 1", "error 2") {
			var de *wsshard.DialError
			if !errors.As(err, &de) || de.Attempt != i+1 || de.ShardID != 0 || de.URL != "ws://srv/…" || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("attempt %d: %#v", i+1, err)
			}
		}
		w.srv.Restart()
		w.sync()
		after(time.Minute)
		d.want(t, "connect 1")

		w.srv.Conn(0).Reset()
		after(time.Second)
		errs := d.want(t, "disconnect 1", "error 0", "connect 2")
		if len(errs) != 2 || errs[0] != errs[1] || !errors.Is(errs[0], syscall.ECONNRESET) {
			t.Errorf("one loss, two stories: %v", errs)
		}

		w.m.Reconnect(0) // what was asked for is no error
		after(time.Second)
		d.want(t, "disconnect 2", "connect 3")
		w.m.HotSwitchover(context.Background(), 0)
		d.want(t, "connect 4", "disconnect 3")
		w.m.Stop(context.Background())
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
	bubble(t, dialsOnly(), withDiary(d), func(w *world) {
		w.start("a")
		after(time.Hour)
		begin := time.Now()
		w.dialled(begin)
		w.srv.Down() // lost: tried again; refused: given up
		after(time.Hour)
		w.wantDials(begin, 100*ms)
		w.wantState(0, wsshard.ShardParked)
		if evs := w.app.takeEvents(wsshard.EventParked); len(evs) != 1 || !errors.Is(evs[0].Err, fatal) || len(evs[0].Subs) != 1 {
			t.Errorf("%+v", evs)
		}
		w.srv.Restart()
		w.m.Reconnect(0)
		w.sync()
		d.want(t, "connect 1", "disconnect 1", "error 0", "error 1", "connect 2")
	})
}

func TestOnErrorThatPanicsIsNoVerdict(t *testing.T) {
	d := &diary{verdict: func(error) bool { panic("oops") }}
	bubble(t, dialsOnly(), withDiary(d), func(w *world) {
		w.srv.Down()
		begin := w.begin("a")
		after(400 * ms)
		w.wantDials(begin, 0, 100*ms, 300*ms)
		if n := w.m.Metrics().HandlerPanics; n != 3 {
			t.Errorf("%d panics counted", n)
		}
	})
}

// Reconnect leaves one connection, made at once, and asks nobody.
func TestReconnectInEachState(t *testing.T) {
	t.Run("connected", func(t *testing.T) {
		d := &diary{}
		bubble(t, dialsOnly(), withDiary(d), func(w *world) {
			w.start("a")
			after(time.Second) // not stable: no backoff all the same
			begin := time.Now()
			w.dialled(begin)
			w.m.Reconnect(0)
			after(0)
			w.wantDials(begin, 0)
			errs := d.want(t, "connect 1", "disconnect 1", "connect 2")
			if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrReconnect) {
				t.Errorf("cause %v", errs)
			}
			if code := w.srv.Conn(0).CloseCode(); code != 1000 {
				t.Errorf("closed with %d", code)
			}
			w.wantTopics("a")
		})
	})
	t.Run("backoff", func(t *testing.T) {
		cfg := dialsOnly()
		cfg.Backoff.InitialDelay = 20 * time.Second
		bubble(t, cfg, nil, func(w *world) {
			w.srv.Down()
			begin := w.begin("a")
			after(time.Second)
			w.wantState(0, wsshard.ShardBackoff)
			w.m.Reconnect(0)
			after(0)
			w.wantDials(begin, 0, time.Second)
			w.wantState(0, wsshard.ShardBackoff)
			w.srv.Restart()
			w.m.Reconnect(0)
			w.sync()
			w.wantDials(begin, time.Second)
			after(time.Hour)
			w.wantDials(begin)
			w.wantTopics("a")
		})
	})
	t.Run("connecting", func(t *testing.T) {
		d := &diary{}
		bubble(t, dialsOnly(), withDiary(d), func(w *world) {
			w.net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return nil })
			begin := w.begin("a")
			after(time.Second)
			w.m.Reconnect(0)
			w.sync()
			after(time.Hour)
			w.wantDials(begin, 0) // it goes on, and its connection is the new one
			d.want(t, "connect 1")
			if n := len(w.srv.Live()); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	})
	t.Run("connecting in vain", func(t *testing.T) {
		bubble(t, dialsOnly(), nil, func(w *world) {
			w.net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return syscall.ECONNREFUSED })
			begin := w.begin("a")
			after(time.Second)
			w.m.Reconnect(0)
			after(9 * time.Second)
			w.wantDials(begin, 0, 3*time.Second, 6200*ms, 9600*ms) // once without a wait
		})
	})
	t.Run("switching", func(t *testing.T) {
		d := &diary{}
		bubble(t, dialsOnly(), withDiary(d), func(w *world) {
			w.start("a")
			w.net.OnDial(func(context.Context, int, string) error { time.Sleep(3 * time.Second); return nil })
			moved := make(chan error, 1)
			go func() { moved <- w.m.HotSwitchover(context.Background(), 0) }()
			after(time.Second)
			w.m.Reconnect(0)
			if err := <-moved; err != nil && !errors.Is(err, wsshard.ErrReconnect) && !errors.Is(err, wsshard.ErrNotConnected) {
				t.Errorf("HotSwitchover: %v", err)
			}
			after(time.Minute)
			w.wantTopics("a")
			if n := len(w.srv.Live()); n != 1 || w.m.Metrics().ActiveConnections != 1 {
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
		bubble(t, dialsOnly(), nil, func(w *world) {
			if err := w.m.Reconnect(0); !errors.Is(err, wsshard.ErrUnknownShard) {
				t.Error(err)
			}
			w.start("a")
			for _, id := range []int{-1, 1, math.MaxInt} {
				if err := w.m.Reconnect(id); !errors.Is(err, wsshard.ErrUnknownShard) {
					t.Error(id, err)
				}
			}
			w.m.Stop(context.Background())
			if err := w.m.Reconnect(0); !errors.Is(err, wsshard.ErrStopped) {
				t.Error(err)
			}
		})
	})
}

// Without switchovers the lifetime ends a connection, which is neither an error nor a reason to wait.
func TestLifetimeWithoutSwitchover(t *testing.T) {
	cfg := dialsOnly()
	cfg.DisableHotSwitchover = true
	cfg.Connection.ProactiveReconnectInterval = time.Hour
	d := &diary{}
	bubble(t, cfg, withDiary(d), func(w *world) {
		begin := w.begin("a")
		after(83 * time.Minute) // the third comes after 84 at the earliest
		at := w.dialled(begin)
		if len(at) != 2 || at[1] < 30*time.Minute || at[1] > time.Hour {
			w.t.Fatalf("dialled at %v, want the second 30 to 60 minutes after the first", at)
		}
		errs := d.want(t, "connect 1", "disconnect 1", "connect 2")
		if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrMaxLifetime) {
			t.Errorf("cause %v", errs)
		}
		if code := w.srv.Conn(0).CloseCode(); code != 1000 {
			t.Errorf("closed with %d", code)
		}
		w.wantTopics("a")
	})
}

// A handler may ask for a reconnect in whatever it is told of the loss: the next dial is then at once, and its connection
// stays.
func TestReconnectInsideCallbacks(t *testing.T) {
	for name, hook := range map[string]func(d *diary, w *world){
		"OnDisconnect": func(d *diary, w *world) { d.onGone = func() { w.m.Reconnect(0) } },
		"OnError":      func(d *diary, w *world) { d.verdict = func(error) bool { return w.m.Reconnect(0) == nil } },
		"OnError, parking": func(d *diary, w *world) {
			d.verdict = func(error) bool { w.m.Reconnect(0); return false }
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dialsOnly()
			cfg.Backoff.InitialDelay = 20 * time.Second
			d := &diary{}
			bubble(t, cfg, withDiary(d), func(w *world) {
				hook(d, w)
				w.start("a")
				begin := time.Now()
				w.dialled(begin)
				var want []time.Duration
				for i := range 20 {
					w.srv.Conn(i).Reset()
					want = append(want, time.Since(begin))
					after(200 * ms) // no sooner does the gate let anybody dial a server that accepts and closes
				}
				w.wantDials(begin, want...)
				w.wantTopics("a")
				after(time.Hour)
				w.wantDials(begin)
			})
		})
	}
}
