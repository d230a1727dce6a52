package wsconn

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// This file answers: which frames come, and what may they be? The reader is ours and not the library's, which counts no frames,
// takes reserved bits and broken close frames for legal, and allocates for each message.

// Bits and opcodes of a frame's first two bytes (RFC 6455 §5.2).
const (
	finBit  = 0x80
	rsv1Bit = 0x40
	rsv2Bit = 0x20
	rsv3Bit = 0x10
	maskBit = 0x80

	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// mostControl is the most payload of a control frame, bytes.
const mostControl = 125

// next finds the first frame of the next message. What control frames ask for is done on the way.
func (c *Conn) next() (text bool, err error) {
	c.size = 0
	op, err := c.header()
	return op == opText, err
}

// header reads up to the payload of the next data frame.
func (c *Conn) header() (op byte, err error) {
	for {
		p, err := c.in.need(2)
		if err != nil {
			return 0, err
		}
		b0, b1 := p[0], p[1]
		op = b0 & 0xf
		if !c.legal(b0, b1) {
			return 0, &Violation{Code: websocket.CloseProtocolError, Text: c.illegal(b0, b1)}
		}
		length, size := uint64(b1), 2
		switch b1 {
		case 126:
			if p, err = c.in.need(4); err != nil {
				return 0, err
			}
			length, size = uint64(binary.BigEndian.Uint16(p[2:])), 4
		case 127:
			if p, err = c.in.need(10); err != nil {
				return 0, err
			}
			length, size = binary.BigEndian.Uint64(p[2:]), 10
		}
		c.in.take(size)
		if op >= opClose {
			if err := c.controlled(op, int(length)); err != nil {
				return 0, err
			}
			continue
		}
		if c.opt.ReadLimit > 0 && length > uint64(c.opt.ReadLimit-c.size) || length > 1<<62 {
			return 0, tooBig
		}
		c.fin, c.packed = b0&finBit != 0, b0&rsv1Bit != 0 || c.packed && op == opContinuation
		c.left = int64(length)
		c.size += c.left
		if c.left == 0 || c.packed {
			if err := c.bare(); err != nil {
				return 0, err
			}
		}
		return op, nil
	}
}

// legal reports whether a frame may begin so.
func (c *Conn) legal(b0, b1 byte) bool {
	if b0&(rsv2Bit|rsv3Bit) != 0 || b1&maskBit != 0 {
		return false
	}
	switch op := b0 & 0xf; op {
	case opText, opBinary:
		return !c.message && (b0&rsv1Bit == 0 || c.deflate)
	case opContinuation:
		return c.message && b0&rsv1Bit == 0
	case opClose, opPing, opPong:
		return b0&finBit != 0 && b0&rsv1Bit == 0 && b1 <= mostControl
	}
	return false
}

// illegal says why a frame must not begin so.
func (c *Conn) illegal(b0, b1 byte) string {
	var reasons []string
	note := func(bad bool, reason string) {
		if bad {
			reasons = append(reasons, reason)
		}
	}
	op := b0 & 0xf
	note(b0&rsv1Bit != 0 && (!c.deflate || op != opText && op != opBinary), "RSV1 set")
	note(b0&rsv2Bit != 0, "RSV2 set")
	note(b0&rsv3Bit != 0, "RSV3 set")
	switch op {
	case opClose, opPing, opPong:
		note(b1&^maskBit > mostControl, "len > 125 for control")
		note(b0&finBit == 0, "FIN not set on control")
	case opText, opBinary:
		note(c.message, "data before FIN")
	case opContinuation:
		note(!c.message, "continuation after FIN")
	default:
		note(true, "bad opcode "+strconv.Itoa(int(op)))
	}
	note(b1&maskBit != 0, "bad MASK")
	return strings.Join(reasons, ", ")
}

// controlled reads a control frame and does what it asks for.
func (c *Conn) controlled(op byte, length int) error {
	if err := c.bare(); err != nil {
		return err
	}
	c.partial = true // it may be all of its header that came with the frame before
	p, err := c.in.need(length)
	if err != nil {
		return err
	}
	c.in.take(length)
	if op == opClose {
		closed, err := closeFrame(p)
		if err == nil {
			err = closed
		}
		c.frame()
		return err
	}
	c.frame()
	if op == opPing {
		c.opt.OnPing(string(p))
	} else {
		c.opt.OnPong(string(p))
	}
	return nil
}

// bare counts a frame that brings no data, or none yet.
func (c *Conn) bare() error {
	c.idles()
	if c.flood.add(c.stamp) {
		return &Violation{Code: websocket.ClosePolicyViolation, Text: fmt.Sprintf("more than %d frames without data in %v", floodFrames, floodTime)}
	}
	return nil
}

// closeFrame reads the payload of a close frame (RFC 6455 §5.5.1 and §7.4).
func closeFrame(p []byte) (*Closed, error) {
	bad := func(reason string) (*Closed, error) {
		return nil, &Violation{Code: websocket.CloseProtocolError, Text: reason}
	}
	switch {
	case len(p) == 0:
		return &Closed{Code: websocket.CloseNoStatusReceived}, nil
	case len(p) == 1:
		return bad("close frame of one byte")
	}
	c := &Closed{Code: int(binary.BigEndian.Uint16(p)), Text: string(p[2:])}
	switch code := c.Code; {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1013, code >= 3000 && code <= 4999:
	default:
		return bad("bad close code " + strconv.Itoa(code))
	}
	if !utf8.ValidString(c.Text) {
		return bad("invalid utf8 payload in close frame")
	}
	return c, nil
}

// payload reads the message's bytes as they came, through all its frames; io.EOF after the last.
func (c *Conn) payload(p []byte) (n int, err error) {
	for c.left == 0 {
		if c.fin {
			return 0, io.EOF
		}
		if _, err := c.header(); err != nil {
			c.broken = err
			return 0, err
		}
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err = c.in.read(p)
	c.left -= int64(n)
	if err != nil {
		c.broken = err
	}
	return n, err
}
