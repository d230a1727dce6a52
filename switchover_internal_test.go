package wsshard

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// This file answers: what is held (relay.go), when is the cut (cutover.go), and what becomes of one who asked?

// TestRelayWakesItsReader draws offers, deliveries of the old connection and the end of the hold from a seed. At rest the reader
// that waits in hold has no room and still a reason to need some, what waits while delivery is the reader's own runs the
// clock, and in the end all has been held, let go or handed out.
func TestRelayWakesItsReader(t *testing.T) {
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			cfg := SwitchoverConfig{HoldMessages: rnd.IntN(5), HoldBytes: rnd.IntN(3) * 20}
			r := newRelay[string](cfg, rnd.IntN(2) == 0, make(chan struct{}, 1))
			running := false
			r.timedBy(func(run bool) { running = run })
			const all = 60
			key := func(n int) string {
				if n%3 == 0 {
					return ""
				}
				return fmt.Sprint("k", n%20)
			}
			size := func(n int) int { return 1 + n*7%23 }
			waits := -1 // the message that the reader waits with; owned by the reader while it runs
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				for n := range all {
					waits = n
					msg := Message{Data: make([]byte, size(n))}
					for r.offer(msg, &Verdict[string]{Key: key(n)}, brink{}) == offerFull {
						<-r.room
					}
					if waits = -1; n%7 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			}()
			check := func(what string) {
				synctest.Wait()
				r.mu.Lock()
				defer r.mu.Unlock()
				if running != r.ticks || r.ticks != (r.blocked && r.phase == direct) {
					t.Fatalf("seed %d, after %s: the clock runs: %v, blocked %v in phase %v", seed, what, running, r.blocked, r.phase)
				}
				if !r.blocked {
					return
				}
				_, dup := r.keys[key(waits)]
				if r.phase == direct || dup && !r.keep || r.roomLocked(size(waits)) {
					t.Fatalf("seed %d, after %s: nobody woke the reader of %d; phase %v, %d messages and %d bytes are held",
						seed, what, waits, r.phase, r.count, r.bytes)
				}
				if r.full != (r.phase == holding) {
					t.Fatalf("seed %d, after %s: full %v in phase %v", seed, what, r.full, r.phase)
				}
			}
			check("the beginning")
			for range rnd.IntN(60) {
				if rnd.IntN(3) == 0 {
					time.Sleep(time.Millisecond)
				}
				k := fmt.Sprint("k", rnd.IntN(20))
				r.delivered(k)
				check("delivered " + k)
			}
			if rnd.IntN(4) == 0 {
				r.discard()
				check("discard")
			} else {
				r.release()
				check("release")
				for r.take() != nil {
					check("take")
				}
				check("the last take")
			}
			time.Sleep(time.Second)
			check("the end")
			<-gone
		})
	}
}

// TestRelayKeepsTheClock: a reader that nobody woke, when delivery is its own again, is judged by the health clock; one that
// waits for the shard's loop or for a slow handler is not.
func TestRelayKeepsTheClock(t *testing.T) {
	r := newRelay[string](SwitchoverConfig{HoldMessages: 1}, false, make(chan struct{}, 1))
	running := false
	r.timedBy(func(run bool) { running = run })
	want := func(want bool, when string) {
		t.Helper()
		if running != want {
			t.Errorf("%s: the clock runs: %v", when, running)
		}
	}
	for range 3 {
		r.offer(Message{}, &Verdict[string]{}, brink{})
	}
	want(false, "it waits for the decision")
	r.release()
	want(false, "released")
	r.take()
	want(false, "a held message is in its callback")
	r.take()
	want(true, "the last was delivered")
	if len(r.room) != 1 {
		t.Error("the reader is not woken")
	}
	r.offer(Message{}, &Verdict[string]{}, brink{})
	want(false, "it looked again")
	r.blocked = true
	r.enterLocked(direct)
	want(true, "it waits once more")
	r.leave()
	want(false, "it left")
}

