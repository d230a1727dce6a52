package delivery

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if the wire is slow, stuck, or breaks off in the middle of a message?

// A message that has begun must end in time, whatever keeps it from ending and whatever else is switched off.
func TestMessageTimeout(t *testing.T) {
	drip := harness.RawBytes(harness.Fin|harness.OpText, strings.Repeat("x", 100))
	for name, c := range map[string]struct {
		script func(c *harness.RawConn)
		at     time.Duration // 0: it is in time
	}{
		"first byte of a header": {func(c *harness.RawConn) { c.Say("\x81") }, 6 * time.Second},
		"header":                 {func(c *harness.RawConn) { c.Say(drip[:2]) }, 6 * time.Second},
		"half a payload":         {func(c *harness.RawConn) { c.Say(drip[:50]) }, 6 * time.Second},
		"first fragment":         {func(c *harness.RawConn) { c.Frame(harness.OpText, "x") }, 6 * time.Second},
		"bytes that trickle":     {func(c *harness.RawConn) { c.Trickle(drip, 60*time.Millisecond) }, 6 * time.Second},
		"a ping that trickles": {func(c *harness.RawConn) {
			c.Trickle(harness.RawBytes(harness.Fin|harness.OpPing, drip[:100]), 60*time.Millisecond)
		}, 6 * time.Second},
		"endless empty fragments": {func(c *harness.RawConn) { c.TrickleFrames(harness.OpText, harness.OpCont, 0) }, 6 * time.Second},
		"pings in between":        {func(c *harness.RawConn) { c.TrickleFrames(harness.OpText, harness.Fin|harness.OpPing, 0) }, 6 * time.Second},
		"in time":                 {func(c *harness.RawConn) { c.Trickle(drip, 48*time.Millisecond) }, 0},
		"one after the other":     {func(c *harness.RawConn) { c.Trickle(strings.Repeat(drip, 5), 48*time.Millisecond) }, 0},
		"messages without a pause": {func(c *harness.RawConn) {
			c.TrickleFrames(harness.Fin|harness.OpText, harness.Fin|harness.OpText, 30*time.Second)
		}, 0},
		"a good one before it": {func(c *harness.RawConn) {
			c.Frame(harness.Fin|harness.OpText, "good")
			time.Sleep(4 * time.Second)
			c.Say(harness.RawBytes(harness.Fin|harness.OpText, "too") + drip[:50])
		}, 10 * time.Second},
	} {
		for _, pings := range []time.Duration{-1, 3 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(name, pings), func(t *testing.T) {
				cfg := harness.DialsOnly()
				cfg.Health.MessageTimeout = 5 * time.Second
				cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = pings, -1, -1
				harness.Bubble(t, cfg, nil, func(w *harness.World) {
					w.App.Addr = "ws://raw/"
					w.ServeRaw("raw:80", nil, func(rc *harness.RawConn) {
						rc.Upgrade()
						time.Sleep(time.Second)
						c.script(rc)
						rc.Gone()
					})
					cause, at := w.EndedAt(w.Begin(), time.Minute)
					if at != c.at || c.at > 0 && !errors.Is(cause, wsshard.ErrMessageTimeout) {
						t.Errorf("ended at %v: %v; want %v", at, cause, c.at)
					}
				})
			})
		}
	}
}

// In the upgrade's own packet too.
func TestMessageTimeoutFromTheStart(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Health.MessageTimeout = 5 * time.Second
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Say(c.Switching() + "\x81\x05he")
			go c.Listen()
			c.Gone()
		})
		if cause, at := w.EndedAt(w.Begin(), time.Minute); at != 5*time.Second || !errors.Is(cause, wsshard.ErrMessageTimeout) {
			t.Errorf("ended at %v: %v", at, cause)
		}
	})
}

// A flood of pings costs at most ten pongs a second, the newest is the one that is answered, and it is no data.
func TestPingFlood(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Health.DataTimeout = 10 * time.Second
	cfg.DisableHotSwitchover = true
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Upgrade()
			for i := 0; ; i++ {
				if _, err := c.Write([]byte(harness.RawBytes(harness.Fin|harness.OpPing, fmt.Sprint(i)))); err != nil {
					return
				}
				time.Sleep(time.Millisecond + 7*time.Microsecond) // never in the instant of a pong
			}
		})
		begin := w.Begin("a")
		cause, _ := w.EndedAt(begin, 20*time.Second)
		if bye := s.Conn(0).Frames(harness.OpClose); !errors.Is(cause, wsshard.ErrDataTimeout) || len(bye) != 1 || bye[0].At.Sub(begin) != 10*time.Second {
			t.Errorf("closed with %v: %v", bye, cause)
		}
		pongs := s.Conn(0).Frames(harness.OpPong)
		if n := len(pongs); n < 95 || n > 101 {
			t.Errorf("%d pongs in ten seconds", n)
		}
		for i, f := range pongs[1:] {
			if d := f.At.Sub(pongs[i].At); d < 100*time.Millisecond {
				w.T.Fatalf("two pongs within %v", d)
			}
			if i < 16 { // those that waited when the flood began
				if string(f.Payload) != fmt.Sprint(i+1) {
					t.Errorf("pong %d answers ping %s", i+1, f.Payload)
				}
			} else if age := f.At.Sub(pongs[0].At) - atoi(f.Payload); age < 0 || age > 2*time.Millisecond {
				t.Errorf("after %v it answers ping %s", f.At.Sub(pongs[0].At), f.Payload)
			}
		}
	})
}

