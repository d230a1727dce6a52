package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// This file answers: what do the bench, turns, budgets and keys do at a door? All of it runs in synctest bubbles.

// A probe goes to the shard that failed least often in a row, and not to the one that probed last.
func TestWhoProbes(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.fails(5, Failed)
		come := func(shard, failed int) *guest {
			p := &guest{Ticket: NewTicket(shard, failed, Down), s: s, name: fmt.Sprint(shard)}
			s.g.Join(s.t.Context(), p.Ticket, s.key)
			return p
		}
		a, b, c := come(101, 3), come(102, 1), come(103, 2)
		time.Sleep(time.Second)
		s.wantIn([]*guest{a, b, c}, "102")
		b.leave(Failed)
		b = come(102, 0)
		time.Sleep(time.Second)
		s.wantIn([]*guest{a, b, c}, "103")
	})
}

// The bench: refused shards try again by their own ladder, one at a time; others go on.
func TestBench(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.again("bad", 1007, Down).leave(NotYou)
		s.wantNews("shut bench")
		for _, wait := range seconds(1, 2, 4, 8, 16, 32, 60, 60) {
			bad := s.again("bad", 1007, Down)
			time.Sleep(wait - time.Millisecond)
			good := s.come("good", Down)
			s.wantIn([]*guest{bad, good}, "good")
			good.leave(Up)
			time.Sleep(time.Millisecond)
			s.wantIn([]*guest{bad}, "bad")
			bad.leave(NotYou)
		}
		bad := s.again("bad", 1007, Down)
		s.g.Hurry(bad.Ticket) // a reconnect ends the bench
		bad.leave(Up)
		s.wantNews("still bench", "still bench", "still bench", "opened bench")
	})
}

// After five in a row, of different shards, all who wait join the bench; its first success gives those back who were not refused.
func TestBenchOfAll(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		var all []*guest
		for i := range 20 {
			all = append(all, s.come(fmt.Sprint(i), Down))
		}
		for _, p := range all[:5] {
			p.leave(NotYou)
		}
		s.wantIn(all)
		if r := s.g.Doors()[0]; r.Reason != "bench" || r.Benched != 5 || r.Waiting != 15 {
			t.Errorf("%+v", r)
		}
		s.come("lost", Down).leave(Up) // the door is open
		time.Sleep(time.Second)
		s.wantIn(all, "5") // not yet refused, so before the others
		all[5].leave(Up)
		s.wantIn(all, "6", "7", "8")
	})
}

// Strangers behind many whom the host refuses in person are not made to wait: where it lets others in, each has its first try after
// a second; where it lets nobody in, it may be the address that it refuses, and the pauses grow.
func TestBenchOfStrangers(t *testing.T) {
	for _, c := range []struct {
		lets bool
		next []time.Duration
	}{{true, seconds(1, 1, 1, 1, 1)}, {false, seconds(1, 2, 4, 8, 10)}} {
		gateTest(t, defaults, func(s *street) {
			if c.lets {
				s.come("good", Down).leave(Up)
			}
			var all []*guest
			for i := range 12 {
				all = append(all, s.come(fmt.Sprint(i), Down))
			}
			for all[0].in() { // five, and who was in flight then
				all[0].leave(NotYou)
				all = all[1:]
			}
			for _, wait := range c.next {
				time.Sleep(wait - time.Millisecond)
				s.wantIn(all)
				time.Sleep(time.Millisecond)
				s.wantIn(all, all[0].name)
				all[0].leave(NotYou)
				all = all[1:]
			}
		})
	}
}

// Trap: a bench behind a shut door supplies the probes, or nobody would ever ask.
func TestBenchProbes(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.again("bad", 7, Down).leave(NotYou)
		s.fails(5, Failed)
		bad := s.again("bad", 7, Down)
		time.Sleep(250 * time.Millisecond)
		s.wantIn([]*guest{bad}, "bad")
		bad.leave(NotYou) // an answer opens the door
		s.wantNews("shut bench", "shut down", "opened down")
		if !s.come("", Down).in() {
			t.Error("it is shut yet")
		}
	})
}

// Trap: a door that "too many" has narrowed becomes wide again.
func TestWidthComesBack(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		for range 5 {
			s.fails(1, TooMany)
			p := s.come("probe", Down)
			time.Sleep(time.Hour)
			p.leave(Up)
		}
		s.fails(20, Up)
		if w := s.g.doors[s.key].width; w != 16 {
			t.Errorf("width %d", w)
		}
	})
}

