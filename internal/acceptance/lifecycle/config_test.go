package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does New refuse, and what does it say then?

func header(name string, values ...string) func(*wsshard.Config) {
	return func(c *wsshard.Config) { c.Connection.Header = http.Header{name: values} }
}

func fromIPs(ips ...string) func(*wsshard.Config) {
	return func(c *wsshard.Config) { c.Connection.SourceIPs = ips }
}

func proxy(url string) func(*wsshard.Config) {
	return func(c *wsshard.Config) { c.Connection.Proxy = url }
}

func multiplier(m float64) func(*wsshard.Config) {
	return func(c *wsshard.Config) { c.Backoff.Multiplier = m }
}

// refusals is one bad value and the field that New must name for it.
var refusals = []struct {
	name, field string
	set         func(c *wsshard.Config)
}{
	{"negative", "Connection.ConnectTimeout", func(c *wsshard.Config) { c.Connection.ConnectTimeout = -1 }},
	{"negative", "Connection.WriteTimeout", func(c *wsshard.Config) { c.Connection.WriteTimeout = -1 }},
	{"negative", "Connection.ShardsPerIP", func(c *wsshard.Config) { c.Connection.ShardsPerIP = -1 }},
	{"negative", "Connection.ReadBufferSize", func(c *wsshard.Config) { c.Connection.ReadBufferSize = -1 }},
	{"negative", "Backoff.InitialDelay", func(c *wsshard.Config) { c.Backoff.InitialDelay = -1 }},
	{"negative", "Backoff.MaxDelay", func(c *wsshard.Config) { c.Backoff.MaxDelay = -1 }},
	{"negative", "Backoff.StableAfter", func(c *wsshard.Config) { c.Backoff.StableAfter = -1 }},
	{"negative", "Subscribe.Window", func(c *wsshard.Config) { c.Subscribe.Window = -1 }},

	{"shrinks", "Backoff.Multiplier", multiplier(0.99)},
	{"negative", "Backoff.Multiplier", multiplier(-2)},
	{"NaN", "Backoff.Multiplier", multiplier(math.NaN())},
	{"infinite", "Backoff.Multiplier", multiplier(math.Inf(1))},
	{"minus infinite", "Backoff.Multiplier", multiplier(math.Inf(-1))},
	{"below InitialDelay", "Backoff.MaxDelay", func(c *wsshard.Config) {
		c.Backoff.InitialDelay, c.Backoff.MaxDelay = 2*time.Second, time.Second
	}},

	{"above PingInterval", "Health.PongTimeout", func(c *wsshard.Config) {
		c.Health.PingInterval, c.Health.PongTimeout = time.Second, time.Second+1
	}},
	{"above DataTimeout", "Health.PongTimeout", func(c *wsshard.Config) {
		c.Health.PongTimeout, c.Health.DataTimeout = 11*time.Second, 10*time.Second
	}},
	{"below PingInterval", "Health.DataTimeout", func(c *wsshard.Config) {
		c.Health.PingInterval, c.Health.DataTimeout = 20*time.Second, 19*time.Second
	}},
	{"not UTF-8", "Health.TextPing", func(c *wsshard.Config) { c.Health.TextPing = "\xff" }},
	{"not UTF-8", "Health.TextPong", func(c *wsshard.Config) { c.Health.TextPing, c.Health.TextPong = "PING", "\xff" }},
	{"unknown", "ShardSelection", func(c *wsshard.Config) { c.ShardSelection = 3 }},
	{"unknown", "ShardSelection", func(c *wsshard.Config) { c.ShardSelection = -1 }},

	{"a name", "Connection.SourceIPs[0]", func(c *wsshard.Config) { c.Connection.SourceIPs = []string{"localhost"} }},
	{"a port", "Connection.SourceIPs[1]", func(c *wsshard.Config) { c.Connection.SourceIPs = []string{"127.0.0.1", "127.0.0.1:80"} }},
	{"empty", "Connection.SourceIPs[0]", func(c *wsshard.Config) { c.Connection.SourceIPs = []string{""} }},
	{"IPv4 multicast", "Connection.SourceIPs[1]", fromIPs("10.0.0.1", "224.0.0.1")},
	{"IPv6 multicast", "Connection.SourceIPs[0]", fromIPs("ff02::1")},
	{"IPv6 multicast with a zone", "Connection.SourceIPs[0]", fromIPs("ff02::1%lo")},
	{"IPv4 multicast in IPv6", "Connection.SourceIPs[0]", fromIPs("::ffff:239.1.2.3")},
	{"broadcast", "Connection.SourceIPs[0]", fromIPs("255.255.255.255")},
	{"broadcast in IPv6", "Connection.SourceIPs[0]", fromIPs("::ffff:255.255.255.255")},
	{"unspecified", "Connection.SourceIPs[0]", fromIPs("0.0.0.0")},
	{"unspecified", "Connection.SourceIPs[0]", fromIPs("::")},
	{"unspecified", "Connection.SourceIPs[0]", fromIPs("::ffff:0.0.0.0")},
	{"unspecified with a zone", "Connection.SourceIPs[0]", fromIPs("::%lo")},
	{"twice", "Connection.SourceIPs[2]", fromIPs("10.0.0.1", "10.0.0.2", "10.0.0.1")},
	{"twice, in other words", "Connection.SourceIPs[1]", fromIPs("10.0.0.1", "::ffff:10.0.0.1")},
	{"twice, in other words", "Connection.SourceIPs[1]", fromIPs("2001:db8::1", "2001:DB8:0:0::1")},
	{"a prefix", "Connection.SourceIPs[0]", func(c *wsshard.Config) { c.Connection.SourceIPs = []string{"10.0.0.0/8"} }},
	{"with NetDialContext", "Connection.SourceIPs", func(c *wsshard.Config) {
		c.Connection.SourceIPs, c.Connection.NetDialContext = []string{"127.0.0.1"}, harness.NoDial
	}},

	{"no scheme", "Connection.Proxy", proxy("proxy:1080")},
	{"socks4", "Connection.Proxy", proxy("socks4://proxy")},
	{"ftp", "Connection.Proxy", proxy("ftp://proxy")},
	{"no host", "Connection.Proxy", proxy("http://:3128")},
	{"port 0", "Connection.Proxy", proxy("http://proxy:0")},
	{"port 65536", "Connection.Proxy", proxy("http://proxy:65536")},
	{"two ports", "Connection.Proxy", proxy("http://proxy:1:2")},
	{"IPv6 without brackets", "Connection.Proxy", proxy("socks5://::1")},
	{"a path", "Connection.Proxy", proxy("http://proxy/x")},
	{"a query", "Connection.Proxy", proxy("http://proxy?x")},
	{"a fragment", "Connection.Proxy", proxy("http://proxy#x")},
	{"unparsable", "Connection.Proxy", proxy("http://us%zz@proxy")},
	{"a line break", "Connection.Proxy", proxy("http://pro\r\nxy")},
	{"long user", "Connection.Proxy", proxy("socks5://" + strings.Repeat("u", 256) + "@proxy")},
	{"long password", "Connection.Proxy", proxy("socks5h://u:" + strings.Repeat("p", 256) + "@proxy")},
	{"colon in the user", "Connection.Proxy", proxy("http://a%3Ab:c@proxy")},

	{"CR", `Connection.Header["X-A"]`, header("X-A", "a\rb")},
	{"LF", `Connection.Header["X-A"]`, header("X-A", "fine", "a\nb")},
	{"CRLF", `Connection.Header["X-A"]`, header("X-A", "a\r\nUpgrade: h2c")},
	{"NUL", `Connection.Header["X-A"]`, header("X-A", "a\x00b")},
	{"empty name", `Connection.Header[""]`, header("", "a")},
	{"space in the name", `Connection.Header["X A"]`, header("X A", "a")},
	{"LF in the name", `Connection.Header["X\nA"]`, header("X\nA", "a")},
	{"colon in the name", `Connection.Header["X:"]`, header("X:", "a")},
	{"lower case", `Connection.Header["upgrade"]`, header("upgrade", "h2c")},
	{"reserved", `Connection.Header["Upgrade"]`, header("Upgrade", "h2c")},
	{"reserved", `Connection.Header["connection"]`, header("connection", "close")},
	{"reserved", `Connection.Header["Sec-WebSocket-Key"]`, header("Sec-WebSocket-Key", "a")},
	{"reserved", `Connection.Header["sec-websocket-version"]`, header("sec-websocket-version", "13")},
	{"reserved", `Connection.Header["Sec-Websocket-Extensions"]`, header("Sec-Websocket-Extensions", "x")},
	{"reserved", `Connection.Header["SEC-WEBSOCKET-PROTOCOL"]`, header("SEC-WEBSOCKET-PROTOCOL", "x")},
	{"reserved", `Connection.Header["Content-Length"]`, header("Content-Length", "1")},
	{"reserved", `Connection.Header["transfer-encoding"]`, header("transfer-encoding", "chunked")},
	{"two", `Connection.Header["Host"]`, header("Host", "a", "b")},
	{"empty", `Connection.Header["Host"]`, header("Host", "")},
	{"a slash", `Connection.Header["host"]`, header("host", "a/b")},
	{"empty", "Connection.Subprotocols[1]", func(c *wsshard.Config) { c.Connection.Subprotocols = []string{"v1", ""} }},
	{"CRLF", "Connection.Subprotocols[0]", func(c *wsshard.Config) { c.Connection.Subprotocols = []string{"a\r\nb"} }},
	{"password alone", "Connection.Proxy", proxy("socks5://:password@proxy")},
	{"nobody", "Connection.Proxy", proxy("socks5h://@proxy")},
	{"two in one", "Connection.Subprotocols[0]", func(c *wsshard.Config) { c.Connection.Subprotocols = []string{"a, b"} }},
}

