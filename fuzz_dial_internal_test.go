package wsshard

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: can anything that a server says, or a handler wants said, break the handshake?

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
			if len(he.Body) > 1<<10 || he.RetryAfter < 0 || he.RetryAfter > maxRetryAfter || he.Header.Get("Set-Cookie") != "" {
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
		{"Connection", "close", "//x"}, {"Trailer", "X", "?"}, {"User-Agent", "", "#x"}, {"Te", "trailers", "/a b"}, {"", "", ""}, {"Sec-WebSocket-Key", "x", "/*"}, {"Host", "a/b", "*"}, {"Host", "[::1", ":99"},
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
