package wstest_test

import (
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

func TestFrameLog(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		c := connect(t, n)
		p := s.Conn(0)
		deadline := time.Now().Add(time.Hour)
		start := time.Now()
		c.say(t, "one")
		time.Sleep(time.Second)
		c.WriteControl(websocket.PingMessage, []byte("7"), deadline)
		time.Sleep(time.Second)
		p.Ping("8")
		synctest.Wait()
		wantList(t, "Got", p.Got(), "one")
		time.Sleep(time.Second)
		c.say(t, "two")
		c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "enough"), deadline)
		c.wantClose(t, 4000)
		<-p.Gone()
		wantList(t, "Got", p.Got(), "two")
		wantList(t, "Got", p.Got())
		want(t, "Pings", p.Pings(), 1)
		at := p.Times()
		for i, w := range []wstest.Frame{
			{start, wstest.KindData, "one"},
			{start.Add(time.Second), wstest.KindPing, "7"},
			{start.Add(2 * time.Second), wstest.KindPong, "8"},
			{start.Add(3 * time.Second), wstest.KindData, "two"},
			{start.Add(3 * time.Second), wstest.KindClose, "4000 enough"},
		} {
			want(t, "frame", p.FrameLog()[i], w)
			want(t, "time", at[i], w.At)
		}
		want(t, "frames", len(at), 5)
	})
}

func TestSilent(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		ws, _, err := dialer(n).Dial("ws://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		pongs := 0
		ws.SetPongHandler(func(string) error { pongs++; return nil })
		var wg sync.WaitGroup
		defer wg.Wait()
		defer ws.Close()
		wg.Go(func() { ws.ReadMessage() })
		for i, silent := range []bool{false, true, false} {
			s.Conn(0).Silent(silent)
			ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
			synctest.Wait()
			want(t, "pongs", pongs, []int{1, 1, 2}[i])
			want(t, "Pings", s.Conn(0).Pings(), i+1)
		}
	})
}

func TestCloseCodes(t *testing.T) {
	for _, code := range []int{1000, 1001, 1006, 1012, 1014, 3000, 4999, 999} {
		bubble(t, func(t *testing.T, n *wstest.Net) {
			s := wstest.NewServer(t, n, addr)
			c := connect(t, n)
			p := s.Conn(0)
			want(t, "CloseCode", p.CloseCode(), 0)
			p.Close(code, "reason")
			err := <-c.ended
			<-p.Gone()
			if websocket.IsCloseError(err, code) {
				want(t, "CloseCode", p.CloseCode(), code) // gorilla's client sends it back
				want(t, "reason", err.(*websocket.CloseError).Text, "reason")
			} else if !strings.Contains(err.Error(), "bad close code") {
				t.Fatal(err)
			}
			want(t, "Live", len(s.Live()), 0)
		})
	}
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		c := connect(t, n)
		s.Conn(0).Close(1005, "")
		c.wantClose(t, 1005)
		<-s.Conn(0).Gone()
		want(t, "CloseCode", s.Conn(0).CloseCode(), 1005)
	})
}

// Without a reply the socket goes after a second, and Close itself waits for nothing.
func TestCloseUnanswered(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		connect(t, n)
		p := s.Conn(0)
		n.Conns()[0].StallWrite(true)
		want(t, "Close", since(func() { p.Close(1001, ""); p.Close(1001, "") }), 0)
		want(t, "Live", len(s.Live()), 1)
		want(t, "Gone", since(func() { <-p.Gone() }), time.Second)
		want(t, "CloseCode", p.CloseCode(), 1006)
		want(t, "Live", len(s.Live()), 0)
		p.Close(1001, "")
		p.Kill()
		p.Reset()
	})
}

func TestKillAndReset(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		a, b := connect(t, n), connect(t, n)
		s.Conn(0).Send("last")
		s.Conn(0).Kill()
		a.wantText(t, "last")
		a.wantClose(t, 1006)
		want(t, "Live", s.Live()[0], s.Conn(1))
		s.Conn(1).Reset()
		want(t, "Live", len(s.Live()), 0)
		wantErr(t, <-b.ended, syscall.ECONNRESET)
		<-s.Conn(1).Gone()
		want(t, "CloseCode", s.Conn(1).CloseCode(), 1006)
		if s.Conn(1).Send("x") == nil || s.Conn(1).Ping("") == nil {
			t.Fatal("sent to a peer that is gone")
		}
	})
}

func TestClientGone(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		connect(t, n).Close()
		p := s.Conn(0)
		<-p.Gone()
		want(t, "CloseCode", p.CloseCode(), 1006)
		want(t, "server end closed", p.Net().(*wstest.Conn).Closed(), true)
	})
}

// Many senders to a client that does not read: each waits at most 5 s, and fake time passes.
func TestSendStuck(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(1000)
		s := wstest.NewServer(t, n, addr)
		c := connect(t, n)
		p := s.Conn(0)
		n.Conns()[0].StallRead(true)
		text := strings.Repeat("x", 600)
		if err := p.Send(text); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { wantTimeoutInGoroutine(t, p.Send(text)) })
		}
		want(t, "senders", since(wg.Wait), 5*time.Second)
		want(t, "Live", len(s.Live()), 1)
		n.Conns()[0].StallRead(false)
		c.wantText(t, text)
		wantTimeoutInGoroutine(t, p.Send("nothing can follow half a frame"))
	})
}

func wantTimeoutInGoroutine(t *testing.T, err error) {
	t.Helper()
	if e, ok := err.(net.Error); !ok || !e.Timeout() {
		t.Errorf("error is %v, want a timeout", err)
	}
}

func TestConcurrentSend(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(100)
		n.SetLatency(time.Millisecond)
		s := wstest.NewServer(t, n, addr)
		c := connect(t, n)
		text := strings.Repeat("y", 300)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 5 {
					if err := s.Conn(0).Send(text); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 100 {
			c.wantText(t, text)
		}
		wg.Wait()
	})
}
