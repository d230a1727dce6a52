package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// This file answers: who is let in, when, and is a place ever lost?

// street is a gate on a fake clock, and those who stand before its door.
type street struct {
	t     *testing.T
	g     *Gate
	key   Key
	begin time.Time
	next  int // shard
	news  []News
}

// guest is one dial.
type guest struct {
	*Ticket
	s      *street
	name   string
	cancel context.CancelFunc
}

func gateTest(t *testing.T, rules Rules, script func(s *street)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &street{t: t, key: Key{"srv:80", ""}, begin: time.Now()}
		if rules.Uniform == nil {
			rules.Uniform = func() float64 { return 0 }
		}
		if rules.Reset == 0 {
			rules.Reset = 5 * time.Second
		}
		rules.Tell = func(n News) { s.news = append(s.news, n) }
		s.g = New(rules, nil)
		script(s)
	})
}

var defaults = Rules{Width: 16, Threshold: 5, StableAfter: 5 * time.Second}

// come puts a dial of a new shard in line.
func (s *street) come(name string, u Urgency) *guest {
	s.next++
	return s.again(name, s.next, u)
}

func (s *street) again(name string, shard int, u Urgency) *guest {
	ctx, cancel := context.WithCancel(s.t.Context())
	p := &guest{Ticket: NewTicket(shard, 0, u), s: s, name: name, cancel: cancel}
	s.g.Join(ctx, p.Ticket, s.key)
	synctest.Wait()
	return p
}

func (p *guest) in() bool { synctest.Wait(); return p.s.g.Look(p.Ticket).Admitted }

func (p *guest) leave(v Verdict) *Stay { return p.leaveWith(Result{Verdict: v}) }

func (p *guest) leaveWith(r Result) *Stay {
	p.s.t.Helper()
	if !p.in() {
		p.s.t.Fatalf("%s was not let in", p.name)
	}
	stay, _ := p.s.g.Leave(p.Ticket, r)
	synctest.Wait()
	return stay
}

// fails lets n shards fail, one after the other.
func (s *street) fails(n int, v Verdict) {
	s.t.Helper()
	for range n {
		s.come("", Down).leave(v)
	}
}

// wantIn checks which of them are in.
func (s *street) wantIn(all []*guest, names ...string) {
	s.t.Helper()
	var got []string
	for _, p := range all {
		if p.in() {
			got = append(got, p.name)
		}
	}
	if !slices.Equal(got, names) {
		s.t.Errorf("after %v %q are in, want %q", time.Since(s.begin), got, names)
	}
}

func (s *street) wantNews(want ...string) {
	s.t.Helper()
	synctest.Wait()
	var got []string
	for _, n := range s.news {
		got = append(got, fmt.Sprint([]string{"shut", "still", "opened", "single"}[n.Kind], " ", n.Report.Reason))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("heard %q, want %q", got, want)
	}
	s.news = nil
}

// A line is first come, first served; those who are down go first, and routine switchovers last.
func TestOrder(t *testing.T) {
	gateTest(t, Rules{Width: 1}, func(s *street) {
		first := s.come("first", Down)
		r1, a1, u1, u2 := s.come("r1", Routine), s.come("a1", Asked), s.come("u1", Down), s.come("u2", Down)
		s.g.Raise(r1.Ticket, Down) // its connection is lost: as urgent as u2, who came before
		s.g.Hurry(u2.Ticket)       // a reconnect was asked for
		for _, p := range []*guest{first, u2, u1, r1, a1} {
			p.leave(Up)
		}
	})
}

// A door begins with one dial at a time, and each success adds one; a dial that is two seconds old leaves its place.
func TestWidth(t *testing.T) {
	gateTest(t, Rules{Width: 4}, func(s *street) {
		var all []*guest
		for i := range 12 {
			all = append(all, s.come(fmt.Sprint(i), Down))
		}
		s.wantIn(all, "0")
		all[0].leave(Up)
		s.wantIn(all, "1", "2")
		all[1].leave(Neither) // no success
		s.wantIn(all, "2", "3")
		all[2].leave(Up)
		s.wantIn(all, "3", "4", "5")
		time.Sleep(2 * time.Second) // one more, and no further: four are out
		s.wantIn(all, "3", "4", "5", "6")
		time.Sleep(time.Minute)
		s.wantIn(all, "3", "4", "5", "6")
		all[3].leave(Up)
		s.wantIn(all, "4", "5", "6", "7")
	})
	gateTest(t, Rules{Width: 4}, func(s *street) { // what was learned long ago is not known
		s.come("", Down).leave(Up)
		time.Sleep(20 * time.Second)
		s.wantIn([]*guest{s.come("a", Down), s.come("b", Down)}, "a")
	})
	gateTest(t, Rules{}, func(s *street) { // no limit but the growth
		for range 40 {
			s.come("", Down).leave(Up)
		}
		var all []*guest
		for i := range 50 {
			all = append(all, s.come(fmt.Sprint(i), Down))
		}
		if !all[40].in() || all[41].in() {
			t.Error("after 40 successes 41 may be in")
		}
	})
}

