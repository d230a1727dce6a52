package wsshard_test

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
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does a dial that fails, or a connection that is lost, leave anything behind? Sockets, descriptors and
// goroutines are real.

// badWays are dials that fail, each in another way.
func badWays(t *testing.T) map[string]struct {
	url string
	cfg wsshard.ConnectionConfig
} {
	ca := newEgressCA(t)
	serve := func(f func(c net.Conn)) string { return startProxy(t, "127.0.0.1:0", nil, f) }
	closed := serve(func(c net.Conn) {})
	hangsUp := serve(func(c net.Conn) { readHead(c) })
	resets := serve(func(c net.Conn) { readHead(c); c.(*net.TCPConn).SetLinger(0) })
	junk := serve(func(c net.Conn) { readHead(c); io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n\r\n") })
	silent := serve(func(c net.Conn) { io.Copy(io.Discard, c) })
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("no ", 1000), 500) }))
	t.Cleanup(busy.Close)
	untrusted := startLive(t, "127.0.0.1:0", ca.server(t, "127.0.0.1"))
	refuses := &proxyServer{user: canaryUser, password: "another", dial: func(string) (net.Conn, error) { return nil, io.EOF }}
	unreachable := &proxyServer{dial: func(string) (net.Conn, error) { return nil, io.EOF }}
	type way = struct {
		url string
		cfg wsshard.ConnectionConfig
	}
	via := func(scheme string, p func(c net.Conn)) way {
		return way{"ws://feed.test/", wsshard.ConnectionConfig{Proxy: proxyURL(scheme, serve(p))}}
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
		"untrusted":          {untrusted.url, wsshard.ConnectionConfig{}},
		"no TLS":             {"wss://" + busy.Listener.Addr().String() + "/", wsshard.ConnectionConfig{}},
		"socks refused":      {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "socks5://127.0.0.1:1"}},
		"socks password":     via("socks5", refuses.socks5),
		"socks unreachable":  via("socks5", unreachable.socks5),
		"socks silent":       {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "socks5://" + silent, ConnectTimeout: time.Millisecond}},
		"connect password":   via("http", refuses.connect),
		"connect 502":        via("http", unreachable.connect),
		"connect endless":    via("http", endless),
		"tunnel breaks":      via("http", answers("HTTP/1.1 200 OK\r\n\r\n")),
		"https proxy no TLS": {"ws://feed.test/", wsshard.ConnectionConfig{Proxy: "https://" + busy.Listener.Addr().String()}},
	}
}

var failedDials = flag.Int("dials", 1000, "how many dials fail in TestFailedDialsLeaveNothing")

func TestFailedDialsLeaveNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc")
	}
	total := *failedDials
	ways := badWays(t)
	for name, way := range ways { // what is made once is made now
		failOften(t, name, way.url, way.cfg, 1)
	}
	descriptors, goroutines := countDescriptors(t), runtime.NumGoroutine()
	for name, way := range ways {
		failOften(t, name, way.url, way.cfg, total/len(ways))
	}
	wantCounts(t, descriptors, goroutines)
}

// wantCounts waits until no more than that is there. The servers' ends take a moment to notice that ours are closed, and there is
// nothing to wait on for that.
func wantCounts(t *testing.T, descriptors, goroutines int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		d, g := countDescriptors(t), runtime.NumGoroutine()
		if d <= descriptors && g <= goroutines {
			t.Logf("%d descriptors and %d goroutines, %d and %d before", d, g, descriptors, goroutines)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d descriptors and %d goroutines, %d and %d before", d, g, descriptors, goroutines)
		}
	}
}

// restingCounts waits until the counts have not changed for a while.
func restingCounts(t *testing.T) (descriptors, goroutines int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for same := 0; same < 20; <-tick.C {
		d, g := countDescriptors(t), runtime.NumGoroutine()
		if same++; d != descriptors || g != goroutines {
			descriptors, goroutines, same = d, g, 0
		}
	}
	return descriptors, goroutines
}

var lostConns = flag.Int("reconnects", 1000, "how many reconnects there are in TestReconnectsLeaveNothing")

// restless reconnects whenever it is connected.
type restless struct {
	*app
	m         *wsshard.ShardManager[string]
	left      atomic.Int64
	connected chan struct{} // closed when enough is enough
}

func (r *restless) OnEvent(ev wsshard.Event[string]) {
	if ev.Kind != wsshard.EventConnected {
		return
	}
	switch left := r.left.Add(-1); {
	case left == 0:
		close(r.connected)
	case left > 0: // if the server has not ended it already
		r.m.Reconnect(ev.ShardID)
	}
}

// Connections that are lost leave nothing behind, be it we who end them, or the server with a close frame or without.
func TestReconnectsLeaveNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc")
	}
	var served atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for n := served.Add(1); ; {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
			if n%3 == 0 { // after the first request
				ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1001, ""), time.Now().Add(patience))
			}
			if n%3 < 2 {
				return
			}
		}
	}))
	defer srv.Close()
	live := func(reconnects int) {
		h := &restless{app: &app{url: "ws://" + srv.Listener.Addr().String()}, connected: make(chan struct{})}
		h.left.Store(int64(reconnects))
		m, err := wsshard.New[string](h, wsshard.Config{
			MaxSubscriptionsPerShard: 1, Health: wsshard.HealthConfig{DataTimeout: -1},
			Backoff: wsshard.BackoffConfig{InitialDelay: time.Microsecond, MaxDelay: time.Microsecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		h.m = m
		m.Subscribe(numbered(8)...)
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := m.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-h.connected:
		case <-time.After(patience):
			t.Fatalf("%d reconnects are still to come", h.left.Load())
		}
	}
	live(100) // what is made once is made now
	descriptors, goroutines := restingCounts(t)
	live(*lostConns)
	wantCounts(t, descriptors, goroutines)
}

// failOften runs a manager until so many dials have failed.
func failOften(t *testing.T, name, url string, cfg wsshard.ConnectionConfig, times int) {
	t.Helper()
	if !strings.Contains(url, "://") {
		url = "ws://" + url + "/"
	}
	cfg.CircuitBreakerThreshold = -1
	h := newCaller(url)
	h.parkAfter(1 << 40)
	m, err := wsshard.New[string](h, wsshard.Config{
		Connection: cfg, MaxSubscriptionsPerShard: 1,
		Backoff: wsshard.BackoffConfig{InitialDelay: time.Microsecond, MaxDelay: time.Microsecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe(numbered(8)...)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range times {
		select {
		case <-h.failed:
		case st := <-h.opened:
			t.Errorf("%s: shard %d is connected", name, st.ShardID)
		}
	}
	stopped := make(chan error)
	go func() { stopped <- m.Stop(context.Background()) }()
	for {
		select {
		case <-h.failed: // the rest
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
