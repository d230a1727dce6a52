package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does OnDisconnect hear, and when?

// witness is an app that keeps what it hears of each connection, and the context that each message came with.
type witness struct {
	*harness.App
	log      []string
	contexts []context.Context
	last     context.Context // of the last OnDisconnect
}

func (x *witness) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if ctx.Err() != nil {
		x.log = append(x.log, "dead context")
	}
	x.contexts = append(x.contexts, ctx)
	x.App.OnMessage(ctx, msg, st)
	x.log = append(x.log, fmt.Sprintf("%d:%s", st.Generation, msg))
}

func (x *witness) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	if ctx.Err() != nil {
		x.log = append(x.log, "dead context")
	}
	x.last = ctx
	x.log = append(x.log, fmt.Sprintf("%d ends", st.Generation))
	x.App.OnDisconnect(ctx, cause, st)
}

// witnessed is Bubble with a witness.
func witnessed(t *testing.T, cfg wsshard.Config, script func(w *harness.World, x *witness)) {
	t.Helper()
	x := &witness{}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { x.App = a; return x }, func(w *harness.World) { script(w, x) })
}

// wantLog checks what was heard since the last look.
func (x *witness) wantLog(t *testing.T, want ...string) {
	t.Helper()
	harness.After(0)
	if !slices.Equal(x.log, want) {
		t.Errorf("heard %q, want %q", x.log, want)
	}
	x.log = nil
}

// TestTrueCause: OnDisconnect hears once of a connection, after its last message, and why it really ended; the contexts of
// its messages end with it, for the same cause.
func TestTrueCause(t *testing.T) {
	noSwitch := wsshard.Config{DisableHotSwitchover: true}
	for _, tc := range []struct {
		name string
		cfg  wsshard.Config
		end  func(w *harness.World)
		want func(error) bool
	}{
		{"close frame", noSwitch, func(w *harness.World) { w.Srv.Conn(0).Close(4007, "go") }, func(err error) bool {
			var ce *wsshard.CloseError
			return errors.As(err, &ce) && *ce == wsshard.CloseError{Code: 4007, Text: "go"}
		}},
		{"EOF", noSwitch, func(w *harness.World) { w.Srv.Conn(0).Kill() }, harness.Is(io.ErrUnexpectedEOF)},
		{"reset", noSwitch, func(w *harness.World) { w.Srv.Conn(0).Reset() }, harness.Is(syscall.ECONNRESET)},
		{"Reconnect", noSwitch, func(w *harness.World) { w.M.Reconnect(0) }, harness.Is(wsshard.ErrReconnect)},
		{"HotSwitchover that is disabled", noSwitch, func(w *harness.World) { w.M.HotSwitchover(context.Background(), 0) },
			harness.Is(wsshard.ErrReconnect)},
		{"silence", noSwitch, func(w *harness.World) { time.Sleep(31 * time.Second) }, harness.Is(wsshard.ErrDataTimeout)},
		{"black hole", wsshard.Config{DisableHotSwitchover: true, Health: wsshard.HealthConfig{DataTimeout: -1}}, func(w *harness.World) {
			w.Net.Conns()[0].BlackHole(true)
			time.Sleep(5 * time.Minute)
		}, harness.Is(wsshard.ErrPongTimeout)},
		{"lifetime", wsshard.Config{
			DisableHotSwitchover: true, Health: wsshard.HealthConfig{DataTimeout: -1},
		}, func(*harness.World) { time.Sleep(23*time.Hour + time.Minute) }, harness.Is(wsshard.ErrMaxLifetime)},
		{"stuck write", wsshard.Config{DisableHotSwitchover: true, Health: wsshard.HealthConfig{PingInterval: -1}}, func(w *harness.World) {
			w.Net.Conns()[0].StallWrite(true)
			w.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<20)))
		}, harness.Is(wsshard.ErrWriteTimeout)},
		{"HotSwitchover", wsshard.Config{}, func(w *harness.World) { w.M.HotSwitchover(context.Background(), 0) }, harness.Is(wsshard.ErrReplaced)},
		{"silence with switchover", wsshard.Config{}, func(w *harness.World) { time.Sleep(35 * time.Second) }, harness.Is(wsshard.ErrReplaced)},
		{"lifetime with switchover", wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: -1}},
			func(*harness.World) { time.Sleep(23*time.Hour + time.Minute) }, harness.Is(wsshard.ErrReplaced)},
		{"Stop", wsshard.Config{}, func(w *harness.World) { w.M.Stop(context.Background()) }, harness.Is(wsshard.ErrStopped)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			witnessed(t, tc.cfg, func(w *harness.World, x *witness) {
				w.Start("a")
				w.WantTopics("a")
				w.Topics.Publish("a", "1")
				harness.After(0)
				if err := x.contexts[0].Err(); err != nil {
					t.Errorf("the context ended before the connection: %v", err)
				}
				tc.end(w)
				harness.After(5 * time.Second)
				causes := w.App.TakeCauses()
				if len(causes) != 1 || !tc.want(causes[0]) {
					t.Fatalf("disconnected with %q", causes)
				}
				if cause := context.Cause(x.contexts[0]); !tc.want(cause) {
					t.Errorf("the context of a message ended with %v", cause)
				}
				if tc.name != "Stop" && x.last.Err() != nil {
					t.Error("the context of OnDisconnect has ended though nobody gave up waiting")
				}
				x.wantLog(t, "1:a:1", "1 ends")
			})
		})
	}
}

