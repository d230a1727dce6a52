//go:build unix

package wsconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: is all right that comes over real sockets into borrowed buffers, with TLS and without?

// paper is the server's socket under TLS: once the handshake is over, what TLS writes is kept, for the test to send.
type paper struct {
	*net.TCPConn
	keeps bool
	kept  bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	if p.keeps {
		return p.kept.Write(b)
	}
	return p.TCPConn.Write(b)
}

// seals returns what TLS makes of s.
func (p *paper) seals(server *tls.Conn, s string) []byte {
	p.kept.Reset()
	io.WriteString(server, s)
	return p.kept.Bytes()
}

// dialTLS returns the client's end of a TLS connection as a Tap has it, and the server's.
func dialTLS(t *testing.T, mine func(*tls.Config)) (client *tls.Conn, server *tls.Conn, under *paper) {
	t.Helper()
	_, socket, peer := dialTCP(t)
	ca := wstest.NewAuthority(t)
	cfg := &tls.Config{InsecureSkipVerify: true}
	if mine != nil {
		mine(cfg)
	}
	under = &paper{TCPConn: peer}
	server = tls.Server(under, ca.Server("srv"))
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	client = Client(socket, cfg)
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return client, server, under
}

// feed is what a server sends, message by message, with what a reader must make of it.
func feed(seed uint64, total int) (frames, want []string) {
	r := rand.New(rand.NewPCG(seed, 2))
	for sum := 0; sum < total; {
		n := r.IntN(600)
		switch r.IntN(40) {
		case 0:
			n = r.IntN(3 * mostPiece)
		case 1, 2, 3:
			n = r.IntN(20_000)
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		s := string(b)
		switch sum += n; r.IntN(10) {
		case 0:
			frames, want = append(frames, raw(0x89, s[:min(n, 125)])), append(want, "ping "+s[:min(n, 125)])
			continue
		case 1:
			frames, want = append(frames, raw(0x02, s[:n/3]), raw(0x8a, "x"), raw(0x00, s[n/3:n/2]), raw(0x80, s[n/2:])), append(want, "pong x")
		case 2:
			frames = append(frames, raw(0xc2, deflated(s)))
		default:
			frames = append(frames, raw(0x82, s))
		}
		want = append(want, "data "+s)
	}
	return frames, want
}

// Whatever lies across the end of a buffer, of a record or of a write, each message is what was sent, until the next Read.
func TestBorrowed(t *testing.T) {
	for i, lend := range []bool{true, false} {
		for name, dial := range map[string]func() (net.Conn, io.WriteCloser){
			"plain": func() (net.Conn, io.WriteCloser) { _, client, server := dialTCP(t); return client, server },
			"TLS":   func() (net.Conn, io.WriteCloser) { client, server, _ := dialTLS(t, nil); return client, server },
		} {
			t.Run(fmt.Sprint(name, lend), func(t *testing.T) {
				client, server := dial()
				frames, want := feed(uint64(i), 2<<20)
				go func() {
					for s := range slices.Values(inPieces(strings.Join(frames, ""), uint64(i), 200_000)) {
						io.WriteString(server, s)
					}
					server.Close()
				}()
				got := 0
				is := func(what string) {
					if got == len(want) || what != want[got] {
						t.Fatalf("message %d of %d: %d bytes, %.20q", got, len(want), len(what), what)
					}
					got++
				}
				tap := NewTap(client, 0)
				tap.head.extensions = []string{noTakeover}
				c := New(nil, tap, Options{Lend: lend, OnPing: func(p string) { is("ping " + p) }, OnPong: func(p string) { is("pong " + p) }})
				var err error
				for kept := []byte(nil); ; {
					var data []byte
					before := string(kept)
					if _, data, err = c.Read(); err != nil {
						break
					}
					scribble()
					if string(kept) != before {
						t.Fatal("a message changed that was not lent")
					}
					is("data " + string(data))
					if lend {
						c.poison()
					} else {
						kept = c.Detach()
					}
				}
				if err != io.ErrUnexpectedEOF || got != len(want) {
					t.Errorf("%d of %d messages, %v", got, len(want), err)
				}
			})
		}
	}
}

// scribble overwrites what the next who borrow would get: nobody may need it any more.
func scribble() {
	for range 4 {
		b := borrowed.Get().(*[readAhead]byte)
		for i := range b {
			b[i] = 0xEE
		}
		defer borrowed.Put(b)
	}
}

// holds reports whether c has borrowed a buffer for what it reads.
func holds(c *Conn) bool {
	if s, ok := c.source.(*sealed); ok {
		return s.buf != nil
	}
	return c.source.(*ahead).buf != nil
}

// While nothing comes, and be it in the middle of a frame or of a record, no buffer is held; while a handler runs, only one with
// something in it, or with the message that was lent.
func TestBorrowedFor(t *testing.T) {
	long := strings.Repeat("x", leastPiece+1)
	for _, lend := range []bool{true, false} {
		client, server, under := dialTLS(t, nil)
		under.keeps = true
		tap := NewTap(client, 0)
		c := New(nil, tap, Options{Lend: lend})
		sent := slices.Clone(under.seals(server, raw(0x81, "a")+raw(0x81, long)+raw(0x81, "c")))
		sent = append(sent, under.seals(server, raw(0x81, long)+"\x81")...)
		sent = append(sent, under.seals(server, "\x01d")...)

		under.TCPConn.Write(sent[:20])
		read := make(chan string)
		next := make(chan bool)
		go func() {
			defer close(read)
			for range next {
				_, data, _ := c.Read()
				if !lend {
					data = c.Detach()
				}
				scribble()
				read <- string(data)
			}
		}()
		rests := func(what string) {
			t.Helper()
			waits(&taking{Tap: tap})
			if holds(c) {
				t.Errorf("a buffer is held %s", what)
			}
		}
		next <- true
		rests("with a part of a record")
		under.TCPConn.Write(sent[20 : len(sent)-5])
		for _, want := range []struct {
			data  string
			holds bool
		}{{"a", true}, {long, true}, {"c", false}, {long, true}} {
			if got := <-read; got != want.data || holds(c) != want.holds {
				t.Errorf("lent %v: read %.10q, holding a buffer: %v", lend, got, holds(c))
			}
			next <- true
		}
		rests("with a part of a header")
		if s := tap.Signs(); !s.Begun {
			t.Error("a header has begun, and no message")
		}
		under.TCPConn.Write(sent[len(sent)-5:])
		if got := <-read; got != "d" || holds(c) || c.source.(*sealed).under.ahead.buf != nil {
			t.Errorf("lent %v: read %.10q, holding a buffer: %v", lend, got, holds(c))
		}
		next <- true
		rests("while nothing comes")
		under.TCPConn.Write(under.seals(server, raw(0x88, "")+raw(0x81, "after")))
		if <-read; holds(c) {
			t.Error("a buffer is held after the end")
		}
		close(next)
	}
}

// Ends and deadlines are those of any TLS connection; after a deadline it goes on.
func TestSealedErrors(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(client *tls.Conn, server *tls.Conn, under *paper)
		want   error
	}{
		"reset":   {func(_, _ *tls.Conn, under *paper) { under.SetLinger(0); under.TCPConn.Close() }, syscall.ECONNRESET},
		"killed":  {func(client, _ *tls.Conn, _ *paper) { Kill(client) }, net.ErrClosed},
		"end":     {func(_, _ *tls.Conn, under *paper) { under.TCPConn.Close() }, io.EOF},
		"goodbye": {func(_, server *tls.Conn, _ *paper) { server.Close() }, io.EOF},
		"cut off": {func(_, server *tls.Conn, under *paper) {
			under.keeps = true
			under.TCPConn.Write(under.seals(server, "abc")[:10])
			under.TCPConn.Close()
		}, io.ErrUnexpectedEOF},
		"deadline": {func(client, server *tls.Conn, under *paper) {
			under.keeps = true
			under.TCPConn.Write(under.seals(server, "abc")[:10])
			client.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		}, os.ErrDeadlineExceeded},
	} {
		client, server, under := dialTLS(t, nil)
		tap := NewTap(client, 0)
		tap.Established(0)
		failed := make(chan error, 1)
		go func() {
			_, err := tap.fetch(nil)
			failed <- err
		}()
		waits(&taking{Tap: tap})
		c.breaks(client, server, under)
		if err := <-failed; !errors.Is(err, c.want) || tap.Failed() != err {
			t.Errorf("%s: %v, and Failed: %v", name, err, tap.Failed())
		}
		if name != "deadline" {
			if b, err := tap.fetch(nil); err == nil {
				t.Errorf("%s: then it read %q", name, b)
			}
			continue
		}
		if s := tap.source.(*sealed); s.buf != nil || s.under.ahead.buf != nil {
			t.Error("a buffer is held with a part of a record")
		}
		client.SetReadDeadline(time.Time{})
		under.TCPConn.Write(under.kept.Bytes()[10:])
		if b, err := tap.fetch(nil); string(b) != "abc" || err != nil {
			t.Errorf("then %q, %v", b, err)
		}
	}
}

