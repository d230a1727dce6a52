package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: how does a connection look that costs a test nothing?

// canned is the client's end of a connection to a server that is no more than bytes in memory: it answers the handshake, and
// then there are frames to read. What a benchmark or a count of allocations sees is the library's own.
type canned struct {
	frames   []byte        // whole ones, over and over
	left     int           // bytes that are still to be read
	answered chan struct{} // closed: answer is there
	answer   []byte        // to the handshake
	start    chan struct{} // closed by the test: frames may be read
	gone     chan struct{} // closed: by Close, or because the client said goodbye
	once     sync.Once
}

// newCanned has count frames with payload.
func newCanned(payload []byte, count int) *canned {
	f := textFrame(payload)
	return &canned{
		frames: bytes.Repeat(f, max(1, (256<<10)/len(f))), left: count * len(f),
		answered: make(chan struct{}), start: make(chan struct{}), gone: make(chan struct{}),
	}
}

// textFrame encodes a frame as a server sends it.
func textFrame(payload []byte) []byte {
	f := []byte{0x81}
	switch n := len(payload); {
	case n < 126:
		f = append(f, byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 127), uint64(n))
	}
	return append(f, payload...)
}

// Write answers the handshake, which comes in one piece, and takes notice of a close frame.
func (c *canned) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("GET ")) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p)))
		if err != nil {
			return 0, err
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		c.answer = fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]))
		close(c.answered)
	} else if p[0] == 0x88 {
		c.Close()
	}
	return len(p), nil
}

// Read gives what a socket would: as much as there is room for, and nothing of what comes after the handshake with it.
func (c *canned) Read(p []byte) (int, error) {
	select {
	case <-c.answered:
	case <-c.gone:
		return 0, io.EOF
	}
	if n := copy(p, c.answer); n > 0 {
		c.answer = c.answer[n:]
		return n, nil
	}
	more := c.start
	if c.left == 0 {
		more = nil
	}
	select {
	case <-more:
	case <-c.gone:
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.left)], c.frames[(len(c.frames)-c.left%len(c.frames))%len(c.frames):])
	c.left -= n
	return n, nil
}

func (c *canned) Close() error {
	c.once.Do(func() { close(c.gone) })
	return nil
}

func (c *canned) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *canned) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

// counter is a handler that counts messages, and notices the last of them.
type counter struct {
	n, last int
	bytes   int
	done    chan struct{}
}

func (h *counter) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (h *counter) SubscriptionMessage(wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("sub"), nil
}

func (h *counter) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	h.n++
	h.bytes += len(msg.Data)
	if h.n == h.last {
		close(h.done)
	}
}

// deliver has one shard deliver count messages of size bytes; around is called before the first and after the last.
func deliver(t testing.TB, cfg wsshard.ConnectionConfig, size, count int, around func()) {
	t.Helper()
	h := &counter{last: count, done: make(chan struct{})}
	deliverTo(t, h, newCanned(bytes.Repeat([]byte("x"), size), count), cfg, h.done, around)
	if h.bytes != size*count {
		t.Errorf("%d bytes were delivered, want %d", h.bytes, size*count)
	}
}

// deliverTo has one shard deliver what conn has, until done is closed. around is called before the first and after the last.
func deliverTo(t testing.TB, h wsshard.Handler[string], conn *canned, cfg wsshard.ConnectionConfig, done <-chan struct{}, around ...func()) {
	t.Helper()
	cfg.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	m, err := wsshard.New(h, wsshard.Config{Connection: cfg})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Subscribe("a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, f := range around {
		f()
	}
	close(conn.start)
	<-done
	for _, f := range around {
		f()
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
