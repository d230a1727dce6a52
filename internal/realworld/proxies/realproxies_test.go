//go:build integration && linux

package proxies

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does the library work with the proxies that people run, from several addresses, behind a web server?

// tinyPassword is plain: tinyproxy's configuration takes letters and digits only.
const tinyPassword = "s3cretpass"

func TestRealProxies(t *testing.T) {
	ca := wstest.NewAuthority(t)
	behind := listenThere(t, "127.0.0.1:0")
	srv := startUpstream(t, behind)
	plain, secure, _ := startNginx(t, ca, behind.Addr().String())
	parts := []part{
		{name: "microsocks", scheme: "socks5", start: startMicrosocks},
		{name: "microsocks with password", scheme: "socks5h", password: password, start: startMicrosocks},
		{name: "dante", scheme: "socks5h", start: startDante},
		{name: "dante with password", scheme: "socks5", password: password, start: startDante},
		{name: "tinyproxy with password", scheme: "http", password: tinyPassword, start: startTinyproxy},
		{name: "stunnel before tinyproxy", scheme: "https", password: tinyPassword, start: startStunnel(ca)},
		{name: "squid with password", scheme: "http", password: password, start: startSquid(nil)},
		{name: "squid over TLS with password", scheme: "https", password: password, start: startSquid(ca)},
	}
	places := []place{
		{family: "IPv4", host: serverIPv4, source: clientsIPv4[1], ws: feedIPv4},
		{family: "IPv6", host: serverIPv6, source: clientsIPv6[1], ws: feedIPv6},
	}
	table := &results{}
	t.Cleanup(func() { table.report(t, rowsEach*len(parts)*len(places)) })
	for _, at := range places {
		name := at.ws
		at.ws, at.wss, at.refused = "ws://"+name+":"+plain+"/", "wss://"+name+":"+secure+"/", "ws://"+name+":1/"
		for _, p := range parts {
			t.Run(p.name+" "+at.family, func(t *testing.T) {
				t.Parallel()
				p.run(t, at, srv, ca.Pool, table)
			})
		}
	}
}

