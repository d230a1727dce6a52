package delivery

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what may a peer or a handler overdo, and what ends it?

// More than 10,000 frames within ten seconds, without a byte of data between them, end a connection; fewer never do.
func TestFloodOfFramesWithoutData(t *testing.T) {
	ping, pong := harness.RawBytes(harness.Fin|harness.OpPing, ""), harness.RawBytes(harness.Fin|harness.OpPong, "x")
	empty, data := harness.RawBytes(harness.OpCont, ""), harness.RawBytes(harness.OpCont, "x")
	const slow, fast = 1010 * time.Microsecond, 990 * time.Microsecond
	for name, c := range map[string]struct {
		first, frames string // frames are sent in one piece
		every, until  time.Duration
		cut           bool
	}{
		"pings":                       {"", ping, fast, time.Minute, true},
		"pongs":                       {"", pong, fast, time.Minute, true},
		"empty fragments":             {harness.RawBytes(harness.OpText, ""), empty, fast, time.Minute, true},
		"empty messages":              {"", harness.RawBytes(harness.Fin|harness.OpText, ""), fast, time.Minute, true},
		"pings and pongs":             {"", ping + pong, 2 * fast, time.Minute, true},
		"pings in a message":          {harness.RawBytes(harness.OpText, "x"), ping, fast, time.Minute, true},
		"at once":                     {"", strings.Repeat(ping, 10_001), time.Hour, time.Hour, true},
		"at once, as many as may be":  {"", strings.Repeat(ping, 10_000), 11 * time.Second, time.Minute, false},
		"slower pings":                {"", ping, slow, time.Minute, false},
		"slower pings in a message":   {harness.RawBytes(harness.OpText, ""), ping + empty, 2 * slow, time.Minute, false},
		"a byte of data now and then": {harness.RawBytes(harness.OpText, ""), strings.Repeat(ping, 9000) + data, time.Second, time.Minute, false},
		"messages now and then":       {"", strings.Repeat(ping+pong, 4999) + harness.RawBytes(harness.Fin|harness.OpText, "x"), time.Second, time.Minute, false},
		"a quiet peer, for a week":    {"", ping + pong, 10 * time.Second, 7 * 24 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Health.MessageTimeout = harness.Off
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				s := w.ServeRaw("raw:80", nil, func(conn *harness.RawConn) {
					conn.Upgrade()
					first := c.first
					for end := time.Now().Add(c.until); time.Now().Before(end); time.Sleep(c.every) {
						if _, err := io.WriteString(conn.Conn, first+c.frames); err != nil {
							break
						}
						first = ""
					}
					conn.Gone()
				})
				begin := w.Begin("a")
				harness.After(c.until - time.Second)
				causes := w.App.TakeCauses()
				if !c.cut {
					if len(causes) > 0 || s.Count() != 1 {
						t.Errorf("cut: %v", causes)
					}
					return
				}
				ce := new(wsshard.CloseError)
				if len(causes) == 0 || !errors.As(causes[0], &ce) || ce.Code != 1008 || !ce.Local {
					t.Fatalf("ended by %v", causes)
				}
				bye := s.Conn(0).Frames(harness.OpClose)
				if len(bye) != 1 || bye[0].Code() != 1008 || bye[0].At.Sub(begin) > 10*time.Second {
					t.Errorf("it heard %v", bye)
				}
			})
		})
	}
}

// sendsPart is a connection whose peer sends so much of a message, and the rest of it when it is told.
func sendsPart(c *harness.RawConn, size int, rest <-chan struct{}) {
	c.Upgrade()
	c.Frame(harness.OpBinary, strings.Repeat("x", size))
	<-rest
	c.Frame(harness.Fin|harness.OpCont, "y")
	c.Gone()
}

// The connection whose unfinished message is the longest ends when all of them hold too much, and no other.
func TestMaxUnfinished(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.MaxSubscriptionsPerShard = 1
	cfg.Connection.MaxUnfinished = 1 << 20
	cfg.Backoff.InitialDelay, cfg.Backoff.MaxDelay = time.Hour, time.Hour
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		sizes, rest := make(chan int, 3), make(chan struct{})
		s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) { sendsPart(c, <-sizes, rest) })
		w.Subscribe("a", "b", "c")
		w.M.Start(context.Background())
		for _, size := range []int{300 << 10, 500 << 10} {
			sizes <- size
			harness.After(time.Second)
		}
		if causes := w.App.TakeCauses(); len(causes) > 0 {
			t.Fatalf("too early: %v", causes)
		}
		sizes <- 400 << 10
		harness.After(5 * time.Second)
		if causes := w.App.TakeCauses(); len(causes) != 1 || causes[0] != wsshard.ErrMaxUnfinished {
			t.Fatalf("ended by %v", causes)
		}
		told := 0
		for i := range s.Count() {
			if bye := s.Conn(i).Frames(harness.OpClose); len(bye) == 1 && bye[0].Code() == 1009 {
				told++
			}
		}
		close(rest)
		harness.After(time.Second)
		var got []int
		for _, text := range w.App.Take() {
			got = append(got, len(text))
		}
		if told != 1 || len(got) != 2 || got[0]+got[1] != 700<<10+2 {
			t.Errorf("%d were told 1009; delivered %v", told, got)
		}
	})
}

// What is finished counts no more, however much of it there was.
func TestMaxUnfinishedForgetsWhatIsFinished(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.MaxUnfinished = 1 << 20
	for _, cfg.Connection.LowLatencyMode = range []bool{false, true} {
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.App.Addr = "ws://raw/"
			w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
				c.Upgrade()
				for range 10 {
					c.Frame(harness.OpBinary, strings.Repeat("x", 300<<10))
					c.Frame(harness.Fin|harness.OpCont, strings.Repeat("x", 300<<10))
				}
				c.Gone()
			})
			w.Begin()
			harness.After(time.Second)
			for _, text := range w.App.Take() {
				if text != strings.Repeat("x", 600<<10) {
					t.Errorf("%d bytes", len(text))
				}
			}
			w.WantCauses()
		})
	}
}

// A callback that panics on every message is logged whole once, and by its count once a second from then on.
func TestPanicsThatGoOn(t *testing.T) {
	log := harness.NewLogbook()
	cfg := wsshard.Config{Logger: slog.New(log)}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { panic("boom") }
		w.Start("a")
		flood := func(n int) {
			for range n {
				w.Topics.Publish("a", "x")
				harness.After(10 * time.Millisecond)
			}
		}
		flood(501)
		harness.After(time.Second)
		counted, whole, lines := int64(0), 0, 0
		look := func() {
			counted, whole, lines = 0, 0, 0
			for _, l := range log.From(slog.LevelError) {
				switch {
				case l.Text("callback") != "OnMessage":
				case l.Text("stack") != "":
					whole++
				default:
					lines++
					n, _ := l.Attrs["count"].(int64)
					counted += n
				}
			}
		}
		if look(); whole != 1 || lines != 6 || counted != 500 {
			t.Errorf("%d whole, %d lines for %d", whole, lines, counted)
		}
		harness.After(2 * time.Minute)
		flood(1) // after so long it may be another fault
		if look(); whole != 2 {
			t.Errorf("%d whole", whole)
		}
		flood(10)
		w.M.Stop(context.Background()) // nothing is left untold
		if look(); counted != 510 || w.M.Metrics().HandlerPanics != 512 {
			t.Errorf("told of %d, counted %d", counted, w.M.Metrics().HandlerPanics)
		}
	})
}
