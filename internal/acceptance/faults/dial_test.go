package faults

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
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what keeps a connection from being made? Rows 14, 15, 22, 47, 48, 50, 51, 52 and 53 of the matrix.

// dialFails is a strike in which every dial fails in this way.
func dialFails(name string, err error) strike {
	return strike{
		name: name, is: harness.Is(err),
		do: func(c *cell, _ target) { c.Net.OnDial(func(context.Context, int, string) error { return err }) },
	}
}

// dialHangs is a strike in which no dial is answered.
func dialHangs(name string) strike {
	return strike{name: name, is: harness.Is(context.DeadlineExceeded), do: func(c *cell, _ target) { c.Net.OnDial(harness.HangingDial) }, check: afterTenSeconds}
}

// afterTenSeconds checks that attempts ended with ConnectTimeout, not before or after.
func afterTenSeconds(c *cell) {
	for i, f := range c.Failures() {
		var de *wsshard.DialError
		if d := f.At.Sub(c.dialTimes()[i]); errors.As(f.Err, &de) && d != 10*time.Second {
			c.T.Errorf("an attempt failed after %v", d)
		}
	}
}

// onOurSide checks that what went wrong here is not held against the host: no breaker opens.
func onOurSide(c *cell) {
	if c.phase() == switching {
		return
	}
	c.until("failed often", func() bool { return len(c.Failures()) > 7 })
	if n := c.M.Metrics().CircuitBreakerTrips; n != 0 {
		c.T.Errorf("the circuit breaker opened %d times", n)
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
		{name: "silence", is: harness.Is(context.DeadlineExceeded), do: mumbles(""), check: onlyTLS},
		{name: "half a record", is: harness.Is(context.DeadlineExceeded), do: mumbles("\x16\x03\x03\x00"), check: onlyTLS},
		{name: "no TLS there", is: func(err error) bool { var e tls.RecordHeaderError; return errors.As(err, &e) },
			do: mumbles("HTTP/1.1 400 " + harness.Canary + "\r\n\r\n"), check: onlyTLS},
	}, not: map[phase]string{steady: "nothing is dialled; a certificate that runs out meanwhile: TestTLSThatExpiresWhileRunning"}},
	{no: 47, name: "credentials", kind: dialFault, strikes: func() (all []strike) { // every cell looks for them; here they are what is wrong
		for name, url := range map[string]string{
			"URL with a user, that is none": "ws://" + harness.Canary + ":" + harness.Canary + "@/", "URL with a fragment": "ws://srv/#" + harness.Canary, "URL that is none": "ws://srv/%zz" + harness.Canary,
			"URL with a newline": "ws://srv/?" + harness.Canary + "\n", "URL of another kind": "http://srv/" + harness.Canary, "URL without a scheme": harness.Canary,
			"URL with a bad port": "ws://srv:80:80/" + harness.Canary, "URL without a host": "ws:///" + harness.Canary, "opaque URL": "ws:" + harness.Canary,
			"URL with a bad host": "ws://s rv/" + harness.Canary, "URL not parsed twice": "ws://[::%25\xc0]/" + harness.Canary, "URL with a bad escape": "ws://%zz" + harness.Canary + "@srv/",
		} {
			all = append(all, strike{name: name, is: harness.Is(wsshard.ErrInvalidURL), check: notDialled, do: func(c *cell, _ target) {
				c.set(func(h *hooks) { h.url = func(context.Context) (string, error) { return url, nil } })
			}})
		}
		return all
	}()},
	{no: 48, name: "headers", kind: dialFault, strikes: func() (all []strike) {
		for name, h := range map[string]http.Header{
			"newline": {"Authorization": {harness.Canary + "\r\nX-Evil: 1"}}, "NUL": {"Authorization": {harness.Canary + "\x00"}}, "bad name": {"A B": {harness.Canary}},
			"reserved": {"Upgrade": {harness.Canary}}, "reserved in lower case": {"upgrade": {harness.Canary}}, "bad Host": {"Host": {harness.Canary + "/"}},
		} {
			all = append(all, strike{name: name, is: harness.Is(wsshard.ErrInvalidHeader), check: notDialled, do: func(c *cell, _ target) {
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
	}, strikes: []strike{{do: dialFails("", syscall.ECONNREFUSED).do, is: harness.Is(syscall.ECONNREFUSED), check: breakerOpens}}},
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
			c.Net.OnDial(refuseDial)
			c.set(func(h *hooks) { h.onError = func(error) bool { return false } })
		}},
		{name: "sessions that do not last", do: func(c *cell, _ target) { c.Srv.OnOpen(killPeer) }},
	}},
}

