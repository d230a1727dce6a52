// Package gate decides when a dial may begin, and keeps what hosts have said about that.
//
// Dials come to doors: one for each (host, egress). At a door come together the places of dials in flight (door.go), what a
// host's failures and refusals ask for (breaker.go, ladder.go), the bench of those whom it refuses in person (bench.go), the
// application's budget (budget.go), the turns of switchovers (line.go), and what is learned of venues that allow one
// connection for a key (single.go). All of them are given the time: they can be tested as tables. Gate itself, in this file,
// adds the lock, the timers and the channels.
package gate

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// This file answers: who asks the gate, and how is it woken?

// ErrOpen is told to a switchover that finds its door shut because the host is down.
var ErrOpen = errors.New("gate: the door is shut")

// Rules are what a gate is made with. They do not change.
type Rules struct {
	Width       int            // dials in flight at one door; not positive: no limit
	Threshold   int            // failures in a row that shut a door; not positive: none do
	Reset       time.Duration  // the longest pause between two probes of a host that is down; negative: none shuts
	StableAfter time.Duration  // how old a session has to become
	Interval    time.Duration  // of routine switchovers; not positive: there are none
	MaxRetry    time.Duration  // the longest Retry-After; zero: an hour, after a 418 three days
	Uniform     func() float64 // in [0, 1); called under the gate's lock
	Limiter     Limiter        // nil: none
	Tell        func(News)     // called without a lock, one call at a time, in order

	// Spare says how long a routine dial waits until less than half of a budget is spent. Called under the gate's lock. nil:
	// nobody knows.
	Spare func(host, egress string, now time.Time) time.Duration
}

// Limiter is a budget for dials, the application's.
type Limiter interface {
	Wait(ctx context.Context, host, egress string) error
	Block(host, egress string, until time.Time)
}

// Key names a door.
type Key struct{ Host, Egress string }

// Gate admits dials. One serves all shards of a manager.
type Gate struct {
	rules Rules

	mu      sync.Mutex // protects following fields, all doors and all tickets; a leaf lock, but for Rules.Spare
	doors   map[Key]*door
	turns   places // of switchovers
	shards  int
	routine time.Time // the next free slot
	seq     uint64    // of tickets, by arrival
	news    []News    // what Tell is to hear
	telling bool      // somebody is calling it
}

// New makes a gate. single are the doors that an earlier gate has found to allow one connection for a key.
func New(rules Rules, single []Key) *Gate {
	if rules.Reset < 0 {
		rules.Threshold = 0
	}
	g := &Gate{rules: rules, doors: make(map[Key]*door)}
	for _, k := range single {
		g.doorLocked(k).single = true
	}
	return g
}

// Resize says how many shards there are, and how many switchovers may be under way at once; not positive: no limit.
func (g *Gate) Resize(shards, turns int) {
	g.mu.Lock()
	g.shards, g.turns.limit = shards, turns
	g.unlockAll()
}

// Join puts t in line at k, behind all others of its urgency; where t stands there already, it stays. ctx is that of the dial.
// A shard that the host refuses in person finds itself on the bench.
func (g *Gate) Join(ctx context.Context, t *Ticket, k Key) {
	g.mu.Lock()
	if t.door != nil && t.door.key == k {
		g.mu.Unlock()
		return
	}
	g.quitLocked(t)
	d := g.doorLocked(k)
	g.seq++
	t.door, t.ctx, t.seq, t.state, t.granted, t.away, t.joined = d, ctx, g.seq, waiting, false, false, time.Now()
	d.enter(t)
	if d.held(t.class) {
		t.poke()
	}
	g.unlock(d)
}

// Slot reserves the next instant at which a routine switchover may begin, whatever its door, and says how far away it is:
// they keep a quarter of what they would have, if all were spread over the interval.
func (g *Gate) Slot() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	at := later(g.routine, now)
	g.routine = at.Add(g.spacingLocked())
	return at.Sub(now)
}

// Lead is how much earlier than it must be over a routine switchover should ask for its instant: a few others may be before it.
func (g *Gate) Lead() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(max(0, min(3, g.shards-1))) * g.spacingLocked()
}

func (g *Gate) spacingLocked() time.Duration {
	if g.rules.Interval <= 0 || g.shards <= 0 {
		return 0
	}
	return g.rules.Interval / time.Duration(4*g.shards)
}

