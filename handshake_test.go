package wsshard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// refused has script answer the first handshake, and returns what the attempt failed with and when. The second one is
// answered rightly, and must do.
func refused(t *testing.T, cfg wsshard.Config, script func(c *rawConn)) (err error, at time.Duration) {
	t.Helper()
	s := &stepper{}
	bubble(t, cfg, s.with, func(w *world) {
		s.app.url = "ws://raw/canary?token=canary"
		raw := w.serveRaw("raw:80", nil, func(c *rawConn) {
			if once := script; once != nil {
				script = nil
				once(c)
				return
			}
			c.upgrade()
			c.gone()
		})
		begin := w.begin("a")
		after(time.Minute)
		errs, when := s.failures()
		var de *wsshard.DialError
		if len(errs) != 1 || !errors.As(errs[0], &de) || de.URL != "ws://raw/…" || de.Attempt != 1 {
			w.t.Fatalf("failed with %v", errs)
		}
		if n := raw.count(); n != 2 || w.m.Metrics().ActiveConnections != 1 {
			t.Errorf("%d connections, %d live", n, w.m.Metrics().ActiveConnections)
		}
		err, at = de.Err, when[0].Sub(begin)
	})
	return err, at
}

func answer(text string) func(c *rawConn) {
	return func(c *rawConn) { c.say(strings.ReplaceAll(text, "ACCEPT", c.accept())) }
}

const right = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"

