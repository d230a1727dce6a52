package chaos

import (
	"fmt"
	"slices"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what is told of a seed of chaos that failed?

// accuse fails the run because of a topic, whose story explain then tells.
func (c *chaos) accuse(topic, format string, args ...any) {
	c.t.Errorf(format, args...)
	c.suspects = append(c.suspects, topic)
}

// explain logs what happened, for a seed that failed.
func (c *chaos) explain() {
	c.t.Logf("seed %d: %+v, latency %v, honour %v, skew %v", c.seed, c.trait, c.latency, c.honour, c.skew)
	for _, s := range c.script {
		c.t.Logf("%v %s a=%d b=%d for %v", s.at, s.kind, s.a, s.b, s.d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.story {
		c.t.Log(line)
	}
	slices.Sort(c.suspects)
	for _, topic := range slices.Compact(c.suspects) {
		for _, sp := range c.wanted[topic] {
			c.t.Logf("%s is wanted from %v to %v", topic, sp.from.Sub(c.begin), sp.to.Sub(c.begin))
		}
		for _, e := range c.encoded[topic] {
			c.t.Logf("%s is in a request %q at %v on %+v", topic, e.sign, e.at.Sub(c.begin), e.conn)
		}
		for _, ch := range c.topics.Changes(topic) {
			c.t.Logf("%s is on=%v at %v on %+v", topic, ch.On, ch.At.Sub(c.begin), c.connOf(ch.Peer))
		}
		for _, r := range c.refusals[topic] {
			c.t.Logf("%s is rejected at %v on %+v", topic, r.at.Sub(c.begin), c.connOf(r.peer))
		}
	}
}

func storyOf(ev wsshard.Event[string], begin time.Time) string {
	text := fmt.Sprintf("%v shard %d gen %d: %v", ev.Time.Sub(begin), ev.ShardID, ev.Generation, ev.Kind)
	switch {
	case ev.Kind == wsshard.EventGap:
		return fmt.Sprintf("%s from %v to %v of %v", text, ev.From.Sub(begin), ev.To.Sub(begin), ev.Subs)
	case ev.Switchover != nil:
		return fmt.Sprintf("%s %+v err=%v", text, *ev.Switchover, ev.Err)
	}
	return fmt.Sprintf("%s err=%v delay=%v subs=%v", text, ev.Err, ev.Delay, ev.Subs)
}
