package gate

import (
	"cmp"
	"slices"
	"time"
)

// This file answers: what does a door say of itself?

// Report says why dials wait at a door.
type Report struct {
	Host, Egress string
	Reason       string // down, toomany, retryafter, bench, limiter, single-connection, connections, displacing; "" open
	Status       int
	Failed       int
	Until        time.Time
	Waiting      int
	Benched      int
	Width        int
	Lasted       time.Duration // since when it is, or was, so
	Connected    int           // sessions that are open
}

// Stand says where a ticket stands.
type Stand struct {
	Key
	Where   string // line, bench, limiter, dial; "": at no door
	Urgency Urgency
	Ahead   int       // of Where line: how many wait in its line, and in those that go first, before it
	Turn    bool      // of Where line: it waits for one of the turns of switchovers
	Since   time.Time // when it came there, or when its dial began
}

// Stand says where t stands now.
func (g *Gate) Stand(t *Ticket) Stand {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Stand{Urgency: t.class, Since: t.joined}
	if t.door == nil {
		return s
	}
	s.Key = t.door.key
	switch {
	case t.state == dialling:
		s.Where, s.Since = "dial", t.begun
	case t.state == spending:
		s.Where = "limiter"
	case t.seat != nil:
		s.Where = "bench"
	case t.state == waiting:
		s.Where, s.Turn = "line", t.needsTurn && !g.turns.free()
		for _, line := range t.door.lines[:t.class] {
			s.Ahead += len(line)
		}
		s.Ahead += slices.Index(t.door.lines[t.class], t)
	}
	return s
}

// Kind says what News are about.
type Kind int

const (
	Shut             Kind = iota // the door has been shut, or a shard has been sent to the bench
	Still                        // it is so yet; once a minute
	Opened                       // it is over
	SingleConnection             // see single.go
)

// News is something to be told.
type News struct {
	Kind   Kind
	Trip   bool // of Shut: it is the door that was shut
	Report Report
	Err    error         // of the last dial
	Delay  time.Duration // to the next probe
}

func (d *door) tell(k Kind, r Report, err error) {
	n := News{Kind: k, Report: r, Err: err, Trip: k == Shut && r.Reason != "bench"}
	if !r.Until.IsZero() {
		n.Delay = max(0, time.Until(r.Until))
	}
	*d.news = append(*d.news, n)
}

// Doors are the reports of those doors that are shut or have a line, by host and egress.
func (g *Gate) Doors() (all []Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, d := range g.doors {
		if r := d.report(now); r.Reason != "" || r.Waiting > 0 {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Report) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Egress, b.Egress)) })
	return all
}

// report says what matters most: what holds back most.
func (d *door) report(now time.Time) Report {
	r := d.blank()
	l, busy := &d.down, false
	for c := range d.busy {
		if b := &d.busy[c]; b.shut && (!l.shut || b.next.After(l.next) && !busy) {
			l, busy = b, true
		}
	}
	switch {
	case busy && l.told:
		r.Reason, r.Failed = "retryafter", d.refusals
	case busy:
		r.Reason, r.Failed = "toomany", d.refusals
	case l.shut:
		r.Reason, r.Failed = "down", d.failed
	case len(d.bench.seats) > 0:
		return d.benchReport(now)
	case d.budget != nil:
		r.Reason = "limiter"
	}
	r.Status, r.Until, r.Lasted = l.status, l.next, d.since(l, now)
	return r
}

func (d *door) since(l *lock, now time.Time) time.Duration {
	if !l.shut {
		return 0
	}
	return now.Sub(l.since)
}

// benchReport is what the bench says of itself.
func (d *door) benchReport(now time.Time) Report {
	r := d.blank()
	r.Reason, r.Status = "bench", d.benchStatus
	r.Until, r.Lasted = d.bench.wake(), now.Sub(d.bench.since)
	r.Failed = d.bench.refusals
	return r
}

func (d *door) blank() Report {
	r := Report{Host: d.key.Host, Egress: d.key.Egress, Width: d.width, Connected: d.stays.Len(), Benched: d.bench.benched}
	r.Waiting = d.bench.waiting()
	for _, line := range d.lines {
		r.Waiting += len(line)
	}
	if d.budget != nil {
		r.Waiting++
	}
	return r
}

func sortByOrder(all []*Ticket) {
	slices.SortFunc(all, func(a, b *Ticket) int { return cmp.Compare(a.seat.order, b.seat.order) })
}
