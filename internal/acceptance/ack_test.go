package acceptance

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// courtier is a handler whose server answers "ack 7 +a,b -c !why": request 7 (0: by topic), confirmed, rejected, error.
// Requests carry their id in the app's ids.
type courtier struct {
	*app
	acknowledges
	resubscribes
}

func newCourtier(a *app) wsshard.Handler[string] {
	return courtier{a,
		func(m wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
			words := strings.Fields(m.String())
			if len(words) == 0 || words[0] != "ack" {
				return ack, false
			}
			ack.Request, _ = strconv.ParseUint(words[1], 10, 64)
			for _, word := range words[2:] {
				switch topics := strings.Split(word[1:], ","); word[0] {
				case '+':
					ack.Confirmed = topics
				case '-':
					ack.Rejected = topics
				case '!':
					ack.Err = errWhy
				}
			}
			return ack, true
		},
		func(req wsshard.Request[string]) (wsshard.Message, error) { return a.request("=", req) },
	}
}

var errWhy = errors.New("why")

// wantWritten checks the requests that the newest connection wrote since the last look.
func (w *world) wantWritten(want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.srv.Conn(w.srv.Conns() - 1).Got(); !slices.Equal(got, want) {
		w.t.Errorf("written %q, want %q", got, want)
	}
}

// answer has the newest connection's server say something.
func (w *world) answer(text string) {
	synctest.Wait()
	w.srv.Conn(w.srv.Conns() - 1).Send(text)
	synctest.Wait()
}

// wantFailed checks what Sync says of failed topics, in pairs of a topic and its error; it must not wait.
func (w *world) wantFailed(want map[string]error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	err := w.m.Sync(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		w.t.Errorf("Sync waits")
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
				w.t.Errorf("Sync: %v", e)
				continue
			}
			got[se.Sub] = se.Err
		}
	}
	if len(got) != len(want) {
		w.t.Errorf("failed %v, want %v", got, want)
	}
	for sub, e := range want {
		if !errors.Is(got[sub], e) {
			w.t.Errorf("%q: %v, want %v", sub, got[sub], e)
		}
	}
}

// numbering is a courtier in whose protocol each message of data carries the id of its request, as GraphQL's do: all that
// follows the first answers nothing any more, and is data.
func numbering(a *app) wsshard.Handler[string] {
	c := newCourtier(a).(courtier)
	inner := c.acknowledges
	c.acknowledges = func(m wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
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
	bubble(t, cfg, numbering, func(w *world) {
		w.subscribe("a")
		w.m.Start(context.Background())
		for range 300 {
			w.answer("next")
			time.Sleep(time.Second)
		}
		if m := w.m.Metrics(); m.HealthFailures != 0 || m.Connections != 1 {
			t.Errorf("%d health failures and %d connections while data flowed", m.HealthFailures, m.Connections)
		}
		if !w.m.IsSubscriptionFresh("a", 2*time.Second) {
			t.Error("data that came a second ago is not fresh")
		}
	})
}

// TestAnswerIsNoData: the first answer to a request feeds nothing; what takes a confirmed topic back, or repeats an answer, is
// what the verdict says.
func TestAnswerIsNoData(t *testing.T) {
	cfg := wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: off}}
	bubble(t, cfg, newCourtier, func(w *world) {
		w.subscribe("a", "b")
		w.m.Start(context.Background())
		fresh := func(want bool, after string) {
			t.Helper()
			if _, had := w.m.ShardFreshness(0); had != want {
				t.Errorf("%s: had data %v, want %v", after, had, want)
			}
		}
		w.answer("ack 0 +a")
		fresh(false, "the answer for a topic")
		w.answer("ack 1")
		fresh(false, "the answer for the rest")
		w.answer("ack 1")
		fresh(true, "the same once more")
	})
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		return struct {
			wsshard.Handler[string]
			acknowledges
			inspects
		}{a, newCourtier(a).(courtier).acknowledges, func(wsshard.Message, wsshard.ConnectionState) wsshard.Verdict[string] {
			return wsshard.Verdict[string]{NoData: true}
		}}
	}, func(w *world) {
		w.subscribe("a")
		w.m.Start(context.Background())
		for range 3 {
			w.answer("ack 1")
		}
		if _, had := w.m.ShardFreshness(0); had {
			t.Error("a message whose verdict says that it is no data is data")
		}
	})
}

