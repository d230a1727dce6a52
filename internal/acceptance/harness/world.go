package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does a script do, and what does it want to see?

// World is a bubble with a network, a server of topics and a manager.
type World struct {
	T      *testing.T
	Net    *wstest.Net
	Srv    *wstest.Server
	Topics *wstest.Topics
	App    *App
	M      *wsshard.ShardManager[string]
	seen   int // dials that were looked at
}

// WantWritten checks the requests that the newest connection wrote since the last look.
func (w *World) WantWritten(want ...string) {
	w.T.Helper()
	synctest.Wait()
	if got := w.Srv.Conn(w.Srv.Conns() - 1).Got(); !slices.Equal(got, want) {
		w.T.Errorf("written %q, want %q", got, want)
	}
}

// Answer has the newest connection's server say something.
func (w *World) Answer(text string) {
	synctest.Wait()
	w.Srv.Conn(w.Srv.Conns() - 1).Send(text)
	synctest.Wait()
}

// Launch subscribes and starts, and lets everything happen that takes no time.
func (w *World) Launch(subs ...string) {
	w.T.Helper()
	w.Subscribe(subs...)
	if err := w.M.Start(context.Background()); err != nil {
		w.T.Fatal(err)
	}
	synctest.Wait()
}

// WantWire checks what the i-th connection has received since the last look.
func (w *World) WantWire(i int, want ...string) {
	w.T.Helper()
	synctest.Wait()
	if got := w.Srv.Conn(i).Got(); !slices.Equal(got, want) {
		w.T.Errorf("connection %d received %q, want %q", i, got, want)
	}
}

// Peer returns the one live connection that has a topic, as the server sees it.
func (w *World) Peer(topic string) *wstest.Peer {
	w.T.Helper()
	synctest.Wait()
	var found []*wstest.Peer
	for _, p := range w.Srv.Live() {
		if slices.Contains(w.Topics.On(p), topic) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		w.T.Fatalf("%q is on %d connections", topic, len(found))
	}
	return found[0]
}

// WantGap checks the one gap of shard 0 since the last look; last is when the last frame came before it.
func (w *World) WantGap(last, to time.Time, subs ...string) {
	w.T.Helper()
	from := last.Add(-DefaultLinger)
	evs := w.App.TakeEvents(wsshard.EventGap)
	if len(evs) != 1 {
		w.T.Errorf("%d gaps, want 1: %+v", len(evs), evs)
		return
	}
	ev := evs[0]
	slices.Sort(ev.Subs)
	if !ev.From.Equal(from) || !ev.To.Equal(to) || !slices.Equal(ev.Subs, subs) {
		w.T.Errorf("gap from %v to %v of %q, want %v to %v of %q", ev.From, ev.To, ev.Subs, from, to, subs)
	}
	sm := w.M.Metrics().Shards[0]
	if ev.Sure.IsZero() || ev.Sure.After(ev.From) {
		w.T.Errorf("nothing is missing before %v, and the gap begins at %v", ev.Sure, ev.From)
	}
	if ev.ShardID != 0 || ev.Generation != sm.Generation || !sm.LastGap.Equal(ev.To) {
		w.T.Errorf("gap of shard %d, generation %d; metrics: %d, %v", ev.ShardID, ev.Generation, sm.Generation, sm.LastGap)
	}
}

// WantNoGap checks that no gap was announced since the last look.
func (w *World) WantNoGap() {
	w.T.Helper()
	if evs := w.App.TakeEvents(wsshard.EventGap); len(evs) > 0 {
		w.T.Errorf("gaps: %+v", evs)
	}
}

// Start subscribes, starts and waits until all of it is true on the server.
func (w *World) Start(subs ...string) {
	w.T.Helper()
	w.Subscribe(subs...)
	if err := w.M.Start(context.Background()); err != nil {
		w.T.Fatal(err)
	}
	w.Sync()
}

