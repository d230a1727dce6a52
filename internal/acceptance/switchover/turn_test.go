package switchover

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: whose turn is it, and who joins whom?

// each is how long a switchover takes with the defaults and no network.
const each = time.Second + harness.DefaultLinger

// TestTurns: MaxConcurrent at once; first come, first served. A joiner comes when the first did.
func TestTurns(t *testing.T) {
	turnWorld(t, 7, func(w *harness.World, dialled func() []int) {
		first := w.Hot(0)
		for shard := range 5 {
			w.Hot(shard + 1)
		}
		joined := w.Hot(2)
		if got := dialled(); !slices.Equal(got, []int{0}) {
			t.Errorf("dialled for %v", got)
		}
		first.Want(t, nil, each)
		for i := range 6 {
			harness.After(each)
			if n := len(w.Srv.Live()); i < 4 && n != 8 {
				t.Errorf("%d connections, want one more than there are shards", n)
			}
		}
		if got := dialled(); !slices.Equal(got, []int{1, 2, 3, 4, 5}) {
			t.Errorf("dialled for %v", got)
		}
		joined.Want(t, nil, 3*each)
		w.WantTopics(harness.Numbered(7)...)
	})
}

// TestNoticeNeedsNoTurn: who is about to be closed does not wait for others, be it that somebody asked for its switchover before. What
// others ask for waits as ever.
func TestNoticeNeedsNoTurn(t *testing.T) {
	turnWorld(t, 7, func(w *harness.World, dialled func() []int) {
		w.Hot(0)
		waits, joined := w.Hot(1), w.Hot(2)
		for _, shard := range []int{3, 4, 2} {
			w.Srv.Conn(shard).Send("maintenance")
			harness.After(0)
		}
		if got := dialled(); !slices.Equal(got, []int{0, 3, 4, 2}) {
			t.Errorf("dialled for %v", got)
		}
		joined.Want(t, nil, each)
		if got := dialled(); !slices.Equal(got, []int{1}) {
			t.Errorf("dialled for %v", got)
		}
		waits.Want(t, nil, 2*each)
		if got, _ := switchovers(w, wsshard.EventSwitchoverDone); len(got) != 5 {
			t.Errorf("done: %q", got)
		}
		w.WantTopics(harness.Numbered(7)...)
	})
}

// TestFleetHasNotice: all connections are to be closed in 30 s. By default 6 of these shards may switch over at once, which would take
// them 42 s; so many as the door lets dial take no longer than one.
func TestFleetHasNotice(t *testing.T) {
	const shards = 200
	harness.Bubble(t, oneEach(), harness.WithTags, func(w *harness.World) {
		w.Start(harness.Numbered(shards)...)
		w.Sync()
		harness.After(time.Minute)
		for _, c := range w.Srv.Live() {
			c.Send("maintenance")
		}
		harness.After(2 * each)
		m := w.M.Metrics()
		if m.HotSwitchovers != shards || m.HotSwitchoverFailures != 0 || m.Gaps != 0 || len(w.Srv.Live()) != shards {
			t.Errorf("after %v: %d of %d are over, %d failed, %d gaps, %d connections", 2*each, m.HotSwitchovers, shards, m.HotSwitchoverFailures, m.Gaps, len(w.Srv.Live()))
		}
		w.WantTopics(harness.Numbered(shards)...)

		// What the application asks for is bounded.
		for shard := range shards {
			w.Hot(shard)
		}
		for range 3 {
			harness.After(each - time.Millisecond)
			if n := len(w.Srv.Live()); n != shards+shards/32 {
				t.Errorf("%d connections, want %d more than there are shards", n, shards/32)
			}
			harness.After(time.Millisecond)
		}
	})
}

// TestTurnEndsWithTheConnection: a turn is given back when one of the two connections is closed, not before.
func TestTurnEndsWithTheConnection(t *testing.T) {
	turnWorld(t, 2, func(w *harness.World, dialled func() []int) {
		gate := make(chan struct{})
		w.App.Message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			if st.ShardID == 0 {
				<-gate
			}
		}
		w.Hot(0)
		second := w.Hot(1)
		w.Srv.Conn(0).Send("t0000:1") // its handler keeps the old connection from its end
		harness.After(5 * time.Second)
		if got := dialled(); !slices.Equal(got, []int{0}) {
			t.Errorf("dialled for %v", got)
		}
		close(gate)
		second.Want(t, nil, 5*time.Second+time.Second+harness.DefaultLinger)
	})
}

// TestAbandonedInLine: one that nobody waits for any more leaves the line.
func TestAbandonedInLine(t *testing.T) {
	turnWorld(t, 3, func(w *harness.World, dialled func() []int) {
		w.Hot(0)
		gone, last := w.Hot(1), w.Hot(2)
		gone.Cancel()
		gone.Want(t, context.Canceled, 0)
		last.Want(t, nil, 2*(time.Second+harness.DefaultLinger))
		if got := dialled(); !slices.Equal(got, []int{0, 2}) {
			t.Errorf("dialled for %v", got)
		}
	})
}

