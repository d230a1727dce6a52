package wsconn

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

const noTakeover = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// greet answers the handshake.
func greet(c io.ReadWriter, deflate bool) error {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return err
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: v1\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if deflate {
		head += "Sec-WebSocket-Extensions: " + noTakeover + "\r\n"
	}
	_, err = io.WriteString(c, head+"\r\n")
	return err
}

// opened runs f with a connection and the server's end of it.
func opened(t *testing.T, opt Options, deflate bool, f func(t *testing.T, c *Conn, srv *wstest.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := wstest.NewNet()
		ln := n.Listen("srv:80")
		defer ln.Close()
		ends := make(chan *wstest.Conn, 1)
		go func() {
			if end, err := ln.Accept(); err == nil {
				greet(end, deflate)
				ends <- end.(*wstest.Conn)
			}
		}()
		var tap *Tap
		d := websocket.Dialer{EnableCompression: deflate, WriteBufferSize: MaxFrame, WriteBufferPool: WriteBuffers}
		d.NetDialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := n.DialContext(ctx, network, addr)
			tap = NewTap(nc, 1<<16)
			return tap, err
		}
		ws, _, err := d.DialContext(context.Background(), "ws://srv/", nil)
		if err != nil {
			t.Fatal(err)
		}
		quiet := func(string) {}
		if opt.OnPing == nil {
			opt.OnPing = quiet
		}
		if opt.OnPong == nil {
			opt.OnPong = quiet
		}
		if opt.WriteTimeout == 0 {
			opt.WriteTimeout = time.Second
		}
		c := New(ws, tap, opt)
		defer c.Kill()
		srv := <-ends
		defer srv.Close()
		f(t, c, srv)
	})
}

// raw encodes a server's frame.
func raw(first byte, payload string) string {
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

func TestRead(t *testing.T) {
	var pings, pongs []string
	opt := Options{
		ReadLimit: 100, CheckUTF8: true,
		OnPing: func(p string) { pings = append(pings, p) },
		OnPong: func(p string) { pongs = append(pongs, p) },
	}
	opened(t, opt, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		if c.Subprotocol() != "v1" {
			t.Errorf("subprotocol %q", c.Subprotocol())
		}
		io.WriteString(srv, raw(0x81, "text")+raw(0x82, "\xff")+raw(0x01, "a")+raw(0x89, "ping")+raw(0x00, "b")+raw(0x8a, "pong")+raw(0x80, "c")+raw(0x81, ""))
		for _, want := range []string{"text true", "\xff false", "abc true", " true"} {
			text, data, err := c.Read()
			if got := fmt.Sprintf("%s %v", data, text); err != nil || got != want {
				t.Errorf("read %q, %v; want %q", got, err, want)
			}
		}
		if fmt.Sprint(pings, pongs) != "[ping] [pong]" {
			t.Errorf("pings %q, pongs %q", pings, pongs)
		}
	})
}

// A large message has memory of its own, which nothing here keeps; one that fits leaves its buffer for the next.
func TestBuffer(t *testing.T) {
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		go io.WriteString(srv, raw(0x82, strings.Repeat("x", keepBuffer))+raw(0x82, "y"))
		_, data, err := c.Read()
		if err != nil || len(data) != keepBuffer || cap(data) != keepBuffer || !c.own {
			t.Fatalf("%d bytes, detached %v, %v", len(data), c.own, err)
		}
		if c.Read(); c.own || data[0] != 'x' || cap(c.buf) != leastPiece {
			t.Errorf("%d bytes are kept, detached %v, the message became %q", cap(c.buf), c.own, data[0])
		}
		go c.Read()
		synctest.Wait()
		if c.last != nil {
			t.Error("a message is kept while nothing comes")
		}
	})
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		long := raw(0x82, strings.Repeat("x", keepBuffer/2))
		go io.WriteString(srv, long+raw(0x82, "y")+long)
		c.Read()
		had := &c.buf[:1][0]
		for range 2 {
			if c.Read(); &c.buf[:1][0] != had || c.own {
				t.Errorf("a buffer became one of %d bytes, detached %v", cap(c.buf), c.own)
			}
		}
	})
}

// Whatever the length, the bytes are right, and so are those of the next message.
func TestPieces(t *testing.T) {
	for _, limit := range []int64{0, 3 << 20} {
		opened(t, Options{ReadLimit: limit}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
			var sent []string
			for _, n := range []int{0, 1, 511, 512, 513, 1023, 1024, 1025, 65536, keepBuffer - 1, keepBuffer, keepBuffer + 1, 3<<20 - 1, 3 << 20, 5} {
				b := make([]byte, n)
				for i := range b {
					b[i] = byte(i>>9 + i)
				}
				sent = append(sent, string(b))
			}
			go func() {
				for _, s := range sent {
					io.WriteString(srv, raw(0x82, s))
				}
			}()
			for _, s := range sent {
				if _, data, err := c.Read(); err != nil || string(data) != s {
					t.Fatalf("%d bytes of %d, %v", len(data), len(s), err)
				}
			}
		})
	}
}