// A host that accepts and closes is dialled five times a second, until a session becomes old.
func TestAcceptAndClose(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		for range 5 {
			s.g.Ended(s.come("", Down).leave(Up), Theirs, 1000)
		}
		a, b := s.come("a", Down), s.come("b", Down)
		time.Sleep(200 * time.Millisecond)
		s.wantIn([]*guest{a, b}, "a")
		time.Sleep(200 * time.Millisecond)
		s.wantIn([]*guest{a, b}, "a", "b")
		a.leave(Up)
		b.leave(Up)
		time.Sleep(5 * time.Second)
		s.fails(3, Up)
		if !s.come("", Down).in() {
			t.Error("spaced, with a session that is old")
		}
	})
}

// A switchover holds no turn while it waits at its door, and no place while it waits for a turn.
func TestTurnsAndDoors(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.g.Resize(10, 1)
		s.come("", Routine).leaveWith(Result{Verdict: TooMany, RetryAfter: time.Hour})
		held := s.come("held", Routine)
		one := s.come("1", Asked) // the turn is free
		two, down := s.come("2", Asked), s.come("down", Down)
		s.wantIn([]*guest{held, one, two, down}, "1")
		stay := one.leave(Up)
		s.wantIn([]*guest{two, down}, "down") // the turn goes with the switchover, not with the dial
		s.g.ReturnTurn(one.Ticket)
		s.wantIn([]*guest{held, two}, "2")
		s.g.Quit(two.Ticket)
		other := s.come("other", Asked)
		s.wantIn([]*guest{other}, "other")
		s.g.SkipTurn(held.Ticket)
		s.g.Ended(stay, Ours, 0)
	})
}

// stubborn is a limiter that does not hear its ctx, and ends as do says.
type stubborn struct {
	wait time.Duration
	do   func() error
}

func (l stubborn) Wait(context.Context, string, string) error { time.Sleep(l.wait); return l.do() }
func (stubborn) Block(string, string, time.Time)              {}

// whoever is more urgent goes to the budget first; one that gives up gives nothing away.
func TestBudget(t *testing.T) {
	rules := defaults
	rules.Limiter = patient{}
	gateTest(t, rules, func(s *street) {
		calm := s.come("calm", Asked)
		time.Sleep(time.Second)
		hasty := s.come("hasty", Down)
		time.Sleep(10 * time.Second)
		s.wantIn([]*guest{calm, hasty}, "hasty")
		s.g.Quit(calm.Ticket)
		hasty.leave(Up)
		time.Sleep(time.Minute)
		next := s.come("next", Down)
		time.Sleep(10 * time.Second)
		next.leave(Up)
	})
	for name, do := range map[string]func() error{"errors": func() error { return errTest }, "nil": func() error { return nil }} {
		rules.Limiter = stubborn{10 * time.Second, do}
		gateTest(t, rules, func(s *street) {
			p := s.come("p", Down)
			time.Sleep(11 * time.Second)
			if st := s.g.Look(p.Ticket); st.Admitted != (name == "nil") || !errors.Is(st.Err, do()) {
				t.Errorf("%s: %+v", name, st)
			}
		})
	}
}

var errTest = errors.New("test")

// patient lets one through each ten seconds.
type patient struct{}

func (patient) Wait(ctx context.Context, _, _ string) error {
	select {
	case <-time.After(10 * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (patient) Block(string, string, time.Time) {}

// Doors are forgotten: those that were left shut, too.
func TestDoorsAreForgotten(t *testing.T) {
	gateTest(t, Rules{Threshold: 1, Width: 1}, func(s *street) {
		for i := range 1000 {
			s.key.Host = fmt.Sprint("host", i)
			s.come("", Down).leave([]Verdict{Failed, TooMany, NotYou, Up}[i%4])
			time.Sleep(time.Minute)
		}
		if n := len(s.g.doors); n > 320 { // a fourth has a session
			t.Errorf("%d doors are kept", n)
		}
	})
}

// One connection per key: see single.go.
func TestSingleConnection(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		up := func() *Stay { return s.come("", Down).leave(Up) }
		s.g.Kicked(up(), true)
		s.g.Kicked(up(), false) // not in a row
		s.g.Kicked(up(), true)
		s.wantNews()
		s.g.Kicked(up(), true)
		s.wantNews("single single-connection")
		if !s.g.Single(s.key) || !slices.Equal(s.g.Singles(), []Key{s.key}) || !New(defaults, s.g.Singles()).Single(s.key) {
			t.Error("it is not remembered")
		}
	})
	rules := defaults
	rules.Interval = time.Hour
	gateTest(t, rules, func(s *street) {
		s.come("", Down).leave(Up)
		s.g.Crowded(s.key)
		s.fails(1, Neither) // who is down is refused as well: that says nothing
		s.g.Crowded(s.key)
		s.wantNews()
		s.g.Crowded(s.key)
		s.wantNews("single connections")
		r, a := s.come("r", Routine), s.come("a", Asked)
		a.leave(Up)
		time.Sleep(15*time.Minute - 1)
		s.wantIn([]*guest{r})
		time.Sleep(time.Nanosecond)
		s.wantIn([]*guest{r}, "r")
	})
	for name, codes := range map[string][]int{"displacing": {4001, 4001, 4001}, "other codes": {4001, 4002, 4001}} {
		gateTest(t, defaults, func(s *street) {
			stays := []*Stay{s.again("A", 1, Down).leave(Up), nil}
			for i, code := range codes {
				shard := 1 + i%2 // shard 2's connect ends shard 1, and so on
				stays[1-i%2] = s.again("", 3-shard, Down).leave(Up)
				time.Sleep(time.Second)
				s.g.Ended(stays[i%2], Theirs, code)
				time.Sleep(time.Second)
			}
			if name == "displacing" {
				s.wantNews("single displacing")
			} else {
				s.wantNews()
			}
		})
	}
}

// Told: once a minute while it lasts.
func TestReminders(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.come("", Down).leaveWith(Result{Verdict: TooMany, RetryAfter: 200 * time.Second, Status: 429})
		p := s.come("p", Down)
		time.Sleep(200 * time.Second)
		p.leave(Up)
		s.wantNews("shut retryafter", "still retryafter", "still retryafter", "still retryafter", "opened retryafter")
	})
}

