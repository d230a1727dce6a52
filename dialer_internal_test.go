package wsshard

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does a dial make of the bytes that a server answers, and what would the library below us make of them? A hole whose
// gorilla no longer matches names a cure that is no longer needed.

// answering is a connection to a server that says the same to everybody, and then hangs up. ACCEPT stands for what answers the
// client's key, and FILLER, the first of them, for more than a head may have: so what a fuzzer tries stays short, or it would
// spend its time on shortening it.
type answering struct {
	net.Conn // nil: nothing else may be called
	reply    []byte
	heard    bytes.Buffer
	told     int
	closed   bool
}

func (c *answering) Write(p []byte) (int, error)      { return c.heard.Write(p) }
func (c *answering) SetDeadline(time.Time) error      { return nil }
func (c *answering) SetWriteDeadline(time.Time) error { return nil }
func (c *answering) Close() error                     { c.closed = true; return nil }

func (c *answering) Read(p []byte) (int, error) {
	if c.told == 0 {
		if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.heard.Bytes()))); err == nil {
			sum := sha1.Sum([]byte(req.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			c.reply = bytes.ReplaceAll(c.reply, []byte("ACCEPT"), []byte(base64.StdEncoding.EncodeToString(sum[:])))
		}
		c.reply = bytes.Replace(c.reply, []byte("FILLER"), filler, 1)
	}
	n := copy(p, c.reply[c.told:])
	if c.told += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

var filler = bytes.Repeat([]byte("secret"), 2*maxHead/len("secret"))

// dialTo dials c.
func dialTo(c net.Conn, cfg ConnectionConfig, raw string, header http.Header) (*wsconn.Conn, error) {
	cfg.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return c, nil }
	d := newDialer(Config{Connection: cfg}.withDefaults(0).Connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u, err := parseURL(raw)
	if err != nil {
		return nil, err
	}
	if header, err = d.header(header); err != nil {
		return nil, err
	}
	ws, tap, err := d.dial(ctx, u, header, 0)
	if err != nil {
		return nil, err
	}
	return wsconn.New(ws, tap, wsconn.Options{ReadLimit: 1 << 16, WriteTimeout: time.Second, CheckUTF8: true, OnPing: func(string) {}, OnPong: func(string) {}}), nil
}

const goodReply = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"

func FuzzUpgradeReply(f *testing.F) {
	deflate := "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, s := range []string{
		goodReply + "\r\n", goodReply + "\r\n\x81\x02hi\x88\x02\x03\xe8", goodReply + deflate + "\r\n\r\n\xc1\x01\x00", goodReply + deflate + "; x\r\n\r\n", goodReply + "Sec-WebSocket-Protocol: v1\r\n\r\n",
		goodReply + "Sec-WebSocket-Extensions: ,;=\",\r\n\r\n", goodReply + "Content-Length: 5\r\n\r\nhello", goodReply + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		strings.ReplaceAll(goodReply, "\r\n", "\n") + "\n", strings.Replace(goodReply, "1.1", "1.0", 1) + "\r\n", "HTTP/1.1 429 secret\r\nRetry-After: 7\r\nSet-Cookie: secret\r\n\r\nsecret",
		"HTTP/1.1 301 Moved\r\nLocation: //secret\r\n\r\n", "HTTP/1.1 100\r\n\r\n" + goodReply + "\r\n", "HTTP/0.0 000\n\n", "HTTP/1.1 503\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
		"secret", "HTTP/1.1 secret\r\n\r\n", "HTTP/1.1 200 OK\r\nsecret\r\n\r\n", "HTTP/1.1 101\r\nX: FILLER", "HTTP/1.1 404\r\n\r\nFILLER", "",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, reply []byte, offers bool) {
		var cfg ConnectionConfig
		if offers {
			cfg.EnableCompression, cfg.Subprotocols = true, []string{"v1"}
		}
		c := &answering{reply: slices.Clone(reply)}
		conn, err := dialTo(c, cfg, "ws://srv/secret?secret", nil)
		var he *HandshakeError
		switch {
		case err == nil:
			if !bytes.Contains(reply, []byte("101")) || !bytes.Contains(reply, []byte("ACCEPT")) {
				t.Errorf("took %q for an upgrade", reply)
			}
			for range len(reply) + 1 {
				if _, _, err = conn.Read(); err != nil {
					break
				}
			}
			if err == nil {
				t.Errorf("more messages than bytes in %q", reply)
			}
			conn.Kill()
		case errors.As(err, &he):
			if len(he.Body) > 1<<10 || he.RetryAfter < 0 || he.RetryAfter > maxBannedAfter || he.Header.Get("Set-Cookie") != "" {
				t.Errorf("%d bytes of body, retry after %v, %v", len(he.Body), he.RetryAfter, he.Header)
			}
		case !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("%q fails with %T: %v", reply, err, err)
		}
		if err != nil {
			if text := err.Error(); len(text) > 300 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) || strings.Contains(text, "secret") {
				t.Errorf("%q reads %q", reply, text)
			}
		}
		if !c.closed {
			t.Error("the socket was left open")
		}
		if c.told > maxHead && conn == nil {
			t.Errorf("%d bytes were read", c.told)
		}
	})
}

