package acceptance

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawServer answers every connection to its address by a script that writes bytes, not messages: what no decent server
// would send.
type rawServer struct {
	joined sync.WaitGroup

	mu    sync.Mutex // protects following fields
	conns []*rawConn
	ends  []net.Conn // without TLS
}

// rawConn is one connection, seen from the server.
type rawConn struct {
	net.Conn
	t    testing.TB
	br   *bufio.Reader
	req  *http.Request
	done chan struct{} // closed when listen has ended

	mu   sync.Mutex // protects following fields
	sent []rawFrame
}

// rawFrame is a frame of the client, unmasked.
type rawFrame struct {
	at      time.Time
	fin     bool
	rsv1    bool
	op      byte
	payload []byte
}

func (f rawFrame) code() int {
	if f.op != opClose || len(f.payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

const (
	opCont, opText, opBinary, opClose, opPing, opPong = 0, 1, 2, 8, 9, 10
	fin, rsv1                                         = 0x80, 0x40
)

// serveRaw runs script for each connection to addr, after the request's head was read; the connection is closed when it
// returns. secure, if not nil, is the server's side of TLS.
func (w *world) serveRaw(addr string, secure *tls.Config, script func(c *rawConn)) *rawServer {
	s := &rawServer{}
	ln := w.net.Listen(addr)
	w.t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, end := range s.ends {
			end.Close()
		}
		s.mu.Unlock()
		s.joined.Wait()
	})
	s.joined.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			end := nc
			if secure != nil {
				nc = tls.Server(nc, secure)
			}
			c := &rawConn{Conn: nc, t: w.t, br: bufio.NewReader(nc), done: make(chan struct{})}
			s.mu.Lock()
			s.ends = append(s.ends, end)
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.joined.Go(func() {
				defer nc.Close()
				if c.req, err = http.ReadRequest(c.br); err == nil {
					script(c)
				}
			})
		}
	})
	return s
}

func (s *rawServer) conn(i int) *rawConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[i]
}

func (s *rawServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// accept is the value that answers the client's key.
func (c *rawConn) accept() string {
	sum := sha1.Sum([]byte(c.req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// switching is a right answer to the handshake, with more header lines.
func (c *rawConn) switching(lines ...string) string {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + c.accept() + "\r\n"
	for _, line := range lines {
		head += line + "\r\n"
	}
	return head + "\r\n"
}

// upgrade answers rightly, and takes down what the client sends from then on.
func (c *rawConn) upgrade(lines ...string) {
	c.say(c.switching(lines...))
	go c.listen()
}

// say writes bytes as they are; the client may be gone.
func (c *rawConn) say(raw string) { io.WriteString(c.Conn, raw) }

// frame writes one frame; first is the header's first byte.
func (c *rawConn) frame(first byte, payload string) { c.say(rawBytes(first, payload)) }

// gone waits until the client has closed the connection.
func (c *rawConn) gone() { <-c.done }

func (c *rawConn) listen() {
	defer close(c.done)
	for {
		f, err := readRaw(c.br)
		if err != nil {
			return
		}
		f.at = time.Now()
		c.mu.Lock()
		c.sent = append(c.sent, f)
		c.mu.Unlock()
	}
}

// frames returns what the client has sent of one kind.
func (c *rawConn) frames(op byte) (of []rawFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.sent {
		if f.op == op {
			of = append(of, f)
		}
	}
	return of
}

// wantClose checks that the client said goodbye once, with code.
func (c *rawConn) wantClose(code int) {
	c.t.Helper()
	if closes := c.frames(opClose); len(closes) != 1 || closes[0].code() != code {
		c.t.Errorf("the client closed with %v, want one close %d", closes, code)
	}
}

// rawBytes encodes a frame as a server does.
func rawBytes(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return string(b) + payload
}

func closePayload(code int, text string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + text
}

// readRaw reads a frame of a client, which must be masked.
func readRaw(r io.Reader) (f rawFrame, err error) {
	head := make([]byte, 2, 8)
	if _, err = io.ReadFull(r, head); err != nil {
		return f, err
	}
	if head[0]&0x30 != 0 || head[1]&0x80 == 0 {
		return f, fmt.Errorf("bad header %x", head)
	}
	f.fin, f.rsv1, f.op = head[0]&fin != 0, head[0]&rsv1 != 0, head[0]&0xf
	n := uint64(head[1] & 0x7f)
	if size := map[uint64]int{126: 2, 127: 8}[n]; size > 0 {
		wide := make([]byte, 8)
		if _, err = io.ReadFull(r, wide[8-size:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(wide)
	}
	mask := make([]byte, 4)
	if _, err = io.ReadFull(r, mask); err != nil {
		return f, err
	}
	f.payload = make([]byte, n)
	if _, err = io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	for i := range f.payload {
		f.payload[i] ^= mask[i%4]
	}
	return f, nil
}

func TestRawBytes(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		raw := rawBytes(fin|opText, strings.Repeat("x", n))
		masked := append([]byte{raw[0], raw[1] | 0x80}, raw[2:len(raw)-n]...)
		masked = append(append(masked, 0, 0, 0, 0), raw[len(raw)-n:]...)
		f, err := readRaw(bytes.NewReader(masked))
		if err != nil || !f.fin || f.op != opText || len(f.payload) != n {
			t.Errorf("%d bytes: %v %d bytes, %v", n, f.op, len(f.payload), err)
		}
	}
}
