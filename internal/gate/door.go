package gate

import (
	"container/list"
	"slices"
	"time"
)

// This file answers: who may begin at one door, and when is the next instant to look?

// door is where dials to one host by one egress come together. It is a state machine: all its methods are given the time, and
// hold no lock. Gate.mu protects it.
type door struct {
	key   Key
	rules *Rules
	news  *[]News

	lines [urgencies]line
	bench bench
	out   []*Ticket // dials in flight, in the order in which they began
	width int       // of them may be younger than secondDial
	began time.Time // the last of them

	down        lock
	busy        [urgencies]lock
	failed      int       // dials in a row, while the host is down
	refusals    int       // "too many" since the last success
	last        time.Time // of the failures
	err         error     // of the last dial that shut it
	remind      time.Time // when to tell again that it is shut
	wasHeld     [urgencies]bool
	strange     map[int]bool // shards that were refused in person, with no success in between
	benchStatus int          // of the last such refusal

	stays *list.List // of *Stay, the oldest first
	early int        // of them ended young, in a row
	let   int        // how many were let in since "too many" shut the door last
	most  int        // how many it let in then, before it was shut again; 0: not known

	keyring         // what single.go learns
	budget  *Ticket // the one that waits in the Limiter

	timer  *time.Timer // see Gate.wakeLocked
	wakeAt time.Time
}

// limits are what the gate lets switchovers do, at whichever door.
type limits struct {
	turn bool      // one is free
	aged time.Time // when one that only age asks for may begin
}

func newDoor(k Key, rules *Rules, news *[]News) *door {
	return &door{key: k, rules: rules, news: news, width: 1, stays: list.New(), bench: bench{seats: make(map[int]*seat)}}
}

// Stay is a session as its door sees it.
type Stay struct {
	door  *door
	shard int
	since time.Time
	place *list.Element // nil: it is over
}

// Key is the stay's door.
func (s *Stay) Key() Key { return s.door.key }

// enter puts t at the end of its line, or on the bench.
func (d *door) enter(t *Ticket) {
	if seat := d.bench.seats[t.shard]; seat != nil && t.class == Down {
		d.bench.sit(seat, t)
		return
	}
	d.lines[t.class].add(t)
}

// remove takes t from where it waits.
func (d *door) remove(t *Ticket) {
	if t.seat != nil {
		d.bench.rise(t)
		return
	}
	d.lines[t.class].remove(t)
}

// pass lets time do what it does by itself.
func (d *door) pass(now time.Time) {
	d.judge(now)
	if len(d.out) == 0 && now.Sub(d.began) >= stale {
		d.width = 1
	}
	if !d.remind.IsZero() && !now.Before(d.remind) {
		d.remind = time.Time{}
		if r := d.report(now); !d.quiet() && (d.held(Routine) || r.Benched > 0) {
			d.tell(Still, r, d.err)
		}
	}
	if d.remind.IsZero() && (d.held(Routine) || d.bench.waiting() > 0) && d.waits() {
		d.remind = now.Add(reminder)
	}
}

// next is who may begin now; nil: nobody.
func (d *door) next(now time.Time, may limits) *Ticket {
	if !d.room(now) || now.Before(d.spaced(now)) {
		return nil
	}
	for u := Down; u <= Routine; u++ {
		ok, probe := d.may(u, now)
		if !ok {
			return nil // what holds back one urgency holds back those after it
		}
		if t := d.candidate(u, probe, now, may); t != nil {
			return t
		}
		if u == Down { // an empty line takes its probes from the bench: nobody else might ever ask
			if t := d.bench.next(now, probe, d.rules.Uniform); t != nil {
				return t
			}
		}
	}
	return nil
}

// candidate is whose turn it is in one line.
func (d *door) candidate(u Urgency, probe bool, now time.Time, may limits) *Ticket {
	if u == Down && probe {
		return d.lines[u].steadiest(d.probed)
	}
	return d.lines[u].first(func(t *Ticket) bool {
		return (may.turn || !t.needsTurn) && !(t.aged && now.Before(may.aged))
	})
}

// room reports whether there is a place: young dials take those of the width, old ones only those that nobody may pass.
func (d *door) room(now time.Time) bool {
	if d.rules.Width > 0 && len(d.out) >= d.rules.Width {
		return false
	}
	width := d.width
	if d.nearBudget() {
		width = 1
	}
	young := 0
	for _, t := range slices.Backward(d.out) {
		if now.Sub(t.begun) >= secondDial {
			break
		}
		if young++; young >= width {
			return false
		}
	}
	return true
}

// nearBudget reports whether about as many were let in as were when the host said "too many" last. It would refuse all that are
// in flight, so they go one at a time, until it is seen to take more.
func (d *door) nearBudget() bool {
	return d.most >= wide && d.let+len(d.out) >= d.most-wide && d.let <= d.most+wide
}

// spaced is when the next dial may begin at a host that accepts and closes.
func (d *door) spaced(now time.Time) time.Time {
	oldest := d.stays.Front()
	if d.early < manyClosed || oldest != nil && now.Sub(oldest.Value.(*Stay).since) >= d.rules.StableAfter {
		return time.Time{}
	}
	return d.began.Add(apart)
}

