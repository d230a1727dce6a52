package acceptance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// tagged is an app with an Inspector. A message is "topic:payload"; one whose payload begins with k has its text as key.
type tagged struct{ *app }

func (tagged) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	topic, payload, ok := strings.Cut(text, ":")
	switch {
	case text == "maintenance":
		v.Switchover, v.NoData = true, true
	case topic == "ack" || topic == "nack" || !ok:
		v.NoData = true
	default:
		v.Subs = []string{topic}
		if strings.HasPrefix(payload, "k") {
			v.Key = text
		}
	}
	return v
}

// ackOf reads "ack:+a,b", as wstest.Topics sends it, and "nack:a,b".
func ackOf(msg wsshard.Message) (a wsshard.Ack[string], ok bool) {
	kind, list, _ := strings.Cut(msg.String(), ":")
	switch subs := strings.Split(strings.TrimLeft(list, "+="), ","); kind {
	case "ack":
		a.Confirmed = subs
	case "nack":
		a.Rejected = subs
	default:
		return a, false
	}
	return a, !strings.HasPrefix(list, "-")
}

// taggedAcks is tagged, and its topics are proven by answers.
type taggedAcks struct{ tagged }

func (taggedAcks) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return ackOf(msg)
}

// detecting is an app whose connections are ready when "live" came.
type detecting struct{ *app }

func (detecting) IsReady(msg wsshard.Message, _ wsshard.ConnectionState) bool {
	return msg.String() == "live"
}

func withTags(a *app) wsshard.Handler[string]     { return tagged{a} }
func withTagAcks(a *app) wsshard.Handler[string]  { return taggedAcks{tagged{a}} }
func withDetector(a *app) wsshard.Handler[string] { return detecting{a} }

var (
	_ wsshard.Inspector[string]    = tagged{}
	_ wsshard.Acknowledger[string] = taggedAcks{}
	_ wsshard.ReadyDetector        = detecting{}
)

// call is a HotSwitchover under way.
type swCall struct {
	began  time.Time
	done   chan struct{}
	err    error
	ended  time.Time
	cancel context.CancelFunc
}

// hot asks for a switchover of a shard and lets everything happen that takes no time.
func (w *world) hot(shard int) *swCall {
	ctx, cancel := context.WithCancel(context.Background())
	c := &swCall{began: time.Now(), done: make(chan struct{}), cancel: cancel}
	go func() {
		defer cancel()
		c.err = w.m.HotSwitchover(ctx, shard)
		c.ended = time.Now()
		close(c.done)
	}()
	after(0)
	return c
}

func (c *swCall) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// want waits for the end, which must come with err after exactly so long.
func (c *swCall) want(t *testing.T, err error, took time.Duration) {
	t.Helper()
	<-c.done
	if !errors.Is(c.err, err) {
		t.Errorf("HotSwitchover: %v, want %v", c.err, err)
	}
	if d := c.ended.Sub(c.began); d != took {
		t.Errorf("HotSwitchover took %v, want %v", d, took)
	}
	after(0)
}

// report returns the report of the one switchover that ended since the last look at events.
func (w *world) report(kind wsshard.EventKind) (ev wsshard.Event[string]) {
	w.t.Helper()
	evs := w.app.takeEvents(wsshard.EventSwitchoverDone, wsshard.EventSwitchoverFailed)
	if len(evs) != 1 || evs[0].Kind != kind || evs[0].Switchover == nil {
		w.t.Fatalf("events %+v, want one %v", evs, kind)
	}
	return evs[0]
}

// wantReport checks it.
func (w *world) wantReport(want wsshard.SwitchoverReport) {
	w.t.Helper()
	if got := *w.report(wsshard.EventSwitchoverDone).Switchover; got != want {
		w.t.Errorf("report %+v, want %+v", got, want)
	}
}

