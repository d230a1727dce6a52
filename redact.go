package wsshard

import (
	"net/url"
	"slices"
	"strings"
)

// This file answers: how is an address shown without a credential in it?

// redactURL shows raw as scheme://host/…: no userinfo, path, query or fragment. What cannot be parsed shows nothing, and neither
// does what may be no scheme or no host at all: in "//token" and "token://" a secret stands where they should.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || !slices.Contains(schemes, u.Scheme) || !validHost(u) { // not user:password of which the "@" was forgotten
		return "…"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// schemes are those that somebody may mean.
var schemes = []string{"ws", "wss", "http", "https", "socks5", "socks5h", "socks4", "socks4a", "socks", "ftp", "tcp", "tls", "ssl"}

// redactRefused shows a proxy's URL that was refused. In one with an unescaped "/", "?" or "#" in its password, what is parsed
// as the host is the user.
func redactRefused(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.User == nil && strings.Contains(raw, "@") {
		return "…"
	}
	return redactURL(raw)
}

// redactProxy shows a proxy as scheme://host:port.
func redactProxy(u *url.URL) string { return u.Scheme + "://" + u.Host }
