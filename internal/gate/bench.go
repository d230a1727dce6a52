package gate

import (
	"container/heap"
	"time"
)

// This file answers: who sits on the bench, and who of it may try?

// bench is where shards sit that the host refuses in person (401, 403, 407): they do not shut the door for others.
type bench struct {
	seats map[int]*seat // by shard
	count uint64        // of those who ever sat down
	out   *Ticket       // the one that tries
	n     int           // pauses since the last success
	due   time.Time     // when the next one may try
	since time.Time     // since when somebody sits there

	// derived from the seats by change, never set elsewhere: the door asks for them at every step
	sitting   sitting // who may try first is the first
	strangers int     // of these, those whom the host has not refused
	benched   int     // seats of those whom it has refused, and how often in all
	refusals  int
}

// seat is a shard's place on the bench. A shard keeps it until it is let in.
type seat struct {
	t        *Ticket // nil: the shard is elsewhere at the moment
	order    uint64
	refusals int       // 0: it sits here only because others were refused
	next     time.Time // when it may try
	place    int       // in sitting, while it has a ticket
}

// sitting is a heap of the seats that have a ticket.
type sitting []*seat

func (h sitting) Len() int           { return len(h) }
func (h sitting) Less(i, j int) bool { return h[i].before(h[j]) }
func (h sitting) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *sitting) Push(x any) {
	s := x.(*seat)
	s.place = len(*h)
	*h = append(*h, s)
}

func (h *sitting) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return s
}

// change does something to a seat that there is, or begins, or ends with it. Whatever is derived from the seats follows.
func (b *bench) change(s *seat, do func()) {
	b.reckon(s, -1)
	sat := s.t != nil
	do()
	b.reckon(s, 1)
	switch sits := s.t != nil; {
	case sat && sits:
		heap.Fix(&b.sitting, s.place)
	case sat:
		heap.Remove(&b.sitting, s.place)
	case sits:
		heap.Push(&b.sitting, s)
	}
}

func (b *bench) reckon(s *seat, n int) {
	if s.t != nil && s.refusals == 0 {
		b.strangers += n
	}
	if s.refusals > 0 {
		b.benched += n
	}
	b.refusals += n * s.refusals
}

func (b *bench) sit(s *seat, t *Ticket) {
	b.change(s, func() {
		s.t, t.seat = t, s
		b.count++
		s.order = b.count
	})
}

// rise is for t, which sits there, and goes elsewhere.
func (b *bench) rise(t *Ticket) {
	s := t.seat
	b.change(s, func() { s.t, t.seat = nil, nil })
}

// leave takes a shard's seat away.
func (b *bench) leave(shard int) {
	if s := b.seats[shard]; s != nil {
		b.change(s, func() {
			if t := s.t; t != nil {
				s.t, t.seat = nil, nil
			}
			s.refusals = 0
		})
		delete(b.seats, shard)
	}
}

// waiting is how many sit there and wait.
func (b *bench) waiting() int { return len(b.sitting) }

// pardon forgets how often a shard was refused.
func (b *bench) pardon(shard int) {
	if s := b.seats[shard]; s != nil {
		b.change(s, func() { s.refusals, s.next = 0, time.Time{} })
	}
}

// next is who may try now. First those whom the host has not refused yet, whichever: they may have come in an order that has all
// the strangers in front. As a probe of a shut door anybody may.
func (b *bench) next(now time.Time, probe bool, uniform func() float64) *Ticket {
	if b.out != nil || !probe && now.Before(b.due) {
		return nil
	}
	t := (*Ticket)(nil)
	if b.strangers > 0 {
		unrefused := b.unrefused()
		t = unrefused[int(uniform()*float64(len(unrefused)))]
	} else if len(b.sitting) > 0 && (probe || !now.Before(b.sitting[0].next)) {
		t = b.sitting[0].t
	}
	if t != nil {
		b.out, t.benched = t, true
	}
	return t
}

// before orders those who may try.
func (s *seat) before(o *seat) bool {
	if !s.next.Equal(o.next) {
		return s.next.Before(o.next)
	}
	return s.order < o.order
}

// wake is when the next one may try; zero: nobody will, but as a probe, which the door times.
func (b *bench) wake() (at time.Time) {
	if b.out != nil || len(b.sitting) == 0 {
		return at
	}
	return later(b.sitting[0].next, b.due)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rest begins the next pause. Where the host lets others in, those whom it has not refused yet do not wait longer for their
// first try than the first pause: a few whom it would let in may sit among many whom it will not.
func (b *bench) rest(d *door, now time.Time) {
	b.n++
	n := b.n
	if d.stays.Len() > 0 && b.strangers > 0 {
		n = 1
	}
	b.due = now.Add(d.pause(benchStep(n)))
}

// notYou notes that the host refused a shard in person. A switchover's shard is live: it does not sit down.
func (d *door) notYou(t *Ticket, r Result, benched bool, now time.Time) {
	if t.class != Down {
		return
	}
	b := &d.bench
	s := b.seats[t.shard]
	if s == nil {
		s = &seat{}
		if len(b.seats) == 0 {
			b.since, b.n = now, 0
			b.rest(d, now)
		}
		b.seats[t.shard] = s
	}
	b.change(s, func() {
		s.refusals++
		s.next = now.Add(d.pause(seatStep(s.refusals)))
	})
	if benched {
		b.rest(d, now)
	} else {
		if d.strange == nil {
			d.strange = make(map[int]bool)
		}
		d.strange[t.shard] = true
		if len(d.strange) >= manyNot { // it may be the address that the host does not want
			for _, w := range d.lines[Down] {
				b.leave(w.shard)
				b.seats[w.shard] = &seat{}
				b.sit(b.seats[w.shard], w)
				w.poke()
			}
			d.lines[Down] = nil
		}
	}
	if s.refusals == 1 {
		d.err = r.Err
		d.benchStatus = r.Status
		report := d.benchReport(now)
		report.Lasted = 0
		d.tell(Shut, report, r.Err)
		d.remind = now.Add(reminder)
	}
}

// letIn notes that a shard has been let in. Where it came from the bench, the next one may try at once, and those go back into
// line who were never refused.
func (d *door) letIn(t *Ticket, benched bool, now time.Time) {
	b := &d.bench
	had := b.seats[t.shard] != nil
	b.leave(t.shard)
	if benched {
		b.n, b.due = 0, now
		back := b.unrefused()
		for i := range back { // in any order: all the strangers may have come first
			j := i + int(d.rules.Uniform()*float64(len(back)-i))
			back[i], back[j] = back[j], back[i]
		}
		for _, w := range back {
			b.leave(w.shard)
			d.lines[Down].add(w)
			w.poke()
		}
	}
	if had && len(b.seats) == 0 {
		was := d.benchReport(now)
		was.Lasted = now.Sub(b.since)
		d.tell(Opened, was, nil)
	}
}

// unrefused are those who sit on the bench only because others were refused, in order.
func (b *bench) unrefused() (all []*Ticket) {
	for _, s := range b.sitting {
		if s.refusals == 0 {
			all = append(all, s.t)
		}
	}
	sortByOrder(all)
	return all
}
