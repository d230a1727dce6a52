package acceptance

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// inOrder is a handler for numbered topics, "a:7": a number that is not the one after the last is a gap. "=" on the wire
// asks for a topic again.
type inOrder struct {
	courtier
	inspects
	validates
}

// newInOrder answers a gap with a recovery, and asks for again what it names.
func newInOrder(d *hookLog, recovery wsshard.SequenceRecovery, again func(topic string) []string) func(a *app) wsshard.Handler[string] {
	return func(a *app) wsshard.Handler[string] {
		next := map[string]int{} // by OnMessage's goroutines only, one after the other
		a.message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) { d.add("%s", m) }
		return inOrder{newCourtier(a).(courtier), byTopic, validates{
			ask: func(m wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
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
			reset: func(st wsshard.ConnectionState) {
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
	bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceContinue, noTopic), func(w *world) {
		w.launch("a")
		w.answer("a:1")
		w.answer("a:3")
		w.answer("a:2")
		d.want(t, "reset 1", "a:1", "a:3", "a:2")
		if n := w.m.Metrics().SequenceDrops; n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

func TestSequenceDropMessage(t *testing.T) {
	var d hookLog
	bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceDropMessage, noTopic), func(w *world) {
		w.launch("a", "b")
		w.wantWritten("+a,b")
		for _, m := range []string{"a:1", "b:1", "a:3", "b:2", "a:2", "chat"} {
			w.answer(m)
		}
		d.want(t, "reset 1", "a:1", "b:1", "b:2", "a:2", "chat")
		if n := w.m.Metrics().SequenceDrops; n != 1 {
			t.Errorf("%d dropped", n)
		}
		w.wantWritten()
	})
}

// A reconnect drops the message that showed the gap and all that is on its way; the next connection begins afresh.
func TestSequenceReconnect(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}, Switchover: wsshard.SwitchoverConfig{Settle: off}}
	bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, noTopic), func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		after(time.Second)
		begin := time.Now()
		p := w.srv.Conn(0)
		for _, n := range []int{1, 3, 4, 5} {
			p.Send(fmt.Sprint("a:", n))
		}
		after(time.Second)
		w.wantCauses(wsshard.ErrSequenceGap)
		w.answer("ack 2")
		w.answer("a:9")
		d.want(t, "reset 1", "ack 1", "a:1", "reset 2", "ack 2", "a:9")
		evs := w.app.takeEvents(wsshard.EventGap)
		if len(evs) != 1 || !evs[0].From.Equal(begin.Add(-linger)) || !evs[0].To.Equal(begin.Add(time.Second)) {
			t.Errorf("gaps: %+v", evs)
		}
		if m := w.m.Metrics(); m.SequenceDrops != 1 || m.Gaps != 1 || m.Errors != 1 {
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
		bubble(t, wsshard.Config{}, newInOrder(&d, recovery, sameTopic), func(w *world) {
			w.launch("a", "b")
			w.answer("ack 1")
			w.wantWritten("+a,b")
			w.answer("a:1")
			w.answer("a:3")
			w.answer("b:7")
			w.wantWritten("=a")
			d.want(t, delivered...)
		})
	}
	var d hookLog
	var ends time.Time
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}, DisableHotSwitchover: true}
	again := func(string) []string { ends = time.Now(); return []string{"a", "b"} }
	bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, again), func(w *world) {
		w.launch("a", "b", "c")
		w.answer("ack 1")
		w.answer("a:1")
		w.answer("a:3")
		after(time.Second)
		w.wantWritten("+c,a,b") // what was asked for last comes last, and each once
		w.answer("ack 2")
		w.sync()
		w.wantWritten()
		if w.net.DialTimes()[1].Sub(ends) != 100*time.Millisecond {
			t.Error("it did not reconnect at once")
		}
	})
}

