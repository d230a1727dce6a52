package delivery

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what if a server compresses in a way of its own?

// A server that keeps its compression window is dialled once more without an offer, and is never offered one again; others are.
func TestServerThatKeepsItsWindow(t *testing.T) {
	for _, answer := range []string{"permessage-deflate", "permessage-deflate; client_no_context_takeover", "permessage-deflate; server_max_window_bits=12"} {
		cfg := harness.DialsOnly()
		cfg.Connection.EnableCompression = true
		cfg.MaxSubscriptionsPerShard = 1
		s := &harness.Stepper{}
		harness.Bubble(t, cfg, s.With, func(w *harness.World) {
			serve := func(addr string) *harness.RawServer {
				return w.ServeRaw(addr, nil, func(c *harness.RawConn) {
					if c.Req.Header.Get("Sec-WebSocket-Extensions") != "" {
						c.Upgrade("Sec-WebSocket-Extensions: " + answer)
					} else {
						c.Upgrade()
						c.Frame(harness.Fin|harness.OpText, "hello")
					}
					c.Gone()
				})
			}
			first, second := serve("raw:80"), serve("other:80")
			offers := func(s *harness.RawServer) (offered []bool) {
				for i := range s.Count() {
					offered = append(offered, s.Conn(i).Req.Header.Get("Sec-WebSocket-Extensions") != "")
				}
				return offered
			}
			s.App.Addr = "ws://raw/"
			w.Begin("a")
			harness.After(time.Second)
			w.WantGot("hello")
			w.Subscribe("b")
			w.M.Reconnect(0)
			harness.After(time.Second)
			if got := offers(first); !slices.Equal(got, []bool{true, false, false, false}) {
				t.Errorf("%s: offers %v", answer, got)
			}
			s.App.Addr = "ws://other/"
			w.M.Reconnect(0)
			harness.After(time.Second)
			if got := offers(second); !slices.Equal(got, []bool{true, false}) {
				t.Errorf("%s: offers to another %v", answer, got)
			}
			if errs, _ := s.Failures(); len(errs) > 0 {
				t.Errorf("%s: failed with %v", answer, errs)
			}
		})
	}
}

// Each message's compression may begin afresh where the server promised that for its own only.
func TestClientAlwaysResetsItsWindow(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://raw/"
		s := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			c.Upgrade("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
			c.Frame(harness.Fin|harness.Rsv1|harness.OpText, harness.Deflate("hello"))
			c.Frame(harness.Fin|harness.OpText, "plain")
			c.Gone()
		})
		w.Begin()
		harness.After(time.Second)
		w.WantGot("hello", "plain")
		for range 2 {
			if err := w.M.Send(context.Background(), 0, wsshard.Text("hello, hello, hello")); err != nil {
				t.Fatal(err)
			}
		}
		harness.After(0)
		frames := s.Conn(0).Frames(harness.OpText)
		if len(frames) != 2 || !frames[0].Rsv1 || string(frames[0].Payload) != string(frames[1].Payload) {
			t.Errorf("sent %+v", frames)
		}
	})
}
