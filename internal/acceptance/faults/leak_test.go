package faults

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does a dial that fails leave anything behind? Sockets, descriptors and goroutines are real.

// badWays are dials that fail, each in another way.
func badWays(t *testing.T) map[string]struct {
	url string
	cfg wsshard.ConnectionConfig
} {
	ca := wstest.NewAuthority(t)
	serve := func(f func(c net.Conn)) string { return harness.StartProxy(t, "127.0.0.1:0", nil, f) }
	closed := serve(func(c net.Conn) {})
	hangsUp := serve(func(c net.Conn) { harness.ReadHead(c) })
	resets := serve(func(c net.Conn) { harness.ReadHead(c); c.(*net.TCPConn).SetLinger(0) })
	junk := serve(func(c net.Conn) { harness.ReadHead(c); io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n\r\n") })
	silent := serve(func(c net.Conn) { io.Copy(io.Discard, c) })
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("no ", 1000), 500) }))
	t.Cleanup(busy.Close)
	untrusted := harness.StartLive(t, "127.0.0.1:0", ca.Server("127.0.0.1"))
	refuses := &harness.ProxyServer{User: harness.CanaryUser, Password: "another", Dial: func(string) (net.Conn, error) { return nil, io.EOF }}
	unreachable := &harness.ProxyServer{Dial: func(string) (net.Conn, error) { return nil, io.EOF }}
	type way = struct {
		url string
		cfg wsshard.ConnectionConfig
	}
	via := func(scheme string, p func(c net.Conn)) way {
		return way{"ws://feed.test/", wsshard.ConnectionConfig{Proxy: harness.ProxyURL(scheme, serve(p))}}
	}
	return map[string]way{
		"refused":            {"ws://127.0.0.1:1/", wsshard.ConnectionConfig{}},
		"unbindable":         {"ws://" + silent + "/", wsshard.ConnectionConfig{SourceIPs: []string{"192.0.2.1"}}},
		"hangs up":           {"ws://" + hangsUp + "/", wsshard.ConnectionConfig{}},
		"hangs up at once":   {"wss://" + closed + "/", wsshard.ConnectionConfig{}},
		"resets":             {"ws://" + resets + "/", wsshard.ConnectionConfig{}},
		"junk":               {"ws://" + junk + "/", wsshard.ConnectionConfig{}},
		"silent":             {"ws://" + silent + "/", wsshard.ConnectionConfig{ConnectTimeout: time.Millisecond}},
		"silent TLS":         {"wss://" + silent + "/", wsshard.ConnectionConfig{ConnectTimeout: time.Millisecond}},
		"500":                {busy.Listener.Addr().String(), wsshard.ConnectionConfig{}},
		"untrusted":          {untrusted.URL, wsshard.ConnectionConfig{}},
		"no TLS":             {"wss://" + busy.Listener.Addr().String() + "/", wsshard.ConnectionConfig{}},
		"socks refused":      {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "socks5://127.0.0.1:1"}},
		"socks password":     via("socks5", refuses.Socks5),
		"socks unreachable":  via("socks5", unreachable.Socks5),
		"socks silent":       {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "socks5://" + silent, ConnectTimeout: time.Millisecond}},
		"connect password":   via("http", refuses.Connect),
		"connect 502":        via("http", unreachable.Connect),
		"connect endless":    via("http", harness.EndlessAnswer),
		"tunnel breaks":      via("http", harness.ProxyAnswers("HTTP/1.1 200 OK\r\n\r\n")),
		"https proxy no TLS": {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "https://" + busy.Listener.Addr().String()}},
	}
}

var failedDials = flag.Int("dials", 1000, "how many dials fail in TestFailedDialsLeaveNothing")

func TestFailedDialsLeaveNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc")
	}
	total := harness.Fewer(*failedDials, 200)
	ways := badWays(t)
	for name, way := range ways { // what is made once is made now
		failOften(t, name, way.url, way.cfg, 1)
	}
	descriptors, goroutines := countDescriptors(t), runtime.NumGoroutine()
	for name, way := range ways {
		failOften(t, name, way.url, way.cfg, total/len(ways))
	}
	// The servers' ends take a moment to notice that ours are closed, and there is nothing to wait on for that.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(harness.Patience); ; <-tick.C {
		d, g := countDescriptors(t), runtime.NumGoroutine()
		if d <= descriptors && g <= goroutines {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d descriptors and %d goroutines, %d and %d before %d failed dials", d, g, descriptors, goroutines, total)
		}
	}
}

// failOften fails so many dials, by as many managers as the gate makes necessary: who is refused in person is soon asked to wait.
func failOften(t *testing.T, name, url string, cfg wsshard.ConnectionConfig, times int) {
	t.Helper()
	most := times
	if strings.Contains(name, "password") {
		most = 4
	}
	for ; times > 0; times -= most {
		failSome(t, name, url, cfg, min(times, most))
	}
}

// failSome runs a manager until so many dials have failed.
func failSome(t *testing.T, name, url string, cfg wsshard.ConnectionConfig, times int) {
	t.Helper()
	if !strings.Contains(url, "://") {
		url = "ws://" + url + "/"
	}
	cfg.CircuitBreakerThreshold = -1
	h := harness.NewCaller(url)
	h.ParkAfter(1 << 40)
	m, err := wsshard.New[string](h, wsshard.Config{
		Connection: cfg, MaxSubscriptionsPerShard: 1,
		Backoff: wsshard.BackoffConfig{InitialDelay: time.Microsecond, MaxDelay: time.Microsecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe(harness.Numbered(8)...)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range times {
		select {
		case <-h.Failed:
		case st := <-h.Opened:
			t.Errorf("%s: shard %d is connected", name, st.ShardID)
		}
	}
	stopped := make(chan error)
	go func() { stopped <- m.Stop(context.Background()) }()
	for {
		select {
		case <-h.Failed: // the rest
			continue
		case err := <-stopped:
			if err != nil {
				t.Error(err)
			}
		}
		return
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(fmt.Sprint("no /proc: ", err))
	}
	return len(entries)
}