// TestRelayOneKey: where the new connection brings topics that the old one does not, the old one need not deliver all that is
// held: one key that came since the new one is ready is enough, whichever connection had it first. One from before is not.
func TestRelayOneKey(t *testing.T) {
	for _, oldFirst := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRelay[string](SwitchoverConfig{}, false, make(chan struct{}, 1))
			both := func(key string) {
				if oldFirst {
					r.delivered(key)
				}
				r.offer(Message{}, &Verdict[string]{Key: key}, brink{})
				r.delivered(key)
			}
			want := func(want bool, when string) {
				t.Helper()
				if met, used := r.overlapped(); met != want || !used {
					t.Errorf("%s: met %v, used %v", when, met, used)
				}
			}
			r.offer(Message{}, &Verdict[string]{Key: "new topic"}, brink{})
			both("before")
			time.Sleep(time.Second)
			r.arm(time.Now())
			want(false, "ready")
			both("since")
			want(true, "one key since")
			r.arm(time.Time{})
			want(false, "all are needed")
			r.delivered("new topic")
			want(true, "all were delivered")
		})
	}
}

// TestJudgeCutover goes through the rows of the decision: what two connections show, and what follows.
func TestJudgeCutover(t *testing.T) {
	const linger = 250 * time.Millisecond
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	past := at(-time.Minute)
	ready := snapshot{now: now, ready: true, readyAt: at(-linger), carries: true, frozen: true, met: true, deadline: at(time.Second)}
	with := func(base snapshot, change func(p *snapshot)) snapshot {
		change(&base)
		return base
	}
	silent := snapshot{now: now, silent: true, deadline: at(time.Second)}
	fail := func(err error) verdict { return verdict{step: stepFail, err: err} }
	look := func(d time.Duration) verdict { return verdict{look: at(d)} }
	cut, proven := verdict{step: stepCut}, verdict{step: stepCut, proven: true}
	freeze, still := verdict{step: stepFreeze}, verdict{step: stepStill}
	for name, tt := range map[string]struct {
		p    snapshot
		want verdict
	}{
		"nothing yet":                     {snapshot{now: now, met: true}, verdict{}},
		"the old one is lost":             {snapshot{now: now, lost: true}, cut},
		"lost and silent":                 {snapshot{now: now, lost: true, silent: true}, cut},
		"nothing was ever answered":       {with(ready, func(p *snapshot) { p.ignored = true }), fail(ErrSwitchoverTimeout)},
		"all there":                       {ready, proven},
		"not frozen yet":                  {with(ready, func(p *snapshot) { p.frozen, p.carries = false, false }), freeze},
		"something came since":            {with(ready, func(p *snapshot) { p.carries = false }), look(time.Second)},
		"Linger is not over":              {with(ready, func(p *snapshot) { p.readyAt = at(1 - linger) }), look(1)},
		"keys are not delivered":          {with(ready, func(p *snapshot) { p.met = false }), look(time.Second)},
		"Timeout, without Linger":         {with(ready, func(p *snapshot) { p.readyAt, p.deadline = now, now }), cut},
		"Timeout, without keys":           {with(ready, func(p *snapshot) { p.met, p.deadline = false, past }), cut},
		"Timeout, all there":              {with(ready, func(p *snapshot) { p.deadline = now }), proven},
		"Timeout, not frozen":             {with(ready, func(p *snapshot) { p.met, p.frozen, p.deadline = false, false, past }), freeze},
		"Timeout, something came since":   {with(ready, func(p *snapshot) { p.carries, p.deadline = false, now }), fail(ErrSwitchoverTimeout)},
		"Timeout, not ready":              {snapshot{now: now, deadline: now, met: true}, fail(ErrSwitchoverTimeout)},
		"Timeout, and a second request":   {snapshot{now: now, deadline: now, repeats: true}, verdict{}},
		"no Timeout":                      {snapshot{now: now, ready: true, readyAt: past}, verdict{}},
		"full, all there":                 {with(ready, func(p *snapshot) { p.full = true }), proven},
		"full, without Linger":            {with(ready, func(p *snapshot) { p.full, p.readyAt = true, now }), cut},
		"full, without keys":              {with(ready, func(p *snapshot) { p.full, p.met = true, false }), cut},
		"full, not frozen":                {with(ready, func(p *snapshot) { p.full, p.frozen, p.readyAt = true, false, now }), freeze},
		"full, not ready":                 {snapshot{now: now, full: true, met: true}, fail(ErrSwitchoverHold)},
		"full, something came since":      {with(ready, func(p *snapshot) { p.full, p.carries = true, false }), fail(ErrSwitchoverHold)},
		"restless, not for long":          {snapshot{now: now, goalAt: at(1 - 4*linger)}, look(1)},
		"restless":                        {snapshot{now: now, goalAt: at(-4 * linger)}, still},
		"restless at Timeout":             {snapshot{now: now, goalAt: at(-1), deadline: now}, still},
		"restless, but it lingered":       {with(ready, func(p *snapshot) { p.goalAt, p.carries = past, false }), look(time.Second)},
		"still already":                   {snapshot{now: now, goalAt: past, stillAt: past, deadline: at(time.Second)}, look(time.Second)},
		"still, Timeout":                  {snapshot{now: now, goalAt: past, stillAt: past, deadline: now}, fail(ErrSwitchoverTimeout)},
		"silent, nothing yet":             {silent, look(time.Second)},
		"silent, all is proven":           {with(silent, func(p *snapshot) { p.ready, p.readyAt = true, now }), cut},
		"silent, all of then is proven":   {with(silent, func(p *snapshot) { p.goalAt = now }), cut},
		"silent, data":                    {with(silent, func(p *snapshot) { p.dataAt = at(1 - linger) }), look(1)},
		"silent, data for Linger":         {with(silent, func(p *snapshot) { p.dataAt = at(-linger) }), cut},
		"silent, full":                    {with(silent, func(p *snapshot) { p.full = true }), cut},
		"silent, Timeout":                 {with(silent, func(p *snapshot) { p.deadline = now }), fail(ErrSwitchoverTimeout)},
		"silent, Timeout and data enough": {with(silent, func(p *snapshot) { p.deadline, p.dataAt = now, past }), cut},
		"silent, ignored, but ready":      {with(silent, func(p *snapshot) { p.ignored, p.ready, p.readyAt = true, true, now }), cut},
	} {
		if got := tt.p.judge(linger); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	if got := (&snapshot{now: now, ready: true, readyAt: now, met: true, frozen: true, carries: true}).judge(-1); got != proven {
		t.Errorf("Linger is off: %+v", got)
	}
}

// The limits of what is held: a negative one is none, and one message always finds room.
func TestRelayLimits(t *testing.T) {
	big := Message{Data: make([]byte, 100)}
	for _, c := range []struct {
		cfg  SwitchoverConfig
		want []offer
	}{
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: -1}, []offer{offerHeld, offerHeld, offerHeld}},
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: 10}, []offer{offerHeld, offerFull}},
		{SwitchoverConfig{HoldMessages: -1, HoldBytes: 200}, []offer{offerHeld, offerHeld, offerFull}},
		{SwitchoverConfig{HoldMessages: 2, HoldBytes: -1}, []offer{offerHeld, offerHeld, offerFull}},
	} {
		r := newRelay[string](c.cfg, false, make(chan struct{}, 1))
		for i, want := range c.want {
			if got := r.offer(big, &Verdict[string]{}, brink{}); got != want {
				t.Errorf("%+v: message %d: %v, want %v", c.cfg, i, got, want)
			}
		}
	}
}

