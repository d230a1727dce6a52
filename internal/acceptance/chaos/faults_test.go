package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what befalls a run of chaos? All of it runs in a synctest bubble.

// chaosCalm are the operations after which nothing may be missing, each as likely as it stands here; the others are faults.
var (
	chaosCalm = []string{
		"switchover", "switchover", "switchover", "switch-all", "switch-storm", "notice", "subscribe", "subscribe", "unsubscribe",
		"unsubscribe", "resubscribe", "slow", "panic", "latency", "heartbeat", "ping", "call", "send", "send-burst", "switch-abort",
	}
	chaosLinks = []string{
		"kill", "kill", "reset", "blackhole", "stall-read", "stall-write", "close", "silent", "quiet", "reconnect", "unsubscribe-all",
		"kill-and-unsubscribe",
	}
	chaosServer = []string{"down", "restart", "reject", "reject", "retry-after", "dial-hang", "forbid", "revive", "stop", "kill", "unsubscribe-all"}
	chaosHooks  = []string{
		"panic-hook", "panic-hook", "exit-hook", "exit-hook", "behind-panic", "behind-exit", "sequence", "resubscribe", "forbid", "revive", "stop", "kill",
	}
	// chaosOnce keep everybody out for minutes: a Retry-After, and an answer that is a ban.
	chaosOnce = []string{"retry-after-minutes", "teapot"}
	// chaosWall steps the wall clock, where a bubble's can be stepped (wall_test.go).
	chaosWall     func(seconds int64)
	chaosWallKind = []string{"wall-step", "wall-step"}
)

// kinds are those of this run's world.
func (c *chaos) kinds() (list []string) {
	defer func() {
		if chaosWall != nil {
			list = append(list, chaosWallKind...)
		}
	}()
	switch c.trait.World {
	case "links":
		return slices.Concat(chaosCalm, chaosLinks)
	case "server":
		return slices.Concat(chaosCalm, chaosServer)
	case "hooks":
		return slices.Concat(chaosCalm, chaosHooks)
	case "all":
		return slices.Concat(chaosCalm, chaosLinks, chaosServer, chaosHooks)
	}
	return slices.Clone(chaosCalm)
}

func (c *chaos) calm() bool { return c.trait.World == "calm" }

// want subscribes to topics, and notes since when they are wanted.
func (c *chaos) want(topics ...string) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.wantLocked(topics)
}

func (c *chaos) wantLocked(topics []string) {
	results, err := c.m.Subscribe(topics...)
	if err != nil && !(errors.Is(err, wsshard.ErrCapacity) && c.trait.Shards == "five") {
		c.t.Errorf("Subscribe: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, topic := range topics {
		spans := c.wanted[topic]
		if on := len(spans) > 0 && spans[len(spans)-1].to.IsZero(); !results[i].OK() {
			c.drove.note("out of capacity")
		} else if !on {
			c.wanted[topic] = append(spans, span{from: time.Now(), life: c.life, shard: results[i].ShardID})
		}
	}
}

func (c *chaos) unwant(topics ...string) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if err := c.m.Unsubscribe(topics...); err != nil {
		c.t.Errorf("Unsubscribe: %v", err)
	}
	c.endSpans(topics)
}

func (c *chaos) endSpans(topics []string) {
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
	c.mu.Lock()
	for _, topic := range topics {
		c.again[topic] = append(c.again[topic], time.Now())
	}
	c.mu.Unlock()
	c.m.Resubscribe(topics...)
}

// churn is the background of changes, one after the other.
func (c *chaos) churn(over chan struct{}) {
	if c.trait.Churn == "none" {
		return
	}
	rnd := rand.New(rand.NewPCG(c.seed, 2))
	from := map[string]int{"fast": 50, "slow": 150}[c.trait.Churn]
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Duration(from+rnd.IntN(2*from)) * time.Millisecond):
		}
		topic := topicName(chaosTopics/2 + rnd.IntN(chaosTopics/2))
		if rnd.IntN(2) == 0 {
			c.want(topic)
		} else {
			c.unwant(topic)
		}
	}
}

