package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: does it show where the bytes of a frame lay when it was read?

// frames are what the same bytes are tried with: what is usual, and what must not be taken for it.
var frames = []string{
	"", "\x81", "\x81\x05ab", raw(0x81, "hello"), raw(0x82, ""), raw(0x82, "\xff"), raw(0x81, "\xff"),
	strings.Repeat(raw(0x81, "some"), 40) + raw(0x89, "ping") + raw(0x82, strings.Repeat("x", 300)) + raw(0x8a, "pong") + strings.Repeat(raw(0x82, strings.Repeat("y", 200)), 9),
	raw(0x01, "a") + raw(0x89, "p") + raw(0x00, "") + raw(0x80, "b") + raw(0x81, "whole"),
	raw(0x81, "a") + raw(0x88, "\x03\xe8bye") + raw(0x81, "after"), raw(0x88, "") + raw(0x81, "after"), raw(0x88, "x"), raw(0x88, "\x03\xee"), raw(0x88, "\x03\xe8\xff"),
	raw(0x81, "a") + "\x81\x81abcdx", raw(0x82, "a") + "\x89\x80abcd", raw(0x83, "x"), raw(0x8b, ""), raw(0xf1, "x"), raw(0xa1, "x"), raw(0x91, "x"), raw(0xc1, "x"), raw(0xc9, "x"), raw(0x09, "x"),
	raw(0x80, "x"), raw(0x00, "x"), raw(0x01, "a") + raw(0x81, "b"), raw(0x01, "a") + raw(0xc0, "b"), raw(0x89, strings.Repeat("x", 126)), raw(0x8a, strings.Repeat("x", 125)) + raw(0x81, "y"),
	"\x81\x7e\x00\x01y" + "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01z" + raw(0x81, "lengths could be shorter"),
	raw(0x82, strings.Repeat("x", 1000)) + raw(0x82, strings.Repeat("x", 1001)), raw(0x02, strings.Repeat("x", 999)) + raw(0x80, "ab"), "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "\x02\x01x\x00\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
	raw(0xc1, deflated("packed")) + raw(0x81, "plain") + raw(0x41, deflated("ab")[:2]) + raw(0x80, deflated("ab")[2:]) + raw(0xc2, "") + raw(0x82, "end"), raw(0xc1, "\xff\xff"),
}

// cut is a connection on which bytes come in pieces, a second apart; bytewise: and one by one within a second, so that none of
// them ever lie together.
type cut struct {
	net.Conn // nil: nothing else may be called
	pieces   []string
	bytewise bool
	inside   bool   // the next piece is the rest of one
	waits    func() // called before a piece
}