// A farewell that has come in part takes nothing from the data before it.
func TestSealedFarewell(t *testing.T) {
	client, server, under := dialTLS(t, func(cfg *tls.Config) { cfg.MaxVersion = tls.VersionTLS12 }) // 1.3 hides what is a farewell
	under.keeps = true
	tap := NewTap(client, 0)
	tap.Established(0)
	io.WriteString(server, "abc")
	data := under.kept.Len()
	server.CloseWrite()
	under.SetWriteDeadline(time.Time{})
	sent := under.kept.Bytes()
	under.TCPConn.Write(sent[:data+3])
	if b, err := tap.fetch(nil); string(b) != "abc" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	under.TCPConn.Write(sent[data+3:])
	if b, err := tap.fetch(nil); len(b) != 0 || err != io.EOF {
		t.Errorf("then %q, %v", b, err)
	}
}

// TLS that may renegotiate waits by itself, and so does TLS on what is no socket of ours.
func TestSealedOnlyWhereItMay(t *testing.T) {
	client, _, _ := dialTLS(t, nil)
	if s, ok := newSource(client, 5000).(*sealed); !ok || !s.under.asks {
		t.Errorf("on a socket: %T", s)
	}
	client, _, _ = dialTLS(t, func(cfg *tls.Config) { cfg.Renegotiation = tls.RenegotiateFreelyAsClient })
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for name, conn := range map[string]*tls.Conn{"renegotiating": client, "on a pipe": Client(a, &tls.Config{})} {
		if s, ok := newSource(conn, 5000).(*buffered); !ok || len(s.buf) != 5000 {
			t.Errorf("%s: %T", name, s)
		}
	}
}
