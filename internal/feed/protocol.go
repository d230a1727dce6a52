package feed

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: what goes over the wire?

// The operations of a Request.
const (
	Subscribe   = "subscribe"
	Unsubscribe = "unsubscribe"
)

// Request is what a client sends; it is answered by a Reply.
type Request struct {
	Op     string   `json:"op"`
	ID     uint64   `json:"id"` // from 1
	Topics []string `json:"topics"`
}

// Encode gives the message to send.
func (r Request) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}

// Reply answers a Request: Ack is its ID, or Error says why the server closes the connection.
type Reply struct {
	Ack   uint64 `json:"ack,omitempty"`
	Error string `json:"error,omitempty"`
}

// ParseReply reads a Reply; false: data is something else, which costs nothing to see if it is a Tick.
func ParseReply(data []byte) (Reply, bool) {
	var r Reply
	if bytes.HasPrefix(data, []byte(tickHead)) {
		return r, false
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Reply{}, false
	}
	return r, r.Ack != 0 || r.Error != ""
}

// Tick is one data message, {"topic":"t0001","n":123,"ts":1700000000000000000}.
type Tick struct {
	Topic []byte // part of the message it was parsed from
	N     uint64 // of this topic, from 1
	TS    int64  // Unix time in nanoseconds when it was made
}

// Time is when the tick was made.
func (t Tick) Time() time.Time { return time.Unix(0, t.TS) }

// The parts of a Tick between its values.
const (
	tickHead = `{"topic":"`
	tickN    = `","n":`
	tickTS   = `,"ts":`
)

// ParseTick reads a Tick in exactly the shape the server writes, without allocating; false: data is something else.
func ParseTick(data []byte) (Tick, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(tickHead))
	if !ok {
		return Tick{}, false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return Tick{}, false
	}
	t := Tick{Topic: rest[:end]}
	if rest, ok = bytes.CutPrefix(rest[end:], []byte(tickN)); !ok {
		return Tick{}, false
	}
	if t.N, rest, ok = cutNumber(rest); !ok {
		return Tick{}, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(tickTS)); !ok {
		return Tick{}, false
	}
	ts, rest, ok := cutNumber(rest)
	t.TS = int64(ts)
	return t, ok && string(rest) == "}"
}

func cutNumber(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && i < 19 && '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + uint64(b[i]-'0')
	}
	return n, b[i:], i > 0
}

func appendTick(dst []byte, topic string, n uint64, ts int64) []byte {
	dst = append(dst, tickHead...)
	dst = append(dst, topic...)
	dst = append(dst, tickN...)
	dst = strconv.AppendUint(dst, n, 10)
	dst = append(dst, tickTS...)
	dst = strconv.AppendInt(dst, ts, 10)
	return append(dst, '}')
}

// appendFrame appends a server's frame: final, unmasked. Frames are made here and not by gorilla so that a batch of
// them leaves in one write.
func appendFrame(dst []byte, opcode int, payload []byte) []byte {
	dst = append(dst, 0x80|byte(opcode))
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

func appendReply(dst []byte, r Reply) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return appendFrame(dst, websocket.TextMessage, b)
}

func appendClose(dst []byte, code int) []byte {
	return appendFrame(dst, websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
}

// validTopic: topics are written verbatim into JSON.
func validTopic(name string) bool {
	if name == "" || len(name) > 256 {
		return false
	}
	for i := range len(name) {
		if b := name[i]; b < 0x20 || b >= 0x7f || b == '"' || b == '\\' {
			return false
		}
	}
	return true
}
