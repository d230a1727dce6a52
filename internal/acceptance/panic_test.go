package acceptance

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
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

var errPanic = errors.New("thrown by a test")

// wayOut is a way in which a callback may leave without returning.
type wayOut struct {
	name  string
	leave func()
	is    func(value any) bool // the PanicError's value
}

var leaves = []wayOut{
	{"value", func() { panic("boom") }, func(v any) bool { return v == "boom" }},
	{"error", func() { panic(errPanic) }, func(v any) bool { return v == errPanic }},
	{"nil map", func() {
		var m map[string]int
		m["x"] = 1 //lint:ignore SA5000 the panic is the point
	}, func(v any) bool { _, ok := v.(runtime.Error); return ok }},
	{"nil", func() { panic(nil) }, func(v any) bool { _, ok := v.(*runtime.PanicNilError); return ok }},
	{"Goexit", runtime.Goexit, func(v any) bool { return v == "runtime.Goexit" }},
}

// TestPanicInEveryCall: a callback that never returns costs what it does, and nothing else: the process and Stop survive.
func TestPanicInEveryCall(t *testing.T) {
	for _, callback := range callbacks {
		for _, kind := range leaves {
			t.Run(callback+" "+kind.name, func(t *testing.T) {
				everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
					var broken atomic.Bool
					broken.Store(true)
					w.e.at = func(_ context.Context, where string, _ wsshard.ConnectionState) {
						if where == callback && broken.Load() {
							kind.leave()
						}
					}
					w.provoke()
					if n, calls := w.m.Metrics().HandlerPanics, w.e.called(callback); n != uint64(calls) || n == 0 {
						t.Errorf("%d panics are counted of %d", n, calls)
					}
					broken.Store(false)
					w.m.Reconnect(0)
					w.m.Resubscribe("a", "b", "c")
					w.wantWell()
				})
			})
		}
	}
}

// TestPanicCostsOneMessage: the others of the connection are delivered, which lives on.
func TestPanicCostsOneMessage(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			if msg.String() == "a:2" {
				panic("two")
			}
		}
		w.start("a")
		w.wantTopics("a")
		for i := range 5 {
			w.topics.Publish("a", fmt.Sprint(i))
		}
		w.wantGot("a:0", "a:1", "a:3", "a:4")
		if n := w.srv.Conns(); n != 1 {
			t.Errorf("%d connections", n)
		}
		w.wantCauses()
	})
}

// TestPanicEndsTheSession: where there is no guard for each message, and wherever a callback leaves by Goexit, the
// connection ends with a *PanicError as its cause.
func TestPanicEndsTheSession(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		for _, kind := range leaves {
			if !lowLatency && kind.name != "Goexit" {
				continue
			}
			t.Run(fmt.Sprintf("%s lowLatency=%v", kind.name, lowLatency), func(t *testing.T) {
				cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
				bubble(t, cfg, nil, func(w *world) {
					w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { kind.leave() }
					w.start("a")
					w.wantTopics("a")
					w.topics.Publish("a", "1")
					after(time.Second)
					w.wantPanicCause(kind.is)
					if code := w.srv.Conn(0).CloseCode(); code != 1000 {
						t.Errorf("the server saw close code %d", code)
					}
					w.app.message = nil
					w.wantTopics("a")
					w.topics.Publish("a", "2")
					w.wantGot("a:2")
				})
			})
		}
	}
}

// wantPanicCause checks that OnDisconnect heard of one connection, which ended with a *PanicError with a stack.
func (w *world) wantPanicCause(is func(any) bool) {
	w.t.Helper()
	causes := w.app.takeCauses()
	var pe *wsshard.PanicError
	if len(causes) != 1 || !errors.As(causes[0], &pe) {
		w.t.Fatalf("disconnected with %v, want one *PanicError", causes)
	}
	if !is(pe.Value) || len(pe.Stack) == 0 {
		w.t.Errorf("%v with %d bytes of stack", pe, len(pe.Stack))
	}
}

// TestGoexitWhileWriting: the write loop's callbacks too end the connection, and only that.
func TestGoexitWhileWriting(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		gone := false
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if !gone && slices.Contains(req.Subs, "b") {
				gone = true
				runtime.Goexit()
			}
			return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
		}
		w.start("a")
		w.subscribe("b")
		after(time.Second)
		w.wantPanicCause(func(v any) bool { return v == "runtime.Goexit" })
		w.wantTopics("a", "b")
	})
}

