package wsshard_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what must hold after chaos?
//
//	I1  the server's own table is what is wanted, each topic on one connection
//	I2  each number, from a subscription's first to its end, was delivered, lies in a reported gap, or was counted: its callback
//	    panicked, or its sequence was refused (of a loss that Stop overtakes EventDisconnected told); what is wanted is delivered
//	    in the end
//	I3  per topic the numbers rise; a shard delivers one message at a time, all of one connection, then all of the next
//	I4  no number twice
//	I5  with nothing but switchovers there is no gap, and no connection is lost
//	I6  Stop returns within its deadline, whenever it comes, and nothing is delivered afterwards
//	I7  nothing is left after Stop: goroutines (the bubble sees to that), sockets
//	I8  dials keep to the budget
//	I9  every call returned
//	I10 the counters agree with what was seen

// check is called at rest.
func (c *chaos) check(total *chaosTotals) {
	synctest.Wait()
	c.checkTable()
	mt := c.m.Metrics()
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, spans := range c.wanted {
		c.checkTopic(topic, spans, total)
	}
	early := func(ev wsshard.Event[string]) bool { return ev.Time.Before(c.published) } // later, silence is no surprise
	if c.trait.calm && (slices.ContainsFunc(c.gaps, early) || mt.Errors > 0) {
		c.t.Errorf("I5: %d gaps, %d connections lost or attempts failed, with switchovers only", len(c.gaps), mt.Errors)
	}
	c.checkDials()
	c.checkCounters(mt)
	total.Switchovers += int(mt.HotSwitchovers)
	total.SwitchoversFailed += int(mt.HotSwitchoverFailures)
	total.Reconnects += int(mt.Reconnections)
	total.Gaps += len(c.gaps)
	total.Panicked += c.panicCount
	total.SequenceDrops += len(c.dropped)
	total.Parked += len(c.parked)
	total.BreakerTrips += c.trips
	total.Calls += c.calls
}

func (c *chaos) checkTable() {
	want := c.desired()
	var have []string
	for topic, n := range c.topics.All() {
		if n != 1 {
			c.t.Errorf("I1: %s is on %d connections", topic, n)
		}
		have = append(have, topic)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		c.t.Errorf("I1: the server has %q, wanted is %q", have, want)
	}
	if n := c.m.TotalSubscriptions(); n != len(want) {
		c.t.Errorf("I1: %d subscriptions are counted, %d are wanted", n, len(want))
	}
}

func (c *chaos) checkTopic(topic string, spans []span, total *chaosTotals) {
	got := c.checkOrder(topic, spans, total)
	total.Delivered += len(got)
	ticks := c.ticks[topic]
	end := ticks[len(ticks)-1].at
	for _, sp := range spans {
		var firstLost, lastLost time.Time
		lost := 0
		begun, served := c.begun(topic, sp)
		for _, tick := range ticks {
			if tick.at.Before(sp.from) || !sp.to.IsZero() && tick.at.After(sp.to.Add(-time.Second)) {
				continue
			}
			key := fmt.Sprintf("%s:%d", topic, tick.n)
			total.Published++
			switch {
			case len(got[tick.n]) > 0, c.panicked[key], c.dropped[key]:
			case !served, !tick.at.After(begun): // in that very instant it may be too late
			case c.reported(topic, tick.at, sp):
				total.Reported++
			case c.during(tick.at, time.Second, "quiet"), c.resubscribed(topic, tick.at), c.unheard(topic, tick.at, sp):
			case tick.at.After(end.Add(-time.Second)): // still on its way
			default:
				total.Lost++
				if lost++; firstLost.IsZero() {
					firstLost = tick.at
				}
				lastLost = tick.at
			}
		}
		if lost > 0 {
			c.accuse(topic, "I2: %d numbers of %s, from %v to %v, were not delivered and are in no gap", lost, topic, firstLost.Sub(c.begin), lastLost.Sub(c.begin))
		}
		if !served && sp.to.IsZero() {
			c.accuse(topic, "I2: %s is wanted since %v, and the server never heard of it", topic, sp.from.Sub(c.begin))
		}
	}
}

