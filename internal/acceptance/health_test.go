package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

const off = time.Duration(-1)

// wantSick checks what a connection was found sick of first, counted from begin: the trigger of a switchover, or the cause
// of a disconnection. "": of nothing so far.
func (w *world) wantSick(begin time.Time, want string, when time.Duration) {
	w.t.Helper()
	what, at := "", time.Duration(0)
	for _, ev := range w.app.takeEvents(wsshard.EventSwitchoverStarted, wsshard.EventDisconnected) {
		if what == "" {
			what, at = fmt.Sprint(ev.Err), ev.Time.Sub(begin)
			if ev.Switchover != nil {
				what = ev.Switchover.Trigger
			}
		}
	}
	if what != want || at != when {
		w.t.Errorf("found %q after %v, want %q after %v", what, at, want, when)
	}
}

// each calls f at once and then at each interval, while time passes up to limit.
func each(interval, limit time.Duration, f func()) {
	for end := time.Now().Add(limit); time.Now().Before(end); after(interval) {
		f()
	}
}

// trickle begins a message and sends a byte of it each second.
func trickle(p *wstest.Peer, limit time.Duration) {
	p.Net().Write([]byte{0x81, 126, 1000 >> 8, 1000 & 0xff}) // text of 1,000 bytes
	each(time.Second, limit, func() { p.Net().Write([]byte{'x'}) })
}

func TestHalfOpen(t *testing.T) {
	for threshold, want := range map[int]time.Duration{1: 30 * time.Second, 3: 70 * time.Second} {
		cfg := wsshard.Config{Health: wsshard.HealthConfig{FailureThreshold: threshold, DataTimeout: off}}
		bubble(t, cfg, nil, func(w *world) {
			w.start("a")
			after(20 * time.Second)
			begin := time.Now() // of the last pong
			w.net.Conns()[0].BlackHole(true)
			after(10 * time.Minute)
			w.wantSick(begin, "pong-timeout", want) // interval and timeout; two intervals more for the others
			w.wantCauses(wsshard.ErrReplaced)
			if m := w.m.Metrics(); m.HealthFailures != uint64(threshold) || m.HotSwitchovers != 1 {
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
		h := wsshard.HealthConfig{PingInterval: off, PongTimeout: off, FailureThreshold: -1, DataTimeout: off, MessageTimeout: off}
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
		check := func(fault string, play func(w *world), want string, when time.Duration) {
			cfg := wsshard.Config{Health: h, Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off}}
			t.Logf("%05b %s", on, fault)
			bubble(t, cfg, nil, func(w *world) {
				w.start("a")
				begin := time.Now()
				w.topics.Publish("a", "1")
				play(w)
				w.wantSick(begin, want, when)
				if n := w.srv.Conn(0).Pings(); n == 0 == has(pings) {
					t.Errorf("%d pings", n)
				}
			})
		}
		const long = 5 * time.Minute
		check("healthy", func(w *world) { each(20*time.Second, long, func() { w.topics.Publish("a", "x") }) }, "", 0)

		halfOpen := func(w *world) { after(time.Second); w.net.Conns()[0].StallRead(true); after(long) }
		silent := func(*world) { after(long) }
		trickled := func(w *world) { trickle(w.srv.Conn(0), long) }
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
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		begin := time.Now()
		after(31 * time.Second)
		w.wantSick(begin, wsshard.ErrDataTimeout.Error(), 30*time.Second)
		w.wantCauses(wsshard.ErrDataTimeout)
		w.wantTopics("a")
		if at := w.net.DialTimes()[1].Sub(begin); at != 30*time.Second+100*time.Millisecond {
			t.Errorf("dialled again after %v", at)
		}
		if code := w.srv.Conn(0).CloseCode(); code != 1000 {
			t.Errorf("close code %d", code)
		}
	})
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		begin := time.Now()
		w.srv.Conn(0).Silent(true)
		after(10 * time.Second)
		w.topics.Publish("a", "1")
		after(21 * time.Second)
		w.wantSick(begin, wsshard.ErrPongTimeout.Error(), 30*time.Second)
		w.wantCauses(wsshard.ErrPongTimeout)
		w.wantTopics("a")
	})
}

// A message that takes too long costs the connection, and never a switchover: the rest of it will not come.
func TestTrickledMessage(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.start("a")
		begin := time.Now()
		trickle(w.srv.Conn(0), 40*time.Second)
		w.wantSick(begin, wsshard.ErrMessageTimeout.Error(), 30*time.Second)
		w.wantCauses(wsshard.ErrMessageTimeout)
		w.wantTopics("a")
	})
}