// Whatever the handler puts into a header or a URL, the server reads one request, which carries just that.
func FuzzHeaders(f *testing.F) {
	for _, s := range [][3]string{
		{"X-A", "b", "/"}, {"x-a", " b\t", "/p?q"}, {"Host", "other", "/"}, {"Upgrade", "h2c", "/"}, {"upgrade", "h2c", "/"}, {"X\r\nY", "b", "/"}, {"X", "a\r\n\r\nGET / HTTP/1.1\r\n", "/"},
		{"Cookie", "a=b; c=d", "/%0d%0a"}, {"X", "\x00", "/\x00"}, {"Content-Length", "5", "/"}, {"Transfer-Encoding", "chunked", "/"}, {"Expect", "100-continue", "/"}, {"X-Ä", "ü", "/ü?ü"},
		{"Connection", "close", "//x"}, {"Trailer", "X", "?"}, {"User-Agent", "", "#x"}, {"Te", "trailers", "/a b"}, {"", "", ""}, {"Sec-WebSocket-Key", "x", "/*"}, {"Host", "a/b", "*"}, {"Host", "[::1", ":99"}, {"X", "b", "-6@Z"}, {"Authorization", "b", ":p@Z"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, name, value, path string) {
		c := &answering{reply: []byte(goodReply + "\r\n")}
		conn, err := dialTo(c, ConnectionConfig{}, "ws://srv"+path, http.Header{name: {value}})
		if err != nil {
			if c.heard.Len() > 0 || !errors.Is(err, ErrInvalidHeader) && !errors.Is(err, ErrInvalidURL) {
				t.Errorf("refused, after %q was sent: %v", c.heard.String(), err)
			}
			return
		}
		defer conn.Kill()
		br := bufio.NewReader(&c.heard)
		req, err := http.ReadRequest(br)
		if rest, _ := io.ReadAll(br); err != nil || len(rest) > 0 {
			t.Fatalf("%v, and %q is left", err, rest)
		}
		if req.Method != "GET" || req.ContentLength != 0 || len(req.TransferEncoding) > 0 || req.Close {
			t.Errorf("%+v", req)
		}
		want := map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Version": "13"}
		canonical := http.CanonicalHeaderKey(name)
		if canonical == "Host" {
			if !strings.EqualFold(req.Host, value) && utf8.ValidString(value) && isASCII(value) && !strings.Contains(value, "%") {
				t.Errorf("host %q, want %q", req.Host, value)
			}
		} else {
			want[canonical] = strings.Trim(value, " \t")
		}
		_, set := want["Authorization"]
		if u, err := url.Parse("ws://srv" + path); err == nil && u.User.String() != "" && !set { // "srv" is part of a user's name
			password, _ := u.User.Password()
			want["Authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
		}
		for name, value := range want {
			if got := req.Header.Values(name); len(got) != 1 && !(name == "User-Agent" && value == "") || len(got) == 1 && got[0] != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
		delete(req.Header, "Sec-Websocket-Key")
		delete(req.Header, "User-Agent")
		for name := range req.Header {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %q was not asked for", name, req.Header[name])
			}
		}
	})
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7e }) }

// What parseURL accepts can be dialled, and parsed again by those who come after; what it refuses is not shown.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"ws://srv/", "wss://srv:444/a/b?c=d&e=%20", "ws://[::1]:80", "ws://[fe80::1%25eth0]/", "ws://srv:80:80/", "ws://::1/", "ws://user:SECRETx@srv/", "ws://srv/SECRETx%", "ws://srv/?SECRETx\n", "WS://SRV",
		"ws://%41/", "ws://s%ffrv/", "ws://srv/\x7f", "ws:srv", "ws:///x", "//srv", "ws://[::1]SECRETx/", "ws://[::%25]]", "ws://[::%25\xc0]", "ws://srv:+1/", "ws://srv:/", "ws://srv/a%2fb;c=d//..//", "ws://ü/ü?ü",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := parseURL(raw)
		if err != nil {
			shown, _ := url.Parse(raw)
			if text := err.Error(); !errors.Is(err, ErrInvalidURL) || strings.Contains(text, "SECRETx") && (shown == nil || !strings.Contains(shown.Host+shown.Scheme, "SECRETx")) {
				t.Errorf("%q: %s", raw, text)
			}
			return
		}
		if host, port, err := net.SplitHostPort(hostPort(u)); err != nil || host == "" || port == "" || !validPort(port) {
			t.Errorf("%q is dialled at %q: %v", raw, hostPort(u), err)
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Host != u.Host || again.Scheme != u.Scheme || again.Fragment != "" {
			t.Errorf("%q becomes %q: %v", raw, u, err)
		}
	})
}