// wantSyncWaits checks that Sync waits for an answer still.
func (w *world) wantSyncWaits(subs ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	if err := w.m.Sync(ctx, subs...); !errors.Is(err, context.DeadlineExceeded) {
		w.t.Errorf("Sync(%q): %v, want it to wait", subs, err)
	}
}

// wantRejections checks the events of rejection since the last look: topics and errors in turn.
func (w *world) wantRejections(want ...any) {
	w.t.Helper()
	evs := w.app.takeEvents(wsshard.EventSubscriptionRejected)
	if len(evs) != len(want)/2 {
		w.t.Errorf("%d rejections, want %d: %+v", len(evs), len(want)/2, evs)
		return
	}
	for i, ev := range evs {
		slices.Sort(ev.Subs)
		if strings.Join(ev.Subs, ",") != want[2*i] || !errors.Is(ev.Err, want[2*i+1].(error)) || ev.ShardID != 0 || ev.Generation == 0 {
			w.t.Errorf("rejected %q with %v (shard %d, generation %d), want %q with %v", ev.Subs, ev.Err, ev.ShardID, ev.Generation, want[2*i], want[2*i+1])
		}
	}
}

func (w *world) launch(subs ...string) {
	w.t.Helper()
	w.subscribe(subs...)
	if err := w.m.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func TestAcksConfirm(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 2}, Health: wsshard.HealthConfig{DataTimeout: off}}
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a", "b", "c")
		w.wantWritten("+a,b", "+c")
		w.wantSyncWaits()
		w.answer("ack 1")
		w.wantSyncWaits()
		w.wantSyncWaits("a", "c")
		w.sync("a", "b")
		w.answer("ack 0 +c")
		w.sync()
		after(5 * time.Minute)
		if w.wantWritten(); len(w.app.takeEvents(wsshard.EventSubscriptionRejected)) > 0 {
			t.Error("rejected")
		}
		w.wantTopics("a", "b", "c")
	})
}

// Acknowledgements are delivered like any other message.
func TestAcksAreDelivered(t *testing.T) {
	bubble(t, wsshard.Config{}, newCourtier, func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		w.wantGot("ack 1")
	})
}

// A rejected topic fails alone: its place is kept, the connection goes on, and nothing asks again by itself.
func TestAckRejects(t *testing.T) {
	bubble(t, wsshard.Config{DisableHotSwitchover: true, Health: wsshard.HealthConfig{DataTimeout: off}}, newCourtier, func(w *world) {
		w.launch("a", "b", "c")
		w.wantWritten("+a,b,c")
		w.answer("ack 1 -b !why")
		w.wantRejections("b", errWhy)
		w.wantFailed(map[string]error{"b": errWhy})
		w.sync("a", "c")
		if _, ok := w.m.SubscriptionShard("b"); !ok || w.m.TotalSubscriptions() != 3 || w.m.Metrics().SubscriptionsRejected != 1 {
			t.Errorf("its place is lost, or it was not counted: %+v", w.m.Metrics())
		}
		after(10 * time.Minute)
		w.wantWritten()
		w.wantCauses()

		w.m.Resubscribe("b") // asks once more
		w.wantWritten("+b")
		w.wantSyncWaits()
		w.answer("ack 0 -b")
		w.wantRejections("b", wsshard.ErrRejected)
		w.wantFailed(map[string]error{"b": wsshard.ErrRejected})

		w.m.Reconnect(0) // and so does the next connection
		after(time.Second)
		w.wantWritten("+a,c,b")
		w.answer("ack 3")
		w.sync()
		w.wantRejections()
	})
}

func TestAckRejectsAll(t *testing.T) {
	bubble(t, wsshard.Config{}, newCourtier, func(w *world) {
		w.launch("a", "b")
		w.answer("ack 1 !why")
		w.wantRejections("a,b", errWhy)
		w.wantFailed(map[string]error{"a": errWhy, "b": errWhy})
		after(10 * time.Minute) // a connection without topics owes no data
		w.wantCauses()
	})
}