func TestNewRefuses(t *testing.T) {
	for _, tc := range refusals {
		t.Run(tc.field+" "+tc.name, func(t *testing.T) {
			var cfg wsshard.Config
			tc.set(&cfg)
			m, err := wsshard.New(&harness.App{}, cfg)
			if m != nil || err == nil {
				t.Fatal("New accepted it")
			}
			ces := configErrors(t, err)
			if len(ces) != 1 || ces[0].Field != tc.field {
				t.Fatalf("New: %v, want one error for %s", err, tc.field)
			}
			if ces[0].Reason == "" || !strings.HasPrefix(ces[0].Error(), "wsshard: Config."+tc.field+": ") {
				t.Errorf("it says %q", ces[0])
			}
			if strings.ContainsAny(ces[0].Error(), "\r\n\x00") {
				t.Errorf("it prints control characters: %q", ces[0])
			}
		})
	}
}

// TestNewReportsAll: every bad field at once, each in an error of its own.
func TestNewReportsAll(t *testing.T) {
	cfg := wsshard.Config{
		Connection: wsshard.ConnectionConfig{
			ConnectTimeout: -1, WriteTimeout: -1, ShardsPerIP: -1, ReadBufferSize: -1,
			SourceIPs: []string{"1.2.3.4", "x", "y"}, NetDialContext: harness.NoDial, Proxy: "x",
			Header:       http.Header{"Upgrade": {"x"}, "X-A": {"\n"}, "Fine": {"x"}},
			Subprotocols: []string{""},
		},
		Backoff:        wsshard.BackoffConfig{InitialDelay: -1, MaxDelay: -1, Multiplier: math.NaN(), StableAfter: -1},
		Health:         wsshard.HealthConfig{PingInterval: 2, PongTimeout: 3, DataTimeout: 1, TextPing: "\xff", TextPong: "\xff"},
		Subscribe:      wsshard.SubscribeConfig{Window: -1},
		ShardSelection: 9,
	}
	want := []string{
		"Backoff.InitialDelay", "Backoff.MaxDelay", "Backoff.Multiplier", "Backoff.StableAfter",
		"Connection.ConnectTimeout", `Connection.Header["Upgrade"]`, `Connection.Header["X-A"]`, "Connection.Proxy",
		"Connection.ReadBufferSize", "Connection.ShardsPerIP", "Connection.SourceIPs", "Connection.SourceIPs[1]",
		"Connection.SourceIPs[2]", "Connection.Subprotocols[0]", "Connection.WriteTimeout", "Health.DataTimeout",
		"Health.PongTimeout", "Health.TextPing", "Health.TextPong", "ShardSelection", "Subscribe.Window",
	}
	m, err := wsshard.New(&harness.App{}, cfg)
	if m != nil {
		t.Error("New returned a manager with an error")
	}
	var got []string
	for _, ce := range configErrors(t, err) {
		got = append(got, ce.Field)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("refused %q\nwant %q", got, want)
	}
	var ce *wsshard.ConfigError
	if !errors.As(err, &ce) {
		t.Error("errors.As finds no *ConfigError")
	}
}

