package wsshard

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// This file answers: what do a proxy's answers cost, and are they read as they were meant, whatever they are?

// canned is a connection whose peer says data, whatever it is told, and then hangs up.
type canned struct {
	net.Conn // nil: nothing else may be called
	data     *bytes.Reader
}

func (c canned) Read(p []byte) (int, error)    { return c.data.Read(p) }
func (c canned) Write(p []byte) (int, error)   { return len(p), nil }
func (c canned) SetDeadline(t time.Time) error { return nil }
func (c canned) Close() error                  { return nil }

// wantModest checks an error that a proxy brought about: it names a step, is short, and echoes nothing.
func wantModest(t *testing.T, data []byte, step string, err error, steps ...string) {
	t.Helper()
	text := (&ProxyError{Proxy: "http://proxy:80", Step: step, Err: err}).Error()
	if !slices.Contains(steps, step) || len(text) > 300 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
		t.Errorf("step %q, error %q", step, text)
	}
	if bytes.Contains(data, []byte("cret")) && strings.Contains(text, "cret") {
		t.Errorf("the proxy's words are in %q", text)
	}
}

func FuzzConnectReply(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\nrest", "HTTP/0.0 000\n\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1 407 secret\r\n\r\n", "HTTP/1.1 401 \n\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204 x\r\n\r\n\x81\x00", "HTTP/1.1 299\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
		"secret", "HTTP/1.1 secret\r\n\r\n", "HTTP/1.1 200 OK\r\nsecret\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: secret\r\n\r\n",
		"HTTP/1.1 502\r\n\r\n", "HTTP/1.1 200 OK\r\nX: FILLER\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	user := url.UserPassword("alice", "secret")
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Replace(data, []byte("FILLER"), filler, 1) // so that what is tried stays short
		c := canned{data: bytes.NewReader(data)}
		through, step, status, err := httpConnect(c, "srv:443", user)
		if read := len(data) - c.data.Len(); read > maxHead {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil {
			wantModest(t, data, step, err, "auth", "connect")
			if (status == 401 || status == 407) != (step == "auth") {
				t.Errorf("step %s, status %d", step, status)
			}
			return
		}
		rest, _ := io.ReadAll(through)
		head, ok := bytes.CutSuffix(data, rest)
		if !ok || !bytes.HasSuffix(head, []byte("\n")) || !bytes.HasPrefix(head, []byte("HTTP/")) {
			t.Errorf("the tunnel begins with %q", rest)
		}
	})
}

func FuzzSocksReply(f *testing.F) {
	ok := "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	for _, s := range []string{
		"\x05\x00" + ok + "rest", "\x05\x02\x01\x00" + ok, "\x05\x02\x01\x01", "\x05\xff", "\x05\x01" + ok, "\x04\x00", "\x05",
		"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00\x05\x00\x00\x03\x06secret\x00\x50", "\x05\x00\x05\x00\x00\x04" + strings.Repeat("x", 18),
		"\x05\x02\x05\x00", "\x05\x00\x05\x00\x01\x01", "\x05\x00\x05\x00\x00\x09", "\x05\x00\x05\x00\x00\x03\xff", "HTTP/1.1 400 secret\r\n\r\n", "",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, login bool) {
		var user *url.Userinfo
		if login {
			user = url.UserPassword("alice", "secret")
		}
		c := canned{data: bytes.NewReader(data)}
		through, step, err := socks5(context.Background(), c, "srv:443", user)
		if err != nil {
			wantModest(t, data, step, err, "greeting", "auth", "connect")
			return
		}
		// What was read must be an agreement, to the byte: what follows is the server's.
		rest, _ := io.ReadAll(through)
		said, _ := bytes.CutSuffix(data, rest)
		if method := said[1]; method != 0 && !(login && method == 2) {
			t.Errorf("method %d was agreed upon", method)
		}
		answer := said[2:]
		if said[1] == 2 {
			answer = said[4:]
		}
		length := map[byte]int{1: 10, 4: 22}[answer[3]]
		if answer[3] == 3 {
			length = 7 + int(answer[4])
		}
		if said[0] != 5 || answer[0] != 5 || answer[1] != 0 || len(answer) != length {
			t.Errorf("connected by %q", said)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range []string{"0", "30", "-1", "99999999999999999999", " 7 ", "Thu, 01 Jan 2026 00:00:30 GMT", "Thursday, 01-Jan-26 00:00:30 GMT", "Thu Jan  1 00:00:30 2026", "soon", "1e9", "0x10", "1.5", ".", "1.5.5", "NaN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if d := parseRetryAfter(value, now, maxRetryAfter); d < 0 || d > maxRetryAfter {
			t.Errorf("%q means %v", value, d)
		}
	})
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{
		"wss://srv/ws/LISTENKEYx?token=SECRETx#SECRETx", "http://user:SECRETx@proxy:80", "socks5://SECRETx:SECRETx@h", "//SECRETx@h", "SECRETx:SECRETx@h:1",
		"http://u:1/SECRETx@h", "http://u:1#SECRETx@h", "http://u:1?SECRETx@h", "http://[::1]:80/SECRETx", "ws://h\r\nSECRETx", "%zzSECRETx", "http://u:SECRETx:80",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		for _, shown := range []string{redactURL(raw), redactRefused(raw)} {
			u, err := url.Parse(raw)
			if err == nil && strings.Contains(u.Host+u.Scheme, "SECRETx") && (strings.HasPrefix(u.Host, "[") || strings.Count(u.Host, ":") <= 1) {
				continue // a host is shown
			}
			if strings.Contains(shown, "SECRETx") || strings.ContainsAny(shown, "\r\n") {
				t.Errorf("%q is shown as %q", raw, shown)
			}
		}
		if u, err := parseProxy(raw); err == nil {
			if shown := redactProxy(u); u.User != nil && strings.Contains(shown, "@") || strings.Contains(shown, base64.StdEncoding.EncodeToString([]byte("SECRETx"))) {
				t.Errorf("%q is shown as %q", raw, shown)
			}
		}
	})
}

