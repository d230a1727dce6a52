package acceptance

import (
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which bytes may a server send on an open connection? Rows 23 to 27 of the matrix.

// raw is a strike in which the server sends bytes that end the connection with a close frame of ours.
func raw(name, bytes string, code int) strike {
	return strike{name: name, is: closedWith(code, true), do: func(c *cell, at target) {
		c.hush(at.peer)
		at.peer.Net().Write([]byte(rawBytes(fin|opText, "before:1") + bytes + rawBytes(fin|opText, "after:1")))
		c.expect(at.peer, code)
	}, check: func(c *cell) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.got["after"]) > 0 || len(c.got["before"]) != 1 && c.phase() == steady {
			c.t.Errorf("delivered %v before and %v after", c.got["before"], c.got["after"])
		}
	}}
}

// halting is a strike in which a message begins and does not end.
func halting(name string, do func(c *cell, write func(raw string) bool)) strike {
	return strike{name: name, is: is(wsshard.ErrMessageTimeout), do: func(c *cell, at target) {
		c.hush(at.peer)
		if at.peer.Index() == c.srv.Conns()-1 { // an answer to a request would come in between
			c.topics.Ack(false)
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
			nap(60 * ms)
		}
	}
}

// inFrames writes one frame and then others.
func inFrames(first, others string) func(c *cell, write func(string) bool) {
	return func(c *cell, write func(string) bool) {
		for ok := write(first); ok; ok = write(others) {
			nap(10 * ms)
		}
	}
}

const readLimit = 1000

var long = strings.Repeat("x", readLimit)

var frameFaults = []*row{
	{no: 23, name: "too_long", kind: linkFault, with: func(cfg *wsshard.Config) { cfg.Connection.ReadLimit = readLimit }, strikes: []strike{
		raw("one byte too many", rawBytes(fin|opBinary, long+"x"), 1009),
		raw("too many in fragments", rawBytes(opText, long)+rawBytes(opCont, "")+rawBytes(fin|opCont, "x"), 1009),
		raw("announced 2^62", "\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00", 1009),
		raw("announced 2^63", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1009),
		raw("announced 2^64-1", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
		raw("lengths that overflow", "\x02\x01x\x00\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
		raw("announced, and nothing follows", "\x82\x7e\x03\xe9", 1009),
	}},
	{no: 24, name: "bomb", kind: linkFault, with: func(cfg *wsshard.Config) {
		cfg.Connection.ReadLimit, cfg.Connection.EnableCompression = 1<<20, true
	}, setup: func(c *cell) { c.srv.Upgrader().EnableCompression = true }, strikes: []strike{
		raw("64 MiB", rawBytes(fin|rsv1|opText, bomb(64)), 1009), raw("just over", rawBytes(fin|rsv1|opText, deflate(strings.Repeat("x", 1<<20+1))), 1009),
		raw("not deflate", rawBytes(fin|rsv1|opText, "\xff\xff\xff"+canary), 1002), raw("breaks off", rawBytes(fin|rsv1|opText, deflate(long)[:3]), 1002),
	}},
	{no: 25, name: "fragments", kind: linkFault, strikes: []strike{{mild: true, do: func(c *cell, at target) {
		ping := rawBytes(fin|opPing, long[:125])
		at.peer.Net().Write([]byte(rawBytes(opText, "x") + ping + rawBytes(fin|opPong, "unasked") + rawBytes(opCont, "") + ping + rawBytes(opCont, ":") + rawBytes(fin|opCont, "1")))
		if old := c.srv.Conn(0); old != at.peer { // without its key there the new one would have no proof
			old.Send("x:1")
		}
	}, check: func(c *cell) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.got["x"]) != 1 {
			c.t.Errorf("delivered %v", c.got["x"])
		}
	}}}},
	{no: 26, name: "endless_message", kind: linkFault, with: func(cfg *wsshard.Config) { cfg.Health.MessageTimeout = 5 * time.Second }, strikes: []strike{
		halting("first byte of a header", inBits("\x81")), halting("header", inBits("\x81\x64")),
		halting("half a payload", inBits(rawBytes(fin|opText, long[:100])[:50])), halting("bytes that trickle", inBits(rawBytes(fin|opText, long))),
		halting("a ping that trickles", inBits(rawBytes(fin|opPing, long[:120]))), halting("first fragment", inBits(rawBytes(opText, "x"))),
		halting("empty fragments", inFrames(rawBytes(opText, "x"), rawBytes(opCont, ""))),
		halting("pings in between", inFrames(rawBytes(opText, "x"), rawBytes(fin|opPing, ""))),
	}},
	{no: 27, name: "forbidden_frames", kind: linkFault, strikes: []strike{
		raw("masked", "\x81\x85abcdHELLO", 1002),
		raw("RSV1", rawBytes(fin|0x40|opText, "x"), 1002), raw("RSV2", rawBytes(fin|0x20|opText, "x"), 1002), raw("RSV3", rawBytes(fin|0x10|opText, "x"), 1002),
		raw("RSV1 on a ping", rawBytes(fin|0x40|opPing, "x"), 1002),
		raw("opcode 3", rawBytes(fin|3, "x"), 1002), raw("opcode 7", rawBytes(fin|7, ""), 1002),
		raw("opcode 11", rawBytes(fin|11, "x"), 1002), raw("opcode 15", rawBytes(fin|15, "x"), 1002),
		raw("long ping", rawBytes(fin|opPing, long[:126]), 1002), raw("long pong", rawBytes(fin|opPong, long[:126]), 1002),
		raw("long close", rawBytes(fin|opClose, closePayload(1000, long[:124])), 1002),
		raw("ping in fragments", rawBytes(opPing, "x"), 1002), raw("close in fragments", rawBytes(opClose, ""), 1002),
		raw("continuation of nothing", rawBytes(fin|opCont, canary), 1002),
		raw("continuation after the end", rawBytes(opText, "x")+rawBytes(fin|opCont, "y")+rawBytes(opCont, "z"), 1002),
		raw("message inside a message", rawBytes(opText, "x")+rawBytes(fin|opText, canary), 1002),
		raw("text that is not UTF-8", rawBytes(fin|opText, canary+"\xe9"), 1007), raw("a surrogate", rawBytes(fin|opText, "\xed\xa0\x80"), 1007),
		raw("overlong", rawBytes(fin|opText, "\xc0\xaf"), 1007), raw("past Unicode", rawBytes(fin|opText, "\xf4\x90\x80\x80"), 1007),
		raw("a rune cut off", rawBytes(opText, "\xe2\x82")+rawBytes(fin|opCont, ""), 1007),
	}},
}
