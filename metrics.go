package wsshard

import (
	"sync"
	"sync/atomic"
	"time"
)

// This file answers: what happened so far?

// Metrics is a copy of what a manager counted, as sql.DBStats is. Totals live as long as the manager, over Stop and Start;
// per-shard values end with Stop.
type Metrics struct {
	Connections              uint64         // opened
	Reconnections            uint64         // opened after a shard's first
	MessagesReceived         uint64         // data messages, heartbeats and held ones too
	MessagesSent             uint64         // requests, replies, text pings, what OnConnect and Send say
	BytesReceived, BytesSent uint64         // payload of those, decompressed
	Errors                   uint64         // failed attempts and lost connections
	PingsSent, PongsReceived uint64         // of every kind; pongs nobody asked for too
	HealthFailures           uint64         // missed pongs, data and message timeouts
	Rebalances               uint64         // shards opened after Start because the others were full
	HotSwitchovers           uint64         // that were completed
	HotSwitchoverFailures    uint64         // that were begun and not completed
	SubscriptionSendFailures uint64         // requests that could not be encoded or written
	SubscriptionsRejected    uint64         // topics that failed: not encoded, rejected, not answered
	CircuitBreakerTrips      uint64         // how often a door was shut: DoorReport.Reason says why, but for bench, which shuts none
	HandlerPanics            uint64         // callbacks that panicked or left by runtime.Goexit, slog.Handlers too
	SequenceDrops            uint64         // messages dropped for a SequenceRecovery
	DuplicatesDropped        uint64         // by key, in switchovers
	DuplicateKeys            uint64         // one key twice on one connection
	Gaps                     uint64         // that are over: EventGap
	EventsDropped            uint64         // by a slow EventObserver
	RepliesDropped           uint64         // Verdict.Reply, because too many waited to be written
	ActiveConnections        int            // shards with a live one
	TotalSubscriptions       int            // wanted
	Shards                   []ShardMetrics // by ShardID
	Doors                    []DoorReport   // by Host and Egress: those that are shut or have a line
}

// DoorReport says why dials to a host by an egress wait: in EventBreakerOpen, EventBreakerClosed and EventSingleConnection, and
// in Metrics.Doors. A copy.
type DoorReport struct {
	Host, Egress string // host:port as the URL says; as ConnectionState says
	// Reason: down (dials fail), toomany (429, 418), retryafter (the host, or a proxy, has named a time), bench (it refuses
	// shards in person: 401, 403, 407), limiter (Connection.Limiter makes one wait); of EventSingleConnection:
	// single-connection, connections, displacing. "": open.
	Reason  string
	Status  int           // the HTTP status that shut it; 0: none
	Failed  int           // dials in a row
	Until   time.Time     // when the next may be tried; zero: at once
	Waiting int           // shards and switchovers in line, and on the bench
	Benched int           // shards refused with 401, 403 or 407, and not let in since
	Width   int           // dials that may be in flight: one at first, and one more with each success
	Lasted  time.Duration // how long it has been shut; of EventBreakerClosed: how long it was
}

// ShardState is what a shard is doing.
type ShardState int

const (
	ShardConnecting ShardState = iota
	ShardConnected
	ShardBackoff
	ShardSwitching // connected, and moving to a new connection
	ShardParked
	ShardStopped // not started
)

// String returns the state in a word: "backoff".
func (s ShardState) String() string {
	return name(s, "connecting", "connected", "backoff", "switching", "parked", "stopped")
}

// ShardMetrics is one shard's part of Metrics.
type ShardMetrics struct {
	ShardID                         int
	State                           ShardState
	SubscriptionCount               int
	IsConnected                     bool
	Generation                      uint64
	ConnectedAt, LastMessageAt      time.Time     // zero: never
	ReconnectAttempt                int           // failed dials since the last stable connection, and how often a door was found shut
	TotalUptime, RTT                time.Duration // RTT 0: not measured on this connection
	MessagesReceived, BytesReceived uint64
	Gaps                            uint64
	LastGap                         time.Time // when the last one ended
	LastError                       error     // of the last failed attempt or lost connection; it stays
	Egress                          string    // as in ConnectionState
}

