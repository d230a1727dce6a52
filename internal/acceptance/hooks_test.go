package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// Single capabilities, to be embedded beside *app: a handler has exactly those that it embeds.
type (
	inspects     func(wsshard.Message, wsshard.ConnectionState) wsshard.Verdict[string]
	heartbeats   func(wsshard.Message) bool
	detectsData  func(wsshard.Message) bool
	acknowledges func(wsshard.Message, wsshard.ConnectionState) (wsshard.Ack[string], bool)
	readies      func(wsshard.Message, wsshard.ConnectionState) bool
	pingsWith    func(wsshard.ConnectionState) wsshard.Message
	resubscribes func(wsshard.Request[string]) (wsshard.Message, error)
	validates    struct {
		ask   func(wsshard.Message, wsshard.ConnectionState) wsshard.SequenceValidation[string]
		reset func(wsshard.ConnectionState)
	}
)

func (f inspects) Inspect(m wsshard.Message, st wsshard.ConnectionState) wsshard.Verdict[string] {
	return f(m, st)
}
func (f heartbeats) IsHeartbeat(m wsshard.Message) bool    { return f(m) }
func (f detectsData) IsDataMessage(m wsshard.Message) bool { return f(m) }
func (f acknowledges) Acknowledge(m wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return f(m, st)
}
func (f readies) IsReady(m wsshard.Message, st wsshard.ConnectionState) bool { return f(m, st) }
func (f pingsWith) PingMessage(st wsshard.ConnectionState) wsshard.Message   { return f(st) }
func (f resubscribes) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return f(req)
}
func (f validates) ValidateSequence(m wsshard.Message, st wsshard.ConnectionState) wsshard.SequenceValidation[string] {
	return f.ask(m, st)
}
func (f validates) ResetSequenceState(st wsshard.ConnectionState) {
	if f.reset != nil {
		f.reset(st)
	}
}

// byTopic tells whose data a message of wstest.Topics is.
func byTopic(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if topic, _, ok := strings.Cut(m.String(), ":"); ok && topic != "ack" {
		v.Subs = []string{topic}
	}
	return v
}

// isText says whether a message is one of these.
func isText(texts ...string) func(wsshard.Message) bool {
	return func(m wsshard.Message) bool {
		for _, text := range texts {
			if m.String() == text {
				return true
			}
		}
		return false
	}
}

// acksOfTopics understands what wstest.Topics answers: "ack:+a,b" confirms a and b.
func acksOfTopics(m wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	text, ok := strings.CutPrefix(m.String(), "ack:")
	if ok && text[0] != '-' {
		ack.Confirmed = strings.Split(text[1:], ",")
	}
	return ack, ok
}

// hookLog is what hooks write into.
type hookLog struct {
	mu    sync.Mutex
	lines []string
}

func (d *hookLog) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *hookLog) want(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	got, wanted := strings.Join(d.lines, "\n"), strings.Join(want, "\n")
	d.lines = nil
	if got != wanted {
		t.Errorf("got\n%s\nwant\n%s", got, wanted)
	}
}

// allHooks is a handler with every hook of a message.
type allHooks struct {
	*app
	inspects
	heartbeats
	detectsData
	acknowledges
	readies
	validates
}

// tellAll is a handler with every hook, each of which writes into the hookLog.
func tellAll(a *app, d *hookLog, verdict func(string) wsshard.Verdict[string], gap func(string) wsshard.SequenceValidation[string]) allHooks {
	a.message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) {
		d.add("OnMessage %s %v", m, m.Value)
	}
	return allHooks{
		a,
		func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
			d.add("Inspect %s %v", m, m.Value)
			return verdict(m.String())
		},
		func(m wsshard.Message) bool { d.add("IsHeartbeat %s", m); return m.String() == "beat" },
		func(m wsshard.Message) bool { d.add("IsDataMessage %s", m); return true },
		func(m wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
			d.add("Acknowledge %s %v", m, m.Value)
			return acksOfTopics(m, wsshard.ConnectionState{})
		},
		func(m wsshard.Message, _ wsshard.ConnectionState) bool {
			d.add("IsReady %s %v", m, m.Value)
			return m.String() == "ready"
		},
		validates{ask: func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.SequenceValidation[string] {
			d.add("ValidateSequence %s %v", m, m.Value)
			return gap(m.String())
		}},
	}
}

