//go:build unix

package wsconn

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// dialTCP returns both ends of a connection over the loopback interface, with a Tap on the client's.
func dialTCP(t *testing.T) (tap *Tap, client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); peer.Close() })
	tap = NewTap(conn, maxTestHead)
	tap.Established()
	return tap, conn.(*net.TCPConn), peer.(*net.TCPConn)
}

const maxTestHead = 1 << 10

// waits returns when somebody reads.
func waits(tap *Tap) {
	for !tap.Signs().Waiting {
		runtime.Gosched()
	}
}

func TestAheadBytes(t *testing.T) {
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for _, size := range []int{1, 100, smallBuffer, 4096, readAhead, 2 * readAhead} {
		tap, _, server := dialTCP(t)
		sent := want[:min(len(want), 1000*size)]
		go func() {
			server.Write(sent)
			server.CloseWrite()
		}()
		var got bytes.Buffer
		for buf := make([]byte, size); ; {
			n, err := tap.Read(buf)
			got.Write(buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got.Bytes(), sent) {
			t.Errorf("%d bytes at a time: %d bytes came and are not the %d that were sent", size, got.Len(), len(sent))
		}
		if n, err := tap.Read(make([]byte, 1)); n != 0 || err != io.EOF || tap.Failed() != io.EOF {
			t.Errorf("after the end: %d, %v, %v", n, err, tap.Failed())
		}
		if most := uint64(len(sent)/size + 1); size < readAhead/2 && len(sent) > 2*readAhead && tap.Signs().Reads > most/2 {
			t.Errorf("%d bytes at a time: %d reads of the socket", size, tap.Signs().Reads)
		}
	}
}

func TestAheadIsAReader(t *testing.T) {
	tap, _, server := dialTCP(t)
	want := bytes.Repeat([]byte("0123456789"), 20_000)
	go func() {
		server.Write(want)
		server.CloseWrite()
	}()
	if err := iotest.TestReader(tap, want); err != nil {
		t.Error(err)
	}
}

// A connection holds a buffer as long as there is something in it, and no longer.
func TestAheadBuffer(t *testing.T) {
	tap, _, server := dialTCP(t)
	server.Write([]byte("abc"))
	buf := make([]byte, 2)
	for _, want := range []string{"ab", "c"} {
		if n, err := tap.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
		if held := tap.ahead.buf != nil; held != (want == "ab") {
			t.Errorf("after %q a buffer is held: %v", want, held)
		}
	}
	read := make(chan struct{})
	go func() {
		tap.Read(buf)
		close(read)
	}()
	waits(tap)
	server.Write([]byte("d"))
	<-read
	if s := tap.Signs(); s.Reads != 2 {
		t.Errorf("%+v", s)
	}
}

func TestAheadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(client, server *net.TCPConn)
		want   error
	}{
		"reset":  {func(_, server *net.TCPConn) { server.SetLinger(0); server.Close() }, syscall.ECONNRESET},
		"closed": {func(client, _ *net.TCPConn) { client.Close() }, net.ErrClosed},
		"end":    {func(_, server *net.TCPConn) { server.Close() }, io.EOF},
	} {
		tap, client, server := dialTCP(t)
		failed := make(chan error, 1)
		go func() {
			_, err := tap.Read(make([]byte, 10))
			failed <- err
		}()
		waits(tap)
		c.breaks(client, server)
		err := <-failed
		var ne net.Error
		if !errors.Is(err, c.want) || err != io.EOF && !errors.As(err, &ne) || tap.Failed() != err {
			t.Errorf("%s: %v, and Failed: %v", name, err, tap.Failed())
		}
		if _, again := tap.Read(make([]byte, 10)); again == nil {
			t.Errorf("%s: the next read did not fail", name)
		}
	}
}

// Deadlines hold as they do for any connection, and end with it no more than there.
func TestAheadDeadline(t *testing.T) {
	tap, _, server := dialTCP(t)
	buf := make([]byte, 10)
	tap.SetReadDeadline(time.Now().Add(-time.Second))
	var ne net.Error
	if n, err := tap.Read(buf); n != 0 || !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline it read %d, %v", n, err)
	}
	failed := make(chan error, 1)
	tap.SetReadDeadline(time.Time{})
	go func() {
		_, err := tap.Read(buf)
		failed <- err
	}()
	waits(tap)
	tap.SetReadDeadline(time.Now().Add(-time.Second))
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read that waited: %v", err)
	}
	tap.SetReadDeadline(time.Time{})
	server.Write([]byte("abc"))
	if n, err := tap.Read(buf); err != nil || string(buf[:n]) != "abc" {
		t.Errorf("then %q, %v", buf[:n], err)
	}
}

type counting struct {
	*net.TCPConn
	reads int
}

func (c *counting) Read(p []byte) (int, error) {
	c.reads++
	return c.TCPConn.Read(p)
}

// A type around a TCP connection may mean something by its Read.
func TestAheadLeavesWrappersAlone(t *testing.T) {
	tap, client, server := dialTCP(t)
	if n := tap.bufferSize(4096); n != smallBuffer {
		t.Errorf("the reader's buffer has %d bytes", n)
	}
	if n := tap.bufferSize(100); n != 100 {
		t.Errorf("asked for 100 bytes, it has %d", n)
	}
	c := &counting{TCPConn: client}
	tap = NewTap(c, maxTestHead)
	tap.Established()
	server.Write([]byte("abc"))
	if n, err := tap.Read(make([]byte, 10)); n != 3 || err != nil || c.reads != 1 {
		t.Errorf("read %d, %v; %d reads", n, err, c.reads)
	}
	if n := tap.bufferSize(4096); n != 4096 {
		t.Errorf("the reader's buffer has %d bytes", n)
	}
}

// The handshake's bytes are counted, and nothing is read beyond them.
func TestAheadHandshake(t *testing.T) {
	_, client, server := dialTCP(t)
	tap := NewTap(client, 3)
	server.Write([]byte("abcdef"))
	buf := make([]byte, 10)
	if n, err := tap.Read(buf); n != 3 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if _, err := tap.Read(buf); err != ErrHead {
		t.Errorf("past the budget: %v", err)
	}
	tap.Established()
	if n, err := tap.Read(buf); err != nil || string(buf[:n]) != "def" {
		t.Errorf("then: %q, %v", buf[:n], err)
	}
}
