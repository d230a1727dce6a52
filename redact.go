package wsshard

import (
	"net/url"
	"strings"
)

// This file answers: how is an address shown without a credential in it?

// redactURL shows raw as scheme://host/…: no userinfo, path, query or fragment. What cannot be parsed shows nothing.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || strings.ContainsAny(u.Host, "\r\n") {
		return "…"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// redactProxy shows a proxy as scheme://host:port.
func redactProxy(u *url.URL) string { return u.Scheme + "://" + u.Host }
