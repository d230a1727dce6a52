package wstest

import (
	"sync"
	"time"
)

// stream is one direction of a link: what one end wrote and the other has not read. The link's mu protects it.
type stream struct {
	link *link
	back *stream // the other direction
	size int     // bytes it holds before a write waits

	buf     []byte   // buf[head:] is written and not read
	head    int      //
	arrived int      // how many of these bytes the reader may have
	flights []flight // the rest of them by arrival, oldest first; empty without latency
	stalled bool     // nothing arrives: a fault
	held    bool     // nothing arrives, and there is room for everything: see Conn.hold

	fin  event // the writer has written its last; seen by the reader
	deaf event // the reader has closed its end; seen by the writer
	busy bool  // a Write is under way; others wait their turn

	reader, writer side
}

// flight is a number of bytes that arrive together.
type flight struct {
	at time.Time
	n  int
}

// event is news that travels to the other end.
type event struct {
	sent bool
	at   time.Time // when it arrives, unless something is stalled
	seen bool
}

func newStream(l *link, size int) *stream {
	s := &stream{link: l, size: size}
	s.reader.cond.L, s.writer.cond.L = &l.mu, &l.mu
	return s
}

// settle lets everything arrive that is due. Without latency every instant is the zero time, and due.
func (s *stream) settle(now time.Time) {
	if s.stalled || s.held {
		return
	}
	if s.link.latency == 0 {
		s.arrived = len(s.buf) - s.head
	}
	for len(s.flights) > 0 && !s.flights[0].at.After(now) {
		s.arrived += s.flights[0].n
		s.flights = s.flights[1:]
	}
	s.fin.settle(now)
	if !s.back.stalled { // the refusal is an answer to bytes that got through, and must get back
		s.deaf.settle(now)
	}
}

func (e *event) settle(now time.Time) {
	if e.sent && !e.at.After(now) {
		e.seen = true
	}
}

// take moves bytes that have arrived into p.
func (s *stream) take(p []byte) int {
	n := copy(p, s.buf[s.head:s.head+s.arrived])
	s.head += n
	s.arrived -= n
	if s.head == len(s.buf) {
		s.buf, s.head = s.buf[:0], 0
	}
	return n
}

// put sends as much of p as there is room for, and lets the reader know of it, now or when it arrives.
func (s *stream) put(p []byte, now time.Time) int {
	n := len(p)
	if !s.held {
		n = min(n, max(s.size-(len(s.buf)-s.head), 0))
	}
	if n == 0 {
		return 0
	}
	if s.head > 0 && len(s.buf)+n > cap(s.buf) {
		s.buf = s.buf[:copy(s.buf, s.buf[s.head:])]
		s.head = 0
	}
	s.buf = append(s.buf, p[:n]...)
	if s.link.latency == 0 {
		s.reader.cond.Broadcast()
		return n
	}
	at := now.Add(s.link.latency)
	if k := len(s.flights); k > 0 && s.flights[k-1].at.Equal(at) {
		s.flights[k-1].n += n
	} else {
		s.flights = append(s.flights, flight{at, n})
	}
	if s.reader.waiting > 0 && !s.stalled && !s.held {
		s.reader.arm(at) // spares it being woken only to go back to sleep
	}
	return n
}

// drop forgets all bytes under way.
func (s *stream) drop() {
	s.buf, s.head, s.arrived, s.flights = nil, 0, 0, nil
}

// nextArrival returns when the reader should look again by itself; zero when only a signal can change anything.
func (s *stream) nextArrival() time.Time {
	switch {
	case s.stalled || s.held:
		return time.Time{}
	case len(s.flights) > 0:
		return s.flights[0].at
	case s.fin.sent:
		return s.fin.at
	}
	return time.Time{}
}

// nextRefusal is nextArrival for the writer.
func (s *stream) nextRefusal() time.Time {
	if s.deaf.sent && !s.stalled && !s.back.stalled {
		return s.deaf.at
	}
	return time.Time{}
}

// side is where the readers, or the writers, of a stream wait.
//
// Deadlines are moved far more often than they pass, and arrivals are many: so there is one timer, set only by someone
// who is about to wait, and never put off. When it rings too early the waiter sets it again.
type side struct {
	cond     sync.Cond
	waiting  int
	deadline time.Time
	alarm    *time.Timer
	alarmAt  time.Time // when the alarm rings; zero when it is not set
}

// wait returns when the side was signalled, at its deadline, or at another instant that is not zero; or earlier: the
// caller must look again. The link's mu is free meanwhile.
func (s *side) wait(at time.Time) {
	if at.IsZero() || !s.deadline.IsZero() && s.deadline.Before(at) {
		at = s.deadline
	}
	if !at.IsZero() {
		s.arm(at)
	}
	s.waiting++
	s.cond.Wait()
	s.waiting--
}

// arm sees to it that the side is signalled at that instant or before.
//
// The alarm may have rung while its function waits for mu behind us. Then alarmAt is its past instant, we set nothing,
// and are signalled as soon as that function runs. If we do set the timer anew here, the function clears alarmAt
// although it is set; the next arm sets it once more, which is harmless.
func (s *side) arm(at time.Time) {
	if !s.alarmAt.IsZero() && !s.alarmAt.After(at) {
		return
	}
	s.alarmAt = at
	d := time.Until(at)
	if s.alarm != nil {
		s.alarm.Reset(d)
		return
	}
	s.alarm = time.AfterFunc(d, func() {
		s.cond.L.Lock()
		defer s.cond.L.Unlock()
		s.alarmAt = time.Time{}
		s.cond.Broadcast()
	})
}

// stop ends the alarm for good.
func (s *side) stop() {
	if s.alarm != nil {
		s.alarm.Stop()
	}
	s.alarmAt = time.Time{}
}
