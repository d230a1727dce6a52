package wsshard_test

import (
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// check is the oracle of TestChaos, called at rest. The invariants are numbered:
//
//	I1  the server's own table is what is wanted, each topic on one connection
//	I2  each number, from a subscription's first to its end, was delivered, lies in a reported gap, or its callback panicked
//	I3  per topic the numbers rise
//	I4  no number twice
//	I7  nothing is left after Stop (see run)
//	I8  dials keep to the budget
//	I9  every call returned (run waits for them)
//	I10 the counters agree with what was seen
func (c *chaos) check(total *chaosTotals) {
	synctest.Wait()
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
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, spans := range c.wanted {
		c.checkTopic(topic, spans, total)
	}
	for key, n := range c.count {
		if n > 1 {
			c.t.Errorf("I4: %s was delivered %d times", key, n)
			total.Duplicates++
		}
	}
	c.checkDials()
	mt := c.m.Metrics()
	if int(mt.Gaps) != len(c.gaps) {
		c.t.Errorf("I10: %d gaps counted, %d heard of", mt.Gaps, len(c.gaps))
	}
	if int(mt.HandlerPanics) != len(c.panicked) {
		c.t.Errorf("I10: %d panics counted, %d happened", mt.HandlerPanics, len(c.panicked))
	}
	if got := mt.ActiveConnections; got != c.m.ShardCount() {
		c.t.Errorf("%d of %d shards are connected", got, c.m.ShardCount())
	}
	if n := int(mt.Connections); n-len(c.closed) != mt.ActiveConnections {
		c.t.Errorf("I10: %d connections opened, %d ended, %d active", n, len(c.closed), mt.ActiveConnections)
	}
	total.Switchovers += int(mt.HotSwitchovers)
	total.Reconnects += int(mt.Reconnections)
	total.Gaps += len(c.gaps)
	total.Panicked += len(c.panicked)
}

func (c *chaos) checkTopic(topic string, spans []span, total *chaosTotals) {
	got := make(map[int]bool)
	last := 0
	for _, n := range c.got[topic] {
		if n <= last {
			c.t.Errorf("I3: %s:%d came after %d", topic, n, last)
		}
		last = n
		got[n] = true
	}
	total.Delivered += len(got)
	for _, sp := range spans {
		var firstLost, lastLost time.Time
		lost := 0
		begun := false // numbers before the first delivery were before the server knew of the subscription
		for _, tick := range c.ticks[topic] {
			if tick.at.Before(sp.from) || !sp.to.IsZero() && tick.at.After(sp.to.Add(-time.Second)) {
				continue
			}
			key := fmt.Sprintf("%s:%d", topic, tick.n)
			total.Published++
			switch {
			case got[tick.n] || c.panicked[key]:
				begun = true
			case !begun:
			case c.reported(topic, tick.at, sp):
				total.Reported++
			case c.quietAt(tick.at):
			case tick.at.After(c.ticks[topic][len(c.ticks[topic])-1].at.Add(-time.Second)): // still on its way
			default:
				total.Lost++
				if lost++; firstLost.IsZero() {
					firstLost = tick.at
				}
				lastLost = tick.at
			}
		}
		if lost > 0 {
			c.t.Errorf("I2: %d numbers of %s, from %v to %v, were not delivered and are in no gap", lost, topic, firstLost.Sub(c.begin), lastLost.Sub(c.begin))
		}
	}
}

func (c *chaos) quietAt(at time.Time) bool {
	for _, s := range c.script {
		if from := c.begin.Add(s.at); s.kind == "quiet" && !at.Before(from.Add(-time.Second)) && at.Before(from.Add(s.d+time.Second)) {
			return true
		}
	}
	return false
}

// reported looks for a gap around at. A topic that was unsubscribed before the gap was reported may be missing in it: nobody
// wants it any more.
func (c *chaos) reported(topic string, at time.Time, sp span) bool {
	const skew = 100 * time.Millisecond // of the network
	return slices.ContainsFunc(c.gaps, func(ev wsshard.Event[string]) bool {
		from := c.sent(ev.From).Add(-skew)
		if at.Before(from) || at.After(ev.To.Add(skew)) {
			return false
		}
		return slices.Contains(ev.Subs, topic) || !sp.to.IsZero() && sp.to.After(from) && sp.to.Before(ev.Time)
	})
}

// sent is when a frame that arrived at this time may have been sent: a network that stalled delivers late, and what the
// server did meanwhile, like closing, arrives behind it.
func (c *chaos) sent(at time.Time) time.Time {
	for _, s := range c.script {
		from := c.begin.Add(s.at)
		stalled := s.kind == "blackhole" || s.kind == "stall-read"
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
