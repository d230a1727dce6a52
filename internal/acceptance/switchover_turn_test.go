package acceptance

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// TestTurns: MaxConcurrent at once; those that were asked for before those that are routine; first come, first served within
// each. One that is asked for while it waits goes to the others that were asked for.
func TestTurns(t *testing.T) {
	turnWorld(t, 7, func(w *world, dialled func() []int) {
		first := w.hot(0)
		notice := func(shard int) { w.srv.Conn(shard).Send("maintenance"); after(0) }
		notice(1)
		notice(2)
		notice(3)
		w.hot(4)
		w.hot(5)
		joined := w.hot(2)
		if got := dialled(); !slices.Equal(got, []int{0}) {
			t.Errorf("dialled for %v", got)
		}
		const each = time.Second + linger
		first.want(t, nil, each)
		for i := range 6 {
			after(each)
			if n := len(w.srv.Live()); i < 4 && n != 8 {
				t.Errorf("%d connections, want one more than there are shards", n)
			}
		}
		if got := dialled(); !slices.Equal(got, []int{4, 5, 2, 1, 3}) {
			t.Errorf("dialled for %v", got)
		}
		joined.want(t, nil, 4*each)
		w.wantTopics(numbered(7)...)
	})
}

// TestTurnEndsWithTheConnection: a turn is given back when one of the two connections is closed, not before.
func TestTurnEndsWithTheConnection(t *testing.T) {
	turnWorld(t, 2, func(w *world, dialled func() []int) {
		gate := make(chan struct{})
		w.app.message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			if st.ShardID == 0 {
				<-gate
			}
		}
		w.hot(0)
		second := w.hot(1)
		w.srv.Conn(0).Send("t0000:1") // its handler keeps the old connection from its end
		after(5 * time.Second)
		if got := dialled(); !slices.Equal(got, []int{0}) {
			t.Errorf("dialled for %v", got)
		}
		close(gate)
		second.want(t, nil, 5*time.Second+time.Second+linger)
	})
}

// TestAbandonedInLine: one that nobody waits for any more leaves the line.
func TestAbandonedInLine(t *testing.T) {
	turnWorld(t, 3, func(w *world, dialled func() []int) {
		w.hot(0)
		gone, last := w.hot(1), w.hot(2)
		gone.cancel()
		gone.want(t, context.Canceled, 0)
		last.want(t, nil, 2*(time.Second+linger))
		if got := dialled(); !slices.Equal(got, []int{0, 2}) {
			t.Errorf("dialled for %v", got)
		}
	})
}

// TestJoin: a second call joins the first, in each phase, and both hear of its end.
func TestJoin(t *testing.T) {
	for _, at := range []time.Duration{0, 500 * time.Millisecond, 1100 * time.Millisecond, time.Second + linger + 500*time.Millisecond} {
		t.Run(at.String(), func(t *testing.T) {
			bubble(t, noJitter(), nil, func(w *world) {
				w.start("a")
				w.net.Conns()[0].BlackHole(true) // so that its drain takes 2 s
				c := w.hot(0)
				after(at)
				w.hot(0).want(t, nil, time.Second+linger+2*time.Second-at)
				c.want(t, nil, time.Second+linger+2*time.Second)
				if n := w.m.Metrics().HotSwitchovers; n != 1 {
					t.Errorf("%d switchovers", n)
				}
			})
		})
	}
}

// TestCancel: a ctx that ends aborts the switchover, unless somebody else wants it; and whoever asks after that gets another.
func TestCancel(t *testing.T) {
	bubble(t, noJitter(), withTags, func(w *world) {
		w.start("a")
		one, two := w.hot(0), w.hot(0)
		after(time.Millisecond)
		one.cancel()
		one.want(t, context.Canceled, time.Millisecond)
		two.want(t, nil, time.Second+linger)

		one, two = w.hot(0), w.hot(0)
		one.cancel()
		two.cancel()
		three := make(chan error, 1)
		go func() { three <- w.m.HotSwitchover(context.Background(), 0) }() // while it is given up
		one.want(t, context.Canceled, 0)
		two.want(t, context.Canceled, 0)
		if err := <-three; err != nil {
			t.Errorf("the third one: %v", err)
		}

		// A notice wants it, too.
		one = w.hot(0)
		w.srv.Conn(w.srv.Conns() - 2).Send("maintenance")
		after(0)
		one.cancel()
		after(10 * time.Second)
		m := w.m.Metrics()
		if m.HotSwitchovers != 3 || m.Gaps != 0 || m.Shards[0].State != wsshard.ShardConnected {
			t.Errorf("%+v", m)
		}
		w.wantTopics("a")

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.m.HotSwitchover(ctx, 0); err != context.Canceled {
			t.Errorf("with a ctx that has ended: %v", err)
		}
		if after(time.Second); w.m.Metrics().HotSwitchovers != 3 {
			t.Error("it began all the same")
		}
	})
}

