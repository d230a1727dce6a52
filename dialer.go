package wsshard

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: how is a connection to the server opened?

// headBuffer is what the library reads an answer's head with; it keeps it for the connection's life.
const headBuffer = 128

// maxHead is what an answer's head may cost, a server's or a proxy's: its bytes, and more for each line.
const maxHead = 64 << 10

// dialer opens connections for all shards of a manager.
type dialer struct {
	cfg               ConnectionConfig
	sources           []netip.Addr
	proxy             *url.URL    // nil: none
	tls               *tls.Config // cloned; one session cache for all shards
	plain             websocket.Dialer
	errConnectTimeout error // what has taken longer than ConnectTimeout

	mu         sync.Mutex      // protects following fields; a leaf lock
	keptWindow map[string]bool // servers by host:port that keep their compression window: they get no offer
}

// newDialer expects a validated config.
func newDialer(cfg ConnectionConfig) *dialer {
	d := &dialer{cfg: cfg, tls: &tls.Config{}, errConnectTimeout: fmt.Errorf("not connected after %v: %w", cfg.ConnectTimeout, context.DeadlineExceeded)}
	for _, ip := range cfg.SourceIPs {
		addr, _ := parseSource(ip)
		d.sources = append(d.sources, addr)
	}
	if cfg.Proxy != "" {
		d.proxy, _ = parseProxy(cfg.Proxy)
	}
	if cfg.TLSConfig != nil {
		d.tls = cfg.TLSConfig.Clone()
	}
	if d.tls.ClientSessionCache == nil {
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	if len(d.tls.NextProtos) > 0 { // a config that is shared with net/http offers h2, which cannot be upgraded
		d.tls.NextProtos = []string{"http/1.1"}
	}
	d.plain = websocket.Dialer{
		ReadBufferSize:  headBuffer,
		WriteBufferSize: wsconn.MaxFrame,
		WriteBufferPool: wsconn.WriteBuffers,
		Subprotocols:    cfg.Subprotocols,
	}
	return d
}

// source is the address that a shard binds; the zero Addr: none. wraps: the addresses are used a second time from here on.
func (d *dialer) source(shard int) (addr netip.Addr, wraps bool) {
	if len(d.sources) == 0 {
		return addr, false
	}
	block := shard / d.cfg.ShardsPerIP
	return d.sources[block%len(d.sources)], block >= len(d.sources)
}

// egress names the way a shard takes: its source address, the proxy, both, or "" for the default route.
func (d *dialer) egress(shard int) string {
	var way []string
	if addr, _ := d.source(shard); addr.IsValid() {
		way = append(way, addr.String())
	}
	if d.proxy != nil {
		way = append(way, redactProxy(d.proxy))
	}
	return strings.Join(way, " via ")
}

// header merges the static headers with those that were computed for this dial, and refuses those that cannot be sent.
func (d *dialer) header(computed http.Header) (http.Header, error) {
	h := http.Header{}
	for _, from := range []http.Header{d.cfg.Header, computed} {
		for name, values := range from {
			if err := checkHeader(from, name); err != nil {
				return nil, fmt.Errorf("%w: %q %w", ErrInvalidHeader, name, err)
			}
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	return h, nil
}

// dial opens a WebSocket connection to u. ctx ends every step at once; it must have a deadline. A panic below it, the
// library's own on what a peer said or one of the application's parts, leaves no socket; the caller recovers.
func (d *dialer) dial(ctx context.Context, u *url.URL, header http.Header, shard int) (ws *websocket.Conn, tap *wsconn.Tap, err error) {
	conn, err := d.reach(ctx, hostPort(u), shard)
	if err != nil {
		return nil, nil, ended(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { wsconn.Kill(conn) }) // gorilla looks at deadlines only
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil || ws == nil { // without an error when something below has panicked
			wsconn.Kill(conn)
			ws, tap, err = nil, nil, ended(ctx, err)
		}
	}()
	inner := conn
	if u.Scheme == "wss" {
		if inner, err = d.secure(ctx, conn, u.Hostname()); err != nil {
			return nil, nil, d.tunnelled(err)
		}
	}
	tap = wsconn.NewTap(inner, maxHead)
	ws, err = d.upgrade(ctx, u, header, tap)
	return ws, tap, d.tunnelled(err)
}

// secure puts TLS on conn.
func (d *dialer) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	cfg := d.tls
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	c := wsconn.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, &tlsError{err}
	}
	return c, nil
}

// tlsError is TLS that failed, in its handshake or in that of WebSocket. Its text is cut: certificates are a peer's words.
type tlsError struct{ err error }

func (e *tlsError) Error() string                 { return "TLS: " + printable(e.err.Error()) }
func (e *tlsError) Unwrap() error                 { return e.err }
func (e *tlsError) Format(f fmt.State, verb rune) { formatError(e, f, verb) }

// tunnelled says so where it was a proxy's tunnel that broke.
func (d *dialer) tunnelled(err error) error {
	if d.proxy == nil || !isBroken(err) {
		return err
	}
	return &ProxyError{Proxy: redactProxy(d.proxy), Step: "tunnel", Err: err}
}

// upgrade speaks the WebSocket handshake on tap. It trusts neither the peer nor the library with more than it must.
func (d *dialer) upgrade(ctx context.Context, u *url.URL, header http.Header, tap *wsconn.Tap) (*websocket.Conn, error) {
	u, header = credentials(u, header)
	dial := d.plain
	dial.EnableCompression = d.offers(u)
	dial.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return tap, nil }
	dial.NetDialTLSContext = dial.NetDialContext
	ws, resp, err := dial.DialContext(ctx, u.String(), header)
	answer := wsconn.Agreed(tap.Extensions(), dial.EnableCompression)
	if resp != nil && len(tap.Extensions()) > 0 {
		resp.Header["Sec-Websocket-Extensions"] = tap.Extensions() // what it said, not what the library was told
	}
	if err != nil && answer.Takeover && resp != nil && !errors.Is(err, websocket.ErrBadHandshake) { // the library chokes on it
		d.withhold(u)
		return nil, &HandshakeError{StatusCode: resp.StatusCode, Header: withoutCookies(resp.Header), Reason: keptWindow}
	}
	if err != nil {
		if broke := tap.Failed(); broke != nil && resp == nil { // in the middle of a line that was then taken for nonsense
			err = broke
		}
		return nil, handshakeError(resp, err)
	}
	if reason := d.unasked(resp, ws, answer); reason != "" {
		return nil, &HandshakeError{StatusCode: resp.StatusCode, Header: withoutCookies(resp.Header), Reason: reason}
	}
	return ws, nil
}

