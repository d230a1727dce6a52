package delivery

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which hooks hear of a message, in which order, and what becomes of a reply?

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
	*harness.App
	harness.Inspects
	harness.Heartbeats
	harness.DetectsData
	harness.Acknowledges
	harness.Readies
	harness.Validates
}

// tellAll is a handler with every hook, each of which writes into the hookLog.
func tellAll(a *harness.App, d *hookLog, verdict func(string) wsshard.Verdict[string], gap func(string) wsshard.SequenceValidation[string]) allHooks {
	a.Message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) {
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
			return harness.AcksOfTopics(m, wsshard.ConnectionState{})
		},
		func(m wsshard.Message, _ wsshard.ConnectionState) bool {
			d.add("IsReady %s %v", m, m.Value)
			return m.String() == "ready"
		},
		harness.Validates{Ask: func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.SequenceValidation[string] {
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
	all := func(a *harness.App) wsshard.Handler[string] { return tellAll(a, &d, verdict, gap) }
	cfg := wsshard.Config{Health: wsshard.HealthConfig{TextPing: "ping"}}
	harness.Bubble(t, cfg, all, func(w *harness.World) {
		w.Launch("a")
		for text, want := range map[string][]string{
			"data": {"Inspect data <nil>", "Acknowledge data parsed", "IsReady data parsed", "ValidateSequence data parsed", "OnMessage data parsed"},
			"chat": {"Inspect chat <nil>", "Acknowledge chat parsed", "IsReady chat parsed", "ValidateSequence chat parsed", "OnMessage chat parsed"},
			"ack:+a": {"Inspect ack:+a <nil>", "Acknowledge ack:+a parsed", "IsReady ack:+a parsed", "ValidateSequence ack:+a parsed",
				"OnMessage ack:+a parsed"},
			"gap":  {"Inspect gap <nil>", "Acknowledge gap parsed", "IsReady gap parsed", "ValidateSequence gap parsed"},
			"beat": {"Inspect beat <nil>"},
			"PONG": nil,
		} {
			w.Answer(text)
			d.want(t, want...)
		}
		if m := w.M.Metrics(); m.MessagesReceived != 6 || m.SequenceDrops != 1 {
			t.Errorf("%d received, %d drops", m.MessagesReceived, m.SequenceDrops)
		}
	})

	without := func(a *harness.App) wsshard.Handler[string] { // an Inspector
		h := tellAll(a, &d, verdict, gap)
		return struct {
			*harness.App
			harness.Heartbeats
			harness.DetectsData
			harness.Acknowledges
			harness.Readies
			harness.Validates
		}{a, h.Heartbeats, h.DetectsData, h.Acknowledges, h.Readies, h.Validates}
	}
	harness.Bubble(t, cfg, without, func(w *harness.World) {
		w.Launch("a")
		for text, want := range map[string][]string{
			"data": {"IsHeartbeat data", "IsDataMessage data", "Acknowledge data <nil>", "IsReady data <nil>", "ValidateSequence data <nil>",
				"OnMessage data <nil>"},
			"beat": {"IsHeartbeat beat"},
			"PONG": nil,
		} {
			w.Answer(text)
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
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { return tellAll(a, &d, verdict, none) }, func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack:+a")
		d.want(t, "Inspect ack:+a <nil>", "Acknowledge ack:+a <nil>", "IsReady ack:+a <nil>", "ValidateSequence ack:+a <nil>", "OnMessage ack:+a <nil>")
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		w.Srv.Conn(0).Send("a:1")
		w.Answer("a:1")
		w.Answer("b:1")
		d.want(t, "Inspect a:1 <nil>", "Acknowledge a:1 <nil>", "IsReady a:1 <nil>", "ValidateSequence a:1 <nil>", "OnMessage a:1 <nil>",
			"Inspect a:1 <nil>", "Acknowledge a:1 <nil>", "IsReady a:1 <nil>",
			"Inspect b:1 <nil>", "Acknowledge b:1 <nil>", "IsReady b:1 <nil>")
		w.Answer("ack:+a")
		d.want(t, "Inspect ack:+a <nil>", "Acknowledge ack:+a <nil>", "IsReady ack:+a <nil>")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d.want(t, "ValidateSequence a:1 <nil>", "ValidateSequence b:1 <nil>", "OnMessage b:1 <nil>", "ValidateSequence ack:+a <nil>", "OnMessage ack:+a <nil>")
		if n := w.M.Metrics().DuplicatesDropped; n != 1 {
			t.Errorf("%d duplicates were dropped", n)
		}
	})
}

// A reply leaves at once, on the connection that asked; behind a pace the newest 64 wait.
func TestReplies(t *testing.T) {
	reply := func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Inspects
		}{a, func(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
			if n, ok := strings.CutPrefix(m.String(), "beat"); ok {
				v = wsshard.Verdict[string]{Heartbeat: true, Reply: wsshard.Text("alive" + n)}
			}
			return v
		}}
	}
	harness.Bubble(t, wsshard.Config{}, reply, func(w *harness.World) {
		w.Start("a")
		w.WantWritten("+a")
		for n := range 100 {
			w.Answer(fmt.Sprint("beat", n))
			w.WantWritten(fmt.Sprint("alive", n))
		}
		w.WantGot()
		if n := w.M.Metrics().RepliesDropped; n != 0 {
			t.Errorf("%d replies were dropped", n)
		}
	})
	cfg := wsshard.Config{
		Subscribe:  wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Second},
		Health:     wsshard.HealthConfig{PingInterval: harness.Off, DataTimeout: harness.Off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
	}
	harness.Bubble(t, cfg, reply, func(w *harness.World) {
		w.Start("a")
		w.WantWritten("+a") // and now the pace allows one message in 1.1 s
		want := []string{}
		for n := range 70 {
			w.Answer(fmt.Sprint("beat", n))
			if n >= 6 {
				want = append(want, fmt.Sprint("alive", n))
			}
		}
		harness.After(2 * time.Minute)
		w.WantWritten(want...)
		if n := w.M.Metrics().RepliesDropped; n != 6 {
			t.Errorf("%d replies were dropped", n)
		}
	})
}