// Thirty shards over three addresses at ten each, as the server sees them; it allows each address ten connections.
func TestShardsOverAddresses(t *testing.T) {
	ca := wstest.NewAuthority(t)
	behind := listenThere(t, "127.0.0.1:0")
	srv := startUpstream(t, behind)
	_, _, limited := startNginx(t, ca, behind.Addr().String())
	for _, c := range []struct {
		host    string
		sources []string
	}{{serverIPv4, clientsIPv4}, {"[" + serverIPv6 + "]", clientsIPv6}} {
		h := &perShard{feed: newFeed("ws://"+c.host+":"+limited+"/", "")}
		m, err := wsshard.New[string](h, wsshard.Config{
			MaxSubscriptionsPerShard: 1,
			Connection:               wsshard.ConnectionConfig{SourceIPs: c.sources, ShardsPerIP: 10},
		})
		if err != nil {
			t.Fatal(err)
		}
		topics := make([]string, 30)
		for i := range topics {
			topics[i] = fmt.Sprint(c.host, i)
		}
		m.Subscribe(topics...)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		before := len(srv.seen())
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		for _, topic := range topics {
			if err := srv.wait(topic, 1); err != nil {
				t.Fatal(err)
			}
		}
		from := make([]string, 30)
		for _, client := range srv.seen()[before:] {
			shard := -1
			fmt.Sscanf(client.path, "/%d", &shard)
			from[shard] = client.from
		}
		for i, addr := range from {
			if want := c.sources[i/10]; addr != want {
				t.Errorf("shard %d came from %q, want %s", i, addr, want)
			}
		}
		t.Logf("shards 0-9 from %v, 10-19 from %v, 20-29 from %v",
			slices.Compact(from[:10]), slices.Compact(from[10:20]), slices.Compact(from[20:]))
		if n := m.Metrics().Errors; n != 0 {
			t.Errorf("%d errors", n)
		}
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// perShard says in the URL which shard it is.
type perShard struct {
	*feed
}

func (h *perShard) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	return fmt.Sprint(h.url, st.ShardID), nil
}

// An eleventh connection of one address is told to wait: it tries again after 1 s and after 4 s more.
func TestAddressAtItsLimit(t *testing.T) {
	ca := wstest.NewAuthority(t)
	behind := listenThere(t, "127.0.0.1:0")
	startUpstream(t, behind)
	_, _, limited := startNginx(t, ca, behind.Addr().String())
	h := newFeed("ws://"+serverIPv4+":"+limited+"/", "")
	m, err := wsshard.New[string](h, wsshard.Config{
		MaxSubscriptionsPerShard: 1,
		Connection:               wsshard.ConnectionConfig{SourceIPs: clientsIPv4[:1], ShardsPerIP: 11},
		Backoff:                  wsshard.BackoffConfig{InitialDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	for i := range 11 {
		m.Subscribe(fmt.Sprint("t", i))
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for tries := 0; ; tries++ {
		select {
		case err := <-h.failed:
			var he *wsshard.HandshakeError
			if !errors.As(err, &he) || he.StatusCode != 429 {
				t.Fatalf("the eleventh failed with %v", err)
			}
			if tries == 2 && m.Metrics().ActiveConnections == 10 {
				t.Logf("ten are connected, the eleventh: %v", err)
				return
			}
		case <-late.C:
			t.Fatalf("%d are connected", m.Metrics().ActiveConnections)
		}
	}
}

// An address that goes away is said to be what it is, and speaks for no fault of the server's. Shards of other addresses
// live on. When it is back, so are its shards.
func TestAddressGoesAway(t *testing.T) {
	for _, c := range []struct{ family, host, stays, goes, bits string }{
		{"-4", serverIPv4, clientsIPv4[1], "10.77.0.14", "/24"},
		{"-6", "[" + serverIPv6 + "]", clientsIPv6[1], "fd77::14", "/64"},
	} {
		addr := func(do string, more ...string) {
			t.Helper()
			args := append([]string{c.family, "addr", do, c.goes + c.bits, "dev", "cable"}, more...)
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
		}
		there := []string{}
		if c.family == "-6" {
			there = []string{"nodad"}
		}
		l := listenThere(t, c.host+":0")
		srv := startUpstream(t, l)
		addr("add", there...)
		h := newFeed("ws://"+c.host+":"+port(l)+"/", "")
		m, err := wsshard.New[string](h, wsshard.Config{
			MaxSubscriptionsPerShard: 1,
			Connection:               wsshard.ConnectionConfig{SourceIPs: []string{c.stays, c.goes}, ShardsPerIP: 1, CircuitBreakerThreshold: 3},
			Backoff:                  wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe("stays", "goes")
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(srv.wait("stays", 1), srv.wait("goes", 1)); err != nil {
			t.Fatal(err)
		}
		addr("del")
		if err := m.Reconnect(1); err != nil {
			t.Fatal(err)
		}
		late := time.NewTimer(patience)
		for range 10 {
			select {
			case err := <-h.failed:
				if errors.Is(err, wsshard.ErrReconnect) {
					continue // the connection that was broken
				}
				if !errors.Is(err, syscall.EADDRNOTAVAIL) {
					t.Errorf("without its address shard 1 failed with %v", err)
				}
			case <-late.C:
				t.Fatal("shard 1 did not fail")
			}
		}
		late.Stop()
		got := m.Metrics()
		if got.CircuitBreakerTrips != 0 || !got.Shards[0].IsConnected || got.Shards[0].Generation != 1 {
			t.Errorf("%d breaker trips, shard 0: %+v", got.CircuitBreakerTrips, got.Shards[0])
		}
		t.Logf("without its address: %v", got.Shards[1].LastError)
		addr("add", there...)
		if err := srv.wait("goes", 1); err != nil {
			t.Error(err)
		}
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		addr("del")
	}
}