// Subscribe subscribes, which must not fail.
func (w *World) Subscribe(subs ...string) {
	w.T.Helper()
	if _, err := w.M.Subscribe(subs...); err != nil {
		w.T.Fatal(err)
	}
}

// Sync waits until these topics are true on the server; with none, all of them.
func (w *World) Sync(subs ...string) {
	w.T.Helper()
	if err := w.M.Sync(context.Background(), subs...); err != nil {
		w.T.Fatalf("Sync: %v", err)
	}
	synctest.Wait() // written is not read yet
}

// WantGot checks what was delivered since the last look.
func (w *World) WantGot(want ...string) {
	w.T.Helper()
	if got := w.App.Take(); !slices.Equal(got, want) {
		w.T.Errorf("delivered %q, want %q", got, want)
	}
}

// WantTopics checks the server's own table: each topic on one live connection, and nothing else.
func (w *World) WantTopics(want ...string) {
	w.T.Helper()
	synctest.Wait()
	got := []string{}
	for topic, n := range w.Topics.All() {
		if n != 1 {
			w.T.Errorf("%q is on %d connections", topic, n)
		}
		got = append(got, topic)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.T.Errorf("server has %q, want %q", got, want)
	}
	if errs := w.Topics.Errors(); len(errs) > 0 {
		w.T.Errorf("protocol errors: %q", errs)
	}
}

// WantCauses checks what OnDisconnect heard since the last look.
func (w *World) WantCauses(want ...error) {
	w.T.Helper()
	got := w.App.TakeCauses()
	if len(got) != len(want) {
		w.T.Errorf("disconnected with %q, want %q", got, want)
		return
	}
	for i := range got {
		if !errors.Is(got[i], want[i]) {
			w.T.Errorf("disconnected with %q, want %q", got[i], want[i])
		}
	}
}

// PeerWith is the live connection that has topic: shards dial in any order.
func (w *World) PeerWith(topic string) *wstest.Peer {
	w.T.Helper()
	synctest.Wait()
	for _, p := range w.Srv.Live() {
		if slices.Contains(w.Topics.On(p), topic) {
			return p
		}
	}
	w.T.Fatalf("%q is on no connection", topic)
	return nil
}

// Numbered are n topics.
func Numbered(n int) []string {
	subs := make([]string, n)
	for i := range subs {
		subs[i] = fmt.Sprintf("t%04d", i)
	}
	return subs
}

// Dialled returns when each dial since the last look began, from since.
func (w *World) Dialled(since time.Time) (at []time.Duration) {
	synctest.Wait()
	for _, t := range w.Net.DialTimes()[w.seen:] {
		at = append(at, t.Sub(since))
		w.seen++
	}
	return at
}

// WantDials checks when it was dialled, as Dialled says it.
func (w *World) WantDials(since time.Time, want ...time.Duration) {
	w.T.Helper()
	if got := w.Dialled(since); !slices.Equal(got, want) {
		w.T.Errorf("dialled at %v, want %v", got, want)
	}
}

// WantState checks the state of a shard.
func (w *World) WantState(shard int, want wsshard.ShardState) {
	w.T.Helper()
	synctest.Wait()
	if got := w.M.Metrics().Shards[shard].State; got != want {
		w.T.Errorf("shard %d is %v, want %v", shard, got, want)
	}
}

// Begin starts the manager without waiting for anything, and says when.
func (w *World) Begin(subs ...string) time.Time {
	w.T.Helper()
	w.Subscribe(subs...)
	if err := w.M.Start(context.Background()); err != nil {
		w.T.Fatal(err)
	}
	return time.Now()
}

// EndedAt returns why and when the first connection ended, after so long.
func (w *World) EndedAt(begin time.Time, wait time.Duration) (cause error, at time.Duration) {
	w.T.Helper()
	After(wait)
	evs := w.App.TakeEvents(wsshard.EventDisconnected)
	if len(evs) == 0 {
		return nil, 0
	}
	return evs[0].Err, evs[0].Time.Sub(begin)
}