// Every answer that is no upgrade is one *HandshakeError with its status, 0 where there is none.
func TestAnswersThatAreNoUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		status int
		reason string
	}{
		"200":                        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, ""},
		"204":                        {"HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
		"400":                        {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno", 400, ""},
		"401":                        {"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n", 401, ""},
		"403":                        {"HTTP/1.1 403 Forbidden\r\n\r\n", 403, ""},
		"404":                        {"HTTP/1.1 404 Not Found\r\n\r\n", 404, ""},
		"426":                        {"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\n\r\n", 426, ""},
		"500":                        {"HTTP/1.1 500 Internal Server Error\r\n\r\n", 500, ""},
		"502":                        {"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, ""},
		"status without a reason":    {"HTTP/1.1 503\r\n\r\n", 503, ""},
		"unknown status":             {"HTTP/1.1 799 Who Knows\r\n\r\n", 799, ""},
		"100 first":                  {"HTTP/1.1 100 Continue\r\n\r\n" + right + "\r\n", 100, ""},
		"103 first":                  {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + right + "\r\n", 103, ""},
		"HTTP/1.0 200":               {"HTTP/1.0 200 OK\r\n\r\nhi", 200, ""},
		"HTTP/1.0 101":               {strings.Replace(right, "1.1", "1.0", 1) + "\r\n", 101, "HTTP/1.0"},
		"101 without anything":       {"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "headers"},
		"101 without Upgrade":        {strings.Replace(right, "Upgrade: websocket\r\n", "", 1) + "\r\n", 101, "headers"},
		"101 to another protocol":    {strings.Replace(right, "websocket", "h2c", 1) + "\r\n", 101, "headers"},
		"101 without Connection":     {strings.Replace(right, "Connection: Upgrade\r\n", "", 1) + "\r\n", 101, "headers"},
		"101 and close":              {strings.Replace(right, "n: Upgrade", "n: close", 1) + "\r\n", 101, "headers"},
		"101 without Accept":         {strings.Replace(right, "ACCEPT", "", 1) + "\r\n", 101, "headers"},
		"101 with a wrong Accept":    {strings.Replace(right, "ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 1) + "\r\n", 101, "headers"},
		"unoffered extension":        {right + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n", 101, "extension"},
		"unoffered, gorilla chokes":  {right + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 101, "compression"},
		"unknown extension":          {right + "Sec-WebSocket-Extensions: , x-canary\r\n\r\n", 101, "extension"},
		"unoffered subprotocol":      {right + "Sec-WebSocket-Protocol: x-canary\r\n\r\n", 101, "subprotocol"},
		"junk":                       {"\x00\x01\x02 canary \xff\r\n\r\n", 0, "not HTTP"},
		"a line without end, closed": {"canarycanarycanary", -1, ""},
		"another protocol":           {"SSH-2.0-canary\r\n", 0, "not HTTP"},
		"HTTP/2":                     {"HTTP/2.0 101\r\n\r\n", 101, "headers"},
		"bad version":                {"HTTP/x.y 101 canary\r\n\r\n", 0, "not HTTP"},
		"bad status":                 {"HTTP/1.1 canary OK\r\n\r\n", 0, "not HTTP"},
		"negative status":            {"HTTP/1.1 -101 canary\r\n\r\n", 0, "not HTTP"},
		"bad header line":            {"HTTP/1.1 200 OK\r\ncanary\r\n\r\n", 0, "not HTTP"},
		"bad header name":            {"HTTP/1.1 200 OK\r\ncan ary: x\r\n\r\n", 200, ""},
		"bad length":                 {"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n", 0, "not HTTP"},
		"bad encoding":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: canary\r\n\r\n", 0, "not HTTP"},
		"closed at once":             {"", -1, ""},
		"closed in the status line":  {"HTTP/1.1 10", -1, ""},
		"closed in a header":         {"HTTP/1.1 101 Switching Protocols\r\nUpgr", -1, ""},
		"closed before the end":      {strings.TrimSuffix(right, "\r\n"), -1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err, at := refused(t, dialsOnly(), answer(c.answer))
			if at != 0 {
				t.Errorf("failed after %v", at)
			}
			if text := fmt.Sprintf("%v %+v %#v %q %s", err, err, err, err, err); strings.Contains(text, "canary") {
				t.Errorf("repeats the peer's words: %s", text)
			}
			var he *wsshard.HandshakeError
			switch {
			case c.status < 0:
				if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &he) {
					t.Errorf("failed with %v", err)
				}
			case !errors.As(err, &he) || he.StatusCode != c.status || !strings.Contains(he.Error(), c.reason):
				t.Errorf("failed with %v, want status %d, %s", err, c.status, c.reason)
			}
		})
	}
}

// What a server may choose where we have offered compression and subprotocols.
func TestAnswersToOffers(t *testing.T) {
	cfg := dialsOnly()
	cfg.Connection.EnableCompression = true
	cfg.Connection.Subprotocols = []string{"v2", "v1"}
	const deflate = "Sec-WebSocket-Extensions: permessage-deflate"
	const noTakeover = "; server_no_context_takeover; client_no_context_takeover"
	for lines, want := range map[string]string{
		"":                               "",
		"Sec-WebSocket-Extensions: \r\n": "",
		deflate + noTakeover + "\r\n":    "",
		deflate + noTakeover + "; server_max_window_bits=10\r\n": "",
		"Sec-WebSocket-Protocol: v1\r\n":                         "",
		deflate + "\r\n":                                         "compression",
		deflate + "; server_no_context_takeover\r\n":             "compression",
		deflate + "; client_no_context_takeover\r\n":             "compression",
		deflate + noTakeover + "; client_max_window_bits=8\r\n":  "extension",
		deflate + noTakeover + "; canary\r\n":                    "extension",
		deflate + noTakeover + ", x-webkit\r\n":                  "extension",
		"Sec-WebSocket-Extensions: bbf-usp-protocol\r\n":         "extension",
		"Sec-WebSocket-Protocol: v3\r\n":                         "subprotocol",
		"Sec-WebSocket-Protocol: V1\r\n":                         "subprotocol",
		"Sec-WebSocket-Protocol: v1, v2\r\n":                     "subprotocol",
	} {
		t.Run(lines, func(t *testing.T) {
			if want != "" {
				err, _ := refused(t, cfg, answer(right+lines+"\r\n"))
				var he *wsshard.HandshakeError
				if !errors.As(err, &he) || he.StatusCode != 101 || !strings.Contains(err.Error(), want) {
					t.Errorf("failed with %v", err)
				}
				return
			}
			bubble(t, cfg, nil, func(w *world) {
				w.app.url = "ws://raw/"
				w.serveRaw("raw:80", nil, func(c *rawConn) {
					answer(right + lines + "\r\n")(c)
					go c.listen()
					c.gone()
				})
				w.begin()
				after(time.Second)
				w.wantState(0, wsshard.ShardConnected)
			})
		})
	}
}

// A server may send us elsewhere as it likes: we dial what URL says.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		for _, to := range []string{"ws://elsewhere/", "http://elsewhere/", "http://169.254.169.254/canary", "//elsewhere/", "/other"} {
			t.Run(fmt.Sprint(status, to), func(t *testing.T) {
				s := &stepper{}
				bubble(t, dialsOnly(), s.with, func(w *world) {
					w.net.OnDial(func(_ context.Context, _ int, addr string) error {
						if addr != "srv:80" {
							t.Errorf("dialled %s", addr)
						}
						return nil
					})
					asked := 0
					w.srv.Reject(func(r *http.Request) (int, http.Header, string) {
						if asked++; r.URL.Path != "/" {
							t.Errorf("asked for %s", r.URL)
						}
						return status, http.Header{"Location": {to}}, ""
					})
					w.begin("a")
					after(750 * ms)
					errs, _ := s.failures()
					var he *wsshard.HandshakeError
					if len(errs) != 4 || asked != 4 || !errors.As(errs[0], &he) || he.StatusCode != status || he.Header.Get("Location") != to {
						t.Errorf("asked %d times, failed with %v", asked, errs)
					}
					if strings.Contains(fmt.Sprintf("%v %#v", errs, errs[0]), "canary") {
						t.Errorf("prints %v", errs)
					}
				})
			})
		}
	}
}

