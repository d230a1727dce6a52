package wsshard_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what keeps a connection from being made? Rows 14, 15, 22, 47, 48, 50, 51, 52 and 53 of the matrix.

// dialFails is a strike in which every dial fails in this way.
func dialFails(name string, err error) strike {
	return strike{
		name: name, is: is(err),
		do: func(c *cell, _ target) { c.net.OnDial(func(context.Context, int, string) error { return err }) },
	}
}

// dialHangs is a strike in which no dial is answered.
func dialHangs(name string) strike {
	return strike{name: name, is: is(context.DeadlineExceeded), do: func(c *cell, _ target) { c.net.OnDial(hang) }, check: afterTenSeconds}
}

// afterTenSeconds checks that attempts ended with ConnectTimeout, not before or after.
func afterTenSeconds(c *cell) {
	for i, f := range c.failures() {
		var de *wsshard.DialError
		if d := f.at.Sub(c.dialTimes()[i]); errors.As(f.err, &de) && d != 10*time.Second {
			c.t.Errorf("an attempt failed after %v", d)
		}
	}
}

// onOurSide checks that what went wrong here is not held against the host: no breaker opens.
func onOurSide(c *cell) {
	if c.phase() == switching {
		return
	}
	c.until("failed often", func() bool { return len(c.failures()) > 7 })
	if n := c.m.Metrics().CircuitBreakerTrips; n != 0 {
		c.t.Errorf("the circuit breaker opened %d times", n)
	}
}

// atHome is a strike in which dials fail on our side.
func atHome(name string, err error) strike {
	s := dialFails(name, err)
	s.check = onOurSide
	return s
}

