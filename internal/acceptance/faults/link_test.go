package faults

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what befalls a connection that is open? Rows 1, 9, 10, 12, 28 to 31, 42, 43, 46 and 54 of the matrix.

// hole makes a connection half-open.
func hole(c *cell, at target) {
	at.peer.Net().(*wstest.Conn).BlackHole(true)
	c.hush(at.peer)
}

// soon has a strike wait until the client has seen that the connection is open.
func soon(do func(c *cell, at target)) func(c *cell, at target) {
	return func(c *cell, at target) {
		c.joined.Go(func() {
			nap(time.Millisecond)
			do(c, at)
		})
	}
}

// rage does something again and again until it fails or the fault is over.
func (c *cell) rage(pause time.Duration, do func() error) {
	c.raging.Store(true)
	c.joined.Go(func() {
		for c.raging.Load() && do() == nil {
			nap(pause)
		}
	})
}

// flooded is a ping flood: never in the instant of a pong.
func flooded(c *cell, at target) {
	n := 0
	c.rage(time.Millisecond+7*time.Microsecond, func() error {
		n++
		_, err := at.peer.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpPing, fmt.Sprint(n))))
		return err
	})
}

// fewPongs checks that a flood costs ten pongs a second at most.
func fewPongs(c *cell) {
	for i := range c.Srv.Conns() {
		n, first, last := 0, time.Time{}, time.Time{}
		for _, f := range c.Srv.Conn(i).FrameLog() {
			if f.Kind == wstest.KindPong {
				if n++; n == 1 {
					first = f.At
				}
				last = f.At
			}
		}
		if most := 2 + int(last.Sub(first)/(100*time.Millisecond)); n > most {
			c.T.Errorf("%d pongs in %v", n, last.Sub(first))
		}
	}
}

