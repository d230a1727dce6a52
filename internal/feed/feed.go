// Package feed is a numbered feed server on loopback: what the examples and benchmarks run against.
//
// Each topic's ticks are numbered from 1 without holes, for the life of the server and whether or not anybody listens,
// so that a client can count what it missed and compare that with what the server knows it could not send. Faults are
// called by hand. Everything written to a connection can be read from it: a connection that the server drops is flushed,
// half-closed and drained first, so the two counts differ only where the client threw away what it had been sent.
//
// Files, each by its question:
//   - feed.go: how does the server live
//   - protocol.go: what goes over the wire
//   - conn.go: what happens on one connection
//   - tick.go: who gets which tick
//   - fault.go: what can be done to the clients
//   - account.go: what was sent so far
//   - series.go: which numbers of a topic were seen
//   - tally.go: what did a handler see
package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: how does the server live?

// ErrClosed is returned by methods of a Server after Close.
var ErrClosed = errors.New("feed: closed")

// Config of a Server. A zero field means its default.
type Config struct {
	Listener      net.Listener  // 127.0.0.1:0; Restart listens on its address again by itself
	Rate          int           // 1000 messages/s over all topics; negative: only Tick ticks
	Batch         time.Duration // 2ms between two batches of ticks
	TopicsPerConn int           // no limit; a request above it is answered with an error and close code 1008
	PingInterval  time.Duration // no pings
	QueueBytes    int           // 4 MiB; a connection with more unwritten is closed as a slow consumer
}

// Server is a running feed. Its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	addr     string
	upgrader websocket.Upgrader
	ctx      context.Context // ends in Close
	cancel   context.CancelFunc
	loops    sync.WaitGroup // run, serve of every epoch, every connection

	mu       sync.Mutex // protects following; before conn.mu and acct.mu
	topics   map[string]*topic
	known    []*topic // oldest first
	ring     []*topic // the same, in the order in which they tick
	next     int      // in ring
	shuffle  *rand.Rand
	conns    map[uint64]*conn
	dials    uint64  // handshakes begun: the next connection's id
	dirty    []*conn // got something in this batch
	payload  []byte  // scratch of emit
	frame    []byte  // scratch of emit
	downs    []Down
	stats    Stats
	web      *http.Server
	epoch    int // of web; a handshake that outlives its epoch is refused
	down     bool
	finished bool
	closed   bool

	acct ledger
}

// Start listens and begins to tick.
func Start(cfg Config) (*Server, error) {
	if cfg.Rate == 0 {
		cfg.Rate = 1000
	}
	if cfg.Batch <= 0 {
		cfg.Batch = 2 * time.Millisecond
	}
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = 4 << 20
	}
	if cfg.Listener == nil {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("feed: %w", err)
		}
		cfg.Listener = ln
	}
	s := &Server{
		cfg:    cfg,
		addr:   cfg.Listener.Addr().String(),
		topics: make(map[string]*topic),
		conns:  make(map[uint64]*conn),
		// Always the same order: benchmarks compare.
		shuffle: rand.New(rand.NewPCG(1, 2)),
		upgrader: websocket.Upgrader{
			HandshakeTimeout: linger,
			CheckOrigin:      func(*http.Request) bool { return true },
		},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.acct.flushed.L = &s.acct.mu
	s.serve(cfg.Listener)
	s.loops.Go(s.run)
	return s, nil
}

// Addr is the host:port clients dial; Restart keeps it.
func (s *Server) Addr() string { return s.addr }

// URL is what clients dial. Any path is served.
func (s *Server) URL() string { return "ws://" + s.addr + "/feed" }

// Finish ends the ticks for good and returns when all that was queued is written: the counts stand still.
func (s *Server) Finish(ctx context.Context) error {
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	return s.acct.wait(ctx)
}

// Close drops every connection with close code 1001 and returns when nothing is left.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.loops.Wait()
		return nil
	}
	s.closed = true
	web := s.web
	all := s.takeAll()
	s.mu.Unlock()

	s.cancel()
	err := web.Close()
	for _, c := range all {
		c.end(websocket.CloseGoingAway)
	}
	s.loops.Wait()
	return err
}

// serve accepts on ln until its epoch is over. It takes ln: after Close, ln is closed.
func (s *Server) serve(ln net.Listener) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = ln.Close()
		return
	}
	epoch := s.epoch
	web := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.upgrade(w, r, epoch) }),
		ReadHeaderTimeout: linger,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	s.web = web
	// Under mu: a Close that comes now waits for this loop, one that came before was seen above.
	s.loops.Go(func() { _ = web.Serve(ln) })
	s.mu.Unlock()
}

// upgrade serves one connection from its handshake to its end.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, epoch int) {
	// Before the handshake: a client that dials twice has its answers before both are admitted, in either order.
	s.mu.Lock()
	s.dials++
	id := s.dials
	s.mu.Unlock()
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the client has its answer
	}
	c := newConn(s, id, ws)
	if !s.admit(c, epoch) {
		_ = ws.Close()
		return
	}
	defer s.loops.Done()
	c.serve()
}

// admit counts c in, unless its epoch ended during the handshake.
func (s *Server) admit(c *conn, epoch int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || epoch != s.epoch {
		return false
	}
	s.stats.Accepted++
	s.conns[c.id] = c
	s.loops.Add(1)
	return true
}