// TestRefusedSwitchovers: what cannot be switched over says so.
func TestRefusedSwitchovers(t *testing.T) {
	cfg := noJitter()
	cfg.Connection.MaxConnectAttempts = 1
	bubble(t, cfg, nil, func(w *world) {
		want := func(shard int, err error) {
			t.Helper()
			w.hot(shard).want(t, err, 0)
		}
		want(0, wsshard.ErrUnknownShard)
		w.subscribe("a")
		want(0, wsshard.ErrNotConnected)
		w.net.OnDial(hang)
		if err := w.m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		want(0, wsshard.ErrNotConnected)
		want(1, wsshard.ErrUnknownShard)
		want(-1, wsshard.ErrUnknownShard)
		after(11 * time.Second)
		want(0, wsshard.ErrShardParked)
		want(0, wsshard.ErrNotConnected) // it is down, too
		w.m.Stop(context.Background())
		want(0, wsshard.ErrStopped)
	})
}

// TestAskedInTheLastCallback: what is asked for as a failed switchover ends begins another.
func TestAskedInTheLastCallback(t *testing.T) {
	var m atomic.Pointer[wsshard.ShardManager[string]]
	bubble(t, noJitter(), func(a *app) wsshard.Handler[string] { return asking{a, &m} }, func(w *world) {
		w.start("a")
		m.Store(w.m)
		c := w.hot(0)
		w.srv.Conn(1).Kill()
		<-c.done
		after(5 * time.Second)
		if m := w.m.Metrics(); m.HotSwitchovers != 1 || m.HotSwitchoverFailures != 1 || m.Gaps != 0 {
			t.Errorf("%+v", m)
		}
	})
}

// turnWorld is a world of shards of one topic each, of which those in line, in this order, wait for the first's turn to end.
func turnWorld(t *testing.T, shards int, script func(w *world, dialled func() []int)) {
	cfg := oneEach()
	cfg.Switchover = wsshard.SwitchoverConfig{MaxConcurrent: 1}
	cfg.ShardSelection = wsshard.Sequential
	order := &dialOrder{}
	bubble(t, cfg, func(a *app) wsshard.Handler[string] { return dialNoting{tagged{a}, order} }, func(w *world) {
		w.start("t0000")
		for _, sub := range numbered(shards)[1:] {
			w.subscribe(sub)
			w.sync()
		}
		order.take()
		script(w, order.take)
	})
}

// dialOrder notes which shards have dialled.
type dialOrder struct {
	mu     sync.Mutex
	shards []int
}

func (o *dialOrder) take() []int {
	after(0)
	o.mu.Lock()
	defer o.mu.Unlock()
	got := o.shards
	o.shards = nil
	return got
}

// dialNoting is tagged, and notes its dials: headers are asked for when the wait is over.
type dialNoting struct {
	tagged
	order *dialOrder
}

func (d dialNoting) ConnectionHeaders(_ context.Context, st wsshard.ConnectionState) (http.Header, error) {
	d.order.mu.Lock()
	defer d.order.mu.Unlock()
	d.order.shards = append(d.order.shards, st.ShardID)
	return nil, nil
}

// asking is an app that asks for a switchover when a connection ends that never delivered.
type asking struct {
	*app
	m *atomic.Pointer[wsshard.ShardManager[string]]
}

func (a asking) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	a.app.OnDisconnect(ctx, cause, st)
	if m := a.m.Load(); m != nil && st.Generation == 2 {
		m.HotSwitchover(ctx, 0)
	}
}
