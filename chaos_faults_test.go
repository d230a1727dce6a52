package wsshard_test

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what befalls a run of chaos? All of it runs in a synctest bubble.

// chaosCalm are the operations after which nothing may be missing, each as likely as it stands here.
var chaosCalm = []string{
	"switchover", "switchover", "switchover", "switch-all", "notice", "subscribe", "subscribe", "unsubscribe", "unsubscribe",
	"resubscribe", "slow", "panic", "latency", "heartbeat", "ping", "call", "send", "switch-abort",
}

// chaosFaults are those and the faults.
var chaosFaults = append(slices.Clone(chaosCalm), "kill", "kill", "reset", "blackhole", "stall-read", "stall-write", "down", "restart",
	"reject", "retry-after", "close", "silent", "quiet", "switchover", "reconnect", "resubscribe", "panic-hook", "sequence", "dial-hang",
	"forbid", "revive", "stop", "unsubscribe-all")

// want subscribes to a topic, and notes since when it is wanted.
func (c *chaos) want(topics ...string) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.wantLocked(topics)
}

func (c *chaos) wantLocked(topics []string) {
	c.mu.Lock()
	for _, topic := range topics {
		if spans := c.wanted[topic]; len(spans) == 0 || !spans[len(spans)-1].to.IsZero() {
			c.wanted[topic] = append(spans, span{from: time.Now()})
		}
	}
	c.mu.Unlock()
	if _, err := c.m.Subscribe(topics...); err != nil {
		c.t.Errorf("Subscribe: %v", err)
	}
}

func (c *chaos) unwant(topics ...string) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if err := c.m.Unsubscribe(topics...); err != nil {
		c.t.Errorf("Unsubscribe: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		if spans := c.wanted[topic]; len(spans) > 0 && spans[len(spans)-1].to.IsZero() {
			spans[len(spans)-1].to = time.Now()
		}
	}
}

func (c *chaos) desired() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, spans := range c.wanted {
		if spans[len(spans)-1].to.IsZero() {
			list = append(list, topic)
		}
	}
	slices.Sort(list)
	return list
}

func (c *chaos) resubscribe(topics ...string) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.notes(topics)
	c.m.Resubscribe(topics...)
}

// notes takes down that topics are asked for again.
func (c *chaos) notes(topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		c.again[topic] = append(c.again[topic], time.Now())
	}
}