func (c *cut) Read(p []byte) (int, error) {
	if !c.inside {
		c.waits()
		time.Sleep(time.Second)
	}
	if len(c.pieces) == 0 {
		return 0, io.EOF
	}
	if c.bytewise {
		p = p[:1]
	}
	n := copy(p, c.pieces[0])
	c.pieces[0] = c.pieces[0][n:]
	if c.inside = len(c.pieces[0]) > 0; !c.inside {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

// inPieces cuts s at random into pieces of at most most bytes.
func inPieces(s string, seed uint64, most int) (list []string) {
	r := rand.New(rand.NewPCG(seed, 1))
	for len(s) > 0 {
		n := min(len(s), 1+r.IntN(most))
		list, s = append(list, s[:n]), s[n:]
	}
	return list
}

// protocol is all that reading shows, line by line: what is returned, by when, and what is known while nothing comes.
func protocol(t *testing.T, list []string, bytewise, deflate, lend bool) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	synctest.Test(t, func(t *testing.T) {
		conn := &cut{pieces: slices.Clone(list), bytewise: bytewise}
		tap := NewTap(conn, 0)
		if deflate {
			tap.head.extensions = []string{noTakeover}
		}
		conn.waits = func() {
			s := tap.Signs()
			say("waits: clock %v, begun %v since %v, fed %v at %v, whole %v", s.Waited, s.Begun, s.Began, s.Fed, s.Data, tap.Whole())
		}
		note := func(what string) func(string) {
			return func(payload string) { say("%s %q at %v, whole %v", what, payload, tap.Stamp(), tap.Whole()) }
		}
		c := New(nil, tap, Options{ReadLimit: 1000, CheckUTF8: true, Lend: lend, OnPing: note("ping"), OnPong: note("pong")})
		for {
			text, data, err := c.Read()
			say("text %v, %q, %v at %v, whole %v; flood %d, begun %v", text, data, err, c.Stamp(), c.Whole(), c.flood.sum, c.message)
			if err != nil {
				_, _, again := c.Read()
				say("%v again", again)
				return
			}
			if data == nil {
				t.Error("an empty message is nil")
			}
			c.Fresh()
			if !lend {
				data = c.Detach()
			}
			_ = append(data, "beyond"...) // a handler may: what follows must be whole
			c.poison()
		}
	})
	return lines
}

// same compares the reader that finds frames in pieces with one for which each byte comes alone.
func same(t *testing.T, list []string, deflate, lend bool) {
	t.Helper()
	got, want := protocol(t, list, false, deflate, lend), protocol(t, list, true, deflate, lend)
	if !slices.Equal(got, want) {
		t.Errorf("%q\nin pieces:\n%s\nbyte by byte:\n%s", list, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestInPlaceDoesNotShow(t *testing.T) {
	for i, s := range frames {
		for _, most := range []int{3, 40, 700, 10_000} {
			for _, lend := range []bool{true, false} {
				same(t, inPieces(s, uint64(i), most), i%2 == 0, lend)
				same(t, inPieces(s+strings.Join(frames[3:7], ""), uint64(i), most), i%2 == 1, lend)
			}
		}
		for at := 1; at < min(len(s), 60); at++ {
			same(t, []string{s[:at], s[at:]}, true, at%2 == 0)
			same(t, []string{raw(0x81, "a") + s[:at], s[at:] + raw(0x81, "b")}, true, at%2 == 1)
		}
	}
}

// A message without data counts as a frame without data, one with data ends the count, wherever they lie.
func TestEmptyMessagesCount(t *testing.T) {
	tap := NewTap(&cut{pieces: []string{strings.Repeat(raw(0x82, ""), 3) + raw(0x82, "x")}, inside: true}, 0)
	c := New(nil, tap, Options{})
	for _, want := range []int{1, 2, 3, 0} {
		if _, _, err := c.Read(); err != nil || c.flood.sum != want {
			t.Errorf("%d are counted, want %d: %v", c.flood.sum, want, err)
		}
	}
}

func FuzzInPlace(f *testing.F) {
	for i, s := range frames {
		f.Add([]byte(s), uint64(i), uint16(300), i%2 == 0, i%3 == 0)
	}
	f.Fuzz(func(t *testing.T, s []byte, seed uint64, most uint16, deflate, lend bool) {
		if len(s) < 1<<14 {
			same(t, inPieces(string(s), seed, int(most)+1), deflate, lend)
		}
	})
}

// laxer is what the library lets pass and we do not; see frames.go.
var laxer = map[string]bool{"close frame of one byte": true}

// outcome is what a reader makes of bytes: its messages with the control frames between them, and how it ended.
type outcome struct {
	came []string
	end  string
	bad  bool // the peer has broken a rule
}

func (o *outcome) control(what string) func(string) error {
	return func(payload string) error {
		o.came = append(o.came, fmt.Sprintf("%s %q", what, payload))
		return nil
	}
}

func (o *outcome) message(text bool, data []byte) {
	o.came = append(o.came, fmt.Sprintf("text %v %q", text, data))
}

const sameLimit = 1000

// ours is what Read makes of it.
func ours(t *testing.T, s []byte) (o outcome) {
	tap := NewTap(&recorded{frames: s}, 1<<16)
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return tap, nil }}
	ws, _, err := d.DialContext(context.Background(), "ws://srv/", nil)
	if err != nil {
		t.Fatal(err)
	}
	ping, pong := o.control("ping"), o.control("pong")
	c := New(ws, tap, Options{ReadLimit: sameLimit, OnPing: func(p string) { ping(p) }, OnPong: func(p string) { pong(p) }})
	for {
		text, data, err := c.Read()
		var v *Violation
		var closed *Closed
		switch {
		case err == nil:
			o.message(text, data)
			continue
		case errors.As(err, &v):
			o.end, o.bad = v.Text, true
		case errors.As(err, &closed):
			o.end = fmt.Sprintf("closed: %d %q", closed.Code, closed.Text)
		default:
			o.end = err.Error()
		}
		return o
	}
}

// theirs is what the library alone makes of it.
func theirs(t *testing.T, s []byte) (o outcome) {
	rec := &recorded{frames: s}
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return rec, nil }}
	ws, _, err := d.DialContext(context.Background(), "ws://srv/", nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(sameLimit)
	ws.SetPingHandler(o.control("ping"))
	ws.SetPongHandler(o.control("pong"))
	for {
		kind, data, err := ws.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case err == nil:
			o.message(kind == websocket.TextMessage, data)
			continue
		case errors.Is(err, websocket.ErrReadLimit):
			o.end, o.bad = tooBig.Text, true
		case errors.As(err, &closed) && closed.Code == websocket.CloseAbnormalClosure, errors.Is(err, io.ErrUnexpectedEOF):
			o.end = io.ErrUnexpectedEOF.Error()
		case errors.As(err, &closed):
			o.end = fmt.Sprintf("closed: %d %q", closed.Code, closed.Text)
		default:
			o.end, o.bad = strings.TrimPrefix(err.Error(), "websocket: "), true
		}
		return o
	}
}

// likeTheLibrary compares our reader with the library's own: the same messages, the same control frames, the same end, unless
// we have refused what it lets pass.
func likeTheLibrary(t *testing.T, s []byte) {
	t.Helper()
	got, want := ours(t, s), theirs(t, s)
	if got.bad && laxer[got.end] && len(got.came) <= len(want.came) {
		want.came, want.end = want.came[:len(got.came)], got.end
	}
	if !slices.Equal(got.came, want.came) || got.end != want.end {
		t.Errorf("%q\nours:   %q, %s\ntheirs: %q, %s", s, got.came, got.end, want.came, want.end)
	}
}

func TestLikeTheLibrary(t *testing.T) {
	for _, s := range frames {
		likeTheLibrary(t, []byte(s))
	}
}

func FuzzLikeTheLibrary(f *testing.F) {
	for _, s := range frames {
		f.Add([]byte(s))
	}
	f.Fuzz(likeTheLibrary)
}
