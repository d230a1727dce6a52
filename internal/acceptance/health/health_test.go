package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: when is a connection sick?

// wantSick checks what a connection was found sick of first, counted from begin: the trigger of a switchover, or the cause
// of a disconnection. "": of nothing so far.
func wantSick(w *harness.World, begin time.Time, want string, when time.Duration) {
	w.T.Helper()
	what, at := "", time.Duration(0)
	for _, ev := range w.App.TakeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected) {
		if what == "" {
			what, at = fmt.Sprint(ev.Err), ev.Time.Sub(begin)
			if ev.Switchover != nil {
				what = ev.Switchover.Trigger
			}
		}
	}
	if what != want || at != when {
		w.T.Errorf("found %q after %v, want %q after %v", what, at, want, when)
	}
}

// trickle begins a message and sends a byte of it each second.
func trickle(p *wstest.Peer, limit time.Duration) {
	p.Net().Write([]byte{0x81, 126, 1000 >> 8, 1000 & 0xff}) // text of 1,000 bytes
	harness.Each(time.Second, limit, func() { p.Net().Write([]byte{'x'}) })
}

func TestHalfOpen(t *testing.T) {
	for threshold, want := range map[int]time.Duration{1: 30 * time.Second, 3: 70 * time.Second} {
		cfg := wsshard.Config{Health: wsshard.HealthConfig{FailureThreshold: threshold, DataTimeout: harness.Off}}
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.Start("a")
			harness.After(20 * time.Second)
			begin := time.Now() // of the last pong
			w.Net.Conns()[0].BlackHole(true)
			harness.After(10 * time.Minute)
			wantSick(w, begin, "pong-timeout", want) // interval and timeout; two intervals more for the others
			w.WantCauses(wsshard.ErrReplaced)
			if m := w.M.Metrics(); m.HealthFailures != uint64(threshold) || m.HotSwitchovers != 1 {
				t.Errorf("%d health failures, %d switchovers", m.HealthFailures, m.HotSwitchovers)
			}
		})
	}
}

// Each check alone, each off, and all combinations, against each fault: what is on sees what it is there for, at the exact
// instant, and nothing else.
func TestHealthTable(t *testing.T) {
	const pings, pongs, judged, data, message = 1, 2, 4, 8, 16
	for on := range 32 {
		has := func(what int) bool { return on&what == what }
		h := wsshard.HealthConfig{PingInterval: harness.Off, PongTimeout: harness.Off, FailureThreshold: -1, DataTimeout: harness.Off, MessageTimeout: harness.Off}
		if has(pings) {
			h.PingInterval = 20 * time.Second
		}
		if has(pongs) {
			h.PongTimeout = 10 * time.Second
		}
		if has(judged) {
			h.FailureThreshold = 2
		}
		if has(data) {
			h.DataTimeout = 70 * time.Second
		}
		if has(message) {
			h.MessageTimeout = 45 * time.Second
		}
		check := func(fault string, play func(w *harness.World), want string, when time.Duration) {
			cfg := wsshard.Config{Health: h, Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off}}
			t.Logf("%05b %s", on, fault)
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Start("a")
				begin := time.Now()
				w.Topics.Publish("a", "1")
				play(w)
				wantSick(w, begin, want, when)
				if n := w.Srv.Conn(0).Pings(); n == 0 == has(pings) {
					t.Errorf("%d pings", n)
				}
			})
		}
		const long = 5 * time.Minute
		check("healthy", func(w *harness.World) { harness.Each(20*time.Second, long, func() { w.Topics.Publish("a", "x") }) }, "", 0)

		halfOpen := func(w *harness.World) {
			harness.After(time.Second)
			w.Net.Conns()[0].StallRead(true)
			harness.After(long)
		}
		silent := func(*harness.World) { harness.After(long) }
		trickled := func(w *harness.World) { trickle(w.Srv.Conn(0), long) }
		switch {
		case has(pings | pongs | judged):
			check("half-open", halfOpen, "pong-timeout", 50*time.Second) // of the pings at 20 s and 40 s
		case has(data):
			check("half-open", halfOpen, "data-timeout", 70*time.Second)
		default:
			check("half-open", halfOpen, "", 0)
		}
		switch {
		case has(data):
			check("silent", silent, "data-timeout", 70*time.Second)
		default:
			check("silent", silent, "", 0)
		}
		switch {
		case has(message):
			check("trickled", trickled, wsshard.ErrMessageTimeout.Error(), 45*time.Second)
		case has(data):
			check("trickled", trickled, "data-timeout", 70*time.Second)
		default:
			check("trickled", trickled, "", 0)
		}
	}
}

// With switchovers disabled a sick connection is closed and remade, at the same instants.
func TestSickReconnects(t *testing.T) {
	cfg := wsshard.Config{DisableHotSwitchover: true, Health: wsshard.HealthConfig{FailureThreshold: 1}, Backoff: wsshard.BackoffConfig{DisableJitter: true}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		harness.After(31 * time.Second)
		wantSick(w, begin, wsshard.ErrDataTimeout.Error(), 30*time.Second)
		w.WantCauses(wsshard.ErrDataTimeout)
		w.WantTopics("a")
		if at := w.Net.DialTimes()[1].Sub(begin); at != 30*time.Second+100*time.Millisecond {
			t.Errorf("dialled again after %v", at)
		}
		if code := w.Srv.Conn(0).CloseCode(); code != 1000 {
			t.Errorf("close code %d", code)
		}
	})
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		w.Srv.Conn(0).Silent(true)
		harness.After(10 * time.Second)
		w.Topics.Publish("a", "1")
		harness.After(21 * time.Second)
		wantSick(w, begin, wsshard.ErrPongTimeout.Error(), 30*time.Second)
		w.WantCauses(wsshard.ErrPongTimeout)
		w.WantTopics("a")
	})
}

