//go:build integration && linux

package egress

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does the library work with the proxies that people run, from several addresses, behind a web server?

// tinyPassword is plain: tinyproxy's configuration takes letters and digits only.
const tinyPassword = "s3cretpass"

func TestRealProxies(t *testing.T) {
	ca := newAuthority(t)
	behind := listenThere(t, "127.0.0.1:0")
	srv := startUpstream(t, behind)
	plain, secure, _ := startNginx(t, ca, behind.Addr().String())
	table := &results{}
	t.Cleanup(func() { table.report(t) })
	for _, at := range []place{
		{family: "IPv4", host: serverIPv4, source: clientsIPv4[1], ws: feedIPv4},
		{family: "IPv6", host: serverIPv6, source: clientsIPv6[1], ws: feedIPv6},
	} {
		name := at.ws
		at.ws, at.wss, at.refused = "ws://"+name+":"+plain+"/", "wss://"+name+":"+secure+"/", "ws://"+name+":1/"
		for _, p := range []part{
			{name: "microsocks", scheme: "socks5", start: startMicrosocks},
			{name: "microsocks with password", scheme: "socks5h", password: password, start: startMicrosocks},
			{name: "dante", scheme: "socks5h", start: startDante},
			{name: "dante with password", scheme: "socks5", password: password, start: startDante},
			{name: "tinyproxy with password", scheme: "http", password: tinyPassword, start: startTinyproxy},
			{name: "stunnel before tinyproxy", scheme: "https", password: tinyPassword, start: startStunnel(ca)},
			{name: "squid with password", scheme: "http", password: password, start: startSquid(nil)},
			{name: "squid over TLS with password", scheme: "https", password: password, start: startSquid(ca)},
		} {
			t.Run(p.name+" "+at.family, func(t *testing.T) {
				t.Parallel()
				p.run(t, at, srv, ca.pool, table)
			})
		}
	}
}

// Thirty shards over three addresses at ten each, as the server sees them; it allows each address ten connections.
func TestShardsOverAddresses(t *testing.T) {
	ca := newAuthority(t)
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
		if err := m.Sync(ctx); err != nil {
			t.Fatal(err)
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

// An eleventh connection of one address is told to wait, and an address that went away is said to be what it is.
func TestAddressesAtTheirLimits(t *testing.T) {
	ca := newAuthority(t)
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
			if tries > 3 && m.Metrics().ActiveConnections == 10 {
				t.Logf("ten are connected, the eleventh: %v", err)
				return
			}
		case <-late.C:
			t.Fatalf("%d are connected", m.Metrics().ActiveConnections)
		}
	}
}
