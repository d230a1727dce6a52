package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does a panic, or a Goexit, of a callback cost?

// TestPanicInEveryCall: a callback that never returns costs what it does, and nothing else: the process and Stop survive.
func TestPanicInEveryCall(t *testing.T) {
	for _, callback := range harness.Callbacks {
		for _, kind := range harness.WaysOut {
			t.Run(callback+" "+kind.Name, func(t *testing.T) {
				everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
					var broken atomic.Bool
					broken.Store(true)
					w.e.At = func(_ context.Context, where string, _ wsshard.ConnectionState) {
						if where == callback && broken.Load() {
							kind.Leave()
						}
					}
					w.provoke()
					if n, calls := w.M.Metrics().HandlerPanics, w.e.Called(callback); n != uint64(calls) || n == 0 {
						t.Errorf("%d panics are counted of %d", n, calls)
					}
					broken.Store(false)
					w.M.Reconnect(0)
					w.M.Resubscribe("a", "b", "c")
					w.wantWell()
				})
			})
		}
	}
}

// TestPanicCostsOneMessage: the others of the connection are delivered, which lives on.
func TestPanicCostsOneMessage(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if msg.String() == "a:2" {
				panic("two")
			}
		}
		w.Start("a")
		w.WantTopics("a")
		for i := range 5 {
			w.Topics.Publish("a", fmt.Sprint(i))
		}
		w.WantGot("a:0", "a:1", "a:3", "a:4")
		if n := w.Srv.Conns(); n != 1 {
			t.Errorf("%d connections", n)
		}
		w.WantCauses()
	})
}

// TestPanicEndsTheSession: where there is no guard for each message, and wherever a callback leaves by Goexit, the
// connection ends with a *PanicError as its cause.
func TestPanicEndsTheSession(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		for _, kind := range harness.WaysOut {
			if !lowLatency && kind.Name != "Goexit" {
				continue
			}
			t.Run(fmt.Sprintf("%s lowLatency=%v", kind.Name, lowLatency), func(t *testing.T) {
				cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
				harness.Bubble(t, cfg, nil, func(w *harness.World) {
					w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { kind.Leave() }
					w.Start("a")
					w.WantTopics("a")
					w.Topics.Publish("a", "1")
					harness.After(time.Second)
					wantPanicCause(w, kind.Is)
					if code := w.Srv.Conn(0).CloseCode(); code != 1000 {
						t.Errorf("the server saw close code %d", code)
					}
					w.App.Message = nil
					w.WantTopics("a")
					w.Topics.Publish("a", "2")
					w.WantGot("a:2")
				})
			})
		}
	}
}

// wantPanicCause checks that OnDisconnect heard of one connection, which ended with a *PanicError with a stack.
func wantPanicCause(w *harness.World, is func(any) bool) {
	w.T.Helper()
	causes := w.App.TakeCauses()
	var pe *wsshard.PanicError
	if len(causes) != 1 || !errors.As(causes[0], &pe) {
		w.T.Fatalf("disconnected with %v, want one *PanicError", causes)
	}
	if !is(pe.Value) || len(pe.Stack) == 0 {
		w.T.Errorf("%v with %d bytes of stack", pe, len(pe.Stack))
	}
}

// TestGoexitWhileWriting: the write loop's callbacks too end the connection, and only that.
func TestGoexitWhileWriting(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		gone := false
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if !gone && slices.Contains(req.Subs, "b") {
				gone = true
				runtime.Goexit()
			}
			return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
		}
		w.Start("a")
		w.Subscribe("b")
		harness.After(time.Second)
		wantPanicCause(w, func(v any) bool { return v == "runtime.Goexit" })
		w.WantTopics("a", "b")
	})
}

