package wsshard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does the application in chaos do, and take down?

// panics panics when it is the turn of this callback.
func (c *chaos) panics(where string) {
	c.mu.Lock()
	now := c.next.panic == where
	if now {
		c.next.panic = ""
		c.panicCount++
	}
	c.mu.Unlock()
	if now {
		panic("chaos in " + where)
	}
}

func (c *chaos) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	c.panics("URL")
	return fmt.Sprintf("ws://srv/%d", st.ShardID), nil
}

func (c *chaos) OnConnect(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	c.panics("OnConnect")
	c.mu.Lock()
	defer c.mu.Unlock()
	return []wsshard.Message{wsshard.Text(fmt.Sprintf("hi %d %d %d", c.life, st.ShardID, st.Generation))}, nil
}

func (c *chaos) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if len(req.Subs) > 1 { // else the topic is given up
		c.panics("SubscriptionMessage")
	}
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (c *chaos) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if len(req.Subs) > 1 { // else the topic stays
		c.panics("UnsubscriptionMessage")
	}
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

// chaosResubscriber asks for snapshots where chaos unsubscribes and subscribes.
type chaosResubscriber struct{ *chaos }

func (c chaosResubscriber) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("=" + strings.Join(req.Subs, ",")), nil
}

// parseTick reads "topic:number".
func parseTick(text string) (topic string, n int, ok bool) {
	topic, number, ok := strings.Cut(text, ":")
	n, err := strconv.Atoi(number)
	return topic, n, ok && err == nil
}

func (c *chaos) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	switch text {
	case "notice":
		return wsshard.Verdict[string]{NoData: true, Switchover: true}
	case "heartbeat":
		return wsshard.Verdict[string]{Heartbeat: true, Reply: wsshard.Text("alive")}
	}
	if topic, _, ok := parseTick(text); ok {
		c.costs("Inspect", text)
		v.Key, v.Subs, v.Value = text, []string{topic}, topic
	}
	return v
}

// costs panics when it is the turn of this callback, which costs the message.
func (c *chaos) costs(where, text string) {
	c.mu.Lock()
	if c.next.panic == where {
		c.panicked[text] = true
	}
	c.mu.Unlock()
	c.panics(where)
}

func (c *chaos) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (a wsshard.Ack[string], ok bool) {
	text := msg.String()
	if _, _, ok := parseTick(text); ok {
		c.costs("Acknowledge", text)
		return a, false
	}
	request, ok := strings.CutPrefix(text, "ack:")
	if ok && request[0] != '-' {
		a.Confirmed = strings.Split(request[1:], ",")
	}
	return a, ok
}

func (c *chaos) ResetSequenceState(st wsshard.ConnectionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.Generation <= c.reset[st.ShardID] {
		c.t.Errorf("ResetSequenceState of shard %d for generation %d after %d", st.ShardID, st.Generation, c.reset[st.ShardID])
	}
	c.reset[st.ShardID] = st.Generation
}

func (c *chaos) ValidateSequence(msg wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reset[st.ShardID] != st.Generation {
		c.t.Errorf("ValidateSequence of shard %d for generation %d, reset for %d", st.ShardID, st.Generation, c.reset[st.ShardID])
	}
	text := msg.String()
	if _, _, ok := parseTick(text); !ok {
		return v
	}
	v, c.next.sequence = c.next.sequence, wsshard.SequenceValidation[string]{}
	if v.Gap && v.Recovery != wsshard.SequenceContinue {
		c.dropped[text] = true
	}
	for _, topic := range v.Resubscribe {
		c.again[topic] = append(c.again[topic], time.Now())
	}
	return v
}

// chaosCalls are methods that are called inside OnMessage: those that would wait say ErrInCallback.
var chaosCalls = []func(ctx context.Context, m *wsshard.ShardManager[string], shard int) (err error, waits bool){
	func(ctx context.Context, m *wsshard.ShardManager[string], shard int) (error, bool) {
		return m.HotSwitchover(ctx, shard), true
	},
	func(ctx context.Context, m *wsshard.ShardManager[string], _ int) (error, bool) {
		return m.Sync(ctx), true
	},
	func(_ context.Context, m *wsshard.ShardManager[string], _ int) (error, bool) {
		return m.Sync(context.Background()), true
	},
	func(ctx context.Context, m *wsshard.ShardManager[string], shard int) (error, bool) {
		m.Metrics()
		m.Health(1)
		m.ShardSubscriptions(shard)
		m.ShardFreshness(shard)
		return m.Send(ctx, shard, wsshard.Text("hello")), false
	},
}