// holes are what a peer says, or an application wants, with expressions that match what comes of it in each case.
var holes = []struct {
	name          string
	says          string
	proxy         string
	url           string // empty: ws://srv/
	header        http.Header
	gorilla, ours string
}{
	{name: "a head without end", says: strings.TrimSuffix(goodReply, "\r\n") + strings.Repeat("\r\nX-F: filler", 200_000),
		gorilla: `^failed.* took \d{4} KiB`, ours: `^failed: .*head is too long.* took \d\d? KiB`},
	{name: "one line without end", says: "HTTP/1.1 " + strings.Repeat("x", 4<<20),
		gorilla: `^failed.* took \d{4} KiB`, ours: `^failed: .*head is too long.* took \d\d KiB`},
	{name: "the peer's words", says: "HTTP/1.1 200 OK\r\n" + strings.Repeat("canary", 5000) + "\r\n\r\n",
		gorilla: `^failed: .*canarycanary`, ours: `^failed: .*not HTTP: malformed MIME header took`},
	{name: "an extension that was not offered", says: goodReply + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n",
		gorilla: `^connected`, ours: `^failed: .*extension that was not offered`},
	{name: "a subprotocol that was not offered", says: goodReply + "Sec-WebSocket-Protocol: v9\r\n\r\n",
		gorilla: `^connected`, ours: `^failed: .*subprotocol that was not offered`},
	{name: "HTTP/1.0", says: strings.Replace(goodReply, "1.1", "1.0", 1) + "\r\n",
		gorilla: `^connected`, ours: `^failed: .*HTTP/1.0`},
	{name: "text that is not UTF-8", says: goodReply + "\r\n\x81\x01\xff",
		gorilla: `^connected, read 1 byte, valid: false`, ours: `^connected, failed: close 1007`},
	{name: "a bomb", says: bombReply(8 << 20),
		gorilla: `^connected, read 8388608 bytes`, ours: `^connected, failed: close 1009`},
	{name: "a proxy's status without a reason", proxy: "http://proxy", says: "HTTP/1.1 407\r\n\r\n",
		gorilla: `^panic: runtime error: index out of range`, ours: `^failed: .*proxy http://proxy:80: auth 407`},
	{name: "bytes that came with a proxy's answer", proxy: "http://proxy", says: "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 418 Early\r\n\r\n",
		gorilla: `^failed: .*EOF`, ours: `^failed: .*server answered 418`},
	{name: "a tunnel by 204", proxy: "http://proxy", says: "HTTP/1.1 204 Fine\r\n\r\nHTTP/1.1 418 Early\r\n\r\n",
		gorilla: `^failed: Fine`, ours: `^failed: .*server answered 418`},
	{name: "a proxy's head without end", proxy: "http://proxy", says: "HTTP/1.1 200 OK" + strings.Repeat("\r\nX-F: filler", 200_000),
		gorilla: `^failed.* took \d{4} KiB`, ours: `^failed: .*connect: the proxy's answer is too long.* took \d\d? KiB`},
	{name: "a user without a password", proxy: "http://token@proxy", says: "HTTP/1.1 407 No\r\n\r\n",
		gorilla: `sent CONNECT srv:80 HTTP/1.1⏎Host: srv:80⏎User-Agent: [^⏎]*⏎⏎$`, ours: `sent .*⏎Proxy-Authorization: Basic dG9rZW46⏎`},
	{name: "socks5h", proxy: "socks5h://proxy", says: "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00",
		gorilla: `^failed: .*unknown scheme`, ours: `^failed: .*proxy socks5h://proxy:1080: connect: .*refused`},
	{name: "an https proxy", proxy: "https://proxy", says: "HTTP/1.1 400 Bad\r\n\r\n",
		gorilla: `^failed: .*unknown scheme`, ours: `^failed: .*proxy https://proxy:443: tls: `},
	{name: "a header with a line break", header: http.Header{"X-A": {"a\r\nX-B: b"}}, says: goodReply + "\r\n",
		gorilla: `^connected.*⏎X-A: a  X-B: b⏎`, ours: `^failed: .*invalid header.* sent $`},
	{name: "a header in another spelling", header: http.Header{"upgrade": {"h2c"}}, says: goodReply + "\r\n",
		gorilla: `^connected.*⏎upgrade: h2c⏎`, ours: `^failed: .*invalid header.* sent $`},
	{name: "a name that is none", header: http.Header{"X A": {"a"}}, says: goodReply + "\r\n",
		gorilla: `^connected`, ours: `^failed: .*invalid header.* sent $`},
	{name: "a host with a line break", header: http.Header{"Host": {"a\r\nX-B: b"}}, says: goodReply + "\r\n",
		gorilla: `^connected.*⏎Host: ⏎`, ours: `^failed: .*invalid header.* sent $`},
	{name: "a URL that cannot be parsed", url: "ws://srv/%zz?token=canary",
		gorilla: `^failed: .*token=canary`, ours: `^failed: wsshard: invalid URL: … cannot be parsed`},
}

