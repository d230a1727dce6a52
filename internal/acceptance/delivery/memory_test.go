package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: how much memory can a hostile server make a connection take?

// hostile is a connection to a server that says whatever its script gives it to say, for as long as the client reads. It takes
// no memory of its own while it talks, so that what is measured is the library's.
type hostile struct {
	net.Conn // nil: nothing else may be called
	head     string
	say      func(p []byte) int // fills p; 0: nothing more will come
	closed   chan struct{}
	once     sync.Once

	mu    sync.Mutex // protects following fields
	heard bytes.Buffer
	reply *strings.Reader // nil: the request is not there yet
}

func (h *hostile) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reply == nil {
		h.heard.Write(p)
		if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(h.heard.Bytes()))); err == nil {
			sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			h.reply = strings.NewReader(strings.ReplaceAll(h.head, "ACCEPT", base64.StdEncoding.EncodeToString(sum[:])))
		}
	}
	return len(p), nil
}

func (h *hostile) Read(p []byte) (int, error) {
	h.mu.Lock()
	reply := h.reply
	h.mu.Unlock()
	if n, err := reply.Read(p); err == nil {
		return n, nil
	}
	select {
	case <-h.closed:
		return 0, net.ErrClosed
	default:
	}
	if n := h.say(p); n > 0 {
		return n, nil
	}
	select {
	case <-h.closed:
		return 0, net.ErrClosed
	case <-time.After(time.Hour):
		return 0, os.ErrDeadlineExceeded
	}
}

func (h *hostile) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *hostile) SetDeadline(time.Time) error      { return nil }
func (h *hostile) SetReadDeadline(time.Time) error  { return nil }
func (h *hostile) SetWriteDeadline(time.Time) error { return nil }

const goodHead = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"

// repeating says first once, and then more so many times, for ever if negative. each, if not nil, is called before each round.
func repeating(first, more string, times int, each func()) func(p []byte) int {
	rest := first
	return func(p []byte) (n int) {
		for n < len(p) {
			if rest == "" {
				if times == 0 || n > 0 && each != nil {
					return n
				}
				if times--; each != nil {
					each()
				}
				rest = more
			}
			k := copy(p[n:], rest)
			n, rest = n+k, rest[k:]
		}
		return n
	}
}

// fragments are continuations that do not end their message.
func fragments(payload string, times int) string {
	return strings.Repeat(harness.RawBytes(harness.OpCont, payload), times)
}

