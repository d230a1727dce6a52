package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// wantRTT checks the round-trip time that shard 0 measured.
func (w *world) wantRTT(want time.Duration) {
	w.t.Helper()
	if got := w.m.Metrics().Shards[0].RTT; got != want {
		w.t.Errorf("round trip %v, want %v", got, want)
	}
}

// framesOf returns when the server received frames of a kind, counted from begin.
func framesOf(p *wstest.Peer, kind string, begin time.Time) (at []time.Duration) {
	for _, f := range p.FrameLog() {
		if f.Kind == kind {
			at = append(at, f.At.Sub(begin))
		}
	}
	return at
}

// However a ping looks, it leaves at each interval and its answer gives the round-trip time.
func TestPings(t *testing.T) {
	ping := pingsWith(func(st wsshard.ConnectionState) wsshard.Message {
		return wsshard.Text(fmt.Sprintf("{%d %d}", st.ShardID, st.Generation))
	})
	for name, c := range map[string]struct {
		health  wsshard.HealthConfig
		handler func(a *app) wsshard.Handler[string]
		written string // "": a frame
		answer  string
	}{
		"frames":   {},
		"text":     {health: wsshard.HealthConfig{TextPing: "ping", TextPong: "pong"}, written: "ping", answer: "pong"},
		"defaults": {health: wsshard.HealthConfig{TextPing: "PING"}, written: "PING", answer: "PONG"},
		"PingMessenger and HeartbeatDetector": {handler: func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				pingsWith
				heartbeats
			}{a, ping, isText("beat")}
		}, written: "{0 1}", answer: "beat"},
		"PingMessenger and Inspector": {handler: func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				pingsWith
				inspects
			}{a, ping, func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
				return wsshard.Verdict[string]{Heartbeat: m.String() == "beat"}
			}}
		}, written: "{0 1}", answer: "beat"},
	} {
		t.Log(name)
		c.health.FailureThreshold = 1
		c.health.DataTimeout = off
		bubble(t, wsshard.Config{Health: c.health}, c.handler, func(w *world) {
			w.net.SetLatency(30 * time.Millisecond)
			if c.written != "" {
				w.srv.Handle(func(p *wstest.Peer, _ int, data []byte) {
					if string(data) == c.written {
						p.Send(c.answer)
					}
				})
			}
			w.start("a")
			begin := time.Now()
			w.wantRTT(0)
			after(20*time.Second + 59*time.Millisecond)
			w.wantRTT(0)
			after(time.Millisecond)
			w.wantRTT(60 * time.Millisecond)
			after(9 * time.Minute)
			kind := wstest.KindPing
			if c.written != "" {
				kind = wstest.KindData
			}
			pings := framesOf(w.srv.Conn(0), kind, begin)
			if kind == wstest.KindData {
				pings = pings[1:] // the subscription
			}
			for i, at := range pings {
				if want := time.Duration(i+1)*20*time.Second + 30*time.Millisecond; at != want {
					t.Errorf("ping %d came after %v, want %v", i, at, want)
				}
			}
			m := w.m.Metrics()
			if len(pings) != 28 || m.PingsSent != 28 || m.PongsReceived != 28 || m.HealthFailures != 0 {
				t.Errorf("%d pings, metrics say %d pings, %d pongs, %d failures", len(pings), m.PingsSent, m.PongsReceived, m.HealthFailures)
			}
			w.wantGot() // answers are nobody's business
		})
	}
}

// A pong frame measures the ping whose payload it carries, and no other.
func TestPongOfAnotherPing(t *testing.T) {
	bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: off}}, nil, func(w *world) {
		w.start("a")
		p := w.srv.Conn(0)
		p.Silent(true)
		after(21 * time.Second)
		pong := func(payload string) { p.Net().Write(append([]byte{0x8A, byte(len(payload))}, payload...)) }
		pong("")
		pong("7")
		after(time.Second)
		w.wantRTT(0)
		pong("1")
		after(time.Second)
		w.wantRTT(2 * time.Second)
		pong("1") // once more
		after(time.Second)
		w.wantRTT(2 * time.Second)
	})
}

// A next connection has measured nothing yet.
func TestRTTIsTheConnections(t *testing.T) {
	bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: off}}, nil, func(w *world) {
		w.net.SetLatency(10 * time.Millisecond)
		w.start("a")
		after(25 * time.Second)
		w.wantRTT(20 * time.Millisecond)
		w.m.Reconnect(0)
		after(time.Second)
		w.wantRTT(0)
	})
}