// bombReply is an upgrade that is followed by so many bytes, deflated.
func bombReply(size int) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	w.Write(make([]byte, size))
	w.Flush()
	payload := strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
	return goodReply + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n" +
		"\xc2\x7e" + string([]byte{byte(len(payload) >> 8), byte(len(payload))}) + payload
}

func TestHolesInTheLibraryBelow(t *testing.T) {
	for _, h := range holes {
		t.Run(h.name, func(t *testing.T) {
			target := h.url
			if target == "" {
				target = "ws://srv/"
			}
			offers := h.name == "a bomb"
			c := &answering{reply: []byte(h.says)}
			got := whatComes(c, func() (func() (string, error), error) {
				d := websocket.Dialer{EnableCompression: offers, NetDialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
				if h.proxy != "" {
					u, _ := url.Parse(h.proxy)
					d.Proxy = http.ProxyURL(u)
				}
				ws, _, err := d.Dial(target, h.header)
				if err != nil {
					return nil, err
				}
				ws.SetReadLimit(1 << 16)
				return func() (string, error) { _, data, err := ws.ReadMessage(); return string(data), err }, nil
			})
			if !regexp.MustCompile(h.gorilla).MatchString(got) {
				t.Errorf("gorilla by itself: %.300s", got)
			}
			c = &answering{reply: []byte(h.says)}
			got = whatComes(c, func() (func() (string, error), error) {
				conn, err := dialTo(c, ConnectionConfig{Proxy: h.proxy, EnableCompression: offers}, target, h.header)
				if err != nil {
					return nil, err
				}
				return func() (string, error) { _, data, err := conn.Read(); return string(data), err }, nil
			})
			if !regexp.MustCompile(h.ours).MatchString(got) {
				t.Errorf("ours: %.300s", got)
			}
		})
	}
}

// whatComes dials, reads once, and says in one line what came of it.
func whatComes(c *answering, dial func() (read func() (string, error), err error)) (line string) {
	defer func() {
		if r := recover(); r != nil {
			line = fmt.Sprint("panic: ", r)
		}
		line += fmt.Sprintf(" took %d KiB, sent %s", c.told>>10, strings.ReplaceAll(c.heard.String(), "\r\n", "⏎"))
	}()
	read, err := dial()
	if err != nil {
		return "failed: " + err.Error()
	}
	text, err := read()
	switch {
	case err != nil:
		return "connected, failed: " + err.Error()
	case len(text) == 1:
		return fmt.Sprintf("connected, read 1 byte, valid: %v", utf8.ValidString(text))
	}
	return fmt.Sprintf("connected, read %d bytes", len(text))
}

// A server that takes the connection and says nothing: a cancelled dial waits for it, unless somebody closes the socket.
func TestHoleOfCancelledHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := wstest.NewNet()
		ln := n.Listen("srv:80")
		defer ln.Close()
		cancelled := func(dial func(ctx context.Context) error) time.Duration {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			time.AfterFunc(time.Second, cancel)
			begin := time.Now()
			if dial(ctx) == nil {
				t.Error("it was connected")
			}
			return time.Since(begin)
		}
		alone := websocket.Dialer{NetDialContext: n.DialContext, HandshakeTimeout: 10 * time.Second}
		if d := cancelled(func(ctx context.Context) error { _, _, err := alone.DialContext(ctx, "ws://srv/", nil); return err }); d != 10*time.Second {
			t.Errorf("gorilla by itself returned after %v", d)
		}
		ours := newDialer(ConnectionConfig{NetDialContext: n.DialContext})
		u, _ := url.Parse("ws://srv/")
		if d := cancelled(func(ctx context.Context) error { _, _, err := ours.dial(ctx, u, nil, 0); return err }); d != time.Second {
			t.Errorf("ours returned after %v", d)
		}
	})
}