// begin notes that t's dial begins.
func (d *door) begin(t *Ticket, now time.Time) {
	t.state, t.begun, t.judged, t.probes = dialling, now, false, probes{down: d.down.shut}
	for c := range t.class + 1 {
		if l := &d.busy[c]; l.shut {
			t.probes.busy[c], l.probing = true, true
		}
	}
	if t.probes != (probes{}) {
		d.probed = t.shard
	}
	d.out = append(d.out, t)
	d.began = now
}

// giveBack undoes begin: the dial did not take place.
func (d *door) giveBack(t *Ticket) { d.leave(t, Result{}, time.Now()) }

// leave notes how t's dial ended. until is when the host wants to be asked again, where it said so.
func (d *door) leave(t *Ticket, r Result, now time.Time) (stay *Stay, until time.Time) {
	if i := slices.Index(d.out, t); i >= 0 {
		d.out = slices.Delete(d.out, i, i+1)
	}
	benched := t.benched
	t.benched = false
	if benched {
		d.bench.out = nil
	}
	switch {
	case r.Verdict == Up:
		d.succeeded(t, now)
		d.letIn(t, benched, now)
		d.connected(t.shard, now)
		stay = &Stay{door: d, shard: t.shard, since: now}
		stay.place = d.stays.PushBack(stay)
	case r.Verdict == TooMany, r.Verdict == Banned, r.RetryAfter > 0:
		until = d.refusedDial(t, r, now)
		if r.Verdict != Failed {
			d.answered(now)
		}
	case r.Verdict == Failed:
		d.failedDial(t, r, now)
	case r.Verdict == NotYou:
		d.notYou(t, r, benched, now)
		d.busyProbed(t, now, r)
		d.answered(now)
	case r.Verdict == Neither:
		d.busyProbed(t, now, r)
		d.answered(now)
	default:
		if t.probes.down && d.down.shut && !t.judged {
			d.down.next = now // it did not ask the host, so the next one may, at once
		}
		d.busyProbed(t, now, r)
	}
	if r.Verdict != Up && r.Verdict != NotYou && benched {
		d.bench.rest(d, now)
	}
	if r.Verdict != Up && r.Verdict != Unknown {
		d.last = now
	}
	if r.Verdict != Up && r.Verdict != Unknown && t.class == Down {
		d.crowded = 0 // who is down is refused as well
	}
	t.probes = probes{}
	return stay, until
}

// overtaken reports whether t, which waits in the Limiter, should go back into its line.
func (d *door) overtaken(t *Ticket, now time.Time, may limits) bool {
	if ok, _ := d.may(t.class, now); !ok {
		return true
	}
	for u := Down; u < t.class; u++ {
		if ok, probe := d.may(u, now); ok && d.candidate(u, probe, now, may) != nil {
			return true
		}
	}
	return false
}

// refuse sends switchovers away while the host is down: their shards are live.
func (d *door) refuse() {
	if !d.down.shut {
		return
	}
	for u := Asked; u <= Routine; u++ {
		for _, t := range d.lines[u] {
			t.state, t.err = refused, ErrOpen
			t.poke()
		}
		d.lines[u] = nil
	}
}

// turnAway wakes those for whom the door has been shut since it was asked last.
func (d *door) turnAway() {
	for u := range d.lines {
		held := d.held(Urgency(u))
		if held && !d.wasHeld[u] {
			for _, t := range d.lines[u] {
				t.poke()
			}
		}
		d.wasHeld[u] = held
	}
}

// firstSwitchover is the place of the first switchover that waits here among those of all doors.
func (d *door) firstSwitchover() (Urgency, uint64) {
	for u := Asked; u <= Routine; u++ {
		if len(d.lines[u]) > 0 {
			return u, d.lines[u][0].seq
		}
	}
	return Routine + 1, 0
}

// wake is the next instant at which time alone changes something; zero: there is none.
func (d *door) wake(now time.Time, may limits) (at time.Time) {
	look := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	look(d.remind)
	waits := d.waits()
	for u, line := range d.lines {
		if len(line) == 0 {
			continue
		}
		look(d.busy[u].next)
		if Urgency(u) == Routine {
			look(may.aged)
			look(d.busy[Asked].next)
		}
		look(d.busy[Down].next)
	}
	for _, t := range d.out {
		if waits || t.probes.down && !t.judged {
			look(t.begun.Add(secondDial))
		}
	}
	if waits {
		look(d.down.next)
		look(d.busy[Down].next)
		look(d.spaced(now))
		if !d.held(Down) {
			look(d.bench.wake())
		}
	}
	return at
}

// quiet reports whether nobody is here.
func (d *door) quiet() bool {
	return len(d.out) == 0 && d.budget == nil && d.stays.Len() == 0 && !d.waits()
}

func (d *door) waits() bool {
	for _, line := range d.lines {
		if len(line) > 0 {
			return true
		}
	}
	return d.bench.waiting() > 0
}

// knows reports whether something is remembered that the next dial should find.
func (d *door) knows() bool {
	return d.held(Routine) || len(d.bench.seats) > 0 || d.failed > 0 || d.early > 0 || d.keyring.knows()
}

// forgettable reports whether a door at which nobody is may be forgotten: a handler may name a new host each time, and none of
// them may answer.
func (d *door) forgettable(now time.Time) bool {
	at := later(d.last, d.rotate)
	for c := range d.busy {
		at = later(at, d.busy[c].next)
	}
	return d.quiet() && !d.single && (!d.knows() || now.Sub(at) > maxRetry)
}
