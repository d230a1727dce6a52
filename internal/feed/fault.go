package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: what can be done to the clients?

// KillOne drops the oldest connection: its client reads all that was sent and then EOF, without a close frame. False:
// there is none.
func (s *Server) KillOne() bool {
	s.mu.Lock()
	var oldest *conn
	for _, c := range s.conns {
		if oldest == nil || c.id < oldest.id {
			oldest = c
		}
	}
	if oldest != nil {
		s.take(oldest)
		now := time.Now()
		s.downs = append(s.downs, Down{At: now, Until: now, Reason: Killed, Connections: 1})
	}
	s.mu.Unlock()
	if oldest == nil {
		return false
	}
	oldest.end(0)
	return true
}

// KillAll drops every connection as KillOne does, and returns how many.
func (s *Server) KillAll() int {
	s.mu.Lock()
	all := s.takeAll()
	if len(all) > 0 {
		now := time.Now()
		s.downs = append(s.downs, Down{At: now, Until: now, Reason: Killed, Connections: len(all)})
	}
	s.mu.Unlock()
	for _, c := range all {
		c.end(0)
	}
	return len(all)
}

// Restart stops listening and drops every connection, every other one with close code 1012. It returns when the server
// listens again, downFor later and on the same address. Ticks go on meanwhile.
func (s *Server) Restart(downFor time.Duration) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	if s.down {
		s.mu.Unlock()
		return errors.New("feed: restarting already")
	}
	s.down = true
	s.epoch++
	web := s.web
	all := s.takeAll()
	entry := len(s.downs)
	s.downs = append(s.downs, Down{At: time.Now(), Reason: Restarted, Connections: len(all)})
	s.mu.Unlock()

	_ = web.Close()
	for i, c := range all {
		code := 0
		if i%2 == 0 {
			code = websocket.CloseServiceRestart
		}
		c.end(code)
	}
	var ln net.Listener
	err := sleep(s.ctx, downFor)
	if err == nil {
		ln, err = s.listen()
	}
	if ln != nil {
		s.serve(ln)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = false
	s.downs[entry].Until = time.Now()
	return err
}

// Silence keeps data for d from the connections that exist now, and returns how many. They stay open, their requests and
// pings are answered, and the ticks are missed. Connections made meanwhile get data. Silence(0) ends it.
func (s *Server) Silence(d time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, c := range s.conns {
		c.silentUntil = now.Add(d)
	}
	if d <= 0 {
		for i := range s.downs {
			if w := &s.downs[i]; w.Reason == Silent && w.Until.After(now) {
				w.Until = now
			}
		}
	} else {
		s.downs = append(s.downs, Down{At: now, Until: now.Add(d), Reason: Silent, Connections: len(s.conns)})
	}
	return len(s.conns)
}

// listen on the old address. While nobody listened there, a client's own socket may have been given the port: it is
// waited for.
func (s *Server) listen() (net.Listener, error) {
	var lc net.ListenConfig
	for {
		ln, err := lc.Listen(s.ctx, "tcp", s.addr)
		if err == nil {
			return ln, nil
		}
		if sleep(s.ctx, 10*time.Millisecond) != nil {
			return nil, fmt.Errorf("feed: %w", err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ErrClosed
	}
}
