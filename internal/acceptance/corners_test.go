package acceptance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which corners of the protocol does a server meet us in?

// A server that keeps its compression window is dialled once more without an offer, and is never offered one again; others are.
func TestServerThatKeepsItsWindow(t *testing.T) {
	for _, answer := range []string{"permessage-deflate", "permessage-deflate; client_no_context_takeover", "permessage-deflate; server_max_window_bits=12"} {
		cfg := dialsOnly()
		cfg.Connection.EnableCompression = true
		cfg.MaxSubscriptionsPerShard = 1
		s := &stepper{}
		bubble(t, cfg, s.with, func(w *world) {
			serve := func(addr string) *rawServer {
				return w.serveRaw(addr, nil, func(c *rawConn) {
					if c.req.Header.Get("Sec-WebSocket-Extensions") != "" {
						c.upgrade("Sec-WebSocket-Extensions: " + answer)
					} else {
						c.upgrade()
						c.frame(fin|opText, "hello")
					}
					c.gone()
				})
			}
			first, second := serve("raw:80"), serve("other:80")
			offers := func(s *rawServer) (offered []bool) {
				for i := range s.count() {
					offered = append(offered, s.conn(i).req.Header.Get("Sec-WebSocket-Extensions") != "")
				}
				return offered
			}
			s.app.url = "ws://raw/"
			w.begin("a")
			after(time.Second)
			w.wantGot("hello")
			w.subscribe("b")
			w.m.Reconnect(0)
			after(time.Second)
			if got := offers(first); !slices.Equal(got, []bool{true, false, false, false}) {
				t.Errorf("%s: offers %v", answer, got)
			}
			s.app.url = "ws://other/"
			w.m.Reconnect(0)
			after(time.Second)
			if got := offers(second); !slices.Equal(got, []bool{true, false}) {
				t.Errorf("%s: offers to another %v", answer, got)
			}
			if errs, _ := s.failures(); len(errs) > 0 {
				t.Errorf("%s: failed with %v", answer, errs)
			}
		})
	}
}

// Each message's compression may begin afresh where the server promised that for its own only.
func TestClientAlwaysResetsItsWindow(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.EnableCompression = true
	bubble(t, cfg, nil, func(w *world) {
		w.app.url = "ws://raw/"
		s := w.serveRaw("raw:80", nil, func(c *rawConn) {
			c.upgrade("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
			c.frame(fin|rsv1|opText, deflate("hello"))
			c.frame(fin|opText, "plain")
			c.gone()
		})
		w.begin()
		after(time.Second)
		w.wantGot("hello", "plain")
		for range 2 {
			if err := w.m.Send(context.Background(), 0, wsshard.Text("hello, hello, hello")); err != nil {
				t.Fatal(err)
			}
		}
		after(0)
		frames := s.conn(0).frames(opText)
		if len(frames) != 2 || !frames[0].rsv1 || string(frames[0].payload) != string(frames[1].payload) {
			t.Errorf("sent %+v", frames)
		}
	})
}

// Answers that only announce the one that counts are skipped, within the head's budget, and what follows the head is not lost.
func TestInterimAnswers(t *testing.T) {
	hints := "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
	for name, c := range map[string]struct {
		before string
		bytes  bool // one at a time
		opens  bool
	}{
		"none":                {"", false, true},
		"none, in bytes":      {"", true, true},
		"103":                 {hints, false, true},
		"103, in bytes":       {hints, true, true},
		"100, 102 and 199":    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102\r\nA: b\r\n\r\nHTTP/1.1 199 Who knows\n\n", false, true},
		"some":                {strings.Repeat(hints, 20), false, true},
		"more than is read":   {strings.Repeat(hints, 2000), false, false},
		"one that never ends": {"HTTP/1.1 103 Early Hints\r\n" + strings.Repeat("A: b\r\n", 20000), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stepper{}
			bubble(t, dialsOnly(), s.with, func(w *world) {
				s.app.url = "ws://raw/"
				w.serveRaw("raw:80", nil, func(conn *rawConn) {
					all := conn.switching() + rawBytes(fin|opText, "one") + rawBytes(fin|opText, "two")
					all = c.before + all
					if size := 1; c.bytes {
						for ; all != ""; all = all[size:] {
							conn.say(all[:size])
							time.Sleep(time.Microsecond)
						}
					}
					go io.WriteString(conn.Conn, all)
					conn.listen()
				})
				w.begin("a")
				after(50 * time.Millisecond)
				errs, _ := s.failures()
				if c.opens {
					w.wantGot("one", "two")
				} else if he := new(wsshard.HandshakeError); len(errs) == 0 || !errors.As(errs[0], &he) || !strings.Contains(he.Reason, "too long") {
					t.Errorf("failed with %v", errs)
				}
				if c.opens && len(errs) > 0 {
					t.Errorf("failed with %v", errs)
				}
			})
		})
	}
}