// TestPanicInOnConnect: the connection was opened, so OnDisconnect hears of it, however OnConnect left.
func TestPanicInOnConnect(t *testing.T) {
	for _, kind := range leaves {
		bubble(t, wsshard.Config{}, nil, func(w *world) {
			w.app.onConnect = func(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
				if st.Generation == 1 {
					kind.leave()
				}
				return nil, nil
			}
			var heard []error
			w.app.onError = func(err error) bool {
				heard = append(heard, err)
				return true
			}
			w.start("a")
			w.wantPanicCause(kind.is)
			var pe *wsshard.PanicError
			if len(heard) != 1 || !errors.As(heard[0], &pe) || !kind.is(pe.Value) || len(pe.Stack) == 0 {
				t.Errorf("%s: OnError heard %v", kind.name, heard)
			}
			if n := w.m.Metrics().Connections; n != 2 {
				t.Errorf("%s: %d connections were opened, want 2", kind.name, n)
			}
		})
	}
}

// TestPanicBeforeTheConnection: a failed attempt is a *DialError that leads to the panic.
func TestPanicBeforeTheConnection(t *testing.T) {
	for _, callback := range []string{"URL", "ConnectionHeaders", "Login"} {
		for _, kind := range leaves {
			everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
				w.e.at = func(_ context.Context, where string, st wsshard.ConnectionState) {
					if where == callback && st.ReconnectAttempt == 0 {
						kind.leave()
					}
				}
				if err := w.m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				w.sync()
				var de *wsshard.DialError
				var pe *wsshard.PanicError
				err := w.m.Metrics().Shards[0].LastError
				if !errors.As(err, &de) || !errors.As(err, &pe) || !kind.is(pe.Value) || len(pe.Stack) == 0 {
					t.Errorf("%s, %s: %T %v", callback, kind.name, err, err)
				}
				if n := w.e.called("OnDisconnect"); n != 0 {
					t.Errorf("%s, %s: OnDisconnect of a connection that was not opened", callback, kind.name)
				}
			})
		}
	}
}

// TestPanicInNew: it becomes New's error.
func TestPanicInNew(t *testing.T) {
	e := &every{at: func(context.Context, string, wsshard.ConnectionState) { panic(errPanic) }}
	m, err := wsshard.New(e, wsshard.Config{})
	var pe *wsshard.PanicError
	if m != nil || !errors.As(err, &pe) || !errors.Is(err, errPanic) || len(pe.Stack) == 0 {
		t.Errorf("New: %v, %v", m, err)
	}
}

// TestPanicInStart: it becomes Start's error, nothing runs, and the next Start is as good as the first.
func TestPanicInStart(t *testing.T) {
	everywhere(t, "Subscriptions", wsshard.Config{}, func(w everyWorld) {
		w.e.at = func(_ context.Context, where string, _ wsshard.ConnectionState) { panic(errPanic) }
		err := w.m.Start(context.Background())
		if !errors.Is(err, errPanic) || w.m.IsRunning() {
			t.Errorf("Start: %v; running: %v", err, w.m.IsRunning())
		}
		w.subscribe("c") // kept, as before the first Start
		w.e.at = nil
		if err := w.m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.wantTopics("a", "b", "c")
	})
}

// TestPanicInHeldMessages: what waits for the cutover is guarded message by message too.
func TestPanicInHeldMessages(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			switch msg.String() {
			case "two":
				panic("two")
			case "four":
				runtime.Goexit()
			}
		}
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() != 1 {
				return
			}
			for _, s := range []string{"one", "two", "three", "four", "five"} {
				p.Send(s)
			}
		})
		w.start("a")
		if err := w.m.HotSwitchover(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		w.wantGot("one", "three")
		after(time.Second)
		causes := w.app.takeCauses()
		if len(causes) != 2 || causes[0] != wsshard.ErrReplaced {
			t.Fatalf("disconnected with %v", causes)
		}
		if pe, ok := causes[1].(*wsshard.PanicError); !ok || pe.Value != "runtime.Goexit" {
			t.Errorf("the new connection ended with %v", causes[1])
		}
		if n := w.m.Metrics().HandlerPanics; n != 2 {
			t.Errorf("%d panics are counted", n)
		}
		w.wantTopics("a")
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
	})
}
