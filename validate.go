package wsshard

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// This file answers: what does New refuse?

// validate reports every bad field of c, whose defaults are filled in.
func (c Config) validate() error {
	var errs []error
	refuse := func(field string, value any, reason string) {
		errs = append(errs, &ConfigError{Field: field, Value: value, Reason: reason})
	}
	for _, f := range []struct {
		field string
		value time.Duration
	}{
		{"Connection.ConnectTimeout", c.Connection.ConnectTimeout},
		{"Connection.WriteTimeout", c.Connection.WriteTimeout},
		{"Backoff.InitialDelay", c.Backoff.InitialDelay},
		{"Backoff.MaxDelay", c.Backoff.MaxDelay},
		{"Backoff.StableAfter", c.Backoff.StableAfter},
		{"Subscribe.Window", c.Subscribe.Window},
	} {
		if f.value < 0 {
			refuse(f.field, f.value, "must not be negative")
		}
	}
	if n := c.Connection.ShardsPerIP; n < 0 {
		refuse("Connection.ShardsPerIP", n, "must not be negative")
	}
	if n := c.Connection.ReadBufferSize; n < 0 {
		refuse("Connection.ReadBufferSize", n, "must not be negative")
	}
	if m := c.Backoff.Multiplier; math.IsNaN(m) || math.IsInf(m, 0) || m < 1 {
		refuse("Backoff.Multiplier", m, "must be a number of at least 1")
	}
	if b := c.Backoff; b.InitialDelay >= 0 && b.MaxDelay >= 0 && b.MaxDelay < b.InitialDelay {
		refuse("Backoff.MaxDelay", b.MaxDelay, fmt.Sprintf("must not be less than InitialDelay, %v", b.InitialDelay))
	}
	h := c.Health
	if h.PingInterval > 0 && h.PongTimeout > h.PingInterval {
		refuse("Health.PongTimeout", h.PongTimeout, fmt.Sprintf("must not be more than PingInterval, %v", h.PingInterval))
	}
	if h.PingInterval > 0 && h.DataTimeout > 0 && h.DataTimeout < h.PingInterval {
		refuse("Health.DataTimeout", h.DataTimeout, fmt.Sprintf("must not be less than PingInterval, %v", h.PingInterval))
	}
	for _, f := range []struct{ field, value string }{{"Health.TextPing", h.TextPing}, {"Health.TextPong", h.TextPong}} {
		if !utf8.ValidString(f.value) {
			refuse(f.field, fmt.Sprintf("%q", f.value), "must be UTF-8")
		}
	}
	if s := c.ShardSelection; s < LeastLoaded || s > Sequential {
		refuse("ShardSelection", int(s), "is no strategy")
	}
	c.Connection.validateEgress(refuse)
	c.Connection.validateHeaders(refuse)
	return errors.Join(errs...)
}

func (c ConnectionConfig) validateEgress(refuse func(string, any, string)) {
	seen := make(map[netip.Addr]bool)
	for i, ip := range c.SourceIPs {
		addr, err := parseSource(ip)
		if err == nil && seen[addr] {
			err = errors.New("is there twice")
		}
		if err != nil {
			refuse(fmt.Sprintf("Connection.SourceIPs[%d]", i), fmt.Sprintf("%q", ip), err.Error())
		}
		seen[addr] = true
	}
	if len(c.SourceIPs) > 0 && c.NetDialContext != nil {
		refuse("Connection.SourceIPs", c.SourceIPs, "cannot be bound where NetDialContext dials")
	}
	if c.Proxy != "" {
		if _, err := parseProxy(c.Proxy); err != nil {
			refuse("Connection.Proxy", redactRefused(c.Proxy), err.Error())
		}
	}
}

// parseSource accepts an address that a connection can come from. An IPv4 address in IPv6's clothes is an IPv4 address.
func parseSource(ip string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(ip)
	addr = addr.Unmap()
	switch {
	case err != nil:
		return addr, errors.New("must be an IPv4 or IPv6 address")
	case addr.WithZone("").IsUnspecified():
		return addr, errors.New("is no address of its own: leave it out")
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return addr, errors.New("is multicast or broadcast: nothing can come from there")
	}
	return addr, nil
}

