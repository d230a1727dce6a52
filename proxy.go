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

// errProxyAuth is behind a ProxyError whose credentials were refused.
var errProxyAuth = errors.New("the proxy refused the credentials")

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
	through, step, status, err := d.negotiate(ctx, conn, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		wsconn.Kill(conn)
		return nil, fail(step, status, err)
	}
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
			return nil, "tls", 0, cut(err)
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
	watch := &socksConn{Conn: conn, step: "greeting"}
	dial, err := proxy.SOCKS5("tcp", "proxy", auth, oneConn{watch})
	if err != nil {
		return nil, "greeting", err
	}
	if _, err := dial.(proxy.ContextDialer).DialContext(ctx, "tcp", addr); err != nil {
		var oe *net.OpError
		if errors.As(err, &oe) && oe.Err != nil { // its outer text repeats the addresses
			err = oe.Err
		}
		if strings.Contains(err.Error(), "authentication") {
			return nil, "auth", fmt.Errorf("%w: %s", errProxyAuth, printable(err.Error()))
		}
		return nil, watch.step, cut(err)
	}
	return conn, "", nil
}

// oneConn is a dialer whose connection is open already.
type oneConn struct{ conn net.Conn }

func (o oneConn) Dial(string, string) (net.Conn, error) { return o.conn, nil }

func (o oneConn) DialContext(context.Context, string, string) (net.Conn, error) { return o.conn, nil }

// socksConn notes the step that the negotiation is at: what is written begins with the version of RFC 1929 or 1928.
type socksConn struct {
	net.Conn
	step   string
	writes int
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
	head := &io.LimitedReader{R: conn, N: maxHead}
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
			return nil, "connect", status, errors.New("the proxy opened no tunnel")
		}
		if br.Buffered() == 0 {
			return conn, "", 0, nil
		}
		rest, _ := br.Peek(br.Buffered())
		return &readAhead{Conn: conn, rest: rest}, "", 0, nil
	}
	return nil, "connect", 0, errors.New("the proxy sent nothing but informational answers")
}

// connectError keeps errors of the network, and shortens what quotes the proxy.
func connectError(head *io.LimitedReader, err error) error {
	var ne net.Error
	switch {
	case head.N <= 0:
		return errors.New("the proxy's answer is too long")
	case errors.As(err, &ne), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return errors.New(printable(err.Error()))
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

// NetConn lets wsconn.Kill find the socket.
func (c *readAhead) NetConn() net.Conn { return c.Conn }
