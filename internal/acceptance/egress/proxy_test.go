package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does a shard make of a proxy that does not open the way? Clock and network are fake.

// listenProxy serves the default port of a kind of proxy.
func listenProxy(w *harness.World, scheme string, serve func(c net.Conn)) {
	if serve == nil {
		return
	}
	port := map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80", "https": "443"}[scheme]
	harness.ServeConns(w.T, w.Net.Listen("proxy:"+port), serve)
}

// withHandler starts another manager with one topic in the same world.
func withHandler(w *harness.World, h wsshard.Handler[string], cfg wsshard.Config) *wsshard.ShardManager[string] {
	w.T.Helper()
	cfg.Connection.NetDialContext = w.Net.DialContext
	m, err := wsshard.New(h, cfg)
	if err == nil {
		_, err = m.Subscribe("a")
	}
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		w.T.Fatal(err)
	}
	return m
}

// stallingProxies are proxies that go silent, and the step they do so in.
func stallingProxies() map[string]harness.BadProxy {
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	return map[string]harness.BadProxy{
		"dial":                  {Scheme: "http", Step: "dial"},
		"TLS":                   {Scheme: "https", Serve: silent, Step: "tls"},
		"CONNECT":               {Scheme: "http", Serve: silent, Step: "connect"},
		"middle of the answer":  {Scheme: "http", Serve: harness.ProxyReplies(harness.ProxyAnswers("HTTP/1.1 200 OK\r\nX: "), silent), Step: "connect"},
		"after a 1xx":           {Scheme: "http", Serve: harness.ProxyReplies(harness.ProxyAnswers("HTTP/1.1 100 Wait\r\n\r\n"), silent), Step: "connect"},
		"SOCKS greeting":        {Scheme: "socks5", Serve: silent, Step: "greeting"},
		"middle of a greeting":  {Scheme: "socks5", Serve: harness.ProxyReplies(harness.SocksHello, "\x05", silent), Step: "greeting"},
		"SOCKS login":           {Scheme: "socks5", Serve: harness.ProxyReplies(harness.SocksHello, "\x05\x02", silent), Step: "auth"},
		"SOCKS request":         {Scheme: "socks5", Serve: harness.LoggedIn(silent), Step: "connect"},
		"middle of the request": {Scheme: "socks5", Serve: harness.LoggedIn(harness.SocksConnect, "\x05\x00", silent), Step: "connect"},
	}
}

// A proxy that stalls ends with ConnectTimeout, not before or after, and Stop does not wait for that.
func TestProxiesThatStall(t *testing.T) {
	const timeout = 7 * time.Second
	for name, c := range stallingProxies() {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{
				ConnectTimeout: timeout, Proxy: c.Scheme + "://" + harness.CanaryURL + "proxy",
			}}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				if c.Step == "dial" {
					w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
				}
				listenProxy(w, c.Scheme, c.Serve)
				begin := time.Now()
				h := harness.NewCaller("ws://srv/")
				m := withHandler(w, h, cfg)
				err := <-h.Failed
				var pe *wsshard.ProxyError
				if !errors.As(err, &pe) || pe.Step != c.Step || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("failed with %v, want a timeout in step %s", err, c.Step)
				}
				if d := time.Since(begin); d != timeout {
					t.Errorf("failed after %v", d)
				}
				wantNoCanary(t, "the error", chain(err)...)

				m.Reconnect(0)
				harness.After(time.Second)
				begin = time.Now()
				if err := m.Stop(context.Background()); err != nil || time.Since(begin) != 0 {
					t.Errorf("Stop: %v after %v", err, time.Since(begin))
				}
				synctest.Wait()
				if n := w.Net.Open(); n != 0 {
					t.Errorf("%d sockets are open", n)
				}
			})
		})
	}
}

// Without credentials a proxy that wants some is told apart, and one that chooses to be logged in to is not believed.
func TestProxiesWithoutCredentials(t *testing.T) {
	for _, c := range []struct {
		answer, step, says string
	}{{"\x05\xff", "auth", "credentials"}, {"\x05\x02", "greeting", "not offered"}} {
		cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{Proxy: "socks5://proxy"}}
		harness.Bubble(t, cfg, nil, func(w *harness.World) {
			listenProxy(w, "socks5", harness.ProxyReplies(3, c.answer, func(c net.Conn) { io.Copy(io.Discard, c) }))
			h := harness.NewCaller("ws://srv/")
			m := withHandler(w, h, cfg)
			defer m.Stop(context.Background())
			err := <-h.Failed
			var pe *wsshard.ProxyError
			if !errors.As(err, &pe) || pe.Step != c.step || !strings.Contains(err.Error(), c.says) {
				t.Errorf("failed with %v, want %q in step %s", err, c.says, c.step)
			}
		})
	}
}

// What New says of a proxy that it refuses carries no credential either.
func TestRefusedProxiesShowNothing(t *testing.T) {
	for _, raw := range []string{
		"ftp://" + harness.CanaryURL + "proxy", "socks5://" + harness.CanaryURL, "http://" + harness.CanaryURL + "proxy/path", "http://" + harness.CanaryURL + "proxy:99999",
		"http://alice-canary:" + harness.CanaryPassword + "@proxy", // its "/", "?" and "#" should have been encoded
		"http://alice-canary:1234#s3cret@proxy", "http://alice-canary:1234/s3cret@proxy", "http://alice-canary:1234?s3cret@proxy",
		"alice-canary:s3cret@proxy:1080", "://" + harness.CanaryURL + "proxy", "http://%zz" + harness.CanaryURL + "proxy", "http://alice%3Acanary:s3cret@proxy",
	} {
		cfg := wsshard.Config{}
		cfg.Connection.Proxy = raw
		_, err := wsshard.New(wsshard.Handler[string](harness.NewCaller("ws://srv/")), cfg)
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) || ce.Field != "Connection.Proxy" {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		wantNoCanary(t, raw, ce, err.Error())
		if strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
