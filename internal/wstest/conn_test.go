package wstest_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// TestConformance is outside a bubble: the contract of net.Conn, as the Go project tests it.
func TestConformance(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				n := wstest.NewNet()
				n.SetLatency(latency)
				client, server := pipe(t, n)
				return client, server, func() { client.Close(); server.Close() }, nil
			})
		})
	}
}

func TestLatency(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		const oneWay = 30 * time.Millisecond
		n.SetLatency(oneWay)
		client, server := pipe(t, n)
		buf := make([]byte, 10)
		read := func(want string) (took time.Duration) {
			t.Helper()
			took = since(func() {
				k, err := io.ReadFull(client, buf[:len(want)])
				if string(buf[:k]) != want || err != nil {
					t.Fatalf("read %q, %v, want %q", buf[:k], err, want)
				}
			})
			return took
		}
		server.Write([]byte("a"))
		server.Write([]byte("b"))
		time.Sleep(10 * time.Millisecond)
		server.Write([]byte("c"))
		server.Close()
		want(t, "a, b", read("ab"), 20*time.Millisecond)
		want(t, "c", read("c"), 10*time.Millisecond)
		var err error
		want(t, "EOF", since(func() { _, err = client.Read(buf) }), 0)
		want(t, "error", err, io.EOF)

		// One that waits before anything is sent.
		client, server = pipe(t, n)
		time.AfterFunc(time.Second, func() { server.Write([]byte("d")) })
		want(t, "d", read("d"), time.Second+oneWay)
		time.AfterFunc(time.Second, func() { server.Close() })
		want(t, "EOF", since(func() { _, err = client.Read(buf) }), time.Second+oneWay)
		want(t, "error", err, io.EOF)
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(10)
		client, server := pipe(t, n)
		var k int
		var err error
		buf := make([]byte, 20)

		client.SetDeadline(time.Now().Add(3 * time.Second))
		want(t, "read", since(func() { _, err = client.Read(buf) }), 3*time.Second)
		wantErr(t, err, os.ErrDeadlineExceeded)
		wantTimeout(t, err)
		_, err = client.Write(buf[:1])
		wantErr(t, err, os.ErrDeadlineExceeded)

		client.SetWriteDeadline(time.Now().Add(time.Second))
		want(t, "write", since(func() { k, err = client.Write(buf) }), time.Second)
		wantErr(t, err, os.ErrDeadlineExceeded)
		want(t, "written", k, 10)

		// Moved while waiting: sooner, later, away.
		client.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Second, func() { client.SetReadDeadline(time.Now().Add(time.Second)) })
		want(t, "sooner", since(func() { _, err = client.Read(buf) }), 2*time.Second)
		wantTimeout(t, err)
		client.SetReadDeadline(time.Now().Add(2 * time.Second))
		time.AfterFunc(time.Second, func() { client.SetReadDeadline(time.Now().Add(time.Hour)) })
		want(t, "later", since(func() { _, err = client.Read(buf) }), time.Hour+time.Second)
		wantTimeout(t, err)
		client.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Millisecond, func() { client.SetReadDeadline(time.Time{}) })
		time.AfterFunc(time.Minute, func() { server.Write([]byte("x")) })
		want(t, "away", since(func() { k, err = client.Read(buf) }), time.Minute)
		want(t, "read", k, 1)

		client.Close()
		wantErr(t, client.SetDeadline(time.Time{}), net.ErrClosed)
		wantErr(t, client.CloseWrite(), net.ErrClosed)
		wantErr(t, client.Close(), net.ErrClosed)
	})
}

// A write that waits for room gets it as the reader reads, and concurrent writes do not mix.
func TestWriteBlocks(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(100)
		client, server := pipe(t, n)
		const writers, size = 5, 1000
		var writes sync.WaitGroup
		for i := range writers {
			writes.Go(func() {
				if k, err := client.Write(bytes.Repeat([]byte{'a' + byte(i)}, size)); k != size || err != nil {
					t.Errorf("wrote %d, %v", k, err)
				}
			})
		}
		synctest.Wait()
		buf := make([]byte, size)
		for range writers {
			if _, err := io.ReadFull(iotestSmall{server}, buf); err != nil {
				t.Fatal(err)
			}
			want(t, "bytes of one writer", bytes.Count(buf, buf[:1]), size)
		}
		writes.Wait()
	})
}

// iotestSmall reads 7 bytes at a time.
type iotestSmall struct{ r io.Reader }

func (s iotestSmall) Read(p []byte) (int, error) { return s.r.Read(p[:min(7, len(p))]) }

