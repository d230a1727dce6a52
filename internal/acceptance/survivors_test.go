package acceptance

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which of the small mistakes that no other test noticed are noticed now? See internal/mutate.

// What OnConnect says is checked, each message by its place.
func TestOnConnectSaysNonsense(t *testing.T) {
	bubble(t, dialsOnly(), nil, func(w *world) {
		var said error
		w.app.onError = func(err error) bool { said = err; return false }
		w.app.onConnect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
			return []wsshard.Message{wsshard.Text("good"), wsshard.Text("caf\xe9")}, nil
		}
		w.begin("a")
		after(time.Second)
		if !errors.Is(said, wsshard.ErrInvalidMessage) || !strings.Contains(said.Error(), "OnConnect, message 1") {
			t.Errorf("OnError heard %v", said)
		}
		w.wantCauses(wsshard.ErrInvalidMessage)
		w.wantState(0, wsshard.ShardParked)
	})
}

// A write of Login that is stuck ends with its own ctx, and not with WriteTimeout.
func TestLoginWriteEndsWithItsContext(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.WriteTimeout = 5 * time.Second
	var took time.Duration
	var err error
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errTest)
		defer cancel()
		begin := time.Now()
		for err == nil {
			err = conn.Write(ctx, wsshard.Text(strings.Repeat("x", 1<<10)))
		}
		took = time.Since(begin)
		return err
	}
	loginWorld(t, cfg, login, func(w *world) {
		w.net.SetBuffer(1 << 12)
		w.app.url = "ws://deaf/"
		w.app.onError = func(error) bool { return false }
		w.serveRaw("deaf:80", nil, func(c *rawConn) {
			c.say(c.switching())
			time.Sleep(time.Minute) // and reads nothing
		})
		w.begin("a")
		after(20 * time.Second)
		if took != time.Second || !errors.Is(err, errTest) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// A callback takes the writing goroutine away while a Send waits: the Send is answered all the same.
func TestSendBesideAGoexit(t *testing.T) {
	bubble(t, dialsOnly(), nil, func(w *world) {
		sent := make(chan error, 1)
		first := true
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if first {
				first = false
				go func() { sent <- w.m.Send(context.Background(), 0, wsshard.Text("hello")) }()
				time.Sleep(time.Second)
				runtime.Goexit()
			}
			return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
		}
		w.begin("a")
		after(time.Minute)
		select {
		case err := <-sent:
			if !errors.Is(err, wsshard.ErrNotConnected) {
				t.Errorf("Send: %v", err)
			}
		default:
			t.Error("Send still waits")
		}
		w.wantTopics("a")
	})
}

// A text ping that cannot be written ends the connection as any other write.
func TestTextPingThatIsStuck(t *testing.T) {
	cfg := dialsOnly()
	cfg.Health.TextPing, cfg.Health.PingInterval, cfg.Health.PongTimeout = "ping", 10*time.Second, -1
	cfg.Connection.WriteTimeout = time.Second
	bubble(t, cfg, nil, func(w *world) {
		w.net.SetBuffer(1)
		begin := w.begin()
		after(time.Second)
		w.net.Conns()[0].StallWrite(true)
		cause, at := w.endedAt(begin, 15*time.Second)
		if !errors.Is(cause, wsshard.ErrWriteTimeout) || at > 13*time.Second {
			t.Errorf("ended at %v: %v", at, cause)
		}
	})
}

// What is unsubscribed before it was answered is nothing to wait for: not in a switchover either.
func TestSwitchoverForgetsTheUnsubscribed(t *testing.T) {
	bubble(t, dialsOnly(), newCourtier, func(w *world) {
		w.begin("a", "b")
		after(time.Second)
		w.srv.Conn(0).Send("ack 0 +a,b")
		after(time.Second)
		done := make(chan error, 1)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		w.srv.Conn(1).Send("ack 0 +a")
		after(time.Second)
		w.m.Unsubscribe("b")
		after(2 * time.Second)
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("HotSwitchover: %v", err)
			}
		default:
			t.Error("the new connection waits for an answer that nobody needs")
		}
		after(10 * time.Second) // its unsubscription waits for the answer to the subscription, or until that is overdue
		w.wantTopics("a")
	})
}

// When a switchover is said to have failed, its connection is closed: the next one must not be a third.
func TestFailedSwitchoverIsClosed(t *testing.T) {
	cfg := dialsOnly()
	cfg.Switchover.Timeout = 3 * time.Second
	bubble(t, cfg, newCourtier, func(w *world) {
		w.begin("a")
		after(time.Second)
		w.srv.Conn(0).Send("ack 0 +a")
		after(time.Second)
		time.AfterFunc(time.Second, func() { w.net.Conns()[1].BlackHole(true) })
		err := w.m.HotSwitchover(context.Background(), 0)
		if conns := w.net.Conns(); !errors.Is(err, wsshard.ErrSwitchoverTimeout) || !conns[1].Closed() || conns[0].Closed() {
			t.Errorf("HotSwitchover: %v; closed are the new one: %v, the old one: %v", err, conns[1].Closed(), conns[0].Closed())
		}
	})
}