// State is what a ticket's holder has to do.
type State struct {
	Admitted bool  // dial
	Err      error // why it will never be admitted
	Shut     bool  // the door is shut for it, or it sits on the bench
	Patient  bool  // it waits for something that may take long: a door that is shut, the bench, a budget, a turn
	News     bool  // Shut has become true since the last look
}

// Look says how t stands. Its holder is woken through Changed.
func (g *Gate) Look(t *Ticket) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := State{Admitted: t.state == dialling, Err: t.err}
	if t.state == waiting || t.state == spending {
		d := t.door
		s.Shut = d.held(t.class) || t.seat != nil
		s.Patient = s.Shut || d.budget != nil || t.needsTurn && !g.turns.free()
		s.News = s.Shut && !t.away
		t.away = s.Shut
	}
	return s
}

// Hurry puts t first in its line, off the bench if need be: a reconnect was asked for. It passes no door that is shut.
func (g *Gate) Hurry(t *Ticket) {
	g.mu.Lock()
	d := t.door
	if t.state == waiting {
		d.remove(t)
		d.bench.pardon(t.shard)
		d.lines[t.class].push(t)
	}
	g.unlock(d)
}

// Raise makes t more urgent, where it is less: it joins the end of that line. Down needs no turn.
func (g *Gate) Raise(t *Ticket, u Urgency) {
	g.mu.Lock()
	if u < t.class {
		in := t.state == waiting
		if in {
			t.door.remove(t)
		}
		t.class = u
		if in {
			t.door.enter(t)
		}
	}
	t.aged = t.aged && u > Asked
	if u == Down {
		t.skipTurn()
	}
	g.unlock(t.door)
}

// Noticed says that the host is about to close the old connection: not only age asks for t, and it needs no turn. It would have to
// wait for others whom the host has told the same.
func (g *Gate) Noticed(t *Ticket) {
	g.mu.Lock()
	t.aged = false
	t.skipTurn()
	g.unlock(t.door)
}

// SkipTurn lets t begin without a turn: waiting for one would protect nothing.
func (g *Gate) SkipTurn(t *Ticket) {
	g.mu.Lock()
	t.skipTurn()
	g.unlock(t.door)
}

// Quit takes t out of its line. It waits until a Limiter that t waited in has returned.
func (g *Gate) Quit(t *Ticket) {
	g.mu.Lock()
	d := t.door
	g.quitLocked(t)
	g.unlock(d)
}

// quitLocked gives up what t waits for or holds. It lets go of the lock while a Limiter returns.
func (g *Gate) quitLocked(t *Ticket) {
	d := t.door
	if d == nil {
		return
	}
	switch t.state {
	case waiting:
		d.remove(t)
	case spending:
		t.state = idle
		spent := t.spent
		t.recall()
		g.mu.Unlock()
		<-spent
		g.mu.Lock()
	case dialling: // let in, in the same instant
		d.giveBack(t)
	}
	t.state, t.door, t.err = idle, nil, nil
	if t.hasTurn {
		t.lostTurn()
		g.turns.used--
	}
	g.admitLocked(d)
}

// Leave ends the dial that t was admitted for. stay is the session that it opened, nil without one; its holder ends it. waits
// says that the gate itself spaces what the shard does next: the shard goes straight back into line.
func (g *Gate) Leave(t *Ticket, r Result) (stay *Stay, waits bool) {
	g.mu.Lock()
	now, d := time.Now(), t.door
	var until time.Time
	stay, until = d.leave(t, r, now)
	t.state, t.door = idle, nil
	waits = t.class == Down && (d.held(Down) || d.bench.seats[t.shard] != nil)
	if r.RetryAfter <= 0 || t.class != Down {
		until = time.Time{}
	}
	if t.hasTurn && stay == nil {
		t.lostTurn()
		g.turns.used--
		g.unlockAll()
	} else {
		g.unlock(d)
	}
	if g.rules.Limiter != nil && !until.IsZero() { // what switchovers met holds back no shard that is down, here or elsewhere
		g.rules.Limiter.Block(d.key.Host, d.key.Egress, until)
	}
	return stay, waits
}