func (c ConnectionConfig) validateHeaders(refuse func(string, any, string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Header)) {
		if err := checkHeader(c.Header, name); err != nil {
			refuse(fmt.Sprintf("Connection.Header[%q]", name), "…", err.Error())
		}
	}
	for i, p := range c.Subprotocols {
		if !httpguts.ValidHeaderFieldName(p) { // a subprotocol is an HTTP token too
			refuse(fmt.Sprintf("Connection.Subprotocols[%d]", i), "…", "must be an HTTP token") // some carry a token in it
		}
	}
}

// reserved are the headers that the handshake itself sets.
var reserved = []string{
	"Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions",
	"Sec-Websocket-Protocol", "Sec-Websocket-Accept", "Content-Length", "Transfer-Encoding", "Trailer", "Te",
}

// checkHeader refuses what would change the handshake request. net/http would launder some of it in silence.
func checkHeader(h http.Header, name string) error {
	values := h[name]
	for other := range h {
		if other != name && strings.EqualFold(other, name) {
			return errors.New("is there in two spellings")
		}
	}
	if !httpguts.ValidHeaderFieldName(name) {
		return errors.New("is no header name")
	}
	if slices.Contains(reserved, http.CanonicalHeaderKey(name)) {
		return errors.New("belongs to the handshake")
	}
	for _, v := range values {
		if !httpguts.ValidHeaderFieldValue(v) {
			return errors.New("has a value with a control character")
		}
	}
	if http.CanonicalHeaderKey(name) == "Host" && (len(values) != 1 || !httpguts.ValidHostHeader(values[0]) || values[0] == "") {
		return errors.New("must be one host")
	}
	return nil
}

// parseProxy accepts socks5, socks5h, http and https URLs and adds the default port.
func parseProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil { // its text carries the whole URL
		return nil, errors.New("cannot be parsed as a URL")
	}
	ports := map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80", "https": "443"}
	port, ok := ports[u.Scheme]
	switch {
	case !ok:
		return nil, errors.New("scheme must be socks5, socks5h, http or https")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("must not have a path, query or fragment")
	case !validPort(u.Port()):
		return nil, errors.New("has an impossible port")
	case !validHost(u):
		return nil, errors.New("has an impossible host")
	}
	user, password := "", ""
	if u.User != nil {
		user = u.User.Username()
		password, _ = u.User.Password()
	}
	switch socks := strings.HasPrefix(u.Scheme, "socks5"); {
	case socks && (len(user) > 255 || len(password) > 255):
		return nil, errors.New("user and password may have 255 bytes each")
	case socks && u.User != nil && user == "": // RFC 1929 has no way to say so
		return nil, errors.New("password needs a user")
	case !socks && strings.Contains(user, ":"):
		return nil, errors.New("user must not contain a colon")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

// validHost finds what url.Parse lets pass and nobody can dial: host:1:2, an IPv6 address without its brackets, brackets
// without an IPv6 address. It makes an international name an ASCII one.
func validHost(u *url.URL) bool {
	if strings.HasPrefix(u.Host, "[") {
		addr, err := netip.ParseAddr(u.Hostname())
		return err == nil && addr.Is6() && !strings.Contains(addr.Zone(), "]")
	}
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil || !utf8.ValidString(u.Host) || !httpguts.ValidHostHeader(host) {
		return false
	}
	u.Host = host
	return u.Hostname() != "" && !strings.ContainsAny(u.Hostname(), ":[]")
}

func parsesAgain(u *url.URL) bool {
	_, err := url.Parse(u.String())
	return err == nil
}

// parseURL accepts what Handler.URL may return. Its error names no more than scheme and host.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	reason := ""
	switch {
	case err != nil: // its text carries the whole URL
		reason = "cannot be parsed"
	case u.Scheme != "ws" && u.Scheme != "wss":
		reason = "scheme must be ws or wss"
	case u.Hostname() == "":
		reason = "has no host"
	case !validPort(u.Port()):
		reason = "has an impossible port"
	case u.Fragment != "":
		reason = "must not carry a fragment"
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		reason = "contains white space or a control character"
	case !validHost(u), !parsesAgain(u): // or it would be parsed again further on, by those whose error carries all of it
		reason = "has an impossible host"
	default:
		return u, nil
	}
	return nil, fmt.Errorf("%w: %s %s", ErrInvalidURL, redactURL(raw), reason)
}
