package switchover

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does a switchover that fails leave?

// failing is an app whose login fails as its test says.
type failing struct{ *harness.App }

func (f failing) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	if st.Generation == 2 {
		return harness.ErrTest
	}
	return nil
}

var _ wsshard.Authenticator = failing{}

func onlyFirst(p *wstest.Peer, do func()) {
	if p.Index() > 0 {
		do()
	}
}

// TestFailedSwitchover: whatever befalls the new connection before the cutover, the old one goes on as if nothing had been,
// and OnError is not asked.
func TestFailedSwitchover(t *testing.T) {
	for name, tt := range map[string]struct {
		handler func(*harness.App) wsshard.Handler[string]
		before  func(w *harness.World)
		during  func(w *harness.World, c *harness.SwCall) // after 100 ms
		err     error
		took    time.Duration
		cause   error // that OnDisconnect hears of the new one; nil: it was never open
	}{
		"refused": {before: func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { return harness.ErrTest })
		}, err: harness.ErrTest},
		"hanging": {before: func(w *harness.World) { w.Net.OnDial(harness.HangingDial) }, err: context.DeadlineExceeded, took: 10 * time.Second},
		"503": {before: func(w *harness.World) {
			w.Srv.Reject(func(*http.Request) (int, http.Header, string) { return 503, nil, "" })
		}},
		"login": {handler: func(a *harness.App) wsshard.Handler[string] { return failing{a} }, err: harness.ErrTest},
		"OnConnect": {before: func(w *harness.World) {
			w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) { return nil, harness.ErrTest }
		}, err: harness.ErrTest, cause: harness.ErrTest},
		"dies before data": {during: func(w *harness.World, _ *harness.SwCall) { w.Srv.Conn(1).Reset() }, took: 100 * time.Millisecond, cause: errAny},
		"closed": {during: func(w *harness.World, _ *harness.SwCall) { w.Srv.Conn(1).Close(1008, "no") },
			took: 100 * time.Millisecond, err: &wsshard.CloseError{Code: 1008, Text: "no"}, cause: errAny},
		"silent": {handler: harness.WithTagAcks, before: func(w *harness.World) { w.Topics.Ack(false) }, err: wsshard.ErrSwitchoverTimeout,
			took: 3 * time.Second, cause: wsshard.ErrSwitchoverTimeout},
		"cancelled": {during: func(w *harness.World, c *harness.SwCall) { c.Cancel() }, err: context.Canceled, took: 100 * time.Millisecond, cause: context.Canceled},
		"cancelled dial": {before: func(w *harness.World) { w.Net.OnDial(harness.HangingDial) }, during: func(w *harness.World, c *harness.SwCall) { c.Cancel() },
			err: context.Canceled, took: 100 * time.Millisecond},
		"pong timeout": {handler: harness.WithTagAcks, before: func(w *harness.World) {
			w.Topics.Ack(false)
			w.Srv.OnOpen(func(p *wstest.Peer) { onlyFirst(p, func() { p.Silent(true) }) })
		}, err: wsshard.ErrPongTimeout, took: 2 * time.Second, cause: wsshard.ErrPongTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Subscribe.AckTimeout = harness.Off
			cfg.Switchover.Timeout = 3 * time.Second
			cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = time.Second, time.Second, 1
			harness.Bubble(t, cfg, tt.handler, func(w *harness.World) {
				w.App.Judge = func(err error) bool { t.Errorf("OnError(%v)", err); return true }
				w.Topics.Ack(true)
				w.Start("a", "b")
				if tt.before != nil {
					tt.before(w)
				}
				w.App.Take()
				c := w.Hot(0)
				if tt.during != nil {
					harness.After(100 * time.Millisecond)
					tt.during(w, c)
				}
				<-c.Done
				harness.After(0)
				if c.Err == nil || tt.err != nil && !errors.Is(c.Err, tt.err) && c.Err.Error() != tt.err.Error() {
					t.Errorf("HotSwitchover: %v, want %v", c.Err, tt.err)
				}
				if d := c.Ended.Sub(c.Began); d != tt.took {
					t.Errorf("it took %v, want %v", d, tt.took)
				}
				if tt.cause == nil {
					w.WantCauses()
				} else if got := w.App.TakeCauses(); len(got) != 1 || tt.cause != errAny && !errors.Is(got[0], tt.cause) {
					t.Errorf("disconnected with %v, want %v", got, tt.cause)
				}
				wantUntouched(w)
				w.Net.OnDial(nil)
				w.Srv.Reject(nil)
				w.Srv.OnOpen(nil)
				w.Topics.Ack(true)
				w.App.Connect = nil
				c = w.Hot(0)
				if <-c.Done; c.Err != nil && name != "login" {
					t.Errorf("the next one: %v", c.Err)
				}
			})
		})
	}
}

// errAny stands for some error or other.
var errAny = errors.New("any")

