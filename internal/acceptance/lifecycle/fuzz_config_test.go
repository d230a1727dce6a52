package lifecycle

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does New refuse what its documentation says, and nothing else, whatever it is given?

// refusedFields takes an error of New apart.
func refusedFields(err error) (fields []string, ok bool) {
	joined, is := err.(interface{ Unwrap() []error })
	if !is {
		return nil, false
	}
	for _, err := range joined.Unwrap() {
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) {
			return fields, false
		}
		fields = append(fields, ce.Field)
	}
	slices.Sort(fields)
	return fields, true
}

func FuzzConfig(f *testing.F) {
	for _, s := range []struct {
		connect, write, initial, longest, stable, window, ping, pong, data int64
		multiplier                                                         float64
		perIP, buffer, strategy, limit                                     int
		ip, proxy, name, value, text                                       string
	}{
		{},
		{connect: -1, write: -1, initial: -1, longest: -1, stable: -1, window: -1, ping: -1, pong: -1, data: -1, multiplier: -1, perIP: -1, buffer: -1, strategy: -1, limit: -1},
		{initial: int64(time.Minute), ping: 5, pong: 6, data: 4, multiplier: 0.5, strategy: 3},
		{ping: int64(time.Second), data: int64(time.Second), multiplier: 1, strategy: 2, limit: 1, ip: "::1", proxy: "socks5h://u:SECRETx@p:1"},
		{multiplier: math.NaN(), ip: "127.0.0.256", proxy: "ftp://SECRETx@p", name: "Upgrade", value: "SECRETx", text: "\xff"},
		{multiplier: math.Inf(1), ip: "fe80::1%eth0", proxy: "http://u:SECRETx@:x/", name: "X\r\nY", value: "a\r\nSECRETx", text: "ping"},
		{proxy: "socks5://u:SECRETx:1080"},
		{proxy: "socks5://SECRETx"},
		{longest: 1, proxy: "https://[::1", name: "X-A", value: "b", text: ""},
	} {
		f.Add(s.connect, s.write, s.initial, s.longest, s.stable, s.window, s.ping, s.pong, s.data, s.multiplier, s.perIP, s.buffer, s.strategy, s.limit, s.ip, s.proxy, s.name, s.value, s.text)
	}
	f.Fuzz(func(t *testing.T, connect, write, initial, longest, stable, window, ping, pong, data int64, multiplier float64, perIP, buffer, strategy, limit int, ip, proxy, name, value, text string) {
		cfg := wsshard.Config{
			Connection: wsshard.ConnectionConfig{ConnectTimeout: time.Duration(connect), WriteTimeout: time.Duration(write), ShardsPerIP: perIP, ReadBufferSize: buffer, Proxy: proxy, ReadLimit: int64(limit), MaxConcurrentDials: limit},
			Backoff:    wsshard.BackoffConfig{InitialDelay: time.Duration(initial), MaxDelay: time.Duration(longest), StableAfter: time.Duration(stable), Multiplier: multiplier},
			Health:     wsshard.HealthConfig{PingInterval: time.Duration(ping), PongTimeout: time.Duration(pong), DataTimeout: time.Duration(data), TextPing: text},
			Subscribe:  wsshard.SubscribeConfig{Window: time.Duration(window), MaxPerMessage: limit, MessagesPerWindow: limit},
			Switchover: wsshard.SwitchoverConfig{HoldMessages: limit, HoldBytes: limit}, MaxSubscriptionsPerShard: limit, MaxShards: limit,
			ShardSelection: wsshard.ShardSelectionStrategy(strategy),
		}
		if ip != "" {
			cfg.Connection.SourceIPs = []string{ip}
		}
		if name != "" {
			cfg.Connection.Header = http.Header{name: {value}}
		}
		before := fmt.Sprint(cfg)

		// What the documentation of Config says.
		var want []string
		refuse := func(field string, bad bool) {
			if bad {
				want = append(want, field)
			}
		}
		refuse("Connection.ConnectTimeout", connect < 0)
		refuse("Connection.WriteTimeout", write < 0)
		refuse("Backoff.InitialDelay", initial < 0)
		refuse("Backoff.MaxDelay", longest < 0)
		refuse("Backoff.StableAfter", stable < 0)
		refuse("Subscribe.Window", window < 0)
		refuse("Connection.ShardsPerIP", perIP < 0)
		refuse("Connection.ReadBufferSize", buffer < 0)
		refuse("Backoff.Multiplier", multiplier != 0 && !(multiplier >= 1 && multiplier <= math.MaxFloat64))
		refuse("Backoff.MaxDelay", initial > 0 && longest > 0 && longest < initial)
		// What is set contradicts what is set, also by way of a PingInterval that is not.
		refuse("Health.PongTimeout", pong > 0 && (ping > 0 && pong > ping || ping == 0 && data > 0 && pong > data))
		refuse("Health.DataTimeout", ping > 0 && data > 0 && data < ping)
		refuse("Health.TextPing", !utf8.ValidString(text))
		refuse("ShardSelection", strategy < 0 || strategy > 2)
		addr := net.ParseIP(strings.Split(ip, "%")[0])
		_, err := netip.ParseAddr(ip)
		refuse("Connection.SourceIPs[0]", ip != "" && (err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.Equal(net.IPv4bcast)))
		slices.Sort(want)

		m, err := wsshard.New[string](&harness.App{}, cfg)
		if fmt.Sprint(cfg) != before {
			t.Errorf("New changed its argument: %v, was %s", cfg, before)
		}
		if err == nil {
			if len(want) > 0 || m == nil {
				t.Errorf("not refused: %q", want)
			}
			return
		}
		got, ok := refusedFields(err)
		if !ok {
			t.Fatalf("not all are *ConfigError: %v", err)
		}
		got = slices.DeleteFunc(got, func(field string) bool { // FuzzHeaders and FuzzURL know those
			return field == "Connection.Proxy" && proxy != "" || name != "" && strings.HasPrefix(field, "Connection.Header[")
		})
		if !slices.Equal(got, want) {
			t.Errorf("refused %q, want %q: %v", got, want, err)
		}
		for _, shown := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			if secret := "SECRETx"; strings.Contains(shown, secret) && !strings.Contains(name+ip+text, secret) && !strings.Contains(hostOf(proxy), secret) {
				t.Errorf("shows a secret: %s", shown)
			}
		}
	})
}

// hostOf is what of a proxy's URL may be shown.
func hostOf(proxy string) string {
	u, err := url.Parse(proxy)
	if err != nil || !strings.HasPrefix(u.Host, "[") && strings.Contains(u.Hostname(), ":") {
		return ""
	}
	return u.Scheme + u.Host
}
