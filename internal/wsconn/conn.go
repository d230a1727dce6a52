// Package wsconn is one WebSocket connection's life: read into a buffer of its own, write with a deadline, ping, close.
//
// The handshake and the writer are gorilla/websocket's, with their sharp edges taken off; the reader is ours. Limits count
// decompressed bytes, control frames are answered by whoever writes and never by the reader, and every way to fail is a typed
// error.
package wsconn

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/bits"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// This file answers: how are messages read from and written to one connection?

// MaxFrame is the most payload that leaves as one frame, bytes.
const MaxFrame = 64 << 10

// keepBuffer is the most that a connection keeps from one message to the next, bytes.
const keepBuffer = 32 << 10

// leastPiece is the size of the first read buffer, bytes.
const leastPiece = 512

// mostPiece is the size of the pieces that a message is read in which does not fit into the read buffer, bytes.
const mostPiece = 64 << 10

// pieces are shared by all connections: they are held by unfinished messages only.
var pieces = sync.Pool{New: func() any { return new([mostPiece]byte) }}

// mostLent is the longest message whose memory is lent and taken back, bytes.
const mostLent = 1 << 20

// lent are shared by all connections: one is held while a long message is handled.
var lent sync.Pool

// WriteBuffers is shared by all connections: a buffer is held during a write only.
var WriteBuffers = &sync.Pool{}

// A Violation is what the peer did that the protocol or our limits forbid, with the close code that answers it.
type Violation struct {
	Code int
	Text string
}

func (v *Violation) Error() string { return fmt.Sprintf("close %d: %s", v.Code, v.Text) }

// A Closed is the close frame that the peer sent.
type Closed struct {
	Code int
	Text string
}

func (c *Closed) Error() string { return fmt.Sprintf("closed by the peer: %d %s", c.Code, c.Text) }

// Options of a connection.
type Options struct {
	ReadLimit    int64 // bytes of one message after decompression; 0: none
	ReadBuffer   int   // bytes; 0: the least
	WriteTimeout time.Duration
	CheckUTF8    bool         // refuse text that is not UTF-8
	Lend         bool         // what Read returned is taken back by the next Read, however long it is
	Unfinished   *Unfinished  // shared by many connections; nil: no bound
	OnPing       func(string) // called by the reading goroutine
	OnPong       func(string)
}

// A Conn is an open connection. One goroutine reads, one writes; Kill may be called by any.
type Conn struct {
	*Tap
	ws  *websocket.Conn
	opt Options

	// owned by the reading goroutine
	in      input
	deflate bool  // messages may be compressed
	left    int64 // payload of the data frame that is being read
	fin     bool  // it is the last one of its message
	packed  bool  // the message is compressed
	size    int64 // payload of the message's frames so far
	flood   flood
	broken  error   // what ended the reading
	buf     []byte  // kept
	last    []byte  // what Read returned last
	own     bool    // that stays valid
	loan    *[]byte // last's memory, if it goes back to lent

	// protected by Unfinished.mu
	held   int64 // by the unfinished message
	doomed bool  // it held most when all held too much
}

// New takes over ws, whose net.Conn is tap. Of ws only its handshake and its writer are used.
func New(ws *websocket.Conn, tap *Tap, opt Options) *Conn {
	c := &Conn{Tap: tap, ws: ws, opt: opt}
	c.deflate = Agreed(tap.Extensions(), true).Deflate
	c.in.tap = tap
	tap.Established(opt.ReadBuffer)
	return c
}

// Subprotocol is the one that the server chose.
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Read returns the next data message, in a buffer that is valid until the next Read. Its errors are permanent.
func (c *Conn) Read() (text bool, data []byte, err error) {
	c.takeBack()
	c.returns()
	if c.broken == nil {
		text, data, err = c.read()
		if err != nil {
			c.broken = err
		}
	}
	if c.held > 0 && c.opt.Unfinished.free(c) {
		c.broken = ErrUnfinished
	}
	if c.broken != nil {
		c.in.drop()
		return false, nil, c.broken
	}
	c.last = data
	c.leaves()
	return text, data, nil
}