// atoi reads the number of a ping as the instant it was sent.
func atoi(b []byte) time.Duration {
	var n int
	fmt.Sscan(string(b), &n)
	return time.Duration(n) * (time.Millisecond + 7*time.Microsecond)
}

// A single ping is answered at once, with what it carried.
func TestPong(t *testing.T) {
	harness.Bubble(t, harness.DialsOnly(), nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		payloads := []string{"", "x", strings.Repeat("y", 125), "\x00\xff"}
		s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Upgrade()
			for _, p := range payloads {
				time.Sleep(time.Second)
				c.Frame(harness.Fin|harness.OpPing, p)
			}
			c.Gone()
		})
		begin := w.Begin()
		harness.After(10 * time.Second)
		var got []string
		for i, f := range s.Conn(0).Frames(harness.OpPong) {
			got = append(got, string(f.Payload))
			if at := f.At.Sub(begin); at != time.Duration(i+1)*time.Second {
				t.Errorf("pong %d after %v", i, at)
			}
		}
		if !slices.Equal(got, payloads) {
			t.Errorf("pongs %q", got)
		}
	})
}

// A peer that does not read: the write that is stuck ends the connection when it is due, and what the peer sends is delivered
// until then.
func TestWriteTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		write func(w *harness.World)
		flood bool
	}{
		"Send":         {func(w *harness.World) { go w.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1000))) }, false},
		"subscription": {func(w *harness.World) { w.Subscribe(harness.Numbered(100)...) }, false},
		"pongs":        {func(w *harness.World) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Connection.WriteTimeout = 3 * time.Second
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				w.Net.SetBuffer(200)
				w.ServeRaw("raw:80", nil, func(rc *harness.RawConn) {
					rc.Say(rc.Switching())
					for i := range 100 {
						if c.flood {
							rc.Frame(harness.Fin|harness.OpPing, strings.Repeat("p", 125))
						}
						rc.Frame(harness.Fin|harness.OpText, fmt.Sprint(i))
						time.Sleep(100 * time.Millisecond)
					}
				})
				begin := w.Begin()
				harness.After(time.Second)
				w.App.Take()
				c.write(w)
				due := 4 * time.Second
				if c.flood {
					due = 3100 * time.Millisecond // the second pong finds no room
				}
				cause, at := w.EndedAt(begin, due-time.Second)
				if !errors.Is(cause, wsshard.ErrWriteTimeout) || at != due {
					t.Errorf("ended at %v: %v, want %v", at, cause, due)
				}
				if n := len(w.App.Take()); n < 19 {
					t.Errorf("%d messages while the write was stuck", n)
				}
			})
		})
	}
}

// A message of up to 64 KiB leaves as one frame; what is longer is charged by the frame.
func TestMessagesAndFrames(t *testing.T) {
	for size, want := range map[int]int{1: 1, 125: 1, 126: 1, 65535: 1, 64 << 10: 1, 65 << 10: 2, 128 << 10: 2, 200 << 10: 4} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Subscribe.MessagesPerWindow = 9
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) { c.Upgrade(); c.Gone() })
				w.Begin()
				harness.After(time.Second)
				begin := time.Now()
				data := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				for range 5 {
					if err := w.M.Send(context.Background(), 0, wsshard.Text(data)); err != nil {
						w.T.Fatal(err)
					}
				}
				harness.After(time.Minute)
				got, frames, in := "", 0, make(map[time.Duration]int)
				c := s.Conn(0)
				for i, f := range c.Sent {
					if first := i%want == 0; f.Fin != (i%want == want-1) || first != (f.Op == harness.OpText) || !first && f.Op != harness.OpCont {
						t.Errorf("frame %d: opcode %d, fin %v", i, f.Op, f.Fin)
					}
					got += string(f.Payload)
					frames++
					in[f.At.Sub(begin)]++
				}
				if got != strings.Repeat(data, 5) || frames != 5*want {
					t.Errorf("%d frames with %d bytes, want %d", frames, len(got), 5*want)
				}
				for at, n := range in {
					if n > 8+want-1 {
						t.Errorf("%d frames at %v", n, at)
					}
				}
				if want > 1 && len(in) < 2 {
					t.Error("frames of one message were not charged")
				}
			})
		})
	}
}

// Compressed too, even when compressing makes it longer.
func TestCompressedMessagesAndFrames(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	noise := make([]byte, 64<<10)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for name, data := range map[string][]byte{"text": bytes.Repeat([]byte("hello, world; "), 64<<10/14), "noise": noise} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				s := serveDeflated(w, func(*harness.RawConn) {})
				w.Begin()
				harness.After(time.Second)
				if err := w.M.Send(context.Background(), 0, wsshard.Binary(data)); err != nil {
					w.T.Fatal(err)
				}
				harness.After(0)
				frames, more := s.Conn(0).Frames(harness.OpBinary), s.Conn(0).Frames(harness.OpCont)
				if len(frames) != 1 || !frames[0].Rsv1 || frames[0].Fin == (name == "noise") || len(more) > 0 != (name == "noise") { // deflate makes noise longer
					w.T.Fatalf("%d frames, and %d", len(frames), len(more))
				}
				var payload []byte
				for _, f := range append(frames, more...) {
					if len(f.Payload) > 65536 {
						t.Errorf("a frame of %d bytes", len(f.Payload))
					}
					payload = append(payload, f.Payload...)
				}
				packed := io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
				if got, err := io.ReadAll(flate.NewReader(packed)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}
