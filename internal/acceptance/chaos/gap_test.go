package chaos

import (
	"slices"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what must a Gap of chaos say, and when must it come? That it names what was missed, and since when, is seen
// number by number: lost_test.go.

func (c *chaos) checkGaps() {
	for _, ev := range c.gaps {
		conn := chaosConn{c.lifeAt(ev.Time), ev.ShardID, ev.Generation}
		switch sure := ev.Sure; {
		case sure.After(ev.From), ev.From.After(ev.To), ev.To.After(ev.Time):
			c.t.Errorf("I11: a gap of shard %d runs from %v (sure: %v) to %v, told at %v", ev.ShardID, ev.From.Sub(c.begin), sure.Sub(c.begin), ev.To.Sub(c.begin), ev.Time.Sub(c.begin))
		case len(ev.Subs) == 0:
			c.t.Errorf("I11: a gap of shard %d that names nothing, at %v", ev.ShardID, ev.Time.Sub(c.begin))
		}
		for _, topic := range ev.Subs {
			if !c.wasAsked(topic, conn) {
				c.accuse(topic, "I11: the gap of shard %d from %v names %s, which nobody had asked for there", ev.ShardID, ev.From.Sub(c.begin), topic)
			}
		}
		if by := c.provenBy(ev, conn); ev.To.After(by) {
			c.t.Errorf("I11: the gap of shard %d from %v ends at %v, and all was proven by %v", ev.ShardID, ev.From.Sub(c.begin), ev.To.Sub(c.begin), by.Sub(c.begin))
			c.suspects = append(c.suspects, ev.Subs...)
		}
	}
	for _, lost := range c.losses {
		c.checkComes(lost)
	}
}

// lifeAt is which life of the manager an instant belongs to.
func (c *chaos) lifeAt(at time.Time) (life int) {
	for i, begun := range c.lives {
		if !begun.After(at) {
			life = i
		}
	}
	return life
}

// wasAsked reports whether a topic was asked for on a connection of the shard up to the one that ended the gap.
func (c *chaos) wasAsked(topic string, by chaosConn) bool {
	return slices.ContainsFunc(c.encoded[topic], func(e encoding) bool {
		return e.sign == '+' && e.conn.life == by.life && e.conn.shard == by.shard && (e.conn.gen <= by.gen || by.gen == 0)
	})
}

// troubled reports whether the network, the server or a callback kept a shard from its business meanwhile: then a bound that
// counts from what both did says nothing.
func (c *chaos) troubled(shard int, from, to time.Time) bool {
	for _, s := range c.script {
		begin := c.begin.Add(s.at)
		long := slices.Contains([]string{"blackhole", "stall-read", "stall-write", "send-burst", "heartbeat", "ping"}, s.kind)
		if long && begin.Before(to) && begin.Add(s.d+time.Second).After(from) {
			return true
		}
	}
	return slices.ContainsFunc(c.busy, func(b interval) bool { return b.shard == shard && b.from.Before(to) && b.to.After(from) })
}

// provenBy is a second after the last topic of a gap was proven on the connection that ended it, or was wanted no more: by the
// server's own table where that tells at once, else by the time that it has for an answer.
func (c *chaos) provenBy(ev wsshard.Event[string], conn chaosConn) (by time.Time) {
	by = latest(ev.From, c.took[conn].at)
	if c.troubled(ev.ShardID, c.opened[conn].Add(-time.Second), ev.Time) {
		return ev.To
	}
	for _, lost := range c.losses { // it is known of no earlier
		if lost.conn.life == conn.life && lost.conn.shard == conn.shard && !lost.at.After(ev.Time) {
			by = latest(by, lost.at)
		}
	}
	known := by
	for _, topic := range ev.Subs {
		var first, proven time.Time
		again := map[time.Time]bool{}
		for _, e := range c.encoded[topic] { // without a word of the server: AckTimeout for each of two requests, or Settle
			if e.conn != conn || e.sign != '+' || e.at.Before(ev.From) || e.at.After(ev.To) {
				continue
			}
			if proven.IsZero() || c.droppedBefore(topic, e) {
				if first, proven = e.at, e.at.Add(2*chaosAck); !c.byAnswers() && c.trait.Proof != "ready" {
					proven = e.at.Add(chaosSettle)
				}
			} else if c.byAnswers() && !again[first] && !e.at.Before(first.Add(chaosAck)) { // the second, when the pace let it
				again[first] = true
				proven = latest(proven, e.at.Add(chaosAck))
			}
		}
		for _, on := range c.history(topic) { // data proves nothing of a topic that was on there before
			if c.prompt() && c.byAnswers() && on.conn == conn && !on.on.Before(ev.From) && !on.on.After(ev.To) {
				proven = on.on
			}
		}
		for _, sp := range c.wanted[topic] {
			anew := sp.to.Before(known) && c.wantedAt(topic, known) // by the time that the loss was known of
			if !sp.to.IsZero() && sp.to.After(ev.From) && !sp.to.After(ev.Time) && !c.wantedAt(topic, sp.to) && !anew {
				proven = latest(time.Time{}, earliest(proven, sp.to))
			}
		}
		by = latest(by, proven)
	}
	return by.Add(time.Second)
}

// droppedBefore reports whether a topic was unsubscribed before it was asked for on the same connection.
func (c *chaos) droppedBefore(topic string, again encoding) bool {
	return slices.ContainsFunc(c.encoded[topic], func(e encoding) bool {
		return e.conn == again.conn && e.sign == '-' && !e.at.After(again.at)
	})
}

// earliest returns the earlier of those that are not zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// wantedAt reports whether a topic was wanted just after an instant.
func (c *chaos) wantedAt(topic string, at time.Time) bool {
	return slices.ContainsFunc(c.wanted[topic], func(sp span) bool { return !sp.from.After(at) && (sp.to.IsZero() || sp.to.After(at)) })
}

// checkComes sees to it that a loss is told of in time: within twice AckTimeout, and what it takes to ask for all again, after the
// next connection was open, if that lives for so long. Nothing is due where nothing had been asked for.
func (c *chaos) checkComes(lost loss) {
	next, opened := chaosConn{}, time.Time{}
	for conn, at := range c.opened {
		if conn.life == lost.conn.life && conn.shard == lost.conn.shard && conn.gen > lost.conn.gen && (next == chaosConn{} || conn.gen < next.gen) {
			if _, took := c.took[conn]; took {
				next, opened = conn, latest(at, c.took[conn].at)
			}
		}
	}
	if (next == chaosConn{}) {
		return
	}
	replay := 2 * time.Second
	if c.trait.Pace == "2" {
		replay = 12 * time.Second // a frame each 1.1 s; pings and what others send take turns with requests
	}
	due := opened.Add(2*chaosAck + replay)
	end, ended := c.ends[next]
	if ended && end.Before(due.Add(time.Second)) || c.published.Before(due) || c.troubled(lost.conn.shard, opened, due) {
		return
	}
	for i := range chaosTopics {
		topic := topicName(i)
		on := slices.ContainsFunc(c.history(topic), func(on onSpan) bool {
			given := !on.dropped.IsZero() && on.dropped.Before(lost.at.Add(-time.Second)) // back, be it that the network held that back
			return on.conn == lost.conn && on.off.IsZero() && !given && on.on.Before(lost.at.Add(-time.Second))
		})
		told := slices.ContainsFunc(c.gaps, func(ev wsshard.Event[string]) bool {
			return ev.ShardID == lost.conn.shard && !ev.Time.Before(lost.at) && !ev.Time.After(due) && slices.Contains(ev.Subs, topic)
		})
		if on && !told {
			c.accuse(topic, "I11: of the loss of %+v at %v no gap of %s was told by %v", lost.conn, lost.at.Sub(c.begin), topic, due.Sub(c.begin))
		}
	}
}

// refreshes reports whether a gap is one of topics that were off to be asked for again.
func (c *chaos) refreshes(ev wsshard.Event[string]) bool {
	return !slices.ContainsFunc(ev.Subs, func(topic string) bool {
		return !slices.ContainsFunc(c.history(topic), func(on onSpan) bool {
			return !on.off.IsZero() && !on.off.Before(ev.From) && !on.off.After(ev.To) && c.askedAgain(topic, on)
		})
	})
}

// takeover says when a connection came to deliver, and how.
type takeover struct {
	at         time.Time
	switchover bool
	forced     bool // without proof
	full       bool // as much waited as may: more keys of the old connection came by than are remembered
}

// brought is how many numbers a connection had brought.
type brought struct {
	conn chaosConn
	n    int
}

// loss is one that must be told of by a Gap.
type loss struct {
	conn chaosConn
	at   time.Time
}
