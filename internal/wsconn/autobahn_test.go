package wsconn

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how does a connection that echoes do in Autobahn's cases? Their numbers are those of the suite's fuzzing
// server (crossbario/autobahn-testsuite), which plays the peer of a client that sends back each message that it reads.

// play is one case: what the peer sends, which messages, pongs and close code must come back, in this order. Payloads over 40
// bytes are compared by length.
type play struct {
	no     string
	say    string
	pieces int      // sends so many bytes at a time; 0: all at once
	want   []string // "t…", "b…", "pong …"; the last may be "close …"
}

// echo reads until it cannot, and answers as a session does.
func echo(c *Conn, pongs *[]string) error {
	for {
		text, data, err := c.Read()
		for _, p := range *pongs {
			c.Pong(p)
		}
		*pongs = nil
		var v *Violation
		var cl *Closed
		switch {
		case errors.As(err, &v):
			c.SendClose(v.Code, time.Second)
			return err
		case errors.As(err, &cl):
			c.SendClose(cl.Code, time.Second)
			return err
		case err != nil:
			return err
		}
		c.Write(text, data)
	}
}

func brief(s string) string {
	if len(s) > 40 {
		return fmt.Sprint(len(s), " bytes")
	}
	return s
}

func (p play) run(t *testing.T, deflate bool) {
	t.Helper()
	var pings []string
	opt := Options{ReadLimit: 64 << 20, CheckUTF8: true, OnPing: func(s string) { pings = append(pings, s) }}
	opened(t, opt, deflate, func(t *testing.T, c *Conn, srv *wstest.Conn) {
		var got []string
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			ws := websocketServer(srv)
			ws.SetPongHandler(func(s string) error { got = append(got, "pong "+brief(s)); return nil })
			for {
				kind, data, err := ws.ReadMessage()
				var ce *websocket.CloseError
				if errors.As(err, &ce) {
					got = append(got, fmt.Sprint("close ", ce.Code))
				}
				if err != nil {
					return
				}
				got = append(got, map[int]string{1: "t", 2: "b"}[kind]+brief(string(data)))
			}
		}()
		go func() {
			for s := p.say; s != ""; {
				n := len(s)
				if p.pieces > 0 {
					n = min(n, p.pieces)
				}
				io.WriteString(srv, s[:n])
				s = s[n:]
			}
		}()
		echoed := make(chan struct{})
		go func() { defer close(echoed); echo(c, &pings) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		srv.Close()
		c.Kill()
		<-heard
		<-echoed
		if fmt.Sprint(got) != fmt.Sprint(p.want) {
			t.Errorf("answered %.500q, want %.500q", got, p.want)
		}
	})
}

// closing is a close frame with a code.
func closing(code int, reason string) string {
	return raw(0x88, string([]byte{byte(code >> 8), byte(code)})+reason)
}

// split is a message in fragments of n bytes.
func split(op byte, payload string, n int) (frames string) {
	for first := op; ; first = 0 {
		if len(payload) <= n {
			return frames + raw(first|0x80, payload)
		}
		frames += raw(first, payload[:n])
		payload = payload[n:]
	}
}

