package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: when is a ping sent, and what is made of a pong?

// wantRTT checks the round-trip time that shard 0 measured.
func wantRTT(w *harness.World, want time.Duration) {
	w.T.Helper()
	if got := w.M.Metrics().Shards[0].RTT; got != want {
		w.T.Errorf("round trip %v, want %v", got, want)
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
	ping := harness.PingsWith(func(st wsshard.ConnectionState) wsshard.Message {
		return wsshard.Text(fmt.Sprintf("{%d %d}", st.ShardID, st.Generation))
	})
	for name, c := range map[string]struct {
		health  wsshard.HealthConfig
		handler func(a *harness.App) wsshard.Handler[string]
		written string // "": a frame
		answer  string
	}{
		"frames":   {},
		"text":     {health: wsshard.HealthConfig{TextPing: "ping", TextPong: "pong"}, written: "ping", answer: "pong"},
		"defaults": {health: wsshard.HealthConfig{TextPing: "PING"}, written: "PING", answer: "PONG"},
		"PingMessenger and HeartbeatDetector": {handler: func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.PingsWith
				harness.Heartbeats
			}{a, ping, harness.IsText("beat")}
		}, written: "{0 1}", answer: "beat"},
		"PingMessenger and Inspector": {handler: func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.PingsWith
				harness.Inspects
			}{a, ping, func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
				return wsshard.Verdict[string]{Heartbeat: m.String() == "beat"}
			}}
		}, written: "{0 1}", answer: "beat"},
	} {
		t.Log(name)
		c.health.FailureThreshold = 1
		c.health.DataTimeout = harness.Off
		harness.Bubble(t, wsshard.Config{Health: c.health}, c.handler, func(w *harness.World) {
			w.Net.SetLatency(30 * time.Millisecond)
			if c.written != "" {
				w.Srv.Handle(func(p *wstest.Peer, _ int, data []byte) {
					if string(data) == c.written {
						p.Send(c.answer)
					}
				})
			}
			w.Start("a")
			begin := time.Now()
			wantRTT(w, 0)
			harness.After(20*time.Second + 59*time.Millisecond)
			wantRTT(w, 0)
			harness.After(time.Millisecond)
			wantRTT(w, 60*time.Millisecond)
			harness.After(9 * time.Minute)
			kind := wstest.KindPing
			if c.written != "" {
				kind = wstest.KindData
			}
			pings := framesOf(w.Srv.Conn(0), kind, begin)
			if kind == wstest.KindData {
				pings = pings[1:] // the subscription
			}
			for i, at := range pings {
				if want := time.Duration(i+1)*20*time.Second + 30*time.Millisecond; at != want {
					t.Errorf("ping %d came after %v, want %v", i, at, want)
				}
			}
			m := w.M.Metrics()
			if len(pings) != 28 || m.PingsSent != 28 || m.PongsReceived != 28 || m.HealthFailures != 0 {
				t.Errorf("%d pings, metrics say %d pings, %d pongs, %d failures", len(pings), m.PingsSent, m.PongsReceived, m.HealthFailures)
			}
			w.WantGot() // answers are nobody's business
		})
	}
}

// A pong frame measures the ping whose payload it carries, and no other.
func TestPongOfAnotherPing(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: harness.Off}}, nil, func(w *harness.World) {
		w.Start("a")
		p := w.Srv.Conn(0)
		p.Silent(true)
		harness.After(21 * time.Second)
		pong := func(payload string) { p.Net().Write(append([]byte{0x8A, byte(len(payload))}, payload...)) }
		pong("")
		pong("7")
		harness.After(time.Second)
		wantRTT(w, 0)
		pong("1")
		harness.After(time.Second)
		wantRTT(w, 2*time.Second)
		pong("1") // once more
		harness.After(time.Second)
		wantRTT(w, 2*time.Second)
	})
}

// A next connection has measured nothing yet.
func TestRTTIsTheConnections(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{DataTimeout: harness.Off}}, nil, func(w *harness.World) {
		w.Net.SetLatency(10 * time.Millisecond)
		w.Start("a")
		harness.After(25 * time.Second)
		wantRTT(w, 20*time.Millisecond)
		w.M.Reconnect(0)
		harness.After(time.Second)
		wantRTT(w, 0)
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
			Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: harness.Off},
			Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
		}
		harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.PingsWith
			}{a, ping}
		}, func(w *harness.World) {
			w.Start("a")
			w.WantWritten("+a")
			harness.After(time.Hour)
			w.WantWritten()
			wantSick(w, time.Now(), "", 0)
			if m := w.M.Metrics(); m.PingsSent != 0 || m.HandlerPanics > 180 {
				t.Errorf("%d pings, %d panics", m.PingsSent, m.HandlerPanics)
			}
		})
	}
}

