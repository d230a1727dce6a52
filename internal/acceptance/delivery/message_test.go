package delivery

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what is a message, and what is an empty one?

func TestMessage(t *testing.T) {
	if m := wsshard.Text("hé"); m.Type != wsshard.TextMessage || string(m.Data) != "hé" || m.Value != nil {
		t.Errorf("Text: %+v", m)
	}
	b := []byte{0, 1, 0xff}
	m := wsshard.Binary(b)
	if m.Type != wsshard.BinaryMessage || string(m.Data) != "\x00\x01\xff" {
		t.Errorf("Binary: %+v", m)
	}
	if b[0] = 9; m.Data[0] != 9 {
		t.Error("Binary copies: the message is to own its data")
	}
	if m.String() != "\x09\x01\xff" {
		t.Errorf("String: %q", m.String())
	}
	if s := (wsshard.Message{}).String(); s != "" {
		t.Errorf("String of the zero value: %q", s)
	}
}

func TestJSONMessage(t *testing.T) {
	m, err := wsshard.JSON(map[string]any{"op": "<sub>", "id": 7})
	if err != nil || m.Type != wsshard.TextMessage {
		t.Fatalf("JSON: %+v, %v", m, err)
	}
	if want := `{"id":7,"op":"\u003csub\u003e"}`; m.String() != want {
		t.Errorf("JSON: %s, want %s", m, want)
	}
	if m, err := wsshard.JSON(make(chan int)); err == nil || len(m.Data) > 0 {
		t.Errorf("JSON of a channel: %+v, %v", m, err)
	}
}

func TestCloneMessage(t *testing.T) {
	value := new(int)
	m := wsshard.Message{Type: wsshard.BinaryMessage, Data: []byte("abc"), Value: value}
	c := m.Clone()
	m.Data[0] = 'x'
	if c.Type != m.Type || c.String() != "abc" || c.Value != any(value) {
		t.Errorf("Clone: %+v", c)
	}
	if c = (wsshard.Message{}).Clone(); c.Data != nil {
		t.Errorf("Clone of the zero value: %+v", c)
	}
}

// TestEnumStrings: each value has its own word, and one that does not exist has none.
func TestEnumStrings(t *testing.T) {
	words(t, wsshard.LeastLoaded, "least-loaded", "round-robin", "sequential")
	words(t, wsshard.TextMessage, "text", "binary")
	words(t, wsshard.SequenceContinue, "continue", "drop-message", "reconnect")
	words(t, wsshard.SubscribeFailed, "failed", "added", "existing")
	words(t, wsshard.ShardConnecting, "connecting", "connected", "backoff", "switching", "parked", "stopped")
	words(t, wsshard.EventConnecting, "connecting", "connected", "disconnected", "backoff", "parked", "switchover-started",
		"switchover-done", "switchover-failed", "breaker-open", "breaker-closed", "subscription-rejected", "gap", "stopped")
	for last, word := range map[fmt.Stringer]string{
		wsshard.Sequential: "sequential", wsshard.BinaryMessage: "binary", wsshard.SequenceReconnect: "reconnect",
		wsshard.SubscribeExisting: "existing", wsshard.ShardStopped: "stopped", wsshard.EventStopped: "stopped",
	} {
		if last.String() != word {
			t.Errorf("%T: the last constant is %q, want %q", last, last, word)
		}
	}
}

// words checks the values from first on.
func words[E interface {
	~int
	fmt.Stringer
}](t *testing.T, first E, want ...string) {
	t.Helper()
	for i, w := range want {
		if v := first + E(i); v.String() != w {
			t.Errorf("%T(%d) is %q, want %q", v, i, v, w)
		}
	}
	for _, none := range []E{first - 1, first + E(len(want))} {
		if w := fmt.Sprintf("unknown(%d)", int(none)); none.String() != w {
			t.Errorf("%T(%d) is %q, want %q", none, int(none), none, w)
		}
	}
}

func TestSubscribeResultOK(t *testing.T) {
	for status, ok := range map[wsshard.SubscribeStatus]bool{
		wsshard.SubscribeFailed: false, wsshard.SubscribeAdded: true, wsshard.SubscribeExisting: true,
	} {
		if r := (wsshard.SubscribeResult{Status: status}); r.OK() != ok {
			t.Errorf("%v: OK is %v", status, r.OK())
		}
	}
}

// An empty message is sent wherever one can be; nil is none.
func TestEmptyMessages(t *testing.T) {
	empty := wsshard.Text("")
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		if err := conn.Write(ctx, wsshard.Binary(nil)); !errors.Is(err, wsshard.ErrInvalidMessage) {
			t.Errorf("Write of nil: %v", err)
		}
		return conn.Write(ctx, wsshard.Binary([]byte{}))
	}
	for _, compressed := range []bool{false, true} {
		cfg := harness.DialsOnly()
		cfg.Connection.EnableCompression = compressed
		harness.LoginWorld(t, cfg, login, func(w *harness.World) {
			w.App.Addr = "ws://raw/"
			w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
				return []wsshard.Message{{}, empty}, nil
			}
			w.App.Encode = func(sign string, _ wsshard.Request[string]) (wsshard.Message, error) {
				return map[string]wsshard.Message{"+": empty}[sign], nil
			}
			s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
				if compressed {
					c.Upgrade(harness.Deflated)
				} else {
					c.Upgrade()
				}
				c.Gone()
			})
			w.Begin("a")
			harness.After(time.Second)
			if err := w.M.Send(context.Background(), 0, empty); err != nil {
				t.Errorf("Send: %v", err)
			}
			if err := w.M.Send(context.Background(), 0, wsshard.Message{}); !errors.Is(err, wsshard.ErrInvalidMessage) {
				t.Errorf("Send of nil: %v", err)
			}
			w.M.Unsubscribe("a") // sends nothing
			harness.After(time.Second)
			texts, binaries := s.Conn(0).Frames(harness.OpText), s.Conn(0).Frames(harness.OpBinary)
			if len(texts) != 3 || len(binaries) != 1 { // OnConnect, the subscription, Send; Login
				t.Fatalf("%d texts, %d binaries", len(texts), len(binaries))
			}
			for _, f := range append(texts, binaries...) {
				if !f.Fin || len(f.Payload) > 1 || len(f.Payload) == 1 && !compressed {
					t.Errorf("sent %+v", f)
				}
			}
		})
	}
}