// checkOrder returns the numbers that were delivered, and by which shards. A topic that was wanted twice may have been on two shards, and the first
// may hear of it for a while yet.
func (c *chaos) checkOrder(topic string, spans []span, total *chaosTotals) (got map[int][]int) {
	got = make(map[int][]int)
	last := make(map[int]int) // by shard
	for _, d := range c.got[topic] {
		of := d.shard
		if len(spans) == 1 {
			of = 0
		}
		key := fmt.Sprintf("%s:%d", topic, d.n)
		lost := c.panicked[key] || c.dropped[key] // on the old connection of a switchover, but not on the new one
		switch before := last[of]; {
		case slices.Contains(got[d.n], d.shard) || len(spans) == 1 && len(got[d.n]) > 0:
			c.accuse(topic, "I4: %s:%d was delivered twice", topic, d.n)
			total.Duplicates++
		case d.n < before && !lost && !c.unsettled(topic, spans, c.tickTime(topic, d.n), d.shard):
			c.accuse(topic, "I3: %s:%d came after %d", topic, d.n, before)
		}
		last[of] = max(last[of], d.n)
		got[d.n] = append(got[d.n], d.shard)
	}
	return got
}

// unheard reports whether the topic was given up, or Stop came, before anybody could notice what was missing, or before a
// handler that took its time had come to it.
func (c *chaos) unheard(topic string, at time.Time, sp span) bool {
	const notices, skew = 20 * time.Second, time.Second
	if sp.to.IsZero() {
		return false
	}
	shard := c.shardOf(topic, at)
	unread := func(b interval) bool { return b.shard == shard && b.has(at, skew) && b.has(sp.to, skew) }
	return slices.ContainsFunc(c.busy, unread) ||
		at.After(sp.to.Add(-notices)) && c.during(at, skew, "blackhole", "stall-read", "stall-write", "silent")
}

// shardOf is the shard by which a topic came at that time, as the server says.
func (c *chaos) shardOf(topic string, at time.Time) (shard int) {
	shard = -1
	for _, ch := range c.topics.Changes(topic) {
		if ch.On && !ch.At.After(at) && c.tookOver(ch.Peer) {
			shard = c.connOf(ch.Peer).shard
		}
	}
	return shard
}

// unsettled reports whether the topic may have been off on one connection of a switchover and on on the other, as it was
// subscribed to just then. What only the new one brought then comes after what both did.
func (c *chaos) unsettled(topic string, spans []span, at time.Time, shard int) bool {
	overlap := func(b interval) bool { return b.shard == shard && b.has(at, time.Second) }
	if !slices.ContainsFunc(c.overlaps, overlap) {
		return false
	}
	begins := func(sp span) bool { return at.After(sp.from.Add(-time.Second)) && at.Before(c.late(sp)) }
	return c.resubscribed(topic, at) || slices.ContainsFunc(spans, begins)
}

// late is until when an unsubscription before sp may reach the server: the network stalls for so long.
func (c *chaos) late(sp span) time.Time { return sp.from.Add(25*time.Second + 6*c.trait.honour) }

// begun is since when the server knows that a topic is wanted, as it says itself. An unsubscription that was taken back in time
// has never reached it; one that was not, may come late, and to both connections of a switchover. What the server took for on
// may have been a connection that we had given up. One that never took over delivers nothing, whatever it knows.
func (c *chaos) begun(topic string, sp span) (at time.Time, ok bool) {
	late := c.late(sp)
	at, ok = sp.from, c.wasOn(topic, sp.from)
	shard := c.shardOf(topic, sp.from)
	heard := false
	for _, ch := range c.topics.Changes(topic) {
		switch {
		case ch.At.Before(sp.from), !c.tookOver(ch.Peer):
		case ch.At.After(late) && ok && (heard || shard == c.connOf(ch.Peer).shard): // else it is another shard's now
			return at, true
		case !ch.On:
			ok = false
		case !ok, !heard:
			at, ok, heard = ch.At, true, true
		}
	}
	return at, ok
}

// wasOn reports whether the topic was on at that time, on a connection that delivered.
func (c *chaos) wasOn(topic string, at time.Time) bool {
	on := map[*wstest.Peer]time.Time{}
	for _, ch := range c.topics.Changes(topic) {
		switch {
		case !ch.At.Before(at) || !c.tookOver(ch.Peer):
		case ch.On:
			on[ch.Peer] = ch.At
		default:
			delete(on, ch.Peer)
		}
	}
	maps.DeleteFunc(on, func(p *wstest.Peer, since time.Time) bool { // whatever the server believes
		given := func(f wstest.Frame) bool { // up, though the connection did not live to see it honoured
			topics, off := strings.CutPrefix(f.Text, "-")
			return off && slices.Contains(strings.Split(topics, ","), topic) && !f.At.Before(since) && f.At.Before(at.Add(time.Second))
		}
		end, ended := c.ends[c.connOf(p)]
		return ended && end.Before(at) || slices.ContainsFunc(p.FrameLog(), given)
	})
	return len(on) > 0
}