func TestPoison(t *testing.T) {
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		c.poison() // nothing was read yet
		io.WriteString(srv, raw(0x82, "abc"))
		_, data, _ := c.Read()
		if c.poison(); string(data) != "\xdb\xdb\xdb" {
			t.Errorf("%q", data)
		}
	})
}

// Each way in which reading ends is one kind of error.
func TestReadErrors(t *testing.T) {
	closed := func(code int, text string) string {
		return raw(0x88, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+text)
	}
	for name, c := range map[string]struct {
		say  string
		want error
	}{
		"close":             {closed(4001, "bye"), &Closed{4001, "bye"}},
		"close, no code":    {raw(0x88, ""), &Closed{1005, ""}},
		"close, bad code":   {closed(1006, ""), &Violation{1002, "bad close code 1006"}},
		"end":               {"", io.ErrUnexpectedEOF},
		"end in a header":   {"\x81", io.ErrUnexpectedEOF},
		"end in a message":  {"\x81\x05ab", io.ErrUnexpectedEOF},
		"end in deflate":    {"\xc1\x05ab", io.ErrUnexpectedEOF},
		"masked":            {"\x81\x81abcdx", &Violation{1002, "bad MASK"}},
		"in a continuation": {raw(0x01, "a") + raw(0x81, "b"), &Violation{1002, "data before FIN"}},
		"too long":          {raw(0x82, strings.Repeat("x", 101)), tooBig},
		"too long in parts": {raw(0x02, strings.Repeat("x", 100)) + raw(0x80, "x"), tooBig},
		"overflow":          {"\x02\x01x\x00\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", tooBig},
		"negative length":   {"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", tooBig},
		"inflated":          {raw(0xc2, deflated(strings.Repeat("x", 101))), tooBig},
		"not UTF-8":         {raw(0x81, "\xff"), &Violation{1007, "text that is not UTF-8"}},
		"corrupt deflate":   {raw(0xc1, "\xff\xff"), &Violation{1002, "flate: corrupt input before offset 1"}},
		"short deflate":     {raw(0xc1, "\x00\x40\x00\xbf\xffhi"), &Violation{1002, "flate: unexpected EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			opened(t, Options{ReadLimit: 100, CheckUTF8: true}, true, func(t *testing.T, conn *Conn, srv *wstest.Conn) {
				io.WriteString(srv, c.say)
				srv.Close()
				_, _, err := conn.Read()
				if fmt.Sprintf("%T %v", err, err) != fmt.Sprintf("%T %v", c.want, c.want) {
					t.Errorf("%T: %v; want %T: %v", err, err, c.want, c.want)
				}
				if _, _, again := conn.Read(); again == nil && c.want != error(tooBig) && !strings.Contains(name, "UTF-8") {
					t.Error("the error is not permanent")
				}
			})
		})
	}
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		srv.Reset()
		if _, _, err := c.Read(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: %v", err)
		}
	})
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		c.SetReadDeadline(time.Now().Add(time.Second))
		var ne net.Error
		if _, _, err := c.Read(); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("deadline: %v", err)
		}
	})
}

func deflated(s string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	io.WriteString(w, s)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

func TestErrorTexts(t *testing.T) {
	for err, want := range map[error]string{
		&Violation{1002, "bad MASK"}: "close 1002: bad MASK",
		&Closed{4001, "bye"}:         "closed by the peer: 4001 bye",
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}

// What is written arrives, and Write knows in how many frames at most.
func TestWrite(t *testing.T) {
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		got := make(chan string, 10)
		go func() {
			defer close(got)
			ws := websocketServer(srv)
			ws.SetPingHandler(func(p string) error { got <- "ping " + p; return nil })
			ws.SetPongHandler(func(p string) error { got <- "pong " + p; return nil })
			for {
				kind, data, err := ws.ReadMessage()
				if err != nil {
					got <- err.Error()
					return
				}
				got <- fmt.Sprint(kind, len(data))
			}
		}()
		for size, want := range map[int]int{0: 1, 1: 1, MaxFrame: 1, MaxFrame + 1: 2, 3 * MaxFrame: 3} {
			if frames, err := c.Write(size%2 == 1, make([]byte, size)); err != nil || frames != want {
				t.Errorf("%d bytes: %d frames, %v", size, frames, err)
			}
			kind := websocket.BinaryMessage
			if size%2 == 1 {
				kind = websocket.TextMessage
			}
			if text := <-got; text != fmt.Sprint(kind, size) {
				t.Errorf("%d bytes arrived as %s", size, text)
			}
		}
		c.Ping("1")
		c.Pong(strings.Repeat("x", 200))
		c.SendClose(4001, time.Second)
		for _, want := range []string{"ping 1", "pong " + strings.Repeat("x", 125), "websocket: close 4001"} {
			if text := <-got; text != want {
				t.Errorf("%q arrived, want %q", text, want)
			}
		}
		if _, err := c.Write(true, []byte("x")); !errors.Is(err, websocket.ErrCloseSent) {
			t.Errorf("after the close frame: %v", err)
		}
	})
}

