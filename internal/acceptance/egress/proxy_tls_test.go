package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: are TLS and proxies what they should be on real sockets, alone and together?

// hello is what a TLS client said of itself.
type hello struct {
	mu    sync.Mutex
	names []string
}

// listen makes c note the names that clients ask for.
func (h *hello) listen(c *tls.Config) *tls.Config {
	c.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.names = append(h.names, info.ServerName)
		return nil, nil
	}
	return c
}

// Through each kind of proxy, to a name that only the proxy knows, with and without TLS, with and without a source address.
func TestThroughProxies(t *testing.T) {
	ca := wstest.NewAuthority(t)
	var atServer, atProxy hello
	plain := harness.StartLive(t, "127.0.0.1:0", nil)
	secure := harness.StartLive(t, "127.0.0.1:0", atServer.listen(ca.Server("feed.test")))
	for _, scheme := range []string{"socks5", "socks5h", "http", "https"} {
		p := &harness.ProxyServer{User: harness.CanaryUser, Password: harness.CanaryPassword, Dial: func(addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			if host != "feed.test" {
				return nil, errors.New("unknown")
			}
			return net.Dial("tcp", "127.0.0.1:"+port)
		}}
		serve, tc := p.Socks5, (*tls.Config)(nil)
		if strings.HasPrefix(scheme, "http") {
			serve = p.Connect
		}
		if scheme == "https" {
			tc = atProxy.listen(ca.Server("localhost"))
		}
		addr := harness.StartProxy(t, "127.0.0.1:0", tc, serve)
		addr = strings.Replace(addr, "127.0.0.1", "localhost", 1)
		for _, source := range []string{"", "127.0.0.99"} {
			for _, srv := range []*harness.LiveServer{plain, secure} {
				url := strings.Replace(srv.URL, "127.0.0.1", "feed.test", 1)
				cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{
					Proxy: harness.ProxyURL(scheme, addr), TLSConfig: &tls.Config{RootCAs: ca.Pool},
				}}
				egress := scheme + "://" + addr
				if source != "" {
					cfg.Connection.SourceIPs = []string{source}
					egress = source + " via " + egress
				}
				name := fmt.Sprintf("%s from %q to %s", scheme, source, url)
				_, st, err := call(t, url, cfg)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if st.Egress != egress {
					t.Errorf("%s: egress %q, want %q", name, st.Egress, egress)
				}
				targets, clients := p.Asked()
				if got := targets[len(targets)-1]; got != "feed.test:"+srv.Port() {
					t.Errorf("%s: the proxy was asked for %q", name, got)
				}
				if got := clients[len(clients)-1]; source != "" && !strings.HasPrefix(got, source+":") {
					t.Errorf("%s: the proxy saw %s", name, got)
				}
			}
		}
	}
	if got := slices.Compact(atServer.names); !slices.Equal(got, []string{"feed.test"}) {
		t.Errorf("the server was asked for %q", got)
	}
	if got := slices.Compact(atProxy.names); !slices.Equal(got, []string{"localhost"}) {
		t.Errorf("the https proxy was asked for %q", got)
	}
}

// Real sockets again: what a good proxy says of a bad request.
func TestProxiesThatRefuse(t *testing.T) {
	for _, c := range []struct {
		scheme, step string
		status       int
		wrong        bool // the password
	}{
		{"socks5", "auth", 0, true}, {"http", "auth", 407, true}, {"socks5", "connect", 0, false}, {"http", "connect", 502, false},
	} {
		p := &harness.ProxyServer{User: harness.CanaryUser, Password: harness.CanaryPassword, Dial: func(string) (net.Conn, error) { return nil, io.EOF }}
		if c.wrong {
			p.Password = "another"
		}
		serve := p.Socks5
		if c.scheme == "http" {
			serve = p.Connect
		}
		cfg := wsshard.Config{}
		cfg.Connection.Proxy = harness.ProxyURL(c.scheme, harness.StartProxy(t, "127.0.0.1:0", nil, serve))
		_, _, err := call(t, "ws://feed.test/", cfg)
		var pe *wsshard.ProxyError
		if !errors.As(err, &pe) || pe.Step != c.step || pe.StatusCode != c.status {
			t.Errorf("%s: %v, want step %s, status %d", c.scheme, err, c.step, c.status)
		}
		wantNoCanary(t, c.scheme, chain(err)...)
	}
}