// halt is Stop, with its deadline (I6).
func (c *chaos) halt() {
	ctx, cancel := context.WithTimeout(context.Background(), chaosStop)
	defer cancel()
	begin := time.Now()
	err := c.m.Stop(ctx)
	took := time.Since(begin)
	if err != nil {
		c.t.Errorf("I6: Stop after %v: %v", took, err)
	}
	if n := c.m.Metrics().ActiveConnections; n != 0 {
		c.t.Errorf("I6: %d connections are active after Stop", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stops = append(c.stops, took)
	for _, ev := range c.down {
		ev.To, ev.Time = time.Now(), time.Now()
		c.outages = append(c.outages, ev)
	}
	c.down = map[int]wsshard.Event[string]{}
	for shard, n := range c.inside {
		if n != 0 {
			c.t.Errorf("I6: OnMessage of shard %d runs after Stop", shard)
		}
	}
}

// stopAndStart is a whole life's end and the next one's beginning. Stop forgets the subscriptions.
func (c *chaos) stopAndStart(pause time.Duration) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	wanted := c.desired()
	c.mu.Lock()
	for _, topic := range wanted {
		c.wanted[topic][len(c.wanted[topic])-1].to = time.Now()
	}
	c.mu.Unlock()
	c.halt()
	time.Sleep(pause)
	c.mu.Lock()
	c.life++
	c.turns, c.reset = map[int]uint64{}, map[int]uint64{}
	c.mu.Unlock()
	if err := c.m.Start(context.Background()); err != nil {
		c.t.Errorf("Start: %v", err)
	}
	c.wantLocked(wanted)
}

// peerOf is the youngest live connection of a shard, nil when it has none: whose it is does not depend on who dials first.
func (c *chaos) peerOf(shard int) *wstest.Peer {
	for _, p := range slices.Backward(c.srv.Live()) {
		if p.Request().URL.Path == "/"+strconv.Itoa(shard) {
			return p
		}
	}
	return nil
}

// do plays one step of the script, and its end.
func (c *chaos) do(s chaosStep) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	shard := s.a % max(1, c.m.ShardCount())
	topic := topicName(s.a % chaosTopics)
	switch s.kind {
	case "kill", "reset", "close", "silent", "notice", "heartbeat", "ping":
		if p := c.peerOf(shard); p != nil {
			c.befall(p, s)
		}
	case "blackhole", "stall-read", "stall-write":
		c.stall(shard, s)
	case "down":
		c.srv.Down()
		time.Sleep(s.d)
		c.srv.Restart()
	case "restart":
		c.srv.Restart()
	case "reject", "retry-after":
		status, h := []int{401, 403, 500, 502}[s.b%4], http.Header{}
		if s.kind == "retry-after" {
			status = []int{429, 503}[s.b%2]
			h.Set("Retry-After", strconv.Itoa(1+s.b%5))
		}
		c.srv.Reject(func(*http.Request) (int, http.Header, string) { return status, h, "" })
		time.Sleep(s.d / 2)
		c.srv.Reject(nil)
	case "dial-hang":
		c.net.OnDial(func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(s.d / 2)
		c.net.OnDial(nil)
	case "latency": // of new connections: the two of a switchover differ
		c.net.SetLatency(time.Duration(s.b%100) * time.Millisecond)
	case "switchover":
		c.m.HotSwitchover(ctx, shard)
	case "switch-abort":
		ctx, cancel := context.WithTimeout(ctx, s.d/20)
		defer cancel()
		c.m.HotSwitchover(ctx, shard)
	case "switch-all":
		for i := range c.m.ShardCount() {
			c.m.HotSwitchover(ctx, i)
		}
	case "reconnect":
		c.m.Reconnect(shard)
	case "revive":
		c.revive()
	case "subscribe":
		c.want(topic)
	case "unsubscribe":
		c.unwant(topic)
	case "unsubscribe-all":
		all := c.desired()
		c.unwant(all...)
		time.Sleep(s.d / 10)
		c.want(all...)
	case "resubscribe":
		c.resubscribe(topic)
	case "send":
		c.m.Send(ctx, shard, wsshard.Text("hello"))
	case "quiet": // see publish
	case "stop":
		c.stopAndStart(s.d / 10)
	default:
		c.ask(topic, s)
	}
}

// befall does something to one connection.
func (c *chaos) befall(p *wstest.Peer, s chaosStep) {
	switch s.kind {
	case "kill":
		p.Kill()
	case "reset":
		p.Reset()
	case "close":
		p.Close([]int{1000, 1001, 1008, 1011, 1012, 1013, 4000}[s.b%7], "chaos")
	case "silent":
		p.Silent(true)
		time.Sleep(s.d)
		p.Silent(false)
	case "notice":
		p.Send("notice")
	case "heartbeat":
		for range s.b % 200 { // some of the answers must go
			p.Send("heartbeat")
		}
	case "ping":
		for range s.b % 50 {
			p.Ping("chaos")
		}
	}
}

// stall keeps bytes from moving on a shard's connection, or on one that may be in its handshake.
func (c *chaos) stall(shard int, s chaosStep) {
	conns := c.net.Conns()
	conn := conns[max(0, len(conns)-1-s.a%8)]
	if p := c.peerOf(shard); p != nil && s.b%2 == 0 {
		conn = p.Net().(*wstest.Conn)
	}
	stall := map[string]func(bool){"blackhole": conn.BlackHole, "stall-read": conn.StallRead, "stall-write": conn.StallWrite}[s.kind]
	stall(true)
	time.Sleep(s.d)
	stall(false)
}

// ask sets what the handler does next.
func (c *chaos) ask(topic string, s chaosStep) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.kind {
	case "slow":
		c.next.slow = s.d
		if c.trait.calm {
			c.next.slow = s.d / 10
		}
	case "panic":
		if c.trait.calm && c.trait.lowLatency {
			return // it ends the connection
		}
		c.next.panic = "OnMessage"
	case "panic-hook":
		c.next.panic = []string{"URL", "OnConnect", "OnDisconnect", "OnEvent", "SubscriptionMessage", "UnsubscriptionMessage", "Inspect", "Acknowledge", "OnError"}[s.b%9]
	case "sequence":
		c.next.sequence = wsshard.SequenceValidation[string]{Gap: true, Recovery: wsshard.SequenceRecovery(s.b % 3)}
		if s.b%2 == 0 {
			c.next.sequence.Resubscribe = []string{topic}
		}
	case "call":
		c.next.call = 1 + s.b%len(chaosCalls)
	case "forbid":
		c.next.forbid = true
	default:
		c.t.Errorf("no such step: %s", s.kind)
	}
}