// TestNewAccepts: what is off or without a limit by being negative, and edges.
func TestNewAccepts(t *testing.T) {
	const off = -1
	for name, set := range map[string]func(c *wsshard.Config){
		"zero": func(*wsshard.Config) {},
		"negative counts": func(c *wsshard.Config) {
			c.MaxSubscriptionsPerShard, c.MaxShards = off, off
			c.Connection.MaxConnectAttempts, c.Connection.CircuitBreakerThreshold, c.Connection.MaxConcurrentDials, c.Connection.ReadLimit = off, off, off, off
			c.Health.FailureThreshold = off
			c.Subscribe.MaxPerMessage, c.Subscribe.MessagesPerWindow = off, off
			c.Switchover.MaxConcurrent, c.Switchover.HoldMessages, c.Switchover.HoldBytes = off, off, off
		},
		"negative timeouts": func(c *wsshard.Config) {
			c.Connection.ProactiveReconnectInterval, c.Connection.CircuitBreakerResetTimeout = off, off
			c.Health = wsshard.HealthConfig{PingInterval: off, PongTimeout: off, DataTimeout: off, MessageTimeout: off}
			c.Subscribe.AckTimeout = off
			c.Switchover.Timeout, c.Switchover.Settle, c.Switchover.Linger, c.Switchover.DrainTimeout = off, off, off, off
		},
		"equal delays":           func(c *wsshard.Config) { c.Backoff.InitialDelay, c.Backoff.MaxDelay = 1, 1 },
		"constant backoff":       multiplier(1),
		"minus zero":             multiplier(math.Copysign(0, -1)),
		"pong = ping = data":     func(c *wsshard.Config) { h := &c.Health; h.PingInterval, h.PongTimeout, h.DataTimeout = 5, 5, 5 },
		"long pong, no ping":     func(c *wsshard.Config) { c.Health.PingInterval, c.Health.PongTimeout = off, time.Hour },
		"short data, no ping":    func(c *wsshard.Config) { c.Health.PingInterval, c.Health.DataTimeout = off, 1 },
		"long ping, no others":   func(c *wsshard.Config) { h := &c.Health; h.PingInterval, h.DataTimeout = time.Hour, off },
		"addresses":              func(c *wsshard.Config) { c.Connection.SourceIPs = []string{"127.0.0.1", "::1", "::ffff:10.0.0.1"} },
		"socks5":                 proxy("socks5://u:p@proxy"),
		"socks5h":                proxy("socks5h://[::1]:9"),
		"user alone":             proxy("socks5://user@proxy"),
		"http":                   proxy("http://user@proxy:3128/"),
		"http, password alone":   proxy("http://:token@proxy"),
		"https":                  proxy("https://proxy"),
		"one address, two zones": fromIPs("fe80::1%eth0", "fe80::1%eth1"),
		"headers":                header("authorization", "a\tb", "ä"),
		"Host":                   header("Host", "a:80"),
		"subprotocols":           func(c *wsshard.Config) { c.Connection.Subprotocols = []string{"v1.json", "v2"} },
	} {
		cfg := wsshard.Config{}
		set(&cfg)
		if m, err := wsshard.New(&harness.App{}, cfg); err != nil || m == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConfigErrorsAreRedacted: no credential that a Config holds is in what New says of it.
func TestConfigErrorsAreRedacted(t *testing.T) {
	const secret = "hunter2"
	for _, set := range []func(*wsshard.Config){
		proxy("ftp://user:" + secret + "@proxy"),
		proxy("http://user:" + secret + "@proxy/path"),
		proxy("http://proxy?key=" + secret),
		proxy("http://proxy/" + secret),
		proxy("http://proxy#" + secret),
		proxy("http://user%zz:" + secret + "@proxy"),
		proxy("user:" + secret + "@proxy:1080"),
		proxy("http://user:" + secret + "\n@proxy"),
		proxy("http://user:" + secret + "@:80"),
		proxy("http://us%3Aer:" + secret + "@proxy"),
		proxy("socks5://user:" + strings.Repeat(secret, 40) + "@proxy"),
		header("Authorization", secret+"\n"),
		header("Cookie", "a=b", "s="+secret+"\x00"),
		header("Sec-WebSocket-Protocol", "bearer."+secret),
		// Browsers and some servers take a token as a subprotocol; its padding is what is refused.
		func(c *wsshard.Config) { c.Connection.Subprotocols = []string{"bearer." + secret + "=="} },
	} {
		var cfg wsshard.Config
		set(&cfg)
		_, err := wsshard.New(&harness.App{}, cfg)
		ces := configErrors(t, err)
		if len(ces) != 1 {
			t.Fatalf("New: %v", err)
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", *ces[0]), fmt.Sprintf("%#v", ces[0].Value)} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the secret is in %q", ces[0].Field, text)
			}
		}
	}
}

// What is longer than any deadline that can be met is as good as none, and disturbs no other.
func TestEternity(t *testing.T) {
	const eternal = time.Duration(math.MaxInt64)
	for name, cfg := range map[string]wsshard.Config{
		"pongs":      {Health: wsshard.HealthConfig{PingInterval: eternal, PongTimeout: eternal, DataTimeout: eternal}},
		"data":       {Health: wsshard.HealthConfig{DataTimeout: eternal}},
		"messages":   {Health: wsshard.HealthConfig{MessageTimeout: eternal}},
		"acks":       {Subscribe: wsshard.SubscribeConfig{AckTimeout: eternal}},
		"window":     {Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 30, Window: eternal}},
		"connecting": {Connection: wsshard.ConnectionConfig{ConnectTimeout: eternal, WriteTimeout: eternal, ProactiveReconnectInterval: eternal, CircuitBreakerResetTimeout: eternal}},
		"switchover": {Switchover: wsshard.SwitchoverConfig{Timeout: eternal, DrainTimeout: eternal}},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Start("a", "b")
				harness.Each(19*time.Second, 190*time.Second, func() { w.Topics.Publish("a", "1") })
				want := uint64(9)
				if name == "pongs" {
					want = 0
				}
				if m := w.M.Metrics(); m.PingsSent != want || m.HealthFailures != 0 || m.Connections != 1 {
					t.Errorf("%d pings of %d, %d health failures, %d connections", m.PingsSent, want, m.HealthFailures, m.Connections)
				}
				if err := w.M.HotSwitchover(context.Background(), 0); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A window without end lets as many frames through as it says, and no more.
func TestEternalWindow(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 3, Window: math.MaxInt64}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Subscribe("a", "b", "c")
		w.M.Start(context.Background())
		harness.After(24 * time.Hour)
		w.WantTopics("a", "b") // one place is kept for control frames
	})
}