// Without something to send there is no ping, and none is missed.
func TestPingMessengerWithoutMessage(t *testing.T) {
	for name, ping := range map[string]func(wsshard.ConnectionState) wsshard.Message{
		"nothing": func(wsshard.ConnectionState) (m wsshard.Message) { return m },
		"invalid": func(wsshard.ConnectionState) wsshard.Message { return wsshard.Text("\xff") },
		"panic":   func(wsshard.ConnectionState) wsshard.Message { panic("ping") },
	} {
		t.Log(name)
		cfg := wsshard.Config{
			Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: off},
			Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
		}
		bubble(t, cfg, func(a *app) wsshard.Handler[string] {
			return struct {
				*app
				pingsWith
			}{a, ping}
		}, func(w *world) {
			w.start("a")
			w.wantWritten("+a")
			after(time.Hour)
			w.wantWritten()
			w.wantSick(time.Now(), "", 0)
			if m := w.m.Metrics(); m.PingsSent != 0 || m.HandlerPanics > 180 {
				t.Errorf("%d pings, %d panics", m.PingsSent, m.HandlerPanics)
			}
		})
	}
}

// The pace holds back pings too, and a ping that waits costs nothing meanwhile.
func TestPingsWaitForPace(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: off},
		Subscribe:  wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Minute},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
	}
	bubble(t, cfg, nil, func(w *world) {
		w.start("a") // one message in 66 s is ours, the other's place is kept
		begin := time.Now()
		after(10 * time.Minute)
		want := []time.Duration{}
		for at := 66 * time.Second; at < 10*time.Minute; at += 66 * time.Second {
			want = append(want, at)
		}
		if got := framesOf(w.srv.Conn(0), wstest.KindPing, begin); !slices.Equal(got, want) {
			t.Errorf("pings after %v, want %v", got, want)
		}
		w.wantSick(begin, "", 0)
	})
}

// A server's pings are answered: of those that wait the first sixteen one by one, and then the newest. A flood of them costs few
// pongs.
func TestPongs(t *testing.T) {
	bubble(t, wsshard.Config{Health: wsshard.HealthConfig{PingInterval: off, DataTimeout: off}}, nil, func(w *world) {
		w.start("a")
		p := w.srv.Conn(0)
		p.Ping("one")
		after(time.Second)
		for n := range 1000 {
			p.Ping(fmt.Sprint(n))
			after(time.Millisecond)
		}
		after(time.Second)
		var pongs []string
		for _, f := range p.FrameLog() {
			if f.Kind == wstest.KindPong {
				pongs = append(pongs, f.Text)
			}
		}
		want := []string{"one"}
		for n := range 17 {
			want = append(want, fmt.Sprint(n))
		}
		if want = append(want, "999"); !slices.Equal(pongs, want) {
			t.Errorf("pongs: %s", strings.Join(pongs, " "))
		}
	})
}

// Pings that come together are answered together and in order, as far as the pace has room: its reserve is theirs alone.
func TestPingsThatComeTogether(t *testing.T) {
	for name, c := range map[string]struct {
		sent  int
		limit int           // messages per second
		took  time.Duration // for all pongs
	}{
		"sixteen":                 {16, 0, 0},
		"seventeen":               {17, 0, 100 * ms},
		"a hundred":               {100, 0, 100 * ms},
		"within the pace":         {16, 8, 2 * 1100 * ms},
		"in the reserve, and one": {5, 2, 4 * 1100 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{Health: wsshard.HealthConfig{PingInterval: off, DataTimeout: off}}
			cfg.Subscribe.MessagesPerWindow = c.limit
			bubble(t, cfg, nil, func(w *world) {
				w.start("a")
				after(time.Minute)
				p, begin := w.srv.Conn(0), time.Now()
				var want, got []string
				for n := range c.sent {
					p.Ping(fmt.Sprint(n))
					if n < 16 || n == c.sent-1 {
						want = append(want, fmt.Sprint(n))
					}
				}
				after(10 * time.Second)
				var last time.Time
				for _, f := range p.FrameLog() {
					if f.Kind == wstest.KindPong {
						got, last = append(got, f.Text), f.At
					}
				}
				if took := last.Sub(begin); !slices.Equal(got, want) || took > c.took {
					t.Errorf("pongs %v, the last after %v; want %v within %v", got, took, want, c.took)
				}
			})
		})
	}
}

// A PingMessenger's text answer can be named like that to a TextPing: it is a pong, and goes no further.
func TestPingMessengerWithTextPong(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: off, TextPong: "pong"},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: off},
	}
	bubble(t, cfg, func(a *app) wsshard.Handler[string] {
		return struct {
			*app
			pingsWith
		}{a, func(wsshard.ConnectionState) wsshard.Message { return wsshard.Text("ping?") }}
	}, func(w *world) {
		w.srv.Handle(func(p *wstest.Peer, _ int, data []byte) {
			if string(data) == "ping?" {
				p.Send("pong")
			}
		})
		w.start("a")
		after(time.Hour)
		w.wantGot()
		if m := w.m.Metrics(); m.PingsSent != 180 || m.PongsReceived != 180 || m.HealthFailures != 0 {
			t.Errorf("%d pings, %d pongs, %d health failures", m.PingsSent, m.PongsReceived, m.HealthFailures)
		}
	})
}
