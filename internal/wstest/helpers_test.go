package wstest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

const addr = "srv:80"

// bubble runs a test in a bubble with a network of its own.
func bubble(t *testing.T, f func(t *testing.T, n *wstest.Net)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, wstest.NewNet()) })
}

// pipe returns both ends of a connection without a server; they are closed with the test.
func pipe(t *testing.T, n *wstest.Net) (client, server *wstest.Conn) {
	t.Helper()
	l := n.Listen(addr)
	t.Cleanup(func() { l.Close() })
	c, err := n.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*wstest.Conn), s.(*wstest.Conn)
}

// client is a WebSocket client that reads all the time.
type client struct {
	*websocket.Conn
	texts chan string // closed after the last
	ended chan error  // gets the read error
}

func dialer(n *wstest.Net) *websocket.Dialer {
	return &websocket.Dialer{NetDialContext: n.DialContext}
}

func connect(t *testing.T, n *wstest.Net) *client {
	t.Helper()
	ws, _, err := dialer(n).DialContext(context.Background(), "ws://"+addr+"/feed", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{Conn: ws, texts: make(chan string, 1000), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, data, err := ws.ReadMessage()
			if err != nil {
				c.ended <- err
				close(c.texts)
				return
			}
			c.texts <- string(data)
		}
	}()
	t.Cleanup(func() { ws.Close(); <-done })
	return c
}

func (c *client) say(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *client) wantText(t *testing.T, want string) {
	t.Helper()
	select {
	case got, ok := <-c.texts:
		if !ok {
			t.Fatalf("client ended with %v, want %q", <-c.ended, want)
		}
		if got != want {
			t.Fatalf("client got %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("client got nothing, want %q", want)
	}
}

func (c *client) wantClose(t *testing.T, code int) {
	t.Helper()
	if err := <-c.ended; !websocket.IsCloseError(err, code) {
		t.Fatalf("client ended with %v, want close code %d", err, code)
	}
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s = %v, want %v", what, got, want)
	}
}

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s = %q, want %q", what, got, want)
	}
}

func wantErr(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error is %v, want %v", err, target)
	}
	if op := (*net.OpError)(nil); !errors.As(err, &op) {
		t.Fatalf("error %v is a %T, want a *net.OpError", err, err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
		t.Fatalf("error is %v, want a timeout", err)
	}
}

// since is the fake time a call took.
func since(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func rejecting(status int, header http.Header, body string) func(*http.Request) (int, http.Header, string) {
	return func(*http.Request) (int, http.Header, string) { return status, header, body }
}
