package wsshard_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// phases are what a hot switchover of shard 0 may be doing when Stop comes.
var phases = []struct {
	name   string
	cfg    wsshard.Config
	before func(w *world) // before the switchover is asked for
	wait   time.Duration  // from then on
	hook   func(w *world) // after that
	result error          // of HotSwitchover
	takes  time.Duration  // by Stop
	causes []error        // that OnDisconnect hears, in any order
}{
	{name: "a turn", cfg: wsshard.Config{
		MaxSubscriptionsPerShard: 1, Switchover: wsshard.SwitchoverConfig{MaxConcurrent: 1},
	}, before: func(w *world) {
		w.subscribe("b")
		w.sync()
		w.net.OnDial(hang)
		go w.m.HotSwitchover(context.Background(), 1)
		after(time.Second)
	}, wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped, wsshard.ErrStopped}},

	{name: "dial", before: func(w *world) { w.net.OnDial(hang) },
		wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped}},

	{name: "handshake", before: func(w *world) { w.srv.Reject(silentHandshake) },
		wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped}},

	{name: "retry-after", before: func(w *world) {
		w.srv.Reject(func(*http.Request) (int, http.Header, string) { return 429, http.Header{"Retry-After": {"60"}}, "" })
		w.m.HotSwitchover(context.Background(), 0)
	}, wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped}},

	{name: "OnConnect", before: func(w *world) {
		w.app.onConnect = func(ctx context.Context, _ wsshard.ConnectionState) ([]wsshard.Message, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}, wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped, wsshard.ErrStopped}},

	{name: "pace", cfg: wsshard.Config{
		Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Minute, MaxPerMessage: 1},
		Health:    wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	}, before: func(w *world) { w.subscribe("b", "c"); w.sync() },
		wait: time.Second, result: wsshard.ErrStopped, causes: []error{wsshard.ErrStopped, wsshard.ErrStopped}},

	{name: "settle", wait: 500 * time.Millisecond, result: wsshard.ErrStopped,
		causes: []error{wsshard.ErrStopped, wsshard.ErrStopped}},

	{name: "linger", wait: 1100 * time.Millisecond, result: wsshard.ErrStopped,
		causes: []error{wsshard.ErrStopped, wsshard.ErrStopped}},

	// The old connection is retired: whatever comes now, it was replaced. The new one has not delivered yet.
	{name: "drain", before: func(w *world) { w.net.Conns()[0].BlackHole(true) },
		wait: 1500 * time.Millisecond, result: nil, causes: []error{wsshard.ErrReplaced, wsshard.ErrStopped}},

	{name: "the last message of the old", before: func(w *world) {
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) { <-ctx.Done() }
		w.srv.Conn(0).Send("1")
		w.srv.Conn(0).Send("2")
	}, wait: 1500 * time.Millisecond, result: nil, causes: []error{wsshard.ErrReplaced, wsshard.ErrStopped}},

	{name: "the first messages of the new", before: func(w *world) {
		w.app.message = func(ctx context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			if st.Generation == 2 {
				<-ctx.Done()
			}
		}
		w.srv.OnOpen(func(p *wstest.Peer) {
			for range 10 {
				p.Send("held")
			}
		})
	}, wait: 1500 * time.Millisecond, result: nil, causes: []error{wsshard.ErrReplaced, wsshard.ErrStopped}},

	{name: "a full hold", cfg: wsshard.Config{Switchover: wsshard.SwitchoverConfig{HoldMessages: 1}}, before: func(w *world) {
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) { <-ctx.Done() }
		w.srv.Conn(0).Send("blocks")
		w.srv.OnOpen(func(p *wstest.Peer) {
			for range 10 {
				p.Send("held")
			}
		})
	}, wait: 500 * time.Millisecond, result: wsshard.ErrSwitchoverHold, causes: []error{wsshard.ErrSwitchoverHold, wsshard.ErrStopped}},
}

// TestStopDuringSwitchover: in each of its phases Stop ends both connections, whoever waits for it hears, and OnDisconnect
// hears of each once.
func TestStopDuringSwitchover(t *testing.T) {
	for _, phase := range phases {
		for _, gone := range []bool{false, true} {
			t.Run(phase.name, func(t *testing.T) {
				bubble(t, phase.cfg, nil, func(w *world) {
					w.start("a")
					w.wantTopics("a")
					if phase.before != nil {
						phase.before(w)
					}
					result := make(chan error, 1)
					go func() { result <- w.m.HotSwitchover(context.Background(), 0) }()
					after(phase.wait)
					if s := w.m.Metrics().Shards[0].State; s != wsshard.ShardSwitching && phase.result == wsshard.ErrStopped {
						t.Errorf("the shard is %v", s)
					}
					begin := time.Now()
					ctx, cancel := context.WithCancel(context.Background())
					if gone {
						cancel()
					}
					if err := w.m.Stop(ctx); err != nil && (!gone || err != context.Canceled) {
						t.Errorf("Stop: %v", err)
					}
					cancel()
					after(0)
					if d := time.Since(begin); d != 0 {
						t.Errorf("Stop took %v", d)
					}
					if n := w.net.Open(); n != 0 {
						t.Errorf("%d sockets are open", n)
					}
					if err := <-result; err != phase.result {
						t.Errorf("HotSwitchover: %v, want %v", err, phase.result)
					}
					wantLoops(t, "stopped", 0)
					got, want := texts(w.app.takeCauses()), texts(phase.causes)
					if !slices.Equal(got, want) {
						t.Errorf("disconnected with %q, want %q", got, want)
					}
					w.app.message, w.app.onConnect = nil, nil
					w.net.OnDial(nil)
					w.srv.Reject(nil)
					w.m.Start(context.Background())
					w.subscribe("z")
					w.sync()
					after(0)
					if w.topics.All()["z"] != 1 {
						t.Errorf("after a restart the server has %v", w.topics.All())
					}
				})
			})
		}
	}
}

func texts(errs []error) (texts []string) {
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return texts
}

// TestStopWhileSwitchoverIsStuck: the old connection's handler ignores its context while the new one waits for it. Stop gives
// up with every socket closed; both end when it returns.
func TestStopWhileSwitchoverIsStuck(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		busy := make(chan struct{})
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { <-busy }
		w.start("a")
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		result := make(chan error, 1)
		go func() { result <- w.m.HotSwitchover(context.Background(), 0) }()
		after(2 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := w.m.Stop(ctx); err != context.DeadlineExceeded {
			t.Errorf("Stop: %v", err)
		}
		if n := w.net.Open(); n != 0 {
			t.Errorf("%d sockets are open", n)
		}
		close(busy)
		wantLoops(t, "released", 0)
		<-result
		w.wantCauses(wsshard.ErrReplaced, wsshard.ErrStopped)
	})
}
