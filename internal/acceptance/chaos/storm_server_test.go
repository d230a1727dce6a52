package chaos

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: what does a server on loopback do that resets, closes and refuses?

// roughServer understands the requests of wstest.Topics and answers them. Until it is calm it treats each connection as it likes.
type roughServer struct {
	urls []string // several doors of the same server
	calm atomic.Bool

	mu    sync.Mutex
	conns map[*roughConn]struct{} // those that are open
	fates map[string]int          // how often each of them struck
}

// roughConn is the server's end of one connection.
type roughConn struct {
	ws  *websocket.Conn
	end chan struct{} // closed when nothing more is read

	write sync.Mutex // one writes at a time

	mu sync.Mutex
	on map[string]bool
}

// startRough listens until the test ends. tc: its doors take TLS.
func startRough(t *testing.T, doors int, tc *tls.Config) *roughServer {
	t.Helper()
	s := &roughServer{conns: make(map[*roughConn]struct{}), fates: make(map[string]int)}
	var all sync.WaitGroup // whatever serves a connection: net/http does not wait for those that were hijacked
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Add(1)
		defer all.Done()
		s.serve(w, r)
	})}
	for range doors {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		url := "ws://" + l.Addr().String() + "/"
		if tc != nil {
			l, url = tls.NewListener(l, tc), "wss://"+l.Addr().String()+"/"
		}
		s.urls = append(s.urls, url)
		all.Go(func() { srv.Serve(l) })
	}
	t.Cleanup(func() {
		srv.Close()
		for _, c := range s.open() {
			c.ws.Close()
		}
		all.Wait()
	})
	return s
}

// serve is one handshake, and what becomes of the connection.
func (s *roughServer) serve(w http.ResponseWriter, r *http.Request) {
	if !s.calm.Load() {
		switch rand.IntN(12) {
		case 0:
			s.count("503")
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		case 1, 2:
			s.count("no answer")
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				resetConn(c)
			}
			return
		}
	}
	ws, err := (&websocket.Upgrader{EnableCompression: true}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &roughConn{ws: ws, end: make(chan struct{}), on: make(map[string]bool)}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	var others sync.WaitGroup
	others.Go(c.publish)
	others.Go(func() { s.strike(c) })
	c.read()
	close(c.end)
	ws.Close()
	others.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// strike ends a connection some time later, in one of the ways in which connections end.
func (s *roughServer) strike(c *roughConn) {
	if s.calm.Load() {
		return
	}
	t := time.NewTimer(time.Duration(rand.IntN(60)) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.end:
		return
	}
	switch rand.IntN(5) {
	case 0:
		s.count("reset")
		resetConn(c.ws.NetConn())
	case 1:
		s.count("EOF")
		c.ws.Close()
	case 2, 3:
		s.count("close frame")
		code := []int{1000, 1001, 1011, 1013, 4000}[rand.IntN(5)]
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, "so it goes"), time.Now().Add(time.Second))
	default:
		s.count("none")
	}
}

// resetConn closes a connection so that its peer hears a reset.
func resetConn(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// read does what it is asked until the connection ends.
func (c *roughConn) read() {
	for {
		_, data, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		text := string(data)
		if text == "" || !strings.Contains("+-=", text[:1]) {
			continue
		}
		c.mu.Lock()
		for topic := range strings.SplitSeq(text[1:], ",") {
			if text[0] == '-' {
				delete(c.on, topic)
			} else {
				c.on[topic] = true
			}
		}
		c.mu.Unlock()
		c.say("ack:" + text)
	}
}

// publish sends something of each topic again and again.
func (c *roughConn) publish() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.end:
			return
		}
		for _, topic := range c.topics() {
			if c.say(topic+":1") != nil {
				break
			}
		}
	}
}

func (c *roughConn) say(text string) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.ws.SetWriteDeadline(time.Now().Add(time.Second))
	return c.ws.WriteMessage(websocket.TextMessage, []byte(text))
}

func (c *roughConn) topics() (topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic := range c.on {
		topics = append(topics, topic)
	}
	return topics
}

// all returns on how many open connections each topic is.
func (s *roughServer) all() map[string]int {
	all := make(map[string]int)
	for _, c := range s.open() {
		for _, topic := range c.topics() {
			all[topic]++
		}
	}
	return all
}

func (s *roughServer) open() (conns []*roughConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

func (s *roughServer) count(fate string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fates[fate]++
}

// url is where to dial: one of the doors or, while the server is rough, now and then where nobody listens.
func (s *roughServer) url(context.Context) string {
	if !s.calm.Load() && rand.IntN(10) == 0 {
		s.count("refused")
		return "ws://127.0.0.1:1/"
	}
	return s.urls[rand.IntN(len(s.urls))]
}