// What turns out to be delivered makes room, and of the keys that were delivered no more are kept than of messages.
func TestRelayMakesRoom(t *testing.T) {
	msg := Message{Data: make([]byte, 100)}
	r := newRelay[string](SwitchoverConfig{HoldMessages: 2, HoldBytes: 250}, false, make(chan struct{}, 1))
	for _, key := range []string{"a", "b"} {
		r.offer(msg, &Verdict[string]{Key: key}, brink{})
	}
	r.delivered("a")
	if got := r.offer(msg, &Verdict[string]{Key: "c"}, brink{}); got != offerHeld || r.count != 2 {
		t.Errorf("after one of two was delivered: %v, and %d are held", got, r.count)
	}

	r = newRelay[string](SwitchoverConfig{HoldMessages: 2, HoldBytes: -1}, false, make(chan struct{}, 1))
	for _, key := range []string{"a", "b", "c"} {
		r.delivered(key)
	}
	for _, key := range []string{"a", "b", "c"} {
		r.offer(msg, &Verdict[string]{Key: key}, brink{})
	}
	if r.count != 1 || len(r.keys) != 2 {
		t.Errorf("%d messages are held, want the first, which is forgotten; %d keys are kept", r.count, len(r.keys))
	}
}

// A switchover has failed as the old connection's read loop, and the new one's, were on their way to the relay.
func TestRelayAfterItsEnd(t *testing.T) {
	r := newRelay[string](SwitchoverConfig{}, false, make(chan struct{}, 1))
	r.offer(Message{}, &Verdict[string]{Key: "a"}, brink{})
	r.discard()
	if r.delivered("a") {
		t.Error("the old connection's message is taken for a repeat")
	}
	if got := r.offer(Message{}, &Verdict[string]{Key: "b"}, brink{}); got != offerDirect {
		t.Errorf("the new one's message: %v", got)
	}
	if r.take() != nil {
		t.Error("what was held is still there")
	}
}