// unasked says what the server chose that was not offered, which RFC 6455 §4.1 tells a client to refuse.
func (d *dialer) unasked(resp *http.Response, ws *websocket.Conn, answer wsconn.Agreement) string {
	if !resp.ProtoAtLeast(1, 1) {
		return "it speaks " + printable(resp.Proto)
	}
	if answer.Refused != "" {
		return answer.Refused
	}
	if p := ws.Subprotocol(); p != "" && !slices.Contains(d.cfg.Subprotocols, p) {
		return "it chose a subprotocol that was not offered"
	}
	return ""
}

// keptWindow is the Reason of an answer that we could not read messages by.
const keptWindow = "its compression goes on from message to message"

// keepsWindow reports whether an attempt failed for that reason.
func keepsWindow(err error) bool {
	var he *HandshakeError
	return errors.As(err, &he) && he.StatusCode == http.StatusSwitchingProtocols && he.Reason == keptWindow
}

// offers reports whether u's server is offered compression.
func (d *dialer) offers(u *url.URL) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.EnableCompression && !d.keptWindow[strings.ToLower(hostPort(u))]
}

// withhold ends the offers to u's server.
func (d *dialer) withhold(u *url.URL) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keptWindow == nil {
		d.keptWindow = make(map[string]bool)
	}
	d.keptWindow[strings.ToLower(hostPort(u))] = true
}