func autobahn() (plays []play) {
	add := func(no, say string, want ...string) { plays = append(plays, play{no: no, say: say, want: want}) }
	slowly := func(no, say string, pieces int, want ...string) { plays = append(plays, play{no, say, pieces, want}) }
	bye, byeHeard := closing(1000, ""), "close 1000"
	t := func(s string) string { return "t" + brief(s) }
	b := func(s string) string { return "b" + brief(s) }
	const broken = "close 1002"

	// 1: framing.
	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		text, bin := strings.Repeat("*", n), strings.Repeat("\xfe", n)
		add(fmt.Sprint("1.1.", i+1), raw(0x81, text)+bye, t(text), byeHeard)
		add(fmt.Sprint("1.2.", i+1), raw(0x82, bin)+bye, b(bin), byeHeard)
	}
	slowly("1.1.8", raw(0x81, strings.Repeat("*", 65536))+bye, 997, t(strings.Repeat("*", 65536)), byeHeard)
	slowly("1.2.8", raw(0x82, strings.Repeat("\xfe", 65536))+bye, 997, b(strings.Repeat("\xfe", 65536)), byeHeard)
	// 2: pings and pongs.
	for i, payload := range []string{"", "Hello, world!", "\x00\xff\xfe\xfd\xfc\xfb\x00\xff", strings.Repeat("\xfe", 125)} {
		add(fmt.Sprint("2.", i+1), raw(0x89, payload)+bye, "pong "+brief(payload), byeHeard)
	}
	add("2.5", raw(0x89, strings.Repeat("\xfe", 126)), broken)
	slowly("2.6", raw(0x89, strings.Repeat("\xfe", 125))+bye, 1, "pong 125 bytes", byeHeard)
	add("2.7", raw(0x8a, "")+bye, byeHeard)
	add("2.8", raw(0x8a, "unsolicited pong payload")+bye, byeHeard)
	add("2.9", raw(0x8a, "unsolicited pong payload")+raw(0x89, "ping payload")+bye, "pong ping payload", byeHeard)
	var ten string
	var pongs []string
	for i := range 10 {
		ten += raw(0x89, fmt.Sprint("payload-", i))
		pongs = append(pongs, fmt.Sprint("pong payload-", i))
	}
	add("2.10", ten+bye, append(pongs, byeHeard)...)
	slowly("2.11", ten+bye, 1, append(pongs, byeHeard)...)
	// 3: reserved bits.
	hello := raw(0x81, "Hello, world!")
	add("3.1", raw(0x91, "Hello"), broken)
	add("3.2", hello+raw(0xa1, "Hello")+raw(0x89, ""), t("Hello, world!"), broken)
	add("3.3", hello+raw(0xb1, "Hello")+raw(0x89, ""), t("Hello, world!"), broken)
	slowly("3.4", hello+raw(0x91, "Hello")+raw(0x89, ""), 1, t("Hello, world!"), broken)
	add("3.5", raw(0xd2, strings.Repeat("\xff", 8)), broken)
	add("3.6", raw(0xe9, "Hello"), broken)
	add("3.7", raw(0xf8, ""), broken)
	// 4: reserved opcodes.
	for i, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		no := fmt.Sprintf("4.%d.%d", 1+i/5, 1+i%5)
		if add(no, raw(0x80|op, "")+raw(0x89, ""), broken); i%5 > 1 {
			add(no+", after a message", hello+raw(0x80|op, "reserved")+raw(0x89, ""), t("Hello, world!"), broken)
		}
	}
	// 5: fragments.
	f1, f2 := raw(0x01, "fragment1"), raw(0x80, "fragment2")
	both := t("fragment1fragment2")
	add("5.1", raw(0x09, "fragment1")+f2, broken)
	add("5.2", raw(0x0a, "fragment1")+f2, broken)
	add("5.3", f1+f2+bye, both, byeHeard)
	slowly("5.4", f1+f2+bye, 9, both, byeHeard)
	slowly("5.5", f1+f2+bye, 1, both, byeHeard)
	for i, pieces := range []int{0, 9, 1} {
		slowly(fmt.Sprint("5.", 6+i), f1+raw(0x89, "ping payload")+f2+bye, pieces, "pong ping payload", both, byeHeard)
		slowly(fmt.Sprint("5.", 9+i), raw(0x80, "non-continuation payload")+hello, pieces, broken)
		slowly(fmt.Sprint("5.", 12+i), raw(0x00, "non-continuation payload")+hello, pieces, broken)
	}
	add("5.15", f1+f2+raw(0x00, "fragment3")+raw(0x81, "fragment4"), both, broken)
	add("5.16", raw(0x00, "fragment1")+raw(0x01, "fragment2")+raw(0x80, "fragment3"), broken)
	add("5.17", raw(0x80, "fragment1")+raw(0x01, "fragment2")+raw(0x80, "fragment3"), broken)
	add("5.18", f1+raw(0x81, "fragment2"), broken)
	five := raw(0x01, "fragment1") + raw(0x00, "fragment2") + raw(0x89, "pongme 1!") + raw(0x00, "fragment3") + raw(0x00, "fragment4") + raw(0x89, "pongme 2!") + raw(0x80, "fragment5") + bye
	for i, pieces := range []int{0, 1} {
		slowly(fmt.Sprint("5.", 19+i), five, pieces, "pong pongme 1!", "pong pongme 2!", t("fragment1fragment2fragment3fragment4fragment5"), byeHeard)
	}
	// 6: UTF-8. All but 6.4 (which is about how early) in one text, in fragments, and byte by byte.
	valid := []string{"", "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\u0080", "\u0800", "\U00010000", "\x7f", "\u07ff", "\uffff", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\U0001fffe", "\U0010fffe\U0010ffff"}
	for i, s := range valid {
		add(fmt.Sprint("6.2, 6.5 to 6.9, 6.22, 6.23: ", i), raw(0x81, s)+bye, t(s), byeHeard)
		add(fmt.Sprint("6.2.2 to 6.2.4: ", i), split(1, s, 1)+bye, t(s), byeHeard)
	}
	add("6.1.2", raw(1, "")+raw(0, "")+raw(0x80, "")+bye, t(""), byeHeard)
	add("6.1.3", raw(1, "")+raw(0, "middle frame payload")+raw(0x80, "")+bye, t("middle frame payload"), byeHeard)
	invalid := []string{
		"κόσμε\xed\xa0\x80edited", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf",
		"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\xc0 \xc1 \xc2 ", "\xe0 \xe1 ", "\xf0 \xf7 ", "\xf8 \xfb ", "\xfc \xfd ", "\xc0", "\xe0\x80", "\xf0\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf",
		"\xfe", "\xff", "\xfe\xfe\xff\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc0\x80", "\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80",
	}
	for i, s := range invalid {
		add(fmt.Sprint("6.3, 6.10 to 6.21: ", i), raw(0x81, s)+bye, "close 1007")
		add(fmt.Sprint("6.3.2, 6.4: ", i), split(1, s, 1)+bye, "close 1007")
	}
	// 7: closing.
	add("7.1.1", hello+bye, t("Hello, world!"), byeHeard)
	add("7.1.2", bye+bye, byeHeard)
	add("7.1.3", bye+raw(0x89, ""), byeHeard)
	add("7.1.4", bye+hello, byeHeard)
	add("7.1.5", f1+bye+f2, byeHeard)
	long := strings.Repeat("*", 256<<10)
	add("7.1.6", raw(0x81, long)+hello+bye+raw(0x89, ""), t(long), t("Hello, world!"), byeHeard)
	add("7.3.1", raw(0x88, ""), byeHeard) // 1005 is answered by 1000
	add("7.3.2", raw(0x88, "a"), broken)
	add("7.3.3", closing(1000, ""), byeHeard)
	add("7.3.4", closing(1000, "Hello World!"), byeHeard)
	add("7.3.5", closing(1000, strings.Repeat("*", 123)), byeHeard)
	add("7.3.6", closing(1000, strings.Repeat("*", 124)), broken)
	add("7.5.1", closing(1000, invalid[0]), broken)
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		add(fmt.Sprint("7.7: ", code), closing(code, ""), fmt.Sprint("close ", code))
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(fmt.Sprint("7.9, 7.13: ", code), closing(code, ""), broken)
	}
	// 9: limits. 10: fragments that fit no buffer.
	for i, n := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		text := strings.Repeat("*", n)
		add(fmt.Sprint("9.1.", i+1), raw(0x81, text)+bye, t(text), byeHeard)
		add(fmt.Sprint("9.2.", i+1), raw(0x82, text)+bye, b(text), byeHeard)
	}
	for i, n := range []int{256, 1 << 10, 4 << 10, 64 << 10, 1 << 20} {
		text := strings.Repeat("*", 1<<18)
		add(fmt.Sprint("9.3.", i+1), split(1, text, n)+bye, t(text), byeHeard)
		add(fmt.Sprint("9.4.", i+1), split(2, text, n)+bye, b(text), byeHeard)
	}
	for i, n := range []int{1 << 10, 4 << 10, 64 << 10} {
		text := strings.Repeat("*", 64<<10)
		slowly(fmt.Sprint("9.5.", i+1), raw(0x81, text)+bye, n, t(text), byeHeard)
		slowly(fmt.Sprint("9.6.", i+1), raw(0x82, text)+bye, n, b(text), byeHeard)
	}
	for i, n := range []int{0, 16, 64, 256, 1 << 10, 4 << 10} {
		text := strings.Repeat("*", n)
		want := append(repeated(t(text), 50), byeHeard)
		add(fmt.Sprint("9.7.", i+1), strings.Repeat(raw(0x81, text), 50)+bye, want...)
		want = append(repeated(b(text), 50), byeHeard)
		add(fmt.Sprint("9.8.", i+1), strings.Repeat(raw(0x82, text), 50)+bye, want...)
	}
	add("10.1.1", split(1, strings.Repeat("*", 65536), 1300)+bye, t(strings.Repeat("*", 65536)), byeHeard)
	return plays
}

