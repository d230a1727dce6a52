package acceptance

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
)

// endedAt returns why and when the first connection ended, after so long.
func (w *world) endedAt(begin time.Time, wait time.Duration) (cause error, at time.Duration) {
	w.t.Helper()
	after(wait)
	evs := w.app.takeEvents(wsshard.EventDisconnected)
	if len(evs) == 0 {
		return nil, 0
	}
	return evs[0].Err, evs[0].Time.Sub(begin)
}

// trickle writes a text slowly.
func (c *rawConn) trickle(text string, pause time.Duration) {
	for i := range len(text) {
		if _, err := c.Write([]byte(text[i : i+1])); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// A message that has begun must end in time, whatever keeps it from ending and whatever else is switched off.
func TestMessageTimeout(t *testing.T) {
	drip := rawBytes(fin|opText, strings.Repeat("x", 100))
	for name, c := range map[string]struct {
		script func(c *rawConn)
		at     time.Duration // 0: it is in time
	}{
		"first byte of a header":   {func(c *rawConn) { c.say("\x81") }, 6 * time.Second},
		"header":                   {func(c *rawConn) { c.say(drip[:2]) }, 6 * time.Second},
		"half a payload":           {func(c *rawConn) { c.say(drip[:50]) }, 6 * time.Second},
		"first fragment":           {func(c *rawConn) { c.frame(opText, "x") }, 6 * time.Second},
		"bytes that trickle":       {func(c *rawConn) { c.trickle(drip, 60*ms) }, 6 * time.Second},
		"a ping that trickles":     {func(c *rawConn) { c.trickle(rawBytes(fin|opPing, drip[:100]), 60*ms) }, 6 * time.Second},
		"endless empty fragments":  {func(c *rawConn) { c.trickleFrames(opText, opCont, 0) }, 6 * time.Second},
		"pings in between":         {func(c *rawConn) { c.trickleFrames(opText, fin|opPing, 0) }, 6 * time.Second},
		"in time":                  {func(c *rawConn) { c.trickle(drip, 48*ms) }, 0},
		"one after the other":      {func(c *rawConn) { c.trickle(strings.Repeat(drip, 5), 48*ms) }, 0},
		"messages without a pause": {func(c *rawConn) { c.trickleFrames(fin|opText, fin|opText, 30*time.Second) }, 0},
		"a good one before it": {func(c *rawConn) {
			c.frame(fin|opText, "good")
			time.Sleep(4 * time.Second)
			c.say(rawBytes(fin|opText, "too") + drip[:50])
		}, 10 * time.Second},
	} {
		for _, pings := range []time.Duration{-1, 3 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(name, pings), func(t *testing.T) {
				cfg := dialsOnly()
				cfg.Health.MessageTimeout = 5 * time.Second
				cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = pings, -1, -1
				bubble(t, cfg, nil, func(w *world) {
					w.app.url = "ws://raw/"
					w.serveRaw("raw:80", nil, func(rc *rawConn) {
						rc.upgrade()
						time.Sleep(time.Second)
						c.script(rc)
						rc.gone()
					})
					cause, at := w.endedAt(w.begin(), time.Minute)
					if at != c.at || c.at > 0 && !errors.Is(cause, wsshard.ErrMessageTimeout) {
						t.Errorf("ended at %v: %v; want %v", at, cause, c.at)
					}
				})
			})
		}
	}
}

// trickleFrames writes one frame, and then others for a while, or until the client is gone.
func (c *rawConn) trickleFrames(first, others byte, limit time.Duration) {
	c.frame(first, "x")
	for begin := time.Now(); limit == 0 || time.Since(begin) < limit; time.Sleep(10 * ms) {
		if _, err := c.Write([]byte(rawBytes(others, ""))); err != nil {
			return
		}
	}
}

// In the upgrade's own packet too.
func TestMessageTimeoutFromTheStart(t *testing.T) {
	cfg := dialsOnly()
	cfg.Health.MessageTimeout = 5 * time.Second
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.say(c.switching() + "\x81\x05he")
			go c.listen()
			c.gone()
		})
		if cause, at := w.endedAt(w.begin(), time.Minute); at != 5*time.Second || !errors.Is(cause, wsshard.ErrMessageTimeout) {
			t.Errorf("ended at %v: %v", at, cause)
		}
	})
}