var dialFaults = []*row{
	{no: 14, name: "dns", kind: dialFault, strikes: []strike{ // with a real resolver: TestNames, TestSilentResolver
		dialFails("no such name", &net.DNSError{Name: "srv", Err: "no such host", IsNotFound: true}),
		dialFails("server failure", &net.DNSError{Name: "srv", Err: "server misbehaving", IsTemporary: true}),
		dialHangs("silence"),
	}},
	{no: 15, name: "refused", kind: dialFault, real: "internal/realworld/servers: TestSoak", strikes: []strike{
		dialFails("refused", syscall.ECONNREFUSED), dialFails("reset", syscall.ECONNRESET),
		dialFails("host unreachable", syscall.EHOSTUNREACH), dialFails("network unreachable", syscall.ENETUNREACH),
		dialHangs("packets dropped"),
	}},
	{no: 22, name: "tls", kind: dialFault, scheme: "wss", setup: (*cell).front, with: func(cfg *wsshard.Config) {
		cfg.Connection.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		cfg.Health.DataTimeout = -1
	}, strikes: []strike{
		badCertificate("expired", func(ca *wstest.Authority) tls.Certificate {
			return ca.IssueFrom(time.Now().Add(-2*time.Hour), time.Hour, "srv")
		}, expired),
		badCertificate("not yet valid", func(ca *wstest.Authority) tls.Certificate {
			return ca.IssueFrom(time.Now().Add(time.Hour), time.Hour, "srv")
		}, expired),
		badCertificate("wrong name", func(ca *wstest.Authority) tls.Certificate { return ca.Issue(time.Hour, "other") },
			func(err error) bool { var e x509.HostnameError; return errors.As(err, &e) }),
		badCertificate("unknown authority", func(ca *wstest.Authority) tls.Certificate { return wstest.NewAuthority(ca.T).Issue(time.Hour, "srv") },
			func(err error) bool { var e x509.UnknownAuthorityError; return errors.As(err, &e) }),
		{name: "silence", is: is(context.DeadlineExceeded), do: mumbles(""), check: onlyTLS},
		{name: "half a record", is: is(context.DeadlineExceeded), do: mumbles("\x16\x03\x03\x00"), check: onlyTLS},
		{name: "no TLS there", is: func(err error) bool { var e tls.RecordHeaderError; return errors.As(err, &e) },
			do: mumbles("HTTP/1.1 400 " + canary + "\r\n\r\n"), check: onlyTLS},
	}, not: map[phase]string{steady: "nothing is dialled; a certificate that runs out meanwhile: TestTLSThatExpiresWhileRunning"}},
	{no: 47, name: "credentials", kind: dialFault, strikes: func() (all []strike) { // every cell looks for them; here they are what is wrong
		for name, url := range map[string]string{
			"URL with a user, that is none": "ws://" + canary + ":" + canary + "@/", "URL with a fragment": "ws://srv/#" + canary, "URL that is none": "ws://srv/%zz" + canary,
			"URL with a newline": "ws://srv/?" + canary + "\n", "URL of another kind": "http://srv/" + canary, "URL without a scheme": canary,
			"URL with a bad port": "ws://srv:80:80/" + canary, "URL without a host": "ws:///" + canary, "opaque URL": "ws:" + canary,
			"URL with a bad host": "ws://s rv/" + canary, "URL not parsed twice": "ws://[::%25\xc0]/" + canary, "URL with a bad escape": "ws://%zz" + canary + "@srv/",
		} {
			all = append(all, strike{name: name, is: is(wsshard.ErrInvalidURL), check: notDialled, do: func(c *cell, _ target) {
				c.set(func(h *hooks) { h.url = func(context.Context) (string, error) { return url, nil } })
			}})
		}
		return all
	}()},
	{no: 48, name: "headers", kind: dialFault, strikes: func() (all []strike) {
		for name, h := range map[string]http.Header{
			"newline": {"Authorization": {canary + "\r\nX-Evil: 1"}}, "NUL": {"Authorization": {canary + "\x00"}}, "bad name": {"A B": {canary}},
			"reserved": {"Upgrade": {canary}}, "reserved in lower case": {"upgrade": {canary}}, "bad Host": {"Host": {canary + "/"}},
		} {
			all = append(all, strike{name: name, is: is(wsshard.ErrInvalidHeader), check: notDialled, do: func(c *cell, _ target) {
				c.set(func(k *hooks) { k.header = func(context.Context) (http.Header, error) { return h, nil } })
			}})
		}
		return all
	}()},
	{no: 50, name: "source_address", kind: dialFault, real: "internal/realworld/proxies: TestShardsOverAddresses", strikes: []strike{
		atHome("gone", &net.OpError{Op: "dial", Err: syscall.EADDRNOTAVAIL}), atHome("all ports busy", &net.OpError{Op: "dial", Err: syscall.EADDRINUSE}),
		atHome("wrong family", &net.OpError{Op: "dial", Err: errNoSuitable}),
	}},
	{no: 51, name: "descriptors", kind: dialFault, strikes: []strike{ // with real ones: TestDescriptorsRunOut
		atHome("of the process", &net.OpError{Op: "dial", Err: syscall.EMFILE}), atHome("of the machine", &net.OpError{Op: "dial", Err: syscall.ENFILE}),
	}},
	{no: 52, name: "breaker", kind: dialFault, with: func(cfg *wsshard.Config) {
		cfg.Connection.CircuitBreakerThreshold, cfg.Connection.CircuitBreakerResetTimeout = 2, 10*time.Second
	}, strikes: []strike{{do: dialFails("", syscall.ECONNREFUSED).do, is: is(syscall.ECONNREFUSED), check: breakerOpens}}},
	{no: 53, name: "gives_up", own: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.do(c, target{})
			c.launch()
			c.givesUp()
		}),
		backoff: only(func(c *cell) {
			c.settle()
			c.do(c, target{})
			c.only().Kill()
			c.givesUp()
		}),
	}, not: map[phase]string{
		steady: "a shard that is connected attempts nothing", switching: "a switchover that fails counts nothing: the shard is connected",
	}, with: func(cfg *wsshard.Config) { cfg.Connection.MaxConnectAttempts = 3 }, strikes: []strike{
		dialFails("attempts", syscall.ECONNREFUSED),
		{name: "OnError", do: func(c *cell, at target) {
			c.net.OnDial(refuseDial)
			c.set(func(h *hooks) { h.onError = func(error) bool { return false } })
		}},
		{name: "sessions that do not last", do: func(c *cell, _ target) { c.srv.OnOpen(killPeer) }},
	}},
}

var errNoSuitable = errors.New("no suitable address found")

