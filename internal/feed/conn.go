package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: what happens on one connection?

// linger bounds how long a connection that is ended may take to be flushed and to be closed by its client.
const linger = 2 * time.Second

// readLimit is the longest request.
const readLimit = 4 << 20

// conn is one client's connection: serve reads, writeLoop writes.
type conn struct {
	srv  *Server
	id   uint64
	ws   *websocket.Conn // to read from; writeLoop writes frames to nc itself
	nc   net.Conn
	wake chan struct{} // cap 1: out or ended changed

	// under Server.mu
	topics      map[*topic]struct{}
	silentUntil time.Time
	dirty       bool // in Server.dirty
	overrun     bool // about to be dropped

	mu    sync.Mutex // protects following
	out   batch      // waits for writeLoop
	ended bool       // nothing more is queued
}

// batch of frames, written at once.
type batch struct {
	frames []byte
	ticks  []written // those of the frames that are ticks
}

func newConn(s *Server, id uint64, ws *websocket.Conn) *conn {
	return &conn{
		srv: s, id: id, ws: ws, nc: ws.NetConn(),
		wake:   make(chan struct{}, 1),
		topics: make(map[*topic]struct{}),
	}
}

// serve is the connection's whole life after the handshake.
func (c *conn) serve() {
	var writer sync.WaitGroup
	writer.Go(c.writeLoop)
	err := c.readLoop()

	c.srv.mu.Lock()
	c.srv.take(c)
	c.srv.mu.Unlock()
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
		c.end(websocket.CloseNormalClosure) // the reply; what is queued goes before it
	} else {
		c.drop()
	}
	writer.Wait()
	// A socket closed with something unread in it is reset, and then its peer may lose what it has not read either.
	_, _ = io.Copy(io.Discard, c.nc)
	_ = c.nc.Close()
}

// end lets out what is queued, then a close frame unless code is 0, then shuts down the write side: the client reads
// all that was sent and then EOF. It has linger to close its own side; serve's readLoop waits for that.
func (c *conn) end(code int) {
	c.mu.Lock()
	if !c.ended && code != 0 {
		c.out.frames = appendClose(c.out.frames, code)
	}
	c.ended = true
	c.mu.Unlock()
	_ = c.nc.SetDeadline(time.Now().Add(linger))
	c.signal()
}

// drop closes the socket at once; what is queued is lost.
func (c *conn) drop() {
	c.mu.Lock()
	c.ended = true
	lost := c.out.ticks
	c.out = batch{}
	c.mu.Unlock()
	c.srv.acct.settle(lost, 0)
	_ = c.nc.Close()
	c.signal()
}

// readLoop answers requests until the client goes, or until linger after end.
func (c *conn) readLoop() error {
	c.ws.SetReadLimit(readLimit)
	c.ws.SetCloseHandler(func(int, string) error { return nil }) // serve replies, in its turn
	c.ws.SetPingHandler(func(data string) error {
		c.queue(appendFrame(nil, websocket.PongMessage, []byte(data)))
		return nil
	})
	c.ws.SetPongHandler(func(string) error {
		c.srv.mu.Lock()
		c.srv.stats.Pongs++
		c.srv.mu.Unlock()
		return nil
	})
	for {
		_, data, err := c.ws.ReadMessage()
		if err != nil {
			return err
		}
		if err := c.srv.request(c, data); err != nil {
			c.queue(appendReply(nil, Reply{Error: err.Error()}))
			c.end(websocket.ClosePolicyViolation)
		}
	}
}

// request does what the client asks. An error is the client's fault: c is taken already.
func (s *Server) request(c *conn, data []byte) error {
	var req Request
	err := json.Unmarshal(data, &req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.id] != c {
		return nil // ended, but still reading
	}
	if err == nil {
		err = s.apply(c, req)
	}
	if err != nil {
		s.take(c)
		s.stats.Refused++
		now := time.Now()
		s.downs = append(s.downs, Down{At: now, Until: now, Reason: Refused, Connections: 1})
		return err
	}
	s.stats.Requests++
	// Under mu: no tick of the topics may be queued before the answer.
	c.queue(appendReply(nil, Reply{Ack: req.ID}))
	return nil
}

func (s *Server) apply(c *conn, req Request) error {
	for _, name := range req.Topics {
		if !validTopic(name) {
			return fmt.Errorf("bad topic %q", name)
		}
	}
	switch req.Op {
	case Subscribe:
		for _, name := range req.Topics {
			t := s.topics[name]
			if t == nil {
				t = s.newTopic(name)
			}
			if _, ok := c.topics[t]; ok {
				continue
			}
			if limit := s.cfg.TopicsPerConn; limit > 0 && len(c.topics) >= limit {
				return fmt.Errorf("more than %d topics on one connection", limit)
			}
			c.topics[t] = struct{}{}
			t.subs = append(t.subs, c)
		}
	case Unsubscribe:
		for _, name := range req.Topics {
			if t := s.topics[name]; t != nil {
				delete(c.topics, t)
				t.drop(c)
			}
		}
	default:
		return fmt.Errorf("unknown op %q", req.Op)
	}
	return nil
}

// queueTick queues the last tick of t and leaves it to the caller to signal. False: the queue is full.
func (c *conn) queueTick(frame []byte, t *topic) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return true
	}
	if len(c.out.frames)+len(frame) > c.srv.cfg.QueueBytes {
		return false
	}
	c.srv.acct.pending.Add(1)
	c.out.frames = append(c.out.frames, frame...)
	c.out.ticks = append(c.out.ticks, written{t, t.n, len(c.out.frames)})
	return true
}

// queue queues a frame that is no tick, unless the queue is full: the next tick then ends the connection.
func (c *conn) queue(frame []byte) {
	c.mu.Lock()
	if !c.ended && len(c.out.frames) <= c.srv.cfg.QueueBytes {
		c.out.frames = append(c.out.frames, frame...)
	}
	c.mu.Unlock()
	c.signal()
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeLoop writes what is queued, until end or drop.
func (c *conn) writeLoop() {
	var b batch // changes places with out, so that two buffers serve for life
	for range c.wake {
		c.mu.Lock()
		b, c.out = c.out, batch{b.frames[:0], b.ticks[:0]}
		ended := c.ended
		c.mu.Unlock()
		n, err := 0, error(nil)
		if len(b.frames) > 0 {
			n, err = c.nc.Write(b.frames)
		}
		c.srv.acct.settle(b.ticks, n)
		if err != nil {
			c.drop() // readLoop sees it
			return
		}
		if ended {
			c.closeWrite()
			return
		}
	}
}

func (c *conn) closeWrite() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = c.nc.Close()
}