// wantUntouched checks that the first connection of shard 0 is as it was before a switchover that failed.
func wantUntouched(w *harness.World) {
	w.T.Helper()
	w.WantTopics("a", "b")
	w.App.Take()
	w.Topics.Publish("a", "after")
	w.WantGot("a:after")
	evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventSwitchoverFailed, wsshard.EventDisconnected)
	if len(evs) != 1 || evs[0].Kind != wsshard.EventSwitchoverFailed || evs[0].Err == nil {
		w.T.Errorf("events %+v", evs)
	}
	m := w.M.Metrics()
	if sm := m.Shards[0]; sm.Generation != 1 || sm.State != wsshard.ShardConnected || !sm.IsConnected || sm.ReconnectAttempt != 0 {
		w.T.Errorf("the shard is %+v", sm)
	}
	if m.HotSwitchoverFailures != 1 || m.HotSwitchovers != 0 || m.Errors != 0 || m.ActiveConnections != 1 {
		w.T.Errorf("%+v", m)
	}
}

// TestTheOldWritesAgainAfterAFailure: an old connection that was kept from writing, so that the new one could catch up, writes again
// when the new one has failed: first what was wanted meanwhile.
func TestTheOldWritesAgainAfterAFailure(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		harness.After(time.Second)
		c := w.Hot(0)
		w.Topics.Ack(false)
		w.Subscribe("x") // it is not answered: the new connection is not ready
		harness.After(4*harness.DefaultLinger + 10*time.Millisecond)
		w.WantWire(0, "+a", "+x")
		w.Subscribe("y")
		harness.After(time.Second)
		w.WantWire(0) // it is kept still
		w.WantWire(1, "+a", "+x", "+y")
		w.Srv.Conn(1).Reset()
		<-c.Done
		if c.Err == nil {
			t.Error("the switchover did not fail")
		}
		harness.After(time.Second)
		w.WantWire(0, "+y")
		w.Subscribe("z")
		harness.After(time.Second)
		w.WantWire(0, "+z")
		w.WantTopics("a", "x", "y", "z")
		w.WantNoGap()
	})
}

// TestOldIsLost: a switchover whose old connection is lost goes on where it can, as a shard that is down.
func TestOldIsLost(t *testing.T) {
	kill := func(w *harness.World) { w.Srv.Conn(0).Reset() }
	for name, tt := range map[string]struct {
		acks   bool
		before func(w *harness.World)
		at     time.Duration
		help   func(w *harness.World) // after the loss
		took   time.Duration
		err    error
		gen    uint64
	}{
		"waiting for a turn": {before: func(w *harness.World) {
			w.Net.OnDial(func(ctx context.Context, k int, addr string) error {
				if k == 3 {
					return harness.HangingDial(ctx, k, addr)
				}
				return nil
			})
			w.Hot(1)
		}, at: time.Second, took: time.Second, gen: 2},
		"dialling, then open": {before: func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return nil })
		},
			at: time.Second, took: 2 * time.Second, gen: 2},
		"dialling in vain": {before: func(w *harness.World) {
			w.Net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return harness.ErrTest })
		}, at: time.Second, help: func(w *harness.World) { harness.After(1500 * time.Millisecond); w.Net.OnDial(nil) }, took: 2 * time.Second, err: harness.ErrTest, gen: 2},
		"not ready": {acks: true, before: func(w *harness.World) { w.Topics.Ack(false) }, at: time.Second, took: time.Second, gen: 2},
		"lingering": {acks: true, at: 100 * time.Millisecond, took: 100 * time.Millisecond, gen: 2},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.MaxSubscriptionsPerShard = 1
			cfg.Switchover.MaxConcurrent = 1
			cfg.Subscribe.AckTimeout = harness.Off
			handler := harness.WithTags
			if tt.acks {
				handler = harness.WithTagAcks
			}
			harness.Bubble(t, cfg, handler, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				w.Subscribe("b") // for shard 1
				w.Sync()
				if tt.before != nil {
					tt.before(w)
				}
				w.App.TakeEvents()
				w.App.Take()
				c := w.Hot(0)
				harness.After(tt.at - time.Millisecond)
				w.Topics.Publish("a", "1")
				harness.After(time.Millisecond)
				lost := time.Now()
				kill(w)
				harness.After(0)
				if !c.Over() {
					if h := w.M.Health(1); h.Connected != 1 || w.M.Metrics().Shards[0].IsConnected {
						t.Errorf("%+v, though the shard is down", h)
					}
					w.WantState(0, wsshard.ShardConnecting)
					if err := w.M.HotSwitchover(context.Background(), 0); err != wsshard.ErrNotConnected {
						t.Errorf("another HotSwitchover: %v", err)
					}
				}
				if tt.help != nil {
					tt.help(w)
				}
				c.Want(t, tt.err, tt.took)
				w.Topics.Ack(true)
				harness.After(10 * time.Second)
				if n := len(w.App.TakeCauses()); n != 1 {
					t.Errorf("%d disconnections were heard of", n)
				}
				for i := range w.Srv.Conns() { // where answers are late
					w.Srv.Conn(i).Send("ack:a")
				}
				w.App.Take()
				w.Topics.Publish("a", "2")
				w.WantGot("a:2")
				evs := w.App.TakeEvents(wsshard.EventGap, wsshard.EventDisconnected)
				if len(evs) != 2 || evs[0].Kind != wsshard.EventDisconnected || !evs[0].Time.Equal(lost) ||
					evs[1].Kind != wsshard.EventGap || !evs[1].From.Equal(lost.Add(-time.Millisecond-harness.DefaultLinger)) {
					t.Errorf("events %+v", evs)
				}
				if sm := w.M.Metrics().Shards[0]; sm.Generation != tt.gen || sm.State != wsshard.ShardConnected {
					t.Errorf("the shard is %+v", sm)
				}
				w.WantTopics("a", "b")
			})
		})
	}
}