// A user in the URL is a Basic Authorization header, unless the application sets one; it is shown nowhere.
func TestUserInURL(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		user             string
		static, computed string
		want             string
	}{
		{"canary:p%40ss@", "", "", basic("canary:p@ss")},
		{"canary@", "", "", basic("canary:")},
		{":canary@", "", "", basic(":canary")},
		{"c%C3%A4nary:%25canary@", "", "", basic("cänary:%canary")},
		{"@", "", "", ""},
		{"", "", "", ""},
		{"canary:canary@", "Bearer x", "", "Bearer x"},
		{"canary:canary@", "Bearer x", "Bearer y", "Bearer y"},
	} {
		t.Run(c.user+c.static+c.computed, func(t *testing.T) {
			cfg := dialsOnly()
			log := newLogbook()
			cfg.Logger = slog.New(log)
			if c.static != "" {
				cfg.Connection.Header = http.Header{"authorization": {c.static}}
			}
			s := &stepper{}
			if c.computed != "" {
				s.headerStep = func(context.Context) (http.Header, error) { return http.Header{"Authorization": {c.computed}}, nil }
			}
			bubble(t, cfg, s.with, func(w *world) {
				s.app.url = "ws://" + c.user + "raw/path?q"
				refuse := true
				raw := w.serveRaw("raw:80", nil, func(conn *rawConn) {
					if refuse {
						refuse = false
						conn.say("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
						return
					}
					conn.upgrade()
					conn.gone()
				})
				w.begin("a")
				after(2 * time.Second) // it sits on the bench
				if n := raw.count(); n != 2 {
					t.Fatalf("%d connections", n)
				}
				for i := range 2 {
					req := raw.conn(i).req
					if got := strings.Join(req.Header.Values("Authorization"), "|"); got != c.want || req.Host != "raw" || req.RequestURI != "/path?q" {
						t.Errorf("asked %s of %s with %q, want %q", req.RequestURI, req.Host, got, c.want)
					}
				}
				errs, _ := s.failures()
				shown := fmt.Sprintf("%v %+v %v %+v", errs, w.m.Metrics(), w.app.takeEvents(), log.from(-100))
				if len(errs) != 1 || strings.Contains(shown, "canary") || strings.Contains(shown, "cänary") {
					t.Errorf("shown: %s", shown)
				}
			})
		})
	}
}

