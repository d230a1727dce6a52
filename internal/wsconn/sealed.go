package wsconn

import (
	"crypto/tls"
	"errors"
	"net"
)

// This file answers: how does a TLS connection wait without holding memory?

// mostRecord is the most that one record of TLS brings, bytes.
const mostRecord = 16 << 10

// Client is tls.Client for a connection that a Tap will watch: where it can, something of ours lies beneath TLS. Renegotiating,
// TLS must wait by itself.
func Client(conn net.Conn, cfg *tls.Config) *tls.Conn {
	if a := newAhead(conn); a != nil && cfg.Renegotiation == tls.RenegotiateNever {
		conn = &beneath{Conn: conn, ahead: a}
	}
	return tls.Client(conn, cfg)
}

// beneath is a connection that, once the handshake is over, never lets TLS wait for bytes: TLS is told that nothing has come,
// which it takes for a deadline and survives. So its caller, who holds a buffer for it, can give that back and wait here.
type beneath struct {
	net.Conn
	ahead *ahead
	asks  bool   // TLS gets what is there
	rest  []byte // what has come and TLS has not taken yet
	err   error  // what comes after rest
}

// Under is what Kill closes.
func (b *beneath) Under() net.Conn { return b.Conn }

func (b *beneath) Read(p []byte) (n int, err error) {
	switch {
	case !b.asks:
		return b.Conn.Read(p)
	case len(b.rest) > 0:
		n = copy(p, b.rest)
		if b.rest = b.rest[n:]; len(b.rest) == 0 {
			b.rest = nil
			b.ahead.free()
		}
		return n, nil
	case b.err != nil:
		err, b.err = b.err, nil // the next time it may be over: a deadline is
		return 0, err
	}
	return 0, errNothing
}

// wait returns when TLS has something to take, be it an error.
func (b *beneath) wait() { b.rest, b.err = b.ahead.fill(nil) }

// nothing is an error as that of a deadline: TLS goes on where it was when it is asked again.
type nothing struct{ error }

func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

var errNothing error = nothing{errors.New("nothing has come")}

// sealed reads a TLS connection into a borrowed buffer, a record at a time.
type sealed struct {
	conn  *tls.Conn
	under *beneath
	buf   *[readAhead]byte // nil: none is borrowed
}

// newSealed returns nil where nothing of ours lies beneath conn.
func newSealed(conn *tls.Conn) *sealed {
	under, ok := conn.NetConn().(*beneath)
	if !ok {
		return nil
	}
	under.asks = true
	return &sealed{conn: conn, under: under}
}

func (s *sealed) fill(p []byte) ([]byte, error) {
	for {
		b, err := s.ask(p)
		if err != errNothing {
			return b, err
		}
		s.under.wait()
	}
}

// ask returns what TLS has, and errNothing only if that is nothing.
func (s *sealed) ask(p []byte) (b []byte, err error) {
	var buf *[readAhead]byte
	if len(p) < mostRecord {
		buf = borrowed.Get().(*[readAhead]byte)
		p = buf[:]
	}
	n, err := s.conn.Read(p)
	if n > 0 {
		if err == errNothing {
			err = nil // a farewell has come in part
		}
		s.buf = buf
		return p[:n], err
	}
	if buf != nil {
		borrowed.Put(buf)
	}
	return nil, err
}

func (s *sealed) free() {
	if s.buf != nil {
		borrowed.Put(s.buf)
		s.buf = nil
	}
}
