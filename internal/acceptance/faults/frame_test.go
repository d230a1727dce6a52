package faults

import (
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which bytes may a server send on an open connection? Rows 23 to 27 of the matrix.

// raw is a strike in which the server sends bytes that end the connection with a close frame of ours.
func raw(name, bytes string, code int) strike {
	return strike{name: name, is: closedWith(code, true), do: func(c *cell, at target) {
		c.hush(at.peer)
		at.peer.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpText, "before:1") + bytes + harness.RawBytes(harness.Fin|harness.OpText, "after:1")))
		c.expect(at.peer, code)
	}, check: func(c *cell) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		if len(c.Got["after"]) > 0 || len(c.Got["before"]) != 1 && c.phase() == steady {
			c.T.Errorf("delivered %v before and %v after", c.Got["before"], c.Got["after"])
		}
	}}
}

// halting is a strike in which a message begins and does not end.
func halting(name string, do func(c *cell, write func(raw string) bool)) strike {
	return strike{name: name, is: harness.Is(wsshard.ErrMessageTimeout), do: func(c *cell, at target) {
		c.hush(at.peer)
		if at.peer.Index() == c.Srv.Conns()-1 { // an answer to a request would come in between
			c.Topics.Ack(false)
		}
		c.raging.Store(true)
		c.joined.Go(func() {
			do(c, func(raw string) bool {
				_, err := at.peer.Net().Write([]byte(raw))
				return err == nil && c.raging.Load()
			})
		})
	}}
}

// inBits writes a frame byte by byte.
func inBits(raw string) func(c *cell, write func(string) bool) {
	return func(c *cell, write func(string) bool) {
		for i := 0; i < len(raw) && write(raw[i:i+1]); i++ {
			nap(60 * time.Millisecond)
		}
	}
}

// inFrames writes one frame and then others.
func inFrames(first, others string) func(c *cell, write func(string) bool) {
	return func(c *cell, write func(string) bool) {
		for ok := write(first); ok; ok = write(others) {
			nap(10 * time.Millisecond)
		}
	}
}

const readLimit = 1000

var long = strings.Repeat("x", readLimit)

