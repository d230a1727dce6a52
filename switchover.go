package wsshard

import (
	"context"
	"errors"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: who asks for a switchover, and who joins one?

// Triggers of a switchover, as its report names them.
const (
	triggerCall     = "call"
	triggerLifetime = "lifetime"
	triggerData     = "data-timeout"
	triggerPong     = "pong-timeout"
	triggerNotice   = "notice"
	triggerCapacity = "capacity"
)

// noticeTwice is how long a notice that is heard again on the new connection starts nothing.
const noticeTwice = time.Minute

// wish is a switchover that is asked for or under way. While it is shard.wish, shard.mu protects what says so.
type wish struct {
	trigger string        // of who asked first
	class   gate.Urgency  // under shard.mu
	silent  error         // why the old connection is taken for dead; nil: it lives. Under shard.mu
	callers int           // that wait for it. Under shard.mu
	routine bool          // goes on without callers. Under shard.mu
	aborted bool          // nobody wants it any more. Under shard.mu
	aged    bool          // age asked for it, too. Under shard.mu
	noticed bool          // a notice asked for it, too. Under shard.mu
	done    chan struct{} // closed when it is over
	err     error         // set before done is closed
}

// end tells who waits how the switchover ended. It must not be shard.wish any more, or somebody could join it yet.
func (wish *wish) end(err error) {
	wish.err = err
	close(wish.done)
}

// HotSwitchover replaces the shard's connection and returns when the new one has taken over; it joins a switchover in
// progress. On error the old connection is untouched: ErrSwitchoverTimeout, ErrSwitchoverHold, ErrCircuitOpen, a *DialError.
// ErrNotConnected when the shard is down, with ErrShardParked when it gave up; ErrUnknownShard, ErrStopped. A ctx that ends
// aborts the switchover, unless something else asked for it too. ErrInCallback: it has begun.
func (m *ShardManager[S]) HotSwitchover(ctx context.Context, shardID int) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	if s.live.Load() == nil {
		return s.whyDown()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wish := s.ask(&wish{trigger: triggerCall, class: gate.Asked})
	if s.live.Load() == nil && !s.closesFirst() { // lost in between: its loop may have looked already
		s.leaveWish(wish)
		return s.whyDown()
	}
	if m.inCallback(ctx) {
		return ErrInCallback // its caller is counted for good: nothing aborts it
	}
	select {
	case <-wish.done:
		return wish.err
	case <-ctx.Done():
		s.leaveWish(wish)
		return context.Cause(ctx)
	}
}

// ask asks for a switchover as wish describes, or joins the one that is asked for already.
func (s *shard[S]) ask(wish *wish) *wish {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wish == nil {
		wish.done = make(chan struct{})
		if s.over { // a whole Stop came between the caller's look at the shard and this
			wish.end(ErrStopped)
			return wish
		}
		s.wish = wish
	}
	now := s.wish
	now.callers++
	now.aborted = false
	now.routine = now.routine || wish.trigger != triggerCall
	now.aged = now.aged || wish.trigger == triggerLifetime
	now.noticed = now.noticed || wish.trigger == triggerNotice
	now.class = min(now.class, wish.class)
	if now.silent == nil {
		now.silent = wish.silent
	}
	poke(s.wake)
	return now
}

// leaveWish says that one caller waits no more. The last one aborts a switchover that nothing else asked for.
func (s *shard[S]) leaveWish(wish *wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wish.callers--; wish.callers == 0 && !wish.routine {
		wish.aborted = true
	}
	poke(s.wake)
}

// pendingWish returns the switchover that is asked for. One that nobody wants any more ends here.
func (s *shard[S]) pendingWish() *wish {
	s.mu.Lock()
	wish := s.wish
	aborted := wish != nil && wish.aborted
	if aborted {
		s.wish = nil
	}
	s.mu.Unlock()
	if aborted {
		wish.end(context.Canceled)
		return nil
	}
	return wish
}

// look returns what may change while a switchover is under way. One that nobody wants any more is let go of: whoever asks
// from now on means another.
func (s *shard[S]) look(wish *wish) (class gate.Urgency, silent, aborted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wish.aborted && s.wish == wish {
		s.wish = nil
	}
	return wish.class, s.silenceLocked(wish) != nil, wish.aborted
}

// silenceLocked returns why the old connection is taken for dead. Data that it has brought since makes it a live one, which is
// judged like any other from then on.
func (s *shard[S]) silenceLocked(wish *wish) error {
	if c := s.live.Load(); wish.silent != nil && c != nil && c.revived() {
		wish.silent = nil
		c.silentAt.Store(0)
		poke(c.wake)
	}
	return wish.silent
}

// warned reports whether a server's notice asks for wish, too.
func (s *shard[S]) warned(wish *wish) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wish.noticed
}