var linkFaults = []*row{
	{no: 1, name: "half_open", kind: linkFault, real: "internal/realworld/servers: TestSoak", with: func(cfg *wsshard.Config) { cfg.Health.FailureThreshold = 1 },
		strikes: []strike{{do: hole, is: harness.Is(wsshard.ErrPongTimeout), mute: true, check: wantGapOfHole}}},
	{no: 9, name: "close_codes", kind: linkFault, real: "internal/realworld/servers: TestWS", strikes: func() (all []strike) {
		for _, code := range []int{1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4004, 4009, 4999} {
			all = append(all, strike{
				name: fmt.Sprint(code), do: func(c *cell, at target) {
					if at.peer.Close(code, "so long\x7f\n"); at.phase != switching {
						c.expect(at.peer, map[bool]int{true: 1000, false: code}[code == 1005 || code > 1011 && code < 3000]) // what may be echoed
					}
				}, is: func(err error) bool {
					return closedWith(code, false)(err) && (code == 1005 || err.Error() == fmt.Sprintf(`wsshard: server closed with %d: so long\x7f\n`, code))
				},
			})
		}
		return append(all,
			strike{name: "killed", is: harness.Is(io.ErrUnexpectedEOF), do: func(c *cell, at target) { at.peer.Kill() }},
			strike{name: "reset", is: harness.Is(syscall.ECONNRESET), do: soon(func(c *cell, at target) { at.peer.Reset() })},
			strike{name: "one byte", is: closedWith(1002, true), do: func(c *cell, at target) {
				at.peer.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpClose, "\x03")))
			}})
	}()},
	{no: 10, name: "illegal_close", kind: linkFault, strikes: func() (all []strike) {
		payloads := map[string]string{"bad UTF-8": harness.ClosePayload(1000, "\xff\xfe"), "cut rune": harness.ClosePayload(1000, "\xe2\x82")}
		for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, 65535} {
			payloads[fmt.Sprint(code)] = harness.ClosePayload(code, harness.Canary)
		}
		for name, payload := range payloads {
			all = append(all, raw(name, harness.RawBytes(harness.Fin|harness.OpClose, payload), 1002))
		}
		return all
	}()},
	{no: 12, name: "server_restart", kind: outage, real: "internal/realworld/servers: TestSoak", strikes: []strike{
		{name: "killed", do: func(c *cell, _ target) { c.down() }},
		{name: "1001", do: func(c *cell, _ target) { c.closeAll(1001) }}, {name: "1012", do: func(c *cell, _ target) { c.closeAll(1012) }},
	}},
	{no: 28, name: "ping_flood", kind: linkFault, strikes: []strike{
		{name: "with data", do: flooded, mild: true, check: fewPongs},
		{name: "without data", is: harness.Is(wsshard.ErrDataTimeout), mute: true, check: fewPongs, do: func(c *cell, at target) { c.hush(at.peer); flooded(c, at) }},
		{name: "nobody reads the pongs", is: harness.Is(wsshard.ErrWriteTimeout), mute: true, do: func(c *cell, at target) {
			at.peer.Net().(*wstest.Conn).StallRead(true)
			c.rage(100*time.Millisecond, func() error {
				_, err := at.peer.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpPing, strings.Repeat("p", 125))))
				return err
			})
		}},
	}, with: func(cfg *wsshard.Config) { cfg.Health.DataTimeout = 20 * time.Second }, setup: func(c *cell) { c.Net.SetBuffer(4000) },
		own: map[phase][]drive{switching: {linkFault.drives[switching][0], {name: "next", do: nextIsSilent}}}},
	{no: 29, name: "silent_stall", kind: linkFault, strikes: []strike{
		{name: "with pongs", do: func(c *cell, at target) { c.hush(at.peer) }, is: harness.Is(wsshard.ErrDataTimeout), mute: true},
		{name: "with heartbeats", do: func(c *cell, at target) {
			c.hush(at.peer)
			c.rage(time.Second, func() error { return at.peer.Send("hb") })
		}, is: harness.Is(wsshard.ErrDataTimeout), mute: true},
	}, own: map[phase][]drive{switching: {linkFault.drives[switching][0], {name: "next", do: nextIsSilent}}}},
	{no: 30, name: "pong_lost", kind: linkFault, with: func(cfg *wsshard.Config) {
		cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = time.Second, time.Second, 1
	}, strikes: []strike{{do: func(c *cell, at target) { at.peer.Silent(true) }, mild: true}}},
	{no: 31, name: "server_lies", kind: lie, strikes: []strike{
		{name: "and never answers", do: func(c *cell, _ target) { c.Topics.Deaf(true); c.Topics.Ack(false) }},
		{name: "and says yes", do: func(c *cell, _ target) { c.Topics.Deaf(true) }},
	}},
	{no: 42, name: "away_from_a_hole", own: map[phase][]drive{switching: linkFault.drives[switching][:1]}, not: onlyIn(switching),
		strikes: []strike{{do: hole, is: harness.Is(wsshard.ErrReplaced), mute: true, check: wantGapOfHole}}},
	{no: 43, name: "old_ends_late", own: map[phase][]drive{switching: linkFault.drives[switching][:1]}, not: onlyIn(switching), strikes: []strike{
		{name: "never answers the close", is: harness.Is(wsshard.ErrReplaced), do: func(c *cell, at target) {
			at.peer.Net().(*wstest.Conn).StallRead(true)
		}, check: stillSecond},
		{name: "answers late", is: harness.Is(wsshard.ErrReplaced), do: func(c *cell, at target) {
			var late time.Time
			harness.SlowClose(at.peer, &late, time.Second)
		}, check: stillSecond},
	}},
	{no: 46, name: "peer_does_not_read", kind: linkFault, setup: func(c *cell) { c.Net.SetBuffer(4000) }, strikes: []strike{{
		do: func(c *cell, at target) {
			at.peer.Net().(*wstest.Conn).StallRead(true)
			c.joined.Go(func() {
				err := c.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 10000)))
				if c.Say(err); err == nil && at.peer == c.Srv.Conn(0) {
					c.T.Error("Send succeeded")
				}
			})
		}, is: harness.Is(wsshard.ErrWriteTimeout), mute: true,
	}}},
	{no: 54, name: "nothing_but_control", kind: idling, strikes: []strike{
		{name: "pings", do: func(c *cell, _ target) {
			c.rage(5*time.Second, func() error {
				for _, p := range c.Srv.Live() {
					p.Ping("x")
				}
				return nil
			})
		}},
		{name: "nothing at all", do: func(*cell, target) {}},
	}},
}

// onlyIn is the reason of rows that are about one phase.
func onlyIn(p phase) map[phase]string {
	not := make(map[phase]string)
	for other := range phase(len(phaseNames)) {
		if other != p {
			not[other] = "it is about a " + p.String()
		}
	}
	return not
}

// wantGapOfHole checks that what a half-open connection did not bring is reported: nobody else knows of it.
func wantGapOfHole(c *cell) {
	if c.phase() == connecting { // nothing had come yet
		return
	}
	c.until("reported", func() bool { return c.Heard(wsshard.EventGap) == 1 })
}

// stillSecond checks that what the old connection does at its end does nothing to the one that came after it.
func stillSecond(c *cell) {
	m := c.M.Metrics()
	if s := m.Shards[0]; !s.IsConnected || s.State != wsshard.ShardConnected || s.Generation != 2 || m.ActiveConnections != 1 {
		c.T.Errorf("the shard is %+v", s)
	}
}

// nextIsSilent is a switchover to a connection that confirms all and brings nothing: it is replaced in its turn.
func nextIsSilent(c *cell) {
	c.settle()
	c.Srv.OnOpen(c.once(func(p *wstest.Peer) { c.do(c, target{switching, p}) }))
	err := c.switchover()
	next := generation(c.Srv.Conn(1))
	if c.name == "with data" {
		if err != nil {
			c.T.Errorf("HotSwitchover: %v", err)
		}
		return
	}
	if err != nil {
		c.until("gone", func() bool { return c.Cause(next) != nil })
		if !c.is(err) {
			c.T.Errorf("HotSwitchover: %v", err)
		}
		return
	}
	c.until("replaced", func() bool { return c.Cause(next) != nil })
	if c.Heard(wsshard.EventGap) == 0 {
		c.T.Error("no gap was reported")
	}
}