var errNoSuitable = errors.New("no suitable address found")

// breakerOpens checks that an open breaker lets one probe through each time, and refuses a switchover at once.
func breakerOpens(c *cell) {
	if c.phase() == switching {
		if err := c.switchover(); !errors.Is(err, syscall.ECONNREFUSED) {
			c.T.Errorf("the second switchover: %v", err)
		}
		if err := c.switchover(); !errors.Is(err, wsshard.ErrCircuitOpen) {
			c.T.Errorf("a switchover while it is open: %v", err)
		}
		nap(10 * time.Second) // the next one may be the probe
		return
	}
	opened := c.Failures()[len(c.Failures())-1].At
	nap(35*time.Second - time.Since(opened))
	steps, last, n := []float64{0.25, 0.5, 1, 2, 4, 8, 10, 10}, opened, 0
	for _, dial := range c.dialTimes() {
		if dial.After(opened) {
			if d := dial.Sub(last).Seconds(); d < steps[n] || d > 1.1*steps[n] {
				c.T.Errorf("probe %d after %v s more", n+1, d)
			}
			last = dial
			n++
		}
	}
	if n < 7 {
		c.T.Errorf("%d probes", n)
	}
	if c.Heard(wsshard.EventBreakerOpen) != 1 {
		c.T.Errorf("it opened %d times", c.Heard(wsshard.EventBreakerOpen))
	}
}

// givesUp waits until the shard is parked, which everybody is told, and revives it when the fault is over.
func (c *cell) givesUp() {
	c.T.Helper()
	c.until("parked", func() bool { return c.state() == wsshard.ShardParked })
	if n := c.Heard(wsshard.EventParked); n != 1 {
		c.T.Errorf("%d events say so", n)
	}
	err := c.M.Sync(context.Background())
	c.Say(err)
	if h := c.M.Health(1); !errors.Is(err, wsshard.ErrShardParked) || h.Healthy {
		c.T.Errorf("Sync: %v; health %+v", err, h)
	}
	dials := c.Net.Dials()
	nap(time.Hour)
	if n := c.Net.Dials() - dials; n != 0 {
		c.T.Errorf("%d dials of a parked shard", n)
	}
	c.heal()
	if err := c.M.Reconnect(0); err != nil {
		c.T.Errorf("Reconnect: %v", err)
	}
}

// notDialled checks that what was refused was not dialled either.
func notDialled(c *cell) {
	known := 0 // the connection that the phase began with
	if c.phase() != connecting {
		known = 1
	}
	if n := len(c.dialTimes()); n != known {
		c.T.Errorf("%d dials, want %d", n, known)
	}
}

func onlyTLS(c *cell) { c.wantDialled("srv:443") }

// wantDialled checks that nothing but one address was dialled.
func (c *cell) wantDialled(want string) {
	c.T.Helper()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	for _, d := range c.dialled {
		if d.addr != want {
			c.T.Errorf("dialled %s", d.addr)
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
		c.ServeMute("raw:80", text)
		c.leadTo("raw:80")
	}
}

// front puts TLS before the server.
func (c *cell) front() {
	server := c.certify("srv")
	harness.ServeConns(c.T, c.Net.Listen("srv:443"), func(nc net.Conn) {
		s := tls.Server(nc, server)
		if s.Handshake() != nil {
			return
		}
		if out, err := c.Net.DialContext(context.Background(), "tcp", "srv:80"); err == nil {
			harness.JoinConns(s, s, out)
		}
	})
}

// certify makes an authority that the client trusts, and the config of a server that shows its certificate, or another one
// while the fault is on. Sessions are not resumed, or no certificate would be looked at.
func (c *cell) certify(host string) *tls.Config {
	c.ca = wstest.NewAuthority(c.T)
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