// slowClose has a connection answer the close frame late, after saying more. It notes when that came in at.
func slowClose(p *wstest.Peer, at *time.Time, late time.Duration, more ...string) (handler func(int, string) error) {
	handler = func(code int, _ string) error {
		*at = time.Now()
		for _, text := range more {
			p.Send(text)
		}
		time.Sleep(late)
		p.Conn().WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		return nil
	}
	p.Conn().SetCloseHandler(handler)
	return handler
}

const linger = 250 * time.Millisecond // the default

// TestSwitchoverSteps goes through DESIGN's five steps with answers and keys.
func TestSwitchoverSteps(t *testing.T) {
	bubble(t, noJitter(), withTagAcks, func(w *world) {
		w.topics.Ack(true)
		var cut time.Time
		w.srv.OnOpen(func(p *wstest.Peer) {
			if p.Index() == 0 {
				slowClose(p, &cut, 300*time.Millisecond, "a:k4", "a:4")
			}
		})
		w.start("a", "b")
		w.app.take()
		w.app.takeEvents()

		// 1st: both connections are subscribed, the old one goes on.
		c := w.hot(0)
		if got := w.srv.Conn(1).Got(); !slices.Equal(got, []string{"+a,b"}) {
			t.Errorf("the new connection heard %q", got)
		}
		evs := w.app.takeEvents(wsshard.EventSwitchoverStarted)
		if len(evs) != 1 || evs[0].Generation != 1 || evs[0].Switchover.Trigger != "call" {
			t.Errorf("events %+v", evs)
		}
		if sm := w.m.Metrics().Shards[0]; sm.State != wsshard.ShardSwitching || !sm.IsConnected || sm.Generation != 1 {
			t.Errorf("the shard is %+v", sm)
		}

		// 2nd: the new one's messages wait; those that the old one delivers are let go.
		w.topics.Publish("a", "k1")
		w.topics.Publish("b", "2")
		w.wantGot("a:k1", "b:2")
		w.srv.Conn(1).Send("a:k3")
		w.wantGot()

		// 3rd: what the new one held when it was ready counts; what came later does not keep it waiting.
		after(linger - 1)
		w.srv.Conn(1).Send("a:k4")
		after(1)
		if d := cut.Sub(c.began); d != linger {
			t.Errorf("the old connection was told to close after %v", d)
		}

		// 4th: the old one's last messages. 5th: the new one's.
		w.wantGot("a:k4", "a:4")
		w.srv.Conn(1).Send("b:5")
		w.wantCauses()
		c.want(t, nil, linger+300*time.Millisecond)
		w.wantCauses(wsshard.ErrReplaced)
		w.wantGot("ack:+a,b", "b:2", "a:k3", "b:5")
		w.wantReport(wsshard.SwitchoverReport{
			Trigger: "call", Proof: "keys", Overlap: linger, Drain: 300 * time.Millisecond, Held: 6, Dropped: 2,
		})
		m := w.m.Metrics()
		if m.HotSwitchovers != 1 || m.DuplicatesDropped != 2 || m.Gaps != 0 || m.Shards[0].State != wsshard.ShardConnected {
			t.Errorf("%+v", m)
		}
		w.wantTopics("a", "b")
	})
}