// The hooks of one message are asked in the order that the documentation promises, each once, and Value goes with it.
func TestHookOrder(t *testing.T) {
	var d hookLog
	verdict := func(text string) wsshard.Verdict[string] {
		return wsshard.Verdict[string]{Heartbeat: text == "beat", NoData: text == "chat", Value: "parsed"}
	}
	gap := func(text string) wsshard.SequenceValidation[string] {
		return wsshard.SequenceValidation[string]{Gap: text == "gap", Recovery: wsshard.SequenceDropMessage}
	}
	all := func(a *app) wsshard.Handler[string] { return tellAll(a, &d, verdict, gap) }
	cfg := wsshard.Config{Health: wsshard.HealthConfig{TextPing: "ping"}}
	bubble(t, cfg, all, func(w *world) {
		w.launch("a")
		for text, want := range map[string][]string{
			"data": {"Inspect data <nil>", "Acknowledge data parsed", "IsReady data parsed", "ValidateSequence data parsed", "OnMessage data parsed"},
			"chat": {"Inspect chat <nil>", "Acknowledge chat parsed", "IsReady chat parsed", "ValidateSequence chat parsed", "OnMessage chat parsed"},
			"ack:+a": {"Inspect ack:+a <nil>", "Acknowledge ack:+a parsed", "IsReady ack:+a parsed", "ValidateSequence ack:+a parsed",
				"OnMessage ack:+a parsed"},
			"gap":  {"Inspect gap <nil>", "Acknowledge gap parsed", "IsReady gap parsed", "ValidateSequence gap parsed"},
			"beat": {"Inspect beat <nil>"},
			"PONG": nil,
		} {
			w.answer(text)
			d.want(t, want...)
		}
		if m := w.m.Metrics(); m.MessagesReceived != 6 || m.SequenceDrops != 1 {
			t.Errorf("%d received, %d drops", m.MessagesReceived, m.SequenceDrops)
		}
	})

	without := func(a *app) wsshard.Handler[string] { // an Inspector
		h := tellAll(a, &d, verdict, gap)
		return struct {
			*app
			heartbeats
			detectsData
			acknowledges
			readies
			validates
		}{a, h.heartbeats, h.detectsData, h.acknowledges, h.readies, h.validates}
	}
	bubble(t, cfg, without, func(w *world) {
		w.launch("a")
		for text, want := range map[string][]string{
			"data": {"IsHeartbeat data", "IsDataMessage data", "Acknowledge data <nil>", "IsReady data <nil>", "ValidateSequence data <nil>",
				"OnMessage data <nil>"},
			"beat": {"IsHeartbeat beat"},
			"PONG": nil,
		} {
			w.answer(text)
			d.want(t, want...)
		}
	})
}

// During a switchover the hooks up to IsReady see a message of the new connection when it comes, the others after the
// cutover; a duplicate is seen by ValidateSequence and by nobody after it.
func TestHookOrderInSwitchover(t *testing.T) {
	var d hookLog
	verdict := func(text string) wsshard.Verdict[string] { return wsshard.Verdict[string]{Key: text} }
	none := func(string) (v wsshard.SequenceValidation[string]) { return v }
	cfg := wsshard.Config{Switchover: wsshard.SwitchoverConfig{Linger: time.Minute, Timeout: 2 * time.Second}}
	bubble(t, cfg, func(a *app) wsshard.Handler[string] { return tellAll(a, &d, verdict, none) }, func(w *world) {
		w.launch("a")
		w.answer("ack:+a")
		d.want(t, "Inspect ack:+a <nil>", "Acknowledge ack:+a <nil>", "IsReady ack:+a <nil>", "ValidateSequence ack:+a <nil>", "OnMessage ack:+a <nil>")
		done := make(chan error)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		w.srv.Conn(0).Send("a:1")
		w.answer("a:1")
		w.answer("b:1")
		d.want(t, "Inspect a:1 <nil>", "Acknowledge a:1 <nil>", "IsReady a:1 <nil>", "ValidateSequence a:1 <nil>", "OnMessage a:1 <nil>",
			"Inspect a:1 <nil>", "Acknowledge a:1 <nil>", "IsReady a:1 <nil>",
			"Inspect b:1 <nil>", "Acknowledge b:1 <nil>", "IsReady b:1 <nil>")
		w.answer("ack:+a")
		d.want(t, "Inspect ack:+a <nil>", "Acknowledge ack:+a <nil>", "IsReady ack:+a <nil>")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d.want(t, "ValidateSequence a:1 <nil>", "ValidateSequence b:1 <nil>", "OnMessage b:1 <nil>", "ValidateSequence ack:+a <nil>", "OnMessage ack:+a <nil>")
		if n := w.m.Metrics().DuplicatesDropped; n != 1 {
			t.Errorf("%d duplicates were dropped", n)
		}
	})
}

// A reply leaves at once, on the connection that asked; behind a pace the newest 64 wait.
func TestReplies(t *testing.T) {
	reply := func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			inspects
		}{a, func(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
			if n, ok := strings.CutPrefix(m.String(), "beat"); ok {
				v = wsshard.Verdict[string]{Heartbeat: true, Reply: wsshard.Text("alive" + n)}
			}
			return v
		}}
	}
	bubble(t, wsshard.Config{}, reply, func(w *world) {
		w.start("a")
		w.wantWritten("+a")
		for n := range 100 {
			w.answer(fmt.Sprint("beat", n))
			w.wantWritten(fmt.Sprint("alive", n))
		}
		w.wantGot()
		if n := w.m.Metrics().RepliesDropped; n != 0 {
			t.Errorf("%d replies were dropped", n)
		}
	})
	cfg := wsshard.Config{
		Subscribe:  wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Second},
		Health:     wsshard.HealthConfig{PingInterval: off, DataTimeout: off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
	}
	bubble(t, cfg, reply, func(w *world) {
		w.start("a")
		w.wantWritten("+a") // and now the pace allows one message in 1.1 s
		want := []string{}
		for n := range 70 {
			w.answer(fmt.Sprint("beat", n))
			if n >= 6 {
				want = append(want, fmt.Sprint("alive", n))
			}
		}
		after(2 * time.Minute)
		w.wantWritten(want...)
		if n := w.m.Metrics().RepliesDropped; n != 6 {
			t.Errorf("%d replies were dropped", n)
		}
	})
}
