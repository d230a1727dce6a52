package acceptance

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

var errTest = errors.New("test")

// failing is an app whose login fails as its test says.
type failing struct{ *app }

func (f failing) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	if st.Generation == 2 {
		return errTest
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
		handler func(*app) wsshard.Handler[string]
		before  func(w *world)
		during  func(w *world, c *swCall) // after 100 ms
		err     error
		took    time.Duration
		cause   error // that OnDisconnect hears of the new one; nil: it was never open
	}{
		"refused": {before: func(w *world) { w.net.OnDial(func(context.Context, int, string) error { return errTest }) }, err: errTest},
		"hanging": {before: func(w *world) { w.net.OnDial(hang) }, err: context.DeadlineExceeded, took: 10 * time.Second},
		"503": {before: func(w *world) {
			w.srv.Reject(func(*http.Request) (int, http.Header, string) { return 503, nil, "" })
		}},
		"login": {handler: func(a *app) wsshard.Handler[string] { return failing{a} }, err: errTest},
		"OnConnect": {before: func(w *world) {
			w.app.onConnect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) { return nil, errTest }
		}, err: errTest, cause: errTest},
		"dies before data": {during: func(w *world, _ *swCall) { w.srv.Conn(1).Reset() }, took: 100 * time.Millisecond, cause: errAny},
		"closed": {during: func(w *world, _ *swCall) { w.srv.Conn(1).Close(1008, "no") },
			took: 100 * time.Millisecond, err: &wsshard.CloseError{Code: 1008, Text: "no"}, cause: errAny},
		"silent": {handler: withTagAcks, before: func(w *world) { w.topics.Ack(false) }, err: wsshard.ErrSwitchoverTimeout,
			took: 3 * time.Second, cause: wsshard.ErrSwitchoverTimeout},
		"cancelled": {during: func(w *world, c *swCall) { c.cancel() }, err: context.Canceled, took: 100 * time.Millisecond, cause: context.Canceled},
		"cancelled dial": {before: func(w *world) { w.net.OnDial(hang) }, during: func(w *world, c *swCall) { c.cancel() },
			err: context.Canceled, took: 100 * time.Millisecond},
		"pong timeout": {handler: withTagAcks, before: func(w *world) {
			w.topics.Ack(false)
			w.srv.OnOpen(func(p *wstest.Peer) { onlyFirst(p, func() { p.Silent(true) }) })
		}, err: wsshard.ErrPongTimeout, took: 2 * time.Second, cause: wsshard.ErrPongTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := noJitter()
			cfg.Subscribe.AckTimeout = off
			cfg.Switchover.Timeout = 3 * time.Second
			cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = time.Second, time.Second, 1
			bubble(t, cfg, tt.handler, func(w *world) {
				w.app.onError = func(err error) bool { t.Errorf("OnError(%v)", err); return true }
				w.topics.Ack(true)
				w.start("a", "b")
				if tt.before != nil {
					tt.before(w)
				}
				w.app.take()
				c := w.hot(0)
				if tt.during != nil {
					after(100 * time.Millisecond)
					tt.during(w, c)
				}
				<-c.done
				after(0)
				if c.err == nil || tt.err != nil && !errors.Is(c.err, tt.err) && c.err.Error() != tt.err.Error() {
					t.Errorf("HotSwitchover: %v, want %v", c.err, tt.err)
				}
				if d := c.ended.Sub(c.began); d != tt.took {
					t.Errorf("it took %v, want %v", d, tt.took)
				}
				if tt.cause == nil {
					w.wantCauses()
				} else if got := w.app.takeCauses(); len(got) != 1 || tt.cause != errAny && !errors.Is(got[0], tt.cause) {
					t.Errorf("disconnected with %v, want %v", got, tt.cause)
				}
				w.wantUntouched()
				w.net.OnDial(nil)
				w.srv.Reject(nil)
				w.srv.OnOpen(nil)
				w.topics.Ack(true)
				w.app.onConnect = nil
				c = w.hot(0)
				if <-c.done; c.err != nil && name != "login" {
					t.Errorf("the next one: %v", c.err)
				}
			})
		})
	}
}

