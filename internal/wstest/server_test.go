package wstest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

func TestHandshakeTakesOneRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetLatency(50 * time.Millisecond)
		s := wstest.NewServer(t, n, addr)
		var c *client
		want(t, "handshake", since(func() { c = connect(t, n) }), 100*time.Millisecond)
		p := s.Conn(0)
		want(t, "message", since(func() { p.Send("x"); c.wantText(t, "x") }), 50*time.Millisecond)
		want(t, "path", p.Request().URL.Path, "/feed")
	})
}

func TestConnWaits(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		time.AfterFunc(time.Second, func() { connect(t, n) })
		time.AfterFunc(2*time.Second, func() { connect(t, n) })
		var p *wstest.Peer
		want(t, "Conn(1)", since(func() { p = s.Conn(1) }), 2*time.Second)
		want(t, "Index", p.Index(), 1)
		want(t, "Conn(0)", since(func() { p = s.Conn(0) }), 0)
		want(t, "Index", p.Index(), 0)
		want(t, "Conns", s.Conns(), 2)
	})
}

// When a dial returns, its peer is there, and has its place.
func TestConnOrder(t *testing.T) {
	for _, buffer := range []int{50, wstest.DefaultBuffer} {
		bubble(t, func(t *testing.T, n *wstest.Net) {
			n.SetBuffer(buffer)
			s := wstest.NewServer(t, n, addr)
			for i := range 20 {
				connect(t, n)
				want(t, "Conns", s.Conns(), i+1)
				want(t, "Live", len(s.Live()), i+1)
				want(t, "peer", s.Conn(i).Net().RemoteAddr().String(), n.Conns()[i].LocalAddr().String())
			}
		})
	}
}

func TestReject(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		s.Reject(rejecting(429, http.Header{"Retry-After": {"17"}}, "slow down"))
		_, resp, err := dialer(n).Dial("ws://"+addr, nil)
		want(t, "error", err, websocket.ErrBadHandshake)
		want(t, "status", resp.StatusCode, 429)
		want(t, "Retry-After", resp.Header.Get("Retry-After"), "17")
		body, _ := io.ReadAll(resp.Body)
		want(t, "body", string(body), "slow down")
		want(t, "Conns", s.Conns(), 0)
		want(t, "Open", n.Open(), 0)

		s.Reject(rejecting(0, nil, ""))
		connect(t, n)
		s.Reject(nil)
		connect(t, n)
		s.Conn(1)
	})
}

// A handshake that is never answered ends when either side gives up.
func TestRejectHangs(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		var given error
		s.Reject(func(r *http.Request) (int, http.Header, string) {
			<-r.Context().Done()
			given = context.Cause(r.Context())
			return 500, nil, ""
		})
		d := dialer(n)
		d.HandshakeTimeout = 9 * time.Second
		want(t, "handshake", since(func() {
			if _, _, err := d.Dial("ws://"+addr, nil); err == nil {
				t.Fatal("handshake succeeded")
			}
		}), 9*time.Second)
		synctest.Wait()
		want(t, "cause", given, context.Canceled)
		time.AfterFunc(time.Second, s.Down)
		want(t, "handshake", since(func() {
			if _, _, err := d.Dial("ws://"+addr, nil); err == nil {
				t.Fatal("handshake succeeded")
			}
		}), time.Second)
	})
}

func TestUpgrader(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr, func(s *wstest.Server) {
			s.Upgrader().EnableCompression = true
			s.Upgrader().Subprotocols = []string{"feed.v2"}
		})
		d := dialer(n)
		d.EnableCompression, d.Subprotocols = true, []string{"feed.v1", "feed.v2"}
		ws, resp, err := d.Dial("ws://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		want(t, "subprotocol", ws.Subprotocol(), "feed.v2")
		if ext := resp.Header.Get("Sec-Websocket-Extensions"); !strings.HasPrefix(ext, "permessage-deflate") {
			t.Fatalf("extensions %q", ext)
		}
		s.Conn(0).Send(strings.Repeat("z", 100000))
		_, data, err := ws.ReadMessage()
		if len(data) != 100000 || err != nil {
			t.Fatalf("read %d, %v", len(data), err)
		}
	})
}

func TestHooks(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		s.OnOpen(func(p *wstest.Peer) { p.Send("welcome") })
		s.Handle(func(p *wstest.Peer, typ int, data []byte) {
			if typ == websocket.BinaryMessage {
				p.SendBinary(data)
			} else {
				p.Send("echo " + string(data))
			}
		})
		c := connect(t, n)
		c.say(t, "a")
		c.WriteMessage(websocket.BinaryMessage, []byte("b"))
		c.wantText(t, "welcome")
		c.wantText(t, "echo a")
		c.wantText(t, "b")
		wantList(t, "Got", s.Conn(0).Got(), "a", "b")
		s.OnOpen(nil)
		s.Handle(nil)
		c.say(t, "c")
		synctest.Wait()
		wantList(t, "Got", s.Conn(0).Got(), "c")
		want(t, "unread", len(c.texts), 0)
	})
}

