package subscriptions

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what do confirmations and rejections mean for a topic?

// wantFailed checks what Sync says of failed topics, in pairs of a topic and its error; it must not wait.
func wantFailed(w *harness.World, want map[string]error) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	err := w.M.Sync(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		w.T.Errorf("Sync waits")
		return
	}
	got := map[string]error{}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if one, ok := e.(interface{ Unwrap() []error }); ok {
				e = one.Unwrap()[0]
			}
			var se *wsshard.SubscriptionError[string]
			if !errors.As(e, &se) {
				w.T.Errorf("Sync: %v", e)
				continue
			}
			got[se.Sub] = se.Err
		}
	}
	if len(got) != len(want) {
		w.T.Errorf("failed %v, want %v", got, want)
	}
	for sub, e := range want {
		if !errors.Is(got[sub], e) {
			w.T.Errorf("%q: %v, want %v", sub, got[sub], e)
		}
	}
}

// numbering is a courtier in whose protocol each message of data carries the id of its request, as GraphQL's do: all that
// follows the first answers nothing any more, and is data.
func numbering(a *harness.App) wsshard.Handler[string] {
	c := harness.NewCourtier(a).(harness.Courtier)
	inner := c.Acknowledges
	c.Acknowledges = func(m wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
		if m.String() == "next" {
			return wsshard.Ack[string]{Request: 1}, true
		}
		return inner(m, st)
	}
	return c
}

// TestDataThatAcknowledges: an Ack that answers nothing open is data, and feeds the data timeout.
func TestDataThatAcknowledges(t *testing.T) {
	cfg := wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: 10 * time.Second}}
	harness.Bubble(t, cfg, numbering, func(w *harness.World) {
		w.Subscribe("a")
		w.M.Start(context.Background())
		for range 300 {
			w.Answer("next")
			time.Sleep(time.Second)
		}
		if m := w.M.Metrics(); m.HealthFailures != 0 || m.Connections != 1 {
			t.Errorf("%d health failures and %d connections while data flowed", m.HealthFailures, m.Connections)
		}
		if !w.M.IsSubscriptionFresh("a", 2*time.Second) {
			t.Error("data that came a second ago is not fresh")
		}
	})
}

// TestAnswerIsNoData: the first answer to a request feeds nothing; what takes a confirmed topic back, or repeats an answer, is
// what the verdict says.
func TestAnswerIsNoData(t *testing.T) {
	cfg := wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: harness.Off}}
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Subscribe("a", "b")
		w.M.Start(context.Background())
		fresh := func(want bool, after string) {
			t.Helper()
			if _, had := w.M.ShardFreshness(0); had != want {
				t.Errorf("%s: had data %v, want %v", after, had, want)
			}
		}
		w.Answer("ack 0 +a")
		fresh(false, "the answer for a topic")
		w.Answer("ack 1")
		fresh(false, "the answer for the rest")
		w.Answer("ack 1")
		fresh(true, "the same once more")
	})
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			wsshard.Handler[string]
			harness.Acknowledges
			harness.Inspects
		}{a, harness.NewCourtier(a).(harness.Courtier).Acknowledges, func(wsshard.Message, wsshard.ConnectionState) wsshard.Verdict[string] {
			return wsshard.Verdict[string]{NoData: true}
		}}
	}, func(w *harness.World) {
		w.Subscribe("a")
		w.M.Start(context.Background())
		for range 3 {
			w.Answer("ack 1")
		}
		if _, had := w.M.ShardFreshness(0); had {
			t.Error("a message whose verdict says that it is no data is data")
		}
	})
}

// wantSyncWaits checks that Sync waits for an answer still.
func wantSyncWaits(w *harness.World, subs ...string) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	if err := w.M.Sync(ctx, subs...); !errors.Is(err, context.DeadlineExceeded) {
		w.T.Errorf("Sync(%q): %v, want it to wait", subs, err)
	}
}

