package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: from which address does a shard dial? The servers' sockets say.

// haveIPv6 skips where the machine has no IPv6 loopback.
func haveIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	l.Close()
}

// syncLog is a log that many may write.
type syncLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *syncLog) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// sources is a handler that says which shard dials in the URL, and records how each connection was described.
type sources struct {
	*harness.Caller
	mu     sync.Mutex
	states []wsshard.ConnectionState
}

func (s *sources) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, st)
	return fmt.Sprint(s.Addr, st.ShardID), nil
}

func (s *sources) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

func TestSourceAddressesInBlocks(t *testing.T) {
	srv := harness.StartLive(t, "127.0.0.1:0", nil)
	ips := []string{"127.0.0.11", "127.0.0.12", "127.0.0.13"}
	var log syncLog
	h := &sources{Caller: harness.NewCaller(srv.URL)}
	m, err := wsshard.New[string](h, wsshard.Config{
		MaxSubscriptionsPerShard: 1, Logger: log.logger(),
		Connection: wsshard.ConnectionConfig{SourceIPs: ips, ShardsPerIP: 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	const shards = 14 // two more than there are places: they share the first address
	m.Subscribe(harness.Numbered(shards)...)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := errors.Join(m.Start(ctx), m.Sync(ctx)); err != nil {
		t.Fatal(err)
	}
	metrics := m.Metrics()
	want := func(shard int) string { return ips[shard/4%3] }
	for _, r := range srv.Requests() {
		var shard int
		fmt.Sscanf(r.URL.Path, "/%d", &shard)
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != want(shard) {
			t.Errorf("shard %d came from %s, want %s", shard, host, want(shard))
		}
	}
	for i, sm := range metrics.Shards {
		if sm.Egress != want(i) {
			t.Errorf("shard %d: Metrics says %q, want %q", i, sm.Egress, want(i))
		}
	}
	for _, st := range h.states {
		if st.Egress != want(st.ShardID) {
			t.Errorf("shard %d: ConnectionState says %q, want %q", st.ShardID, st.Egress, want(st.ShardID))
		}
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if n := strings.Count(text, "more shards than source addresses"); n != 1 || !strings.Contains(text, "shard=12") {
		t.Errorf("%d warnings that addresses are used twice, want 1:\n%s", n, text)
	}
	for _, ip := range ips {
		if !strings.Contains(text, "egress="+ip) {
			t.Errorf("the log does not show %s", ip)
		}
	}
}

// The warning comes once in a life of the manager, not with each shard, and not where there are addresses enough.
func TestSourceAddressesEnough(t *testing.T) {
	var log syncLog
	m, err := wsshard.New[string](harness.NewCaller("ws://127.0.0.1:1/"), wsshard.Config{
		MaxSubscriptionsPerShard: 1, Logger: log.logger(),
		Connection: wsshard.ConnectionConfig{SourceIPs: []string{"127.0.0.11", "::1"}, ShardsPerIP: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe(harness.Numbered(4)...)
	if text := log.String(); strings.Contains(text, "more shards") {
		t.Error(text)
	}
	m.Subscribe("x", "y", "z")
	if n := strings.Count(log.String(), "more shards"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// The name has addresses of both families; a source address takes the ones of its own.
func TestSourceFamilyIsMatched(t *testing.T) {
	haveIPv6(t)
	v4 := harness.StartLive(t, "127.0.0.1:0", nil)
	harness.StartLive(t, "[::1]:"+v4.Port(), nil)
	for _, source := range []string{"127.0.0.77", "::1", "::ffff:127.0.0.78"} {
		greeting, st, err := call(t, "ws://localhost:"+v4.Port()+"/", wsshard.Config{
			Connection: wsshard.ConnectionConfig{SourceIPs: []string{source}},
		})
		ip := strings.TrimPrefix(source, "::ffff:")
		if want := net.JoinHostPort(ip, ""); err != nil || !strings.HasPrefix(greeting, "from "+want) {
			if ip == "::1" && err != nil && strings.Contains(err.Error(), "no suitable address") {
				t.Log("localhost has no IPv6 address here")
				continue
			}
			t.Errorf("source %s: server saw %q, %v", source, greeting, err)
		}
		if st.Egress != ip {
			t.Errorf("egress %q", st.Egress)
		}
	}
	// Without a source address both are tried.
	for _, url := range []string{"ws://127.0.0.1:" + v4.Port(), "ws://[::1]:" + v4.Port(), "ws://localhost:" + v4.Port()} {
		if _, st, err := call(t, url, wsshard.Config{}); err != nil || st.Egress != "" {
			t.Errorf("%s: %v, egress %q", url, err, st.Egress)
		}
	}
}

// What cannot be bound, or cannot reach the server's family, is said as such, and says nothing against the host.
func TestSourceAddressThatCannotBeUsed(t *testing.T) {
	haveIPv6(t)
	v4, v6 := harness.StartLive(t, "127.0.0.1:0", nil), harness.StartLive(t, "[::1]:0", nil)
	for _, c := range []struct {
		source, url, says string
		is                error
	}{
		{"192.0.2.1", v4.URL, "cannot assign requested address", syscall.EADDRNOTAVAIL},
		{"::1", v4.URL, "no suitable address", nil},
		{"127.0.0.1", v6.URL, "no suitable address", nil},
	} {
		h := harness.NewCaller(c.url)
		h.ParkAfter(10)
		m, err := wsshard.New[string](h, wsshard.Config{
			Connection: wsshard.ConnectionConfig{SourceIPs: []string{c.source}, CircuitBreakerThreshold: 2},
			Backoff:    wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: time.Millisecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe("a")
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			err = <-h.Failed
		}
		var de *wsshard.DialError
		if !errors.As(err, &de) || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("source %s: %v", c.source, err)
		}
		if n := m.Metrics().CircuitBreakerTrips; n != 0 {
			t.Errorf("source %s: the breaker opened", c.source)
		}
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// Each source address has a gate of its own: one that a server blocks does not hold back the others.
func TestSourceAddressesHaveTheirOwnGates(t *testing.T) {
	srv := harness.StartLive(t, "127.0.0.1:0", nil)
	limiter := &harness.NotingLimiter{}
	h := &sources{Caller: harness.NewCaller(srv.URL)}
	m, err := wsshard.New[string](h, wsshard.Config{
		MaxSubscriptionsPerShard: 1,
		Connection:               wsshard.ConnectionConfig{SourceIPs: []string{"127.0.0.11", "127.0.0.12"}, ShardsPerIP: 1, Limiter: limiter},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe("a", "b")
	if err := errors.Join(m.Start(t.Context()), m.Sync(t.Context()), m.Stop(context.Background())); err != nil {
		t.Fatal(err)
	}
	slices.Sort(limiter.Keys)
	if want := []string{srv.Addr + " 127.0.0.11", srv.Addr + " 127.0.0.12"}; !slices.Equal(limiter.Keys, want) {
		t.Errorf("the limiter was asked about %q, want %q", limiter.Keys, want)
	}
}
