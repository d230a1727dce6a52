package wsconn

import (
	"crypto/tls"
	"net"
	"sync"
)

// This file answers: from where do bytes come, and whose memory do they lie in?

// readAhead is how much is read at a time into a borrowed buffer.
const readAhead = 64 << 10

// leastBuffer is the least that a buffer has that is not borrowed, bytes.
const leastBuffer = 256

// borrowed buffers are shared by all connections: one is held from when bytes have come until all of them were handled.
var borrowed = sync.Pool{New: func() any { return new([readAhead]byte) }}

// A source is what the reader takes bytes from, once the handshake is over.
type source interface {
	// fill waits until there are bytes, or an error. They lie in memory of the source's, which is valid until free; in p
	// instead, if that is as long as what the source would read at a time. free comes before each fill.
	fill(p []byte) ([]byte, error)

	// free gives memory back that the source holds for bytes that were taken.
	free()
}

// newSource is the best that conn allows: it holds memory only while there is something in it, or else a buffer of n bytes. A
// type that is not ours has a Read of its own, with a meaning of its own.
func newSource(conn net.Conn, n int) source {
	if a := newAhead(conn); a != nil {
		return a
	}
	if c, ok := conn.(*tls.Conn); ok {
		if s := newSealed(c); s != nil {
			return s
		}
	}
	return &buffered{conn, make([]byte, max(leastBuffer, n))}
}

// buffered reads any connection into a buffer that it keeps.
type buffered struct {
	conn net.Conn
	buf  []byte
}

func (b *buffered) fill(p []byte) ([]byte, error) {
	if len(p) < len(b.buf) {
		p = b.buf
	}
	n, err := b.conn.Read(p)
	return p[:n], err
}

func (b *buffered) free() {}
