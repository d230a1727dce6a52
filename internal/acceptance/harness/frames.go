package harness

import (
	"bufio"
	"bytes"
	"compress/flate"
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

// This file answers: what does a server say that no library would?

// ServeMute says something to each connection, and nothing more, and reads nothing.
func (w *World) ServeMute(addr, say string) {
	var joined sync.WaitGroup
	var conns []net.Conn
	ln := w.Net.Listen(addr)
	w.T.Cleanup(func() {
		ln.Close()
		joined.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	joined.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte(say))
			conns = append(conns, c)
		}
	})
}

// AnswerWith answers the handshake with text, in which ACCEPT stands for the right key.
func AnswerWith(text string) func(c *RawConn) {
	return func(c *RawConn) { c.Say(strings.ReplaceAll(text, "ACCEPT", c.accept())) }
}

// RightAnswer is how an answer to the handshake begins that is as it should be.
const RightAnswer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"

// RawServer answers every connection to its address by a script that writes bytes, not messages: what no decent server
// would send.
type RawServer struct {
	joined sync.WaitGroup

	mu    sync.Mutex // protects following fields
	conns []*RawConn
	ends  []net.Conn // without TLS
}

// RawConn is one connection, seen from the server.
type RawConn struct {
	net.Conn
	t    testing.TB
	Br   *bufio.Reader
	Req  *http.Request
	done chan struct{} // closed when listen has ended

	mu   sync.Mutex // protects following fields
	Sent []rawFrame
}

// rawFrame is a frame of the client, unmasked.
type rawFrame struct {
	At      time.Time
	Fin     bool
	Rsv1    bool
	Op      byte
	Payload []byte
}

func (f rawFrame) Code() int {
	if f.Op != OpClose || len(f.Payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(f.Payload))
}

const (
	OpCont, OpText, OpBinary, OpClose, OpPing, OpPong = 0, 1, 2, 8, 9, 10
	Fin, Rsv1                                         = 0x80, 0x40
)

// ServeRaw runs script for each connection to addr, after the request's head was read; the connection is closed when it
// returns. secure, if not nil, is the server's side of TLS.
func (w *World) ServeRaw(addr string, secure *tls.Config, script func(c *RawConn)) *RawServer {
	s := &RawServer{}
	ln := w.Net.Listen(addr)
	w.T.Cleanup(func() {
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
			c := &RawConn{Conn: nc, t: w.T, Br: bufio.NewReader(nc), done: make(chan struct{})}
			s.mu.Lock()
			s.ends = append(s.ends, end)
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.joined.Go(func() {
				defer nc.Close()
				if c.Req, err = http.ReadRequest(c.Br); err == nil {
					script(c)
				}
			})
		}
	})
	return s
}

// Conn is the i-th connection.
func (s *RawServer) Conn(i int) *RawConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[i]
}

// Count is how many connections there were.
func (s *RawServer) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// accept is the value that answers the client's key.
func (c *RawConn) accept() string {
	sum := sha1.Sum([]byte(c.Req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Switching is a right answer to the handshake, with more header lines.
func (c *RawConn) Switching(lines ...string) string {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + c.accept() + "\r\n"
	for _, line := range lines {
		head += line + "\r\n"
	}
	return head + "\r\n"
}

// Upgrade answers rightly, and takes down what the client sends from then on.
func (c *RawConn) Upgrade(lines ...string) {
	c.Say(c.Switching(lines...))
	go c.Listen()
}

// Say writes bytes as they are; the client may be gone.
func (c *RawConn) Say(raw string) { io.WriteString(c.Conn, raw) }

// Frame writes one frame; first is the header's first byte.
func (c *RawConn) Frame(first byte, payload string) { c.Say(RawBytes(first, payload)) }

// Gone waits until the client has closed the connection.
func (c *RawConn) Gone() { <-c.done }

// Listen reads frames until the client is gone.
func (c *RawConn) Listen() {
	defer close(c.done)
	for {
		f, err := ReadRaw(c.Br)
		if err != nil {
			return
		}
		f.At = time.Now()
		c.mu.Lock()
		c.Sent = append(c.Sent, f)
		c.mu.Unlock()
	}
}

// Frames returns what the client has sent of one kind.
func (c *RawConn) Frames(op byte) (of []rawFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.Sent {
		if f.Op == op {
			of = append(of, f)
		}
	}
	return of
}

// WantClose checks that the client said goodbye once, with code.
func (c *RawConn) WantClose(code int) {
	c.t.Helper()
	if closes := c.Frames(OpClose); len(closes) != 1 || closes[0].Code() != code {
		c.t.Errorf("the client closed with %v, want one close %d", closes, code)
	}
}

// RawBytes encodes a frame as a server does.
func RawBytes(first byte, payload string) string {
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

// ClosePayload is what a close frame carries.
func ClosePayload(code int, text string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + text
}

// ReadRaw reads a frame of a client, which must be masked.
func ReadRaw(r io.Reader) (f rawFrame, err error) {
	head := make([]byte, 2, 8)
	if _, err = io.ReadFull(r, head); err != nil {
		return f, err
	}
	if head[0]&0x30 != 0 || head[1]&0x80 == 0 {
		return f, fmt.Errorf("bad header %x", head)
	}
	f.Fin, f.Rsv1, f.Op = head[0]&Fin != 0, head[0]&Rsv1 != 0, head[0]&0xf
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
	f.Payload = make([]byte, n)
	if _, err = io.ReadFull(r, f.Payload); err != nil {
		return f, err
	}
	for i := range f.Payload {
		f.Payload[i] ^= mask[i%4]
	}
	return f, nil
}

// Deflated agrees to compression, each message by itself.
const Deflated = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// Deflate is the payload of a compressed message (RFC 7692 §7.2.1).
func Deflate(data string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	w.Write([]byte(data))
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// Bomb is so many MiB in a small message: what the second one becomes, after the first, is repeated.
func Bomb(mib int) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	one := bytes.Repeat([]byte("x"), 1<<20)
	w.Write(one)
	w.Flush()
	first := b.Len()
	w.Write(one)
	w.Flush()
	all := b.String()[:first] + strings.Repeat(b.String()[first:], mib-1)
	return strings.TrimSuffix(all, "\x00\x00\xff\xff")
}

// Trickle writes a text slowly.
func (c *RawConn) Trickle(text string, pause time.Duration) {
	for i := range len(text) {
		if _, err := c.Write([]byte(text[i : i+1])); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// TrickleFrames writes one frame, and then others for a while, or until the client is gone.
func (c *RawConn) TrickleFrames(first, others byte, limit time.Duration) {
	c.Frame(first, "x")
	for begin := time.Now(); limit == 0 || time.Since(begin) < limit; time.Sleep(10 * ms) {
		if _, err := c.Write([]byte(RawBytes(others, ""))); err != nil {
			return
		}
	}
}