func TestNewNeedsAHandler(t *testing.T) {
	if m, err := wsshard.New[string](nil, wsshard.Config{}); m != nil || err == nil {
		t.Errorf("nil: %v, %v", m, err)
	}
	var typed *harness.App
	if m, err := wsshard.New(typed, wsshard.Config{}); m != nil || err == nil {
		t.Errorf("typed nil: %v, %v", m, err)
	}
}

// TestNewCopiesConfig: what the application does to its Config afterwards changes nothing.
func TestNewCopiesConfig(t *testing.T) {
	cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{Header: http.Header{"X-A": {"1"}}, Subprotocols: []string{"one"}}}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		cfg.Connection.Header["X-A"][0] = "2"
		cfg.Connection.Header.Set("X-B", "2")
		cfg.Connection.Subprotocols[0] = "two"
		w.Start("a")
		h := w.Srv.Conn(0).Request().Header
		if h.Get("X-A") != "1" || h.Get("X-B") != "" || h.Get("Sec-WebSocket-Protocol") != "one" {
			t.Errorf("the request was changed: %v", h)
		}
	})
}

// configErrors takes a joined error apart; all of it must be *ConfigError.
func configErrors(t *testing.T, err error) (ces []*wsshard.ConfigError) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T %v is not joined", err, err)
	}
	for _, e := range joined.Unwrap() {
		ce, ok := e.(*wsshard.ConfigError)
		if !ok {
			t.Fatalf("%T %v is no *ConfigError", e, e)
		}
		ces = append(ces, ce)
	}
	return ces
}
