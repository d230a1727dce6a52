package faults

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what may go wrong on the way through a proxy? Rows 16 to 19 and 21 of the matrix.

// via has a cell go through a proxy of this kind.
func via(scheme string) func(cfg *wsshard.Config) {
	return func(cfg *wsshard.Config) {
		cfg.Connection.Proxy = scheme + "://" + harness.CanaryURL + "proxy"
		cfg.Connection.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
	}
}

// agents are the proxies of a cell: each does its work unless the fault says otherwise.
type agents struct {
	mu      sync.Mutex // protects following fields
	instead func(c net.Conn)
	conns   []net.Conn
}

// hire starts the proxies that a cell may go through.
func (c *cell) hire() {
	c.agents = &agents{}
	works := &harness.ProxyServer{User: harness.CanaryUser, Password: harness.CanaryPassword, Dial: func(addr string) (net.Conn, error) {
		return c.Net.DialContext(context.Background(), "tcp", addr)
	}}
	secure := c.certify("proxy")
	overTLS := func(nc net.Conn) { works.Connect(tls.Server(nc, secure)) }
	for port, serve := range map[string]func(net.Conn){"80": works.Connect, "443": overTLS, "1080": works.Socks5} {
		harness.ServeConns(c.T, c.Net.Listen("proxy:"+port), func(nc net.Conn) {
			c.agents.mu.Lock()
			serve := serve
			if c.agents.instead != nil {
				serve = c.agents.instead
			} else {
				c.agents.conns = append(c.agents.conns, nc)
			}
			c.agents.mu.Unlock()
			serve(nc)
		})
	}
}

// bribe has the proxies do this instead of their work; nil ends that.
func (c *cell) bribe(instead func(nc net.Conn)) {
	if c.agents == nil {
		return
	}
	c.agents.mu.Lock()
	defer c.agents.mu.Unlock()
	c.agents.instead = instead
}

// tunnels returns the strikes of the bad proxies that are of a kind.
func tunnels(of func(b harness.BadProxy) bool) (all []strike) {
	for _, b := range harness.BadProxies {
		if !of(b) {
			continue
		}
		all = append(all, strike{
			name: b.Scheme + " " + b.Name, with: via(b.Scheme), is: b.IsIn, check: (*cell).wantOnlyTheProxy,
			do: func(c *cell, _ target) {
				if b.Serve == nil {
					c.Net.OnDial(refuseDial)
				} else {
					c.bribe(b.Serve)
				}
			},
		})
	}
	return all
}

// wantOnlyTheProxy checks that nobody dialled the server past the proxy.
func (c *cell) wantOnlyTheProxy() {
	c.T.Helper()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	for _, d := range c.dialled {
		if !strings.HasPrefix(d.addr, "proxy:") {
			c.T.Errorf("dialled %s", d.addr)
		}
	}
}

func overSOCKS(b harness.BadProxy) bool { return strings.HasPrefix(b.Scheme, "socks5") }

var proxyFaults = []*row{
	{no: 16, name: "proxy_auth", kind: dialFault, setup: (*cell).hire, real: "internal/realworld/proxies: TestRealProxies",
		strikes: tunnels(func(b harness.BadProxy) bool { return b.Step == "auth" })},
	{no: 17, name: "proxy_dies", kind: linkFault, real: "internal/realworld/servers: TestSoak", setup: (*cell).hire, strikes: func() (all []strike) {
		for _, scheme := range []string{"http", "socks5"} {
			all = append(all, strike{name: scheme, with: via(scheme), check: (*cell).wantOnlyTheProxy, do: soon(func(c *cell, at target) {
				c.agents.mu.Lock()
				defer c.agents.mu.Unlock()
				c.agents.conns[at.peer.Index()].Close()
			}), is: harness.Is(io.ErrUnexpectedEOF)})
		}
		return all
	}()},
	{no: 18, name: "proxy_junk", kind: dialFault, setup: (*cell).hire,
		strikes: tunnels(func(b harness.BadProxy) bool { return b.Step != "auth" && b.Step != "" && !overSOCKS(b) })},
	{no: 19, name: "early_data", kind: dialFault, setup: (*cell).hire, strikes: tunnels(func(b harness.BadProxy) bool { return b.Step == "" })},
	{no: 21, name: "socks", kind: dialFault, setup: (*cell).hire, strikes: append(tunnels(func(b harness.BadProxy) bool { return b.Step != "auth" && b.Step != "" && overSOCKS(b) }),
		strike{name: "silence", with: via("socks5"), is: harness.Is(context.DeadlineExceeded), check: afterTenSeconds, do: func(c *cell, _ target) {
			c.bribe(func(nc net.Conn) { io.Copy(io.Discard, nc) })
		}})},
}
