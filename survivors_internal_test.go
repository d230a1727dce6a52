package wsshard

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: which of the small mistakes that no other test of the inside noticed are noticed now? See internal/mutate.

// loginFails has no server that it likes.
type loginFails struct{ tries int }

func (h *loginFails) URL(context.Context, ConnectionState) (string, error) { return "ws://srv/", nil }
func (h *loginFails) SubscriptionMessage(Request[string]) (Message, error) { return Text("sub"), nil }
func (h *loginFails) OnMessage(context.Context, Message, ConnectionState)  {}
func (h *loginFails) Login(context.Context, LoginConn, ConnectionState) error {
	h.tries++
	return io.EOF
}

// What a failed Login leaves is forgotten: else a shard that cannot log in for a week would remember every connection of it.
func TestFailedLoginsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, h := wstest.NewNet(), &loginFails{}
		wstest.NewServer(t, network, "srv:80")
		m, err := New(h, Config{Connection: ConnectionConfig{NetDialContext: network.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe("a")
		if err := m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		defer m.Stop(context.Background())
		time.Sleep(time.Hour)
		synctest.Wait()
		m.run.mu.Lock()
		defer m.run.mu.Unlock()
		if n := len(m.run.conns); n > 1 || h.tries < 10 {
			t.Errorf("%d connections are remembered after %d logins", n, h.tries)
		}
	})
}

// The limits of what is held: a negative one is none, and one message always finds room.
func TestRelayLimits(t *testing.T) {
	big := Message{Data: make([]byte, 100)}
	for _, c := range []struct {
		cfg  SwitchoverConfig
		want []offer
	}{
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: -1}, []offer{offerHeld, offerHeld, offerHeld}},
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: 10}, []offer{offerHeld, offerFull}},
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: 200}, []offer{offerHeld, offerHeld, offerFull}},
		{SwitchoverConfig{HoldMessages: 2, HoldBytes: -1}, []offer{offerHeld, offerHeld, offerFull}},
	} {
		r := newRelay[string](c.cfg, false, make(chan struct{}, 1))
		for i, want := range c.want {
			if got := r.offer(big, &Verdict[string]{}, 0); got != want {
				t.Errorf("%+v: message %d: %v, want %v", c.cfg, i, got, want)
			}
		}
	}
}

// What turns out to be delivered makes room, and of the keys that were delivered no more are kept than of messages.
func TestRelayMakesRoom(t *testing.T) {
	msg := Message{Data: make([]byte, 100)}
	r := newRelay[string](SwitchoverConfig{HoldMessages: 2, HoldBytes: 250}, false, make(chan struct{}, 1))
	for _, key := range []string{"a", "b"} {
		r.offer(msg, &Verdict[string]{Key: key}, 0)
	}
	r.delivered("a")
	if got := r.offer(msg, &Verdict[string]{Key: "c"}, 0); got != offerHeld || r.count != 2 {
		t.Errorf("after one of two was delivered: %v, and %d are held", got, r.count)
	}

	r = newRelay[string](SwitchoverConfig{HoldMessages: 2, HoldBytes: -1}, false, make(chan struct{}, 1))
	for _, key := range []string{"a", "b", "c"} {
		r.delivered(key)
	}
	for _, key := range []string{"a", "b", "c"} {
		r.offer(msg, &Verdict[string]{Key: key}, 0)
	}
	if r.count != 1 || len(r.keys) != 2 {
		t.Errorf("%d messages are held, want the first, which is forgotten; %d keys are kept", r.count, len(r.keys))
	}
}

// A switchover has failed as the old connection's read loop, and the new one's, were on their way to the relay.
func TestRelayAfterItsEnd(t *testing.T) {
	r := newRelay[string](SwitchoverConfig{}, false, make(chan struct{}, 1))
	r.offer(Message{}, &Verdict[string]{Key: "a"}, 0)
	r.discard()
	if r.delivered("a") {
		t.Error("the old connection's message is taken for a repeat")
	}
	if got := r.offer(Message{}, &Verdict[string]{Key: "b"}, 0); got != offerDirect {
		t.Errorf("the new one's message: %v", got)
	}
	if r.take() != nil {
		t.Error("what was held is still there")
	}
}

// A switchover that nobody wants any more before the loop has seen it ends once, and is not in the way of the next.
func TestMoveThatIsAbortedUnseen(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := newShard[string](m.core, m, 0)
	mv := s.ask(&wish{trigger: triggerCall})
	s.leaveWish(mv)
	if got := s.pendingWish(); got != nil || !isClosed(mv.done) || mv.err != context.Canceled {
		t.Errorf("pending %v, over: %v, with %v", got, isClosed(mv.done), mv.err)
	}
	next := s.ask(&wish{trigger: triggerCall})
	if got := s.pendingWish(); got != next || next == mv {
		t.Errorf("pending %v, want the next one", got)
	}
}

// Whoever joins a switchover is owed it, whether the first caller has left or leaves later.
func TestMoveThatSomebodyElseWants(t *testing.T) {
	for name, leave := range map[string]func(s *shard[string]) *wish{
		"left before": func(s *shard[string]) *wish {
			mv := s.ask(&wish{trigger: triggerCall})
			s.leaveWish(mv)
			return s.ask(&wish{trigger: triggerCall})
		},
		"leaves after a notice": func(s *shard[string]) *wish {
			mv := s.ask(&wish{trigger: triggerCall})
			s.ask(&wish{trigger: triggerNotice}).callers--
			s.leaveWish(mv)
			return mv
		},
	} {
		m, err := New(nobody{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := newShard[string](m.core, m, 0)
		if want := leave(s); s.pendingWish() != want || isClosed(want.done) {
			t.Errorf("%s: it is gone", name)
		}
	}
}
