package wsshard

import (
	"errors"
	"time"
)

// This file answers: what may have been missed, and since when?

// gap is what a shard is missing, from the loss of a connection until everything is proven on a later one.
type gap[S comparable] struct {
	from time.Time
	subs map[S]struct{}
	gen  uint64 // the connection that is to prove everything must be younger
}

// gapFrom is when what cause ended may have begun to be missed: the last frame before whatever did not end. Where the
// connection went on with pongs but without data, the last data. Where a slow handler left something unread, the moment until
// which all had been read: what the peer sent since may be lost, though the last frame was read later than it was sent.
func (c *session[S]) gapFrom(cause error) time.Time {
	if at := c.silentAt.Load(); at != 0 { // as it was found then; in its drain it may have come back for a moment
		return time.Unix(0, at)
	}
	if errors.Is(cause, ErrDataTimeout) {
		return c.lastData()
	}
	last := c.lastFrame()
	if at := c.unread.Load(); at != 0 && c.conn.At(time.Duration(at)).Before(last) {
		return c.conn.At(time.Duration(at))
	}
	return last
}

// openGap begins or extends the shard's gap, if the ended session lost had anything applied.
func (s *shard[S]) openGap(lost *session[S], from time.Time) {
	if len(lost.carried) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gap == nil { // else from stays: up to there the connection lost first has delivered
		s.gap = &gap[S]{from: from, subs: make(map[S]struct{}, len(lost.carried))}
	}
	s.gap.gen = max(s.gap.gen, lost.st.Generation)
	for _, sub := range lost.carried {
		s.gap.subs[sub] = struct{}{}
	}
}

// closeGap ends the gap, if there is one and c came after it, where all that c has written is proven. That may have been so
// before c came to deliver.
func (s *shard[S]) closeGap(c *session[S]) {
	at := c.provenAt.Load()
	if at == 0 {
		return
	}
	s.mu.Lock()
	g := s.gap
	if g == nil || c.st.Generation <= g.gen || s.live.Load() != c {
		s.mu.Unlock()
		return
	}
	s.gap = nil
	s.mu.Unlock()
	to := time.Unix(0, at)
	if to.Before(g.from) {
		to = g.from
	}
	s.m.count.gaps.Add(1)
	s.stats.set(func(st *shardStats) { st.gaps, st.lastGap = st.gaps+1, to })
	ev := Event[S]{Kind: EventGap, Generation: c.st.Generation, From: g.from, To: to}
	for sub := range g.subs {
		ev.Subs = append(ev.Subs, sub)
	}
	s.log.Warn("gap", "gen", c.st.Generation, "from", g.from, "to", to, "topics", len(ev.Subs))
	s.emit(ev)
}
