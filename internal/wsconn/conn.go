// Package wsconn is one WebSocket connection's life: read into a buffer of its own, write with a deadline, ping, close.
//
// It is gorilla/websocket with its sharp edges taken off: limits count decompressed bytes, control frames are answered by
// whoever writes and never by the reader, and every way to fail is a typed error.
package wsconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// This file answers: how are messages read from and written to one connection?

// MaxFrame is the most payload that leaves as one frame, bytes.
const MaxFrame = 64 << 10

// WriteBuffer is the size of the buffer that a frame is made in: deflate makes what it cannot compress a little longer.
const WriteBuffer = MaxFrame + 128

// keepBuffer is the largest read buffer that is kept from one message to the next, bytes.
const keepBuffer = 1 << 20

// A message that does not fit into the read buffer is read in pieces of such sizes, bytes.
const (
	leastPiece = 512
	mostPiece  = 1 << 20
)

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
	WriteTimeout time.Duration
	CheckUTF8    bool         // refuse text that is not UTF-8
	OnPing       func(string) // called by the reading goroutine
	OnPong       func(string)
}

// A Conn is an open connection. One goroutine reads, one writes; Kill may be called by any.
type Conn struct {
	*Tap
	ws  *websocket.Conn
	opt Options

	// owned by the reading goroutine
	buf  []byte
	last []byte // what Read returned last
	own  bool   // that is no buffer of ours
}

// New takes over ws, whose net.Conn is tap.
func New(ws *websocket.Conn, tap *Tap, opt Options) *Conn {
	c := &Conn{Tap: tap, ws: ws, opt: opt}
	ws.SetReadLimit(opt.ReadLimit)
	ws.SetCloseHandler(func(int, string) error { // the writer answers it
		tap.frame()
		return nil
	})
	ws.SetPingHandler(func(payload string) error {
		tap.frame()
		opt.OnPing(payload)
		return nil
	})
	ws.SetPongHandler(func(payload string) error {
		tap.frame()
		opt.OnPong(payload)
		return nil
	})
	tap.Established()
	return c
}

// Subprotocol is the one that the server chose.
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Read returns the next data message, in a buffer that is valid until the next Read. Its errors are permanent.
func (c *Conn) Read() (text bool, data []byte, err error) {
	c.last, c.own = nil, false
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return false, nil, readError(err)
	}
	c.message = true
	if data, err = c.whole(r); err != nil {
		return false, nil, err
	}
	c.last, c.message = data, false
	c.frame()
	text = kind == websocket.TextMessage
	if text && c.opt.CheckUTF8 && !utf8.Valid(data) {
		return false, nil, &Violation{Code: websocket.CloseInvalidFramePayloadData, Text: "text that is not UTF-8"}
	}
	return text, data, nil
}

// Detached reports whether what the last Read returned stays valid: it was too long for a buffer that is kept.
func (c *Conn) Detached() bool { return c.own }

// whole reads a message to its end. What the buffer has no room for is read in pieces, and they are joined when the message is
// complete. So one that never ends, or is over the limit, takes no more memory than it has bytes; a buffer that grows by being
// copied would take more than twice that.
func (c *Conn) whole(r io.Reader) ([]byte, error) {
	var full [][]byte
	piece, before := c.buf[:0], 0 // before: bytes in full
	for {
		if len(piece) == cap(piece) {
			if len(piece) > 0 {
				full = append(full, piece)
				before += len(piece)
			}
			piece = make([]byte, 0, c.nextPiece(before))
		}
		n, err := r.Read(piece[len(piece):cap(piece)])
		piece = piece[:len(piece)+n]
		size := before + len(piece)
		switch {
		case c.opt.ReadLimit > 0 && int64(size) > c.opt.ReadLimit:
			return nil, tooBig
		case err == io.EOF:
			return c.join(full, piece, size), nil
		case err == io.ErrUnexpectedEOF && c.Failed() == nil: // compressed data that breaks off; the connection goes on
			return nil, &Violation{Code: websocket.CloseProtocolError, Text: "flate: " + err.Error()}
		case err != nil:
			return nil, readError(err)
		}
	}
}

// nextPiece is the size of the next piece: as much as there is already, within bounds, and at most one byte over the limit.
func (c *Conn) nextPiece(before int) int {
	size := max(leastPiece, min(before, mostPiece))
	if left := c.opt.ReadLimit - int64(before); c.opt.ReadLimit > 0 && left < int64(size) {
		size = int(left) + 1
	}
	return size
}

// join makes one of the pieces. Unless that is too long to be kept, it is the buffer from now on.
func (c *Conn) join(full [][]byte, piece []byte, size int) []byte {
	if len(full) == 0 {
		c.buf = piece
		return piece
	}
	room := size
	if c.own = size >= keepBuffer; !c.own {
		room = 1 << bits.Len(uint(size)) // the next one may be a little longer
	}
	all := make([]byte, 0, room)
	for _, p := range full {
		all = append(all, p...)
	}
	if all = append(all, piece...); !c.own {
		c.buf = all
	}
	return all
}

// Poison overwrites the last message.
func (c *Conn) Poison() {
	for i := range c.last {
		c.last[i] = 0xDB
	}
}

var tooBig = &Violation{Code: websocket.CloseMessageTooBig, Text: "message over the read limit"}

// readError sorts gorilla's errors: it knows some by type and most by text only.
func readError(err error) error {
	var ce *websocket.CloseError
	var ne net.Error
	switch {
	case err == io.EOF: // in what followed the end of the compressed data in its frame
		return io.ErrUnexpectedEOF
	case errors.As(err, &ce):
		if ce.Code == websocket.CloseAbnormalClosure { // gorilla's name for an end without a close frame
			return io.ErrUnexpectedEOF
		}
		return &Closed{Code: ce.Code, Text: ce.Text}
	case errors.Is(err, websocket.ErrReadLimit):
		return tooBig
	case errors.As(err, &ne):
		return err
	case strings.HasPrefix(err.Error(), "websocket: "):
		return &Violation{Code: websocket.CloseProtocolError, Text: strings.TrimPrefix(err.Error(), "websocket: ")}
	case strings.HasPrefix(err.Error(), "flate: "):
		return &Violation{Code: websocket.CloseProtocolError, Text: err.Error()}
	}
	return err
}

// Write sends one message and says how many frames it took, at most.
func (c *Conn) Write(text bool, data []byte) (frames int, err error) {
	kind := websocket.BinaryMessage
	if text {
		kind = websocket.TextMessage
	}
	c.ws.SetWriteDeadline(time.Now().Add(c.opt.WriteTimeout))
	return 1 + max(0, len(data)-1)/MaxFrame, c.ws.WriteMessage(kind, data)
}

// Ping sends a ping frame; payload is cut at the 125 bytes that a control frame may carry.
func (c *Conn) Ping(payload string) error { return c.control(websocket.PingMessage, payload) }

// Pong answers a ping frame.
func (c *Conn) Pong(payload string) error { return c.control(websocket.PongMessage, payload) }

func (c *Conn) control(kind int, payload string) error {
	return c.ws.WriteControl(kind, []byte(payload[:min(len(payload), 125)]), time.Now().Add(c.opt.WriteTimeout))
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