// endlessAnswer is a connection whose peer says a head and then filler for ever.
type endlessAnswer struct {
	canned
	head, filler string
	said         int
}

func (c *endlessAnswer) Read(p []byte) (n int, err error) {
	for n < len(p) {
		from := c.filler[max(0, c.said-len(c.head))%len(c.filler):]
		if c.said < len(c.head) {
			from = c.head[c.said:]
		}
		k := copy(p[n:], from)
		n, c.said = n+k, c.said+k
	}
	return n, nil
}

// An answer without end costs less than a MiB, and is read no further than a head may reach.
func TestEndlessAnswersCostLittle(t *testing.T) {
	asProxy := func(c *endlessAnswer) error {
		_, _, _, err := httpConnect(c, "srv:80", nil)
		return err
	}
	asServer := func(c *endlessAnswer) error {
		_, err := dialTo(c, ConnectionConfig{}, "ws://srv/", nil)
		return err
	}
	var names strings.Builder // no two alike, or they would share a place
	for i := range maxHead {
		fmt.Fprintf(&names, "%x:\r\n", i)
	}
	for name, c := range map[string]endlessAnswer{
		"headers":        {head: "HTTP/1.1 200 OK\r\n", filler: "X-Filler: filler\r\n"},
		"short headers":  {head: "HTTP/1.1 101 Go\r\n", filler: "X:\r\n"},
		"names":          {head: "HTTP/1.1 101 Go\r\n", filler: names.String()},
		"one header":     {head: "HTTP/1.1 200 OK\r\n", filler: "X: " + strings.Repeat("x", 1000)},
		"one line":       {filler: "HTTP/1.1 200 OK"},
		"continuations":  {head: "HTTP/1.1 200 OK\r\nX: x\r\n", filler: " more\r\n"},
		"informational":  {filler: "HTTP/1.1 100 Continue\r\n\r\n"},
		"empty lines":    {filler: "\r\n"},
		"noughts":        {filler: "\x00"},
		"a page":         {head: "HTTP/1.1 503 No\r\n\r\n", filler: "no "},
		"a page's chunk": {head: "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n1;", filler: "x"},
	} {
		for who, dial := range map[string]func(c *endlessAnswer) error{"proxy": asProxy, "server": asServer} {
			var before, after runtime.MemStats
			said := c
			runtime.ReadMemStats(&before)
			err := dial(&said)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("%s of a %s: it was taken for an answer", name, who)
			}
			n := after.TotalAlloc - before.TotalAlloc
			if n > 1<<20 {
				t.Errorf("%s of a %s: %d bytes were allocated", name, who, n)
			}
			if said.said > maxHead+4096 {
				t.Errorf("%s of a %s: %d bytes were read", name, who, said.said)
			}
			t.Logf("%s of a %s: %d KiB read, %d KiB allocated, all told", name, who, said.said>>10, n>>10)
		}
	}
}

// A long answer is no endless one.
func TestLongAnswersAreTaken(t *testing.T) {
	for _, lines := range []string{strings.Repeat("X-Line: with some words in it\r\n", 300), "Set-Cookie: " + strings.Repeat("x", 50_000) + "\r\n"} {
		if _, _, _, err := httpConnect(canned{data: bytes.NewReader([]byte("HTTP/1.1 200 OK\r\n" + lines + "\r\n"))}, "srv:80", nil); err != nil {
			t.Errorf("%d bytes of a proxy: %v", len(lines), err)
		}
		conn, err := dialTo(&answering{reply: []byte(goodReply + lines + "\r\n")}, ConnectionConfig{}, "ws://srv/", nil)
		if err != nil {
			t.Errorf("%d bytes of a server: %v", len(lines), err)
			continue
		}
		conn.Kill()
	}
}
