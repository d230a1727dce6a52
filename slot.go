package wsshard

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: what of a shard do its sessions share?

// maxQuiet bounds the data timeout of a quiet market, which doubles each time that a new connection is as silent.
const maxQuiet = 15 * time.Minute

// slot is all of a shard but its loop: its desired set, its counters, its gaps. It outlives connections. The
// shard's sessions hold it, and all of it may be used by any goroutine.
type slot[S comparable] struct {
	core    *core[S]
	run     *run[S] // nil until started; set before its goroutine begins
	id      int
	egress  string
	log     *slog.Logger // written by the reconnect loop before anything else
	desired *reconcile.Desired[S]
	stats   shardStats
	fresh   freshness[S]
	resubs  resubscriptions[S]
	gaps    gaps[S] // what is being missed, until it is proven again

	dataTimeoutNow atomic.Int64  // after silent replacements; 0: the configured one
	wake           chan struct{} // cap 1; the reconnect loop has something to look at

	ticket atomic.Pointer[gate.Ticket] // of the attempt that waits, or dials, or did last
}

// linger is how much later than another a connection of this server may bring a message.
func (s *slot[S]) linger() time.Duration { return max(0, s.core.cfg.Switchover.Linger) }

// wants reports whether a topic is desired now. What nobody needs any more is not waited for.
func (s *slot[S]) wants(sub S) bool {
	_, ok := s.desired.Number(sub)
	return ok
}

func (s *slot[S]) enter(state ShardState) {
	s.stats.set(func(st *shardStats) { st.become(state) })
}

func (s *slot[S]) emit(ev Event[S]) {
	ev.ShardID = s.id
	s.run.emit(ev)
}

// dataTimeout is how long a connection of this shard may be without data; not positive: for ever.
func (s *slot[S]) dataTimeout() time.Duration {
	if now := s.dataTimeoutNow.Load(); now > 0 {
		return time.Duration(now)
	}
	return s.core.cfg.Health.DataTimeout
}

// silent notes a data timeout after so long. Where the connection before was silent too and this one never brought data,
// the market is quiet: the next one gets more time. The first data ends that.
func (s *slot[S]) silent(hadData bool, after time.Duration) {
	base := s.core.cfg.Health.DataTimeout
	if s.dataTimeoutNow.Load() == 0 || hadData {
		s.dataTimeoutNow.Store(int64(base))
	} else {
		s.dataTimeoutNow.Store(int64(max(base, min(2*after, maxQuiet))))
	}
}

// openGap begins a gap of the topics that a session which has ended carried since then, less the server's skew.
func (s *slot[S]) openGap(l *loss[S]) {
	if subs := l.names(s.linger()); len(subs) > 0 {
		s.miss(l.gap(s.linger()), subs)
	}
}

// miss adds a gap of subs, of which g.open may say under which number they are to be proven.
func (s *slot[S]) miss(g *gap[S], subs []S) {
	s.tellGaps(s.gaps.miss(g, subs, s.wants), g.after)
}

// tellGaps says of gaps that they are over; gen is the connection that ended them.
func (s *slot[S]) tellGaps(over []*gap[S], gen uint64) {
	for _, g := range over {
		s.emitGap(g, gen)
		s.log.Warn("gap", "gen", gen, "from", g.from, "to", g.to, "topics", len(g.subs))
	}
}

// emitGap counts a gap and tells the observer. It calls nobody, so a lock may be held.
func (s *slot[S]) emitGap(g *gap[S], gen uint64) {
	if g.to.Before(g.from) {
		g.to = g.from
	}
	s.core.count.gaps.Add(1)
	s.stats.set(func(st *shardStats) { st.gaps, st.lastGap = st.gaps+1, onClock(g.to) })
	s.emit(Event[S]{Kind: EventGap, Generation: gen, From: onClock(g.from), To: onClock(g.to), Sure: onClock(g.sure), Subs: g.subs})
}
