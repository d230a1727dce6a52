package feed

import (
	"slices"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: who gets which tick?

// A topic exists from its first subscription to the end of the server.
type topic struct {
	name string

	// under Server.mu
	n    uint64 // of the last tick
	subs []*conn

	// under ledger.mu
	sent series
}

func (t *topic) count() Count {
	return Count{
		Topic: t.name, Number: t.n,
		First: t.sent.first, Last: t.sent.last, Distinct: t.sent.distinct, Missed: t.sent.missed(),
	}
}

// Tick makes n ticks now, beside those of the clock; one each of the next n topics in turn.
func (s *Server) Tick(n int) { s.emit(n, time.Now()) }

// run is the server's clock.
func (s *Server) run() {
	ticker := time.NewTicker(s.cfg.Batch)
	defer ticker.Stop()
	owed := 0.0
	last, pinged := time.Now(), time.Now()
	for {
		// 1st: wait
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		now := time.Now()
		// 2nd: the ticks that are due. A process that slept does not make up for it: the burst would only overrun queues.
		if s.cfg.Rate > 0 {
			rate := float64(s.cfg.Rate)
			owed = min(owed+rate*now.Sub(last).Seconds(), max(1, rate/4))
			s.emit(int(owed), now)
			owed -= float64(int(owed))
		}
		last = now
		// 3rd: pings
		if s.cfg.PingInterval > 0 && now.Sub(pinged) >= s.cfg.PingInterval {
			pinged = now
			s.ping()
		}
	}
}

// emit makes n ticks and queues them where they are subscribed.
func (s *Server) emit(n int, now time.Time) {
	s.mu.Lock()
	if s.finished || s.closed || len(s.ring) == 0 {
		s.mu.Unlock()
		return
	}
	var slow []*conn
	ts := now.UnixNano()
	for range n {
		t := s.ring[s.next%len(s.ring)]
		s.next = (s.next + 1) % len(s.ring)
		t.n++
		if len(t.subs) == 0 {
			continue
		}
		s.payload = appendTick(s.payload[:0], t.name, t.n, ts)
		s.frame = appendFrame(s.frame[:0], websocket.TextMessage, s.payload)
		for _, c := range t.subs {
			switch {
			case now.Before(c.silentUntil) || c.overrun:
			case !c.queueTick(s.frame, t):
				c.overrun = true
				slow = append(slow, c)
			case !c.dirty:
				c.dirty = true
				s.dirty = append(s.dirty, c)
			}
		}
	}
	for _, c := range s.dirty {
		c.dirty = false
		c.signal()
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	for _, c := range slow {
		s.take(c)
	}
	if len(slow) > 0 {
		s.stats.SlowConsumers += uint64(len(slow))
		s.downs = append(s.downs, Down{At: now, Until: now, Reason: SlowConsumer, Connections: len(slow)})
	}
	s.mu.Unlock()

	for _, c := range slow {
		c.drop()
	}
}

func (s *Server) ping() {
	frame := appendFrame(nil, websocket.PingMessage, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.queue(frame)
	}
}

// take removes c: nothing is queued for it from now on, no fault finds it. Caller holds mu.
func (s *Server) take(c *conn) {
	if s.conns[c.id] != c {
		return
	}
	delete(s.conns, c.id)
	for t := range c.topics {
		t.drop(c)
	}
	clear(c.topics)
}

func (s *Server) takeAll() []*conn {
	all := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *conn) int { return int(a.id) - int(b.id) })
	for _, c := range all {
		s.take(c)
	}
	return all
}

// newTopic puts the topic anywhere in the ring: topics of one connection, subscribed together, would otherwise tick
// together, and leave the connection silent for the rest of the round.
func (s *Server) newTopic(name string) *topic {
	t := &topic{name: name}
	s.topics[name] = t
	s.known = append(s.known, t)
	s.ring = append(s.ring, t)
	i, j := s.shuffle.IntN(len(s.ring)), len(s.ring)-1
	s.ring[i], s.ring[j] = s.ring[j], s.ring[i]
	return t
}

func (t *topic) drop(c *conn) {
	if i := slices.Index(t.subs, c); i >= 0 {
		t.subs = slices.Delete(t.subs, i, i+1)
	}
}
