package wsshard

import (
	"context"
	"errors"
	"sync"
	"time"
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

// move is a switchover that is asked for or under way. While it is shard.move, shard.mu protects what says so.
type move struct {
	trigger string        // of who asked first
	class   urgency       // under shard.mu
	silent  error         // why the old connection is taken for dead; nil: it lives. Under shard.mu
	callers int           // that wait for it. Under shard.mu
	routine bool          // goes on without callers. Under shard.mu
	aborted bool          // nobody wants it any more. Under shard.mu
	aged    bool          // age asked for it, too. Under shard.mu
	noticed bool          // a notice asked for it, too. Under shard.mu
	done    chan struct{} // closed when it is over
	err     error         // set before done is closed
}

// end tells who waits how the switchover ended. It must not be shard.move any more, or somebody could join it yet.
func (mv *move) end(err error) {
	mv.err = err
	close(mv.done)
}

// ask asks for a switchover as mv describes, or joins the one that is asked for already.
func (s *shard[S]) ask(mv *move) *move {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.move == nil {
		mv.done = make(chan struct{})
		if s.over { // a whole Stop came between the caller's look at the shard and this
			mv.end(ErrStopped)
			return mv
		}
		s.move = mv
	}
	now := s.move
	now.callers++
	now.aborted = false
	now.routine = now.routine || mv.trigger != triggerCall
	now.aged = now.aged || mv.trigger == triggerLifetime
	now.noticed = now.noticed || mv.trigger == triggerNotice
	now.class = min(now.class, mv.class)
	if now.silent == nil {
		now.silent = mv.silent
	}
	poke(s.wake)
	return now
}

// leaveMove says that one caller waits no more. The last one aborts a switchover that nothing else asked for.
func (s *shard[S]) leaveMove(mv *move) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mv.callers--; mv.callers == 0 && !mv.routine {
		mv.aborted = true
	}
	poke(s.wake)
}

// pendingMove returns the switchover that is asked for. One that nobody wants any more ends here.
func (s *shard[S]) pendingMove() *move {
	s.mu.Lock()
	mv := s.move
	aborted := mv != nil && mv.aborted
	if aborted {
		s.move = nil
	}
	s.mu.Unlock()
	if aborted {
		mv.end(context.Canceled)
		return nil
	}
	return mv
}

// look returns what may change while a switchover is under way. One that nobody wants any more is let go of: whoever asks
// from now on means another.
func (s *shard[S]) look(mv *move) (class urgency, silent, aborted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mv.aborted && s.move == mv {
		s.move = nil
	}
	return mv.class, s.silenceLocked(mv) != nil, mv.aborted
}

// silenceLocked returns why the old connection is taken for dead. Data that it has brought since makes it a live one, which is
// judged like any other from then on.
func (s *shard[S]) silenceLocked(mv *move) error {
	if c := s.live.Load(); mv.silent != nil && c != nil && c.revived() {
		mv.silent = nil
		c.silentAt.Store(0)
		poke(c.wake)
	}
	return mv.silent
}

// takeMove takes the switchover that is asked for, if any, so that nobody joins it any more.
func (s *shard[S]) takeMove() *move {
	s.mu.Lock()
	defer s.mu.Unlock()
	mv := s.move
	s.move = nil
	return mv
}

// closeMove keeps others from joining mv, and says whether its connection was silent.
func (s *shard[S]) closeMove(mv *move) (silent error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.move == mv {
		s.move = nil
	}
	return s.silenceLocked(mv)
}

// answerMove ends the switchover that is asked for, if any.
func (s *shard[S]) answerMove(err error) {
	if mv := s.takeMove(); mv != nil {
		mv.end(err)
	}
}

// replaceSilent asks for c, which is silent, to be replaced; false when it must reconnect instead.
func (s *shard[S]) replaceSilent(c *session[S], cause error) bool {
	if s.m.cfg.DisableHotSwitchover || s.live.Load() != c {
		return false
	}
	trigger := triggerData
	if errors.Is(cause, ErrPongTimeout) {
		trigger = triggerPong
	}
	s.ask(&move{trigger: trigger, class: asked, silent: cause})
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
	case s.m.cfg.DisableHotSwitchover:
		s.noticed.Store(c.st.Generation + 1)
		s.askReconnect()
	default:
		s.ask(&move{trigger: triggerNotice, class: routine})
	}
}

// haste is how urgent a dial is. A switchover may become more urgent while it waits in line: then it leaves the line for the
// shorter one.
type haste struct {
	begin func() // called when the dial begins, after all waiting; nil: nobody asks

	mu    sync.Mutex // protects following fields; a leaf lock
	class urgency
	leave context.CancelFunc // the line it waits in; nil: none
}

func (h *haste) raise(class urgency) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if class < h.class {
		h.class = class
		if h.leave != nil {
			h.leave()
		}
	}
}

// enter waits in line before g. lost: see gate.enter.
func (h *haste) enter(ctx context.Context, g *gate, k doorKey, lost <-chan struct{}) (*visitor, error) {
	for {
		line, leave := context.WithCancel(ctx)
		v, err := g.enter(line, k, h.waits(leave), lost)
		h.waits(nil)
		moved := line.Err() != nil && ctx.Err() == nil
		leave()
		if err == nil || !moved {
			return v, err
		}
	}
}

func (h *haste) waits(leave context.CancelFunc) urgency {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave = leave
	return h.class
}