// halt is Stop, with its deadline (I6).
func (c *chaos) halt() {
	ctx, cancel := context.WithTimeout(context.Background(), chaosStop)
	defer cancel()
	begin, shards := time.Now(), c.m.ShardCount()
	c.mu.Lock()
	for shard, since := range c.switching {
		c.cutShort = append(c.cutShort, cutShort{c.life, shard, since, begin})
	}
	c.mu.Unlock()
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
	for id, ev := range c.down {
		c.outages = append(c.outages, wsshard.Event[string]{ShardID: id, Generation: uint64(c.life), From: ev.From, To: time.Now()})
	}
	for id := range shards { // and what came no more
		at, ok := c.heard[id]
		if !ok {
			at = c.lives[len(c.lives)-1]
		}
		c.outages = append(c.outages, wsshard.Event[string]{ShardID: id, Generation: uint64(c.life), From: at, To: time.Now()})
	}
	c.down, c.heard = map[int]wsshard.Event[string]{}, map[int]time.Time{}
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
	c.endSpans(wanted)
	c.halt()
	time.Sleep(pause)
	c.mu.Lock()
	c.life++
	c.lives = append(c.lives, time.Now())
	c.turns, c.reset, c.switching = map[int]uint64{}, map[int]uint64{}, map[int]time.Time{}
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
	case "kill-and-unsubscribe": // what is wanted no more was missed all the same
		subs := c.m.ShardSubscriptions(shard)
		if p := c.peerOf(shard); p != nil && len(subs) > 0 {
			p.Kill()
			time.Sleep(c.latency + time.Duration(s.b%50)*time.Millisecond)
			c.unwant(subs[s.b%len(subs)])
		}
	case "blackhole", "stall-read", "stall-write":
		c.stall(shard, s)
	case "down":
		c.srv.Down()
		time.Sleep(s.d)
		c.srv.Restart()
	case "restart":
		c.srv.Restart()
	case "reject":
		c.reject([]int{401, 403, 407, 429, 500, 502}[s.b%6], "", s.d/2)
	case "retry-after":
		c.reject([]int{429, 503}[s.b%2], strconv.Itoa(1+s.b%5), s.d/2)
	case "retry-after-minutes":
		c.srv.Restart()
		c.reject([]int{429, 503}[s.b%2], strconv.Itoa(60+s.b%120), s.d)
	case "teapot":
		c.srv.Restart()
		c.reject(418, "", s.d)
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
	case "switch-storm": // more than have a turn
		var all sync.WaitGroup
		for i := range c.m.ShardCount() {
			all.Go(func() { c.m.HotSwitchover(ctx, i) })
		}
		all.Wait()
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
	case "send-burst":
		c.burst(ctx, shard, s.b%30)
	case "quiet": // see publish
	case "stop":
		c.stopAndStart(s.d / 10)
	case "wall-step":
		chaosWall([]int64{3600, -3600, 7, -7}[s.b%4])
	default:
		if c.ask(topic, s) == "ResubscriptionMessage" { // else hardly anybody would call it
			c.resubscribe(topic)
		}
	}
}

// burst sends more than the pace lets through at once.
func (c *chaos) burst(ctx context.Context, shard, n int) {
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			begin := time.Now()
			if err := c.m.Send(ctx, shard, wsshard.Text("hello")); err == nil && time.Since(begin) > 500*time.Millisecond {
				c.drove.note("a send that queued")
			}
		})
	}
	all.Wait()
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
		if c.trait.Ping == "messages" && !c.textPong() {
			return
		}
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

// ask sets what the handler does next, and names the callback that will go wrong.
func (c *chaos) ask(topic string, s chaosStep) (hook string) {
	hooks := c.hooks()
	c.mu.Lock()
	defer c.mu.Unlock()
	spoil := func(where string, exit bool) {
		if c.next.spoiled == nil {
			c.next.spoiled = map[string]bool{}
		}
		c.next.spoiled[where] = exit
	}
	switch s.kind {
	case "slow":
		c.next.slow = s.d
		if c.calm() {
			c.next.slow = s.d / 10
		}
	case "panic":
		if !c.calm() || c.trait.Mode != "low-latency" { // else it ends the connection
			spoil("OnMessage", false)
			c.next.behind = false
		}
	case "panic-hook", "exit-hook":
		c.dealt++
		hook = hooks[(int(c.seed)*7+c.dealt*5)%len(hooks)]
		spoil(hook, s.kind == "exit-hook")
	case "behind-panic", "behind-exit":
		spoil("OnMessage", s.kind == "behind-exit")
		c.next.slow, c.next.behind = s.d/2+time.Second, true
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
	return hook
}
