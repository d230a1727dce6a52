package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: in which order is what is sent written, and whom does that hold up?

func TestSendInOrder(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1, ShardSelection: wsshard.Sequential}, nil, func(w *harness.World) {
		w.Start("a", "b")
		synctest.Wait()
		a, b := w.Peer("a"), w.Peer("b")
		a.Got()
		b.Got()
		var want []string
		for i := range 100 {
			word := fmt.Sprint("m", i)
			want = append(want, word)
			msg := wsshard.Text(word)
			if i%2 == 1 {
				msg = wsshard.Binary([]byte(word))
			}
			if err := w.M.Send(context.Background(), 0, msg); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := a.Got(); !slices.Equal(got, want) {
			t.Errorf("server received %q", got)
		}
		if got := b.Got(); len(got) != 0 {
			t.Errorf("the other shard wrote %q", got)
		}
	})
}

// Each sender's messages keep their order, and none is lost.
func TestSendConcurrently(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start()
		var senders sync.WaitGroup
		for i := range 20 {
			senders.Go(func() {
				for j := range 50 {
					if err := w.M.Send(context.Background(), 0, wsshard.Text(fmt.Sprint(i, " ", j))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		senders.Wait()
		synctest.Wait()
		next := make([]int, 20)
		for _, word := range w.Srv.Conn(0).Got() {
			var i, j int
			fmt.Sscan(word, &i, &j)
			if next[i] != j {
				t.Fatalf("sender %d: %d after %d", i, j, next[i])
			}
			next[i]++
		}
		if slices.Min(next) != 50 {
			t.Errorf("received of each sender: %v", next)
		}
	})
}

// Send waits for the pace, and takes turns with requests: neither starves the other.
func TestSendWithinThePace(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Start()
		begin := time.Now()
		w.Subscribe("a", "b", "c")
		var senders sync.WaitGroup
		for i := range 3 {
			senders.Go(func() {
				for j := range 3 {
					if err := w.M.Send(context.Background(), 0, wsshard.Text(fmt.Sprint("m", i, j))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		w.Sync()
		if took := time.Since(begin); took != 5500*time.Millisecond && took != 4400*time.Millisecond {
			t.Errorf("three requests among messages took %v, want every second place", took)
		}
		senders.Wait()
		if took := time.Since(begin); took != 12100*time.Millisecond {
			t.Errorf("twelve frames took %v, want eleven windows", took)
		}
		w.WantTopics("a", "b", "c")
		wantPace(w, 1, time.Second)
	})
}

// One who gives up while his message waits hears why, and it is not written any more.
func TestSendCancelled(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Start("a")
		why := errors.New("too late")
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second/2, why)
		defer cancel()
		begin := time.Now()
		if err := w.M.Send(ctx, 0, wsshard.Text("x")); err != why || time.Since(begin) != time.Second/2 {
			t.Errorf("Send: %v after %v", err, time.Since(begin))
		}
		if err := w.M.Send(ctx, 0, wsshard.Text("y")); err != why {
			t.Errorf("Send with a ctx that is over: %v", err)
		}
		if err := w.M.Send(context.Background(), 0, wsshard.Text("z")); err != nil {
			t.Error(err)
		}
		w.WantWire(0, "+a", "z")
	})
}

func TestSendRefused(t *testing.T) {
	send := func(w *harness.World, id int, msg wsshard.Message, want error) {
		t.Helper()
		if err := w.M.Send(context.Background(), id, msg); !errors.Is(err, want) {
			t.Errorf("Send(%d, %q): %v, want %v", id, msg, err, want)
		}
	}
	cfg := wsshard.Config{DisableAutoRebalance: true}
	cfg.Connection.MaxConnectAttempts = 2
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		hi := wsshard.Text("hi")
		send(w, 0, hi, wsshard.ErrUnknownShard)
		w.Subscribe("a")
		send(w, 0, hi, wsshard.ErrNotConnected)
		w.Start()
		for _, id := range []int{-1, 1, math.MaxInt} {
			send(w, id, hi, wsshard.ErrUnknownShard)
		}
		for _, msg := range []wsshard.Message{{}, wsshard.Binary(nil), wsshard.Text("\xff"), {Type: 2, Data: []byte("x")}, {Type: -1, Data: []byte("x")}} {
			send(w, 0, msg, wsshard.ErrInvalidMessage)
		}
		send(w, 0, wsshard.Binary([]byte("\xff")), nil)
		w.WantWire(0, "+a", "\xff")
		w.Srv.Down()
		synctest.Wait()
		send(w, 0, hi, wsshard.ErrNotConnected)
		harness.After(time.Minute)
		send(w, 0, hi, wsshard.ErrShardParked)
		send(w, 0, hi, wsshard.ErrNotConnected) // it is down, too
		w.M.Stop(context.Background())
		send(w, 0, hi, wsshard.ErrStopped)
	})
}

// A message that waits when its connection is lost was not written, and is not written later. (A switchover loses none: see
// TestQueuedSendsMove.)
func TestSendDoesNotSurvive(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(w *harness.World)
		want error
	}{
		"lost":      {func(w *harness.World) { w.Srv.Conn(0).Kill() }, wsshard.ErrNotConnected},
		"reconnect": {func(w *harness.World) { w.M.Reconnect(0) }, wsshard.ErrNotConnected},
		"stopped":   {func(w *harness.World) { w.M.Stop(context.Background()) }, wsshard.ErrStopped},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := slowly()
			cfg.Subscribe.Window = time.Hour
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Start("a")
				result := make(chan error, 1)
				go func() { result <- w.M.Send(context.Background(), 0, wsshard.Text("x")) }()
				synctest.Wait()
				c.end(w)
				if err := <-result; !errors.Is(err, c.want) {
					t.Errorf("Send: %v, want %v", err, c.want)
				}
				harness.After(time.Second)
				if n := w.Srv.Conns(); n > 1 {
					harness.After(2 * time.Hour)
					w.WantWire(1, "+a")
				}
			})
		})
	}
}

// A callback takes the writing goroutine away while a Send waits: the Send is answered all the same.
func TestSendBesideAGoexit(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		sent := make(chan error, 1)
		first := true
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if first {
				first = false
				go func() { sent <- w.M.Send(context.Background(), 0, wsshard.Text("hello")) }()
				time.Sleep(time.Second)
				runtime.Goexit()
			}
			return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
		}
		w.Begin("a")
		harness.After(time.Minute)
		select {
		case err := <-sent:
			if !errors.Is(err, wsshard.ErrNotConnected) {
				t.Errorf("Send: %v", err)
			}
		default:
			t.Error("Send still waits")
		}
		w.WantTopics("a")
	})
}