// TestPanicInOnConnect: the connection was opened, so OnDisconnect hears of it, however OnConnect left.
func TestPanicInOnConnect(t *testing.T) {
	for _, kind := range harness.WaysOut {
		harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
			w.App.Connect = func(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
				if st.Generation == 1 {
					kind.Leave()
				}
				return nil, nil
			}
			var heard []error
			w.App.Judge = func(err error) bool {
				heard = append(heard, err)
				return true
			}
			w.Start("a")
			wantPanicCause(w, kind.Is)
			var pe *wsshard.PanicError
			if len(heard) != 1 || !errors.As(heard[0], &pe) || !kind.Is(pe.Value) || len(pe.Stack) == 0 {
				t.Errorf("%s: OnError heard %v", kind.Name, heard)
			}
			if n := w.M.Metrics().Connections; n != 2 {
				t.Errorf("%s: %d connections were opened, want 2", kind.Name, n)
			}
		})
	}
}

// TestPanicBeforeTheConnection: a failed attempt is a *DialError that leads to the panic.
func TestPanicBeforeTheConnection(t *testing.T) {
	for _, callback := range []string{"URL", "ConnectionHeaders", "Login"} {
		for _, kind := range harness.WaysOut {
			everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
				w.e.At = func(_ context.Context, where string, st wsshard.ConnectionState) {
					if where == callback && st.ReconnectAttempt == 0 {
						kind.Leave()
					}
				}
				if err := w.M.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				w.Sync()
				var de *wsshard.DialError
				var pe *wsshard.PanicError
				err := w.M.Metrics().Shards[0].LastError
				if !errors.As(err, &de) || !errors.As(err, &pe) || !kind.Is(pe.Value) || len(pe.Stack) == 0 {
					t.Errorf("%s, %s: %T %v", callback, kind.Name, err, err)
				}
				if n := w.e.Called("OnDisconnect"); n != 0 {
					t.Errorf("%s, %s: OnDisconnect of a connection that was not opened", callback, kind.Name)
				}
			})
		}
	}
}

// TestPanicInNew: it becomes New's error.
func TestPanicInNew(t *testing.T) {
	e := &harness.Every{At: func(context.Context, string, wsshard.ConnectionState) { panic(harness.ErrPanic) }}
	m, err := wsshard.New(e, wsshard.Config{})
	var pe *wsshard.PanicError
	if m != nil || !errors.As(err, &pe) || !errors.Is(err, harness.ErrPanic) || len(pe.Stack) == 0 {
		t.Errorf("New: %v, %v", m, err)
	}
}

// TestPanicInStart: it becomes Start's error, nothing runs, and the next Start is as good as the first.
func TestPanicInStart(t *testing.T) {
	everywhere(t, "Subscriptions", wsshard.Config{}, func(w everyWorld) {
		w.e.At = func(_ context.Context, where string, _ wsshard.ConnectionState) { panic(harness.ErrPanic) }
		err := w.M.Start(context.Background())
		if !errors.Is(err, harness.ErrPanic) || w.M.IsRunning() {
			t.Errorf("Start: %v; running: %v", err, w.M.IsRunning())
		}
		w.Subscribe("c") // kept, as before the first Start
		w.e.At = nil
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.Sync()
		w.WantTopics("a", "b", "c")
	})
}

// TestPanicInHeldMessages: what waits for the cutover is guarded message by message too.
func TestPanicInHeldMessages(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			switch msg.String() {
			case "two":
				panic("two")
			case "four":
				runtime.Goexit()
			}
		}
		w.Srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() != 1 {
				return
			}
			for _, s := range []string{"one", "two", "three", "four", "five"} {
				p.Send(s)
			}
		})
		w.Start("a")
		if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.WantGot("one", "three")
		harness.After(time.Second)
		causes := w.App.TakeCauses()
		if len(causes) != 2 || causes[0] != wsshard.ErrReplaced {
			t.Fatalf("disconnected with %v", causes)
		}
		if pe, ok := causes[1].(*wsshard.PanicError); !ok || pe.Value != "runtime.Goexit" {
			t.Errorf("the new connection ended with %v", causes[1])
		}
		if n := w.M.Metrics().HandlerPanics; n != 2 {
			t.Errorf("%d panics are counted", n)
		}
		w.WantTopics("a")
		w.Topics.Publish("a", "1")
		w.WantGot("a:1")
	})
}
