package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does the application in chaos do, and take down?

func (c *chaos) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	c.hook("URL", "")
	return fmt.Sprintf("ws://srv/%d", st.ShardID), nil
}

func (c *chaos) ConnectionHeaders(context.Context, wsshard.ConnectionState) (http.Header, error) {
	c.hook("ConnectionHeaders", "")
	return nil, nil
}

func (c *chaos) Login(context.Context, wsshard.LoginConn, wsshard.ConnectionState) error {
	c.hook("Login", "")
	return nil
}

func (c *chaos) OnConnect(_ context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	c.mu.Lock()
	c.opened[c.connLocked(st)] = time.Now()
	greeting := wsshard.Text(fmt.Sprintf("hi %d %d %d", c.life, st.ShardID, st.Generation))
	c.mu.Unlock()
	c.hook("OnConnect", "")
	return []wsshard.Message{greeting}, nil
}

func (c *chaos) connLocked(st wsshard.ConnectionState) chaosConn {
	return chaosConn{c.life, st.ShardID, st.Generation}
}

func (c *chaos) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if len(req.Subs) > 1 { // else the topic is given up
		c.hook("SubscriptionMessage", "")
	}
	return c.request('+', req)
}

func (c *chaos) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if len(req.Subs) > 1 { // else the topic stays
		c.hook("UnsubscriptionMessage", "")
	}
	return c.request('-', req)
}

func (c *chaos) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if len(req.Subs) > 1 {
		c.hook("ResubscriptionMessage", "")
	}
	return c.request('=', req)
}

func (c *chaos) request(sign byte, req wsshard.Request[string]) (wsshard.Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.connLocked(req.State)
	c.requests[conn]++
	for _, topic := range req.Subs {
		c.encoded[topic] = append(c.encoded[topic], encoding{sign, time.Now(), conn})
	}
	return wsshard.Text(fmt.Sprintf("%c%s#%d", sign, strings.Join(req.Subs, ","), req.ID)), nil
}

func (c *chaos) PingMessage(wsshard.ConnectionState) wsshard.Message {
	c.hook("PingMessage", "")
	return wsshard.Text("ping")
}

// parseTick reads "topic:number".
func parseTick(text string) (topic string, n int, ok bool) {
	topic, number, ok := strings.Cut(text, ":")
	n, err := strconv.Atoi(number)
	return topic, n, ok && err == nil && topic[0] == 't'
}

func (c *chaos) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	switch text {
	case "notice":
		return wsshard.Verdict[string]{NoData: true, Switchover: true}
	case "heartbeat":
		return wsshard.Verdict[string]{Heartbeat: true, Reply: wsshard.Text("alive")}
	}
	topic, _, ok := parseTick(text)
	if !ok {
		return wsshard.Verdict[string]{NoData: true}
	}
	c.hook("Inspect", text)
	v.Value = topic
	if c.trait.Keys == "keys" {
		v.Key = text
	}
	if c.trait.Proof != "settle" {
		v.Subs = []string{topic}
	}
	return v
}

func (c *chaos) IsHeartbeat(msg wsshard.Message) bool {
	if text := msg.String(); text != "heartbeat" {
		if _, _, ok := parseTick(text); ok {
			c.hook("IsHeartbeat", text)
		}
		return false
	}
	return true
}

func (c *chaos) IsDataMessage(msg wsshard.Message) bool {
	_, _, ok := parseTick(msg.String())
	if ok {
		c.hook("IsDataMessage", msg.String())
	}
	return ok
}

// Acknowledge reads what answer in server_test.go writes.
func (c *chaos) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (a wsshard.Ack[string], ok bool) {
	text := msg.String()
	if _, _, ok := parseTick(text); ok {
		c.hook("Acknowledge", text)
		return a, false
	}
	parts := strings.Split(text, ":")
	if len(parts) > 1 && parts[0] != "topics" {
		a.Request, _ = strconv.ParseUint(parts[1], 10, 64)
	}
	topics := strings.Split(parts[len(parts)-1], ",")
	switch parts[0] {
	case "whole":
	case "topics", "part":
		a.Confirmed = topics
	case "rejected":
		a.Rejected, a.Err = topics, errors.New("chaos rejects")
	default:
		return a, false
	}
	return a, true
}