// counters are a manager's totals.
type counters struct {
	connections, reconnections, sent, sentBytes, errors, pings, pongs, sick, rebalances, switched, switchFailed,
	sendFailures, rejected, trips, panics, sequenceDrops, duplicates, duplicateKeys, gaps, eventsDropped,
	repliesDropped atomic.Uint64
	received, receivedBytes atomic.Uint64 // of shards that are no more
}

// shardStats are one shard's counters. The first two are written for each message: they have a cache line of their own.
type shardStats struct {
	messages, bytes atomic.Uint64
	_               [48]byte
	lastMessage     atomic.Int64 // instant; 0: never

	mu      sync.Mutex // protects following fields; a leaf lock
	state   ShardState
	since   time.Time // it is in this state
	next    time.Time // the next attempt, of ShardBackoff
	gen     uint64
	opened  time.Time // of the live connection; zero: none
	uptime  time.Duration
	failed  int // dials, since the last stable connection
	err     error
	egress  string
	gaps    uint64
	lastGap time.Time
}

func (s *shardStats) set(f func(s *shardStats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// become notes under set that another state begins.
func (s *shardStats) become(state ShardState) {
	if s.state != state {
		s.state, s.since = state, time.Now()
	}
}

func (s *shardStats) parked() (yes bool) {
	s.set(func(s *shardStats) { yes = s.state == ShardParked })
	return yes
}

// revive ends being parked: Subscribe and Sync may follow at once.
func (s *shardStats) revive() {
	s.set(func(s *shardStats) {
		if s.state == ShardParked {
			s.become(ShardConnecting)
		}
	})
}

// snapshot fills in what the stats know.
func (s *shardStats) snapshot(now time.Time, stableAfter time.Duration) ShardMetrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := ShardMetrics{
		State:            s.state,
		IsConnected:      !s.opened.IsZero(),
		Generation:       s.gen,
		ConnectedAt:      s.opened,
		ReconnectAttempt: s.failed,
		TotalUptime:      s.uptime,
		MessagesReceived: s.messages.Load(),
		BytesReceived:    s.bytes.Load(),
		Gaps:             s.gaps,
		LastGap:          s.lastGap,
		LastError:        s.err,
		Egress:           s.egress,
	}
	if m.IsConnected {
		up := now.Sub(s.opened)
		m.TotalUptime += up
		if up >= stableAfter {
			m.ReconnectAttempt = 0
		}
	}
	return m
}

// snapshot fills in the totals.
func (c *counters) snapshot() Metrics {
	return Metrics{
		Connections:              c.connections.Load(),
		Reconnections:            c.reconnections.Load(),
		MessagesReceived:         c.received.Load(),
		MessagesSent:             c.sent.Load(),
		BytesReceived:            c.receivedBytes.Load(),
		BytesSent:                c.sentBytes.Load(),
		Errors:                   c.errors.Load(),
		PingsSent:                c.pings.Load(),
		PongsReceived:            c.pongs.Load(),
		HealthFailures:           c.sick.Load(),
		Rebalances:               c.rebalances.Load(),
		HotSwitchovers:           c.switched.Load(),
		HotSwitchoverFailures:    c.switchFailed.Load(),
		SubscriptionSendFailures: c.sendFailures.Load(),
		SubscriptionsRejected:    c.rejected.Load(),
		CircuitBreakerTrips:      c.trips.Load(),
		HandlerPanics:            c.panics.Load(),
		SequenceDrops:            c.sequenceDrops.Load(),
		DuplicatesDropped:        c.duplicates.Load(),
		DuplicateKeys:            c.duplicateKeys.Load(),
		Gaps:                     c.gaps.Load(),
		EventsDropped:            c.eventsDropped.Load(),
		RepliesDropped:           c.repliesDropped.Load(),
	}
}
