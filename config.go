package wsshard

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// This file answers: what can be set, and what are the defaults? validate.go says what is refused.

// Config of a ShardManager. The zero value works: a zero field means its default, given in each comment. Negative: timeouts
// and intervals are off, counts have no limit. New copies it.
//
// New refuses, with a *ConfigError for each field, joined: a negative ConnectTimeout, WriteTimeout, InitialDelay, MaxDelay,
// StableAfter, Window, ShardsPerIP or ReadBufferSize; a Multiplier that is neither 0 nor at least 1, NaN or infinite;
// MaxDelay < InitialDelay; PongTimeout > PingInterval and DataTimeout < PingInterval where both are on; and what a field's
// comment says. A field that is not set never contradicts one that is: its default yields.
type Config struct {
	Connection ConnectionConfig
	Backoff    BackoffConfig
	Health     HealthConfig
	Subscribe  SubscribeConfig
	Switchover SwitchoverConfig

	MaxSubscriptionsPerShard int // the handler's (SubscriptionLimiter), else 500
	MaxShards                int // no limit
	ShardSelection           ShardSelectionStrategy
	DisableHotSwitchover     bool         // then HotSwitchover and every trigger reconnects; HotSwitchover returns when connected again
	DisableAutoRebalance     bool         // then the shards that Start opens (its topics' need, at least one) are all there are; full: ErrCapacity
	Logger                   *slog.Logger // nil discards
}

// ShardSelectionStrategy says which of the shards with room takes a new subscription.
type ShardSelectionStrategy int

const (
	LeastLoaded ShardSelectionStrategy = iota // one with the fewest
	RoundRobin                                // each in turn
	Sequential                                // the lowest shard id, until it is full
)

// String returns the strategy in words: "least-loaded".
func (s ShardSelectionStrategy) String() string {
	return name(s, "least-loaded", "round-robin", "sequential")
}

// ConnectionConfig says how to reach the server.
type ConnectionConfig struct {
	ConnectTimeout             time.Duration // 10s: URL, headers, dial, proxy, TLS, upgrade, login together; waiting for a turn is not counted
	WriteTimeout               time.Duration // 5s for each frame; then the connection ends
	MaxConnectAttempts         int           // never give up; positive: so many failures in a row park the shard (failed dials, sessions lost before StableAfter)
	ProactiveReconnectInterval time.Duration // 23h, by hot switchover, spread: a first life, and each after a lost connection, is between half of it and all, later ones lose up to 10 %
	CircuitBreakerThreshold    int           // 5 failed dials in a row to one (host, egress); negative: only what a host answers holds dials back
	CircuitBreakerResetTimeout time.Duration // 5s at most to the next probe, after 250ms doubling; one probe serves every shard; negative: as a negative Threshold
	MaxConcurrentDials         int           // 16 for each (host, egress), beginning with one and one more for each success
	Limiter                    ConnectLimiter
	LowLatencyMode             bool     // zero-copy delivery, no per-message panic guard, no UTF-8 check
	SourceIPs                  []string // IPv4 or IPv6 literals, each once; ::ffff:a.b.c.d is a.b.c.d; excludes NetDialContext
	ShardsPerIP                int      // 10; past len(SourceIPs)*ShardsPerIP it wraps, with one warning
	Proxy                      string   // socks5://, socks5h://, http://, https://, with user:password@
	TLSConfig                  *tls.Config
	Header                     http.Header // static headers; those that the handshake owns are refused
	ReadBufferSize             int         // 4096 bytes; only for what is neither TCP nor TLS on it: those borrow 64 KiB while bytes come
	ReadLimit                  int64       // 16 MiB, decompressed; a longer announced length is refused at once
	EnableCompression          bool        // permessage-deflate, each message by itself: a server that insists on more is dialled once more without, and not asked again
	Subprotocols               []string
	// MaxUnfinished is how many bytes the unfinished messages of all the manager's connections may hold together, 256 MiB by
	// default: decompressed, and as far as they are longer than the 32 KiB that a connection may keep. Beyond that the
	// connection whose message is the longest ends with ErrMaxUnfinished.
	MaxUnfinished  int64
	NetDialContext func(ctx context.Context, network, addr string) (net.Conn, error) // dials the server, or the proxy
}

// BackoffConfig says when to try again: uniform in [0, min(MaxDelay, InitialDelay·Multiplierⁿ)], known as full jitter (M.
// Brooker, "Exponential Backoff and Jitter", 2015).
type BackoffConfig struct {
	InitialDelay, MaxDelay time.Duration // 100ms, 30s; a default yields to the other where that is set
	Multiplier             float64       // 2
	DisableJitter          bool
	StableAfter            time.Duration // 5s up before the backoff starts over: what ended a storm of reconnects at destinygg/chat-gui (PR 872)
}