// A flood of pings costs at most ten pongs a second, the newest is the one that is answered, and it is no data.
func TestPingFlood(t *testing.T) {
	cfg := dialsOnly()
	cfg.Health.DataTimeout = 10 * time.Second
	cfg.DisableHotSwitchover = true
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		s := w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.upgrade()
			for i := 0; ; i++ {
				if _, err := c.Write([]byte(rawBytes(fin|opPing, fmt.Sprint(i)))); err != nil {
					return
				}
				time.Sleep(ms + 7*time.Microsecond) // never in the instant of a pong
			}
		})
		begin := w.begin("a")
		cause, _ := w.endedAt(begin, 20*time.Second)
		if bye := s.conn(0).frames(opClose); !errors.Is(cause, wsshard.ErrDataTimeout) || len(bye) != 1 || bye[0].at.Sub(begin) != 10*time.Second {
			t.Errorf("closed with %v: %v", bye, cause)
		}
		pongs := s.conn(0).frames(opPong)
		if n := len(pongs); n < 95 || n > 101 {
			t.Errorf("%d pongs in ten seconds", n)
		}
		for i, f := range pongs[1:] {
			if d := f.at.Sub(pongs[i].at); d < 100*ms {
				w.t.Fatalf("two pongs within %v", d)
			}
			if i < 16 { // those that waited when the flood began
				if string(f.payload) != fmt.Sprint(i+1) {
					t.Errorf("pong %d answers ping %s", i+1, f.payload)
				}
			} else if age := f.at.Sub(pongs[0].at) - atoi(f.payload); age < 0 || age > 2*ms {
				t.Errorf("after %v it answers ping %s", f.at.Sub(pongs[0].at), f.payload)
			}
		}
	})
}

// atoi reads the number of a ping as the instant it was sent.
func atoi(b []byte) time.Duration {
	var n int
	fmt.Sscan(string(b), &n)
	return time.Duration(n) * (ms + 7*time.Microsecond)
}

// A single ping is answered at once, with what it carried.
func TestPong(t *testing.T) {
	bubble(t, dialsOnly(), nil, func(w *world) {
		w.app.url = "ws://raw/"
		payloads := []string{"", "x", strings.Repeat("y", 125), "\x00\xff"}
		s := w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.upgrade()
			for _, p := range payloads {
				time.Sleep(time.Second)
				c.frame(fin|opPing, p)
			}
			c.gone()
		})
		begin := w.begin()
		after(10 * time.Second)
		var got []string
		for i, f := range s.conn(0).frames(opPong) {
			got = append(got, string(f.payload))
			if at := f.at.Sub(begin); at != time.Duration(i+1)*time.Second {
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
		write func(w *world)
		flood bool
	}{
		"Send":         {func(w *world) { go w.m.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1000))) }, false},
		"subscription": {func(w *world) { w.subscribe(numbered(100)...) }, false},
		"pongs":        {func(w *world) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dialsOnly()
			cfg.Connection.WriteTimeout = 3 * time.Second
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				w.net.SetBuffer(200)
				w.serveRaw("raw:80", nil, func(rc *rawConn) {
					rc.say(rc.switching())
					for i := range 100 {
						if c.flood {
							rc.frame(fin|opPing, strings.Repeat("p", 125))
						}
						rc.frame(fin|opText, fmt.Sprint(i))
						time.Sleep(100 * ms)
					}
				})
				begin := w.begin()
				after(time.Second)
				w.app.take()
				c.write(w)
				due := 4 * time.Second
				if c.flood {
					due = 3100 * ms // the second pong finds no room
				}
				cause, at := w.endedAt(begin, due-time.Second)
				if !errors.Is(cause, wsshard.ErrWriteTimeout) || at != due {
					t.Errorf("ended at %v: %v, want %v", at, cause, due)
				}
				if n := len(w.app.take()); n < 19 {
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
			cfg := dialsOnly()
			cfg.Subscribe.MessagesPerWindow = 9
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				s := w.serveRaw("raw:80", nil, func(c *rawConn) { c.upgrade(); c.gone() })
				w.begin()
				after(time.Second)
				begin := time.Now()
				data := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				for range 5 {
					if err := w.m.Send(context.Background(), 0, wsshard.Text(data)); err != nil {
						w.t.Fatal(err)
					}
				}
				after(time.Minute)
				got, frames, in := "", 0, make(map[time.Duration]int)
				c := s.conn(0)
				for i, f := range c.sent {
					if first := i%want == 0; f.fin != (i%want == want-1) || first != (f.op == opText) || !first && f.op != opCont {
						t.Errorf("frame %d: opcode %d, fin %v", i, f.op, f.fin)
					}
					got += string(f.payload)
					frames++
					in[f.at.Sub(begin)]++
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
	cfg := dialsOnly()
	cfg.Connection.EnableCompression = true
	noise := make([]byte, 64<<10)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for name, data := range map[string][]byte{"text": bytes.Repeat([]byte("hello, world; "), 64<<10/14), "noise": noise} {
		t.Run(name, func(t *testing.T) {
			bubble(t, cfg, nil, func(w *world) {
				s := serveDeflated(w, func(*rawConn) {})
				w.begin()
				after(time.Second)
				if err := w.m.Send(context.Background(), 0, wsshard.Binary(data)); err != nil {
					w.t.Fatal(err)
				}
				after(0)
				frames, more := s.conn(0).frames(opBinary), s.conn(0).frames(opCont)
				if len(frames) != 1 || !frames[0].rsv1 || frames[0].fin == (name == "noise") || len(more) > 0 != (name == "noise") { // deflate makes noise longer
					w.t.Fatalf("%d frames, and %d", len(frames), len(more))
				}
				var payload []byte
				for _, f := range append(frames, more...) {
					if len(f.payload) > 65536 {
						t.Errorf("a frame of %d bytes", len(f.payload))
					}
					payload = append(payload, f.payload...)
				}
				packed := io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
				if got, err := io.ReadAll(flate.NewReader(packed)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}