// Without a Resubscriber a topic is unsubscribed and subscribed again.
func TestSequenceResubscribesTheLongWay(t *testing.T) {
	bubble(t, wsshard.Config{}, func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			validates
		}{a, validates{ask: func(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
			if m.String() == "gap" {
				v = wsshard.SequenceValidation[string]{Gap: true, Resubscribe: []string{"a", "c", "unknown"}}
			}
			return v
		}}}
	}, func(w *world) {
		w.start("a", "b", "c")
		w.wantWritten("+a,b,c")
		w.answer("gap")
		w.answer("gap")
		w.wantWritten("-a,c", "+a,c")
		w.wantTopics("a", "b", "c")
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
	start := func(w *world) *wstest.Peer {
		w.launch("a", "b")
		w.answer("ack 1")
		w.wantWritten("+a,b")
		p := w.srv.Conn(0)
		p.Send("a:1")
		p.Send("b:1")
		flood(p, 500)
		w.wantWritten("=a")
		return p
	}
	for name, play := range map[string]func(w *world, p *wstest.Peer){
		"stale ack":     func(w *world, p *wstest.Peer) { w.answer("ack 1 +a"); flood(p, 9); w.wantWritten() },
		"rejection":     func(w *world, p *wstest.Peer) { w.answer("ack 2 -a"); flood(p, 9); w.wantWritten() },
		"other topic":   func(w *world, p *wstest.Peer) { w.answer("ack 0 +b"); w.answer("b:2"); flood(p, 9); w.wantWritten() },
		"ack":           func(w *world, p *wstest.Peer) { w.answer("ack 2"); flood(p, 500); w.wantWritten("=a") },
		"ack, naming":   func(w *world, p *wstest.Peer) { w.answer("ack 2 +a"); flood(p, 500); w.wantWritten("=a") },
		"ack, by topic": func(w *world, p *wstest.Peer) { w.answer("ack 0 +a"); flood(p, 500); w.wantWritten("=a") },
		"valid data":    func(w *world, p *wstest.Peer) { w.answer("a:2"); flood(p, 500); w.wantWritten("=a") },
		"AckTimeout": func(w *world, p *wstest.Peer) {
			after(10*time.Second - 1)
			flood(p, 9)
			w.wantWritten()
			after(1)
			w.wantWritten("+a") // the request sameTopic, unanswered, is written once more
			flood(p, 500)
			w.wantWritten("=a")
		},
	} {
		t.Log(name)
		var d hookLog
		bubble(t, wsshard.Config{}, newInOrder(&d, wsshard.SequenceDropMessage, sameTopic), func(w *world) { play(w, start(w)) })
	}
}

// The time that a handler takes for the messages in flight counts for nothing.
func TestNoResubscriptionStormFromSlowHandler(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{AckTimeout: time.Second}}
	bubble(t, cfg, newInOrder(&d, wsshard.SequenceContinue, sameTopic), func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		w.wantWritten("+a")
		w.answer("a:1")
		w.app.message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { time.Sleep(time.Minute) }
		flood(w.srv.Conn(0), 10)
		w.srv.Conn(0).Send("ack 2")
		after(11*time.Minute + time.Second)
		w.wantWritten("=a")
	})
}

// A connection begins with ResetSequenceState, before its first message and after the last one's last.
func TestResetSequenceState(t *testing.T) {
	var d hookLog
	bubble(t, wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}}, newInOrder(&d, wsshard.SequenceDropMessage, noTopic), func(w *world) {
		w.srv.OnOpen(func(p *wstest.Peer) { p.Send(fmt.Sprintf("a:%d", 100*(p.Index()+1))) }) // faster than any reset
		w.launch("a")
		w.answer("ack 1")
		d.want(t, "reset 1", "a:100", "ack 1")
		w.srv.Conn(0).Kill()
		after(200 * time.Millisecond)
		w.answer("ack 2")
		d.want(t, "reset 2", "a:200", "ack 2")
		done := make(chan error)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		w.srv.Conn(1).Send("a:201")
		after(time.Second)
		d.want(t, "a:201")
		w.answer("ack 3")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.answer("a:301")
		d.want(t, "reset 3", "a:300", "ack 3", "a:301")
		if n := w.m.Metrics().SequenceDrops; n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

// What a new connection holds passes the validator at the cutover. A gap among it that asks for a reconnect ends delivery
// there, as it does at any other time.
func TestSequenceReconnectAmongHeld(t *testing.T) {
	var d hookLog
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{DisableJitter: true}}
	bubble(t, cfg, newInOrder(&d, wsshard.SequenceReconnect, noTopic), func(w *world) {
		w.launch("a")
		w.answer("ack 1")
		done := make(chan error)
		go func() { done <- w.m.HotSwitchover(context.Background(), 0) }()
		after(time.Second)
		for _, n := range []int{5, 7, 8, 5} {
			w.answer(fmt.Sprint("a:", n))
		}
		w.answer("ack 2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		d.want(t, "reset 1", "ack 1", "reset 2", "a:5", "reset 3")
		w.wantCauses(wsshard.ErrReplaced, wsshard.ErrSequenceGap)
	})
}