// tookOver reports whether a connection ever was the one that delivers.
func (c *chaos) tookOver(p *wstest.Peer) bool { return c.took[c.connOf(p)] }

// connOf is what the library calls a connection.
func (c *chaos) connOf(p *wstest.Peer) chaosConn {
	conn, known := c.conns[p]
	if !known {
		for _, f := range p.FrameLog() {
			if _, err := fmt.Sscanf(f.Text, "hi %d %d %d", &conn.life, &conn.shard, &conn.gen); err == nil {
				break
			}
		}
		c.conns[p] = conn
	}
	return conn
}

// reported looks for a gap around at, or for a loss that was told of before Stop came. A topic that was unsubscribed before the gap was reported may be missing in it: nobody
// wants it any more.
func (c *chaos) reported(topic string, at time.Time, sp span) bool {
	const skew = 500 * time.Millisecond // of the network and the server
	return slices.ContainsFunc(append(c.outages, c.gaps...), func(ev wsshard.Event[string]) bool {
		from := c.sent(ev.From).Add(-skew)
		if at.Before(from) || at.After(ev.To.Add(skew)) {
			return false
		}
		return slices.Contains(ev.Subs, topic) || !sp.to.IsZero() && sp.to.After(from) && sp.to.Before(ev.Time)
	})
}

// resubscribed reports whether the topic was off for a moment around at, as there is no Resubscriber.
func (c *chaos) resubscribed(topic string, at time.Time) bool {
	const skew = time.Second // of the network
	asked := func(by time.Time) bool {
		return slices.ContainsFunc(c.again[topic], func(t time.Time) bool { return !t.After(by) })
	}
	if c.trait.resubscriber {
		return false
	}
	changes := c.topics.Changes(topic)
	for i, off := range changes {
		if off.On || !asked(off.At) || at.Before(off.At.Add(-skew)) {
			continue
		}
		until := time.Now()
		for _, ch := range slices.Backward(changes[i:]) {
			if ch.On && (ch.Peer == off.Peer || c.tookOver(ch.Peer)) {
				until = ch.At
			}
		}
		for _, ch := range slices.Backward(changes[i:]) {
			if ch.On && ch.Peer == off.Peer { // this counts, when it ever came
				until = ch.At
			}
		}
		if at.Before(until.Add(skew)) {
			return true
		}
	}
	return false
}

// sent is when a frame that arrived at this time may have been sent: a network that stalled delivers late, and what the
// server did meanwhile, like closing, arrives behind it.
func (c *chaos) sent(at time.Time) time.Time {
	for _, s := range c.script {
		from := c.begin.Add(s.at)
		stalled := s.kind == "blackhole" || s.kind == "stall-read" || s.kind == "stall-write"
		if stalled && from.Before(at) && !at.After(from.Add(s.d+time.Second)) {
			at = from
		}
	}
	return at
}

func (c *chaos) checkDials() {
	times := c.net.DialTimes()
	for i := chaosBudget; i < len(times); i++ {
		if d := times[i].Sub(times[i-chaosBudget]); d < chaosWindow {
			c.t.Errorf("I8: %d dials within %v", chaosBudget+1, d)
		}
	}
}

func (c *chaos) checkCounters(mt wsshard.Metrics) {
	for what, n := range map[string][2]int{
		"gaps":                 {int(mt.Gaps), len(c.gaps)},
		"panics":               {int(mt.HandlerPanics), c.panicCount},
		"sequence drops":       {int(mt.SequenceDrops), len(c.dropped)},
		"breaker trips":        {int(mt.CircuitBreakerTrips), c.trips},
		"live connections":     {mt.ActiveConnections, c.m.ShardCount()},
		"connections together": {int(mt.Connections), len(c.closed) + mt.ActiveConnections},
	} {
		if n[0] != n[1] {
			c.t.Errorf("I10: %s: %d are counted, %d were seen", what, n[0], n[1])
		}
	}
}

// checkEnd is called after the last Stop.
func (c *chaos) checkEnd() {
	if n := c.net.Open(); n != 0 {
		c.t.Errorf("I7: %d sockets are open", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := int(c.m.Metrics().Connections); n != len(c.closed) {
		c.t.Errorf("I10: %d connections were opened, %d ended", n, len(c.closed))
	}
}
