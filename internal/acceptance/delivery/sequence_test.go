package delivery

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what becomes of a gap in the sequence numbers?

// inOrder is a handler for numbered topics, "a:7": a number that is not the one after the last is a gap. "=" on the wire
// asks for a topic again.
type inOrder struct {
	harness.Courtier
	harness.Inspects
	harness.Validates
}

// newInOrder answers a gap with a recovery, and asks for again what it names.
func newInOrder(d *hookLog, recovery wsshard.SequenceRecovery, again func(topic string) []string) func(a *harness.App) wsshard.Handler[string] {
	return func(a *harness.App) wsshard.Handler[string] {
		next := map[string]int{} // by OnMessage's goroutines only, one after the other
		a.Message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) { d.add("%s", m) }
		return inOrder{harness.NewCourtier(a).(harness.Courtier), harness.ByTopic, harness.Validates{
			Ask: func(m wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
				topic, number, ok := strings.Cut(m.String(), ":")
				n, err := strconv.Atoi(number)
				if !ok || err != nil {
					return v
				}
				if want := next[topic]; want != 0 && n != want {
					v = wsshard.SequenceValidation[string]{Gap: true, Recovery: recovery, Resubscribe: again(topic)}
				} else {
					next[topic] = n + 1
				}
				return v
			},
			Reset: func(st wsshard.ConnectionState) {
				clear(next)
				d.add("reset %d", st.Generation)
			},
		}}
	}
}

func sameTopic(topic string) []string { return []string{topic} }
func noTopic(string) []string         { return nil }

func TestSequenceContinue(t *testing.T) {
	var d hookLog
	harness.Bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceContinue, noTopic), func(w *harness.World) {
		w.Launch("a")
		w.Answer("a:1")
		w.Answer("a:3")
		w.Answer("a:2")
		d.want(t, "reset 1", "a:1", "a:3", "a:2")
		if n := w.M.Metrics().SequenceDrops; n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

func TestSequenceDropMessage(t *testing.T) {
	var d hookLog
	harness.Bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceDropMessage, noTopic), func(w *harness.World) {
		w.Launch("a", "b")
		w.WantWritten("+a,b")
		for _, m := range []string{"a:1", "b:1", "a:3", "b:2", "a:2", "chat"} {
			w.Answer(m)
		}
		d.want(t, "reset 1", "a:1", "b:1", "b:2", "a:2", "chat")
		if n := w.M.Metrics().SequenceDrops; n != 1 {
			t.Errorf("%d dropped", n)
		}
		w.WantWritten()
	})
}

// A reconnect drops the message that showed the gap and all that is on its way; the next connection begins afresh.
func TestSequenceReconnect(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}, Switchover: wsshard.SwitchoverConfig{Settle: harness.Off}}
	harness.Bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, noTopic), func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		harness.After(time.Second)
		begin := time.Now()
		p := w.Srv.Conn(0)
		for _, n := range []int{1, 3, 4, 5} {
			p.Send(fmt.Sprint("a:", n))
		}
		harness.After(time.Second)
		w.WantCauses(wsshard.ErrSequenceGap)
		w.Answer("ack 2")
		w.Answer("a:9")
		d.want(t, "reset 1", "ack 1", "a:1", "reset 2", "ack 2", "a:9")
		evs := w.App.TakeEvents(wsshard.EventGap)
		if len(evs) != 1 || !evs[0].From.Equal(begin.Add(-harness.DefaultLinger)) || !evs[0].To.Equal(begin.Add(time.Second)) {
			t.Errorf("gaps: %+v", evs)
		}
		if m := w.M.Metrics(); m.SequenceDrops != 1 || m.Gaps != 1 || m.Errors != 1 {
			t.Errorf("%d dropped, %d gaps, %d errors", m.SequenceDrops, m.Gaps, m.Errors)
		}
	})
}

// A resubscription is asked for with every recovery.
func TestSequenceResubscribes(t *testing.T) {
	for recovery, delivered := range map[wsshard.SequenceRecovery][]string{
		wsshard.SequenceContinue:    {"reset 1", "ack 1", "a:1", "a:3", "b:7"},
		wsshard.SequenceDropMessage: {"reset 1", "ack 1", "a:1", "b:7"},
	} {
		var d hookLog
		harness.Bubble(t, wsshard.Config{}, newInOrder(&d, recovery, sameTopic), func(w *harness.World) {
			w.Launch("a", "b")
			w.Answer("ack 1")
			w.WantWritten("+a,b")
			w.Answer("a:1")
			w.Answer("a:3")
			w.Answer("b:7")
			w.WantWritten("=a")
			d.want(t, delivered...)
		})
	}
	var d hookLog
	var ends time.Time
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}, DisableHotSwitchover: true}
	again := func(string) []string { ends = time.Now(); return []string{"a", "b"} }
	harness.Bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, again), func(w *harness.World) {
		w.Launch("a", "b", "c")
		w.Answer("ack 1")
		w.Answer("a:1")
		w.Answer("a:3")
		harness.After(time.Second)
		w.WantWritten("+c,a,b") // what was asked for last comes last, and each once
		w.Answer("ack 2")
		w.Sync()
		w.WantWritten()
		if w.Net.DialTimes()[1].Sub(ends) != 100*time.Millisecond {
			t.Error("it did not reconnect at once")
		}
	})
}

