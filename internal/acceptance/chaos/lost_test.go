package chaos

import (
	"fmt"
	"slices"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which numbers may be missing?
//
// From the instant on at which the server has a topic that is wanted (begun), to a second before it is wanted no more, each
// number is delivered, or it lies in a Gap of its shard that names its topic, between Sure and To, or one of these is known of it:
//
//   - its own callback lost it, which is counted
//   - the topic was off to be asked for again, on a connection that lived: until it was on there
//   - the server had rejected it, and had not taken it since; or EventSubscriptionRejected has said that nobody answered
//   - it was taken back and wanted anew, which is a new subscription, and a switchover took the connection that had the old one; until
//     the next one had it
//   - nobody answers, and the server took longer than Settle to honour the request
//   - Stop came, and so no Gap could; or it ended a switchover, and the topic was on the new connection alone, which was held
//
// That it was unsubscribed while the connection was dead, or before anybody could notice, excuses nothing.

// checkTopic sees to I2.
func (c *chaos) checkTopic(topic string, spans []span, got order, total *chaosTotals) {
	ticks, history := c.ticks[topic], c.history(topic)
	end := ticks[len(ticks)-1].at.Add(-time.Second) // what came later is still on its way
	for _, sp := range spans {
		begun, served := c.begun(history, sp)
		var lost []tickLog
		for _, tick := range ticks {
			if tick.at.Before(sp.from) || !sp.to.IsZero() && tick.at.After(sp.to.Add(-time.Second)) {
				continue
			}
			key := fmt.Sprintf("%s:%d", topic, tick.n)
			total.Published++
			switch {
			case len(got.by[tick.n]) > 0, c.panicked[key], c.dropped[key]:
			case !served, !tick.at.After(begun): // in that very instant it may be too late
			case c.reported(topic, tick.at, sp):
				total.Reported++
			case c.offToRefresh(topic, history, tick.at, sp), c.rejectedBy(topic, history, tick.at, sp), c.unsettled(topic, history, tick.at, sp), c.stoppedFirst(tick.at, sp), c.heldAtStop(history, tick.at, sp), c.anewOverCut(history, tick.at, sp):
			case tick.at.After(end):
			default:
				total.Lost++
				lost = append(lost, tick)
			}
		}
		if len(lost) > 0 {
			c.accuse(topic, "I2: %d numbers of %s, from %v to %v, were not delivered and are in no gap (wanted since %v on shard %d, on since %v)", len(lost), topic,
				lost[0].at.Sub(c.begin), lost[len(lost)-1].at.Sub(c.begin), sp.from.Sub(c.begin), sp.shard, begun.Sub(c.begin))
		}
		if !served && sp.to.IsZero() {
			c.accuse(topic, "I2: %s is wanted since %v, and the server never heard of it", topic, sp.from.Sub(c.begin))
		}
	}
}

// mine reports whether a connection is one of the shard that a topic was placed on.
func (sp span) mine(conn chaosConn) bool { return conn.life == sp.life && conn.shard == sp.shard }

// begun is since when the server has a topic because it is wanted. An unsubscription that was taken back in time never reached
// it; one that was not comes into force late, and what it had until then it had for the last time that the topic was wanted.
func (c *chaos) begun(history []onSpan, sp span) (at time.Time, ok bool) {
	for _, on := range history {
		over := on.over()
		switch since := latest(on.on, sp.from); {
		case !sp.mine(on.conn), !over.IsZero() && !over.After(sp.from), !on.dropped.IsZero() && !on.dropped.After(sp.from):
		case !sp.to.IsZero() && !since.Before(sp.to):
		case !ok || since.Before(at):
			at, ok = since, true
		}
	}
	return at, ok
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// reported looks for a gap around at.
func (c *chaos) reported(topic string, at time.Time, sp span) bool {
	return slices.ContainsFunc(c.gaps, func(ev wsshard.Event[string]) bool {
		return ev.ShardID == sp.shard && slices.Contains(ev.Subs, topic) && !at.Before(ev.Sure) && !at.After(ev.To)
	})
}

// offToRefresh reports whether the topic was off at that time to be asked for again: until it was on again there, or the
// connection was over.
func (c *chaos) offToRefresh(topic string, history []onSpan, at time.Time, sp span) bool {
	for i, on := range history {
		if on.off.IsZero() || at.Before(on.off) || !sp.mine(on.conn) || !c.askedAgain(topic, on) {
			continue
		}
		until := on.end
		for _, again := range history[i+1:] {
			if again.conn == on.conn {
				until = again.on
				break
			}
		}
		if until.IsZero() || !at.After(until) {
			return true
		}
	}
	return false
}

// askedAgain reports whether the unsubscription that ended on was one to ask again: somebody asked for that, or it was
// unsubscribed and subscribed between two requests.
func (c *chaos) askedAgain(topic string, on onSpan) bool {
	between := func(t time.Time) bool { return !t.Before(on.asked) && !t.After(on.dropped) }
	anew := func(sp span) bool { return between(sp.from) && (sp.to.IsZero() || sp.to.After(on.dropped)) }
	return c.dropsToRefresh() && (slices.ContainsFunc(c.again[topic], between) || slices.ContainsFunc(c.wanted[topic], anew))
}

// rejectedBy reports whether the server had rejected the topic, and had it nowhere at that time.
func (c *chaos) rejectedBy(topic string, history []onSpan, at time.Time, sp span) bool {
	for _, on := range history {
		if sp.mine(on.conn) && on.on.Before(at) && on.has(at) && on.has(at.Add(2*c.skew)) { // else what it had to send was lost with it
			return false
		}
	}
	if slices.ContainsFunc(c.givenUp[topic], func(r givenUp) bool { return sp.mine(r.conn) && !r.at.After(at) && !r.at.Before(sp.from) }) {
		return true
	}
	return slices.ContainsFunc(c.refusals[topic], func(r refusal) bool {
		return sp.mine(c.connOf(r.peer)) && !r.at.After(at) && !r.at.Before(sp.from)
	})
}

// unsettled reports whether time alone was taken for an answer, and the server took longer.
func (c *chaos) unsettled(topic string, history []onSpan, at time.Time, sp span) bool {
	if c.byAnswers() || c.trait.Proof == "ready" {
		return false
	}
	const transport = 200 * time.Millisecond
	for _, e := range c.encoded[topic] {
		if e.sign != '+' || !sp.mine(e.conn) || at.Before(e.at) {
			continue
		}
		honoured := c.ends[e.conn]
		for _, on := range history {
			if on.conn == e.conn && !on.on.Before(e.at) {
				honoured = on.on
				break
			}
		}
		if late := honoured.IsZero() || honoured.Sub(e.at) > chaosSettle-transport; late && (honoured.IsZero() || !at.After(honoured)) {
			return true
		}
	}
	return false
}

// stoppedFirst reports whether Stop came before the gap of a loss that was told of, or before what came last was read.
func (c *chaos) stoppedFirst(at time.Time, sp span) bool {
	const skew = 500 * time.Millisecond
	return slices.ContainsFunc(c.outages, func(ev wsshard.Event[string]) bool {
		return ev.ShardID == sp.shard && sp.life == int(ev.Generation) && !at.Before(ev.From.Add(-skew)) && !at.After(ev.To)
	})
}

// cutShort is a switchover that Stop ended.
type cutShort struct {
	life, shard int
	since, stop time.Time
}

// heldAtStop reports whether a number had come on the new connection of a switchover that Stop ended, and on no other.
func (c *chaos) heldAtStop(history []onSpan, at time.Time, sp span) bool {
	return slices.ContainsFunc(c.cutShort, func(cut cutShort) bool {
		if sp.shard != cut.shard || sp.life != cut.life || at.Before(cut.since) || at.After(cut.stop) {
			return false
		}
		return !slices.ContainsFunc(history, func(on onSpan) bool {
			return sp.mine(on.conn) && on.has(at) && c.opened[on.conn].Before(cut.since)
		})
	})
}

// anewOverCut reports whether what the server had of the topic was the subscription before the one that is wanted, on a connection
// that a switchover replaced, and the next connection did not have the new one yet. Without an Unsubscriber there is but one subscription.
func (c *chaos) anewOverCut(history []onSpan, at time.Time, sp span) bool {
	if !c.unsubscribes() {
		return false
	}
	transport := 2*c.latency + c.skew
	return slices.ContainsFunc(history, func(old onSpan) bool {
		if !sp.mine(old.conn) || !old.asked.Before(sp.from) || !old.dropped.IsZero() || old.end.IsZero() || at.Before(old.end.Add(-transport)) {
			return false
		}
		next := slices.IndexFunc(history, func(on onSpan) bool {
			return sp.mine(on.conn) && on.conn.gen > old.conn.gen && !on.asked.Before(sp.from)
		})
		return next >= 0 && c.took[history[next].conn].switchover && !at.After(history[next].on)
	})
}
