package chaos

import (
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what must hold after chaos, and in which order do numbers come?
//
//	I1  the server's own table is what is wanted, each topic on one connection
//	I2  each number, from a subscription's first to its end, was delivered, lies in a reported gap, or was counted: its callback
//	    panicked, or its sequence was refused (lost_test.go); what is wanted is delivered in the end
//	I3  per topic and shard the numbers rise; a shard delivers one message at a time, all of one connection, then all of the next
//	I4  no number twice, but over the two connections of a switchover, without keys or where more waited than keys are remembered
//	I5  with nothing but switchovers there is no gap but for one that was forced, and no connection is lost
//	I6  Stop returns within its deadline, whenever it comes, and nothing is delivered afterwards
//	I7  nothing is left after Stop: goroutines (the bubble sees to that), sockets
//	I8  dials keep to the budget
//	I9  every call returned
//	I10 the counters agree with what was seen
//	I11 a Gap comes in time, ends with the last proof and names nothing else (gap_test.go)

// check is called at rest.
func (c *chaos) check(total *chaosTotals) {
	synctest.Wait()
	c.checkTable()
	mt := c.m.Metrics()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range chaosTopics {
		topic := topicName(i)
		if spans := c.wanted[topic]; len(spans) > 0 {
			got := c.checkOrder(topic, spans, total)
			c.checkTopic(topic, spans, got, total)
		}
	}
	c.checkCalm(mt)
	c.checkGaps()
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
		if n != 1 && c.unsubscribes() {
			c.t.Errorf("I1: %s is on %d connections", topic, n)
		}
		have = append(have, topic)
	}
	slices.Sort(have)
	if !c.unsubscribes() { // what is not wanted any more stays where it is
		have = slices.DeleteFunc(have, func(topic string) bool { return !slices.Contains(want, topic) && len(c.wanted[topic]) > 0 })
	}
	if !slices.Equal(have, want) {
		c.t.Errorf("I1: the server has %q, wanted is %q", have, want)
	}
	if n := c.m.TotalSubscriptions(); n != len(want) {
		c.t.Errorf("I1: %d subscriptions are counted, %d are wanted", n, len(want))
	}
}

// wantedAnew reports whether a gap names nothing but topics that were taken back and wanted anew around a cutover: those nobody waits for.
func (c *chaos) wantedAnew(ev wsshard.Event[string]) bool {
	return !slices.ContainsFunc(ev.Subs, func(topic string) bool {
		return !slices.ContainsFunc(c.wanted[topic][1:], func(sp span) bool {
			return sp.from.After(ev.From.Add(-10*time.Second)) && sp.from.Before(ev.Time)
		})
	})
}

// checkCalm sees to I5.
func (c *chaos) checkCalm(mt wsshard.Metrics) {
	if !c.calm() {
		return
	}
	if n := int(mt.Errors) - c.fellSilent; n > 0 {
		c.t.Errorf("I5: %d connections lost or attempts failed, with switchovers only", n)
	}
	for _, ev := range c.gaps {
		forced := c.took[chaosConn{c.lifeAt(ev.Time), ev.ShardID, ev.Generation}].forced
		switch {
		case c.trait.Switch == "disabled" || forced || c.onlyAnew() || c.refreshes(ev) || c.wantedAnew(ev): // each replacement is a loss then, or was cut without proof
		case !ev.Time.Before(c.published): // silence is no surprise
		default:
			c.t.Errorf("I5: a gap from %v to %v of shard %d, with switchovers only", ev.From.Sub(c.begin), ev.To.Sub(c.begin), ev.ShardID)
		}
	}
}

// order is what was delivered of a topic.
type order struct {
	by    map[int][]chaosConn // for each number, the connections that delivered it
	times map[int]time.Time   // when each number was published
}

// checkOrder sees to I3 and I4. Numbers are judged shard by shard: a topic that was wanted twice may have been on two, and the
// first may hear of it for a while yet.
func (c *chaos) checkOrder(topic string, spans []span, total *chaosTotals) order {
	o := order{make(map[int][]chaosConn), make(map[int]time.Time)}
	for _, tick := range c.ticks[topic] {
		o.times[tick.n] = tick.at
	}
	history := c.history(topic)
	type lane struct{ life, shard int }
	type tail struct{ last, before delivery } // of the connection that delivers, and the highest of those before it
	tails := make(map[lane]*tail)
	for _, d := range c.got[topic] {
		of := lane{d.conn.life, d.conn.shard}
		t := tails[of]
		if t == nil {
			t = &tail{last: delivery{-1, d.conn}, before: delivery{-1, d.conn}}
			tails[of] = t
		}
		if t.last.conn != d.conn {
			if t.last.n > t.before.n {
				t.before = t.last
			}
			t.last = delivery{-1, d.conn}
		}
		switch {
		case c.twice(o.by[d.n], d.conn, len(spans) == 1):
			c.accuse(topic, "I4: %s:%d was delivered twice, by %+v after %+v", topic, d.n, d.conn, o.by[d.n])
			total.Duplicates++
		case d.n <= t.last.n:
			c.accuse(topic, "I3: %s:%d came after %d on one connection, %+v", topic, d.n, t.last.n, d.conn)
		case d.n < t.before.n && len(o.by[d.n]) == 0 && !c.onlyOnNext(topic, d.n, o.times[d.n], history, t.before.conn, d.conn):
			c.accuse(topic, "I3: %s:%d, published at %v, came after %d, by %+v after %+v", topic, d.n, o.times[d.n].Sub(c.begin), t.before.n, d.conn, t.before.conn)
		}
		t.last.n = max(t.last.n, d.n)
		o.by[d.n] = append(o.by[d.n], d.conn)
		total.Delivered++
	}
	return o
}

