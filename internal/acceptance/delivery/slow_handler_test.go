package delivery

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: is a handler that takes its time harmed, or taken for a dead peer?

// slowApp has every hook, and takes a minute in one of them, each third time.
type slowApp struct {
	*harness.App
	in func(hook string)
}

func newSlowApp(a *harness.App, which string, slept *atomic.Int64) slowApp {
	var asked atomic.Int64
	in := func(hook string) {
		if hook == which && asked.Add(1)%3 == 1 {
			slept.Add(1)
			time.Sleep(time.Minute)
		}
	}
	a.Message = func(context.Context, wsshard.Message, wsshard.ConnectionState) { in("OnMessage") }
	a.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
		in("OnConnect")
		return nil, nil
	}
	a.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
		in("encode " + sign)
		return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
	}
	return slowApp{a, in}
}

func (s slowApp) IsHeartbeat(m wsshard.Message) bool {
	s.in("IsHeartbeat")
	return m.String() == "PONG"
}
func (s slowApp) IsDataMessage(wsshard.Message) bool { s.in("IsDataMessage"); return true }
func (s slowApp) Acknowledge(m wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	s.in("Acknowledge")
	return harness.AcksOfTopics(m, st)
}
func (s slowApp) IsReady(wsshard.Message, wsshard.ConnectionState) bool { s.in("IsReady"); return true }
func (s slowApp) ValidateSequence(wsshard.Message, wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	s.in("ValidateSequence")
	return v
}
func (s slowApp) ResetSequenceState(wsshard.ConnectionState) {}
func (s slowApp) PingMessage(wsshard.ConnectionState) wsshard.Message {
	s.in("PingMessage")
	return wsshard.Text("PING")
}
func (s slowApp) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return s.Request("=", req)
}
func (s slowApp) OnEvent(ev wsshard.Event[string]) {
	s.in("OnEvent")
	s.App.OnEvent(ev)
}

type slowInspector struct{ slowApp }

func (s slowInspector) Inspect(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
	s.in("Inspect")
	return wsshard.Verdict[string]{Heartbeat: m.String() == "PONG"}
}

// A handler that blocks for a minute now and then, in whatever callback, is no dead peer: its time counts for no deadline.
func TestSlowHandler(t *testing.T) {
	for _, which := range []string{
		"OnMessage", "Inspect", "IsHeartbeat", "IsDataMessage", "Acknowledge", "IsReady", "ValidateSequence", "OnEvent",
		"encode +", "encode -", "encode =", "PingMessage", "OnConnect",
	} {
		t.Log(which)
		var slept atomic.Int64
		cfg := wsshard.Config{
			Health:     wsshard.HealthConfig{FailureThreshold: 1, PongTimeout: 5 * time.Second},
			Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
		}
		handler := func(a *harness.App) wsshard.Handler[string] {
			s := newSlowApp(a, which, &slept)
			if which == "Inspect" {
				return slowInspector{s}
			}
			return s
		}
		harness.Bubble(t, cfg, handler, func(w *harness.World) {
			w.Topics.Ack(true)
			w.Subscribe("a")
			if err := w.M.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			p, pongs := w.Srv.Conn(0), 0
			for n := range 900 { // a healthy server: data each second, and an answer to each ping
				w.Topics.Publish("a", fmt.Sprint(n))
				for _, got := range p.Got() {
					if got == "PING" {
						p.Send("PONG")
						pongs++
					}
				}
				if n%60 == 30 {
					w.M.Resubscribe("a")
					w.M.Unsubscribe(fmt.Sprint("b", n-60))
					w.Subscribe(fmt.Sprint("b", n))
				}
				harness.After(time.Second)
			}
			for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected, wsshard.EventSubscriptionRejected) {
				t.Errorf("%v: %v %v %+v", ev.Kind, ev.Err, ev.Subs, ev.Switchover)
			}
			m := w.M.Metrics()
			if m.HealthFailures != 0 || m.SubscriptionsRejected != 0 || pongs == 0 {
				t.Errorf("%d health failures, %d rejected, %d pings answered", m.HealthFailures, m.SubscriptionsRejected, pongs)
			}
			if slept.Load() == 0 {
				t.Errorf("nothing was slow")
			}
			if errs := w.Topics.Errors(); len(errs) > 0 {
				t.Errorf("%q", errs)
			}
		})
	}
}
