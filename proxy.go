package wsshard

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how is the server reached through a proxy?

// What is behind some ProxyErrors.
var (
	errProxyAuth   = errors.New("the proxy refused the credentials")
	errUnreachable = errors.New("the proxy could not reach the server")
)

// tunnel opens a connection to addr through the proxy, which also resolves the name.
func (d *dialer) tunnel(ctx context.Context, addr string, shard int) (net.Conn, error) {
	fail := func(step string, status int, err error) error {
		return &ProxyError{Proxy: redactProxy(d.proxy), Step: step, StatusCode: status, Err: err}
	}
	conn, err := d.tcp(ctx, d.proxy.Host, shard)
	if err != nil {
		return nil, fail("dial", 0, err)
	}
	stop := context.AfterFunc(ctx, func() { wsconn.Kill(conn) })
	if at, ok := ctx.Deadline(); ok {
		conn.SetDeadline(at)
	}
	opened := false
	defer func() {
		if !opened { // a callback of TLSConfig may have left by panic
			wsconn.Kill(conn)
		}
	}()
	through, step, status, err := d.negotiate(ctx, conn, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fail(step, status, err)
	}
	opened = true
	conn.SetDeadline(time.Time{})
	return through, nil
}

func (d *dialer) negotiate(ctx context.Context, conn net.Conn, addr string) (through net.Conn, step string, status int, err error) {
	switch d.proxy.Scheme {
	case "https":
		cfg := d.tls.Clone()
		cfg.ServerName = d.proxy.Hostname()
		c := tls.Client(conn, cfg)
		if err := c.HandshakeContext(ctx); err != nil {
			return nil, "tls", 0, &tlsError{err}
		}
		return httpConnect(c, addr, d.proxy.User)
	case "http":
		return httpConnect(conn, addr, d.proxy.User)
	default:
		through, step, err = socks5(ctx, conn, addr, d.proxy.User)
		return through, step, 0, err
	}
}

// socks5 asks for addr as a name: the proxy resolves it, whatever the scheme says.
func socks5(ctx context.Context, conn net.Conn, addr string, user *url.Userinfo) (net.Conn, string, error) {
	var auth *proxy.Auth
	if user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	watch := &socksConn{Conn: conn, step: "greeting", passwords: auth != nil}
	dial, err := proxy.SOCKS5("tcp", "proxy", auth, oneConn{watch})
	if err != nil {
		return nil, "greeting", err
	}
	if _, err := dial.(proxy.ContextDialer).DialContext(ctx, "tcp", addr); err != nil {
		var oe *net.OpError
		if errors.As(err, &oe) && oe.Err != nil { // its outer text repeats the addresses
			err = oe.Err
		}
		step, err := socksError(watch.step, err)
		return nil, step, err
	}
	return conn, "", nil
}

// socksError sorts what the library says in words only.
func socksError(step string, err error) (string, error) {
	text := err.Error()
	reply, refused := strings.CutPrefix(text, "unknown error ")
	switch {
	case strings.Contains(text, "authentication"):
		return "auth", fmt.Errorf("%w: %s", errProxyAuth, text)
	case refused && (strings.Contains(reply, "not allowed") || strings.Contains(reply, "not supported")):
		return step, errors.New(reply)
	case refused:
		return step, fmt.Errorf("%w: %s", errUnreachable, reply)
	}
	return step, err
}

// oneConn is a dialer whose connection is open already.
type oneConn struct{ conn net.Conn }

func (o oneConn) Dial(string, string) (net.Conn, error) { return o.conn, nil }

func (o oneConn) DialContext(context.Context, string, string) (net.Conn, error) { return o.conn, nil }

// errMethod is a proxy that chose what it was not offered. The library would go on as if nothing had been agreed.
var errMethod = errors.New("the proxy chose a way to log in that was not offered")

// socksConn notes the step that the negotiation is at: what is written begins with the version of RFC 1929 or 1928.
type socksConn struct {
	net.Conn
	step      string
	writes    int
	passwords bool   // offered
	greeting  []byte // the answer to the greeting: version, method
}

func (c *socksConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.greeting) < 2 {
		c.greeting = append(c.greeting, p[:n]...)
		if g := c.greeting; len(g) >= 2 && g[0] == 5 && g[1] != 0 && g[1] != 0xff && !(g[1] == 2 && c.passwords) {
			return 0, errMethod
		}
	}
	return n, err
}

func (c *socksConn) Write(p []byte) (int, error) {
	c.writes++
	switch {
	case c.writes == 1 || len(p) == 0:
	case p[0] == 1:
		c.step = "auth"
	case p[0] == 5:
		c.step = "connect"
	}
	return c.Conn.Write(p)
}

// httpConnect asks an HTTP proxy for a tunnel to addr. Bytes that came with its answer belong to the tunnel.
func httpConnect(conn net.Conn, addr string, user *url.Userinfo) (through net.Conn, step string, status int, err error) {
	req := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if user != nil {
		password, _ := user.Password()
		req += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		return nil, "connect", 0, err
	}
	head := &headReader{conn: conn, left: maxHead}
	br := bufio.NewReader(head)
	for range 5 { // informational answers may come first
		resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return nil, "connect", 0, connectError(head, err)
		}
		switch status := resp.StatusCode; {
		case status < 200:
			continue
		case status == http.StatusProxyAuthRequired, status == http.StatusUnauthorized: // some proxies mean 407 and say 401
			return nil, "auth", status, errProxyAuth
		case status > 299:
			err := errors.New("the proxy opened no tunnel")
			if after := retryAfter(status, resp.Header, time.Now()); after > 0 {
				err = &toldError{err, after}
			}
			return nil, "connect", status, err
		}
		if br.Buffered() == 0 {
			return conn, "", 0, nil
		}
		rest, _ := br.Peek(br.Buffered())
		return &readAhead{Conn: conn, rest: rest}, "", 0, nil
	}
	return nil, "connect", 0, errors.New("the proxy sent nothing but informational answers")
}

// headReader reads no more than a head may cost, and remembers how the connection ended: the parser may take half an answer
// for nonsense.
type headReader struct {
	conn net.Conn
	left int
	err  error
}

func (r *headReader) Read(p []byte) (int, error) {
	n := 0
	if r.left == 0 {
		r.err = wsconn.ErrHead
	} else {
		n, r.err = r.conn.Read(p[:min(len(p), r.left)])
		r.left = max(0, r.left-wsconn.HeadCost(p[:n]))
	}
	return n, r.err
}

// connectError keeps errors of the network, and drops what quotes the proxy.
func connectError(head *headReader, err error) error {
	switch {
	case head.err == wsconn.ErrHead:
		return errors.New("the proxy's answer is too long")
	case head.err == io.EOF:
		return io.ErrUnexpectedEOF
	case head.err != nil:
		return head.err
	}
	return errors.New("the proxy's answer is not HTTP: " + unquoted(err))
}

// readAhead is a connection of which some bytes were read too early.
type readAhead struct {
	net.Conn
	rest []byte // owned by the reader
}

func (c *readAhead) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Under lets wsconn.Kill find the socket.
func (c *readAhead) Under() net.Conn { return c.Conn }