// The pace holds back pings too, and a ping that waits costs nothing meanwhile.
func TestPingsWaitForPace(t *testing.T) {
	cfg := wsshard.Config{
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: harness.Off},
		Subscribe:  wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: time.Minute},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a") // one message in 61 s is ours, the other's place is kept
		begin := time.Now()
		harness.After(10 * time.Minute)
		want := []time.Duration{}
		for at := 61 * time.Second; at < 10*time.Minute; at += 61 * time.Second {
			want = append(want, at)
		}
		if got := framesOf(w.Srv.Conn(0), wstest.KindPing, begin); !slices.Equal(got, want) {
			t.Errorf("pings after %v, want %v", got, want)
		}
		wantSick(w, begin, "", 0)
	})
}

// A server's pings are answered: of those that wait the first sixteen one by one, and then the newest. A flood of them costs few
// pongs.
func TestPongs(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Health: wsshard.HealthConfig{PingInterval: harness.Off, DataTimeout: harness.Off}}, nil, func(w *harness.World) {
		w.Start("a")
		p := w.Srv.Conn(0)
		p.Ping("one")
		harness.After(time.Second)
		for n := range 1000 {
			p.Ping(fmt.Sprint(n))
			harness.After(time.Millisecond)
		}
		harness.After(time.Second)
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
		"seventeen":               {17, 0, 100 * time.Millisecond},
		"a hundred":               {100, 0, 100 * time.Millisecond},
		"within the pace":         {16, 8, 2 * 1100 * time.Millisecond},
		"in the reserve, and one": {5, 2, 4 * 1100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{Health: wsshard.HealthConfig{PingInterval: harness.Off, DataTimeout: harness.Off}}
			cfg.Subscribe.MessagesPerWindow = c.limit
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
					if req.Subs[0] == "keeps the write loop" { // while the pings come, so that they all wait
						time.Sleep(time.Second)
						return wsshard.Message{}, nil
					}
					return harness.AsTopics(sign, req)
				}
				w.Start("a")
				harness.After(time.Minute)
				w.Subscribe("keeps the write loop")
				harness.After(500 * time.Millisecond)
				p, begin := w.Srv.Conn(0), time.Now().Add(500*time.Millisecond)
				var want, got []string
				for n := range c.sent {
					p.Ping(fmt.Sprint(n))
					if n < 16 || n == c.sent-1 {
						want = append(want, fmt.Sprint(n))
					}
				}
				harness.After(10 * time.Second)
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
		Health:     wsshard.HealthConfig{FailureThreshold: 1, DataTimeout: harness.Off, TextPong: "pong"},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: harness.Off},
	}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
		return struct {
			*harness.App
			harness.PingsWith
		}{a, func(wsshard.ConnectionState) wsshard.Message { return wsshard.Text("ping?") }}
	}, func(w *harness.World) {
		w.Srv.Handle(func(p *wstest.Peer, _ int, data []byte) {
			if string(data) == "ping?" {
				p.Send("pong")
			}
		})
		w.Start("a")
		harness.After(time.Hour)
		w.WantGot()
		if m := w.M.Metrics(); m.PingsSent != 180 || m.PongsReceived != 180 || m.HealthFailures != 0 {
			t.Errorf("%d pings, %d pongs, %d health failures", m.PingsSent, m.PongsReceived, m.HealthFailures)
		}
	})
}

// A TextPing is answered by its pong in any case, unless TextPong says which.
func TestTextPongInAnyCase(t *testing.T) {
	for _, c := range []struct {
		ping, pong, answer string
		taken              bool
	}{
		{"ping", "", "pong", true}, {"PING", "", "PONG", true}, {"ping", "", "Pong", true},
		{"ping", "", "pong!", false}, {"ping", "", "ping", false}, {"ping", "", "", false},
		{"ping", "PONG", "pong", false}, {"ping", "PONG", "PONG", true}, {"", "", "pong", false},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Health = wsshard.HealthConfig{PingInterval: 20 * time.Second, DataTimeout: harness.Off, TextPing: c.ping, TextPong: c.pong}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Start("a")
				p := w.Srv.Conn(0)
				harness.After(20 * time.Second)
				p.Send(c.answer)
				harness.After(time.Second)
				if got := w.App.Take(); len(got) == 0 != c.taken {
					t.Errorf("delivered %q", got)
				}
			})
		})
	}
}

// A text ping that cannot be written ends the connection as any other write.
func TestTextPingThatIsStuck(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Health.TextPing, cfg.Health.PingInterval, cfg.Health.PongTimeout = "ping", 10*time.Second, -1
	cfg.Connection.WriteTimeout = time.Second
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetBuffer(1)
		begin := w.Begin()
		harness.After(time.Second)
		w.Net.Conns()[0].StallWrite(true)
		cause, at := w.EndedAt(begin, 15*time.Second)
		if !errors.Is(cause, wsshard.ErrWriteTimeout) || at > 13*time.Second {
			t.Errorf("ended at %v: %v", at, cause)
		}
	})
}
