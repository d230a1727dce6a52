package feed

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseTick(t *testing.T) {
	msg := appendTick(nil, "t0001", 123, 1700000000000000007)
	tick, ok := ParseTick(msg)
	if !ok || string(tick.Topic) != "t0001" || tick.N != 123 || tick.TS != 1700000000000000007 {
		t.Fatalf("ParseTick(%s) = %+v, %v", msg, tick, ok)
	}
	if got := tick.Time().UnixNano(); got != tick.TS {
		t.Errorf("Time is %d, want %d", got, tick.TS)
	}
	var std struct {
		Topic string
		N     uint64
		TS    int64
	}
	if err := json.Unmarshal(msg, &std); err != nil || std.Topic != "t0001" || std.N != 123 || std.TS != tick.TS {
		t.Errorf("encoding/json reads %+v, %v", std, err)
	}
	if allocs := testing.AllocsPerRun(100, func() { ParseTick(msg) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	for i := range msg {
		if _, ok := ParseTick(msg[:i]); ok {
			t.Errorf("cut to %q it still parses", msg[:i])
		}
	}
	for _, bad := range []string{
		"", `{"ack":7}`, `{"topic":"a","n":x,"ts":1}`, `{"topic":"a","n":1,"ts":-1}`, `{"topic":"a","n":1,"ts":1}}`,
		`{"topic":"a","n":1,"t":1}`, `{"topic":"a","m":1,"ts":1}`, `{"topic":"a","n":99999999999999999999,"ts":1}`,
	} {
		if tick, ok := ParseTick([]byte(bad)); ok {
			t.Errorf("%q parses as %+v", bad, tick)
		}
	}
}

func TestParseReply(t *testing.T) {
	for in, want := range map[string]Reply{
		`{"ack":7}`:       {Ack: 7},
		`{"error":"bad"}`: {Error: "bad"},
	} {
		if got, ok := ParseReply([]byte(in)); !ok || got != want {
			t.Errorf("ParseReply(%s) = %+v, %v", in, got, ok)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"topic":"a","n":1,"ts":1}`} {
		if got, ok := ParseReply([]byte(bad)); ok {
			t.Errorf("ParseReply(%s) = %+v", bad, got)
		}
	}
}

func TestRequestEncode(t *testing.T) {
	got := string(Request{Op: Subscribe, ID: 7, Topics: []string{"a", "b"}}.Encode())
	if want := `{"op":"subscribe","id":7,"topics":["a","b"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAppendFrame(t *testing.T) {
	for n, head := range map[int]string{
		0:       "\x81\x00",
		125:     "\x81\x7d",
		126:     "\x81\x7e\x00\x7e",
		1 << 16: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
	} {
		got := string(appendFrame(nil, 1, make([]byte, n)))
		if !strings.HasPrefix(got, head) || len(got) != len(head)+n {
			t.Errorf("%d bytes: frame of %d bytes begins with %q, want %q", n, len(got), got[:len(head)], head)
		}
	}
}
