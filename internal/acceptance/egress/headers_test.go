package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which headers are sent, and which are refused?

// What would change the handshake is refused before anything is dialled, and the value is in no error.
func TestHeadersThatAreRefused(t *testing.T) {
	for name, h := range map[string]http.Header{
		"LF in a value":         {"X-A": {"canary\nX-Evil: 1"}},
		"CR in a value":         {"X-A": {"canary\rX-Evil: 1"}},
		"CRLF in a value":       {"X-A": {"fine", "canary\r\n\r\nGET / HTTP/1.1"}},
		"NUL in a value":        {"X-A": {"canary\x00"}},
		"DEL in a value":        {"X-A": {"canary\x7f"}},
		"CRLF in a name":        {"X-A\r\nX-Evil": {"canary"}},
		"colon in a name":       {"X-A:": {"canary"}},
		"space in a name":       {"X A": {"canary"}},
		"empty name":            {"": {"canary"}},
		"not ASCII in a name":   {"X-Ä": {"canary"}},
		"Upgrade":               {"Upgrade": {"canary"}},
		"upgrade":               {"upgrade": {"h2c"}},
		"UPGRADE without value": {"UPGRADE": nil},
		"connection":            {"connection": {"close"}},
		"key":                   {"Sec-WebSocket-Key": {"canary"}},
		"version":               {"sec-websocket-version": {"12"}},
		"extensions":            {"Sec-WebSocket-Extensions": {"permessage-deflate"}},
		"protocol":              {"Sec-WebSocket-Protocol": {"canary"}},
		"accept":                {"Sec-WebSocket-Accept": {"canary"}},
		"content-length":        {"content-length": {"5"}},
		"transfer-encoding":     {"Transfer-Encoding": {"chunked"}},
		"trailer":               {"Trailer": {"X-A"}},
		"CRLF in Host":          {"Host": {"canary\r\nX-Evil: 1"}},
		"slash in Host":         {"Host": {"canary/x"}},
		"space in Host":         {"host": {"canary x"}},
		"empty Host":            {"Host": {""}},
		"two Hosts":             {"Host": {"a", "b"}},
		"no Host":               {"Host": nil},
		"one name twice":        {"X-A": {"canary"}, "x-a": {"canary2"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &harness.Stepper{}
			harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
				s.HeaderStep = func(context.Context) (http.Header, error) { return h, nil }
				w.Begin("a")
				harness.After(50 * time.Millisecond)
				errs, _ := s.Failures()
				var de *wsshard.DialError
				if len(errs) != 1 || !errors.Is(errs[0], wsshard.ErrInvalidHeader) || !errors.As(errs[0], &de) {
					t.Errorf("failed with %v", errs)
				}
				if text := fmt.Sprintf("%v %+v %q", errs, errs, errs); strings.Contains(text, "canary") || strings.ContainsAny(text, "\r\n\x00") {
					t.Errorf("reads %q", text)
				}
				if n := w.Net.Dials(); n != 0 {
					t.Errorf("%d dials", n)
				}
				s.HeaderStep = nil
				w.Sync()
				w.WantTopics("a")
			})
		})
		t.Run("static "+name, func(t *testing.T) {
			cfg := harness.DialsOnly()
			cfg.Connection.Header = h
			_, err := wsshard.New(&harness.App{}, cfg)
			var ce *wsshard.ConfigError
			if !errors.As(err, &ce) || !strings.HasPrefix(ce.Field, "Connection.Header[") || strings.Contains(err.Error(), "canary") || strings.ContainsAny(err.Error(), "\r\x00") {
				t.Errorf("New: %v", err)
			}
		})
	}
}

