package wsshard

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what would the library below us do by itself, and what do we do instead? A row whose gorilla no longer
// matches names a cure that is no longer needed.

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
