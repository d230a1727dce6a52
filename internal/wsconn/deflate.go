package wsconn

import (
	"compress/flate"
	"io"
	"strconv"
	"strings"
	"sync"
)

// This file answers: what may a server answer to the offer of compression, and how is a compressed message read?

// What we offer and what may be answered (RFC 7692 §7.1). The client may always reset its own window, whatever the server
// says of it; whether the server does is the server's to say.
const (
	permessageDeflate = "permessage-deflate"
	serverResets      = "server_no_context_takeover"
	clientResets      = "client_no_context_takeover"
	serverWindow      = "server_max_window_bits"
)

// An Agreement is what a server's answer says of compression.
type Agreement struct {
	Deflate  bool   // messages may be compressed
	Takeover bool   // the server's go on where the last one ended: nothing here reads those
	Refused  string // what is wrong with the answer; empty: nothing
}

// Agreed reads the values of Sec-WebSocket-Extensions; offered: compression was.
func Agreed(values []string, offered bool) (a Agreement) {
	for _, line := range values {
		for ext := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(ext, ";")
			name = strings.TrimSpace(name)
			switch {
			case strings.TrimSpace(ext) == "":
				continue
			case !offered || !strings.EqualFold(name, permessageDeflate):
				return Agreement{Refused: "it chose an extension that was not offered"}
			case a.Deflate:
				return Agreement{Refused: "it chose an extension twice"}
			}
			seen, ok := parameters(params)
			if !ok {
				return Agreement{Refused: "it chose an extension that was not offered"}
			}
			a.Deflate, a.Takeover = true, !seen[serverResets]
		}
	}
	return a
}

// parameters of permessage-deflate; ok: each is one that was offered, or that a server may add, once, with a value of its kind.
func parameters(list string) (seen map[string]bool, ok bool) {
	seen = map[string]bool{}
	for param := range strings.SplitSeq(list, ";") {
		name, value, valued := strings.Cut(param, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case name == "" && !valued:
			continue
		case seen[name]:
			return nil, false
		case name == serverResets && !valued, name == clientResets && !valued, name == serverWindow && windowBits(value):
			seen[name] = true
		default:
			return nil, false
		}
	}
	return seen, true
}

// windowBits accepts 8 to 15, as a token or a quoted one.
func windowBits(value string) bool {
	if n := len(value); n > 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	n, err := strconv.Atoi(value)
	return err == nil && n >= 8 && n <= 15 && value == strconv.Itoa(n)
}

// completed is value for a library that compresses only where the server repeats both hints of the offer.
func completed(value string) string {
	if a := Agreed([]string{value}, true); !a.Deflate || a.Takeover {
		return value
	}
	return permessageDeflate + "; " + serverResets + "; " + clientResets
}

// inflaters are shared by all connections: one is held during a compressed message only.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// tail ends the deflate stream of a message: the four bytes that are not sent (RFC 7692 §7.2.2), and an empty last block.
const tail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// inflater reads one compressed message.
type inflater struct {
	c    *Conn
	tail strings.Reader
	fr   io.ReadCloser
}

func (c *Conn) inflate() *inflater {
	in := &inflater{c: c, fr: inflaters.Get().(io.ReadCloser)}
	in.tail.Reset(tail)
	in.fr.(flate.Resetter).Reset(payloadOf{in}, nil)
	return in
}

func (in *inflater) close() {
	in.fr.(flate.Resetter).Reset(nil, nil) // or the pool would keep the connection
	inflaters.Put(in.fr)
}

// payloadOf is the message's bytes as they come, and the tail.
type payloadOf struct{ in *inflater }

func (r payloadOf) Read(p []byte) (int, error) {
	n, err := r.in.c.payload(p)
	if n > 0 || err != io.EOF {
		return n, err
	}
	return r.in.tail.Read(p)
}