// credentials makes a header of the user that u names, unless the application has set one, and leaves it out of the URL.
func credentials(u *url.URL, header http.Header) (*url.URL, http.Header) {
	user := u.User
	if user == nil {
		return u, header
	}
	bare := *u
	bare.User = nil
	if _, set := header["Authorization"]; !set && user.String() != "" {
		password, _ := user.Password()
		header = header.Clone()
		header["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))}
	}
	return &bare, header
}

// handshakeError sorts what gorilla returned: an answer of the server, a broken connection, or nonsense.
func handshakeError(resp *http.Response, err error) error {
	var ne net.Error
	var re tls.RecordHeaderError
	switch {
	case resp != nil:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		he := &HandshakeError{StatusCode: resp.StatusCode, Header: withoutCookies(resp.Header), Body: body}
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols && errors.Is(err, websocket.ErrBadHandshake):
			he.Reason = "its upgrade headers are wrong"
		case resp.StatusCode == http.StatusSwitchingProtocols:
			he.Reason = printable(strings.TrimPrefix(err.Error(), "websocket: "))
		}
		he.RetryAfter = retryAfter(resp.StatusCode, resp.Header, time.Now())
		return he
	case errors.Is(err, wsconn.ErrHead):
		return &HandshakeError{Reason: "its answer's head is too long"}
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case errors.As(err, &re):
		return &tlsError{err}
	case errors.As(err, &ne), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return err
	}
	return &HandshakeError{Reason: "its answer is not HTTP: " + unquoted(err)}
}

// unquoted is a parser's error without its quotations: a peer may have echoed a secret that it was sent.
func unquoted(err error) string {
	text := err.Error()
	if i := strings.IndexAny(text, `":[`); i >= 0 {
		text = text[:i]
	}
	return printable(strings.TrimSpace(text))
}

func withoutCookies(h http.Header) http.Header {
	h = h.Clone()
	h.Del("Set-Cookie")
	h.Del("Set-Cookie2")
	return h
}

// reach opens the TCP connection to addr: directly or through the proxy.
func (d *dialer) reach(ctx context.Context, addr string, shard int) (net.Conn, error) {
	if d.proxy == nil {
		return d.tcp(ctx, addr, shard)
	}
	return d.tunnel(ctx, addr, shard)
}

// tcp connects to addr from the shard's source address. With one, only addresses of its family are tried.
func (d *dialer) tcp(ctx context.Context, addr string, shard int) (net.Conn, error) {
	if d.cfg.NetDialContext != nil {
		conn, err := d.cfg.NetDialContext(ctx, "tcp", addr)
		if err == nil && conn == nil {
			err = errors.New("NetDialContext returned no connection")
		}
		if err != nil {
			return nil, &theirDialError{err}
		}
		return conn, nil
	}
	nd := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second}}
	network := "tcp"
	if source, _ := d.source(shard); source.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		network = "tcp6"
		if source.Unmap().Is4() {
			network = "tcp4"
		}
	}
	return nd.DialContext(ctx, network, addr)
}

// hostPort is where u is dialled.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// ended gives the reason for which ctx ended, where that is what broke the dial.
func ended(ctx context.Context, err error) error {
	var ne net.Error
	if at, ok := ctx.Deadline(); ok && errors.As(err, &ne) && ne.Timeout() && !time.Now().Before(at) {
		<-ctx.Done() // the socket's deadline was a moment before the context's
	}
	var he *HandshakeError
	var pe *ProxyError
	reason := context.Cause(ctx)
	switch {
	case err == nil, reason == nil:
		return err
	case errors.As(err, &he) && he.StatusCode != 0 && errors.Is(reason, context.DeadlineExceeded):
		return err // it has answered; only the rest of its page was not in time
	case errors.As(err, &pe):
		return &ProxyError{Proxy: pe.Proxy, Step: pe.Step, StatusCode: pe.StatusCode, Err: reason}
	}
	return reason
}

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// cut shortens an error whose text holds a peer's words.
func cut(err error) error {
	if text := err.Error(); printable(text) != text {
		return &cutError{err}
	}
	return err
}

type cutError struct{ err error }

func (e *cutError) Error() string                 { return printable(e.err.Error()) }
func (e *cutError) Unwrap() error                 { return e.err }
func (e *cutError) Format(f fmt.State, verb rune) { formatError(e, f, verb) }