func repeated(s string, n int) (all []string) {
	for range n {
		all = append(all, s)
	}
	return all
}

func TestAutobahn(t *testing.T) {
	for _, p := range autobahn() {
		t.Run(p.no, func(t *testing.T) { p.run(t, false) })
	}
}

// 12: messages of many sizes, compressed each by itself; and what RFC 7692 forbids besides.
func TestAutobahnCompressed(t *testing.T) {
	bye := closing(1000, "")
	for i, n := range []int{16, 64, 256, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10} {
		for kind, text := range map[byte]string{1: strings.Repeat(`{"key":"a value"},`, n/18+1)[:n], 2: noise(n)} {
			packed := deflated(text)
			name := map[byte]string{1: "t", 2: "b"}[kind] + brief(text)
			for j, size := range []int{len(packed), 1 + len(packed)/3, 1 + len(packed)/50} {
				frames := split(kind, packed, max(1, size))
				frames = string([]byte{frames[0] | 0x40}) + frames[1:]
				play{no: fmt.Sprintf("12.%d.%d", j+1, i+1), say: strings.Repeat(frames, 5) + bye, want: append(repeated(name, 5), "close 1000")}.runNamed(t, true)
			}
		}
	}
	play{no: "plain between compressed", say: raw(0x81, "plain") + raw(0xc1, deflated("packed")) + raw(0xc1, deflated("")) + bye, want: []string{"tplain", "tpacked", "t", "close 1000"}}.runNamed(t, true)
	play{no: "RSV1 in a continuation", say: raw(0x41, deflated("ab")[:1]) + raw(0xc0, deflated("ab")[1:]), want: []string{"close 1002"}}.runNamed(t, true)
	play{no: "RSV1 on a ping", say: raw(0xc9, "x"), want: []string{"close 1002"}}.runNamed(t, true)
	play{no: "RSV1 on a close frame", say: raw(0xc8, ""), want: []string{"close 1002"}}.runNamed(t, true)
	play{no: "text that is not UTF-8", say: raw(0xc1, deflated("\xff")), want: []string{"close 1007"}}.runNamed(t, true)
}

func (p play) runNamed(t *testing.T, deflate bool) {
	t.Run(p.no, func(t *testing.T) { p.run(t, deflate) })
}

// noise is what cannot be compressed.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}