// errAny stands for some error or other.
var errAny = errors.New("any")

// wantUntouched checks that the first connection of shard 0 is as it was before a switchover that failed.
func (w *world) wantUntouched() {
	w.t.Helper()
	w.wantTopics("a", "b")
	w.app.take()
	w.topics.Publish("a", "after")
	w.wantGot("a:after")
	evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventSwitchoverFailed, wsshard.EventDisconnected)
	if len(evs) != 1 || evs[0].Kind != wsshard.EventSwitchoverFailed || evs[0].Err == nil {
		w.t.Errorf("events %+v", evs)
	}
	m := w.m.Metrics()
	if sm := m.Shards[0]; sm.Generation != 1 || sm.State != wsshard.ShardConnected || !sm.IsConnected || sm.ReconnectAttempt != 0 {
		w.t.Errorf("the shard is %+v", sm)
	}
	if m.HotSwitchoverFailures != 1 || m.HotSwitchovers != 0 || m.Errors != 0 || m.ActiveConnections != 1 {
		w.t.Errorf("%+v", m)
	}
}

// TestOldIsLost: a switchover whose old connection is lost goes on where it can, as a shard that is down.
func TestOldIsLost(t *testing.T) {
	kill := func(w *world) { w.srv.Conn(0).Reset() }
	for name, tt := range map[string]struct {
		acks   bool
		before func(w *world)
		at     time.Duration
		help   func(w *world) // after the loss
		took   time.Duration
		err    error
		gen    uint64
	}{
		"waiting for a turn": {before: func(w *world) {
			w.net.OnDial(func(ctx context.Context, k int, addr string) error {
				if k == 3 {
					return hang(ctx, k, addr)
				}
				return nil
			})
			w.hot(1)
		}, at: time.Second, took: time.Second, gen: 2},
		"dialling, then open": {before: func(w *world) {
			w.net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return nil })
		},
			at: time.Second, took: 2 * time.Second, gen: 2},
		"dialling in vain": {before: func(w *world) {
			w.net.OnDial(func(context.Context, int, string) error { time.Sleep(2 * time.Second); return errTest })
		}, at: time.Second, help: func(w *world) { after(1500 * time.Millisecond); w.net.OnDial(nil) }, took: 2 * time.Second, err: errTest, gen: 2},
		"not ready": {acks: true, before: func(w *world) { w.topics.Ack(false) }, at: time.Second, took: time.Second, gen: 2},
		"lingering": {acks: true, at: 100 * time.Millisecond, took: 100 * time.Millisecond, gen: 2},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := noJitter()
			cfg.MaxSubscriptionsPerShard = 1
			cfg.Switchover.MaxConcurrent = 1
			cfg.Subscribe.AckTimeout = off
			handler := withTags
			if tt.acks {
				handler = withTagAcks
			}
			bubble(t, cfg, handler, func(w *world) {
				w.topics.Ack(true)
				w.start("a")
				w.subscribe("b") // for shard 1
				w.sync()
				if tt.before != nil {
					tt.before(w)
				}
				w.app.takeEvents()
				w.app.take()
				c := w.hot(0)
				after(tt.at - time.Millisecond)
				w.topics.Publish("a", "1")
				after(time.Millisecond)
				lost := time.Now()
				kill(w)
				after(0)
				if !c.over() {
					if h := w.m.Health(1); h.Connected != 1 || w.m.Metrics().Shards[0].IsConnected {
						t.Errorf("%+v, though the shard is down", h)
					}
					w.wantState(0, wsshard.ShardConnecting)
					if err := w.m.HotSwitchover(context.Background(), 0); err != wsshard.ErrNotConnected {
						t.Errorf("another HotSwitchover: %v", err)
					}
				}
				if tt.help != nil {
					tt.help(w)
				}
				c.want(t, tt.err, tt.took)
				w.topics.Ack(true)
				after(10 * time.Second)
				if n := len(w.app.takeCauses()); n != 1 {
					t.Errorf("%d disconnections were heard of", n)
				}
				for i := range w.srv.Conns() { // where answers are late
					w.srv.Conn(i).Send("ack:a")
				}
				w.app.take()
				w.topics.Publish("a", "2")
				w.wantGot("a:2")
				evs := w.app.takeEvents(wsshard.EventGap, wsshard.EventDisconnected)
				if len(evs) != 2 || evs[0].Kind != wsshard.EventDisconnected || !evs[0].Time.Equal(lost) ||
					evs[1].Kind != wsshard.EventGap || !evs[1].From.Equal(lost.Add(-time.Millisecond-linger)) {
					t.Errorf("events %+v", evs)
				}
				if sm := w.m.Metrics().Shards[0]; sm.Generation != tt.gen || sm.State != wsshard.ShardConnected {
					t.Errorf("the shard is %+v", sm)
				}
				w.wantTopics("a", "b")
			})
		})
	}
}