var frameFaults = []*row{
	{no: 23, name: "too_long", kind: linkFault, with: func(cfg *wsshard.Config) { cfg.Connection.ReadLimit = readLimit }, strikes: []strike{
		raw("one byte too many", harness.RawBytes(harness.Fin|harness.OpBinary, long+"x"), 1009),
		raw("too many in fragments", harness.RawBytes(harness.OpText, long)+harness.RawBytes(harness.OpCont, "")+harness.RawBytes(harness.Fin|harness.OpCont, "x"), 1009),
		raw("announced 2^62", "\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00", 1009),
		raw("announced 2^63", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1009),
		raw("announced 2^64-1", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
		raw("lengths that overflow", "\x02\x01x\x00\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
		raw("announced, and nothing follows", "\x82\x7e\x03\xe9", 1009),
	}},
	{no: 24, name: "bomb", kind: linkFault, with: func(cfg *wsshard.Config) {
		cfg.Connection.ReadLimit, cfg.Connection.EnableCompression = 1<<20, true
	}, setup: func(c *cell) { c.Srv.Upgrader().EnableCompression = true }, strikes: []strike{
		raw("64 MiB", harness.RawBytes(harness.Fin|harness.Rsv1|harness.OpText, harness.Bomb(64)), 1009), raw("just over", harness.RawBytes(harness.Fin|harness.Rsv1|harness.OpText, harness.Deflate(strings.Repeat("x", 1<<20+1))), 1009),
		raw("not deflate", harness.RawBytes(harness.Fin|harness.Rsv1|harness.OpText, "\xff\xff\xff"+harness.Canary), 1002), raw("breaks off", harness.RawBytes(harness.Fin|harness.Rsv1|harness.OpText, harness.Deflate(long)[:3]), 1002),
	}},
	{no: 25, name: "fragments", kind: linkFault, strikes: []strike{{mild: true, do: func(c *cell, at target) {
		ping := harness.RawBytes(harness.Fin|harness.OpPing, long[:125])
		at.peer.Net().Write([]byte(harness.RawBytes(harness.OpText, "x") + ping + harness.RawBytes(harness.Fin|harness.OpPong, "unasked") + harness.RawBytes(harness.OpCont, "") + ping + harness.RawBytes(harness.OpCont, ":") + harness.RawBytes(harness.Fin|harness.OpCont, "1")))
		if old := c.Srv.Conn(0); old != at.peer { // without its key there the new one would have no proof
			old.Send("x:1")
		}
	}, check: func(c *cell) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		if len(c.Got["x"]) != 1 {
			c.T.Errorf("delivered %v", c.Got["x"])
		}
	}}}},
	{no: 26, name: "endless_message", kind: linkFault, with: func(cfg *wsshard.Config) { cfg.Health.MessageTimeout = 5 * time.Second }, strikes: []strike{
		halting("first byte of a header", inBits("\x81")), halting("header", inBits("\x81\x64")),
		halting("half a payload", inBits(harness.RawBytes(harness.Fin|harness.OpText, long[:100])[:50])), halting("bytes that trickle", inBits(harness.RawBytes(harness.Fin|harness.OpText, long))),
		halting("a ping that trickles", inBits(harness.RawBytes(harness.Fin|harness.OpPing, long[:120]))), halting("first fragment", inBits(harness.RawBytes(harness.OpText, "x"))),
		halting("empty fragments", inFrames(harness.RawBytes(harness.OpText, "x"), harness.RawBytes(harness.OpCont, ""))),
		halting("pings in between", inFrames(harness.RawBytes(harness.OpText, "x"), harness.RawBytes(harness.Fin|harness.OpPing, ""))),
	}},
	{no: 27, name: "forbidden_frames", kind: linkFault, strikes: []strike{
		raw("masked", "\x81\x85abcdHELLO", 1002),
		raw("RSV1", harness.RawBytes(harness.Fin|0x40|harness.OpText, "x"), 1002), raw("RSV2", harness.RawBytes(harness.Fin|0x20|harness.OpText, "x"), 1002), raw("RSV3", harness.RawBytes(harness.Fin|0x10|harness.OpText, "x"), 1002),
		raw("RSV1 on a ping", harness.RawBytes(harness.Fin|0x40|harness.OpPing, "x"), 1002),
		raw("opcode 3", harness.RawBytes(harness.Fin|3, "x"), 1002), raw("opcode 7", harness.RawBytes(harness.Fin|7, ""), 1002),
		raw("opcode 11", harness.RawBytes(harness.Fin|11, "x"), 1002), raw("opcode 15", harness.RawBytes(harness.Fin|15, "x"), 1002),
		raw("long ping", harness.RawBytes(harness.Fin|harness.OpPing, long[:126]), 1002), raw("long pong", harness.RawBytes(harness.Fin|harness.OpPong, long[:126]), 1002),
		raw("long close", harness.RawBytes(harness.Fin|harness.OpClose, harness.ClosePayload(1000, long[:124])), 1002),
		raw("ping in fragments", harness.RawBytes(harness.OpPing, "x"), 1002), raw("close in fragments", harness.RawBytes(harness.OpClose, ""), 1002),
		raw("continuation of nothing", harness.RawBytes(harness.Fin|harness.OpCont, harness.Canary), 1002),
		raw("continuation after the end", harness.RawBytes(harness.OpText, "x")+harness.RawBytes(harness.Fin|harness.OpCont, "y")+harness.RawBytes(harness.OpCont, "z"), 1002),
		raw("message inside a message", harness.RawBytes(harness.OpText, "x")+harness.RawBytes(harness.Fin|harness.OpText, harness.Canary), 1002),
		raw("text that is not UTF-8", harness.RawBytes(harness.Fin|harness.OpText, harness.Canary+"\xe9"), 1007), raw("a surrogate", harness.RawBytes(harness.Fin|harness.OpText, "\xed\xa0\x80"), 1007),
		raw("overlong", harness.RawBytes(harness.Fin|harness.OpText, "\xc0\xaf"), 1007), raw("past Unicode", harness.RawBytes(harness.Fin|harness.OpText, "\xf4\x90\x80\x80"), 1007),
		raw("a rune cut off", harness.RawBytes(harness.OpText, "\xe2\x82")+harness.RawBytes(harness.Fin|harness.OpCont, ""), 1007),
	}},
}
