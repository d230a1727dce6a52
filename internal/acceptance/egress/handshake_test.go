package egress

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which answers to the handshake are taken?

// refused has script answer the first handshake, and returns what the attempt failed with and when. The second one is
// answered rightly, and must do.
func refused(t *testing.T, cfg wsshard.Config, script func(c *harness.RawConn)) (err error, at time.Duration) {
	t.Helper()
	s := &harness.Stepper{}
	harness.Bubble(t, cfg, s.With, func(w *harness.World) {
		s.App.Addr = "ws://raw/canary?token=canary"
		raw := w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			if once := script; once != nil {
				script = nil
				once(c)
				return
			}
			c.Upgrade()
			c.Gone()
		})
		begin := w.Begin("a")
		harness.After(time.Minute)
		errs, when := s.Failures()
		var de *wsshard.DialError
		if len(errs) != 1 || !errors.As(errs[0], &de) || de.URL != "ws://raw/…" || de.Attempt != 1 {
			w.T.Fatalf("failed with %v", errs)
		}
		if n := raw.Count(); n != 2 || w.M.Metrics().ActiveConnections != 1 {
			t.Errorf("%d connections, %d live", n, w.M.Metrics().ActiveConnections)
		}
		err, at = de.Err, when[0].Sub(begin)
	})
	return err, at
}

// What a server may choose where we have offered compression and subprotocols.
func TestAnswersToOffers(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	cfg.Connection.Subprotocols = []string{"v2", "v1"}
	const deflate = "Sec-WebSocket-Extensions: permessage-deflate"
	const noTakeover = "; server_no_context_takeover; client_no_context_takeover"
	for lines, want := range map[string]string{
		"":                               "",
		"Sec-WebSocket-Extensions: \r\n": "",
		deflate + noTakeover + "\r\n":    "",
		deflate + noTakeover + "; server_max_window_bits=10\r\n":                               "",
		deflate + "; server_no_context_takeover\r\n":                                           "",
		deflate + "; server_max_window_bits=\"15\";server_no_context_takeover\r\n":             "",
		"sec-websocket-extensions:permessage-deflate;server_no_context_takeover\r\nX-A: b\r\n": "",
		"Sec-WebSocket-Protocol: v1\r\n":                                                       "",
		deflate + noTakeover + "; server_max_window_bits=16\r\n":                               "extension",
		deflate + noTakeover + "; server_max_window_bits=08\r\n":                               "extension",
		deflate + noTakeover + "; server_max_window_bits\r\n":                                  "extension",
		deflate + "; server_no_context_takeover=1\r\n":                                         "compression",
		deflate + noTakeover + "; server_no_context_takeover\r\n":                              "extension",
		deflate + noTakeover + ", permessage-deflate; server_no_context_takeover\r\n":          "extension",
		deflate + noTakeover + "; client_max_window_bits=8\r\n":                                "extension",
		deflate + noTakeover + "; canary\r\n":                                                  "extension",
		deflate + noTakeover + ", x-webkit\r\n":                                                "extension",
		"Sec-WebSocket-Extensions: bbf-usp-protocol\r\n":                                       "extension",
		"Sec-WebSocket-Protocol: v3\r\n":                                                       "subprotocol",
		"Sec-WebSocket-Protocol: V1\r\n":                                                       "subprotocol",
		"Sec-WebSocket-Protocol: v1, v2\r\n":                                                   "subprotocol",
	} {
		t.Run(lines, func(t *testing.T) {
			if want != "" {
				err, _ := refused(t, cfg, harness.AnswerWith(harness.RightAnswer+lines+"\r\n"))
				var he *wsshard.HandshakeError
				if !errors.As(err, &he) || he.StatusCode != 101 || !strings.Contains(err.Error(), want) {
					t.Errorf("failed with %v", err)
				}
				return
			}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.App.Addr = "ws://raw/"
				w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
					harness.AnswerWith(harness.RightAnswer + lines + "\r\n")(c)
					go c.Listen()
					c.Gone()
				})
				w.Begin()
				harness.After(time.Second)
				w.WantState(0, wsshard.ShardConnected)
			})
		})
	}
}