// probes lets probes fail with v, and returns when each began after the one before, or after the door was shut.
func (s *street) probes(n int, v Verdict, r Result) (steps []time.Duration) {
	s.t.Helper()
	last := time.Now()
	for range n {
		p := s.come("probe", Down)
		for !p.in() {
			<-p.Changed()
		}
		steps = append(steps, time.Since(last).Round(time.Millisecond))
		last = time.Now()
		r.Verdict = v
		p.leaveWith(r)
	}
	return steps
}

func seconds(all ...float64) (ds []time.Duration) {
	for _, s := range all {
		ds = append(ds, time.Duration(s*float64(time.Second)))
	}
	return ds
}

func TestLadders(t *testing.T) {
	for _, c := range []struct {
		name  string
		shuts func(s *street)
		v     Verdict
		want  []time.Duration
	}{
		{"down", func(s *street) { s.fails(5, Failed) }, Failed, seconds(.25, .5, 1, 2, 4, 5, 5)},
		{"too many", func(s *street) { s.fails(1, TooMany) }, TooMany,
			seconds(1, 4, 16, 60, 60, 60, 60, 60, 60, 60, 60, 60, 120, 240, 480, 900, 900)},
		{"banned", func(s *street) { s.fails(1, Banned) }, Banned, seconds(120, 240, 480, 960, 1920, 3600, 3600)},
		{"banned after too many", func(s *street) { s.fails(1, TooMany) }, Banned, seconds(1, 120, 240)},
	} {
		t.Run(c.name, func(t *testing.T) {
			gateTest(t, defaults, func(s *street) {
				c.shuts(s)
				if got := s.probes(len(c.want), c.v, Result{}); !slices.Equal(got, c.want) {
					t.Errorf("probes after %v, want %v", got, c.want)
				}
				p := s.come("", Down)
				time.Sleep(2 * time.Hour)
				p.leave(Up)
				s.fails(4, Failed) // all counts begin anew
				if !s.come("", Down).in() {
					t.Error("a success did not reset the ladder")
				}
			})
		})
	}
}

// Every pause is its step and up to a tenth more, never less: an early probe begins a penalty anew.
func TestPausesAreNeverShorter(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	rules := defaults
	rules.Uniform = rnd.Float64
	gateTest(t, rules, func(s *street) {
		s.fails(1, TooMany)
		steps := s.probes(14, TooMany, Result{})
		for i, want := range seconds(1, 4, 16, 60, 60, 60, 60, 60, 60, 60, 60, 60, 120, 240) {
			if steps[i] < want || steps[i] > want+want/10+time.Millisecond {
				t.Errorf("pause %d: %v, want %v and up to a tenth more", i, steps[i], want)
			}
		}
	})
}

// Failures count in a row, whichever shards they are of; an answer ends the row, what is ours does not.
func TestDownCounts(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.fails(4, Failed)
		s.fails(1, Neither)
		s.fails(4, Failed)
		s.fails(3, Unknown)
		s.wantNews()
		s.fails(1, Failed)
		s.wantNews("shut down")
	})
	for _, rules := range []Rules{{Width: 1, Threshold: -1}, {Width: 1, Threshold: 1, Reset: -1}} {
		gateTest(t, rules, func(s *street) {
			s.fails(50, Failed)
			s.wantNews()
			s.fails(1, TooMany) // what a host answers holds all the same
			s.wantNews("shut toomany")
		})
	}
}

// A probe that is two seconds old counts as failed and may still succeed; three at most are out. Steps count from a probe's
// beginning.
func TestMuteHost(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.fails(5, Failed)
		var all []*guest
		for i := range 6 {
			all = append(all, s.come(fmt.Sprint(i), Down))
		}
		time.Sleep(time.Second)
		s.wantIn(all, "0")
		time.Sleep(1300 * time.Millisecond)
		s.wantIn(all, "0", "1")
		time.Sleep(2 * time.Second)
		s.wantIn(all, "0", "1", "2")
		time.Sleep(time.Minute)
		s.wantIn(all, "0", "1", "2")
		all[0].leave(Up) // it was late, and counts
		s.wantNews("shut down", "still down", "opened down")
	})
}

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

// Only a probe's success opens what "too many" has shut; what was in flight moves no ladder, but for a ban.
func TestInFlight(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.fails(5, Up)
		s.come("", Down).leave(Up)
		one, two, three, four := s.come("1", Down), s.come("2", Down), s.come("3", Down), s.come("4", Down)
		one.leave(TooMany)
		two.leave(TooMany)
		three.leave(Up)
		probe := s.come("probe", Down)
		time.Sleep(999 * time.Millisecond)
		s.wantIn([]*guest{probe})
		time.Sleep(time.Millisecond)
		s.wantIn([]*guest{probe}, "probe")
		four.leave(Banned)
		probe.leave(TooMany)
		next := s.come("next", Down)
		time.Sleep(239 * time.Second)
		s.wantIn([]*guest{next})
		time.Sleep(time.Second)
		s.wantIn([]*guest{next}, "next")
	})
}