// An empty message is sent wherever one can be; nil is none.
func TestEmptyMessages(t *testing.T) {
	empty := wsshard.Text("")
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		if err := conn.Write(ctx, wsshard.Binary(nil)); !errors.Is(err, wsshard.ErrInvalidMessage) {
			t.Errorf("Write of nil: %v", err)
		}
		return conn.Write(ctx, wsshard.Binary([]byte{}))
	}
	for _, compressed := range []bool{false, true} {
		cfg := dialsOnly()
		cfg.Connection.EnableCompression = compressed
		loginWorld(t, cfg, login, func(w *world) {
			w.app.url = "ws://raw/"
			w.app.onConnect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
				return []wsshard.Message{{}, empty}, nil
			}
			w.app.encode = func(sign string, _ wsshard.Request[string]) (wsshard.Message, error) {
				return map[string]wsshard.Message{"+": empty}[sign], nil
			}
			s := w.serveRaw("raw:80", nil, func(c *rawConn) {
				if compressed {
					c.upgrade(deflated)
				} else {
					c.upgrade()
				}
				c.gone()
			})
			w.begin("a")
			after(time.Second)
			if err := w.m.Send(context.Background(), 0, empty); err != nil {
				t.Errorf("Send: %v", err)
			}
			if err := w.m.Send(context.Background(), 0, wsshard.Message{}); !errors.Is(err, wsshard.ErrInvalidMessage) {
				t.Errorf("Send of nil: %v", err)
			}
			w.m.Unsubscribe("a") // sends nothing
			after(time.Second)
			texts, binaries := s.conn(0).frames(opText), s.conn(0).frames(opBinary)
			if len(texts) != 3 || len(binaries) != 1 { // OnConnect, the subscription, Send; Login
				t.Fatalf("%d texts, %d binaries", len(texts), len(binaries))
			}
			for _, f := range append(texts, binaries...) {
				if !f.fin || len(f.payload) > 1 || len(f.payload) == 1 && !compressed {
					t.Errorf("sent %+v", f)
				}
			}
		})
	}
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
			cfg := dialsOnly()
			cfg.Health = wsshard.HealthConfig{PingInterval: 20 * time.Second, DataTimeout: off, TextPing: c.ping, TextPong: c.pong}
			bubble(t, cfg, nil, func(w *world) {
				w.start("a")
				p := w.srv.Conn(0)
				after(20 * time.Second)
				p.Send(c.answer)
				after(time.Second)
				if got := w.app.take(); len(got) == 0 != c.taken {
					t.Errorf("delivered %q", got)
				}
			})
		})
	}
}

// No frame is longer than 65,536 bytes, and the pace is charged for each.
func TestLongestFrame(t *testing.T) {
	noise := make([]byte, 200_000)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for name, c := range map[string]struct {
		data       []byte
		compressed bool
		frames     int
	}{
		"at most":              {noise[:65536], false, 1},
		"one more":             {noise[:65537], false, 2},
		"plain":                {noise, false, 4},
		"compressed noise":     {noise, true, 4},
		"compressed, at most":  {noise[:65536], true, 2}, // deflate makes it longer
		"compressed to little": {make([]byte, 200_000), true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dialsOnly()
			cfg.Connection.EnableCompression = c.compressed
			cfg.Subscribe.MessagesPerWindow, cfg.Subscribe.Window = 6, time.Minute
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				s := w.serveRaw("raw:80", nil, func(conn *rawConn) {
					if c.compressed {
						conn.upgrade(deflated)
					} else {
						conn.upgrade()
					}
					conn.gone()
				})
				w.begin()
				after(time.Second)
				begin := time.Now()
				send := func(data []byte) {
					if err := w.m.Send(context.Background(), 0, wsshard.Binary(data)); err != nil {
						t.Fatal(err)
					}
				}
				send(c.data)
				for range 5 - c.frames { // what the pace has left
					send([]byte("x"))
				}
				if took := time.Since(begin); took != 0 {
					t.Errorf("the pace was charged for more: it took %v", took)
				}
				if send([]byte("x")); time.Since(begin) < time.Minute {
					t.Errorf("the pace was charged for less: it took %v", time.Since(begin))
				}
				after(0)
				frames := s.conn(0).frames(opCont)
				if len(frames) != c.frames-1 {
					t.Errorf("%d frames, want %d", len(frames)+1, c.frames)
				}
				for _, f := range append(frames, s.conn(0).frames(opBinary)...) {
					if len(f.payload) > 65536 {
						t.Errorf("a frame of %d bytes", len(f.payload))
					}
				}
			})
		})
	}
}