// TestJoin: a second call joins the first, in each phase, and both hear of its end.
func TestJoin(t *testing.T) {
	for _, at := range []time.Duration{0, 500 * time.Millisecond, 1100 * time.Millisecond, time.Second + harness.DefaultLinger + 500*time.Millisecond} {
		t.Run(at.String(), func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), nil, func(w *harness.World) {
				w.Start("a")
				w.Net.Conns()[0].BlackHole(true) // so that its drain takes 2 s
				c := w.Hot(0)
				harness.After(at)
				w.Hot(0).Want(t, nil, time.Second+harness.DefaultLinger+2*time.Second-at)
				c.Want(t, nil, time.Second+harness.DefaultLinger+2*time.Second)
				if n := w.M.Metrics().HotSwitchovers; n != 1 {
					t.Errorf("%d switchovers", n)
				}
			})
		})
	}
}

// TestCancel: a ctx that ends aborts the switchover, unless somebody else wants it; and whoever asks after that gets another.
func TestCancel(t *testing.T) {
	harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
		w.Start("a")
		one, two := w.Hot(0), w.Hot(0)
		harness.After(time.Millisecond)
		one.Cancel()
		one.Want(t, context.Canceled, time.Millisecond)
		two.Want(t, nil, time.Second+harness.DefaultLinger)

		one, two = w.Hot(0), w.Hot(0)
		one.Cancel()
		two.Cancel()
		three := make(chan error, 1)
		go func() { three <- w.M.HotSwitchover(context.Background(), 0) }() // while it is given up
		one.Want(t, context.Canceled, 0)
		two.Want(t, context.Canceled, 0)
		if err := <-three; err != nil {
			t.Errorf("the third one: %v", err)
		}

		// A notice wants it, too.
		one = w.Hot(0)
		w.Srv.Conn(w.Srv.Conns() - 2).Send("maintenance")
		harness.After(0)
		one.Cancel()
		harness.After(10 * time.Second)
		m := w.M.Metrics()
		if m.HotSwitchovers != 3 || m.Gaps != 0 || m.Shards[0].State != wsshard.ShardConnected {
			t.Errorf("%+v", m)
		}
		w.WantTopics("a")

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.M.HotSwitchover(ctx, 0); err != context.Canceled {
			t.Errorf("with a ctx that has ended: %v", err)
		}
		if harness.After(time.Second); w.M.Metrics().HotSwitchovers != 3 {
			t.Error("it began all the same")
		}
	})
}

// TestRefusedSwitchovers: what cannot be switched over says so.
func TestRefusedSwitchovers(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.MaxConnectAttempts = 1
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		want := func(shard int, err error) {
			t.Helper()
			w.Hot(shard).Want(t, err, 0)
		}
		want(0, wsshard.ErrUnknownShard)
		w.Subscribe("a")
		want(0, wsshard.ErrNotConnected)
		w.Net.OnDial(harness.HangingDial)
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		want(0, wsshard.ErrNotConnected)
		want(1, wsshard.ErrUnknownShard)
		want(-1, wsshard.ErrUnknownShard)
		harness.After(11 * time.Second)
		want(0, wsshard.ErrShardParked)
		want(0, wsshard.ErrNotConnected) // it is down, too
		w.M.Stop(context.Background())
		want(0, wsshard.ErrStopped)
	})
}

// TestAskedInTheLastCallback: what is asked for as a failed switchover ends begins another.
func TestAskedInTheLastCallback(t *testing.T) {
	var m atomic.Pointer[wsshard.ShardManager[string]]
	harness.Bubble(t, harness.NoJitter(), func(a *harness.App) wsshard.Handler[string] { return asking{a, &m} }, func(w *harness.World) {
		w.Start("a")
		m.Store(w.M)
		c := w.Hot(0)
		w.Srv.Conn(1).Kill()
		<-c.Done
		harness.After(5 * time.Second)
		if m := w.M.Metrics(); m.HotSwitchovers != 1 || m.HotSwitchoverFailures != 1 || m.Gaps != 0 {
			t.Errorf("%+v", m)
		}
	})
}

// turnWorld is a world of shards of one topic each, of which those in line, in this order, wait for the first's turn to end.
func turnWorld(t *testing.T, shards int, script func(w *harness.World, dialled func() []int)) {
	cfg := oneEach()
	cfg.Switchover = wsshard.SwitchoverConfig{MaxConcurrent: 1}
	cfg.ShardSelection = wsshard.Sequential
	order := &dialOrder{}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { return dialNoting{harness.Tagged{App: a}, order} }, func(w *harness.World) {
		w.Start("t0000")
		for _, sub := range harness.Numbered(shards)[1:] {
			w.Subscribe(sub)
			w.Sync()
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
	harness.After(0)
	o.mu.Lock()
	defer o.mu.Unlock()
	got := o.shards
	o.shards = nil
	return got
}

// dialNoting is tagged, and notes its dials: headers are asked for when the wait is over.
type dialNoting struct {
	harness.Tagged
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
	*harness.App
	m *atomic.Pointer[wsshard.ShardManager[string]]
}

func (a asking) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	a.App.OnDisconnect(ctx, cause, st)
	if m := a.m.Load(); m != nil && st.Generation == 2 {
		m.HotSwitchover(ctx, 0)
	}
}
