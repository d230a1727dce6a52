package servers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does the handler understand lines, however they are framed, and what does it make of them?

const stream = "PONG\r\n+OK\r\nMSG a.b a.* 5\r\n1 x\r\n\r\nPING\r\nMSG c c reply.to 0\r\n\r\nINFO {\"ldm\":true}\r\n-ERR 'Slow'\r\nMSG d d 3\r\n2 y\r\n"

// said lists all that frames have completed, in one line.
func said(frames ...*frame) string {
	var b strings.Builder
	for _, f := range frames {
		for _, m := range f.msgs {
			fmt.Fprintf(&b, "%s/%s=%q ", m.Subject, m.SID, m.Payload)
		}
	}
	pings, pongs, errs, lame := 0, 0, []string(nil), false
	for _, f := range frames {
		pings, pongs, errs = pings+f.pings, pongs+f.pongs, append(errs, f.errs...)
		lame = lame || f.info != nil && f.info.LameDuck
	}
	fmt.Fprintf(&b, "%d %d %q %v", pings, pongs, errs, lame)
	return b.String()
}

const wantSaid = `a.b/a.*="1 x\r\n" c/c="" d/d="2 y" 1 1 ["Slow"] true`

// Every way to cut the stream into three frames says the same.
func TestLinesGoOnInTheNextFrame(t *testing.T) {
	for i := range len(stream) + 1 {
		for j := i; j <= len(stream); j++ {
			var p parser
			var frames []*frame
			for _, part := range []string{stream[:i], stream[i:j], stream[j:]} {
				f, err := p.feed([]byte(part))
				if err != nil {
					t.Fatalf("cut at %d and %d: %v", i, j, err)
				}
				frames = append(frames, f)
			}
			if got := said(frames...); got != wantSaid || len(p.rest) != 0 {
				t.Fatalf("cut at %d and %d: %s, rest %q, want %s", i, j, got, p.rest, wantSaid)
			}
		}
	}
}

// A payload that was handed out stays as it was when the next frames come.
func TestPayloadsAreNotOverwritten(t *testing.T) {
	var p parser
	first, _ := p.feed([]byte("MSG a a 3\r\n1 x\r\nMSG b b 3\r\n"))
	second, _ := p.feed([]byte("2 y\r\nMSG"))
	third, _ := p.feed([]byte(" c c 3\r\n3 z\r\n"))
	if got, want := said(first, second, third), `a/a="1 x" b/b="2 y" c/c="3 z" 0 0 [] false`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for _, in := range []string{
		"HELLO\r\n", "\r\n", "MSG a a\r\n", "MSG a a b c d\r\n", "MSG a a -1\r\n", "MSG a a 1x\r\n", "MSG a a 99999999999\r\n",
		"MSG a a 1\r\n123\r\n", "INFO {\r\n", strings.Repeat("x", maxLine+1),
	} {
		var p parser
		if f, err := p.feed([]byte(in)); err == nil {
			t.Errorf("%.40q was taken for %s", in, said(f))
		}
	}
}