// A topic that is unsubscribed while it failed leaves nothing behind.
func TestUnsubscribeOfFailed(t *testing.T) {
	bubble(t, wsshard.Config{}, newCourtier, func(w *world) {
		w.launch("a", "b")
		w.wantWritten("+a,b")
		w.answer("ack 0 +a -b")
		w.m.Unsubscribe("b")
		w.sync()
		w.wantWritten()
		w.subscribe("b")
		w.wantWritten("+b")
		w.answer("ack 0 +b")
		w.sync()
	})
}

// Without an answer a topic is asked for once more, and then given up, at the exact instants.
func TestAckTimeoutInstants(t *testing.T) {
	bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: off, PingInterval: off}}, newCourtier, func(w *world) {
		w.launch("a", "b")
		begin := time.Now()
		w.answer("ack 1 +a")
		w.wantWritten("+a,b")
		synced := make(chan time.Duration, 1)
		go func() {
			w.m.Sync(context.Background())
			synced <- time.Since(begin)
		}()
		after(time.Minute)
		w.wantWritten("+b")
		log := w.srv.Conn(0).FrameLog()
		if at := log[len(log)-1].At.Sub(begin); at != 10*time.Second {
			t.Errorf("asked again after %v", at)
		}
		evs := w.app.takeEvents(wsshard.EventSubscriptionRejected)
		if len(evs) != 1 || evs[0].Time.Sub(begin) != 20*time.Second || !errors.Is(evs[0].Err, wsshard.ErrAckTimeout) || !slices.Equal(evs[0].Subs, []string{"b"}) {
			t.Errorf("events: %+v", evs)
		}
		if at := <-synced; at != 20*time.Second {
			t.Errorf("Sync returned after %v", at)
		}
		w.wantFailed(map[string]error{"b": wsshard.ErrAckTimeout})
		if n := w.m.Metrics().SubscriptionsRejected; n != 1 {
			t.Errorf("%d rejected", n)
		}
		after(10 * time.Minute) // never in a loop
		w.wantWritten()

		w.answer("ack 1") // the first writing: older than the last
		w.wantFailed(map[string]error{"b": wsshard.ErrAckTimeout})
		w.answer("ack 2") // late, but true
		w.sync()
		w.wantCauses()
	})
}

// The second writing may be answered, too.
func TestAckAfterSecondWriting(t *testing.T) {
	bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: 3 * time.Second}}, newCourtier, func(w *world) {
		w.launch("a")
		after(4 * time.Second)
		w.wantWritten("+a", "+a")
		w.answer("ack 2")
		after(15 * time.Second)
		w.sync()
		w.wantRejections()
		w.wantWritten()
	})
}

// With AckTimeout off a topic waits for its answer as long as it takes.
func TestAckTimeoutOff(t *testing.T) {
	bubble(t, wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: off}, Health: wsshard.HealthConfig{DataTimeout: off}}, newCourtier, func(w *world) {
		w.launch("a")
		w.wantWritten("+a")
		after(10 * time.Minute)
		w.wantWritten()
		w.wantSyncWaits()
		w.answer("ack 1")
		w.sync()
	})
}

// The next connection asks for what failed on the last, without the failures of that.
func TestFailedTopicsAndTheNextConnection(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: time.Second}, Backoff: wsshard.BackoffConfig{DisableJitter: true}}
	bubble(t, cfg, newCourtier, func(w *world) {
		w.launch("a", "b", "c")
		w.answer("ack 1 +a -b !why")
		after(3 * time.Second)
		w.wantRejections("b", errWhy, "c", wsshard.ErrAckTimeout)
		w.wantFailed(map[string]error{"b": errWhy, "c": wsshard.ErrAckTimeout})
		w.srv.Conn(0).Kill()
		after(500 * time.Millisecond)
		w.wantWritten("+a,b,c")
		w.wantSyncWaits()
		w.answer("ack 0 +a,b,c")
		w.sync()
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
	bubble(t, cfg, newCourtier, func(w *world) {
		dial = slowWrite(w.net.DialContext)
		w.launch("a", "b")
		after(1500 * time.Millisecond) // the upgrade is written, and the request nearly
		w.answer("ack 1 -b !why")
		w.wantSyncWaits()
		after(time.Second)
		w.wantFailed(map[string]error{"b": errWhy})
		w.wantRejections("b", errWhy)
		w.m.Resubscribe("b")
		after(500 * time.Millisecond)
		w.answer("ack 2")
		after(time.Second)
		w.sync()
		w.wantWritten("+a,b", "+b")
	})
}
