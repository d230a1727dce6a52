package acceptance

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

const deflated = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// deflate is the payload of a compressed message (RFC 7692 §7.2.1).
func deflate(data string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	w.Write([]byte(data))
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// bomb is so many MiB in a small message: what the second one becomes, after the first, is repeated.
func bomb(mib int) string {
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

// What looks odd and is allowed.
func TestAllowedFrames(t *testing.T) {
	const limit = 1000
	long := strings.Repeat("x", limit)
	runes := "ü€𝄞"
	bytewise := rawBytes(opText, "")
	for i := range len(runes) {
		bytewise += rawBytes(opCont, runes[i:i+1])
	}
	ping := rawBytes(fin|opPing, long[:125])
	for _, size := range []int{0, 1, 1 << 20} { // of the buffer
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{ReadLimit: limit, ReadBufferSize: size}}
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				s := w.serveRaw("raw:80", nil, func(c *rawConn) {
					c.upgrade()
					c.say(rawBytes(fin|opText, "") + rawBytes(fin|opBinary, "\xff\x00"))
					c.say(rawBytes(opText, "a") + ping + rawBytes(fin|opPong, "unasked") + rawBytes(opCont, "") + ping + rawBytes(opCont, "b") + rawBytes(fin|opCont, "c"))
					c.say(bytewise + rawBytes(fin|opCont, ""))
					c.say(rawBytes(fin|opBinary, long) + rawBytes(opText, long[1:]) + rawBytes(fin|opCont, "x"))
					c.say("\x81\x7e\x00\x01y" + "\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01z") // lengths could be shorter
					c.gone()
				})
				w.begin()
				after(time.Second)
				w.wantGot("", "\xff\x00", "abc", runes, long, long, "y", "z")
				w.wantState(0, wsshard.ShardConnected)
				if n := len(s.conn(0).frames(opPong)); n < 1 || n > 2 {
					t.Errorf("%d pongs", n)
				}
				if m := w.m.Metrics(); m.MessagesReceived != 8 || m.PongsReceived != 1 {
					t.Errorf("%d messages, %d pongs counted", m.MessagesReceived, m.PongsReceived)
				}
			})
		})
	}
}

// LowLatencyMode trades the check of UTF-8 for speed, and nothing else.
func TestLowLatencyModeTrustsText(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.LowLatencyMode = true
	cfg.Connection.ReadLimit = 10
	losing(t, cfg, func(c *rawConn) {
		c.frame(fin|opText, "caf\xe9")
		c.frame(fin|opText, "elevenbytes")
	}, func(w *world, l lost) {
		if !slices.Equal(l.got, []string{"caf\xe9"}) || !errors.Is(l.cause, wsshard.ErrReadLimit) {
			t.Errorf("delivered %q, then %v", l.got, l.cause)
		}
	})
}

// serveDeflated is serveRaw with compression.
func serveDeflated(w *world, script func(c *rawConn)) *rawServer {
	w.app.url = "ws://raw/"
	return w.serveRaw("raw:80", nil, func(c *rawConn) {
		c.upgrade(deflated)
		script(c)
		c.gone()
	})
}

// ReadLimit counts what a message becomes, not what it weighs on the wire.
func TestReadLimitCountsDecompressed(t *testing.T) {
	const limit = 1 << 20
	cfg := dialsOnly()
	cfg.Connection.EnableCompression = true
	cfg.Connection.ReadLimit = limit
	for name, c := range map[string]struct {
		payload string
		code    int
	}{
		"just fits":       {deflate(strings.Repeat("x", limit)), 0},
		"one more":        {deflate(strings.Repeat("x", limit+1)), 1009},
		"bomb":            {bomb(100), 1009},
		"nothing":         {deflate(""), 0},
		"corrupt":         {"\xff\xff\xff\xff", 1002},
		"cut off":         {deflate("hello, hello, hello")[:6], 1002},
		"cut off, raw":    {"\x00\x40\x00\xbf\xffhi", 1002},
		"text, not UTF-8": {deflate("caf\xe9"), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, cfg, nil, func(w *world) {
				size := 0
				w.app.message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) { size = len(msg.Data) }
				s := serveDeflated(w, func(rc *rawConn) {
					if rc.frame(fin|rsv1|opText, c.payload); c.code == 0 {
						rc.frame(fin|opBinary, "plain")
					}
				})
				w.begin()
				var before, grown runtime.MemStats
				runtime.ReadMemStats(&before)
				after(10 * ms)
				runtime.ReadMemStats(&grown)
				if n := grown.TotalAlloc - before.TotalAlloc; n > 16*limit {
					t.Errorf("%d bytes were allocated", n)
				}
				causes := w.app.takeCauses()
				if c.code == 0 {
					if len(causes) > 0 || size != 5 {
						t.Errorf("%d bytes, causes %v", size, causes)
					}
					return
				}
				l := lost{cause: errors.Join(causes...)}
				if code, local := l.code(); code != c.code || !local || errors.Is(l.cause, wsshard.ErrReadLimit) != (code == 1009) {
					t.Errorf("cause %v, want close %d by us", l.cause, c.code)
				}
				s.conn(0).wantClose(c.code)
			})
		})
	}
}

// The default is 64 MiB, refused when announced, and a negative limit is none.
func TestReadLimitThatIsNotSet(t *testing.T) {
	announce := func(n uint64) func(c *rawConn) {
		return func(c *rawConn) { c.say(string(binary.BigEndian.AppendUint64([]byte{fin | opBinary, 127}, n))) }
	}
	for _, c := range []struct {
		limit     int64
		announced uint64
		code      int
	}{{0, 16 << 20, 0}, {0, 16<<20 + 1, 1009}, {-1, 64<<20 + 1, 0}, {-1, 1 << 62, 0}, {-1, 1 << 63, 1009}} {
		t.Run(fmt.Sprint(c.limit, c.announced), func(t *testing.T) {
			cfg := dialsOnly()
			cfg.Connection.ReadLimit = c.limit
			losing(t, cfg, announce(c.announced), func(w *world, l lost) {
				if code, _ := l.code(); code != c.code || code == 0 && !errors.Is(l.cause, wsshard.ErrMessageTimeout) {
					t.Errorf("cause %v", l.cause)
				}
			})
		})
	}
}

// A compressed message that breaks off anywhere is the server's fault, and no end of the connection.
func TestCompressedMessageThatBreaksOff(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.EnableCompression = true
	whole := deflate(strings.Repeat("hello, world; ", 20) + "0123456789abcdefghijklmnopqrstuvwxyz")
	for n := 1; n < len(whole)-1; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, cfg, nil, func(w *world) {
				s := serveDeflated(w, func(c *rawConn) { c.frame(fin|rsv1|opText, whole[:n]) })
				w.begin()
				after(10 * ms)
				l := lost{cause: errors.Join(w.app.takeCauses()...)}
				if code, local := l.code(); l.cause != nil && (code != 1002 || !local) {
					t.Errorf("cause %v", l.cause)
				} else if l.cause != nil {
					s.conn(0).wantClose(1002)
				}
			})
		})
	}
}