// wantRejections checks the events of rejection since the last look: topics and errors in turn.
func wantRejections(w *harness.World, want ...any) {
	w.T.Helper()
	evs := w.App.TakeEvents(wsshard.EventSubscriptionRejected)
	if len(evs) != len(want)/2 {
		w.T.Errorf("%d rejections, want %d: %+v", len(evs), len(want)/2, evs)
		return
	}
	for i, ev := range evs {
		slices.Sort(ev.Subs)
		if strings.Join(ev.Subs, ",") != want[2*i] || !errors.Is(ev.Err, want[2*i+1].(error)) || ev.ShardID != 0 || ev.Generation == 0 {
			w.T.Errorf("rejected %q with %v (shard %d, generation %d), want %q with %v", ev.Subs, ev.Err, ev.ShardID, ev.Generation, want[2*i], want[2*i+1])
		}
	}
}

func TestAcksConfirm(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 2}, Health: wsshard.HealthConfig{DataTimeout: harness.Off}}
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b", "c")
		w.WantWritten("+a,b", "+c")
		wantSyncWaits(w)
		w.Answer("ack 1")
		wantSyncWaits(w)
		wantSyncWaits(w, "a", "c")
		w.Sync("a", "b")
		w.Answer("ack 0 +c")
		w.Sync()
		harness.After(5 * time.Minute)
		if w.WantWritten(); len(w.App.TakeEvents(wsshard.EventSubscriptionRejected)) > 0 {
			t.Error("rejected")
		}
		w.WantTopics("a", "b", "c")
	})
}

// Acknowledgements are delivered like any other message.
func TestAcksAreDelivered(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		w.WantGot("ack 1")
	})
}

// A rejected topic fails alone: its place is kept, the connection goes on, and nothing asks again by itself.
func TestAckRejects(t *testing.T) {
	harness.Bubble(t, wsshard.Config{DisableHotSwitchover: true, Health: wsshard.HealthConfig{DataTimeout: harness.Off}}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b", "c")
		w.WantWritten("+a,b,c")
		w.Answer("ack 1 -b !why")
		wantRejections(w, "b", harness.ErrWhy)
		wantFailed(w, map[string]error{"b": harness.ErrWhy})
		w.Sync("a", "c")
		if _, ok := w.M.SubscriptionShard("b"); !ok || w.M.TotalSubscriptions() != 3 || w.M.Metrics().SubscriptionsRejected != 1 {
			t.Errorf("its place is lost, or it was not counted: %+v", w.M.Metrics())
		}
		harness.After(10 * time.Minute)
		w.WantWritten()
		w.WantCauses()

		w.M.Resubscribe("b") // asks once more
		w.WantWritten("+b")
		wantSyncWaits(w)
		w.Answer("ack 0 -b")
		wantRejections(w, "b", wsshard.ErrRejected)
		wantFailed(w, map[string]error{"b": wsshard.ErrRejected})

		w.M.Reconnect(0) // and so does the next connection
		harness.After(time.Second)
		w.WantWritten("+a,c,b")
		w.Answer("ack 3")
		w.Sync()
		wantRejections(w)
	})
}

func TestAckRejectsAll(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b")
		w.Answer("ack 1 !why")
		wantRejections(w, "a,b", harness.ErrWhy)
		wantFailed(w, map[string]error{"a": harness.ErrWhy, "b": harness.ErrWhy})
		harness.After(10 * time.Minute) // a connection without topics owes no data
		w.WantCauses()
	})
}

// A topic that is unsubscribed while it failed leaves nothing behind.
func TestUnsubscribeOfFailed(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b")
		w.WantWritten("+a,b")
		w.Answer("ack 0 +a -b")
		w.M.Unsubscribe("b")
		w.Sync()
		w.WantWritten()
		w.Subscribe("b")
		w.WantWritten("+b")
		w.Answer("ack 0 +b")
		w.Sync()
	})
}