// Routine switchovers get slots: a quarter of the room that each has.
func TestSlots(t *testing.T) {
	rules := defaults
	rules.Interval = time.Hour
	gateTest(t, rules, func(s *street) {
		s.g.Resize(10, 4)
		for i := range 5 {
			if d, want := s.g.Slot(), time.Duration(i)*90*time.Second; d != want {
				t.Errorf("slot %d in %v, want %v", i, d, want)
			}
		}
	})
}

// Where a host has said "too many" after so many, the next time dials go one at a time about there: it would refuse all that are
// in flight. Where it then takes more, they go on as ever.
func TestNearABudget(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		wide := func() (n int) {
			var all []*guest
			for range 20 {
				all = append(all, s.come("", Down))
			}
			for _, p := range all {
				if p.in() {
					n++
				}
			}
			for _, p := range slices.Backward(all) { // the last first: nobody's place is handed on
				s.g.Quit(p.Ticket)
			}
			return n
		}
		s.fails(100, Up)
		s.fails(1, TooMany)
		time.Sleep(time.Second)
		s.fails(80, Up)
		if n := wide(); n != 4 { // 80 and 4: there the care begins
			t.Errorf("%d at once before it", n)
		}
		s.fails(10, Up)
		if n := wide(); n != 1 {
			t.Errorf("%d at once near it", n)
		}
		s.fails(27, Up)
		if n := wide(); n != 16 {
			t.Errorf("%d at once past it", n)
		}
	})
}

// A success from the bench ends its pauses: the next one tries at once, and whoever comes after a refusal waits for the first pause,
// not for the one that the bench had come to.
func TestBenchPausesBeginAnew(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		var all []*guest
		for shard := range 10 {
			s.again("", shard, Down).leave(NotYou)
		}
		for shard := range 10 {
			all = append(all, s.again(fmt.Sprint(shard), shard, Down))
		}
		for i, wait := range seconds(1, 2, 4, 8, 10, 10) {
			time.Sleep(wait - 1)
			s.wantIn(all)
			time.Sleep(time.Nanosecond)
			s.wantIn(all, fmt.Sprint(i))
			all[i].leave(NotYou)
		}
		time.Sleep(10 * time.Second)
		all[6].leave(Up)
		s.wantIn(all, "7")
		all[7].leave(NotYou)
		time.Sleep(time.Second - 1)
		s.wantIn(all)
		time.Sleep(time.Nanosecond)
		s.wantIn(all, "8")
	})
}

// A routine switchover asks for its instant earlier than it must be over, by the slots of three others that may be before it, where
// there are as many.
func TestLead(t *testing.T) {
	rules := defaults
	for _, c := range []struct {
		interval time.Duration
		shards   int
		want     time.Duration
	}{
		{time.Hour, 10, 3 * 90 * time.Second},
		{time.Hour, 4, 3 * 225 * time.Second},
		{time.Hour, 2, 450 * time.Second}, // there is but one other
		{time.Hour, 1, 0},
		{time.Hour, 0, 0},
		{-1, 10, 0}, // nothing rotates
	} {
		rules.Interval = c.interval
		gateTest(t, rules, func(s *street) {
			s.g.Resize(c.shards, 4)
			if got := s.g.Lead(); got != c.want {
				t.Errorf("%d shards, every %v: asked for %v earlier, want %v", c.shards, c.interval, got, c.want)
			}
		})
	}
}