func (c *Conn) read() (text bool, data []byte, err error) {
	if text, err = c.next(); err != nil {
		return false, nil, err
	}
	c.message = true
	if data, err = c.whole(); err != nil {
		return false, nil, err
	}
	c.message = false
	c.frame()
	if text && c.opt.CheckUTF8 && !utf8.Valid(data) {
		return false, nil, &Violation{Code: websocket.CloseInvalidFramePayloadData, Text: "text that is not UTF-8"}
	}
	return text, data, nil
}

// takeBack ends what the last Read returned.
func (c *Conn) takeBack() {
	if c.loan != nil {
		lent.Put(c.loan)
		c.loan = nil
	}
	c.last, c.own = nil, false
}

// Detach returns what the last Read returned, in memory of its own, which is exactly as long and stays valid: who keeps it
// keeps nothing else.
func (c *Conn) Detach() []byte {
	if !c.own {
		last := c.last // a local one: then what is made is not cleared before
		own := make([]byte, len(last))
		copy(own, last)
		c.last, c.own = own, true
		c.in.drained()
	}
	return c.last
}

// whole reads a message to its end. What the buffer has no room for is read in borrowed pieces, which are joined when the
// message is complete. So one that never ends, or is over the limit, takes no more memory than it has bytes; a buffer that grows
// by being copied would take more than twice that.
func (c *Conn) whole() ([]byte, error) {
	if c.fin && !c.packed {
		if data, ok := c.in.whole(c.left); ok {
			return c.placed(data), nil
		}
	}
	if cap(c.buf) == 0 {
		c.buf = make([]byte, 0, leastPiece)
	}
	if c.fin && !c.packed && c.left <= int64(cap(c.buf)) {
		return c.short()
	}
	var in *inflater
	if c.packed {
		in = c.inflate()
		defer in.close()
	}
	var full []*[mostPiece]byte
	defer func() {
		for _, p := range full {
			pieces.Put(p)
		}
	}()
	piece, before := c.buf[:0], 0 // before: bytes in the pieces that are full
	for {
		n, err := c.fill(in, piece[:cap(piece)])
		piece = piece[:n]
		size := before + n
		switch {
		case c.opt.ReadLimit > 0 && int64(size) > c.opt.ReadLimit:
			return nil, tooBig
		case err == io.EOF && len(full) == 0:
			c.buf = piece
			return piece, c.skip()
		case err == io.EOF:
			return c.join(full, size), c.skip()
		case err != nil:
			return nil, c.failure(err)
		}
		c.idles()
		if err := c.opt.Unfinished.hold(c, mostPiece); err != nil {
			return nil, err
		}
		full = append(full, pieces.Get().(*[mostPiece]byte))
		room := c.room(size)
		piece, before = full[len(full)-1][:room:room], size
	}
}

// placed is a message that has come as one frame, where it lies. Where the application decides how long it is used, a short one
// leaves a borrowed buffer behind of which it is the last: so a slow handler holds one only while there is more to read.
func (c *Conn) placed(data []byte) []byte {
	c.left = 0
	if len(data) > 0 && c.flood.sum > 0 {
		c.flood.data()
	}
	if c.opt.Lend && len(data) <= leastPiece && len(c.in.rest) == 0 {
		c.buf = append(slices.Grow(c.buf[:0], leastPiece), data...)
		c.in.drained()
		return c.buf
	}
	return data
}

// short reads a message of one frame that fits into the buffer.
func (c *Conn) short() ([]byte, error) {
	data := c.buf[:c.left]
	for n := 0; n < len(data); {
		m, err := c.in.read(data[n:])
		if err != nil {
			return nil, err
		}
		n += m
	}
	c.left = 0
	if len(data) > 0 && c.flood.sum > 0 {
		c.flood.data()
	}
	c.buf = data
	return data, nil
}

// fill reads until p is full; otherwise err says why it is not, io.EOF that the message has ended.
func (c *Conn) fill(in *inflater, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		if in != nil {
			m, err = in.fr.Read(p[n:])
		} else {
			m, err = c.payload(p[n:])
		}
		if n += m; m > 0 && c.flood.sum > 0 {
			c.flood.data()
		}
	}
	return n, err
}