// Without an answer a topic is asked for once more, and then given up, at the exact instants.
func TestAckTimeoutInstants(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: harness.Off, PingInterval: harness.Off}}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b")
		begin := time.Now()
		w.Answer("ack 1 +a")
		w.WantWritten("+a,b")
		synced := make(chan time.Duration, 1)
		go func() {
			w.M.Sync(context.Background())
			synced <- time.Since(begin)
		}()
		harness.After(time.Minute)
		w.WantWritten("+b")
		log := w.Srv.Conn(0).FrameLog()
		if at := log[len(log)-1].At.Sub(begin); at != 10*time.Second {
			t.Errorf("asked again after %v", at)
		}
		evs := w.App.TakeEvents(wsshard.EventSubscriptionRejected)
		if len(evs) != 1 || evs[0].Time.Sub(begin) != 20*time.Second || !errors.Is(evs[0].Err, wsshard.ErrAckTimeout) || !slices.Equal(evs[0].Subs, []string{"b"}) {
			t.Errorf("events: %+v", evs)
		}
		if at := <-synced; at != 20*time.Second {
			t.Errorf("Sync returned after %v", at)
		}
		wantFailed(w, map[string]error{"b": wsshard.ErrAckTimeout})
		if n := w.M.Metrics().SubscriptionsRejected; n != 1 {
			t.Errorf("%d rejected", n)
		}
		harness.After(10 * time.Minute) // never in a loop
		w.WantWritten()

		w.Answer("ack 1") // the first writing: older than the last
		wantFailed(w, map[string]error{"b": wsshard.ErrAckTimeout})
		w.Answer("ack 2") // late, but true
		w.Sync()
		w.WantCauses()
	})
}

// The second writing may be answered, too.
func TestAckAfterSecondWriting(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: 3 * time.Second}}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		harness.After(4 * time.Second)
		w.WantWritten("+a", "+a")
		w.Answer("ack 2")
		harness.After(15 * time.Second)
		w.Sync()
		wantRejections(w)
		w.WantWritten()
	})
}

// With AckTimeout off a topic waits for its answer as long as it takes.
func TestAckTimeoutOff(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: harness.Off}, Health: wsshard.HealthConfig{DataTimeout: harness.Off}}, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a")
		w.WantWritten("+a")
		harness.After(10 * time.Minute)
		w.WantWritten()
		wantSyncWaits(w)
		w.Answer("ack 1")
		w.Sync()
	})
}

// The next connection asks for what failed on the last, without the failures of that.
func TestFailedTopicsAndTheNextConnection(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: time.Second}, Backoff: wsshard.BackoffConfig{DisableJitter: true}}
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		w.Launch("a", "b", "c")
		w.Answer("ack 1 +a -b !why")
		harness.After(3 * time.Second)
		wantRejections(w, "b", harness.ErrWhy, "c", wsshard.ErrAckTimeout)
		wantFailed(w, map[string]error{"b": harness.ErrWhy, "c": wsshard.ErrAckTimeout})
		w.Srv.Conn(0).Kill()
		harness.After(500 * time.Millisecond)
		w.WantWritten("+a,b,c")
		wantSyncWaits(w)
		w.Answer("ack 0 +a,b,c")
		w.Sync()
	})
}

// slowWrite is a network whose writes return a second after the peer had the bytes.
func slowWrite(n func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := n(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return slowWriter{c}, nil
	}
}

type slowWriter struct{ net.Conn }

func (w slowWriter) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	time.Sleep(time.Second)
	return n, err
}

// An answer may come before the write of its request has returned.
func TestAckFasterThanWrite(t *testing.T) {
	var dial func(ctx context.Context, network, addr string) (net.Conn, error)
	cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, addr)
	}}}
	harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
		dial = slowWrite(w.Net.DialContext)
		w.Launch("a", "b")
		harness.After(1500 * time.Millisecond) // the upgrade is written, and the request nearly
		w.Answer("ack 1 -b !why")
		wantSyncWaits(w)
		harness.After(time.Second)
		wantFailed(w, map[string]error{"b": harness.ErrWhy})
		wantRejections(w, "b", harness.ErrWhy)
		w.M.Resubscribe("b")
		harness.After(500 * time.Millisecond)
		w.Answer("ack 2")
		harness.After(time.Second)
		w.Sync()
		w.WantWritten("+a,b", "+b")
	})
}
