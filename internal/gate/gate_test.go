package gate

import (
	"context"
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
			time.Sleep(time.Nanosecond)
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
