package harness

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
)

// This file answers: how is there a server, and who calls it, on sockets?

// Patience is how long a test with real sockets waits for what must come at once.
const Patience = 30 * time.Second

// LiveServer greets each connection with the address that it came from, and notes it.
type LiveServer struct {
	Addr string // host:port
	URL  string

	Mu    sync.Mutex
	Seen  []*http.Request
	Conns map[*websocket.Conn]struct{}
}

// StartLive serves addr, with TLS when there is a config.
func StartLive(t testing.TB, addr string, tc *tls.Config) *LiveServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", addr, err)
	}
	s := &LiveServer{Addr: l.Addr().String(), Conns: map[*websocket.Conn]struct{}{}}
	s.URL = "ws://" + s.Addr + "/"
	if tc != nil {
		l = tls.NewListener(l, tc)
		s.URL = "wss://" + s.Addr + "/"
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
		s.CloseAll()
		all.Wait()
	})
	return s
}

func (s *LiveServer) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	s.Mu.Lock()
	s.Seen = append(s.Seen, r)
	s.Conns[ws] = struct{}{}
	s.Mu.Unlock()
	defer ws.Close()
	ws.WriteMessage(websocket.TextMessage, []byte("from "+r.RemoteAddr))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
	}
	s.Mu.Lock()
	delete(s.Conns, ws)
	s.Mu.Unlock()
}

// CloseAll ends all connections without a close frame.
func (s *LiveServer) CloseAll() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for ws := range s.Conns {
		ws.NetConn().Close()
	}
}

// Requests are the upgrades so far.
func (s *LiveServer) Requests() []*http.Request {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return append([]*http.Request(nil), s.Seen...)
}

// Port is the server's port.
func (s *LiveServer) Port() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	return port
}

// StartProxy serves a proxy on a loopback address, and returns its address.
func StartProxy(t *testing.T, addr string, tc *tls.Config, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", addr, err)
	}
	at := l.Addr().String()
	if tc != nil {
		l = tls.NewListener(l, tc)
	}
	ServeConns(t, l, serve)
	return at
}

// ProxyURL is a proxy's URL with the canary's credentials.
func ProxyURL(scheme, addr string) string {
	return (&url.URL{Scheme: scheme, Host: addr, User: url.UserPassword(CanaryUser, CanaryPassword)}).String()
}

// Caller is a handler that reports how its first attempt went, and what it was sent.
type Caller struct {
	Addr   string
	header http.Header
	Failed chan error   // by OnError, which parks
	retry  atomic.Int64 // but the first times
	Opened chan wsshard.ConnectionState
	Got    chan string
}

// NewCaller has a handler that calls url.
func NewCaller(url string) *Caller {
	return &Caller{Addr: url, Failed: make(chan error, 100), Opened: make(chan wsshard.ConnectionState, 100), Got: make(chan string, 100)}
}

// ParkAfter lets so many attempts fail.
func (h *Caller) ParkAfter(n int64) { h.retry.Store(n) }

func (h *Caller) URL(context.Context, wsshard.ConnectionState) (string, error) { return h.Addr, nil }

func (h *Caller) ConnectionHeaders(context.Context, wsshard.ConnectionState) (http.Header, error) {
	return h.header, nil
}

func (h *Caller) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (h *Caller) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	h.Got <- msg.String()
}

func (h *Caller) OnConnect(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	h.Opened <- st
	return nil, nil
}

func (h *Caller) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	h.Failed <- err
	return h.retry.Add(-1) > 0
}