func TestBlackHole(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Second} {
		bubble(t, func(t *testing.T, n *wstest.Net) {
			n.SetBuffer(10)
			n.SetLatency(latency)
			client, server := pipe(t, n)
			buf := make([]byte, 20)
			server.Write([]byte("early"))
			time.Sleep(latency)
			client.BlackHole(true)
			server.Write([]byte("late"))
			if k, err := client.Read(buf); string(buf[:k]) != "early" || err != nil {
				t.Fatalf("read %q, %v, want what had arrived", buf[:k], err)
			}
			client.SetDeadline(time.Now().Add(time.Minute))
			k, err := client.Write(buf)
			want(t, "written", k, 10)
			wantTimeout(t, err)
			server.Close() // must not be noticed
			client.SetDeadline(time.Now().Add(time.Minute))
			_, err = client.Read(buf)
			wantTimeout(t, err)
			_, err = client.Write(buf)
			wantTimeout(t, err)

			client.SetDeadline(time.Time{})
			time.AfterFunc(time.Minute, func() { client.BlackHole(false) })
			var got []byte
			want(t, "healed", since(func() { got, err = io.ReadAll(client) }), time.Minute)
			want(t, "read", string(got), "late")
			want(t, "error", err, nil)
			_, err = client.Write(buf)
			wantErr(t, err, syscall.EPIPE)
		})
	}
}

// Both ends of a black hole can be closed, whoever waits there.
func TestBlackHoleClose(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(10)
		client, server := pipe(t, n)
		server.BlackHole(true)
		var waits sync.WaitGroup
		for _, c := range []*wstest.Conn{client, server} {
			for range 2 {
				waits.Go(func() {
					_, err := c.Read(make([]byte, 1))
					wantErrInGoroutine(t, err, net.ErrClosed)
				})
				waits.Go(func() {
					_, err := c.Write(make([]byte, 11))
					wantErrInGoroutine(t, err, net.ErrClosed)
				})
			}
		}
		synctest.Wait()
		client.Close()
		time.Sleep(time.Hour)
		server.Close()
		waits.Wait()
	})
}

func wantErrInGoroutine(t *testing.T, err, target error) {
	if op, ok := err.(*net.OpError); !ok || op.Err != target {
		t.Errorf("error is %v, want %v", err, target)
	}
}

func TestStallOneWay(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		client, server := pipe(t, n)
		buf := make([]byte, 10)
		deaf := func(c *wstest.Conn) {
			t.Helper()
			c.SetReadDeadline(time.Now().Add(time.Second))
			_, err := c.Read(buf)
			wantTimeout(t, err)
			c.SetReadDeadline(time.Time{})
		}
		hears := func(c *wstest.Conn) {
			t.Helper()
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		client.StallRead(true)
		client.Write([]byte("x"))
		server.Write([]byte("x"))
		hears(server)
		deaf(client)
		client.StallRead(false)
		hears(client)

		client.StallWrite(true)
		client.Write([]byte("x"))
		server.Write([]byte("x"))
		hears(client)
		deaf(server)
		client.StallWrite(false)
		hears(server)
	})
}

func TestReset(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		n.SetBuffer(10)
		client, server := pipe(t, n)
		client.BlackHole(true) // no shelter from a reset
		server.Write([]byte("lost"))
		var waits sync.WaitGroup
		waits.Go(func() {
			_, err := client.Write(make([]byte, 11))
			if op, ok := err.(*net.OpError); !ok || op.Err.Error() != "write: connection reset by peer" {
				t.Errorf("blocked write: %v", err)
			}
		})
		synctest.Wait()
		client.Reset()
		waits.Wait()
		for _, c := range []*wstest.Conn{client, server} {
			_, err := c.Read(make([]byte, 1))
			wantErr(t, err, syscall.ECONNRESET)
			_, err = c.Write(make([]byte, 1))
			wantErr(t, err, syscall.ECONNRESET)
		}
		client.Close()
		_, err := client.Read(make([]byte, 1))
		wantErr(t, err, net.ErrClosed)
	})
}

func TestCloseWrite(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		client, server := pipe(t, n)
		client.Write([]byte("last"))
		client.CloseWrite()
		if b, err := io.ReadAll(server); string(b) != "last" || err != nil {
			t.Fatalf("server read %q, %v", b, err)
		}
		_, err := client.Write([]byte("x"))
		wantErr(t, err, syscall.EPIPE)
		server.Write([]byte("y"))
		server.Close()
		if b, err := io.ReadAll(client); string(b) != "y" || err != nil {
			t.Fatalf("client read %q, %v", b, err)
		}
	})
}

// A writer that waits for room learns that the other end is closed when that news arrives.
func TestCloseFreesWriter(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Second} {
		bubble(t, func(t *testing.T, n *wstest.Net) {
			n.SetBuffer(10)
			n.SetLatency(latency)
			client, server := pipe(t, n)
			client.Write(make([]byte, 10))
			time.AfterFunc(time.Minute, func() { server.Close() })
			client.SetWriteDeadline(time.Now().Add(time.Hour))
			var err error
			want(t, "write", since(func() { _, err = client.Write(make([]byte, 1)) }), time.Minute+latency)
			wantErr(t, err, syscall.EPIPE)
		})
	}
}
