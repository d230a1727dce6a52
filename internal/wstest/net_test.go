package wstest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

func TestDialRefused(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		_, err := n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, err, syscall.ECONNREFUSED)
		l := n.Listen(addr)
		_, err = n.DialContext(t.Context(), "tcp", "other:80")
		wantErr(t, err, syscall.ECONNREFUSED)
		l.Close()
		_, err = n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, err, syscall.ECONNREFUSED)
		want(t, "Dials", n.Dials(), 3)
		want(t, "Open", n.Open(), 0)
		pipe(t, n)
		want(t, "Open", n.Open(), 1)
	})
}

func TestOnDial(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		boom := errors.New("boom")
		n.OnDial(func(ctx context.Context, k int, to string) error {
			want(t, "addr", to, addr)
			switch k {
			case 1:
				return boom
			case 2:
				<-ctx.Done()
				return ctx.Err()
			case 3:
				<-ctx.Done() // and the dial must not succeed for it
			}
			return nil
		})
		l := n.Listen(addr)
		defer l.Close()
		_, err := n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, err, boom)
		for range 2 {
			want(t, "hanging dial", since(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				_, err = n.DialContext(ctx, "tcp", addr)
			}), 7*time.Second)
			wantErr(t, err, context.DeadlineExceeded)
			wantTimeout(t, err)
		}
		c, err := n.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		start, times := time.Now().Add(-14*time.Second), n.DialTimes()
		if !slices.Equal(times, []time.Time{start, start, start.Add(7 * time.Second), time.Now()}) {
			t.Fatalf("DialTimes = %v", times)
		}
	})
}

func TestConns(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		a, aServer := pipe(t, n)
		b, _ := pipe(t, n)
		if got := n.Conns(); !slices.Equal(got, []*wstest.Conn{a, b}) {
			t.Fatalf("Conns = %v", got)
		}
		want(t, "addresses", a.LocalAddr().String()+" "+b.RemoteAddr().String(), "client:1 "+addr)
		want(t, "server's", aServer.RemoteAddr().String(), "client:1")
		aServer.Close()
		b.Reset()
		want(t, "Open", n.Open(), 2) // neither was closed by the client
		a.Close()
		a.Close()
		want(t, "Open", n.Open(), 1)
		want(t, "Closed", a.Closed(), true)
		want(t, "Closed", b.Closed(), false)
		want(t, "Conns", len(n.Conns()), 2)
	})
}

func TestListenReplaces(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		old := n.Listen(addr)
		waiting, err := n.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer waiting.Close()
		client, server := pipe(t, n)
		_, err = old.Accept()
		wantErr(t, err, net.ErrClosed)
		_, err = waiting.Read(make([]byte, 1))
		wantErr(t, err, syscall.ECONNRESET)
		go func() { client.Write([]byte("x")); client.Close() }()
		if b, err := io.ReadAll(server); string(b) != "x" || err != nil {
			t.Fatalf("server read %q, %v", b, err)
		}
	})
}

// A dial waits when nobody accepts and the backlog is full.
func TestBacklogFull(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		l := n.Listen(addr)
		var err error
		for err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = n.DialContext(ctx, "tcp", addr)
			cancel()
		}
		wantErr(t, err, context.DeadlineExceeded)
		accepted := n.Open()
		time.AfterFunc(time.Second, func() { l.Close() })
		_, err = n.DialContext(t.Context(), "tcp", addr)
		wantErr(t, err, syscall.ECONNREFUSED)
		for _, c := range n.Conns() {
			_, err := c.Read(make([]byte, 1))
			wantErr(t, err, syscall.ECONNRESET)
			c.Close()
		}
		want(t, "Conns", len(n.Conns()), accepted)
		want(t, "Open", n.Open(), 0)
	})
}
