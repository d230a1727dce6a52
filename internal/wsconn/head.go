package wsconn

import (
	"bytes"
	"errors"
	"strings"
)

// This file answers: what of the peer's answer to the handshake is handed to the library that parses it?

// ErrHead says that the peer's answer to the handshake went on past the budget that Tap was given for it.
var ErrHead = errors.New("the response head is longer than allowed")

// headLine is what a line of a head costs beside its bytes: a short one takes so much more memory than it has bytes.
const headLine = 64

// HeadCost is what bytes of a head cost those who parse it.
func HeadCost(p []byte) int { return len(p) + headLine*bytes.Count(p, []byte("\n")) }

// The parts of an answer, in the order in which they come. Interim answers (100 to 199, less 101) may come any number of times
// before the one that counts.
type headPart int

const (
	statusLine headPart = iota
	interim             // fields of an interim answer: nobody sees them
	fields
	body // of an answer that is no upgrade, or of something that is not HTTP
	over // the upgrade's head has ended: what follows are frames
)

// head hands an answer out line by line, as it comes. The library would take an interim answer for the one that counts, take
// frames into a buffer of its own that came with the head, and refuse a server that leaves the client's own compression to
// the client. So the first are left out, the second stay here, and the third's answer is completed.
type head struct {
	left       int // what it may still cost
	part       headPart
	upgrade    bool // the status is 101
	raw        []byte
	out        []byte   // to be handed out
	err        error    // what comes after out
	extensions []string // as the server sent them
}

// readHead reads while the handshake is not over.
func (t *Tap) readHead(p []byte) (n int, err error) {
	h := t.head
	if h.part == over && len(h.out) == 0 { // nobody who understands the head asks for more
		h.part = body
		h.split()
	}
	for len(h.out) == 0 && h.err == nil {
		if h.left == 0 {
			h.end(ErrHead)
			continue
		}
		var buf [2048]byte
		n, err := t.Conn.Read(buf[:min(len(buf), h.left)])
		h.take(buf[:n])
		if err != nil {
			h.end(err)
		}
	}
	if n = copy(p, h.out); n == 0 {
		t.failed = h.err
		return 0, h.err
	}
	h.out, t.failed = h.out[n:], nil
	return n, nil
}

// take adds what was read.
func (h *head) take(p []byte) {
	h.left = max(0, h.left-HeadCost(p))
	h.raw = append(h.raw, p...)
	h.split()
}

// end hands out the line that has begun: it has no end.
func (h *head) end(err error) {
	h.err = err
	if h.part != interim && h.part != over {
		h.out, h.raw = append(h.out, h.raw...), nil
	}
}

// split takes the complete lines.
func (h *head) split() {
	for h.part < body {
		i := bytes.IndexByte(h.raw, '\n')
		if i < 0 {
			return
		}
		h.line(h.raw[:i+1])
		h.raw = h.raw[i+1:]
	}
	if h.part == body {
		h.out, h.raw = append(h.out, h.raw...), nil
	}
}

func (h *head) line(line []byte) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	switch {
	case h.part == statusLine && isInterim(text):
		h.part = interim
		return
	case h.part == statusLine && !strings.HasPrefix(text, "HTTP/"):
		h.part = body
	case h.part == statusLine:
		h.part, h.upgrade = fields, status(text) == "101"
	case h.part == interim && text == "":
		h.part = statusLine
		return
	case h.part == interim:
		return
	case text == "" && h.upgrade:
		h.part = over
	case text == "":
		h.part = body
	default:
		line = h.field(line, text)
	}
	h.out = append(h.out, line...)
}

// field notes the extensions, and completes them.
func (h *head) field(line []byte, text string) []byte {
	name, value, ok := strings.Cut(text, ":")
	if !ok || !strings.EqualFold(name, "Sec-WebSocket-Extensions") {
		return line
	}
	h.extensions = append(h.extensions, strings.TrimSpace(value))
	return []byte(name + ": " + completed(value) + "\r\n")
}

// status is the three digits of a status line; empty: it has none.
func status(text string) string {
	_, rest, _ := strings.Cut(text, " ")
	code, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	return code
}

func isInterim(text string) bool {
	code := status(text)
	return strings.HasPrefix(text, "HTTP/1.1 ") && len(code) == 3 && code[0] == '1' && code != "101" && strings.Trim(code, "0123456789") == ""
}