// Retry-After replaces the step, up to a bound; one probe goes when it ends. What a switchover met holds back no shard that is
// down, and a routine one no other.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		v          Verdict
		ask, holds time.Duration
	}{
		{TooMany, 20 * time.Second, 20 * time.Second}, {Failed, 20 * time.Second, 20 * time.Second},
		{TooMany, 1000 * time.Hour, time.Hour}, {Banned, 1000 * time.Hour, 72 * time.Hour},
	} {
		gateTest(t, defaults, func(s *street) {
			s.come("", Down).leaveWith(Result{Verdict: c.v, RetryAfter: c.ask, Status: 429})
			s.wantNews("shut retryafter")
			a, b := s.come("a", Down), s.come("b", Down)
			time.Sleep(c.holds - 1)
			s.wantIn([]*guest{a, b})
			time.Sleep(1)
			s.wantIn([]*guest{a, b}, "a")
		})
	}
	for u, want := range map[Urgency][]string{Down: nil, Asked: {"u"}, Routine: {"u", "a"}} {
		gateTest(t, defaults, func(s *street) {
			s.fails(9, Up)
			s.come("", u).leaveWith(Result{Verdict: TooMany, RetryAfter: time.Hour})
			s.wantIn([]*guest{s.come("u", Down), s.come("a", Asked), s.come("r", Routine)}, want...)
		})
	}
}

// While a host is down, switchovers are sent away: unless nobody else could be the probe.
func TestSwitchoversAtAShutDoor(t *testing.T) {
	gateTest(t, defaults, func(s *street) {
		s.fails(5, Failed)
		if err := s.g.Look(s.come("a", Asked).Ticket).Err; err != ErrOpen {
			t.Errorf("%v, want ErrOpen", err)
		}
		time.Sleep(time.Second)
		s.come("probe", Routine).leave(Up)
		s.wantNews("shut down", "opened down")
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
		time.Sleep(1)
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

// Whatever comes together, no place is lost, none is taken twice, and nobody is forgotten.
func TestNothingIsLost(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	for seed := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) { jostle(t, rand.New(rand.NewPCG(5, seed))) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// jostle sends many through one gate: they come, give up, lose their connection, hurry and leave at random instants.
func jostle(t *testing.T, rnd *rand.Rand) {
	rules := Rules{Width: rnd.IntN(5), Threshold: rnd.IntN(5), Reset: time.Second, StableAfter: 300 * time.Millisecond, Interval: time.Hour}
	rules.Uniform = func() float64 { return 0.5 }
	if rnd.IntN(2) == 0 {
		rules.Limiter = patient{}
	}
	g := New(rules, nil)
	g.Resize(100, rnd.IntN(3))
	keys := []Key{{Host: "a"}, {Host: "b"}}
	var mu sync.Mutex
	inside := make(map[Key]int)
	ms := func(n int) time.Duration { return time.Duration(rnd.IntN(n)) * time.Millisecond }
	var all sync.WaitGroup
	for i := range 100 {
		come, giveUp, lose, moves, stays := ms(2000), ms(400000), ms(100000), ms(100000), ms(200)
		u, v, k := Urgency(rnd.IntN(3)), Verdict(rnd.IntN(int(Neither)+1)), rnd.IntN(2)
		retry := time.Duration(max(0, rnd.IntN(20)-17)) * 100 * time.Millisecond
		all.Go(func() {
			time.Sleep(come)
			ctx, cancel := context.WithTimeout(context.Background(), giveUp)
			defer cancel()
			p := NewTicket(i, 0, u)
			g.Join(ctx, p, keys[k])
			lost, moved := time.After(lose), time.After(moves)
			for {
				select {
				case <-p.Changed():
				case <-lost:
					g.Raise(p, Down)
					g.Hurry(p)
				case <-moved:
					if !g.Look(p).Admitted {
						k = 1 - k
						g.Join(ctx, p, keys[k])
					}
				case <-ctx.Done():
					g.Quit(p)
					return
				}
				if s := g.Look(p); s.Err != nil {
					g.Quit(p)
					return
				} else if s.Admitted {
					break
				}
			}
			mu.Lock()
			inside[keys[k]]++
			if n := inside[keys[k]]; rules.Width > 0 && n > rules.Width {
				t.Errorf("%d are in at once, %d may", n, rules.Width)
			}
			mu.Unlock()
			time.Sleep(stays)
			mu.Lock()
			inside[keys[k]]--
			mu.Unlock()
			stay, _ := g.Leave(p, Result{Verdict: v, RetryAfter: retry})
			if stay != nil {
				time.Sleep(stays)
				g.Ended(stay, Theirs, 1006)
			}
			g.ReturnTurn(p)
		})
	}
	all.Wait()
	time.Sleep(100 * time.Hour)
	for _, k := range keys { // everybody has gone: one more is let in
		p := NewTicket(1000, 0, Down)
		g.Join(context.Background(), p, k)
		time.Sleep(20 * time.Second)
		if !g.Look(p).Admitted {
			t.Fatalf("not let in: %+v", g.doors[k])
		}
		stay, _ := g.Leave(p, Result{Verdict: Up})
		g.Ended(stay, Ours, 0)
	}
	if g.turns.used != 0 {
		t.Errorf("%d turns are out", g.turns.used)
	}
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
