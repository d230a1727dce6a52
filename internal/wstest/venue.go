package wstest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Venue is a host without goroutines of its own: thousands of connections to it cost little. It upgrades, answers pings and
// close frames, and keeps a book of who dialled when. For anything else there is Server.
//
// Its hooks are called one at a time; Do changes what they look at.
type Venue struct {
	Reach  time.Duration                                     // how long a dial is on its way
	Answer time.Duration                                     // how long a handshake is, from there
	Down   func() bool                                       // nil, or whether dials are refused
	Judge  func(r *http.Request) (status int, h http.Header) // nil, or what a handshake gets; 0: 101, Mute: nothing
	Life   func() time.Duration                              // nil, or how long a connection lives; 0: for ever
	Came   func(c *VenueConn)                                // nil, or hears of each connection that is up

	hooks sync.Mutex // held while a hook runs

	mu    sync.Mutex // protects the following
	dials []VenueDial
	live  map[*VenueConn]bool
}

// Do runs f while no hook runs.
func (v *Venue) Do(f func()) {
	v.hooks.Lock()
	defer v.hooks.Unlock()
	f()
}

// Mute is a status that is never sent.
const Mute = -1

// VenueDial is one dial in a venue's book.
type VenueDial struct {
	At     time.Time // when it arrived
	Addr   string
	Status int       // 101; 0: it was refused before it could ask, or got no answer
	Done   time.Time // when that was so
}

// DialContext has the shape of net.Dialer's.
func (v *Venue) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	t := time.NewTimer(v.Reach)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	v.mu.Lock()
	v.dials = append(v.dials, VenueDial{At: time.Now(), Addr: addr, Done: time.Now()})
	c := &VenueConn{v: v, n: len(v.dials) - 1, wake: make(chan struct{}, 1)}
	v.mu.Unlock()
	down := false
	v.Do(func() { down = v.Down != nil && v.Down() })
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: memAddr(addr), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return c, nil
}

// Dials is a copy of the book.
func (v *Venue) Dials() []VenueDial {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.dials)
}

// Live is how many connections are up.
func (v *Venue) Live() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.live)
}

// Conns are the connections that are up, in no order.
func (v *Venue) Conns() (all []*VenueConn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for c := range v.live {
		all = append(all, c)
	}
	return all
}

// Drop ends all connections, as a process that dies does.
func (v *Venue) Drop() {
	for _, c := range v.Conns() {
		c.End(nil)
	}
}

// VenueConn is one connection, the client's end.
type VenueConn struct {
	v    *Venue
	n    int           // in the book
	wake chan struct{} // cap 1
	Path string        // of the handshake; set before Came

	mu     sync.Mutex // protects the following
	in     bytes.Buffer
	out    bytes.Buffer
	up     bool
	ended  bool
	closed bool
}

// End ends the connection from the venue's side, with a last frame or without.
func (c *VenueConn) End(frame []byte) {
	c.mu.Lock()
	c.out.Write(frame)
	c.ended = true
	c.mu.Unlock()
	c.gone()
}

// Say sends a frame.
func (c *VenueConn) Say(frame []byte) {
	c.mu.Lock()
	c.out.Write(frame)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// TextFrame is one with a short text, for Say.
func TextFrame(text string) []byte { return append([]byte{0x81, byte(len(text))}, text...) }

// CloseFrame is one with a code, for End.
func CloseFrame(code int) []byte { return []byte{0x88, 2, byte(code >> 8), byte(code)} }

func (c *VenueConn) gone() {
	c.v.mu.Lock()
	delete(c.v.live, c)
	c.v.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Read returns what the venue has sent.
func (c *VenueConn) Read(p []byte) (int, error) {
	for {
		c.mu.Lock()
		n, closed, ended := 0, c.closed, c.ended
		if !closed {
			n, _ = c.out.Read(p)
		}
		c.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case n > 0:
			return n, nil
		case ended:
			return 0, io.EOF
		}
		<-c.wake
	}
}

// Write is what the client says.
func (c *VenueConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.in.Write(p)
	if !c.up {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.in.Bytes())))
		if err == nil {
			c.in.Reset()
			c.up = true
		}
		c.mu.Unlock()
		if err == nil {
			time.AfterFunc(c.v.Answer, func() { c.answer(req) })
		}
		return len(p), nil
	}
	closes := c.frames()
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	if closes {
		c.gone()
	}
	return len(p), nil
}

func (c *VenueConn) answer(req *http.Request) {
	status, header := 0, http.Header(nil)
	c.v.Do(func() {
		if c.v.Judge != nil {
			status, header = c.v.Judge(req)
		}
	})
	if status == Mute {
		return
	}
	c.v.mu.Lock()
	book := &c.v.dials[c.n]
	if book.Done = time.Now(); status == 0 {
		status = http.StatusSwitchingProtocols
	}
	book.Status = status
	c.mu.Lock()
	if status != http.StatusSwitchingProtocols {
		fmt.Fprintf(&c.out, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n", status, http.StatusText(status))
		header.Write(&c.out)
		c.out.WriteString("\r\n")
		c.ended = true
		c.mu.Unlock()
		c.v.mu.Unlock()
		c.gone()
		return
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(&c.out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	c.Path = req.URL.Path
	if !c.closed {
		if c.v.live == nil {
			c.v.live = make(map[*VenueConn]bool)
		}
		c.v.live[c] = true
	}
	c.mu.Unlock()
	c.v.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	if c.v.Life != nil {
		if d := c.v.Life(); d > 0 {
			time.AfterFunc(d, func() { c.End(CloseFrame(1001)) })
		}
	}
	if c.v.Came != nil {
		c.v.Do(func() { c.v.Came(c) })
	}
}

// frames answers pings and close frames. It is called under mu; closes says that a close frame came.
func (c *VenueConn) frames() (closes bool) {
	for {
		b := c.in.Bytes()
		if len(b) < 6 {
			return closes
		}
		n, at := int(b[1]&0x7f), 2
		if n == 126 {
			if len(b) < 8 {
				return closes
			}
			n, at = int(b[2])<<8|int(b[3]), 4
		}
		if len(b) < at+4+n {
			return closes
		}
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = b[at+4+i] ^ b[at+i%4]
		}
		switch b[0] & 15 {
		case 9:
			c.out.Write(append([]byte{0x8a, byte(n)}, payload...))
		case 8:
			c.out.Write(append([]byte{0x88, byte(n)}, payload...))
			c.ended, closes = true, true
		}
		c.in.Next(at + 4 + n)
	}
}

// Close is the client's.
func (c *VenueConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.gone()
	return nil
}

func (c *VenueConn) LocalAddr() net.Addr              { return memAddr("client") }
func (c *VenueConn) RemoteAddr() net.Addr             { return memAddr("venue") }
func (c *VenueConn) SetDeadline(time.Time) error      { return nil }
func (c *VenueConn) SetReadDeadline(time.Time) error  { return nil }
func (c *VenueConn) SetWriteDeadline(time.Time) error { return nil }
