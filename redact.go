package wsshard

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// This file answers: how is an address shown without a credential in it?

// redactURL shows raw as scheme://host/…: no userinfo, path, query or fragment. What cannot be parsed shows nothing.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || strings.ContainsAny(u.Host, "\r\n") || !utf8.ValidString(u.Host) {
		return "…"
	}
	if !strings.HasPrefix(u.Host, "[") && strings.Count(u.Host, ":") > 1 { // user:password of which the "@" was forgotten
		return "…"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

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
