package wsconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// recorded is a connection to a server that upgrades, sends what it has, and hangs up.
type recorded struct {
	net.Conn // nil: nothing else may be called
	deflate  bool
	frames   []byte
	heard    bytes.Buffer
	say      bytes.Buffer
	greeted  bool
}

func (r *recorded) Write(p []byte) (int, error)      { return r.heard.Write(p) }
func (r *recorded) SetDeadline(time.Time) error      { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }
func (r *recorded) Close() error                     { return nil }

func (r *recorded) Read(p []byte) (int, error) {
	if !r.greeted {
		r.greeted = true
		if err := greet(struct {
			io.Reader
			io.Writer
		}{&r.heard, &r.say}, r.deflate); err != nil {
			return 0, err
		}
		r.say.Write(r.frames)
	}
	return r.say.Read(p)
}

// Whatever bytes come after the handshake: Read ends, within bounds, by a known error; what it returns is what was sent.
func FuzzFrames(f *testing.F) {
	const limit = 4096
	for _, s := range []string{
		"", "\x81", raw(0x81, "hello"), raw(0x01, "a") + raw(0x89, "p") + raw(0x80, "b"), raw(0x82, "\xff"), raw(0x81, "\xff"), raw(0x88, "\x03\xe8bye"), raw(0x88, "x"), raw(0x88, "\x03\xee"),
		raw(0xc1, deflated(strings.Repeat("x", 100))), raw(0xc1, deflated(strings.Repeat("x", 1<<20))), raw(0x41, deflated("ab")[:2]) + raw(0x80, deflated("ab")[2:]), raw(0xc1, "\x00\x40\x00\xbf\xffhi"), raw(0xc2, ""), "A0c\x02000",
		raw(0x82, strings.Repeat("x", limit)), raw(0x82, strings.Repeat("x", limit+1)), "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", "\x02\x01x\x00\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
		raw(0x01, "") + strings.Repeat(raw(0x00, ""), 50), strings.Repeat(raw(0x89, "ping"), 50), "\x81\x85abcdHELLO", raw(0x83, "x"), raw(0x09, "x"), raw(0x89, strings.Repeat("x", 126)), raw(0xb1, "x"), raw(0x80, "x"), raw(0x01, "a") + raw(0x81, "b"),
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, frames []byte, deflate bool) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rec := &recorded{deflate: deflate, frames: frames}
		tap := NewTap(rec, 1<<16)
		d := websocket.Dialer{EnableCompression: deflate, WriteBufferSize: 512, NetDialContext: func(context.Context, string, string) (net.Conn, error) { return tap, nil }}
		ws, _, err := d.DialContext(context.Background(), "ws://srv/", nil)
		if err != nil {
			t.Fatal(err)
		}
		control := 0
		note := func(p string) {
			if control++; len(p) > 125 {
				t.Errorf("%d bytes in a control frame", len(p))
			}
		}
		c := New(ws, tap, Options{ReadLimit: limit, WriteTimeout: time.Second, CheckUTF8: true, OnPing: note, OnPong: note})
		messages, size := 0, 0
		for ; err == nil; messages++ {
			var text bool
			var data []byte
			if text, data, err = c.Read(); err != nil {
				break
			}
			if size += len(data); len(data) > limit || text && !utf8.Valid(data) || !deflate && !bytes.Contains(frames, data[:min(1, len(data))]) {
				t.Errorf("read %q, text %v", data, text)
			}
		}
		if 2*(messages+control) > len(frames) || !deflate && size > len(frames) {
			t.Errorf("%d messages of %d bytes, %d control frames out of %d bytes", messages, size, control, len(frames))
		}
		var v *Violation
		var cl *Closed
		switch {
		case errors.As(err, &v):
			if v.Code != 1002 && v.Code != 1007 && v.Code != 1009 {
				t.Errorf("violation %v", v)
			}
		case errors.As(err, &cl):
			if cl.Code < 1000 || cl.Code > 4999 || !utf8.ValidString(cl.Text) {
				t.Errorf("close %v", cl)
			}
		case err != io.ErrUnexpectedEOF:
			t.Errorf("%T: %v", err, err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(1<<20+64*len(frames)*(limit+1)) {
			t.Errorf("%d bytes were allocated for %d", n, len(frames))
		}
	})
}

// What the payload of a close frame says is believed if the protocol allows it, and is the end in any case. Our answer is always one
// that may be sent.
func FuzzClose(f *testing.F) {
	for _, s := range []string{"", "x", "\x03\xe8", "\x03\xe8bye", "\x03\xed", "\x03\xee", "\x03\xf7", "\x0b\xb8", "\x13\x87", "\x13\x88", "\x00\x00", "\xff\xff", "\x03\xe8\xff", "\x03\xe8\xe2\x82", "\x03\xf6", "\x10\x04" + strings.Repeat("x", 123), "\x10\x04" + strings.Repeat("x", 124)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		rec := &recorded{frames: []byte(raw(0x88, string(payload)) + raw(0x81, "after"))}
		tap := NewTap(rec, 1<<16)
		d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return tap, nil }}
		ws, _, err := d.DialContext(context.Background(), "ws://srv/", nil)
		if err != nil {
			t.Fatal(err)
		}
		c := New(ws, tap, Options{ReadLimit: 4096, WriteTimeout: time.Second, CheckUTF8: true, OnPing: func(string) {}, OnPong: func(string) {}})
		_, data, err := c.Read()

		want := &Closed{Code: 1005}
		if len(payload) >= 2 {
			want.Code, want.Text = int(payload[0])<<8|int(payload[1]), string(payload[2:])
		}
		code := want.Code
		allowed := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1013 || code >= 3000 && code <= 4999 // RFC 6455 section 7.4 and the registry
		legal := len(payload) == 0 || len(payload) >= 2 && len(payload) <= 125 && allowed && utf8.ValidString(want.Text)
		var cl *Closed
		var v *Violation
		switch {
		case data != nil:
			t.Errorf("read %q after %q", data, payload)
		case legal && (!errors.As(err, &cl) || *cl != *want):
			t.Errorf("%q: %v, want %v", payload, err, want)
		case !legal && (!errors.As(err, &v) || v.Code != 1002):
			t.Errorf("%q: %v, want a violation", payload, err)
		}
		if !legal {
			code = 1002
		}
		rec.heard.Reset() // the request: nothing else may have been sent by the reader
		if err := c.SendClose(code, time.Second); err != nil {
			t.Fatal(err)
		}
		sent := rec.heard.Bytes()
		if len(sent) < 8 || sent[0] != 0x88 || sent[1]&0x80 == 0 {
			t.Fatalf("sent % x", sent)
		}
		if n := int(sent[6]^sent[2])<<8 | int(sent[7]^sent[3]); n != 1000 && (n != code || !allowed && code != 1002) {
			t.Errorf("answered %d with %d", code, n)
		}
	})
}
