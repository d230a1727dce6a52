package faults

import (
	"context"
	"slices"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what must hold at the end of every cell of the fault matrix, whatever happened in it?

// wantWell is what must hold at the end of every cell: each shard is connected, with the topics that are wanted as the server
// sees them; every number reached the handler or lies in a gap; Stop is quick and leaves nothing; OnDisconnect heard of each
// connection once; and no secret was told (see run).
func (c *cell) wantWell() {
	c.T.Helper()
	c.until("well", c.right)
	time.Sleep(3 * time.Second) // the last of the old, the first of the new
	synctest.Wait()
	if n := c.Net.Open(); n != c.M.ShardCount() && c.agents == nil && c.ca == nil {
		c.T.Errorf("%d sockets are open for %d shards", n, c.M.ShardCount())
	}
	if c.final != nil {
		got := c.want()
		slices.Sort(got)
		if slices.Sort(c.final); !slices.Equal(got, c.final) {
			c.T.Errorf("wanted are %q, should be %q", got, c.final)
		}
	}
	if !c.right() {
		c.T.Errorf("the server has %v, want %q each once", c.Topics.All(), c.want())
	}
	c.closeMarket()
	time.Sleep(time.Second)
	synctest.Wait()
	c.Say(c.M.Metrics())
	for _, s := range c.M.Metrics().Shards {
		c.Say(s)
		if s.LastError != nil {
			c.Say(s.LastError)
		}
	}
	c.wantCalm()
	begin := time.Now()
	if err := c.M.Stop(context.Background()); err != nil {
		c.T.Errorf("Stop: %v", err)
	}
	if c.worst = time.Since(begin); c.worst > 2*time.Second {
		c.T.Errorf("Stop took %v", c.worst)
	}
	harness.WantLoops(c.T, "stopped", 0)
	for p, code := range c.closes {
		if got := p.CloseCode(); got != code {
			c.T.Errorf("the server heard close %d, want %d", got, code)
		}
	}
	if n := c.Net.Open(); n != 0 {
		c.T.Errorf("%d sockets are open", n)
	}
	c.wantAccounts()
	c.wantGoodbyes()
}

// right says whether each shard is connected and the server has each topic once.
func (c *cell) right() bool {
	all, want, closed := make(map[string]int), c.want(), make(map[string]bool)
	for _, conn := range c.Net.Conns() {
		closed[conn.LocalAddr().String()] = conn.Closed()
	}
	for _, p := range c.Srv.Live() {
		if closed[p.Net().RemoteAddr().String()] { // which its server does not always learn
			continue
		}
		for _, topic := range c.Topics.On(p) {
			all[topic]++
		}
	}
	for _, topic := range want {
		if all[topic] != 1 {
			return false
		}
	}
	return len(all) == len(want) && c.M.Metrics().ActiveConnections == c.M.ShardCount()
}

// want is what the server must have: the shards' own list.
func (c *cell) want() (topics []string) {
	for id := range c.M.ShardCount() {
		topics = append(topics, c.M.ShardSubscriptions(id)...)
	}
	return topics
}

// wantAccounts checks that no number is missing but in a gap, from the first that the server sent on, and that none came twice
// or out of order. A number may be lost without a gap in one instant only: that in which a callback stopped the manager or
// turned topics away. When the market moves in that instant, which of the two is first is chance.
func (c *cell) wantAccounts() {
	c.T.Helper()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	for topic, ticks := range c.ticks {
		got := c.Got[topic]
		for i, n := range got[min(1, len(got)):] {
			if n <= got[i] && !c.keyless {
				c.T.Errorf("%s:%d came after %d", topic, n, got[i])
			}
		}
		var lost []time.Time
		for n, at := range ticks {
			if !slices.Contains(got, n) && !c.reportedLocked(topic, at) && !at.Equal(c.turned) {
				lost = append(lost, at)
			}
		}
		if len(lost) > 0 {
			slices.SortFunc(lost, time.Time.Compare)
			c.T.Errorf("%d numbers of %s, from %s to %s, are lost in silence", len(lost), topic, lost[0].Format(clock), lost[len(lost)-1].Format(clock))
		}
	}
}

const clock = "04:05.000"

func (c *cell) reportedLocked(topic string, at time.Time) bool {
	return slices.ContainsFunc(c.Events, func(ev wsshard.Event[string]) bool {
		return ev.Kind == wsshard.EventGap && slices.Contains(ev.Subs, topic) && !at.Before(ev.From) && !at.After(ev.To)
	})
}

// wantGoodbyes checks that OnDisconnect heard once of each connection that was opened.
func (c *cell) wantGoodbyes() {
	c.T.Helper()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	heard := 0
	for conn, causes := range c.Causes {
		if heard += len(causes); len(causes) > 1+c.runs || slices.Contains(causes, nil) {
			c.T.Errorf("OnDisconnect heard of %v: %v", conn, causes)
		}
	}
	if n := c.M.Metrics().Connections; n != uint64(heard) {
		c.T.Errorf("%d connections were opened, OnDisconnect heard of %d", n, heard)
	}
}

// wantCalm checks that no shard dialled in a tight loop.
func (c *cell) wantCalm() {
	c.T.Helper()
	const most, window = 30, 10 * time.Second
	times, shards := c.dialTimes(), c.M.ShardCount()
	for i := most * shards; i < len(times) && !c.row.restless; i++ {
		if d := times[i].Sub(times[i-most*shards]); d < window {
			c.T.Errorf("%d dials within %v", most*shards, d)
			return
		}
	}
}
