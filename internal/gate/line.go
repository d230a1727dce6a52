package gate

import (
	"context"
	"slices"
	"time"
)

// This file answers: who stands in which line, and before whom?

// Urgency orders those who wait at a door; first come, first served within one.
type Urgency int

const (
	Down      Urgency = iota // the shard has no live connection
	Asked                    // a switchover that somebody asked for: the application, a silent server, a server's notice
	Routine                  // a switchover because of age
	urgencies = int(Routine) + 1
)

func (u Urgency) String() string { return [...]string{"down", "asked", "routine"}[u] }

// state is where a ticket is.
type state int

const (
	idle     state = iota // nowhere
	waiting               // in line, or on the bench
	spending              // waits in the Limiter
	dialling              // was let in
	refused               // err says why it will not be let in
)

// Ticket is one dial that wants to begin. It may be used again when its dial has ended.
type Ticket struct {
	shard   int
	failed  int           // dials of the shard in a row
	changed chan struct{} // cap 1; poked by the gate when State may have changed

	// under Gate.mu
	class     Urgency
	joined    time.Time // when it came to its door
	aged      bool      // only age asks for it
	needsTurn bool      // it is a switchover's, and has none
	hasTurn   bool
	exempt    bool // it will never need one again
	ctx       context.Context
	door      *door // nil while idle
	seq       uint64
	state     state
	err       error
	away      bool  // its holder knows that the door is shut
	seat      *seat // where it sits on the bench; nil: it stands in a line
	benched   bool  // it came from there
	granted   bool  // the budget is spent on it
	recall    context.CancelFunc
	spent     chan struct{} // closed when the Limiter has returned

	// of its dial
	begun  time.Time
	probes probes
	judged bool // as a probe it counts as failed: it is old
}

// NewTicket makes a ticket for a shard of which so many dials have failed in a row. One that is not Down needs a turn.
func NewTicket(shard, failed int, u Urgency) *Ticket {
	return &Ticket{shard: shard, failed: failed, class: u, needsTurn: u > Down, aged: u == Routine, changed: make(chan struct{}, 1)}
}

// Changed has a token when the holder should Look.
func (t *Ticket) Changed() <-chan struct{} { return t.changed }

func (t *Ticket) poke() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// skipTurn lets t begin without a turn, whatever becomes of the dial.
func (t *Ticket) skipTurn() { t.needsTurn, t.exempt = false, true }

// lostTurn takes t's turn from it, before its switchover is over.
func (t *Ticket) lostTurn() { t.hasTurn, t.needsTurn = false, !t.exempt }

// line is who waits, the first first.
type line []*Ticket

func (l *line) add(t *Ticket)  { *l = append(*l, t) }
func (l *line) push(t *Ticket) { *l = slices.Insert(*l, 0, t) }

func (l *line) remove(t *Ticket) {
	if i := slices.Index(*l, t); i == 0 {
		*l = (*l)[1:]
	} else if i > 0 {
		*l = slices.Delete(*l, i, i+1)
	}
}

// first is whose turn it is among those that fit.
func (l line) first(fits func(*Ticket) bool) *Ticket {
	for _, t := range l {
		if fits(t) {
			return t
		}
	}
	return nil
}

// steadiest is who goes as a probe: whoever failed least often in a row, and not the shard that probed last, where another
// waits.
func (l line) steadiest(last int) *Ticket {
	var best *Ticket
	for _, t := range l {
		switch {
		case t.granted:
			return t
		case best == nil,
			best.shard == last && t.shard != last,
			(t.shard == last) == (best.shard == last) && t.failed < best.failed:
			best = t
		}
	}
	return best
}

// places are how many may be in at once.
type places struct {
	limit int // not positive: none
	used  int
}

func (p *places) free() bool { return p.limit <= 0 || p.used < p.limit }
