package proxies

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: what did the server see?

// upstream is a server of topics, each subscribed to by "+topic,topic".
type upstream struct {
	mu      sync.Mutex
	clients map[*websocket.Conn]*client
	all     []*client
	changed chan struct{} // closed and replaced when something changes
	joined  sync.WaitGroup
}

// client is one connection.
type client struct {
	path, from string
	topics     []string
}

func startUpstream(t testing.TB, listeners ...net.Listener) *upstream {
	s := &upstream{clients: map[*websocket.Conn]*client{}, changed: make(chan struct{})}
	srv := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
	for _, l := range listeners {
		s.joined.Go(func() { srv.Serve(l) })
	}
	t.Cleanup(func() {
		srv.Close()
		s.mu.Lock()
		for ws := range s.clients {
			ws.NetConn().Close()
		}
		s.mu.Unlock()
		s.joined.Wait()
	})
	return s
}

func (s *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.joined.Add(1)
	defer s.joined.Done()
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	c := &client{path: r.URL.Path, from: r.RemoteAddr}
	if real := r.Header.Get("X-Real-IP"); real != "" { // as the web server in front saw it
		c.from = real
	}
	s.change(func() {
		s.clients[ws] = c
		s.all = append(s.all, c)
	})
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			break
		}
		if topics, ok := strings.CutPrefix(string(data), "+"); ok {
			s.change(func() { c.topics = append(c.topics, strings.Split(topics, ",")...) })
		}
	}
	s.change(func() { delete(s.clients, ws) })
}

func (s *upstream) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait returns when a topic is on n live connections.
func (s *upstream) wait(topic string, n int) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		s.mu.Lock()
		changed, on := s.changed, 0
		for _, c := range s.clients {
			for _, t := range c.topics {
				if t == topic {
					on++
				}
			}
		}
		s.mu.Unlock()
		if on == n {
			return nil
		}
		select {
		case <-changed:
		case <-late.C:
			return fmt.Errorf("the server has %q on %d connections, want %d", topic, on, n)
		}
	}
}

// seen is every connection there ever was.
func (s *upstream) seen() []client {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]client, len(s.all))
	for i, c := range s.all {
		all[i] = *c
	}
	return all
}