// TestNewIsLostAfterTheCutover: the old one is gone by then, so the shard reconnects; what the new one had brought is delivered.
func TestNewIsLostAfterTheCutover(t *testing.T) {
	bubble(t, noJitter(), withTags, func(w *world) {
		var told time.Time
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				slowClose(p, &told, time.Second, "a:2")
			}
		})
		w.start("a")
		c := w.hot(0)
		after(time.Second)
		w.srv.Conn(1).Send("a:3")
		at := time.Now()
		after(750 * time.Millisecond)
		w.srv.Conn(1).Kill() // in the old one's drain
		c.want(t, nil, 2*time.Second+linger)
		after(10 * time.Second)
		w.wantGot("a:2", "a:3")
		causes := w.app.takeCauses()
		if len(causes) != 2 || causes[0] != wsshard.ErrReplaced || errors.Is(causes[1], wsshard.ErrReplaced) {
			t.Errorf("disconnected with %v", causes)
		}
		evs := w.app.takeEvents(wsshard.EventGap)
		if len(evs) != 1 || !evs[0].From.Equal(at.Add(-linger)) || evs[0].Generation != 3 {
			t.Errorf("gaps %+v", evs)
		}
		w.wantTopics("a")
	})
}

// TestBothAreLost: in the same instant, in each phase; the shard reconnects, and the gap begins where the old one ended.
func TestBothAreLost(t *testing.T) {
	for _, at := range []time.Duration{100 * time.Millisecond, 1100 * time.Millisecond, time.Second + linger + 100*time.Millisecond} {
		t.Run(at.String(), func(t *testing.T) {
			bubble(t, noJitter(), withTags, func(w *world) {
				var told time.Time
				w.srv.OnOpen(func(p *wstest.Peer) {
					if p.Index() == 0 {
						slowClose(p, &told, time.Second)
					}
				})
				w.start("a")
				c := w.hot(0)
				after(at)
				w.topics.Publish("a", "1")
				last := time.Now()
				after(0)
				w.srv.Conn(0).Reset()
				w.srv.Conn(1).Reset()
				<-c.done
				after(10 * time.Second)
				w.wantTopics("a")
				if n := len(w.app.takeCauses()); n != 2 {
					t.Errorf("%d disconnections were heard of", n)
				}
				evs := w.app.takeEvents(wsshard.EventGap)
				if len(evs) == 2 { // that of a drain that failed
					evs = evs[1:]
				}
				if len(evs) != 1 || !evs[0].From.Equal(last.Add(-linger)) || evs[0].Generation != 3 {
					t.Errorf("gaps %+v", evs)
				}
			})
		})
	}
}

// Who joins the replacement of a silent connection hears that it failed; the connection is broken then.
func TestJoinedReplacementFails(t *testing.T) {
	cfg := dialsOnly()
	cfg.Health.DataTimeout = time.Minute
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		w.net.OnDial(func(_ context.Context, k int, _ string) error {
			if k > 2 {
				return nil
			}
			time.Sleep(8 * time.Second)
			return errTest
		})
		after(65 * time.Second)
		w.hot(0).want(t, errTest, 3*time.Second)
		w.wantCauses(wsshard.ErrDataTimeout)
		after(time.Second)
		w.wantTopics("a")
	})
}