// IsReady believes the server that has done all that was asked for.
func (c *chaos) IsReady(msg wsshard.Message, st wsshard.ConnectionState) bool {
	text := msg.String()
	if _, _, ok := parseTick(text); ok {
		c.hook("IsReady", text)
	}
	number, ok := strings.CutPrefix(text, "ready:")
	n, _ := strconv.Atoi(number)
	c.mu.Lock()
	defer c.mu.Unlock()
	return ok && n >= c.requests[c.connLocked(st)]
}

func (c *chaos) ResetSequenceState(st wsshard.ConnectionState) {
	c.mu.Lock()
	if st.Generation <= c.reset[st.ShardID] {
		c.t.Errorf("ResetSequenceState of shard %d for generation %d after %d", st.ShardID, st.Generation, c.reset[st.ShardID])
	}
	c.reset[st.ShardID] = st.Generation
	c.mu.Unlock()
	c.hook("ResetSequenceState", "")
}

func (c *chaos) ValidateSequence(msg wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	text := msg.String()
	_, _, tick := parseTick(text)
	if tick {
		c.hook("ValidateSequence", text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reset[st.ShardID] != st.Generation {
		c.t.Errorf("ValidateSequence of shard %d for generation %d, reset for %d", st.ShardID, st.Generation, c.reset[st.ShardID])
	}
	if !tick {
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
	var came time.Time
	var spoiled, exit bool
	if isTick {
		came = c.tickTime(topic, n)
		c.brought[c.connLocked(st)]++
		do, c.next.slow, c.next.call = c.next, 0, 0
		exit, spoiled = c.next.spoiled["OnMessage"]
		if do.behind {
			delete(c.next.spoiled, "OnMessage")
			c.next.behind = false
		}
		if spoiled && !do.behind {
			c.panicked[text] = true
		} else {
			c.got[topic] = append(c.got[topic], delivery{n, c.connLocked(st)})
			c.heard[st.ShardID] = came
		}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inside[st.ShardID]--
		c.mu.Unlock()
	}()
	if !isTick {
		return
	}
	if inspects := !slices.Contains(c.lacks(), "inspector"); inspects && msg.Value != any(topic) {
		c.t.Errorf("the value of %s is %v", text, msg.Value)
	}
	c.hook("OnMessage", text)
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
		c.dawdle(ctx, st, came, do, exit)
	}
}

// dawdle takes its time, and may leave badly then, with what came meanwhile unread.
func (c *chaos) dawdle(ctx context.Context, st wsshard.ConnectionState, came time.Time, do chaosNext, exit bool) {
	c.drove.note("a slow step")
	select {
	case <-time.After(do.slow):
	case <-ctx.Done():
	}
	c.mu.Lock()
	c.busy = append(c.busy, interval{st.ShardID, came, time.Now()}) // it may have come to it late already
	if do.behind {
		c.spoilLocked("OnMessage", "", exit)
		c.drove.note(map[bool]string{false: "a panic behind", true: "a Goexit behind"}[exit])
	}
	c.mu.Unlock()
	if do.behind {
		spoil("OnMessage", exit)
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
	defer c.hook("OnEvent", "")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story = append(c.story, storyOf(ev, c.begin))
	conn := chaosConn{c.life, ev.ShardID, ev.Generation}
	switch ev.Kind {
	case wsshard.EventSubscriptionRejected:
		if errors.Is(ev.Err, wsshard.ErrAckTimeout) {
			for _, topic := range ev.Subs {
				c.givenUp[topic] = append(c.givenUp[topic], givenUp{ev.Time, conn})
			}
		}
	case wsshard.EventSwitchoverStarted:
		c.switching[ev.ShardID], c.broughtAt[ev.ShardID] = ev.Time, brought{conn, c.brought[conn]}
		if most := c.turnsAtOnce(); most > 0 && len(c.switching) > most {
			c.drove.note("no turn was free")
		}
	case wsshard.EventSwitchoverFailed:
		delete(c.switching, ev.ShardID)
		if errors.Is(ev.Err, wsshard.ErrSwitchoverHold) {
			c.drove.note("a hold that filled")
		}
	case wsshard.EventSwitchoverDone:
		delete(c.switching, ev.ShardID)
		forced := ev.Switchover.Proof == "none"
		old := c.broughtAt[ev.ShardID]
		many := ev.Switchover.Held >= chaosHold || c.brought[old.conn]-old.n >= chaosHold
		c.took[conn] = takeover{ev.Time, true, forced, c.trait.Hold == "messages" && many}
		if c.drove.note("proof by " + ev.Switchover.Proof); forced {
			c.drove.note("cut without proof")
		}
	case wsshard.EventConnected:
		if _, switched := c.took[conn]; !switched {
			c.took[conn] = takeover{at: ev.Time}
		}
	case wsshard.EventGap:
		c.drove.note("a gap")
		c.gaps = append(c.gaps, ev)
		if lost, ok := c.down[ev.ShardID]; ok {
			lost.Subs = slices.DeleteFunc(lost.Subs, func(topic string) bool { return slices.Contains(ev.Subs, topic) })
			if c.down[ev.ShardID] = lost; len(lost.Subs) == 0 {
				delete(c.down, ev.ShardID)
			}
		}
	case wsshard.EventDisconnected:
		if errors.Is(ev.Err, wsshard.ErrStopped) {
			break
		}
		if errors.Is(ev.Err, wsshard.ErrDataTimeout) && !c.published.IsZero() {
			c.fellSilent++
		}
		c.losses = append(c.losses, loss{conn, ev.Time})
		lost, again := c.down[ev.ShardID]
		if !again { // else the connection between the two has proven nothing, and the loss goes on
			lost.From = c.heard[ev.ShardID]
		}
		lost.Subs = append(lost.Subs, topics...)
		c.down[ev.ShardID] = lost
	case wsshard.EventParked:
		c.drove.note("parked")
		c.parked = append(c.parked, ev.Time)
	case wsshard.EventBreakerOpen:
		if ev.Door.Reason != "bench" && ev.Door.Lasted == 0 { // the bench shuts no door, and what lasts is told again
			c.trips++
		}
	}
}

func (c *chaos) OnDisconnect(_ context.Context, _ error, st wsshard.ConnectionState) {
	c.mu.Lock()
	conn := c.connLocked(st)
	c.ends[conn] = time.Now()
	if c.closed[conn]++; c.closed[conn] > 1 {
		c.t.Errorf("I10: OnDisconnect %d times for shard %d, generation %d", c.closed[conn], st.ShardID, st.Generation)
	}
	c.mu.Unlock()
	c.hook("OnDisconnect", "")
}

func (c *chaos) OnError(context.Context, error, wsshard.ConnectionState) (retry bool) {
	c.hook("OnError", "")
	c.mu.Lock()
	defer c.mu.Unlock()
	forbid := c.next.forbid
	c.next.forbid = false
	return !forbid
}

// chaos has every capability; New is told which of them to overlook (lacks).
var (
	_ wsshard.Handler[string]           = (*chaos)(nil)
	_ wsshard.Unsubscriber[string]      = (*chaos)(nil)
	_ wsshard.Resubscriber[string]      = (*chaos)(nil)
	_ wsshard.Inspector[string]         = (*chaos)(nil)
	_ wsshard.HeartbeatDetector         = (*chaos)(nil)
	_ wsshard.DataDetector              = (*chaos)(nil)
	_ wsshard.Acknowledger[string]      = (*chaos)(nil)
	_ wsshard.ReadyDetector             = (*chaos)(nil)
	_ wsshard.SequenceValidator[string] = (*chaos)(nil)
	_ wsshard.HeaderProvider            = (*chaos)(nil)
	_ wsshard.Authenticator             = (*chaos)(nil)
	_ wsshard.PingMessenger             = (*chaos)(nil)
	_ wsshard.ConnectHandler            = (*chaos)(nil)
	_ wsshard.DisconnectHandler         = (*chaos)(nil)
	_ wsshard.ErrorHandler              = (*chaos)(nil)
	_ wsshard.EventObserver[string]     = (*chaos)(nil)
)