// An answer is kept for those who look, and printed by no verb: a server may echo what it was sent.
func TestHandshakeErrorKeepsTheAnswerToItself(t *testing.T) {
	err, _ := refused(t, harness.DialsOnly(), harness.AnswerWith("HTTP/1.1 429 Too Many canary\r\nRetry-After: 5\r\nSet-Cookie: s=canary\r\nset-cookie: t=canary\r\nX-Echo: canary\r\n\r\n"+strings.Repeat("canary", 1000)))
	var he *wsshard.HandshakeError
	if !errors.As(err, &he) || he.StatusCode != 429 || he.RetryAfter != 5*time.Second {
		t.Fatalf("failed with %v", err)
	}
	if len(he.Header.Values("Set-Cookie")) > 0 || he.Header.Get("X-Echo") != "canary" {
		t.Errorf("header %v", he.Header)
	}
	if len(he.Body) != 1024 || !strings.HasPrefix(string(he.Body), "canarycanary") {
		t.Errorf("%d bytes of body", len(he.Body))
	}
	wrapped := &wsshard.DialError{Err: he}
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s", "%x", "%d", "%T"} {
		for _, v := range []any{he, wrapped, error(he), []error{he}, wsshard.ShardMetrics{LastError: wrapped}, wsshard.Event[string]{Err: he}} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "canary") || strings.Contains(text, "Retry-After") {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
	if got, want := he.Error(), "wsshard: server answered 429 Too Many Requests, retry after 5s"; got != want {
		t.Errorf("reads %q, want %q", got, want)
	}
}

func TestRetryAfterIsKept(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "-1": 0, "1.5": 1500 * time.Millisecond, "": 0, ".": 0, "1e3": 0, "soon": 0, "99999999999999999999": time.Hour, " 7 ": 7 * time.Second,
		"Sat, 01 Jan 2000 00:00:30 GMT": 30 * time.Second, "Fri, 31 Dec 1999 23:59:59 GMT": 0, "Sat, 01 Jan 2050 00:00:00 GMT": time.Hour,
		"Saturday, 01-Jan-00 00:00:30 GMT": 30 * time.Second, "Sat Jan  1 00:00:30 2000": 30 * time.Second,
	} {
		for _, status := range []string{"429", "418", "503", "500"} {
			t.Run(status+" "+value, func(t *testing.T) {
				s := &harness.Stepper{}
				harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
					w.Srv.Reject(func(r *http.Request) (code int, _ http.Header, _ string) {
						fmt.Sscan(status, &code)
						return code, http.Header{"Retry-After": {value}}, ""
					})
					w.Begin("a")
					errs, _ := s.Failures()
					var he *wsshard.HandshakeError
					if len(errs) != 1 || !errors.As(errs[0], &he) {
						w.T.Fatalf("failed with %v", errs)
					}
					want := want
					switch {
					case status == "500":
						want = 0
					case status == "418" && want == time.Hour: // a ban may be longer
						want = 72 * time.Hour
					}
					if he.RetryAfter != want {
						t.Errorf("%v, want %v", he.RetryAfter, want)
					}
				})
			})
		}
	}
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
			s := &harness.Stepper{}
			harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
				s.App.Addr = "ws://raw/"
				w.ServeRaw("raw:80", nil, func(conn *harness.RawConn) {
					all := conn.Switching() + harness.RawBytes(harness.Fin|harness.OpText, "one") + harness.RawBytes(harness.Fin|harness.OpText, "two")
					all = c.before + all
					if size := 1; c.bytes {
						for ; all != ""; all = all[size:] {
							conn.Say(all[:size])
							time.Sleep(time.Microsecond)
						}
					}
					go io.WriteString(conn.Conn, all)
					conn.Listen()
				})
				w.Begin("a")
				harness.After(50 * time.Millisecond)
				errs, _ := s.Failures()
				if c.opens {
					w.WantGot("one", "two")
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