// TestCloseFrameBehindData: the server sends data and a close frame and closes. Our next write fails while the handler is
// still busy with the data: the close frame is the true cause all the same, and no data is lost.
func TestCloseFrameBehindData(t *testing.T) {
	witnessed(t, wsshard.Config{Health: wsshard.HealthConfig{PingInterval: -1}}, func(w *harness.World, x *witness) {
		w.Start("a")
		w.WantTopics("a")
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(time.Second) }
		for i := range 5 {
			w.Topics.Publish("a", fmt.Sprint(i))
		}
		p := w.Srv.Conn(0)
		p.Close(4008, "bye")
		p.Kill()
		harness.After(time.Millisecond)
		if err := w.M.Send(context.Background(), 0, wsshard.Text("into the void")); err == nil {
			t.Error("Send succeeded")
		}
		harness.After(time.Second)
		if causes := w.App.TakeCauses(); len(causes) != 0 {
			t.Errorf("disconnected too early, with %v", causes)
		}
		harness.After(4500 * time.Millisecond)
		var ce *wsshard.CloseError
		if causes := w.App.TakeCauses(); len(causes) != 1 || !errors.As(causes[0], &ce) || ce.Code != 4008 {
			t.Errorf("disconnected with %v, want close code 4008", causes)
		}
		x.wantLog(t, "1:a:0", "1:a:1", "1:a:2", "1:a:3", "1:a:4", "1 ends")
	})
}

// TestDrainKeepsContexts: in a switchover the old connection delivers its last with a context that lives, then ends, then the
// new one delivers.
func TestDrainKeepsContexts(t *testing.T) {
	witnessed(t, wsshard.Config{}, func(w *harness.World, x *witness) {
		w.Start("a")
		w.WantTopics("a")
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			time.Sleep(1400 * time.Millisecond) // over the cutover
			if ctx.Err() != nil {
				t.Error("the context ended while the message was handled")
			}
		}
		w.Topics.Publish("a", "1")
		w.Topics.Publish("a", "2")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.App.Message = nil
		w.Topics.Publish("a", "3")
		x.wantLog(t, "1:a:1", "1:a:2", "1 ends", "2:a:3")
		if x.contexts[0].Err() == nil || x.contexts[1].Err() == nil || x.contexts[2].Err() != nil {
			t.Error("the contexts of the old connection live, or that of the new one does not")
		}
	})
}

// TestNothingIsDeliveredAfterStop: while a write is stuck and the peer goes on sending, Stop ends delivery at once.
func TestNothingIsDeliveredAfterStop(t *testing.T) {
	witnessed(t, wsshard.Config{}, func(w *harness.World, x *witness) {
		w.Start("a")
		w.WantTopics("a")
		w.Net.Conns()[0].StallWrite(true)
		go w.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<20)))
		sent := make(chan int)
		go func() {
			n := 0
			for ; w.Srv.Conn(0).Send(fmt.Sprint(n)) == nil && n < 40; n++ {
				time.Sleep(100 * time.Millisecond)
			}
			sent <- n
		}()
		harness.After(950 * time.Millisecond)
		before := len(x.log)
		w.M.Stop(context.Background())
		if n := <-sent; n <= before {
			t.Fatalf("the peer sent %d messages, %d of them before Stop", n, before)
		}
		if before != 10 || len(x.log) != before+1 || x.log[before] != "1 ends" {
			t.Errorf("%d before Stop, then %q", before, x.log[before:])
		}
	})
}

// TestDisconnectContext: it lives while OnDisconnect runs, until Stop gives up waiting.
func TestDisconnectContext(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(a *harness.App) wsshard.Handler[string] { return &slowGoodbye{App: a} }, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.M.Stop(ctx); err != context.DeadlineExceeded {
			t.Errorf("Stop: %v", err)
		}
		w.WantCauses(wsshard.ErrStopped)
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("the context of OnDisconnect ended after %v", d)
		}
		harness.WantLoops(t, "given up", 0)
	})
}

// slowGoodbye is an app whose OnDisconnect lasts as long as it may.
type slowGoodbye struct{ *harness.App }

func (s *slowGoodbye) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	<-ctx.Done()
	s.App.OnDisconnect(ctx, cause, st)
}
