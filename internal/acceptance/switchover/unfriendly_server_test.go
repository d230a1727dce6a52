package switchover

import (
	"container/heap"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how is a server unfriendly to switchovers?

// simConn is what the server knows of a connection.
type simConn struct {
	peer   *wstest.Peer
	on     map[int]bool
	last   map[int]time.Time // when the newest message of a topic leaves
	closed bool
}

// simEvent is something that the server does at an instant.
type simEvent struct {
	at  time.Time
	seq int // of those at one instant, the first that was arranged for comes first
	do  func()
}

type simHeap []simEvent

func (h simHeap) Len() int      { return len(h) }
func (h simHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *simHeap) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h simHeap) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].seq < h[j].seq
}

func (h *simHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// loop does what is due, at exactly its instant.
func (s *sim) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wait := time.Hour
		if len(s.events) > 0 {
			if wait = time.Until(s.events[0].at); wait <= 0 {
				ev := heap.Pop(&s.events).(simEvent)
				s.mu.Unlock()
				ev.do()
				continue
			}
		}
		s.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.stop:
			return
		}
	}
}

// laterLocked has do done after d.
func (s *sim) laterLocked(at time.Time, do func()) {
	s.seq++
	heap.Push(&s.events, simEvent{at, s.seq, do})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tick publishes the next message of a topic, and arranges for the one after it.
func (s *sim) tick(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	topic, now := s.topics[i], time.Now()
	topic.at = append(topic.at, now)
	text := topic.name + ":" + strconv.Itoa(len(topic.at))
	for _, c := range s.conns {
		if !c.on[i] || c.closed {
			continue
		}
		leaves := now.Add(time.Duration(s.sched.Int64N(int64(s.skew))))
		if leaves.Before(c.last[i]) {
			leaves = c.last[i]
		}
		c.last[i] = leaves
		s.laterLocked(leaves, func() { s.send(c, text) })
	}
	s.laterLocked(now.Add(time.Duration(s.sched.ExpFloat64()*float64(topic.mean))), func() { s.tick(i) })
}

// send is what happens to a message when its lag is over: the client gets it, unless the connection was told to close.
func (s *sim) send(c *simConn, text string) {
	s.mu.Lock()
	closed := c.closed
	s.mu.Unlock()
	if !closed {
		c.peer.Send(text)
	}
}

func (s *sim) opened(p *wstest.Peer) {
	c := &simConn{peer: p, on: map[int]bool{}, last: map[int]time.Time{}}
	s.mu.Lock()
	s.conns[p] = c
	s.mu.Unlock()
	p.Conn().SetCloseHandler(func(code int, _ string) error {
		s.mu.Lock()
		c.closed = true
		s.mu.Unlock()
		return p.Conn().WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	})
}

// request takes effect for each topic in its own time, and is answered then.
func (s *sim) request(p *wstest.Peer, _ int, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[p]
	for name := range strings.SplitSeq(string(data[1:]), ",") {
		i, _ := strconv.Atoi(name[1:])
		if data[0] == '-' {
			c.on[i] = false
			continue
		}
		s.laterLocked(time.Now().Add(time.Duration(s.sched.Int64N(int64(s.honour)))), func() {
			s.mu.Lock()
			c.on[i] = true
			s.mu.Unlock()
			s.send(c, "ack:"+name)
		})
	}
}