// An answer is kept for those who look, and printed by no verb: a server may echo what it was sent.
func TestHandshakeErrorKeepsTheAnswerToItself(t *testing.T) {
	err, _ := refused(t, dialsOnly(), answer("HTTP/1.1 429 Too Many canary\r\nRetry-After: 5\r\nSet-Cookie: s=canary\r\nset-cookie: t=canary\r\nX-Echo: canary\r\n\r\n"+strings.Repeat("canary", 1000)))
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
		"7": 7 * time.Second, "0": 0, "-1": 0, "1.5": 0, "": 0, "soon": 0, "99999999999999999999": time.Hour, " 7 ": 7 * time.Second,
		"Sat, 01 Jan 2000 00:00:30 GMT": 30 * time.Second, "Fri, 31 Dec 1999 23:59:59 GMT": 0, "Sat, 01 Jan 2050 00:00:00 GMT": time.Hour,
		"Saturday, 01-Jan-00 00:00:30 GMT": 30 * time.Second, "Sat Jan  1 00:00:30 2000": 30 * time.Second,
	} {
		for _, status := range []string{"429", "418", "503", "500"} {
			t.Run(status+" "+value, func(t *testing.T) {
				s := &stepper{}
				bubble(t, dialsOnly(), s.with, func(w *world) {
					w.srv.Reject(func(r *http.Request) (code int, _ http.Header, _ string) {
						fmt.Sscan(status, &code)
						return code, http.Header{"Retry-After": {value}}, ""
					})
					w.begin("a")
					errs, _ := s.failures()
					var he *wsshard.HandshakeError
					if len(errs) != 1 || !errors.As(errs[0], &he) {
						w.t.Fatalf("failed with %v", errs)
					}
					if status == "500" {
						want = 0
					}
					if he.RetryAfter != want {
						t.Errorf("%v, want %v", he.RetryAfter, want)
					}
				})
			})
		}
	}
}

// An answer without end costs neither memory nor more than the time there is.
func TestEndlessAnswers(t *testing.T) {
	for name, text := range map[string]struct{ first, again string }{
		"status line":       {"HTTP/1.1 200 ", "canary"},
		"no line at all":    {"", "canary"},
		"header lines":      {"HTTP/1.1 101 Switching Protocols\r\n", "X-A: canary\r\n"},
		"one header line":   {"HTTP/1.1 101 Switching Protocols\r\nX-A: ", "canary"},
		"a folded line":     {"HTTP/1.1 101 Switching Protocols\r\nX-A: ", "\r\n canary"},
		"a name":            {"HTTP/1.1 101 Switching Protocols\r\nX", "y"},
		"interim answers":   {"", "HTTP/1.1 103 Early Hints\r\n\r\n"},
		"a body":            {"HTTP/1.1 200 OK\r\n\r\n", "canary"},
		"a chunk extension": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=", "y"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			sent := 0
			runtime.ReadMemStats(&before)
			err, at := refused(t, dialsOnly(), func(c *rawConn) {
				c.say(text.first)
				block := strings.Repeat(text.again, 4096/len(text.again))
				for {
					n, err := c.Write([]byte(block))
					if sent += n; err != nil || sent > 100<<20 {
						return
					}
				}
			})
			runtime.ReadMemStats(&after)
			if at != 0 || err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("after %v: %v", at, err)
			}
			if sent > 256<<10 {
				t.Errorf("%d bytes were taken", sent)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
}

// Bytes that trickle end with ConnectTimeout, for it is one deadline and not one for each read.
func TestSlowLoris(t *testing.T) {
	err, at := refused(t, dialsOnly(), func(c *rawConn) {
		for _, b := range []byte("HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X-A: b\r\n", 10000)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * ms)
		}
	})
	if at != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after %v: %v", at, err)
	}
}