// A message that takes too long costs the connection, and never a switchover: the rest of it will not come.
func TestTrickledMessage(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		trickle(w.Srv.Conn(0), 40*time.Second)
		wantSick(w, begin, wsshard.ErrMessageTimeout.Error(), 30*time.Second)
		w.WantCauses(wsshard.ErrMessageTimeout)
		w.WantTopics("a")
	})
}

// Each message of a slow link ends in time, though all of them together are never at rest.
func TestMessageTimeoutIsForEach(t *testing.T) {
	cfg := wsshard.Config{Health: wsshard.HealthConfig{MessageTimeout: 25 * time.Second, PingInterval: harness.Off}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		begin := time.Now()
		frame := []byte{0x81, 4, 'a', ':', 'x', 'y'}
		raw := w.Srv.Conn(0).Net()
		raw.Write(frame[:3])
		for range 20 { // the end of one and the beginning of the next come together
			harness.After(20 * time.Second)
			raw.Write(append(append([]byte(nil), frame[3:]...), frame[:3]...))
		}
		wantSick(w, begin, "", 0)
		harness.After(time.Minute)
		wantSick(w, begin, wsshard.ErrMessageTimeout.Error(), 425*time.Second)
	})
}

// What is no data does not feed the data timeout, whatever says so.
func TestDataTimeoutCountsDataOnly(t *testing.T) {
	for name, c := range map[string]struct {
		handler func(a *harness.App) wsshard.Handler[string]
		send    func(w *harness.World, p *wstest.Peer)
	}{
		"pings":      {nil, func(_ *harness.World, p *wstest.Peer) { p.Ping("x") }},
		"text pongs": {nil, func(_ *harness.World, p *wstest.Peer) { p.Send("PONG") }},
		"heartbeats": {func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.Heartbeats
			}{a, harness.IsText("h")}
		}, func(_ *harness.World, p *wstest.Peer) { p.Send("h") }},
		"IsDataMessage": {func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.DetectsData
			}{a, func(m wsshard.Message) bool { return m.String() != "n" }}
		}, func(_ *harness.World, p *wstest.Peer) { p.Send("n") }},
		"Inspect": {func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.Inspects
			}{a, func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
				return wsshard.Verdict[string]{NoData: m.String() == "n", Heartbeat: m.String() == "h"}
			}}
		}, func(_ *harness.World, p *wstest.Peer) { p.Send("h"); p.Send("n") }},
		"acks": {func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.Acknowledges
			}{a, harness.AcksOfTopics}
		}, func(w *harness.World, _ *wstest.Peer) { w.Subscribe(fmt.Sprint("b", w.M.TotalSubscriptions())) }}, // each is answered, once
	} {
		t.Log(name)
		cfg := wsshard.Config{Health: wsshard.HealthConfig{TextPing: "PING"}}
		harness.Bubble(t, cfg, c.handler, func(w *harness.World) {
			w.Topics.Ack(true)
			w.Start("a")
			p := w.Srv.Conn(0)
			harness.Each(time.Second, 10*time.Second, func() { c.send(w, p) })
			last := time.Now()
			w.Topics.Publish("a", "1")
			harness.Each(time.Second, time.Minute, func() { c.send(w, p) })
			wantSick(w, last, "data-timeout", 30*time.Second)
		})
	}
}

// Nothing is expected of a connection that carries no topic.
func TestDataTimeoutNeedsTopic(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off}}, nil, func(w *harness.World) {
		w.Start()
		harness.After(time.Hour)
		wantSick(w, time.Now(), "", 0)
		w.Subscribe("a")
		harness.After(29 * time.Second)
		w.M.Unsubscribe("a")
		harness.After(time.Hour)
		wantSick(w, time.Now(), "", 0)
		w.Subscribe("b")
		begin := time.Now()
		harness.After(time.Minute)
		wantSick(w, begin, "data-timeout", 30*time.Second)
	})
}

// Any frame after a ping says that the peer lives, whether or not pongs come.
func TestAnyFrameIsLife(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: harness.Off, MessageTimeout: harness.Off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
	}
	for name, send := range map[string]func(w *harness.World, p *wstest.Peer){
		"data":  func(w *harness.World, p *wstest.Peer) { w.Topics.Publish("a", "1") },
		"ping":  func(w *harness.World, p *wstest.Peer) { p.Ping("x") },
		"bytes": func(w *harness.World, p *wstest.Peer) { p.Net().Write([]byte{0x89}[:1]); p.Net().Write([]byte{0}) },
	} {
		t.Log(name)
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			w.Start("a")
			p := w.Srv.Conn(0)
			p.Silent(true)
			harness.Each(9*time.Second, time.Hour, func() { send(w, p) })
			wantSick(w, time.Now(), "", 0)
			harness.After(15 * time.Second)
			harness.After(45 * time.Second)
			if evs := w.App.TakeEvents(wsshard.EventSwitchoverStarted); len(evs) == 0 {
				t.Error("a silent peer was not found out")
			}
		})
	}
}

// On a link so slow that every pong is late none is in time, and nobody is dead.
func TestLatePongs(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{DataTimeout: harness.Off},
		Connection: wsshard.ConnectionConfig{ConnectTimeout: time.Minute, ProactiveReconnectInterval: harness.Off},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetLatency(6 * time.Second)
		w.Start("a")
		harness.After(time.Hour)
		wantSick(w, time.Now(), "", 0)
		if n := w.M.Metrics().HealthFailures; n < 170 {
			t.Errorf("%d pongs were missed", n)
		}
	})
}