// Each message of a slow link ends in time, though all of them together are never at rest.
func TestMessageTimeoutIsForEach(t *testing.T) {
	cfg := wsshard.Config{Health: wsshard.HealthConfig{MessageTimeout: 25 * time.Second, PingInterval: off}}
	bubble(t, cfg, nil, func(w *world) {
		w.start("a")
		begin := time.Now()
		frame := []byte{0x81, 4, 'a', ':', 'x', 'y'}
		raw := w.srv.Conn(0).Net()
		raw.Write(frame[:3])
		for range 20 { // the end of one and the beginning of the next come together
			after(20 * time.Second)
			raw.Write(append(append([]byte(nil), frame[3:]...), frame[:3]...))
		}
		w.wantSick(begin, "", 0)
		after(time.Minute)
		w.wantSick(begin, wsshard.ErrMessageTimeout.Error(), 425*time.Second)
	})
}

// What is no data does not feed the data timeout, whatever says so.
func TestDataTimeoutCountsDataOnly(t *testing.T) {
	for name, c := range map[string]struct {
		handler func(a *app) wsshard.Handler[string]
		send    func(w *world, p *wstest.Peer)
	}{
		"pings":      {nil, func(_ *world, p *wstest.Peer) { p.Ping("x") }},
		"text pongs": {nil, func(_ *world, p *wstest.Peer) { p.Send("PONG") }},
		"heartbeats": {func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				heartbeats
			}{a, isText("h")}
		}, func(_ *world, p *wstest.Peer) { p.Send("h") }},
		"IsDataMessage": {func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				detectsData
			}{a, func(m wsshard.Message) bool { return m.String() != "n" }}
		}, func(_ *world, p *wstest.Peer) { p.Send("n") }},
		"Inspect": {func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				inspects
			}{a, func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
				return wsshard.Verdict[string]{NoData: m.String() == "n", Heartbeat: m.String() == "h"}
			}}
		}, func(_ *world, p *wstest.Peer) { p.Send("h"); p.Send("n") }},
		"acks": {func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				acknowledges
			}{a, acksOfTopics}
		}, func(w *world, _ *wstest.Peer) { w.subscribe(fmt.Sprint("b", w.m.TotalSubscriptions())) }}, // each is answered, once
	} {
		t.Log(name)
		cfg := wsshard.Config{Health: wsshard.HealthConfig{TextPing: "PING"}}
		bubble(t, cfg, c.handler, func(w *world) {
			w.topics.Ack(true)
			w.start("a")
			p := w.srv.Conn(0)
			each(time.Second, 10*time.Second, func() { c.send(w, p) })
			last := time.Now()
			w.topics.Publish("a", "1")
			each(time.Second, time.Minute, func() { c.send(w, p) })
			w.wantSick(last, "data-timeout", 30*time.Second)
		})
	}
}

// Nothing is expected of a connection that carries no topic.
func TestDataTimeoutNeedsTopic(t *testing.T) {
	bubble(t, wsshard.Config{Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off}}, nil, func(w *world) {
		w.start()
		after(time.Hour)
		w.wantSick(time.Now(), "", 0)
		w.subscribe("a")
		after(29 * time.Second)
		w.m.Unsubscribe("a")
		after(time.Hour)
		w.wantSick(time.Now(), "", 0)
		w.subscribe("b")
		begin := time.Now()
		after(time.Minute)
		w.wantSick(begin, "data-timeout", 30*time.Second)
	})
}

// Any frame after a ping says that the peer lives, whether or not pongs come.
func TestAnyFrameIsLife(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: off, MessageTimeout: off},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
	}
	for name, send := range map[string]func(w *world, p *wstest.Peer){
		"data":  func(w *world, p *wstest.Peer) { w.topics.Publish("a", "1") },
		"ping":  func(w *world, p *wstest.Peer) { p.Ping("x") },
		"bytes": func(w *world, p *wstest.Peer) { p.Net().Write([]byte{0x89}[:1]); p.Net().Write([]byte{0}) },
	} {
		t.Log(name)
		bubble(t, cfg, nil, func(w *world) {
			w.start("a")
			p := w.srv.Conn(0)
			p.Silent(true)
			each(9*time.Second, time.Hour, func() { send(w, p) })
			w.wantSick(time.Now(), "", 0)
			after(15 * time.Second)
			after(45 * time.Second)
			if evs := w.app.takeEvents(wsshard.EventSwitchoverStarted); len(evs) == 0 {
				t.Error("a silent peer was not found out")
			}
		})
	}
}

// On a link so slow that every pong is late none is in time, and nobody is dead.
func TestLatePongs(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{DataTimeout: off},
		Connection: wsshard.ConnectionConfig{ConnectTimeout: time.Minute, ProactiveReconnectInterval: off},
	}
	bubble(t, cfg, nil, func(w *world) {
		w.net.SetLatency(6 * time.Second)
		w.start("a")
		after(time.Hour)
		w.wantSick(time.Now(), "", 0)
		if n := w.m.Metrics().HealthFailures; n < 170 {
			t.Errorf("%d pongs were missed", n)
		}
	})
}