// twice reports whether a number that these connections delivered must not come by this one too.
func (c *chaos) twice(before []chaosConn, by chaosConn, once bool) bool {
	for _, conn := range before {
		sameShard := conn.life == by.life && conn.shard == by.shard
		switch {
		case !sameShard && !once:
		case sameShard && conn.gen < by.gen && (c.trait.Keys == "none" || c.took[by].full) && c.took[by].switchover && c.neighbours(conn, by):
			c.drove.note("twice over a switchover")
		default:
			return true
		}
	}
	return false
}

// neighbours reports whether next took over from cur.
func (c *chaos) neighbours(cur, next chaosConn) bool {
	for gen := cur.gen + 1; gen < next.gen; gen++ {
		if _, between := c.took[chaosConn{cur.life, cur.shard, gen}]; between {
			return false
		}
	}
	return true
}

// onlyOnNext reports whether a number that next brought never was on its way by cur, as the server knows, or was lost there by a
// callback: all of cur still comes before all of next.
func (c *chaos) onlyOnNext(topic string, n int, at time.Time, history []onSpan, cur, next chaosConn) bool {
	key := fmt.Sprintf("%s:%d", topic, n)
	if c.panicked[key] || c.dropped[key] {
		return true
	}
	if !c.took[next].switchover {
		return false
	}
	for _, on := range history {
		if on.conn == cur && on.on.Before(at) && (on.off.IsZero() || on.off.After(at)) {
			return false
		}
	}
	return true
}

// onSpan is a time during which a topic was on, as the server knows, on a connection that came to deliver.
type onSpan struct {
	conn    chaosConn
	on, off time.Time // off is zero when it was never turned off there
	end     time.Time // when the application heard of the connection's end, or the server before; zero: it lives
	asked   time.Time // when the subscription was encoded
	dropped time.Time // when the unsubscription that came after it was; zero: none was
}

// over is until when messages of it could be delivered; zero: they still can.
func (s onSpan) over() time.Time {
	if s.off.IsZero() || !s.end.IsZero() && s.end.Before(s.off) {
		return s.end
	}
	return s.off
}

func (s onSpan) has(at time.Time) bool {
	over := s.over()
	return !at.Before(s.on) && (over.IsZero() || at.Before(over))
}

// history is what the server knows of a topic. What it does on one connection it does in the order in which it was asked.
func (c *chaos) history(topic string) (list []onSpan) {
	asked := map[chaosConn][]encoding{} // without those that change nothing
	for _, e := range c.encoded[topic] {
		if on := len(asked[e.conn])%2 == 1; e.sign == '+' && !on || e.sign == '-' && on {
			asked[e.conn] = append(asked[e.conn], e)
		}
	}
	seen, at := map[chaosConn]int{}, map[chaosConn]int{}
	for _, ch := range c.topics.Changes(topic) {
		conn := c.connOf(ch.Peer)
		if _, took := c.took[conn]; !took {
			continue
		}
		if k := seen[conn]; !ch.On {
			list[at[conn]].off = ch.At
		} else {
			s := onSpan{conn: conn, on: ch.At, end: earliest(c.ends[conn], closedAt(ch.Peer))}
			if k < len(asked[conn]) {
				s.asked = asked[conn][k].at
			}
			if k+1 < len(asked[conn]) {
				s.dropped = asked[conn][k+1].at
			}
			at[conn] = len(list)
			list = append(list, s)
		}
		seen[conn]++
	}
	return list
}

// closedAt is when the server was told to close; zero: never.
func closedAt(p *wstest.Peer) time.Time {
	for _, f := range p.FrameLog() {
		if f.Kind == wstest.KindClose {
			return f.At
		}
	}
	return time.Time{}
}

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
		"live connections":     {mt.ActiveConnections, c.m.ShardCount()},
		"connections together": {int(mt.Connections), len(c.closed) + mt.ActiveConnections},
	} {
		if n[0] != n[1] {
			c.t.Errorf("I10: %s: %d are counted, %d were seen", what, n[0], n[1])
		}
	}
	if trips := int(mt.CircuitBreakerTrips); trips > c.trips { // what lasts is told of again
		c.t.Errorf("I10: the breaker tripped %d times, %d were told of", trips, c.trips)
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
