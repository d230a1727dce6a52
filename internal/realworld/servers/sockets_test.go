package servers

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// This file answers: which sockets does a manager hold, and how are they cut?

// sockets dials for a manager and remembers what is open.
type sockets struct {
	read atomic.Int64 // bytes, of all

	mu   sync.Mutex // protects following fields
	open []*socket  // oldest first
}

type socket struct {
	*net.TCPConn
	all *sockets
}

func (o *sockets) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &socket{c.(*net.TCPConn), o}
	o.open = append(o.open, s)
	return s, nil
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.TCPConn.Read(b)
	s.all.read.Add(int64(n))
	return n, err
}

func (s *socket) Close() error {
	s.all.mu.Lock()
	for i, c := range s.all.open {
		if c == s {
			s.all.open = append(s.all.open[:i], s.all.open[i+1:]...)
			break
		}
	}
	s.all.mu.Unlock()
	return s.TCPConn.Close()
}

func (o *sockets) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.open)
}

// reset cuts a socket: the server sees a reset, and what was on its way is lost. false: there is no such socket.
func (o *sockets) reset(i int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i >= len(o.open) {
		return false
	}
	o.open[i].SetLinger(0)
	o.open[i].TCPConn.Close()
	return true
}