// asker is a Subscriber with one connection and some requests that are written.
func asker(t *testing.T, requests ...[]string) *Subscriber {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.conns[connID{}] = &conn{}
	for i, subjects := range requests {
		if subjects == nil {
			s.PingMessage(wsshard.ConnectionState{})
			continue
		}
		if _, err := s.SubscriptionMessage(wsshard.Request[string]{ID: uint64(i + 1), Subs: subjects}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *Subscriber) hears(lines string) (wsshard.Verdict[string], wsshard.Ack[string], bool) {
	v := s.Inspect(wsshard.Text(lines), wsshard.ConnectionState{})
	ack, ok := s.Acknowledge(wsshard.Message{Value: v.Value}, wsshard.ConnectionState{})
	return v, ack, ok
}

func TestPongsAnswerTheOldestPing(t *testing.T) {
	const violation = "-ERR 'Permissions Violation for Subscription to \"b\"'\r\n"
	ab, c, bd := []string{"a", "b"}, []string{"c"}, []string{"b", "d"}
	for _, test := range []struct {
		name     string
		requests [][]string // nil: a heartbeat
		lines    []string
		want     string // of the last line
	}{
		{"one request", [][]string{ab}, []string{"PONG\r\n"}, "1 [] [] heartbeat=false"},
		{"the second", [][]string{ab, c}, []string{"PONG\r\n", "PONG\r\n"}, "2 [] [] heartbeat=false"},
		{"a heartbeat", [][]string{nil, ab}, []string{"PONG\r\n"}, "none heartbeat=true"},
		{"behind a heartbeat", [][]string{nil, ab}, []string{"PONG\r\nPONG\r\n"}, "2 [] [] heartbeat=false"},
		{"both at once", [][]string{ab, c}, []string{"PONG\r\nPONG\r\n"}, "0 [a b c] [] heartbeat=false"},
		{"asked again meanwhile", [][]string{ab, c, bd}, []string{"PONG\r\nPONG\r\n"}, "0 [a c] [] heartbeat=false"},
		{"refused", [][]string{ab}, []string{violation}, "0 [] [b] heartbeat=false"},
		{"refused, and the rest", [][]string{ab}, []string{violation, "PONG\r\n"}, "1 [] [] heartbeat=false"},
		{"refused in one frame", [][]string{ab, c}, []string{violation + "PONG\r\n"}, "0 [a] [b] heartbeat=false"},
		{"refused, two answered", [][]string{ab, c}, []string{violation, "PONG\r\nPONG\r\n"}, "0 [a c] [] heartbeat=false"},
		{"not asked", nil, []string{"PONG\r\n"}, "none heartbeat=true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := asker(t, test.requests...)
			var got string
			for _, lines := range test.lines {
				v, ack, ok := s.hears(lines)
				got = fmt.Sprint("none heartbeat=", v.Heartbeat)
				if ok {
					got = fmt.Sprint(ack.Request, " ", ack.Confirmed, " ", ack.Rejected, " heartbeat=", v.Heartbeat)
				}
				if (len(ack.Rejected) > 0) != (ack.Err != nil) {
					t.Errorf("rejected %v with error %v", ack.Rejected, ack.Err)
				}
			}
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		lines, want string // reply, switchover, key, subjects, no data
	}{
		{"PING\r\nPING\r\n", `"PONG\r\nPONG\r\n" false "" [] true`},
		{"INFO {\"ldm\":true}\r\n", `"" true "" [] true`},
		{"INFO {}\r\n", `"" false "" [] true`},
		{"MSG a.b a.* 4\r\n17 x\r\n", `"" false "a.* a.b 17" [a.*] false`},
		{"MSG a a 1\r\nx\r\n", `"" false "" [a] false`},
		{"PING\r\nMSG a a 4\r\n17 x\r\n", `"PONG\r\n" false "a 17" [a] false`},
		{"MSG a a 3\r\n1 x\r\nMSG b b 3\r\n1 x\r\n", `"" false "" [a b] false`},
		{"MSG a a 300\r\n1 x", `"" false "" [] false`},
	} {
		v, _, _ := asker(t).hears(test.lines)
		if got := fmt.Sprintf("%q %v %q %v %v", v.Reply.Data, v.Switchover, v.Key, v.Subs, v.NoData); got != test.want {
			t.Errorf("%q: %s, want %s", test.lines, got, test.want)
		}
	}
}

func TestWhatIsNoSubjectIsNotAsked(t *testing.T) {
	s := asker(t)
	for _, subject := range []string{"", "a b", "a.", ".a", "a..b", "a\r\nPUB x 0", "a\tb"} {
		if msg, err := s.SubscriptionMessage(wsshard.Request[string]{ID: 1, Subs: []string{"good", subject}}); err == nil {
			t.Errorf("%q became %q", subject, msg)
		}
	}
	if asked := s.conn(wsshard.ConnectionState{}).asked; len(asked) > 0 {
		t.Errorf("%v is asked", asked)
	}
}