// takeWish takes the switchover that is asked for, if any, so that nobody joins it any more.
func (s *shard[S]) takeWish() *wish {
	s.mu.Lock()
	defer s.mu.Unlock()
	wish := s.wish
	s.wish = nil
	return wish
}

// closeWish keeps others from joining wish, and says whether its connection was silent.
func (s *shard[S]) closeWish(wish *wish) (silent error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wish == wish {
		s.wish = nil
	}
	return s.silenceLocked(wish)
}

// answerWish ends the switchover that is asked for, if any.
func (s *shard[S]) answerWish(err error) {
	if wish := s.takeWish(); wish != nil {
		wish.end(err)
	}
}

// replaceFull asks for a connection with room, for topics that the live one has none for.
func (s *shard[S]) replaceFull() {
	if s.core.cfg.DisableHotSwitchover {
		s.askReconnect()
		return
	}
	s.ask(&wish{trigger: triggerCapacity, class: gate.Asked})
}

// replaceSilent asks for c, which is silent, to be replaced. It returns false if c must reconnect instead.
func (s *shard[S]) replaceSilent(c *session[S], cause error) bool {
	if s.closesFirst() || s.live.Load() != c {
		return false
	}
	trigger := triggerData
	if errors.Is(cause, ErrPongTimeout) {
		trigger = triggerPong
	}
	s.ask(&wish{trigger: trigger, class: gate.Asked, silent: cause})
	return true
}

// notice takes a server's word that c is about to be closed. What c hears before it delivers is heeded when it comes to.
func (s *shard[S]) notice(c *session[S]) {
	c.warned.Store(int64(time.Since(c.opened)) + 1)
	if s.live.Load() == c {
		s.heed(c)
	}
}

// heed asks for what a notice calls for, unless another goroutine has done so. A notice that is heard again, in its first
// minute, on the connection that it brought, calls for nothing: when c comes to deliver makes no difference.
func (s *shard[S]) heed(c *session[S]) {
	age := time.Duration(c.warned.Swap(0))
	switch {
	case age == 0:
	case s.noticed.Load() == c.st.Generation && age <= noticeTwice:
	case s.closesFirst():
		s.noticed.Store(c.st.Generation + 1)
		s.askReconnect()
	default:
		s.ask(&wish{trigger: triggerNotice, class: gate.Routine})
	}
}

// lifetime is how long a connection may live. One that no connection of ours made way for draws from the upper half of the
// interval, later ones lose up to a tenth: those that began together, or were lost together, do not end together. Without a
// limit it is a very long time. It is shorter than drawn by what it may have to wait for others.
func (s *shard[S]) lifetime(fresh bool) time.Duration {
	d := s.core.cfg.Connection.ProactiveReconnectInterval
	if d <= 0 {
		return 1 << 62
	}
	spread := float64(d) / 10
	if fresh {
		spread = float64(d) / 2
	}
	early := min(float64(s.run.gate.Lead()), float64(d)/10) // for the wait until its turn in the rotation
	return d - time.Duration(early+s.uniform()*(spread-early))
}

// grownOld replaces a session because of its age, when its turn in the rotation has come (slot). It says when to look again,
// and whether that is its turn. A shard that has been emptied is left alone until it has a topic again, and so is one whose
// host allows one connection for a key: there a new connection would cost a gap for no reason.
func (s *shard[S]) grownOld(cur *session[S], slot bool) (again time.Duration, isSlot bool) {
	const never = 1 << 62
	switch {
	case s.desired.Len() == 0 && cur.settledUpTo.Load() > 0:
		return s.core.cfg.Connection.ProactiveReconnectInterval / 32, false
	case s.core.cfg.DisableHotSwitchover:
		if !slot {
			return s.run.gate.Slot(), true
		}
		cur.end(ErrMaxLifetime)
	case s.closesFirst():
	case !slot:
		return s.run.gate.Slot(), true
	default:
		s.ask(&wish{trigger: triggerLifetime, class: gate.Routine})
	}
	return never, false
}