// ReturnTurn ends the switchover that t was for.
func (g *Gate) ReturnTurn(t *Ticket) {
	g.mu.Lock()
	if !t.hasTurn {
		g.mu.Unlock()
		return
	}
	t.hasTurn = false
	g.turns.used--
	g.unlockAll()
}

// doorLocked returns k's door. A new one lets go of those that know nothing any more.
func (g *Gate) doorLocked(k Key) *door {
	d := g.doors[k]
	if d == nil {
		now := time.Now()
		for k, old := range g.doors {
			if old.forgettable(now) {
				old.stop()
				delete(g.doors, k)
			}
		}
		d = newDoor(k, &g.rules, &g.news)
		g.doors[k] = d
	}
	return d
}

// unlock lets in whoever may begin at d now, lets go of the lock and tells the news. d may be nil.
func (g *Gate) unlock(d *door) {
	g.admitLocked(d)
	g.tellLocked()
	g.mu.Unlock()
}

// unlockAll is unlock where a turn has become free: it belongs to whoever came first, at whichever door.
func (g *Gate) unlockAll() {
	doors := make([]*door, 0, len(g.doors))
	for _, d := range g.doors {
		doors = append(doors, d)
	}
	slices.SortFunc(doors, func(a, b *door) int {
		u, n := a.firstSwitchover()
		v, m := b.firstSwitchover()
		return cmp.Or(cmp.Compare(u, v), cmp.Compare(n, m))
	})
	for _, d := range doors {
		g.admitLocked(d)
	}
	g.tellLocked()
	g.mu.Unlock()
}

// admitLocked lets in whoever may begin at d now, and arranges to look again when time alone changes that.
func (g *Gate) admitLocked(d *door) {
	if d == nil {
		return
	}
	now := time.Now()
	d.pass(now)
	if b := d.budget; b != nil && d.overtaken(b, now, g.limitsLocked(d, now)) {
		b.recall()
	}
	for d.budget == nil {
		t := d.next(now, g.limitsLocked(d, now))
		if t == nil {
			break
		}
		d.remove(t)
		if g.rules.Limiter != nil && !t.granted {
			g.spendLocked(d, t)
			break
		}
		g.beginLocked(d, t, now)
	}
	d.refuse()
	d.turnAway()
	g.wakeLocked(d, now)
	if d.quiet() && !d.knows() && g.doors[d.key] == d {
		d.stop()
		delete(g.doors, d.key)
	}
}

// beginLocked begins t's dial.
func (g *Gate) beginLocked(d *door, t *Ticket, now time.Time) {
	if t.needsTurn {
		t.needsTurn, t.hasTurn = false, true
		g.turns.used++
	}
	d.begin(t, now)
	t.poke()
}

// limitsLocked is what the gate, and not the door, lets switchovers do now.
func (g *Gate) limitsLocked(d *door, now time.Time) limits {
	l := limits{turn: g.turns.free()}
	if len(d.lines[Routine]) > 0 {
		l.aged = d.rotate
		if g.rules.Spare != nil {
			if at := now.Add(g.rules.Spare(d.key.Host, d.key.Egress, now)); at.After(now) && at.After(l.aged) {
				l.aged = at
			}
		}
	}
	return l
}

// wakeLocked arranges for admitLocked at the next instant at which time alone changes something.
func (g *Gate) wakeLocked(d *door, now time.Time) {
	at := d.wake(now, g.limitsLocked(d, now))
	if at.Equal(d.wakeAt) && d.timer != nil {
		return
	}
	d.stop()
	if d.wakeAt = at; at.IsZero() {
		return
	}
	d.timer = time.AfterFunc(at.Sub(now), func() {
		g.mu.Lock()
		if d.wakeAt.Equal(at) {
			d.wakeAt, d.timer = time.Time{}, nil
		}
		g.unlock(d)
	})
}

// stop ends the door's timer.
func (d *door) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.wakeAt = nil, time.Time{}
}

// tellLocked passes on the news, one caller at a time: else a door that is shut and opened at once could be heard to open and
// then to be shut. It lets go of the lock for each.
func (g *Gate) tellLocked() {
	if g.telling {
		return
	}
	g.telling = true
	for len(g.news) > 0 {
		next := g.news[0]
		g.news = g.news[1:]
		if g.rules.Tell != nil {
			g.mu.Unlock()
			g.rules.Tell(next)
			g.mu.Lock()
		}
	}
	g.telling = false
}