func (c *chaos) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	text := msg.String()
	topic, n, isTick := parseTick(text)
	c.mu.Lock()
	c.inside[st.ShardID]++
	if c.inside[st.ShardID] > 1 {
		c.t.Errorf("I3: OnMessage twice at once on shard %d", st.ShardID)
	}
	if st.Generation < c.turns[st.ShardID] {
		c.t.Errorf("I3: shard %d delivers of generation %d after %d", st.ShardID, st.Generation, c.turns[st.ShardID])
	}
	c.turns[st.ShardID] = st.Generation
	var do chaosNext
	if isTick {
		do, c.next.slow, c.next.call = c.next, 0, 0
		if do.panic == "OnMessage" {
			c.panicked[text] = true
		} else {
			c.got[topic] = append(c.got[topic], delivery{n, st.ShardID})
			c.heard[st.ShardID] = c.tickTime(topic, n)
		}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inside[st.ShardID]--
		c.mu.Unlock()
	}()
	if isTick {
		if msg.Value != any(topic) {
			c.t.Errorf("the value of %s is %v", text, msg.Value)
		}
		c.panics("OnMessage")
	}
	if do.call > 0 {
		err, waits := chaosCalls[do.call-1](ctx, c.m, st.ShardID)
		known := errors.Is(err, wsshard.ErrInCallback) || errors.Is(err, wsshard.ErrStopped) || errors.Is(err, wsshard.ErrUnknownShard) || errors.Is(err, wsshard.ErrNotConnected)
		if waits && !known {
			c.t.Errorf("I9: call %d inside a callback: %v", do.call, err)
		}
		c.mu.Lock()
		c.calls++
		c.mu.Unlock()
	}
	if do.slow > 0 {
		select {
		case <-time.After(do.slow):
		case <-ctx.Done():
		}
		c.mu.Lock()
		c.busy = append(c.busy, interval{st.ShardID, c.tickTime(topic, n), time.Now()}) // it may have come to it late already
		c.mu.Unlock()
	}
}

// tickTime is when a number was published.
func (c *chaos) tickTime(topic string, n int) time.Time {
	for _, tick := range slices.Backward(c.ticks[topic]) {
		if tick.n == n {
			return tick.at
		}
	}
	return time.Time{}
}

func (c *chaos) OnEvent(ev wsshard.Event[string]) {
	topics := c.m.ShardSubscriptions(ev.ShardID)
	defer c.panics("OnEvent")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story = append(c.story, fmt.Sprintf("%v shard %d gen %d: %v err=%v delay=%v from=%v to=%v subs=%v %+v", ev.Time.Sub(c.begin), ev.ShardID, ev.Generation,
		ev.Kind, ev.Err, ev.Delay, ev.From.Sub(c.begin), ev.To.Sub(c.begin), ev.Subs, ev.Switchover))
	switch ev.Kind {
	case wsshard.EventSwitchoverStarted:
		c.switched[ev.ShardID] = ev.Time
	case wsshard.EventConnected, wsshard.EventSwitchoverDone:
		if ev.Kind == wsshard.EventSwitchoverDone {
			c.overlaps = append(c.overlaps, interval{ev.ShardID, c.switched[ev.ShardID], ev.Time})
		}
		c.took[chaosConn{c.life, ev.ShardID, ev.Generation}] = true
	case wsshard.EventGap:
		c.gaps = append(c.gaps, ev)
		delete(c.down, ev.ShardID)
	case wsshard.EventDisconnected:
		if errors.Is(ev.Err, wsshard.ErrStopped) {
			break
		}
		lost, again := c.down[ev.ShardID]
		if !again { // else the connection between the two has proven nothing, and the loss goes on
			lost.From = c.heard[ev.ShardID]
		}
		lost.Subs = append(lost.Subs, topics...)
		c.down[ev.ShardID] = lost
	case wsshard.EventParked:
		c.parked = append(c.parked, ev.Time)
	case wsshard.EventBreakerOpen:
		if ev.Door.Reason != "bench" && ev.Door.Lasted == 0 { // the bench shuts no door, and what lasts is told again
			c.trips++
		}
	}
}

func (c *chaos) OnDisconnect(_ context.Context, _ error, st wsshard.ConnectionState) {
	c.mu.Lock()
	conn := chaosConn{c.life, st.ShardID, st.Generation}
	c.ends[conn] = time.Now()
	if c.closed[conn]++; c.closed[conn] > 1 {
		c.t.Errorf("I10: OnDisconnect %d times for shard %d, generation %d", c.closed[conn], st.ShardID, st.Generation)
	}
	c.mu.Unlock()
	c.panics("OnDisconnect")
}

func (c *chaos) OnError(context.Context, error, wsshard.ConnectionState) (retry bool) {
	c.panics("OnError")
	c.mu.Lock()
	defer c.mu.Unlock()
	forbid := c.next.forbid
	c.next.forbid = false
	return !forbid
}

var (
	_ wsshard.Handler[string]           = (*chaos)(nil)
	_ wsshard.Unsubscriber[string]      = (*chaos)(nil)
	_ wsshard.Inspector[string]         = (*chaos)(nil)
	_ wsshard.Acknowledger[string]      = (*chaos)(nil)
	_ wsshard.SequenceValidator[string] = (*chaos)(nil)
	_ wsshard.ConnectHandler            = (*chaos)(nil)
	_ wsshard.DisconnectHandler         = (*chaos)(nil)
	_ wsshard.ErrorHandler              = (*chaos)(nil)
	_ wsshard.EventObserver[string]     = (*chaos)(nil)
	_ wsshard.Resubscriber[string]      = chaosResubscriber{}
)