// breakerOpens checks that an open breaker lets one probe through each time, and refuses a switchover at once.
func breakerOpens(c *cell) {
	if c.phase() == switching {
		if err := c.switchover(); !errors.Is(err, syscall.ECONNREFUSED) {
			c.t.Errorf("the second switchover: %v", err)
		}
		if err := c.switchover(); !errors.Is(err, wsshard.ErrCircuitOpen) {
			c.t.Errorf("a switchover while it is open: %v", err)
		}
		nap(10 * time.Second) // the next one may be the probe
		return
	}
	opened := c.failures()[len(c.failures())-1].at
	nap(35*time.Second - time.Since(opened))
	steps, last, n := []float64{0.25, 0.5, 1, 2, 4, 8, 10, 10}, opened, 0
	for _, dial := range c.dialTimes() {
		if dial.After(opened) {
			if d := dial.Sub(last).Seconds(); d < steps[n] || d > 1.1*steps[n] {
				c.t.Errorf("probe %d after %v s more", n+1, d)
			}
			last = dial
			n++
		}
	}
	if n < 7 {
		c.t.Errorf("%d probes", n)
	}
	if c.heard(wsshard.EventBreakerOpen) != 1 {
		c.t.Errorf("it opened %d times", c.heard(wsshard.EventBreakerOpen))
	}
}

// givesUp waits until the shard is parked, which everybody is told, and revives it when the fault is over.
func (c *cell) givesUp() {
	c.t.Helper()
	c.until("parked", func() bool { return c.state() == wsshard.ShardParked })
	if n := c.heard(wsshard.EventParked); n != 1 {
		c.t.Errorf("%d events say so", n)
	}
	err := c.m.Sync(context.Background())
	c.say(err)
	if h := c.m.Health(1); !errors.Is(err, wsshard.ErrShardParked) || h.Healthy {
		c.t.Errorf("Sync: %v; health %+v", err, h)
	}
	dials := c.net.Dials()
	nap(time.Hour)
	if n := c.net.Dials() - dials; n != 0 {
		c.t.Errorf("%d dials of a parked shard", n)
	}
	c.heal()
	if err := c.m.Reconnect(0); err != nil {
		c.t.Errorf("Reconnect: %v", err)
	}
}

// notDialled checks that what was refused was not dialled either.
func notDialled(c *cell) {
	known := 0 // the connection that the phase began with
	if c.phase() != connecting {
		known = 1
	}
	if n := len(c.dialTimes()); n != known {
		c.t.Errorf("%d dials, want %d", n, known)
	}
}

func onlyTLS(c *cell) { c.wantDialled("srv:443") }

// wantDialled checks that nothing but one address was dialled.
func (c *cell) wantDialled(want string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dialled {
		if d.addr != want {
			c.t.Errorf("dialled %s", d.addr)
		}
	}
}

func expired(err error) bool {
	var e x509.CertificateInvalidError
	return errors.As(err, &e) && e.Reason == x509.Expired
}

func badCertificate(name string, issue func(ca *wstest.Authority) tls.Certificate, is func(error) bool) strike {
	return strike{name: name, is: is, check: onlyTLS, do: func(c *cell, _ target) { c.show(issue(c.ca)) }}
}

// mumbles has dials reach somebody who says this and nothing more.
func mumbles(text string) func(c *cell, _ target) {
	return func(c *cell, _ target) {
		c.serveMute("raw:80", text)
		c.leadTo("raw:80")
	}
}

// front puts TLS before the server.
func (c *cell) front() {
	server := c.certify("srv")
	serveConns(c.t, c.net.Listen("srv:443"), func(nc net.Conn) {
		s := tls.Server(nc, server)
		if s.Handshake() != nil {
			return
		}
		if out, err := c.net.DialContext(context.Background(), "tcp", "srv:80"); err == nil {
			join(s, s, out)
		}
	})
}

// certify makes an authority that the client trusts, and the config of a server that shows its certificate, or another one
// while the fault is on. Sessions are not resumed, or no certificate would be looked at.
func (c *cell) certify(host string) *tls.Config {
	c.ca = wstest.NewAuthority(c.t)
	c.cfg.Connection.TLSConfig.RootCAs.AddCert(c.ca.Cert)
	good := c.ca.Issue(100*time.Hour, host)
	c.good = &good
	c.shown.Store(c.good)
	return &tls.Config{
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.shown.Load(), nil },
		SessionTicketsDisabled: true,
	}
}

// show changes the certificate.
func (c *cell) show(cert tls.Certificate) { c.shown.Store(&cert) }