// HealthConfig says when a connection is sick. Deadlines run on the reader's clock: time in a callback does not count.
type HealthConfig struct {
	// 20s, 10s, 30s (with a topic applied), 30s. PongTimeout is at most PingInterval, and PingInterval at most DataTimeout, where
	// they are on. A default yields to what is set: PingInterval 5s alone has PongTimeout 5s, DataTimeout 10s alone has the other
	// two 10s, PingInterval 1m alone has DataTimeout 1m. Fields that are set and contradict each other are refused.
	PingInterval, PongTimeout, DataTimeout, MessageTimeout time.Duration
	FailureThreshold                                       int    // 3 missed pongs; negative: pongs are not judged
	TextPing, TextPong                                     string // replaces the ping frame; TextPong not set: "PONG" in any case of it. A TextPong alone is what answers a PingMessenger
}

// SubscribeConfig says how requests are written.
type SubscribeConfig struct {
	MaxPerMessage     int           // 100 topics; negative: all in one
	MessagesPerWindow int           // no limit; every frame written counts, control frames too
	Window            time.Duration // 1s
	AckTimeout        time.Duration // 10s
}

// SwitchoverConfig says how a live connection is replaced.
type SwitchoverConfig struct {
	Timeout       time.Duration // 10s from the last request written to the cutover, which then skips Linger and keys if all is proven
	Settle        time.Duration // 1s: without an Acknowledger a topic so long silent after its request counts as live; negative: at once
	Linger        time.Duration // 250ms: at least the server's fan-out skew. So long a silent connection's replacement brings data before it takes over
	DrainTimeout  time.Duration // 2s
	MaxConcurrent int           // max(4, shards/32) at once; a silent connection, or one whose server gave notice, does not wait for that
	HoldMessages  int           // 65536. When as much waits: the cutover at once, or ErrSwitchoverHold where the new one is not ready
	HoldBytes     int           // 32 MiB
}

// withDefaults fills what is zero. handlerLimit is the handler's own MaxSubscriptionsPerShard, 0 for none.
func (c Config) withDefaults(handlerLimit int) Config {
	orDefault(&c.MaxSubscriptionsPerShard, handlerLimit)
	orDefault(&c.MaxSubscriptionsPerShard, 500)

	n := &c.Connection
	orDefault(&n.ConnectTimeout, 10*time.Second)
	orDefault(&n.WriteTimeout, 5*time.Second)
	orDefault(&n.ProactiveReconnectInterval, 23*time.Hour)
	orDefault(&n.CircuitBreakerThreshold, 5)
	orDefault(&n.CircuitBreakerResetTimeout, 5*time.Second)
	orDefault(&n.MaxConcurrentDials, 16)
	orDefault(&n.ShardsPerIP, 10)
	orDefault(&n.ReadBufferSize, 4096)
	orDefault(&n.ReadLimit, 16<<20)
	orDefault(&n.MaxUnfinished, 256<<20)
	n.Header = n.Header.Clone()
	n.SourceIPs = append([]string(nil), n.SourceIPs...)
	n.Subprotocols = append([]string(nil), n.Subprotocols...)

	b := &c.Backoff
	if b.InitialDelay == 0 && b.MaxDelay > 0 {
		b.InitialDelay = min(100*time.Millisecond, b.MaxDelay)
	}
	orDefault(&b.InitialDelay, 100*time.Millisecond)
	orDefault(&b.MaxDelay, max(30*time.Second, b.InitialDelay))
	orDefault(&b.Multiplier, 2)
	orDefault(&b.StableAfter, 5*time.Second)

	h := &c.Health
	h.fit()
	orDefault(&h.MessageTimeout, 30*time.Second)
	orDefault(&h.FailureThreshold, 3)

	s := &c.Subscribe
	orDefault(&s.MaxPerMessage, 100)
	orDefault(&s.Window, time.Second)
	orDefault(&s.AckTimeout, 10*time.Second)

	o := &c.Switchover
	orDefault(&o.Timeout, 10*time.Second)
	orDefault(&o.Settle, time.Second)
	orDefault(&o.Linger, 250*time.Millisecond)
	orDefault(&o.DrainTimeout, 2*time.Second)
	orDefault(&o.HoldMessages, 65536)
	orDefault(&o.HoldBytes, 32<<20)

	for _, d := range []*time.Duration{
		&n.ConnectTimeout, &n.WriteTimeout, &n.ProactiveReconnectInterval, &n.CircuitBreakerResetTimeout,
		&b.InitialDelay, &b.MaxDelay, &b.StableAfter, &h.PingInterval, &h.PongTimeout, &h.DataTimeout, &h.MessageTimeout,
		&s.Window, &s.AckTimeout, &o.Timeout, &o.Settle, &o.Linger, &o.DrainTimeout,
	} {
		*d = min(*d, eternity)
	}
	return c
}

// fit fills the defaults of the three intervals that bound each other, so that they fit what is set.
func (h *HealthConfig) fit() {
	if h.PingInterval == 0 {
		h.PingInterval = max(20*time.Second, h.PongTimeout)
		if h.DataTimeout > 0 {
			h.PingInterval = min(h.PingInterval, h.DataTimeout)
		}
	}
	if h.PongTimeout == 0 {
		h.PongTimeout = 10 * time.Second
		if h.PingInterval > 0 {
			h.PongTimeout = min(h.PongTimeout, h.PingInterval)
		}
	}
	orDefault(&h.DataTimeout, max(30*time.Second, h.PingInterval))
}

// eternity is as good as any longer duration, and several of them can be added.
const eternity = time.Duration(1 << 58) // nine years

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