// A switchover that nobody wants any more before the loop has seen it ends once, and is not in the way of the next.
func TestMoveThatIsAbortedUnseen(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := newShard[string](m.core, m, 0)
	mv := s.ask(&wish{trigger: triggerCall})
	s.leaveWish(mv)
	if got := s.pendingWish(); got != nil || !isClosed(mv.done) || mv.err != context.Canceled {
		t.Errorf("pending %v, over: %v, with %v", got, isClosed(mv.done), mv.err)
	}
	next := s.ask(&wish{trigger: triggerCall})
	if got := s.pendingWish(); got != next || next == mv {
		t.Errorf("pending %v, want the next one", got)
	}
}

// Whoever joins a switchover is owed it, whether the first caller has left or leaves later.
func TestMoveThatSomebodyElseWants(t *testing.T) {
	for name, leave := range map[string]func(s *shard[string]) *wish{
		"left before": func(s *shard[string]) *wish {
			mv := s.ask(&wish{trigger: triggerCall})
			s.leaveWish(mv)
			return s.ask(&wish{trigger: triggerCall})
		},
		"leaves after a notice": func(s *shard[string]) *wish {
			mv := s.ask(&wish{trigger: triggerCall})
			s.ask(&wish{trigger: triggerNotice}).callers--
			s.leaveWish(mv)
			return mv
		},
	} {
		m, err := New(nobody{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := newShard[string](m.core, m, 0)
		if want := leave(s); s.pendingWish() != want || isClosed(want.done) {
			t.Errorf("%s: it is gone", name)
		}
	}
}

type nobody struct{}

func (nobody) URL(context.Context, ConnectionState) (string, error)       { return "", nil }
func (nobody) SubscriptionMessage(Request[string]) (m Message, err error) { return m, nil }
func (nobody) OnMessage(context.Context, Message, ConnectionState)        {}

// TestMoveOfAShardThatHasEnded: between HotSwitchover's look at the shard and its asking, a whole Stop may pass. Nobody is left
// then to answer, so what is asked for is over at once.
func TestMoveOfAShardThatHasEnded(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := newShard[string](m.core, m, 0)
	before := s.ask(&wish{trigger: triggerCall})
	s.stopped()
	after := s.ask(&wish{trigger: triggerCall})
	for _, mv := range []*wish{before, after} {
		if !isClosed(mv.done) || mv.err != ErrStopped {
			t.Errorf("over: %v, with %v", isClosed(mv.done), mv.err)
		}
	}
	s.leaveWish(after)
}
