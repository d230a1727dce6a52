package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which frames are allowed, and which limits hold for what is in them?

// What looks odd and is allowed.
func TestAllowedFrames(t *testing.T) {
	const limit = 1000
	long := strings.Repeat("x", limit)
	runes := "ü€𝄞"
	bytewise := harness.RawBytes(harness.OpText, "")
	for i := range len(runes) {
		bytewise += harness.RawBytes(harness.OpCont, runes[i:i+1])
	}
	ping := harness.RawBytes(harness.Fin|harness.OpPing, long[:125])
	for _, size := range []int{0, 1, 1 << 20} { // of the buffer
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{ReadLimit: limit, ReadBufferSize: size}}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
					c.Upgrade()
					c.Say(harness.RawBytes(harness.Fin|harness.OpText, "") + harness.RawBytes(harness.Fin|harness.OpBinary, "\xff\x00"))
					c.Say(harness.RawBytes(harness.OpText, "a") + ping + harness.RawBytes(harness.Fin|harness.OpPong, "unasked") + harness.RawBytes(harness.OpCont, "") + ping + harness.RawBytes(harness.OpCont, "b") + harness.RawBytes(harness.Fin|harness.OpCont, "c"))
					c.Say(bytewise + harness.RawBytes(harness.Fin|harness.OpCont, ""))
					c.Say(harness.RawBytes(harness.Fin|harness.OpBinary, long) + harness.RawBytes(harness.OpText, long[1:]) + harness.RawBytes(harness.Fin|harness.OpCont, "x"))
					c.Say("\x81\x7e\x00\x01y" + "\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01z") // lengths could be shorter
					c.Gone()
				})
				w.Begin()
				harness.After(time.Second)
				w.WantGot("", "\xff\x00", "abc", runes, long, long, "y", "z")
				w.WantState(0, wsshard.ShardConnected)
				if n := len(s.Conn(0).Frames(harness.OpPong)); n < 1 || n > 2 {
					t.Errorf("%d pongs", n)
				}
				if m := w.M.Metrics(); m.MessagesReceived != 8 || m.PongsReceived != 1 {
					t.Errorf("%d messages, %d pongs counted", m.MessagesReceived, m.PongsReceived)
				}
			})
		})
	}
}

// LowLatencyMode trades the check of UTF-8 for speed, and nothing else.
func TestLowLatencyModeTrustsText(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.LowLatencyMode = true
	cfg.Connection.ReadLimit = 10
	losing(t, cfg, func(c *harness.RawConn) {
		c.Frame(harness.Fin|harness.OpText, "caf\xe9")
		c.Frame(harness.Fin|harness.OpText, "elevenbytes")
	}, func(w *harness.World, l lost) {
		if !slices.Equal(l.got, []string{"caf\xe9"}) || !errors.Is(l.cause, wsshard.ErrReadLimit) {
			t.Errorf("delivered %q, then %v", l.got, l.cause)
		}
	})
}

// serveDeflated is serveRaw with compression.
func serveDeflated(w *harness.World, script func(c *harness.RawConn)) *harness.RawServer {
	w.App.Addr = "ws://raw/"
	return w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
		c.Upgrade(harness.Deflated)
		script(c)
		c.Gone()
	})
}

// ReadLimit counts what a message becomes, not what it weighs on the wire.
func TestReadLimitCountsDecompressed(t *testing.T) {
	const limit = 1 << 20
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	cfg.Connection.ReadLimit = limit
	for name, c := range map[string]struct {
		payload string
		code    int
	}{
		"just fits":       {harness.Deflate(strings.Repeat("x", limit)), 0},
		"one more":        {harness.Deflate(strings.Repeat("x", limit+1)), 1009},
		"bomb":            {harness.Bomb(100), 1009},
		"nothing":         {harness.Deflate(""), 0},
		"corrupt":         {"\xff\xff\xff\xff", 1002},
		"cut off":         {harness.Deflate("hello, hello, hello")[:6], 1002},
		"cut off, raw":    {"\x00\x40\x00\xbf\xffhi", 1002},
		"text, not UTF-8": {harness.Deflate("caf\xe9"), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				size := 0
				w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) { size = len(msg.Data) }
				s := serveDeflated(w, func(rc *harness.RawConn) {
					if rc.Frame(harness.Fin|harness.Rsv1|harness.OpText, c.payload); c.code == 0 {
						rc.Frame(harness.Fin|harness.OpBinary, "plain")
					}
				})
				w.Begin()
				var before, grown runtime.MemStats
				runtime.ReadMemStats(&before)
				harness.After(10 * time.Millisecond)
				runtime.ReadMemStats(&grown)
				if n := grown.TotalAlloc - before.TotalAlloc; n > 16*limit {
					t.Errorf("%d bytes were allocated", n)
				}
				causes := w.App.TakeCauses()
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
				s.Conn(0).WantClose(c.code)
			})
		})
	}
}