func (c *cell) down() {
	c.isDown = true
	c.Srv.Down()
}

// closeAll is an orderly end of the server.
func (c *cell) closeAll(code int) {
	for _, p := range c.Srv.Live() {
		p.Close(code, "")
	}
	nap(10 * time.Millisecond)
	c.down()
}

// outage is a server that goes away and comes back.
var outage = &kind{drives: map[phase][]drive{
	connecting: only(func(c *cell) {
		c.do(c, target{})
		c.launch()
		c.until("failed twice", func() bool { return len(c.Failures()) > 1 })
	}),
	steady: only(func(c *cell) {
		c.settle()
		c.do(c, target{})
		c.until("failed twice", func() bool { return len(c.Failures()) > 1 })
	}),
	backoff: only(func(c *cell) {
		c.settle()
		c.down()
		c.until("backing off", func() bool { return c.state() == wsshard.ShardBackoff && len(c.Failures()) > 1 })
		c.heal()
		c.until("back", func() bool { return len(c.Srv.Live()) > 0 })
		c.do(c, target{})
		c.until("failed again", func() bool { return len(c.Failures()) > 4 })
	}),
	switching: only(func(c *cell) {
		c.settle()
		release := c.holdDials()
		var moved sync.WaitGroup
		moved.Go(func() {
			if err := c.switchover(); err == nil {
				c.T.Error("HotSwitchover succeeded")
			}
		})
		nap(time.Second)
		c.do(c, target{})
		release()
		moved.Wait()
		c.until("failed", func() bool { return len(c.Failures()) > 0 })
	}),
}}

// lie is a server that does nothing of what it is asked to.
var lie = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.do(c, target{})
			c.launch()
			if c.name == "and says yes" {
				c.until("noticed", func() bool { return c.Cause(harness.Opened{Shard: 0, Gen: 1}) != nil })
				return
			}
			c.until("rejected", func() bool { return c.Heard(wsshard.EventSubscriptionRejected) > 0 })
			err := c.M.Sync(context.Background())
			c.Say(err)
			if !isAnyOf(err, wsshard.ErrAckTimeout) {
				c.T.Errorf("Sync: %v", err)
			}
			c.heal()
			c.M.Resubscribe(wanted...)
		}),
		steady: only(func(c *cell) {
			c.settle()
			c.do(c, target{})
			c.Subscribe("c")
			if c.name != "and says yes" { // else nobody can know, as long as a and b flow
				c.until("rejected", func() bool { return c.Heard(wsshard.EventSubscriptionRejected) > 0 })
			}
			nap(30 * time.Second)
			if cause := c.Cause(harness.Opened{Shard: 0, Gen: 1}); cause != nil {
				c.T.Errorf("a connection ended for one topic: %v", cause)
			}
			c.heal()
			c.M.Resubscribe("c")
		}),
		switching: only(func(c *cell) {
			c.settle()
			c.do(c, target{})
			err := c.switchover()
			if c.name == "and says yes" {
				if err != nil {
					c.T.Errorf("HotSwitchover: %v", err)
				}
				c.until("noticed", func() bool { return c.Cause(harness.Opened{Shard: 0, Gen: 2}) != nil })
				return
			}
			c.is = harness.Is(wsshard.ErrSwitchoverTimeout)
			c.wantUntouchedBy(err, harness.Opened{Shard: 0, Gen: 1}, 0, 0)
		}),
	},
	not: map[phase]string{backoff: "nothing is asked; what is asked afterwards is the first phase again"},
}

// idling is a shard that has nothing to do.
var idling = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.do(c, target{})
			c.Begin()
			c.wantIdle(1)
		}),
		steady: only(func(c *cell) {
			c.Begin()
			nap(10 * time.Second)
			c.do(c, target{})
			c.wantIdle(1)
		}),
		switching: only(func(c *cell) {
			c.Begin()
			nap(10 * time.Second)
			c.do(c, target{})
			if err := c.switchover(); err != nil {
				c.T.Errorf("HotSwitchover: %v", err)
			}
			c.wantIdle(2)
		}),
	},
	not: map[phase]string{backoff: "no frame of any kind comes"},
}

func (c *cell) wantIdle(connections uint64) {
	nap(time.Hour)
	if m := c.M.Metrics(); m.Connections != connections || m.ActiveConnections != 1 || m.Gaps != 0 {
		c.T.Errorf("%d connections were opened, %d are live, %d gaps", m.Connections, m.ActiveConnections, m.Gaps)
	}
}