// Without a Resubscriber a topic is unsubscribed and subscribed again.
func TestSequenceResubscribesTheLongWay(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.Validates
		}{a, harness.Validates{Ask: func(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
			if m.String() == "gap" {
				v = wsshard.SequenceValidation[string]{Gap: true, Resubscribe: []string{"a", "c", "unknown"}}
			}
			return v
		}}}
	}, func(w *harness.World) {
		w.Start("a", "b", "c")
		w.WantWritten("+a,b,c")
		w.Answer("gap")
		w.Answer("gap")
		w.WantWritten("-a,c", "+a,c")
		w.WantTopics("a", "b", "c")
	})
}

// flood sends n messages that all show the gap.
func flood(p *wstest.Peer, n int) {
	for i := range n {
		p.Send(fmt.Sprint("a:", 1000+i))
	}
}

// The messages in flight show the same gap as the first. A topic is asked for once, and once more only after an answer to
// that, valid data, or AckTimeout.
func TestNoResubscriptionStorm(t *testing.T) {
	start := func(w *harness.World) *wstest.Peer {
		w.Launch("a", "b")
		w.Answer("ack 1")
		w.WantWritten("+a,b")
		p := w.Srv.Conn(0)
		p.Send("a:1")
		p.Send("b:1")
		flood(p, 500)
		w.WantWritten("=a")
		return p
	}
	for name, play := range map[string]func(w *harness.World, p *wstest.Peer){
		"stale ack": func(w *harness.World, p *wstest.Peer) { w.Answer("ack 1 +a"); flood(p, 9); w.WantWritten() },
		"rejection": func(w *harness.World, p *wstest.Peer) { w.Answer("ack 2 -a"); flood(p, 9); w.WantWritten() },
		"other topic": func(w *harness.World, p *wstest.Peer) {
			w.Answer("ack 0 +b")
			w.Answer("b:2")
			flood(p, 9)
			w.WantWritten()
		},
		"ack":           func(w *harness.World, p *wstest.Peer) { w.Answer("ack 2"); flood(p, 500); w.WantWritten("=a") },
		"ack, naming":   func(w *harness.World, p *wstest.Peer) { w.Answer("ack 2 +a"); flood(p, 500); w.WantWritten("=a") },
		"ack, by topic": func(w *harness.World, p *wstest.Peer) { w.Answer("ack 0 +a"); flood(p, 500); w.WantWritten("=a") },
		"valid data":    func(w *harness.World, p *wstest.Peer) { w.Answer("a:2"); flood(p, 500); w.WantWritten("=a") },
		"AckTimeout": func(w *harness.World, p *wstest.Peer) {
			harness.After(10*time.Second - 1)
			flood(p, 9)
			w.WantWritten()
			harness.After(1)
			w.WantWritten("+a") // the request sameTopic, unanswered, is written once more
			flood(p, 500)
			w.WantWritten("=a")
		},
	} {
		t.Log(name)
		var d hookLog
		harness.Bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceDropMessage, sameTopic), func(w *harness.World) { play(w, start(w)) })
	}
}

// The time that a handler takes for the messages in flight counts for nothing.
func TestNoResubscriptionStormFromSlowHandler(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: time.Second}}
	harness.Bubble(t, cfg, newInOrder(&d, wsshard.SequenceContinue, sameTopic), func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		w.WantWritten("+a")
		w.Answer("a:1")
		w.App.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(time.Minute) }
		flood(w.Srv.Conn(0), 10)
		w.Srv.Conn(0).Send("ack 2")
		harness.After(11*time.Minute + time.Second)
		w.WantWritten("=a")
	})
}

// A connection begins with ResetSequenceState, before its first message and after the last one's last.
func TestResetSequenceState(t *testing.T) {
	var d hookLog
	harness.Bubble(t, wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}}, newInOrder(&d, wsshard.SequenceDropMessage, noTopic), func(w *harness.World) {
		w.Srv.OnOpen(func(p *wstest.Peer) { p.Send(fmt.Sprintf("a:%d", 100*(p.Index()+1))) }) // faster than any reset
		w.Launch("a")
		w.Answer("ack 1")
		d.want(t, "reset 1", "a:100", "ack 1")
		w.Srv.Conn(0).Kill()
		harness.After(200 * time.Millisecond)
		w.Answer("ack 2")
		d.want(t, "reset 2", "a:200", "ack 2")
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		w.Srv.Conn(1).Send("a:201")
		harness.After(time.Second)
		d.want(t, "a:201")
		w.Answer("ack 3")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.Answer("a:301")
		d.want(t, "reset 3", "a:300", "ack 3", "a:301")
		if n := w.M.Metrics().SequenceDrops; n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

// What a new connection holds passes the validator at the cutover. A gap among it that asks for a reconnect ends delivery
// there, as it does at any other time.
func TestSequenceReconnectAmongHeld(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}}
	harness.Bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, noTopic), func(w *harness.World) {
		w.Launch("a")
		w.Answer("ack 1")
		done := make(chan error)
		go func() { done <- w.M.HotSwitchover(context.Background(), 0) }()
		harness.After(time.Second)
		for _, n := range []int{5, 7, 8, 5} {
			w.Answer(fmt.Sprint("a:", n))
		}
		w.Answer("ack 2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		harness.After(time.Second)
		d.want(t, "reset 1", "ack 1", "reset 2", "a:5", "reset 3")
		w.WantCauses(wsshard.ErrReplaced, wsshard.ErrSequenceGap)
	})
}