// TLSConfig.ServerName is the server's; an https proxy is asked for, and checked against, its own name.
func TestServerNameIsNotTheProxys(t *testing.T) {
	ca := wstest.NewAuthority(t)
	var atServer, atProxy hello
	srv := harness.StartLive(t, "127.0.0.1:0", atServer.listen(ca.Server("name.test")))
	p := &harness.ProxyServer{Dial: func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }}
	addr := harness.StartProxy(t, "127.0.0.1:0", atProxy.listen(ca.Server("127.0.0.1")), p.Connect)
	cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{
		Proxy: "https://" + addr, TLSConfig: &tls.Config{RootCAs: ca.Pool, ServerName: "name.test"},
	}}
	if _, _, err := call(t, srv.URL, cfg); err != nil {
		t.Error(err)
	}
	if !slices.Equal(atServer.names, []string{"name.test"}) || !slices.Equal(atProxy.names, []string{""}) {
		t.Errorf("asked for %q at the server, %q at the proxy", atServer.names, atProxy.names)
	}
	bad := harness.StartProxy(t, "127.0.0.1:0", ca.Server("name.test"), p.Connect)
	cfg.Connection.Proxy = "https://" + bad
	_, _, err := call(t, srv.URL, cfg)
	var pe *wsshard.ProxyError
	var he x509.HostnameError
	if !errors.As(err, &pe) || pe.Step != "tls" || !errors.As(err, &he) {
		t.Errorf("a proxy with the server's name: %v", err)
	}
}

func TestTLSErrorsAreTyped(t *testing.T) {
	ca, other := wstest.NewAuthority(t), wstest.NewAuthority(t)
	expired := ca.Sign(&x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(-time.Second)})
	strict := ca.Server("127.0.0.1")
	strict.ClientAuth, strict.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	old := ca.Server("127.0.0.1")
	old.MaxVersion = tls.VersionTLS11
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	for _, c := range []struct {
		name   string
		server *tls.Config
		as     []any
		says   string
	}{
		{"unknown authority", other.Server("127.0.0.1"), []any{&unknown, &verify}, "unknown authority"},
		{"wrong name", ca.Server("elsewhere.test"), []any{&name, &verify}, "127.0.0.1"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{expired}}, []any{&invalid, &verify}, "expired"},
		{"no client certificate", strict, nil, "certificate required"},
		{"too old", old, nil, "protocol version"},
	} {
		srv := harness.StartLive(t, "127.0.0.1:0", c.server)
		_, _, err := call(t, srv.URL, wsshard.Config{Connection: wsshard.ConnectionConfig{TLSConfig: &tls.Config{RootCAs: ca.Pool}}})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, target := range c.as {
			if !errors.As(err, target) {
				t.Errorf("%s: %v is no %T", c.name, err, target)
			}
		}
		if n := len(srv.Requests()); n != 0 {
			t.Errorf("%s: %d connections all the same", c.name, n)
		}
	}
}

// A server that speaks no TLS is not spoken to in the clear.
func TestNoDowngrade(t *testing.T) {
	srv := harness.StartLive(t, "127.0.0.1:0", nil)
	_, _, err := call(t, strings.Replace(srv.URL, "ws:", "wss:", 1), wsshard.Config{Connection: wsshard.ConnectionConfig{
		TLSConfig: &tls.Config{InsecureSkipVerify: true},
	}})
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || len(srv.Requests()) != 0 {
		t.Errorf("%v, %d requests", err, len(srv.Requests()))
	}
}