func TestDownAndRestart(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		a, b := connect(t, n), connect(t, n)
		first, second := s.Conn(0), s.Conn(1)
		if got := s.Live(); !slices.Equal(got, []*wstest.Peer{first, second}) {
			t.Fatalf("Live = %v", got)
		}
		n.Conns()[1].BlackHole(true)
		second.Send("held")
		first.Send("goodbye")
		s.Down()
		want(t, "Live", len(s.Live()), 0)
		<-first.Gone()
		<-second.Gone()
		a.wantText(t, "goodbye")
		a.wantClose(t, websocket.CloseAbnormalClosure)
		_, err := n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, err, syscall.ECONNREFUSED)
		time.Sleep(time.Hour)
		want(t, "half-open client noticed", len(b.ended), 0)
		s.Down() // again
		s.Restart()
		connect(t, n)
		want(t, "Index", s.Conn(2).Index(), 2)
		s.Restart() // without Down
		<-s.Conn(2).Gone()
		connect(t, n)
		want(t, "Live", s.Conn(3), s.Live()[0])
		n.Conns()[1].BlackHole(false)
		b.wantText(t, "held")
		b.wantClose(t, websocket.CloseAbnormalClosure)
	})
}

func TestDownFromHook(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		s.Handle(func(*wstest.Peer, int, []byte) { s.Restart() })
		for i := range 3 {
			c := connect(t, n)
			c.say(t, "x")
			c.wantClose(t, websocket.CloseAbnormalClosure)
			<-s.Conn(i).Gone()
		}
		want(t, "Live", len(s.Live()), 0)
	})
}

// Everything the server runs ends with the test although nothing can get through: writers, a close handshake, a
// handshake, a connection nobody has accepted.
func TestCleanupOfBlackHoles(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(1000)
		var wg sync.WaitGroup
		t.Cleanup(func() { want(t, "Open", n.Open(), 0) })
		t.Cleanup(wg.Wait)
		s := wstest.NewServer(t, n, addr)
		for range 4 {
			connect(t, n)
		}
		for _, c := range n.Conns() {
			c.BlackHole(true)
		}
		for i := range 2 {
			wg.Go(func() {
				if err := s.Conn(i).Send(strings.Repeat("x", 2000)); err == nil {
					t.Error("stuck write succeeded")
				}
			})
		}
		s.Conn(2).Close(1001, "bye")
		n.Conns()[3].Close()
		wg.Go(func() {
			c, err := n.DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			c.(*wstest.Conn).BlackHole(true)
			c.Write([]byte("GET / HTTP/1.1\r\n"))
			<-t.Context().Done() // the end of the test
			c.Close()
		})
		synctest.Wait()
		want(t, "Live", len(s.Live()), 4)
	})
}

func TestManyConns(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				ws, _, err := dialer(n).Dial("ws://"+addr, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.Close()
				if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 1012) {
					t.Error(err)
				}
			})
		}
		s.Conn(999)
		for _, p := range s.Live() {
			p.Close(1012, "")
		}
		wg.Wait()
		synctest.Wait()
		want(t, "Live", len(s.Live()), 0)
		want(t, "Open", n.Open(), 0)
	})
}

// recorder is a testing.TB that a failure of the code under test does not fail.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, format)
}

func TestPanicInHookFailsTest(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		r := &recorder{TB: t}
		s := wstest.NewServer(r, n, addr)
		s.Handle(func(*wstest.Peer, int, []byte) { panic("boom") })
		c := connect(t, n)
		c.say(t, "x")
		c.wantClose(t, websocket.CloseAbnormalClosure)
		<-s.Conn(0).Gone()
		synctest.Wait()
		want(t, "errors", len(r.errors), 1)
	})
}

func TestOutsideBubble(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		n := wstest.NewNet()
		n.SetLatency(time.Millisecond)
		s := wstest.NewServer(t, n, addr)
		a, b := connect(t, n), connect(t, n)
		s.Conn(0).Send("hello")
		a.wantText(t, "hello")
		s.Conn(1).Close(1001, "")
		b.wantClose(t, 1001)
		n.Conns()[0].BlackHole(true)
		if err := errors.Join(s.Conn(0).Send("unheard"), s.Conn(0).Ping("")); err != nil {
			t.Fatal(err)
		}
	})
	// net/http's goroutine of a connection has a few instructions left after its last hook.
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Fatalf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
}
