package wsshard_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard"
)

// This file holds a WebSocket server on real sockets, with a small certificate authority.

// patience is how long a test with real sockets waits for what must come at once.
const patience = 30 * time.Second

// liveServer greets each connection with the address that it came from, and notes it.
type liveServer struct {
	addr string // host:port
	url  string

	mu    sync.Mutex
	seen  []*http.Request
	conns map[*websocket.Conn]struct{}
}

// startLive serves addr, with TLS when there is a config.
func startLive(t testing.TB, addr string, tc *tls.Config) *liveServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", addr, err)
	}
	s := &liveServer{addr: l.Addr().String(), conns: map[*websocket.Conn]struct{}{}}
	s.url = "ws://" + s.addr + "/"
	if tc != nil {
		l = tls.NewListener(l, tc)
		s.url = "wss://" + s.addr + "/"
	}
	var all sync.WaitGroup
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Add(1)
		defer all.Done()
		s.serve(w, r)
	})}
	all.Go(func() { srv.Serve(l) })
	t.Cleanup(func() {
		srv.Close()
		s.closeAll()
		all.Wait()
	})
	return s
}

func (s *liveServer) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.seen = append(s.seen, r)
	s.conns[ws] = struct{}{}
	s.mu.Unlock()
	defer ws.Close()
	ws.WriteMessage(websocket.TextMessage, []byte("from "+r.RemoteAddr))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
	}
	s.mu.Lock()
	delete(s.conns, ws)
	s.mu.Unlock()
}

// closeAll ends all connections without a close frame.
func (s *liveServer) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ws := range s.conns {
		ws.NetConn().Close()
	}
}

// requests are the upgrades so far.
func (s *liveServer) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.seen...)
}

// port is the server's port.
func (s *liveServer) port() string {
	_, port, _ := net.SplitHostPort(s.addr)
	return port
}

// call runs a manager with one topic until it has been greeted, or has failed. It returns the greeting and how the
// connection was described.
func call(t *testing.T, url string, cfg wsshard.Config) (greeting string, st wsshard.ConnectionState, failed error) {
	t.Helper()
	h := newCaller(url)
	m, err := wsshard.New[string](h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe("a")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	select {
	case failed = <-h.failed:
		return "", st, failed
	case st = <-h.opened:
	case <-time.After(patience):
		t.Fatal("neither connected nor failed")
	}
	select {
	case greeting = <-h.got:
	case failed = <-h.failed:
	case <-time.After(patience):
		t.Fatal("connected, but never greeted")
	}
	return greeting, st, failed
}

// startProxy serves a proxy on a loopback address, and returns its address.
func startProxy(t *testing.T, addr string, tc *tls.Config, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", addr, err)
	}
	at := l.Addr().String()
	if tc != nil {
		l = tls.NewListener(l, tc)
	}
	serveConns(t, l, serve)
	return at
}

// egressCA signs certificates that its pool trusts.
type egressCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newEgressCA(t testing.TB) *egressCA {
	t.Helper()
	a := &egressCA{pool: x509.NewCertPool()}
	c := a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "authority"}})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate like template, for an hour from now; the first is the authority's own.
func (a *egressCA) sign(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Minute)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server is a config of a server for these names or addresses.
func (a *egressCA) server(t testing.TB, names ...string) *tls.Config {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return &tls.Config{Certificates: []tls.Certificate{a.sign(t, template)}}
}

// proxyURL is a proxy's URL with the canary's credentials.
func proxyURL(scheme, addr string) string {
	return (&url.URL{Scheme: scheme, Host: addr, User: url.UserPassword(canaryUser, canaryPassword)}).String()
}