// The application's config is copied, and none of it is lost: roots, client certificate, and protocols fit to be upgraded.
func TestTLSConfigIsCopied(t *testing.T) {
	ca := wstest.NewAuthority(t)
	tc := ca.Server("127.0.0.1")
	tc.ClientAuth, tc.ClientCAs, tc.NextProtos = tls.RequireAndVerifyClientCert, ca.Pool, []string{"h2", "http/1.1"}
	srv := harness.StartLive(t, "127.0.0.1:0", tc)
	mine := &tls.Config{
		RootCAs:      ca.Pool,
		NextProtos:   []string{"h2", "http/1.1"}, // as one shared with net/http has
		Certificates: []tls.Certificate{ca.Sign(&x509.Certificate{Subject: pkix.Name{CommonName: "me"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})},
	}
	h := harness.NewCaller(srv.URL)
	m, err := wsshard.New[string](h, wsshard.Config{MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{TLSConfig: mine}})
	if err != nil {
		t.Fatal(err)
	}
	if mine.ClientSessionCache != nil || mine.ServerName != "" || len(mine.NextProtos) != 2 {
		t.Error("the application's config was changed")
	}
	mine.RootCAs, mine.Certificates = x509.NewCertPool(), nil
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	defer m.Stop(context.Background())
	m.Subscribe("a")
	if err := errors.Join(m.Start(ctx), m.Sync(ctx)); err != nil {
		t.Fatal(err)
	}
	<-h.Got // by now the server's ticket has come

	m.Subscribe("b", "c") // two shards more: they resume the first one's session
	if err := m.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for i, r := range srv.Requests() {
		if cn := r.TLS.PeerCertificates[0].Subject.CommonName; cn != "me" || r.TLS.NegotiatedProtocol != "http/1.1" {
			t.Errorf("connection %d: client %q, protocol %q", i, cn, r.TLS.NegotiatedProtocol)
		}
		if r.TLS.DidResume != (i > 0) {
			t.Errorf("connection %d: resumed %v", i, r.TLS.DidResume)
		}
	}
}

// What the application plugs into TLS may panic: it costs the attempt, and neither process nor socket.
func TestTLSCallbackPanics(t *testing.T) {
	for _, scheme := range []string{"wss", "https"} { // at the server, at a proxy
		for _, do := range []func(){func() { panic("verify") }, runtime.Goexit} {
			times := 3
			cfg := harness.OneConnection(wsshard.ConnectionConfig{MaxConcurrentDials: 1})
			cfg.Connection.TLSConfig = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error {
				if times--; times >= 0 {
					do()
				}
				return nil
			}}
			if scheme == "https" {
				cfg.Connection.Proxy = "https://proxy"
			}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				tc := wstest.NewAuthority(w.T).Server("srv")
				harness.ServeConns(w.T, tls.NewListener(w.Net.Listen("secure:443"), tc), func(c net.Conn) {
					out, err := w.Net.DialContext(context.Background(), "tcp", "srv:80")
					if err == nil {
						harness.JoinConns(c, c, out)
					}
				})
				p := &harness.ProxyServer{Dial: func(addr string) (net.Conn, error) { return w.Net.DialContext(context.Background(), "tcp", addr) }}
				harness.ServeConns(w.T, tls.NewListener(w.Net.Listen("proxy:443"), tc), p.Connect)
				if scheme == "wss" {
					w.App.Addr = "wss://secure/"
				}
				w.Start("a")
				if n := w.M.Metrics().HandlerPanics; n != 3 {
					t.Errorf("%d panics are counted, want 3", n)
				}
				w.M.Stop(context.Background())
				synctest.Wait()
				if n := w.Net.Open(); n != 0 {
					t.Errorf("%s: %d sockets are open", scheme, n)
				}
			})
		}
	}
}
