package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: is all delivered that came before the end, and what is said of the end?

// lost is what became of the first session of a shard.
type lost struct {
	cause error
	got   []string
	conn  *harness.RawConn
}

func (l lost) code() (code int, local bool) {
	var ce *wsshard.CloseError
	if errors.As(l.cause, &ce) {
		return ce.Code, ce.Local
	}
	return 0, false
}

// losing has script serve the first connection, whose upgrade is done, and wants the shard to come back afterwards.
func losing(t *testing.T, cfg wsshard.Config, script func(c *harness.RawConn), check func(w *harness.World, l lost)) {
	t.Helper()
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			if c.Upgrade(); script != nil {
				once := script
				script = nil
				once(c)
			}
			c.Gone()
		})
		w.Begin("a")
		harness.After(2 * time.Minute)
		if n := s.Count(); n != 2 || w.M.Metrics().ActiveConnections != 1 {
			t.Errorf("%d connections were made, %d live; want one lost and one live", n, w.M.Metrics().ActiveConnections)
		}
		l := lost{got: w.App.Take(), conn: s.Conn(0)}
		if causes := w.App.TakeCauses(); len(causes) == 1 {
			l.cause = causes[0]
		} else {
			t.Errorf("disconnected with %v", causes)
		}
		check(w, l)
	})
}

// No code at all. One byte is neither none nor one.
func TestCloseWithoutCode(t *testing.T) {
	for payload, want := range map[string]struct {
		code   int
		local  bool
		answer int
	}{
		"":     {1005, false, 1000}, // 1005 stands for "none" and must not be sent
		"x":    {1002, true, 1002},
		"\x03": {1002, true, 1002},
	} {
		t.Run(payload, func(t *testing.T) {
			losing(t, harness.DialsOnly(), func(c *harness.RawConn) { c.Frame(harness.Fin|harness.OpClose, payload) }, func(w *harness.World, l lost) {
				if code, local := l.code(); code != want.code || local != want.local {
					t.Errorf("cause %v", l.cause)
				}
				l.conn.WantClose(want.answer)
			})
		})
	}
}

// The end without a close frame.
func TestConnectionThatBreaks(t *testing.T) {
	for name, c := range map[string]struct {
		script func(c *harness.RawConn)
		got    []string
	}{
		"before anything":   {func(c *harness.RawConn) { c.Close() }, nil},
		"between messages":  {func(c *harness.RawConn) { c.Frame(harness.Fin|harness.OpText, "one"); c.Close() }, []string{"one"}},
		"in a header":       {func(c *harness.RawConn) { c.Say("\x81"); c.Close() }, nil},
		"in a length":       {func(c *harness.RawConn) { c.Say("\x81\x7e\x01"); c.Close() }, nil},
		"in a payload":      {func(c *harness.RawConn) { c.Say("\x81\x05he"); c.Close() }, nil},
		"between fragments": {func(c *harness.RawConn) { c.Frame(harness.OpText, "he"); c.Close() }, nil},
		"in a ping":         {func(c *harness.RawConn) { c.Say("\x89\x05he"); c.Close() }, nil},
		"in a close frame":  {func(c *harness.RawConn) { c.Say("\x88\x02\x03"); c.Close() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			losing(t, harness.DialsOnly(), c.script, func(w *harness.World, l lost) {
				var ce *wsshard.CloseError
				if errors.As(l.cause, &ce) || l.cause == nil || l.cause.Error() != "wsshard: connection lost: unexpected EOF" {
					t.Errorf("cause %v", l.cause)
				}
				if !slices.Equal(l.got, c.got) {
					t.Errorf("delivered %q, want %q", l.got, c.got)
				}
			})
		})
	}
}

// What a server sends in the packet of its 101, and before its close frame, is delivered.
func TestNothingIsLostAtEitherEnd(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Say(c.Switching() + harness.RawBytes(harness.Fin|harness.OpText, "first") + harness.RawBytes(harness.OpText, "sec") + harness.RawBytes(harness.Fin|harness.OpPing, "?") + harness.RawBytes(harness.OpCont, "on"))
			go c.Listen()
			time.Sleep(time.Second)
			c.Say(harness.RawBytes(harness.Fin|harness.OpCont, "d") + harness.RawBytes(harness.Fin|harness.OpBinary, "last") + harness.RawBytes(harness.Fin|harness.OpClose, harness.ClosePayload(1001, "")))
			c.Gone()
			w.Net.Listen("raw:80").Close()
		})
		w.Begin("a")
		harness.After(0)
		w.WantGot("first")
		harness.After(time.Second)
		w.WantGot("second", "last")
		var ce *wsshard.CloseError
		if causes := w.App.TakeCauses(); len(causes) != 1 || !errors.As(causes[0], &ce) || ce.Code != 1001 {
			t.Errorf("disconnected with %v", causes)
		}
	})
}

// The handler is slow, the peer has long closed and our own writes fail: all that was received is delivered, and the cause
// is the peer's.
func TestSlowHandlerHearsAllBeforeTheClose(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Health.PingInterval, cfg.Health.PongTimeout = time.Second, time.Second
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(300 * time.Millisecond) }
		var sent []string
		w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Say(c.Switching())
			for i := range 20 {
				sent = append(sent, fmt.Sprint(i))
				c.Frame(harness.Fin|harness.OpText, sent[i])
			}
			c.Frame(harness.Fin|harness.OpClose, harness.ClosePayload(4001, ""))
		})
		w.Begin()
		harness.After(6050 * time.Millisecond)
		w.WantGot(sent...)
		if causes := w.App.TakeCauses(); len(causes) != 1 {
			t.Errorf("disconnected with %v", causes)
		} else if code, _ := (lost{cause: causes[0]}).code(); code != 4001 {
			t.Errorf("cause %v", causes[0])
		}
	})
}