// room is the size of the next piece: at most one byte over the limit.
func (c *Conn) room(before int) int {
	if left := c.opt.ReadLimit - int64(before); c.opt.ReadLimit > 0 && left < mostPiece {
		return int(left) + 1
	}
	return mostPiece
}

// skip reads what a compressed message has behind the end of its data.
func (c *Conn) skip() error {
	var p [leastPiece]byte
	for {
		if _, err := c.payload(p[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// failure is why a message has no end: the connection has failed, or the compressed data are broken.
func (c *Conn) failure(err error) error {
	if c.broken != nil {
		return c.broken
	}
	return &Violation{Code: websocket.CloseProtocolError, Text: "flate: " + strings.TrimPrefix(err.Error(), "flate: ")}
}

// join makes one of the buffer and the pieces. Unless that is too long to be kept, it is the buffer from now on.
func (c *Conn) join(full []*[mostPiece]byte, size int) (all []byte) {
	c.opt.Unfinished.join(size, func() {
		switch {
		case size < keepBuffer:
			all = make([]byte, 0, 1<<bits.Len(uint(size))) // the next one may be a little longer
		case c.opt.Lend && size <= mostLent:
			all = c.borrow(size)
		default:
			all = make([]byte, 0, size)
			c.own = true
		}
		all = append(all, c.buf[:cap(c.buf)]...)
		for _, p := range full {
			all = append(all, p[:min(len(p), size-len(all))]...)
		}
	})
	if size < keepBuffer {
		c.buf = all
	}
	return all
}

// borrow returns memory for size bytes that takeBack takes back.
func (c *Conn) borrow(size int) []byte {
	if c.loan, _ = lent.Get().(*[]byte); c.loan == nil || cap(*c.loan) < size {
		b := make([]byte, 0, 1<<bits.Len(uint(size)))
		c.loan = &b
	}
	return (*c.loan)[:0]
}

// Poison overwrites the last message in a race build, so that keeping what was lent shows.
func (c *Conn) Poison() {
	if raceEnabled {
		c.poison()
	}
}

func (c *Conn) poison() {
	for i := range c.last {
		c.last[i] = 0xDB
	}
}

var tooBig = &Violation{Code: websocket.CloseMessageTooBig, Text: "message over the read limit"}

// Write sends one message and says how many frames that took.
func (c *Conn) Write(text bool, data []byte) (frames int, err error) {
	kind := websocket.BinaryMessage
	if text {
		kind = websocket.TextMessage
	}
	c.ws.SetWriteDeadline(time.Now().Add(c.opt.WriteTimeout))
	before := c.writes // the library writes each frame by one call
	err = c.ws.WriteMessage(kind, data)
	return c.writes - before, err
}

// Ping sends a ping frame; payload is cut at the 125 bytes that a control frame may carry.
func (c *Conn) Ping(payload string) error { return c.control(websocket.PingMessage, payload) }

// Pong answers a ping frame.
func (c *Conn) Pong(payload string) error { return c.control(websocket.PongMessage, payload) }

func (c *Conn) control(kind int, payload string) error {
	return c.ws.WriteControl(kind, []byte(payload[:min(len(payload), mostControl)]), time.Now().Add(c.opt.WriteTimeout))
}

// SendClose sends a close frame, within limit. A code that must not be sent is replaced by 1000.
func (c *Conn) SendClose(code int, limit time.Duration) error {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1011, code >= 3000 && code <= 4999:
	default:
		code = websocket.CloseNormalClosure
	}
	return c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(limit))
}

// Kill closes the socket at once, without a close frame. A TLS layer is not asked: its farewell may block.
func (c *Conn) Kill() { Kill(c.Conn) }

// An Under is a connection of ours that lies on another.
type Under interface{ Under() net.Conn }

// Kill closes the socket that conn lies on. Other people's types are closed as they are, since they may mean something by it.
func Kill(conn net.Conn) error {
	for {
		switch c := conn.(type) {
		case *tls.Conn:
			conn = c.NetConn()
		case Under:
			conn = c.Under()
		default:
			return conn.Close()
		}
	}
}