// The default is 64 MiB, refused when announced, and a negative limit is none.
func TestReadLimitThatIsNotSet(t *testing.T) {
	announce := func(n uint64) func(c *harness.RawConn) {
		return func(c *harness.RawConn) {
			c.Say(string(binary.BigEndian.AppendUint64([]byte{harness.Fin | harness.OpBinary, 127}, n)))
		}
	}
	for _, c := range []struct {
		limit     int64
		announced uint64
		code      int
	}{{0, 16 << 20, 0}, {0, 16<<20 + 1, 1009}, {-1, 64<<20 + 1, 0}, {-1, 1 << 62, 0}, {-1, 1 << 63, 1009}} {
		t.Run(fmt.Sprint(c.limit, c.announced), func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Connection.ReadLimit = c.limit
			losing(t, cfg, announce(c.announced), func(w *harness.World, l lost) {
				if code, _ := l.code(); code != c.code || code == 0 && !errors.Is(l.cause, wsshard.ErrMessageTimeout) {
					t.Errorf("cause %v", l.cause)
				}
			})
		})
	}
}

// A compressed message that breaks off anywhere is the server's fault, and no end of the connection.
func TestCompressedMessageThatBreaksOff(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	whole := harness.Deflate(strings.Repeat("hello, world; ", 20) + "0123456789abcdefghijklmnopqrstuvwxyz")
	for n := 1; n < len(whole)-1; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				s := serveDeflated(w, func(c *harness.RawConn) { c.Frame(harness.Fin|harness.Rsv1|harness.OpText, whole[:n]) })
				w.Begin()
				harness.After(10 * time.Millisecond)
				l := lost{cause: errors.Join(w.App.TakeCauses()...)}
				if code, local := l.code(); l.cause != nil && (code != 1002 || !local) {
					t.Errorf("cause %v", l.cause)
				} else if l.cause != nil {
					s.Conn(0).WantClose(1002)
				}
			})
		})
	}
}

// No frame is longer than 65,536 bytes, and the pace is charged for each.
func TestLongestFrame(t *testing.T) {
	noise := make([]byte, 200_000)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for name, c := range map[string]struct {
		data       []byte
		compressed bool
		frames     int
	}{
		"at most":              {noise[:65536], false, 1},
		"one more":             {noise[:65537], false, 2},
		"plain":                {noise, false, 4},
		"compressed noise":     {noise, true, 4},
		"compressed, at most":  {noise[:65536], true, 2}, // deflate makes it longer
		"compressed to little": {make([]byte, 200_000), true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Connection.EnableCompression = c.compressed
			cfg.Subscribe.MessagesPerWindow, cfg.Subscribe.Window = 6, time.Minute
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				s := w.ServeRaw("raw:80", nil, func(conn *harness.RawConn) {
					if c.compressed {
						conn.Upgrade(harness.Deflated)
					} else {
						conn.Upgrade()
					}
					conn.Gone()
				})
				w.Begin()
				harness.After(time.Second)
				begin := time.Now()
				send := func(data []byte) {
					if err := w.M.Send(context.Background(), 0, wsshard.Binary(data)); err != nil {
						t.Fatal(err)
					}
				}
				send(c.data)
				for range 5 - c.frames { // what the pace has left
					send([]byte("x"))
				}
				if took := time.Since(begin); took != 0 {
					t.Errorf("the pace was charged for more: it took %v", took)
				}
				if send([]byte("x")); time.Since(begin) < time.Minute {
					t.Errorf("the pace was charged for less: it took %v", time.Since(begin))
				}
				harness.After(0)
				frames := s.Conn(0).Frames(harness.OpCont)
				if len(frames) != c.frames-1 {
					t.Errorf("%d frames, want %d", len(frames)+1, c.frames)
				}
				for _, f := range append(frames, s.Conn(0).Frames(harness.OpBinary)...) {
					if len(f.Payload) > 65536 {
						t.Errorf("a frame of %d bytes", len(f.Payload))
					}
				}
			})
		})
	}
}