// TestSwitchoverProofs: which proof is had, when, and what the report calls it.
func TestSwitchoverProofs(t *testing.T) {
	const settle = time.Second // the default
	say := func(i int, text string) func(w *world) { return func(w *world) { w.srv.Conn(i).Send(text) } }
	for name, tt := range map[string]struct {
		handler func(*app) wsshard.Handler[string]
		acks    bool
		after1  time.Duration  // after which
		do      []func(*world) // happens
		ready   time.Duration
		proof   string
		overlap time.Duration
	}{
		"answers":           {handler: withTagAcks, acks: true, proof: "acks", overlap: linger},
		"late answers":      {handler: withTagAcks, after1: 700 * time.Millisecond, do: []func(*world){say(1, "ack:+a,b")}, ready: 700 * time.Millisecond, proof: "acks", overlap: linger},
		"a rejection":       {handler: withTagAcks, after1: 700 * time.Millisecond, do: []func(*world){say(1, "nack:a"), say(1, "ack:b")}, ready: 700 * time.Millisecond, proof: "acks", overlap: linger},
		"not data":          {handler: withTagAcks, after1: 700 * time.Millisecond, do: []func(*world){say(1, "a:1"), say(1, "b:1"), func(*world) { time.Sleep(time.Second) }, say(1, "ack:a,b")}, ready: 1700 * time.Millisecond, proof: "acks", overlap: linger},
		"nothing but time":  {ready: settle, proof: "settle", overlap: linger},
		"data, but unnamed": {after1: 100 * time.Millisecond, do: []func(*world){say(1, "a:1"), say(1, "b:1")}, ready: settle, proof: "settle", overlap: linger},
		"data for each":     {handler: withTags, after1: 100 * time.Millisecond, do: []func(*world){say(1, "a:1"), say(1, "b:1")}, ready: 100 * time.Millisecond, proof: "acks", overlap: linger},
		"data for one":      {handler: withTags, after1: 100 * time.Millisecond, do: []func(*world){say(1, "a:1")}, ready: settle, proof: "settle", overlap: linger},
		"keys are no stronger than time": {handler: withTags, after1: 100 * time.Millisecond, do: []func(*world){say(1, "a:k1"), say(0, "a:k1")},
			ready: settle, proof: "settle", overlap: linger},
		"keys": {handler: withTags, after1: 100 * time.Millisecond, do: []func(*world){say(1, "a:k1"), say(1, "b:k1"),
			func(*world) { time.Sleep(time.Second) }, say(0, "a:k1"), say(0, "b:k1")}, ready: 100 * time.Millisecond, proof: "keys", overlap: time.Second},
		"a detector": {handler: withDetector, after1: 3 * time.Second, do: []func(*world){say(1, "live")}, ready: 3 * time.Second, proof: "acks", overlap: linger},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, noJitter(), tt.handler, func(w *world) {
				w.topics.Ack(true)
				w.start("a", "b")
				w.topics.Ack(tt.acks)
				c := w.hot(0)
				after(tt.after1)
				for _, do := range tt.do {
					do(w)
					after(0)
				}
				c.want(t, nil, tt.ready+tt.overlap)
				r := *w.report(wsshard.EventSwitchoverDone).Switchover
				if r.Proof != tt.proof || r.Ready != tt.ready || r.Overlap != tt.overlap {
					t.Errorf("report %+v, want %s, ready after %v, overlap %v", r, tt.proof, tt.ready, tt.overlap)
				}
				w.wantTopics("a", "b")
			})
		})
	}
}

// TestDetectorAfterTheLastRequest: what IsReady saw before the last request was written proves nothing.
func TestDetectorAfterTheLastRequest(t *testing.T) {
	cfg := noJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2, Window: time.Second}
	bubble(t, cfg, withDetector, func(w *world) {
		w.start("a", "b") // one in 1.1 s
		after(10 * time.Second)
		c := w.hot(0)
		after(time.Second)
		w.srv.Conn(1).Send("live")
		after(5 * time.Second)
		if c.over() {
			t.Error("it was ready before its last request")
		}
		w.srv.Conn(1).Send("live")
		after(0)
		w.srv.Conn(1).Send("live") // again: it was ready already
		c.want(t, nil, 6*time.Second+linger)
	})
}

// TestSwitchoverWithoutTopics: nothing is to be proven.
func TestSwitchoverWithoutTopics(t *testing.T) {
	for name, handler := range map[string]func(*app) wsshard.Handler[string]{"": nil, "acks": withTagAcks, "detector": withDetector} {
		t.Run(name, func(t *testing.T) {
			bubble(t, noJitter(), handler, func(w *world) {
				w.start()
				w.hot(0).want(t, nil, linger)
				w.wantCauses(wsshard.ErrReplaced)
				w.wantNoGap()
			})
		})
	}
}
