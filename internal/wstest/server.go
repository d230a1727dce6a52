package wstest

import (
	"bufio"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
)

// Server is a WebSocket server that does what the test says and records what the client does. By itself it only
// upgrades, answers pings and replies to close frames.
//
// Its hooks run without a lock, and may call anything of the Server and its Peers.
type Server struct {
	t        testing.TB
	net      *Net
	addr     string
	upgrader websocket.Upgrader

	// joins the Serve loops and what they started; a connection is added by its Serve loop and removed when
	// net/http, or our handler after a hijack, is done with it
	joined sync.WaitGroup

	mu       sync.Mutex // protects the following
	run      *run       // nil while down
	ended    bool       // the test is over
	peers    []*Peer    // in the order of their indexes
	live     []*Peer    // those still open, in the same order
	accepted chan struct{}
	reject   func(*http.Request) (int, http.Header, string)
	onOpen   func(*Peer)
	handle   func(*Peer, int, []byte)
}

// run is what lives between Restart and Down.
type run struct {
	listener *Listener
	http     *http.Server
}

// NewServer starts a server on addr of n. It ends with the test, and its goroutines before that. Options are applied
// before it listens.
func NewServer(t testing.TB, n *Net, addr string, opts ...func(*Server)) *Server {
	t.Helper()
	s := &Server{
		t:        t,
		net:      n,
		addr:     addr,
		upgrader: websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }},
		accepted: make(chan struct{}),
	}
	for _, opt := range opts {
		opt(s)
	}
	s.Restart()
	t.Cleanup(func() {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.Down()
		s.joined.Wait()
	})
	return s
}

// Restart listens again, after a Down if the server is still up.
func (s *Server) Restart() {
	s.Down()
	r := &run{}
	r.http = &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { s.serve(r, w, req) }),
		ConnState: s.connState,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.run != nil {
		return
	}
	s.run = r
	r.listener = s.net.Listen(s.addr)
	s.joined.Go(func() {
		r.http.Serve(r.listener)
		// Serve may have accepted one last connection while Down was closing the others.
		r.listener.closeAll()
	})
}

// Down stops listening, so that new dials are refused, and closes all connections as the end of a process does: what
// was written arrives, then EOF, without a close frame. Connections that were not accepted yet are reset. It does not
// wait, and may be called from a hook.
func (s *Server) Down() {
	s.mu.Lock()
	r, live := s.run, s.live
	s.run, s.live = nil, nil
	s.mu.Unlock()
	if r == nil {
		return
	}
	for _, p := range live {
		p.down.Store(true)
	}
	r.listener.Close()
	r.listener.closeAll()
	r.http.Close()
}

// Reject installs a hook that looks at each handshake: status 0 lets it be upgraded, another one is the answer. While
// the hook waits, so does the client; r.Context() ends when the client gives up. Nil removes it.
func (s *Server) Reject(f func(r *http.Request) (status int, header http.Header, body string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reject = f
}

// Upgrader is used for every handshake. Change it in an option, or before the first dial.
func (s *Server) Upgrader() *websocket.Upgrader { return &s.upgrader }

// OnOpen installs a hook that runs on the peer's goroutine after the upgrade, before anything is read. Nil removes it.
func (s *Server) OnOpen(f func(p *Peer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onOpen = f
}

// Handle installs a hook that runs for each data message, after it was recorded, on the goroutine that reads from that
// peer. typ is websocket.TextMessage or BinaryMessage; data belongs to the hook. Nil removes it.
func (s *Server) Handle(f func(p *Peer, typ int, data []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = f
}

// Conn returns the i-th WebSocket ever accepted, counting from 0, and waits until there is one.
func (s *Server) Conn(i int) *Peer {
	for {
		s.mu.Lock()
		if i < len(s.peers) {
			defer s.mu.Unlock()
			return s.peers[i]
		}
		accepted := s.accepted
		s.mu.Unlock()
		<-accepted
	}
}

// Conns returns how many WebSockets were accepted so far.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers)
}

// Live returns the peers that are open as far as the server knows, oldest first. A client that closed its end of a
// black-holed connection is among them.
func (s *Server) Live() []*Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.live)
}

func (s *Server) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.joined.Add(1)
	case http.StateClosed:
		s.joined.Done()
	}
}

// serve is one handshake, and the whole life of the peer if it succeeds.
func (s *Server) serve(r *run, w http.ResponseWriter, req *http.Request) {
	noted := &hijackNoter{ResponseWriter: w}
	defer func() {
		// net/http would log a panic and go on. Errorf, unlike the panic, ends no bubble: the test says what happened.
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			s.t.Errorf("wstest: panic in a hook: %v\n%s", v, debug.Stack())
		}
		if noted.hijacked != nil {
			noted.release()
			s.joined.Done()
		}
	}()
	s.mu.Lock()
	reject := s.reject
	s.mu.Unlock()
	if reject != nil {
		if status, header, body := reject(req); status != 0 {
			maps.Copy(w.Header(), header)
			w.WriteHeader(status)
			io.WriteString(w, body)
			return
		}
	}
	ws, err := s.upgrader.Upgrade(noted, req, nil)
	if err != nil {
		return
	}
	p := newPeer(s, ws, req)
	defer p.end()
	if s.register(r, p) {
		noted.release()
		p.read()
	}
}

// register gives p its index, unless the server went down during the upgrade.
func (s *Server) register(r *run, p *Peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != r {
		return false
	}
	p.index = len(s.peers)
	s.peers = append(s.peers, p)
	s.live = append(s.live, p)
	close(s.accepted)
	s.accepted = make(chan struct{})
	return true
}

// drop takes p off the list of the living.
func (s *Server) drop(p *Peer) {
	if p.down.Swap(true) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := slices.BinarySearchFunc(s.live, p.index, func(q *Peer, index int) int { return q.index - index })
	if ok {
		s.live = slices.Delete(s.live, i, i+1)
	}
}

func (s *Server) handler() func(*Peer, int, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handle
}

func (s *Server) opener() func(*Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.onOpen
}

// hijackNoter remembers the connection that was taken from net/http, which then reports no StateClosed. It holds the
// response back: when the client's dial returns, the peer has its index, so that two dials in a row are two peers in
// that order.
type hijackNoter struct {
	http.ResponseWriter
	hijacked *Conn
}

func (h *hijackNoter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err == nil {
		h.hijacked = c.(*Conn)
		h.hijacked.hold(true)
	}
	return c, rw, err
}

func (h *hijackNoter) release() { h.hijacked.hold(false) }
