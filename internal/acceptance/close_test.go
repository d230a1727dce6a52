package acceptance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// lost is what became of the first session of a shard.
type lost struct {
	cause error
	got   []string
	conn  *rawConn
}

func (l lost) code() (code int, local bool) {
	var ce *wsshard.CloseError
	if errors.As(l.cause, &ce) {
		return ce.Code, ce.Local
	}
	return 0, false
}

// losing has script serve the first connection, whose upgrade is done, and wants the shard to come back afterwards.
func losing(t *testing.T, cfg wsshard.Config, script func(c *rawConn), check func(w *world, l lost)) {
	t.Helper()
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		s := w.serveRaw("raw:80", nil, func(c *rawConn) {
			if c.upgrade(); script != nil {
				once := script
				script = nil
				once(c)
			}
			c.gone()
		})
		w.begin("a")
		after(2 * time.Minute)
		if n := s.count(); n != 2 || w.m.Metrics().ActiveConnections != 1 {
			t.Errorf("%d connections were made, %d live; want one lost and one live", n, w.m.Metrics().ActiveConnections)
		}
		l := lost{got: w.app.take(), conn: s.conn(0)}
		if causes := w.app.takeCauses(); len(causes) == 1 {
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
			losing(t, dialsOnly(), func(c *rawConn) { c.frame(fin|opClose, payload) }, func(w *world, l lost) {
				if code, local := l.code(); code != want.code || local != want.local {
					t.Errorf("cause %v", l.cause)
				}
				l.conn.wantClose(want.answer)
			})
		})
	}
}

// The end without a close frame.
func TestConnectionThatBreaks(t *testing.T) {
	for name, c := range map[string]struct {
		script func(c *rawConn)
		got    []string
	}{
		"before anything":   {func(c *rawConn) { c.Close() }, nil},
		"between messages":  {func(c *rawConn) { c.frame(fin|opText, "one"); c.Close() }, []string{"one"}},
		"in a header":       {func(c *rawConn) { c.say("\x81"); c.Close() }, nil},
		"in a length":       {func(c *rawConn) { c.say("\x81\x7e\x01"); c.Close() }, nil},
		"in a payload":      {func(c *rawConn) { c.say("\x81\x05he"); c.Close() }, nil},
		"between fragments": {func(c *rawConn) { c.frame(opText, "he"); c.Close() }, nil},
		"in a ping":         {func(c *rawConn) { c.say("\x89\x05he"); c.Close() }, nil},
		"in a close frame":  {func(c *rawConn) { c.say("\x88\x02\x03"); c.Close() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			losing(t, dialsOnly(), c.script, func(w *world, l lost) {
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
	bubble(t, dialsOnly(), nil, func(w *world) {
		w.app.url = "ws://raw/"
		w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.say(c.switching() + rawBytes(fin|opText, "first") + rawBytes(opText, "sec") + rawBytes(fin|opPing, "?") + rawBytes(opCont, "on"))
			go c.listen()
			time.Sleep(time.Second)
			c.say(rawBytes(fin|opCont, "d") + rawBytes(fin|opBinary, "last") + rawBytes(fin|opClose, closePayload(1001, "")))
			c.gone()
			w.net.Listen("raw:80").Close()
		})
		w.begin("a")
		after(0)
		w.wantGot("first")
		after(time.Second)
		w.wantGot("second", "last")
		var ce *wsshard.CloseError
		if causes := w.app.takeCauses(); len(causes) != 1 || !errors.As(causes[0], &ce) || ce.Code != 1001 {
			t.Errorf("disconnected with %v", causes)
		}
	})
}

// The handler is slow, the peer has long closed and our own writes fail: all that was received is delivered, and the cause
// is the peer's.
func TestSlowHandlerHearsAllBeforeTheClose(t *testing.T) {
	cfg := dialsOnly()
	cfg.Health.PingInterval, cfg.Health.PongTimeout = time.Second, time.Second
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(300 * ms) }
		var sent []string
		w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.say(c.switching())
			for i := range 20 {
				sent = append(sent, fmt.Sprint(i))
				c.frame(fin|opText, sent[i])
			}
			c.frame(fin|opClose, closePayload(4001, ""))
		})
		w.begin()
		after(6050 * ms)
		w.wantGot(sent...)
		if causes := w.app.takeCauses(); len(causes) != 1 {
			t.Errorf("disconnected with %v", causes)
		} else if code, _ := (lost{cause: causes[0]}).code(); code != 4001 {
			t.Errorf("cause %v", causes[0])
		}
	})
}