// What a server says takes at most ReadLimit + 1 MiB, whatever it is. Where all that was ever allocated is within that, so is
// every peak; where a flood goes on for long, what is alive is looked at again and again.
func TestHostileMemory(t *testing.T) {
	const limit, margin = 4 << 20, 1 << 20
	block := strings.Repeat("x", 1<<10)
	explosive := harness.Bomb(1000)
	zeros := strings.Repeat("\x00\x00\x00\xff\xff", 200) // compressed data that becomes nothing
	pause := func() { time.Sleep(time.Millisecond) }
	for name, c := range map[string]struct {
		head  string
		say   func(p []byte) int
		cause error
		code  int // of a close by us
		flood bool
		ready bool // the upgrade succeeds
	}{
		"endless header lines":     {head: "HTTP/1.1 101 Switching Protocols\r\n", say: repeating("", "X-A: "+block+"\r\n", -1, nil)},
		"an endless header line":   {head: "HTTP/1.1 101 Switching Protocols\r\nX-A: ", say: repeating("", block, -1, nil)},
		"an endless status line":   {head: "HTTP/1.1 ", say: repeating("", block, -1, nil)},
		"an endless refusal":       {head: "HTTP/1.1 500 No\r\n\r\n", say: repeating("", block, -1, nil)},
		"a bomb":                   {ready: true, head: goodHead + harness.Deflated + "\r\n\r\n", say: repeating(harness.RawBytes(harness.Fin|harness.Rsv1|harness.OpBinary, explosive), "", 0, nil), cause: wsshard.ErrReadLimit},
		"a bomb in fragments":      {ready: true, head: goodHead + harness.Deflated + "\r\n\r\n", say: repeating(harness.RawBytes(harness.Rsv1|harness.OpBinary, explosive[:len(explosive)/2])+harness.RawBytes(harness.OpCont, explosive[len(explosive)/2:]), "", 0, nil), cause: wsshard.ErrReadLimit},
		"compressed nothing":       {ready: true, head: goodHead + harness.Deflated + "\r\n\r\n", say: repeating(harness.RawBytes(harness.Rsv1|harness.OpBinary, zeros), fragments(zeros, 10), -1, nil), cause: wsshard.ErrReadLimit},
		"2^62 bytes":               {ready: true, head: goodHead + "\r\n", say: repeating("\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00", block, -1, nil), cause: wsshard.ErrReadLimit},
		"2^63 bytes":               {ready: true, head: goodHead + "\r\n", say: repeating("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", block, -1, nil), cause: wsshard.ErrReadLimit},
		"announced and held back":  {ready: true, head: goodHead + "\r\n", say: repeating("\x82\x7f\x00\x00\x00\x00\x00\x40\x00\x00", block, 10, nil), cause: wsshard.ErrMessageTimeout},
		"all but the end":          {ready: true, head: goodHead + "\r\n", say: repeating("\x82\x7f\x00\x00\x00\x00\x00\x40\x00\x00", block, limit/len(block)-1, nil), cause: wsshard.ErrMessageTimeout},
		"fragments without end":    {ready: true, head: goodHead + "\r\n", say: repeating(harness.RawBytes(harness.OpBinary, ""), fragments(block, 1), -1, nil), cause: wsshard.ErrReadLimit},
		"trickled fragments":       {ready: true, head: goodHead + "\r\n", say: repeating(harness.RawBytes(harness.OpBinary, ""), fragments(block[:50], 1), -1, pause), cause: wsshard.ErrMessageTimeout},
		"trickled bytes":           {ready: true, head: goodHead + "\r\n", say: repeating("\x82\x7f\x00\x00\x00\x00\x00\x40\x00\x00", "x", -1, pause), cause: wsshard.ErrMessageTimeout},
		"empty fragments":          {ready: true, head: goodHead + "\r\n", say: repeating(harness.RawBytes(harness.OpText, ""), "\x00\x00", -1, pause), cause: wsshard.ErrMessageTimeout, flood: true},
		"empty fragments, fast":    {ready: true, head: goodHead + "\r\n", say: repeating(harness.RawBytes(harness.OpText, ""), fragments("", 100), -1, nil), code: 1008},
		"pings, fast":              {ready: true, head: goodHead + "\r\n", say: repeating("", strings.Repeat(harness.RawBytes(harness.Fin|harness.OpPing, block[:125]), 100), -1, nil), code: 1008},
		"compressed nothing, fast": {ready: true, head: goodHead + harness.Deflated + "\r\n\r\n", say: repeating(harness.RawBytes(harness.Rsv1|harness.OpBinary, zeros[:5]), fragments(zeros[:5], 10), -1, nil), code: 1008},
		"pings in a message":       {ready: true, head: goodHead + "\r\n", say: repeating(harness.RawBytes(harness.OpText, "x"), harness.RawBytes(harness.Fin|harness.OpPing, block[:125]), -1, pause), cause: wsshard.ErrMessageTimeout, flood: true},
		"pings":                    {ready: true, head: goodHead + "\r\n", say: repeating("", harness.RawBytes(harness.Fin|harness.OpPing, block[:125]), -1, pause), cause: wsshard.ErrDataTimeout, flood: true},
		"pongs":                    {ready: true, head: goodHead + "\r\n", say: repeating("", harness.RawBytes(harness.Fin|harness.OpPong, block[:125]), -1, pause), cause: wsshard.ErrDataTimeout, flood: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var before, now runtime.MemStats
				peak, rounds, looks := uint64(0), 0, 0
				look := func() {
					looks++
					runtime.GC()
					runtime.ReadMemStats(&now)
					peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
				}
				say := c.say
				if c.flood {
					say = func(p []byte) int {
						if rounds++; rounds%500 == 0 {
							look()
						}
						return c.say(p)
					}
				}
				cfg := harness.DialsOnly()
				cfg.Connection.ReadLimit, cfg.Connection.EnableCompression = limit, strings.Contains(c.head, "deflate")
				cfg.Connection.MaxConnectAttempts = 1
				cfg.Backoff.StableAfter = time.Hour
				cfg.DisableHotSwitchover = true
				cfg.Health = wsshard.HealthConfig{PingInterval: -1, MessageTimeout: 5 * time.Second, DataTimeout: 5 * time.Second}
				cfg.Connection.NetDialContext = func(context.Context, string, string) (net.Conn, error) {
					return &hostile{head: c.head, say: say, closed: make(chan struct{})}, nil
				}
				a := &harness.App{Addr: "ws://hostile/"}
				var ended error
				a.Judge = func(err error) bool {
					ended = err
					runtime.ReadMemStats(&now)
					return false
				}
				m, err := wsshard.New[string](a, cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Stop(context.Background())
				if c.flood { // only who wants something expects data
					m.Subscribe("a")
				}
				runtime.GC()
				runtime.ReadMemStats(&before)
				if err := m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				harness.After(time.Minute)
				if !c.flood {
					peak = now.TotalAlloc - before.TotalAlloc
				} else if looks < 5 {
					t.Errorf("a flood that was looked at %d times", looks)
				}
				t.Logf("%d KiB at most, of %d", peak>>10, (limit+margin)>>10)
				if peak > limit+margin {
					t.Errorf("%d bytes were taken, %d are allowed", peak, limit+margin)
				}
				switch {
				case ended == nil:
					t.Error("it never ended")
				case c.code != 0:
					if ce := new(wsshard.CloseError); !errors.As(ended, &ce) || ce.Code != c.code || !ce.Local {
						t.Errorf("ended by %v, want %d", ended, c.code)
					}
				case c.ready && !errors.Is(ended, c.cause):
					t.Errorf("ended by %v, want %v", ended, c.cause)
				case c.ready != (m.Metrics().Connections == 1):
					t.Errorf("%d connections were opened: %v", m.Metrics().Connections, ended)
				}
			})
		})
	}
}
