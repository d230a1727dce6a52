package acceptance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what may a peer or a handler overdo, and what ends it?

// More than 10,000 frames within ten seconds, without a byte of data between them, end a connection; fewer never do.
func TestFloodOfFramesWithoutData(t *testing.T) {
	ping, pong := rawBytes(fin|opPing, ""), rawBytes(fin|opPong, "x")
	empty, data := rawBytes(opCont, ""), rawBytes(opCont, "x")
	const slow, fast = 1010 * time.Microsecond, 990 * time.Microsecond
	for name, c := range map[string]struct {
		first, frames string // frames are sent in one piece
		every, until  time.Duration
		cut           bool
	}{
		"pings":                       {"", ping, fast, time.Minute, true},
		"pongs":                       {"", pong, fast, time.Minute, true},
		"empty fragments":             {rawBytes(opText, ""), empty, fast, time.Minute, true},
		"empty messages":              {"", rawBytes(fin|opText, ""), fast, time.Minute, true},
		"pings and pongs":             {"", ping + pong, 2 * fast, time.Minute, true},
		"pings in a message":          {rawBytes(opText, "x"), ping, fast, time.Minute, true},
		"at once":                     {"", strings.Repeat(ping, 10_001), time.Hour, time.Hour, true},
		"at once, as many as may be":  {"", strings.Repeat(ping, 10_000), 11 * time.Second, time.Minute, false},
		"slower pings":                {"", ping, slow, time.Minute, false},
		"slower pings in a message":   {rawBytes(opText, ""), ping + empty, 2 * slow, time.Minute, false},
		"a byte of data now and then": {rawBytes(opText, ""), strings.Repeat(ping, 9000) + data, time.Second, time.Minute, false},
		"messages now and then":       {"", strings.Repeat(ping+pong, 4999) + rawBytes(fin|opText, "x"), time.Second, time.Minute, false},
		"a quiet peer, for a week":    {"", ping + pong, 10 * time.Second, 7 * 24 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dialsOnly()
			cfg.Health.MessageTimeout = off
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				s := w.serveRaw("raw:80", nil, func(conn *rawConn) {
					conn.upgrade()
					first := c.first
					for end := time.Now().Add(c.until); time.Now().Before(end); time.Sleep(c.every) {
						if _, err := io.WriteString(conn.Conn, first+c.frames); err != nil {
							break
						}
						first = ""
					}
					conn.gone()
				})
				begin := w.begin("a")
				after(c.until - time.Second)
				causes := w.app.takeCauses()
				if !c.cut {
					if len(causes) > 0 || s.count() != 1 {
						t.Errorf("cut: %v", causes)
					}
					return
				}
				ce := new(wsshard.CloseError)
				if len(causes) == 0 || !errors.As(causes[0], &ce) || ce.Code != 1008 || !ce.Local {
					t.Fatalf("ended by %v", causes)
				}
				bye := s.conn(0).frames(opClose)
				if len(bye) != 1 || bye[0].code() != 1008 || bye[0].at.Sub(begin) > 10*time.Second {
					t.Errorf("it heard %v", bye)
				}
			})
		})
	}
}

// sendsPart is a connection whose peer sends so much of a message, and the rest of it when it is told.
func sendsPart(c *rawConn, size int, rest <-chan struct{}) {
	c.upgrade()
	c.frame(opBinary, strings.Repeat("x", size))
	<-rest
	c.frame(fin|opCont, "y")
	c.gone()
}

// The connection whose unfinished message is the longest ends when all of them hold too much, and no other.
func TestMaxUnfinished(t *testing.T) {
	cfg := dialsOnly()
	cfg.MaxSubscriptionsPerShard = 1
	cfg.Connection.MaxUnfinished = 1 << 20
	cfg.Backoff.InitialDelay, cfg.Backoff.MaxDelay = time.Hour, time.Hour
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		sizes, rest := make(chan int, 3), make(chan struct{})
		s := w.serveRaw("raw:80", nil, func(c *rawConn) { sendsPart(c, <-sizes, rest) })
		w.subscribe("a", "b", "c")
		w.m.Start(context.Background())
		for _, size := range []int{300 << 10, 500 << 10} {
			sizes <- size
			after(time.Second)
		}
		if causes := w.app.takeCauses(); len(causes) > 0 {
			t.Fatalf("too early: %v", causes)
		}
		sizes <- 400 << 10
		after(5 * time.Second)
		if causes := w.app.takeCauses(); len(causes) != 1 || causes[0] != wsshard.ErrMaxUnfinished {
			t.Fatalf("ended by %v", causes)
		}
		told := 0
		for i := range s.count() {
			if bye := s.conn(i).frames(opClose); len(bye) == 1 && bye[0].code() == 1009 {
				told++
			}
		}
		close(rest)
		after(time.Second)
		var got []int
		for _, text := range w.app.take() {
			got = append(got, len(text))
		}
		if told != 1 || len(got) != 2 || got[0]+got[1] != 700<<10+2 {
			t.Errorf("%d were told 1009; delivered %v", told, got)
		}
	})
}

// What is finished counts no more, however much of it there was.
func TestMaxUnfinishedForgetsWhatIsFinished(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.MaxUnfinished = 1 << 20
	for _, cfg.Connection.LowLatencyMode = range []bool{false, true} {
		bubble(t, cfg, nil, func(w *world) {
			w.app.url = "ws://raw/"
			w.serveRaw("raw:80", nil, func(c *rawConn) {
				c.upgrade()
				for range 10 {
					c.frame(opBinary, strings.Repeat("x", 300<<10))
					c.frame(fin|opCont, strings.Repeat("x", 300<<10))
				}
				c.gone()
			})
			w.begin()
			after(time.Second)
			for _, text := range w.app.take() {
				if text != strings.Repeat("x", 600<<10) {
					t.Errorf("%d bytes", len(text))
				}
			}
			w.wantCauses()
		})
	}
}

// A callback that panics on every message is logged whole once, and by its count once a second from then on.
func TestPanicsThatGoOn(t *testing.T) {
	log := newLogbook()
	cfg := wsshard.Config{Logger: slog.New(log)}
	bubble(t, cfg, nil, func(w *world) {
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { panic("boom") }
		w.start("a")
		flood := func(n int) {
			for range n {
				w.topics.Publish("a", "x")
				after(10 * time.Millisecond)
			}
		}
		flood(501)
		after(time.Second)
		counted, whole, lines := int64(0), 0, 0
		look := func() {
			counted, whole, lines = 0, 0, 0
			for _, l := range log.from(slog.LevelError) {
				switch {
				case l.text("callback") != "OnMessage":
				case l.text("stack") != "":
					whole++
				default:
					lines++
					n, _ := l.attrs["count"].(int64)
					counted += n
				}
			}
		}
		if look(); whole != 1 || lines != 6 || counted != 500 {
			t.Errorf("%d whole, %d lines for %d", whole, lines, counted)
		}
		after(2 * time.Minute)
		flood(1) // after so long it may be another fault
		if look(); whole != 2 {
			t.Errorf("%d whole", whole)
		}
		flood(10)
		w.m.Stop(context.Background()) // nothing is left untold
		if look(); counted != 510 || w.m.Metrics().HandlerPanics != 512 {
			t.Errorf("told of %d, counted %d", counted, w.m.Metrics().HandlerPanics)
		}
	})
}
