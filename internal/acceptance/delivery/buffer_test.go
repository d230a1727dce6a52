package delivery

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: whose is a message's Data, and for how long?

// keeping runs a script with a handler that keeps the data of each message, against the documentation.
func keeping(t *testing.T, lowLatency bool, script func(w *harness.World, kept func() [][]byte)) {
	t.Helper()
	cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		var kept [][]byte
		w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) { kept = append(kept, msg.Data) }
		w.Start("a")
		w.WantTopics("a")
		script(w, func() [][]byte { harness.After(0); return kept })
	})
}

// TestDataIsACopy: without LowLatencyMode a message belongs to the handler, with no room behind it to write into.
func TestDataIsACopy(t *testing.T) {
	keeping(t, false, func(w *harness.World, kept func() [][]byte) {
		sent := []string{"first", "second", "", "a longer message than those before", "x"}
		for _, s := range sent {
			w.Srv.Conn(0).Send(s)
		}
		got := kept()
		if len(got) != len(sent) {
			t.Fatalf("%d messages", len(got))
		}
		for i, data := range got {
			if string(data) != sent[i] || cap(data) != len(data) {
				t.Errorf("message %d: %q with room for %d, want %q", i, data, cap(data), sent[i])
			}
			for j := range data {
				data[j] = '!' // it is ours
			}
		}
		w.Srv.Conn(0).Send("after")
		if got := kept(); string(got[len(got)-1]) != "after" {
			t.Errorf("then %q", got[len(got)-1])
		}
	})
}

// TestDataIsLent: in LowLatencyMode there is one buffer, valid until OnMessage returns; in race builds what was kept shows it.
func TestDataIsLent(t *testing.T) {
	keeping(t, true, func(w *harness.World, kept func() [][]byte) {
		w.Srv.Conn(0).Send("first")
		first := kept()[0]
		if poisoned := bytes.Equal(first, bytes.Repeat([]byte{0xDB}, 5)); poisoned != harness.RaceBuild {
			t.Errorf("after OnMessage the data is %q; race build: %v", first, harness.RaceBuild)
		}
		w.Srv.Conn(0).Send("other")
		second := kept()[1]
		if &first[0] != &second[0] {
			t.Error("the second message has a buffer of its own")
		}
		w.WantGot("first", "other")
	})
}

// TestHeldDataIsKept: what waits for a cutover is valid in its turn, in LowLatencyMode too, though the buffer was read into
// many times meanwhile.
func TestHeldDataIsKept(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		keeping(t, lowLatency, func(w *harness.World, kept func() [][]byte) {
			w.Srv.OnOpen(func(p *wstest.Peer) {
				for _, s := range []string{"one", "two", "three"} {
					p.Send(s)
				}
			})
			if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
				t.Fatal(err)
			}
			w.WantGot("one", "two", "three")
			if rep := w.App.TakeEvents(wsshard.EventSwitchoverDone)[0].Switchover; rep.Held != 3 {
				t.Errorf("%d messages were held", rep.Held)
			}
			got := kept()
			if !slices.EqualFunc(got, []string{"one", "two", "three"}, func(b []byte, s string) bool { return string(b) == s }) {
				t.Errorf("what was held is %q now, and was not in a buffer of its own", got)
			}
			w.Srv.Conn(1).Send("last") // with which the read loop notices that delivery is its own now
			w.Srv.Conn(1).Send("live")
			if last := kept()[4]; lowLatency && harness.RaceBuild != bytes.Equal(last, []byte{0xDB, 0xDB, 0xDB, 0xDB}) {
				t.Errorf("a message after the cutover is %q", last)
			}
		})
	}
}

// TestDataIsValidInEveryHook: the hooks before OnMessage see the same data, and what Inspect parsed goes with it.
func TestDataIsValidInEveryHook(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
		h := &parser{t: t}
		harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { h.App = a; return h }, func(w *harness.World) {
			w.Subscribe("a")
			w.M.Start(context.Background())
			w.WantTopics("a")
			w.Topics.Publish("a", "1")
			w.Topics.Publish("a", "2")
			harness.After(time.Second)
			want := []string{"Inspect", "Acknowledge", "IsReady", "ValidateSequence", "OnMessage"}
			if got := h.order; !slices.Equal(got, append(want, want...)) {
				t.Errorf("order of the hooks: %q", got)
			}
		})
	}
}

// parser is an app whose Inspect parses, by taking the text, and whose other hooks check that they are given it.
type parser struct {
	*harness.App
	t     *testing.T
	order []string
}

func (p *parser) see(hook string, msg wsshard.Message) {
	p.order = append(p.order, hook)
	if want := "parsed " + msg.String(); msg.Value != want {
		p.t.Errorf("%s: %q with value %v", hook, msg, msg.Value)
	}
}

func (p *parser) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
	p.order = append(p.order, "Inspect")
	return wsshard.Verdict[string]{Value: "parsed " + msg.String()}
}

func (p *parser) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	p.see("Acknowledge", msg)
	return ack, false
}

func (p *parser) IsReady(msg wsshard.Message, _ wsshard.ConnectionState) bool {
	p.see("IsReady", msg)
	return false
}

func (p *parser) ValidateSequence(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	p.see("ValidateSequence", msg)
	return v
}

func (p *parser) ResetSequenceState(wsshard.ConnectionState) {}

func (p *parser) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	p.see("OnMessage", msg)
}
