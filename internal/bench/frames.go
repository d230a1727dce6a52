package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// This file answers: what is sent, and how is it recognised?

// The messages are text, as market data is, so that a check for UTF-8 has work to do. They differ by their number.
const (
	stampAt  = len(`{"n":"0000000000","t":"`)
	stampLen = 19
	padAt    = len(`{"n":"0000000000","t":"0000000000000000000","p":"`)
	minSize  = padAt + len(`"}`)
)

// payload is message i, of size bytes.
func payload(size, i int) []byte {
	b := make([]byte, 0, size)
	b = fmt.Appendf(b, `{"n":"%010d","t":"%019d","p":"`, i, 0)
	for len(b) < size-2 {
		b = append(b, 'a'+byte((len(b)*7+i)%26))
	}
	return append(b, `"}`...)
}

// frame encodes an unmasked text frame, as a server sends it.
func frame(payload []byte) []byte {
	f := []byte{0x81}
	switch n := len(payload); {
	case n < 126:
		f = append(f, byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 127), uint64(n))
	}
	return append(f, payload...)
}

// ring is the sequence of messages that repeats itself: message i is i modulo its length.
type ring struct {
	payloads [][]byte
	frames   []byte // of all, one after the other
	size     int    // of one frame
}

// newRing has about 64 KiB of frames, which the server writes at once.
func newRing(size int) *ring {
	r := &ring{size: len(frame(payload(size, 0)))}
	for i := range max(4, (64<<10)/r.size) {
		p := payload(size, i)
		r.payloads = append(r.payloads, p)
		r.frames = append(r.frames, frame(p)...)
	}
	return r
}

func (r *ring) len() int { return len(r.payloads) }

// stamp writes the time into count frames.
func (r *ring) stamp(frames []byte, count int, now time.Time) {
	head := r.size - len(r.payloads[0])
	for i := range count {
		at := i*r.size + head + stampAt
		strconv.AppendInt(frames[at:at:at+stampLen], now.UnixNano(), 10) // 19 digits until the year 2286
	}
}

// stamped reads it back; 0: it is not there.
func stamped(msg []byte) int64 {
	if len(msg) < minSize {
		return 0
	}
	n, _ := strconv.ParseInt(string(msg[stampAt:stampAt+stampLen]), 10, 64)
	return n
}

// A consumer takes the messages of one connection, and those of the connections that follow it.
type consumer struct {
	n     int    // delivered so far
	goals []goal // ascending
	check *ring  // every message must be the next of these, byte for byte; nil: not looked at
	wrong int
	late  []int64 // nanoseconds each message took from the server's write; nil: not measured
	sum   byte    // so that each message is touched
	_     [64]byte
}

// goal is a number of messages that somebody waits for.
type goal struct {
	n    int
	done *sync.WaitGroup
}

func (c *consumer) message(msg []byte) {
	switch {
	case c.check != nil:
		if !bytes.Equal(msg, c.check.payloads[c.n%c.check.len()]) {
			c.wrong++
		}
	case c.late != nil:
		if len(c.late) < cap(c.late) {
			c.late = append(c.late, time.Now().UnixNano()-stamped(msg))
		}
	default:
		c.sum += msg[len(msg)-1]
	}
	c.n++
	if len(c.goals) > 0 && c.n == c.goals[0].n {
		c.goals[0].done.Done()
		c.goals = c.goals[1:]
	}
}
