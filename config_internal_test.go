package wsshard

import (
	"net/netip"
	"testing"
	"time"
)

// TestDefaultsYield: a default fits what is set beside it, and what is set stays as it is.
func TestDefaultsYield(t *testing.T) {
	const s = time.Second
	type three struct{ ping, pong, data time.Duration }
	for set, want := range map[three]three{
		{}:                {20 * s, 10 * s, 30 * s},
		{ping: 5 * s}:     {5 * s, 5 * s, 30 * s},
		{ping: 15 * s}:    {15 * s, 10 * s, 30 * s},
		{ping: 60 * s}:    {60 * s, 10 * s, 60 * s},
		{ping: 1}:         {1, 1, 30 * s},
		{ping: -1}:        {-1, 10 * s, 30 * s},
		{pong: 21 * s}:    {21 * s, 21 * s, 30 * s},
		{pong: 40 * s}:    {40 * s, 40 * s, 40 * s},
		{pong: -1}:        {20 * s, -1, 30 * s},
		{data: 10 * s}:    {10 * s, 10 * s, 10 * s},
		{data: 5 * s}:     {5 * s, 5 * s, 5 * s},
		{data: 25 * s}:    {20 * s, 10 * s, 25 * s},
		{data: -1}:        {20 * s, 10 * s, -1},
		{5 * s, 0, 7 * s}: {5 * s, 5 * s, 7 * s},
		{0, 3 * s, 5 * s}: {5 * s, 3 * s, 5 * s},
		{5 * s, 2 * s, 0}: {5 * s, 2 * s, 30 * s},
		{-1, 0, 1 * s}:    {-1, 10 * s, 1 * s},
		{40 * s, 0, -1}:   {40 * s, 10 * s, -1},
		{0, 40 * s, -1}:   {40 * s, 40 * s, -1},
	} {
		c := Config{Health: HealthConfig{PingInterval: set.ping, PongTimeout: set.pong, DataTimeout: set.data}}.withDefaults(0)
		if got := (three{c.Health.PingInterval, c.Health.PongTimeout, c.Health.DataTimeout}); got != want {
			t.Errorf("%+v is filled to %+v, want %+v", set, got, want)
		}
		if err := c.validate(); err != nil {
			t.Errorf("%+v: %v", set, err)
		}
	}
	for set, want := range map[[2]time.Duration][2]time.Duration{
		{}:                  {100 * time.Millisecond, 30 * s},
		{60 * s, 0}:         {60 * s, 60 * s},
		{0, 99 * 1_000_000}: {99 * time.Millisecond, 99 * time.Millisecond},
		{0, 10 * s}:         {100 * time.Millisecond, 10 * s},
		{5 * s, 0}:          {5 * s, 30 * s},
	} {
		c := Config{Backoff: BackoffConfig{InitialDelay: set[0], MaxDelay: set[1]}}.withDefaults(0)
		if got := [2]time.Duration{c.Backoff.InitialDelay, c.Backoff.MaxDelay}; got != want {
			t.Errorf("%v is filled to %v, want %v", set, got, want)
		}
		if err := c.validate(); err != nil {
			t.Errorf("%v: %v", set, err)
		}
	}
}

// TestSourcesInIPv6Clothes: ::ffff:a.b.c.d is an IPv4 address, for the socket and in what is said.
func TestSourcesInIPv6Clothes(t *testing.T) {
	d := newDialer(Config{Connection: ConnectionConfig{SourceIPs: []string{"::ffff:127.0.0.9", "::1"}}}.withDefaults(0).Connection)
	if addr, _ := d.source(0); addr != netip.MustParseAddr("127.0.0.9") || d.egress(0) != "127.0.0.9" || d.egress(10) != "::1" {
		t.Errorf("shard 0 dials from %v, and the egresses are %q and %q", addr, d.egress(0), d.egress(10))
	}
}