// Static headers, and those that were computed for this dial, which win.
func TestHeadersThatAreSent(t *testing.T) {
	s := &harness.Stepper{}
	cfg := harness.DialsOnly()
	static := http.Header{"X-Static": {"1"}, "x-both": {"old", "older"}, "Origin": {"https://example.org"}, "Cookie": {"a=b; c=d"}}
	cfg.Connection.Header = static
	cfg.Connection.Subprotocols = []string{"v2", "v1"}
	harness.Bubble(t, cfg, s.With, func(w *harness.World) {
		static.Set("X-Static", "changed after New")
		dial := 0
		s.HeaderStep = func(context.Context) (http.Header, error) {
			dial++
			return http.Header{"x-lower": {"2", "3"}, "X-Both": {"new"}, "host": {"other.example:81"}, "User-Agent": {"me/1"}, "X-Empty": {""}, "X-Dial": {fmt.Sprint(dial)}, "X-None": nil}, nil
		}
		s.App.Addr = "ws://srv/path/btcusdt@trade?q=%20&r=/"
		w.Start("a")
		r := w.Srv.Conn(0).Request()
		for name, want := range map[string][]string{
			"X-Static": {"1"}, "X-Both": {"new"}, "X-Lower": {"2", "3"}, "Origin": {"https://example.org"}, "Cookie": {"a=b; c=d"}, "User-Agent": {"me/1"},
			"X-Empty": {""}, "X-Dial": {"1"}, "X-None": nil, "Sec-Websocket-Protocol": {"v2, v1"}, "Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"},
			"Connection": {"Upgrade"}, "Sec-Websocket-Extensions": nil,
		} {
			if got := r.Header[name]; !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if r.Host != "other.example:81" || r.RequestURI != "/path/btcusdt@trade?q=%20&r=/" || r.Method != "GET" {
			t.Errorf("%s %s, Host %s", r.Method, r.RequestURI, r.Host)
		}
		w.M.Reconnect(0)
		harness.After(0)
		if r := w.Srv.Conn(1).Request(); r.Header.Get("X-Dial") != "2" || r.Header.Get("X-Static") != "1" {
			t.Errorf("second dial: %v", r.Header)
		}
	})
}

// Without headers the request carries what RFC 6455 asks for, and compression where it is wanted.
func TestPlainRequest(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.EnableCompression = true
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Addr = "ws://srv"
		w.Start("a")
		r := w.Srv.Conn(0).Request()
		if r.Host != "srv" || r.RequestURI != "/" {
			t.Errorf("%s, Host %s", r.RequestURI, r.Host)
		}
		if ext := r.Header.Get("Sec-Websocket-Extensions"); ext != "permessage-deflate; server_no_context_takeover; client_no_context_takeover" {
			t.Errorf("offers %q", ext)
		}
	})
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
			cfg := harness.DialsOnly()
			log := harness.NewLogbook()
			cfg.Logger = slog.New(log)
			if c.static != "" {
				cfg.Connection.Header = http.Header{"authorization": {c.static}}
			}
			s := &harness.Stepper{}
			if c.computed != "" {
				s.HeaderStep = func(context.Context) (http.Header, error) { return http.Header{"Authorization": {c.computed}}, nil }
			}
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				s.App.Addr = "ws://" + c.user + "raw/path?q"
				refuse := true
				raw := w.ServeRaw("raw:80", nil, func(conn *harness.RawConn) {
					if refuse {
						refuse = false
						conn.Say("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
						return
					}
					conn.Upgrade()
					conn.Gone()
				})
				w.Begin("a")
				harness.After(2 * time.Second) // it sits on the bench
				if n := raw.Count(); n != 2 {
					t.Fatalf("%d connections", n)
				}
				for i := range 2 {
					req := raw.Conn(i).Req
					if got := strings.Join(req.Header.Values("Authorization"), "|"); got != c.want || req.Host != "raw" || req.RequestURI != "/path?q" {
						t.Errorf("asked %s of %s with %q, want %q", req.RequestURI, req.Host, got, c.want)
					}
				}
				errs, _ := s.Failures()
				shown := fmt.Sprintf("%v %+v %v %+v", errs, w.M.Metrics(), w.App.TakeEvents(), log.From(-100))
				if len(errs) != 1 || strings.Contains(shown, "canary") || strings.Contains(shown, "cänary") {
					t.Errorf("shown: %s", shown)
				}
			})
		})
	}
}
