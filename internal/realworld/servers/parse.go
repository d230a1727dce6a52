package servers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// This file answers: which protocol lines are in the frames of one connection?

// maxLine and maxPayload bound what is kept of something that never ends, bytes.
const (
	maxLine    = 64 << 10
	maxPayload = 64 << 20
)

// A Msg is one message of NATS.
type Msg struct {
	Subject string // it was published to
	SID     string // the subscription it came for
	Payload []byte
}

// Number is what the payload begins with: here publishers number the messages of each subject, from 1. 0: it has none.
func (m Msg) Number() int {
	digits, _, _ := bytes.Cut(m.Payload, []byte(" "))
	number, err := strconv.Atoi(string(digits))
	if err != nil {
		return 0
	}
	return number
}

// frame is what one WebSocket message completes.
type frame struct {
	msgs         []Msg
	pings, pongs int
	info         *info    // the last INFO; nil: none
	errs         []string // of -ERR

	answered []question // requests of ours that its PONGs answer
}

// info is what we want to know of an INFO.
type info struct {
	LameDuck bool `json:"ldm"` // the server will go away soon
}

// parser cuts the bytes of one connection into protocol lines and payloads. To NATS a frame is no more than a piece of a
// stream: one may hold many lines, and a line or a payload may go on in the next.
type parser struct {
	rest []byte // of what was fed: it is not complete yet
}

// feed takes the next frame's bytes, which it keeps.
func (p *parser) feed(data []byte) (*frame, error) {
	buf, f := data, &frame{}
	if len(p.rest) > 0 {
		buf = append(p.rest, data...)
	}
	all := len(buf)
	for len(buf) > 0 {
		n, err := f.take(buf)
		if err != nil {
			return f, err
		}
		if n == 0 {
			break
		}
		buf = buf[n:]
	}
	if len(buf) < all {
		buf = bytes.Clone(buf) // payloads were handed out of what lies before it
	}
	p.rest = buf
	return f, nil
}

// take takes one line, with its payload, and returns its length; 0: it is not complete.
func (f *frame) take(buf []byte) (n int, err error) {
	line, _, whole := bytes.Cut(buf, []byte("\r\n"))
	switch {
	case whole:
	case len(buf) > maxLine:
		return 0, errors.New("nats: endless line")
	default:
		return 0, nil
	}
	n = len(line) + 2
	op, args, _ := strings.Cut(string(line), " ")
	switch op {
	case "MSG":
		return f.msg(args, buf, n)
	case "PING":
		f.pings++
	case "PONG":
		f.pongs++
	case "INFO":
		f.info = &info{}
		err = json.Unmarshal([]byte(args), f.info)
	case "-ERR":
		f.errs = append(f.errs, strings.Trim(args, " '"))
	case "+OK":
	default:
		err = fmt.Errorf("nats: unknown operation %.20q", op)
	}
	return n, err
}

// msg takes a message: args are "subject sid [reply-to] size", its payload begins at buf[n].
func (f *frame) msg(args string, buf []byte, n int) (int, error) {
	word := strings.Fields(args)
	if len(word) < 3 || len(word) > 4 {
		return 0, fmt.Errorf("nats: MSG with %d arguments", len(word))
	}
	size, err := strconv.Atoi(word[len(word)-1])
	if err != nil || size < 0 || size > maxPayload {
		return 0, fmt.Errorf("nats: MSG of size %.20q", word[len(word)-1])
	}
	end := n + size
	if len(buf) < end+2 {
		return 0, nil
	}
	if string(buf[end:end+2]) != "\r\n" {
		return 0, errors.New("nats: MSG longer than it said")
	}
	f.msgs = append(f.msgs, Msg{Subject: word[0], SID: word[1], Payload: buf[n:end:end]})
	return end + 2, nil
}
