package gate

import "time"

// This file answers: does a host allow but one connection for a key?

// keyring is what a door learns of keys.
type keyring struct {
	probed int // the shard that probed last

	single  bool      // a new connection ends the old one: switchovers close first
	kicked  int       // switchovers in a row in which it did
	crowded int       // switchovers in a row whose new connection was refused, while nobody who is down was
	rotate  time.Time // when routine switchovers may go on

	joined []join // who connected within the last two seconds
	loss   loss   // the last one
}

type join struct {
	shard int
	at    time.Time
}

// loss is a connection that ended when another shard had just connected.
type loss struct {
	of, by int
	code   int
	n      int // in a row, of the same two
	told   bool
}

func (k *keyring) knows() bool {
	return k.single || k.kicked > 0 || k.crowded > 0 || !k.rotate.IsZero()
}

// Single reports whether a switchover at k's door has to close first.
func (g *Gate) Single(k Key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[k]
	return d != nil && d.single
}

// Singles are the doors of which Single is true.
func (g *Gate) Singles() (all []Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, d := range g.doors {
		if d.single {
			all = append(all, k)
		}
	}
	return all
}

// Kicked says of a switchover whether the host ended the old connection when the new one, s, had come. Twice in a row, over any
// shards, is no chance.
func (g *Gate) Kicked(s *Stay, kicked bool) {
	g.mu.Lock()
	d := s.door
	d.crowded = 0
	if !kicked {
		d.kicked = 0
	} else if d.kicked++; d.kicked == 2 && !d.single {
		d.single = true
		d.tellSingle("single-connection")
	}
	g.unlock(d)
}

// Crowded says that a switchover at k was refused its new connection, with a 4xx or a close, though the old one lives. Twice, and
// nobody who is down refused in between, means that the host wants no more connections: routine switchovers wait.
func (g *Gate) Crowded(k Key) {
	g.mu.Lock()
	d := g.doors[k]
	if d != nil && !d.single && g.rules.Interval > 0 {
		if d.crowded++; d.crowded >= 2 {
			d.crowded = 0
			d.rotate = time.Now().Add(g.rules.Interval / 4)
			d.tellSingle("connections")
		}
	}
	g.unlock(d)
}

// End says who ended a session.
type End int

const (
	Ours   End = iota // we did, for reasons of our own
	Theirs            // the host did
	Young             // neither: it never logged in, or fell silent
)

// Ended says that a session is over. code is the host's close code.
func (g *Gate) Ended(s *Stay, how End, code int) {
	g.mu.Lock()
	d := s.door
	if s.place != nil {
		d.stays.Remove(s.place)
		s.place = nil
		d.ended(s, how, code, time.Now())
	}
	g.unlock(d)
}

func (d *door) ended(s *Stay, how End, code int, now time.Time) {
	switch {
	case now.Sub(s.since) >= d.rules.StableAfter:
		d.early = 0
	case how != Ours:
		d.early++
		d.last = now
	}
	if how == Theirs {
		d.lost(s.shard, code, now)
	}
}

// connected notes that a shard has a new connection.
func (d *door) connected(shard int, now time.Time) {
	for len(d.joined) > 0 && (now.Sub(d.joined[0].at) > displaced || len(d.joined) >= 64) {
		d.joined = d.joined[1:]
	}
	d.joined = append(d.joined, join{shard, now})
}

// lost looks whether two shards displace each other: the connect of one is followed by the loss of the other, and so on.
func (d *door) lost(shard, code int, now time.Time) {
	by := -1
	for _, j := range d.joined {
		if now.Sub(j.at) <= displaced && j.shard != shard && (by < 0 || j.shard == d.loss.of || by != d.loss.of) {
			by = j.shard
		}
	}
	l := &d.loss
	switch {
	case by >= 0 && l.n > 0 && shard == l.by && by == l.of && code == l.code:
		l.n++
		l.of, l.by = shard, by
	case by >= 0:
		*l = loss{of: shard, by: by, code: code, n: 1}
	default:
		*l = loss{}
	}
	if l.n >= 3 && !l.told {
		l.told = true
		d.tellSingle("displacing")
	}
}

func (d *door) tellSingle(reason string) {
	r := d.report(time.Now())
	r.Reason = reason
	d.tell(SingleConnection, r, nil)
}