// websocketServer reads what the client writes.
func websocketServer(nc net.Conn) *websocket.Conn {
	// Our handshake is over: gorilla's own is played on a pipe.
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
		io.Copy(io.Discard, client)
	}()
	br := bufio.NewReader(server)
	req, _ := http.ReadRequest(br)
	ws, err := (&websocket.Upgrader{EnableCompression: true}).Upgrade(&hijacked{server: server, then: nc, br: br}, req, nil)
	if err != nil {
		panic(err)
	}
	return ws
}

// hijacked is a server's connection that goes on as another one.
type hijacked struct {
	http.ResponseWriter
	server, then net.Conn
	br           *bufio.Reader
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return &swapped{Conn: h.then, first: h.server}, bufio.NewReadWriter(bufio.NewReader(h.then), bufio.NewWriter(h.then)), nil
}

// swapped writes the answer of the handshake elsewhere.
type swapped struct {
	net.Conn
	first net.Conn
}

func (s *swapped) Write(p []byte) (int, error) {
	if s.first != nil {
		defer func() { s.first = nil }()
		return s.first.Write(p)
	}
	return s.Conn.Write(p)
}

func TestCloseCodes(t *testing.T) {
	for code, want := range map[int]int{
		1000: 1000, 1001: 1001, 1002: 1002, 1003: 1003, 1007: 1007, 1009: 1009, 1011: 1011, 3000: 3000, 4999: 4999,
		0: 1000, 999: 1000, 1004: 1000, 1005: 1000, 1006: 1000, 1012: 1000, 1015: 1000, 2999: 1000, 5000: 1000, -1: 1000,
	} {
		opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
			if err := c.SendClose(code, time.Second); err != nil {
				t.Error(err)
			}
			b := make([]byte, 8)
			io.ReadFull(srv, b)
			if b[0] != 0x88 || b[1] != 0x82 || int(binary.BigEndian.Uint16([]byte{b[6] ^ b[2], b[7] ^ b[3]})) != want {
				t.Errorf("%d: sent %x, want %d", code, b, want)
			}
		})
	}
}

// A write ends when it is due, whoever does not read; and so does a control frame behind it.
func TestWriteDeadline(t *testing.T) {
	for name, write := range map[string]func(c *Conn) error{
		"message": func(c *Conn) error { _, err := c.Write(true, make([]byte, 1<<20)); return err },
		"ping":    func(c *Conn) error { return c.Ping("x") },
		"close":   func(c *Conn) error { return c.SendClose(1000, 3*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			opened(t, Options{WriteTimeout: 3 * time.Second}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
				srv.StallRead(true)
				c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // whatever fits until then
				c.Conn.Write(make([]byte, 1<<20))
				begin := time.Now()
				var ne net.Error
				if err := write(c); !errors.As(err, &ne) || !ne.Timeout() || time.Since(begin) != 3*time.Second {
					t.Errorf("after %v: %v", time.Since(begin), err)
				}
			})
		})
	}
}

// counted is a connection of the application's, which keeps count of those that are open.
type counted struct {
	net.Conn
	closed int
}

func (c *counted) NetConn() net.Conn { return c.Conn }

func (c *counted) Close() error {
	c.closed++
	return c.Conn.Close()
}

// Kill finds the socket under whatever lies on it, and a TLS layer is not asked.
func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		stuck := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		tap := NewTap(stuck, 0)
		begin := time.Now()
		if err := Kill(tap.Conn); err != nil || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the socket is open: %v", err)
		}
	})
	// What a dial function of the application returned is closed by its own Close, whatever it says is under it.
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	theirs := &counted{Conn: client}
	Kill(NewTap(tls.Client(theirs, &tls.Config{InsecureSkipVerify: true}), 0).Conn)
	if theirs.closed != 1 {
		t.Errorf("it was closed %d times", theirs.closed)
	}
	opened(t, Options{}, false, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		done := make(chan error, 1)
		go func() { _, _, err := c.Read(); done <- err }()
		synctest.Wait()
		c.Kill()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read that waited: %v", err)
		}
	})
}
