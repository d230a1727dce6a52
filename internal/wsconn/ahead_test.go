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

// taking is what the reader of a Tap sees, as an io.Reader.
type taking struct {
	*Tap
	in *input
}

func take(tap *Tap) *taking { return &taking{tap, &input{tap: tap}} }

func (r *taking) Read(p []byte) (n int, err error) {
	if len(p) > 0 {
		n, err = r.in.read(p)
	}
	if r.in.err = nil; err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// holds reports whether a buffer is borrowed.
func (r *taking) holds() bool { return r.source.(*ahead).buf != nil }

// dialTCP returns both ends of a connection over the loopback interface, with a Tap on the client's.
func dialTCP(t *testing.T) (tap *taking, client, server *net.TCPConn) {
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
	tap = take(NewTap(conn, maxTestHead))
	tap.Established(0)
	return tap, conn.(*net.TCPConn), peer.(*net.TCPConn)
}

const maxTestHead = 1 << 10

// waits returns when somebody reads.
func waits(tap *taking) {
	for !tap.Signs().Waiting {
		runtime.Gosched()
	}
}

func TestAheadBytes(t *testing.T) {
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for _, size := range []int{1, 100, 1024, 4096, readAhead, 2 * readAhead} {
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

// A connection holds a buffer as long as there is something in it, or until that was handled, and no longer.
func TestAheadBuffer(t *testing.T) {
	tap, _, server := dialTCP(t)
	server.Write([]byte("abc"))
	buf := make([]byte, 2)
	for _, want := range []string{"ab", "c"} {
		if n, err := tap.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
		tap.in.drained()
		if tap.holds() != (want == "ab") {
			t.Errorf("after %q a buffer is held: %v", want, tap.holds())
		}
	}
	server.Write([]byte("d"))
	tap.Read(buf)
	read := make(chan struct{})
	go func() {
		tap.Read(buf)
		close(read)
	}()
	waits(tap)
	if tap.holds() {
		t.Error("a buffer is held while nothing comes")
	}
	server.Write([]byte("e"))
	<-read
	if s := tap.Signs(); s.Reads != 3 {
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
	_, client, server := dialTCP(t)
	for asked, want := range map[int]int{4096: 4096, 100: leastBuffer} {
		c := &counting{TCPConn: client}
		tap := take(NewTap(c, maxTestHead))
		tap.Established(asked)
		server.Write([]byte("abc"))
		if n, err := tap.Read(make([]byte, 10)); n != 3 || err != nil || c.reads != 1 {
			t.Errorf("read %d, %v; %d reads", n, err, c.reads)
		}
		if n := len(tap.source.(*buffered).buf); n != want {
			t.Errorf("asked for %d bytes, it has %d", asked, n)
		}
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
	tap.Established(0)
	if n, err := take(tap).Read(buf); err != nil || string(buf[:n]) != "def" {
		t.Errorf("then: %q, %v", buf[:n], err)
	}
}