// TestNewIsLostAfterTheCutover: the old one is gone by then, so the shard reconnects; what the new one had brought is delivered.
func TestNewIsLostAfterTheCutover(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		var told time.Time
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				harness.SlowClose(p, &told, time.Second, "a:2")
			}
		})
		w.Start("a")
		c := w.Hot(0)
		harness.After(time.Second)
		w.Srv.Conn(1).Send("a:3")
		at := time.Now()
		harness.After(750 * time.Millisecond)
		w.Srv.Conn(1).Kill() // in the old one's drain
		c.Want(t, nil, 2*time.Second+harness.DefaultLinger)
		harness.After(10 * time.Second)
		w.WantGot("a:2", "a:3")
		causes := w.App.TakeCauses()
		if len(causes) != 2 || causes[0] != wsshard.ErrReplaced || errors.Is(causes[1], wsshard.ErrReplaced) {
			t.Errorf("disconnected with %v", causes)
		}
		evs := w.App.TakeEvents(wsshard.EventGap)
		if len(evs) != 1 || !evs[0].From.Equal(at.Add(-harness.DefaultLinger)) || evs[0].Generation != 3 {
			t.Errorf("gaps %+v", evs)
		}
		w.WantTopics("a")
	})
}

// TestBothAreLost: in the same instant, in each phase; the shard reconnects, and the gap begins where the old one ended.
func TestBothAreLost(t *testing.T) {
	for _, at := range []time.Duration{100 * time.Millisecond, 1100 * time.Millisecond, time.Second + harness.DefaultLinger + 100*time.Millisecond} {
		t.Run(at.String(), func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
				var told time.Time
				w.Srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						harness.SlowClose(p, &told, time.Second)
					}
				})
				w.Start("a")
				c := w.Hot(0)
				harness.After(at)
				w.Topics.Publish("a", "1")
				last := time.Now()
				harness.After(0)
				w.Srv.Conn(0).Reset()
				w.Srv.Conn(1).Reset()
				<-c.Done
				harness.After(10 * time.Second)
				w.WantTopics("a")
				if n := len(w.App.TakeCauses()); n != 2 {
					t.Errorf("%d disconnections were heard of", n)
				}
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) == 2 { // that of a drain that failed
					evs = evs[1:]
				}
				if len(evs) != 1 || !evs[0].From.Equal(last.Add(-harness.DefaultLinger)) || evs[0].Generation != 3 {
					t.Errorf("gaps %+v", evs)
				}
			})
		})
	}
}

// Who joins the replacement of a silent connection hears that it failed; the connection is broken then.
func TestJoinedReplacementFails(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Health.DataTimeout = time.Minute
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		w.Net.OnDial(func(_ context.Context, k int, _ string) error {
			if k > 2 {
				return nil
			}
			time.Sleep(8 * time.Second)
			return harness.ErrTest
		})
		harness.After(65 * time.Second)
		w.Hot(0).Want(t, harness.ErrTest, 3*time.Second)
		w.WantCauses(wsshard.ErrDataTimeout)
		harness.After(time.Second)
		w.WantTopics("a")
	})
}

// When a switchover is said to have failed, its connection is closed: the next one must not be a third.
func TestFailedSwitchoverIsClosed(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Switchover.Timeout = 3 * time.Second
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Begin("a")
		harness.After(time.Second)
		w.Srv.Conn(0).Send("ack 0 +a")
		harness.After(time.Second)
		time.AfterFunc(time.Second, func() { w.Net.Conns()[1].BlackHole(true) })
		err := w.M.HotSwitchover(context.Background(), 0)
		if conns := w.Net.Conns(); !errors.Is(err, wsshard.ErrSwitchoverTimeout) || !conns[1].Closed() || conns[0].Closed() {
			t.Errorf("HotSwitchover: %v; closed are the new one: %v, the old one: %v", err, conns[1].Closed(), conns[0].Closed())
		}
	})
}
