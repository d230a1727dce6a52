package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what do errors, events, metrics and a Config say in JSON and in a log, and what do they keep?

// TestEnumerationsMarshalAsText: each value as its String.
func TestEnumerationsMarshalAsText(t *testing.T) {
	for _, tc := range []struct {
		v    any
		want string
	}{
		{wsshard.TextMessage, "text"}, {wsshard.BinaryMessage, "binary"},
		{wsshard.SequenceContinue, "continue"}, {wsshard.SequenceReconnect, "reconnect"},
		{wsshard.LeastLoaded, "least-loaded"}, {wsshard.Sequential, "sequential"},
		{wsshard.SubscribeFailed, "failed"}, {wsshard.SubscribeExisting, "existing"},
		{wsshard.ShardConnecting, "connecting"}, {wsshard.ShardParked, "parked"},
		{wsshard.EventConnecting, "connecting"}, {wsshard.EventGap, "gap"}, {wsshard.EventStopped, "stopped"},
		{wsshard.ShardState(99), "unknown(99)"}, {wsshard.EventKind(-1), "unknown(-1)"},
	} {
		if got := asJSON(t, tc.v); got != `"`+tc.want+`"` || fmt.Sprint(tc.v) != tc.want {
			t.Errorf("%#v is %s in JSON and %v in words, want %s", tc.v, got, tc.v, tc.want)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	return string(text)
}

// awkward is a topic that no JSON can carry.
type awkward struct{ f float64 }

func (a awkward) MarshalJSON() ([]byte, error) { return nil, fmt.Errorf("%v has no JSON", a.f) }

// TestJSONKeepsWhatIsNobodysSecret: the fields with their names, errors and enumerations as text, topics as S marshals.
func TestJSONKeepsWhatIsNobodysSecret(t *testing.T) {
	failed := &wsshard.DialError{URL: "wss://srv/…", ShardID: 3, Attempt: 2, Err: &wsshard.HandshakeError{StatusCode: 301, Body: []byte(harness.Canary)}}
	at := time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)
	var ev map[string]any
	json.Unmarshal([]byte(asJSON(t, wsshard.Event[string]{
		Kind: wsshard.EventBackoff, ShardID: 3, Time: at, Err: failed, Delay: time.Second, Subs: []string{"a", `"b"`},
		Switchover: &wsshard.SwitchoverReport{Proof: "acks", Held: 7},
	})), &ev)
	for field, want := range map[string]string{
		"Kind": "backoff", "ShardID": "3", "Time": "2026-11-28T01:02:03Z", "Err": failed.Error(), "Delay": "1e+09", "Subs": `[a "b"]`,
	} {
		if got := fmt.Sprint(ev[field]); got != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	if report, _ := ev["Switchover"].(map[string]any); report["Proof"] != "acks" || report["Held"] != 7.0 {
		t.Errorf("Switchover is %v", ev["Switchover"])
	}

	var m map[string]any
	json.Unmarshal([]byte(asJSON(t, wsshard.Metrics{Gaps: 4, Shards: []wsshard.ShardMetrics{{ShardID: 1, State: wsshard.ShardParked, LastError: failed}, {}}})), &m)
	shards, _ := m["Shards"].([]any)
	if m["Gaps"] != 4.0 || len(shards) != 2 {
		t.Fatalf("metrics are %v", m)
	}
	first, second := shards[0].(map[string]any), shards[1].(map[string]any)
	if first["State"] != "parked" || first["LastError"] != failed.Error() || first["ShardID"] != 1.0 || second["LastError"] != nil {
		t.Errorf("shards are %v and %v", first, second)
	}
	if got := asJSON(t, wsshard.Metrics{}); !strings.Contains(got, `"Shards":[]`) {
		t.Errorf("no shards are %s", got)
	}

	for got, want := range map[string]string{
		asJSON(t, wsshard.Event[awkward]{Subs: []awkward{{1.5}, {math.Inf(1)}}}):                    `"Subs":["{1.5}","{+Inf}"]`,
		asJSON(t, wsshard.Event[struct{ Channel string }]{Subs: []struct{ Channel string }{{"x"}}}): `"Subs":[{"Channel":"x"}]`,
		asJSON(t, wsshard.Event[int]{}): `"Subs":null`,
		asJSON(t, &wsshard.Event[int]{Kind: wsshard.EventGap, Err: error((*nilError)(nil))}): `"Kind":"gap"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s has no %s", got, want)
		}
	}
}

// nilError is an error whose Error panics where there is none.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// TestEveryErrorMarshalsAsItsText: as a field of something else too.
func TestEveryErrorMarshalsAsItsText(t *testing.T) {
	l := &harness.Ledger{}
	l.Log.WriteString("nothing")
	for _, err := range []error{
		&wsshard.ConfigError{Field: "MaxShards", Value: 1, Reason: "is one"},
		&wsshard.DialError{URL: "ws://srv/…", Err: &wsshard.HandshakeError{StatusCode: 429, Header: http.Header{"X": {harness.Canary}}, Body: []byte(harness.Canary)}},
		&wsshard.HandshakeError{StatusCode: 301, Header: http.Header{"Location": {harness.Canary}}, Body: []byte(harness.Canary)},
		&wsshard.ProxyError{Proxy: "http://proxy:80", Step: "connect", StatusCode: 407, Err: errors.New("no")},
		&wsshard.CloseError{Code: 4000, Text: "a \x00 b"},
		&wsshard.PanicError{Value: "boom", Stack: []byte("goroutine 1: " + harness.Canary)},
		&wsshard.SubscriptionError[string]{Sub: "a", Err: wsshard.ErrAckTimeout},
	} {
		var got struct{ Err string }
		if json.Unmarshal([]byte(asJSON(t, struct{ Err error }{err})), &got); got.Err != err.Error() {
			t.Errorf("%T is %q in JSON, want %q", err, got.Err, err)
		}
		if p := (*wsshard.PanicError)(nil); !errors.As(err, &p) { // %#v shows what it has: it is the application's own
			l.Say(err)
		}
	}
	if got := asJSON(t, wsshard.HandshakeError{StatusCode: 301, Header: http.Header{"X": {harness.Canary}}, Body: []byte(harness.Canary)}); harness.Hides(got) {
		t.Errorf("a copy leaks: %s", got)
	}
	l.Check(t)
}

// TestRedirectKeepsSecrets: a server that answers with what it was sent, in a header and in a body.
func TestRedirectKeepsSecrets(t *testing.T) {
	l := &harness.Ledger{}
	cfg := wsshard.Config{Logger: slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	cfg.Connection.Header = http.Header{"Authorization": {"Bearer " + harness.Canary}}
	harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { return &teller{a, l} }, func(w *harness.World) {
		w.ServeRaw("raw:80", nil, func(c *harness.RawConn) {
			body := fmt.Sprint("moved: ", c.Req.URL, c.Req.Header)
			c.Say("HTTP/1.1 301 Moved\r\nLocation: https://raw" + c.Req.RequestURI + "\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body)
		})
		w.Begin("a")
		harness.After(10 * time.Second)
		m := w.M.Metrics()
		if m.Errors < 2 {
			t.Fatalf("%d errors", m.Errors)
		}
		l.Say(m)
		for _, s := range m.Shards {
			l.Say(s)
		}
	})
	l.Check(t)
}

// teller notes every event and error.
type teller struct {
	*harness.App
	l *harness.Ledger
}

func (h *teller) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://raw/" + harness.Canary + "?token=" + harness.Canary, nil
}

func (h *teller) OnEvent(ev wsshard.Event[string]) { h.l.Say(ev) }

func (h *teller) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	h.l.Say(err)
	return true
}

// TestRefusedAddressesKeepSecrets: what stands where a scheme or a host should is no more shown than a password.
func TestRefusedAddressesKeepSecrets(t *testing.T) {
	l := &harness.Ledger{}
	l.Log.WriteString("nothing")
	for _, raw := range []string{
		"//" + harness.Canary, harness.Canary + "://h/", harness.Canary + "://u@h", harness.Canary, "https://[" + harness.Canary + "]:80", "//u:" + harness.Canary + "@h", "///" + harness.Canary,
		"wss:" + harness.Canary + "@h/", "wss://" + harness.Canary + "_@h", "wss://h:1:2/" + harness.Canary, "//" + harness.Canary + "/path", "://" + harness.Canary, harness.Canary + ":80",
	} {
		var cfg wsshard.Config
		cfg.Connection.Proxy = raw
		_, err := wsshard.New(&harness.App{}, cfg)
		if err == nil {
			t.Errorf("%s is a proxy", raw)
			continue
		}
		l.Say(err)
		harness.Bubble(t, wsshard.Config{}, func(a *harness.App) wsshard.Handler[string] { return &elsewhere{a, raw} }, func(w *harness.World) {
			w.Begin("a")
			harness.After(time.Second)
			err := w.M.Metrics().Shards[0].LastError
			if err == nil {
				t.Fatalf("%s was dialled", raw)
			}
			l.Say(err)
		})
	}
	l.Check(t)
}

// elsewhere returns one URL.
type elsewhere struct {
	*harness.App
	url string
}

func (h *elsewhere) URL(context.Context, wsshard.ConnectionState) (string, error) { return h.url, nil }

// TestConfigInALog: what differs from the defaults, and no secret.
func TestConfigInALog(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 200, MaxShards: 3, ShardSelection: wsshard.Sequential}
	cfg.Connection = wsshard.ConnectionConfig{
		Proxy: "http://u:" + harness.Canary + "@p:1", Header: http.Header{"Authorization": {harness.Canary}, harness.Canary: {"x"}}, Subprotocols: []string{harness.Canary},
		ConnectTimeout: 10 * time.Second, WriteTimeout: time.Second, SourceIPs: []string{"127.0.0.1", harness.Canary}, Limiter: secretive{},
		NetDialContext: harness.NoDial,
	}
	cfg.Health.TextPing = harness.Canary
	cfg.Logger = slog.Default()
	var text bytes.Buffer
	slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "cfg", cfg)
	var line struct{ Cfg map[string]any }
	if err := json.Unmarshal(text.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"MaxSubscriptionsPerShard": "200", "MaxShards": "3", "ShardSelection": "sequential", "Connection.Proxy": "http://p:1",
		"Connection.Header": "2", "Connection.Subprotocols": "…", "Connection.WriteTimeout": "1e+09", "Connection.SourceIPs": "127.0.0.1 …",
		"Connection.Limiter": "set", "Connection.NetDialContext": "set", "Health.TextPing": "…", "Logger": "set",
	}
	for field, value := range want {
		if got := fmt.Sprint(line.Cfg[field]); got != value {
			t.Errorf("%s is %s, want %s", field, got, value)
		}
	}
	if len(line.Cfg) != len(want) {
		t.Errorf("%d fields, want %d: %v", len(line.Cfg), len(want), line.Cfg)
	}
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "cfg", cfg, "at", &cfg, "none", wsshard.Config{})
	cfg.Connection.Proxy = "http://u:" + harness.Canary + "/x@p:1" // that New would refuse
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "cfg", cfg)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, of := range []any{cfg, &cfg, cfg.Connection, &cfg.Connection} {
			fmt.Fprintf(&text, verb, of)
		}
	}
	if harness.Hides(text.String()) {
		t.Errorf("leaks: %s", text.String())
	}
	//lint:ignore SA1026 it is to fail, and to keep secrets as it does
	if _, err := json.Marshal(cfg); err == nil || harness.Hides(err.Error()) {
		t.Errorf("json.Marshal of a Config: %v", err)
	}
}

// secretive is a limiter that talks.
type secretive struct{ wsshard.ConnectLimiter }

func (secretive) String() string { return harness.Canary }
