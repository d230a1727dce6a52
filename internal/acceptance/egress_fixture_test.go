package acceptance

import (
	"context"
	"crypto/tls"
	"io"
	"log"
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

// proxyURL is a proxy's URL with the canary's credentials.
func proxyURL(scheme, addr string) string {
	return (&url.URL{Scheme: scheme, Host: addr, User: url.UserPassword(canaryUser, canaryPassword)}).String()
}
