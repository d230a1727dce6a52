package wsshard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// This file answers: who may dial next, and when?

// street is a gate on a fake clock, and those who stand before its one door.
type street struct {
	t   *testing.T
	g   *gate
	key doorKey

	mu    sync.Mutex
	begun []string // who was let in, in order, with the second
	news  []string
	start time.Time
}

// guest is one dial.
type guest struct {
	s      *street
	name   string
	v      *visitor
	err    error
	cancel context.CancelFunc
	lost   chan struct{}
	over   chan struct{} // closed when enter has returned
}

func gateTest(t *testing.T, cfg ConnectionConfig, script func(s *street)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &street{t: t, g: newGate(cfg, func() float64 { return 0 }), key: doorKey{"srv:80", ""}, start: time.Now()}
		s.g.opened = func(_ doorKey, d time.Duration, err error) { s.hear(fmt.Sprint("open ", d, " ", err)) }
		s.g.closed = func(doorKey) { s.hear("closed") }
		script(s)
	})
}

func (s *street) hear(news string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = append(s.news, news)
}

// come lets a dial ask to begin.
func (s *street) come(name string, class urgency) *guest {
	ctx, cancel := context.WithCancel(s.t.Context())
	p := &guest{s: s, name: name, cancel: cancel, lost: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(p.over)
		p.err = errors.New("left by Goexit")
		v, err := s.g.enter(ctx, s.key, class, p.lost)
		if p.v, p.err = v, err; err == nil {
			s.mu.Lock()
			s.begun = append(s.begun, fmt.Sprintf("%s@%v", name, time.Since(s.start).Seconds()))
			s.mu.Unlock()
		}
	}()
	synctest.Wait()
	return p
}

// leave ends the dial.
func (p *guest) leave(host outcome) { p.leaveWith(host, 0) }

func (p *guest) leaveWith(host outcome, retryAfter time.Duration) {
	<-p.over
	var err error
	if host == hostDown {
		err = errors.New("down")
	}
	p.s.g.leave(p.s.key, p.v, host, err, retryAfter)
	synctest.Wait()
}

// want checks who was let in since the last look.
func (s *street) want(begun ...string) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.begun, begun) {
		s.t.Errorf("let in %q, want %q", s.begun, begun)
	}
	s.begun = nil
}

// wantAnyOrder is want for those who are let in at one instant.
func (s *street) wantAnyOrder(begun ...string) {
	s.t.Helper()
	s.mu.Lock()
	slices.Sort(s.begun)
	s.mu.Unlock()
	slices.Sort(begun)
	s.want(begun...)
}

// wantEmpty checks that the gate remembers nothing.
func (s *street) wantEmpty() {
	s.t.Helper()
	synctest.Wait()
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	for k, d := range s.g.doors {
		s.t.Errorf("the door %v is left: %+v", k, d)
	}
}

func TestGateOrder(t *testing.T) {
	gateTest(t, ConnectionConfig{MaxConcurrentDials: 1}, func(s *street) {
		first := s.come("first", routine)
		byName := map[string]*guest{}
		for _, p := range []struct {
			name  string
			class urgency
		}{{"r1", routine}, {"a1", asked}, {"u1", urgent}, {"u2", urgent}, {"r2", routine}, {"a2", asked}, {"u3", urgent}} {
			byName[p.name] = s.come(p.name, p.class)
		}
		byName["u2"].cancel()
		<-byName["u2"].over
		first.leave(hostUp)
		for _, name := range []string{"u1", "u3", "a1", "a2", "r1", "r2"} {
			byName[name].leave(hostUp)
		}
		s.want("first@0", "u1@0", "u3@0", "a1@0", "a2@0", "r1@0", "r2@0")
		s.wantEmpty()
	})
}

func TestGateRecallsForTheUrgent(t *testing.T) {
	gateTest(t, ConnectionConfig{Limiter: NewConnectLimiter(1, 10*time.Second)}, func(s *street) {
		all := []*guest{s.come("u0", urgent), s.come("r1", routine), s.come("r2", routine)}
		time.Sleep(3 * time.Second)
		all = append(all, s.come("a1", asked)) // r1 waits for the budget, and goes back to the front of its line
		time.Sleep(3 * time.Second)
		all = append(all, s.come("u1", urgent)) // and so does a1
		time.Sleep(time.Minute)
		s.want("u0@0", "u1@10", "a1@20", "r1@30", "r2@40")
		for _, p := range all {
			p.leave(hostUp)
		}
		s.wantEmpty()
	})
}

// stubborn is a limiter of an application that does not look at ctx, or worse.
type stubborn struct {
	delay time.Duration
	do    func() error
}

func (l stubborn) Wait(context.Context, string, string) error {
	time.Sleep(l.delay)
	return l.do()
}
func (l stubborn) Block(string, string, time.Time) {}

func TestGateLimiterOfOthers(t *testing.T) {
	errNo := errors.New("no")
	for _, c := range []struct {
		name string
		do   func() error
		err  error // of a guest that is not recalled
	}{
		{"grants", func() error { return nil }, nil},
		{"refuses", func() error { return errNo }, errNo},
		{"leaves by Goexit", func() error { runtime.Goexit(); return nil }, errors.New("left by Goexit")},
	} {
		t.Run(c.name, func(t *testing.T) {
			gateTest(t, ConnectionConfig{MaxConcurrentDials: 2, Limiter: stubborn{10 * time.Second, c.do}}, func(s *street) {
				calm := s.come("calm", routine)
				time.Sleep(time.Second)
				hasty := s.come("hasty", urgent) // recalls calm, whose limiter does not hear of it
				cancelled := s.come("cancelled", urgent)
				cancelled.cancel()
				time.Sleep(time.Minute)
				for _, p := range []*guest{calm, hasty} {
					if <-p.over; fmt.Sprint(p.err) != fmt.Sprint(c.err) {
						t.Errorf("%s: %v, want %v", p.name, p.err, c.err)
					}
					if p.err == nil {
						p.leave(hostUp)
					}
				}
				if <-cancelled.over; !errors.Is(cancelled.err, context.Canceled) {
					t.Errorf("cancelled: %v", cancelled.err)
				}
				s.wantEmpty()
			})
		})
	}
}

func TestGateHurries(t *testing.T) {
	gateTest(t, ConnectionConfig{MaxConcurrentDials: 1}, func(s *street) {
		first := s.come("first", urgent)
		r1, a1 := s.come("r1", routine), s.come("a1", asked)
		u1 := s.come("u1", urgent)
		close(r1.lost) // its connection is lost: it is as urgent as u1, who came before
		synctest.Wait()
		u2 := s.come("u2", urgent)
		for _, p := range []*guest{first, u1, r1, u2, a1} {
			p.leave(hostUp)
		}
		s.want("first@0", "u1@0", "r1@0", "u2@0", "a1@0")
		s.wantEmpty()
	})
}

func TestGateWidens(t *testing.T) {
	gateTest(t, ConnectionConfig{MaxConcurrentDials: 1}, func(s *street) {
		all := []*guest{s.come("a", urgent), s.come("b", urgent), s.come("c", urgent)}
		s.want("a@0")
		s.g.setLimit(2)
		s.want("b@0")
		s.g.setLimit(0)
		s.want("c@0")
		for _, p := range all {
			p.leave(hostUp)
		}
		s.wantEmpty()
	})
}

func TestGateRetryAfter(t *testing.T) {
	const block = 20 * time.Second
	for _, c := range []struct {
		name  string
		class urgency // who is told to wait
		want  string
	}{
		{"down", urgent, "u@20 a@20 r@20"},
		{"asked", asked, "u@0 a@20 r@20"},
		{"routine", routine, "u@0 a@0 r@20"},
	} {
		t.Run(c.name, func(t *testing.T) {
			gateTest(t, ConnectionConfig{}, func(s *street) {
				s.come("first", c.class).leaveWith(hostUp, block)
				s.want("first@0")
				all := []*guest{s.come("u", urgent), s.come("a", asked), s.come("r", routine)}
				time.Sleep(time.Minute)
				s.wantAnyOrder(strings.Fields(c.want)...) // those of one instant run at the same time
				for _, p := range all {
					p.leave(hostUp)
				}
				s.wantEmpty()
			})
		})
	}
}

// remembering is a limiter that remembers what was blocked.
type remembering struct {
	ConnectLimiter
	blocked []doorKey
}

func (r *remembering) Block(host, egress string, _ time.Time) {
	r.blocked = append(r.blocked, doorKey{host, egress})
}

// The limiter, and so other managers, hears of a Retry-After that shards without a connection met, and of no other.
func TestGateTellsTheLimiter(t *testing.T) {
	for class, want := range map[urgency]int{urgent: 1, asked: 0, routine: 0} {
		l := &remembering{ConnectLimiter: NewConnectLimiter(9, time.Second)}
		gateTest(t, ConnectionConfig{Limiter: l}, func(s *street) {
			s.come("first", class).leaveWith(hostUp, 0)
			s.come("second", class).leaveWith(hostUp, time.Second)
			if len(l.blocked) != want || want == 1 && l.blocked[0] != s.key {
				t.Errorf("class %d: %v was blocked", class, l.blocked)
			}
		})
	}
}

// A server is not trusted: whatever it asks for, and jitter too, ends after an hour.
func TestGateRetryAfterIsBounded(t *testing.T) {
	for _, c := range []struct {
		ask     time.Duration
		uniform float64
		want    time.Duration
	}{
		{10 * time.Second, 0, 10 * time.Second},
		{10 * time.Second, 0.5, 10500 * time.Millisecond},
		{59 * time.Minute, 0.9, time.Hour},
		{1000 * time.Hour, 0.9, time.Hour},
		{1 << 62, 0.9, time.Hour},
	} {
		gateTest(t, ConnectionConfig{}, func(s *street) {
			s.g.uniform = func() float64 { return c.uniform }
			s.come("first", urgent).leaveWith(hostUp, c.ask)
			next := s.come("next", urgent)
			<-next.over
			if d := time.Since(s.start); d != c.want {
				t.Errorf("asked for %v (jitter %v): next after %v, want %v", c.ask, c.uniform, d, c.want)
			}
			next.leave(hostUp)
			s.wantEmpty()
		})
	}
}

// What waits for the budget when a Retry-After comes goes back into the line; so does what waits when the breaker opens.
func TestGateRecallsForWhatAnAnswerSaid(t *testing.T) {
	gateTest(t, ConnectionConfig{Limiter: NewConnectLimiter(2, 10*time.Second), CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: time.Minute}, func(s *street) {
		one, two := s.come("one", asked), s.come("two", urgent)
		three := s.come("three", routine) // waits for the budget
		one.leaveWith(hostUp, 35*time.Second)
		time.Sleep(34 * time.Second)
		s.want("one@0", "two@0")
		time.Sleep(time.Second)
		s.want("three@35")
		four, five, six := s.come("four", urgent), s.come("five", urgent), s.come("six", routine)
		s.want("four@35")
		two.leave(hostDown) // five waits for the budget: not the probe
		if <-six.over; !errors.Is(six.err, ErrCircuitOpen) {
			t.Errorf("a switchover that stood in line when the breaker opened: %v", six.err)
		}
		time.Sleep(59 * time.Second)
		s.want()
		time.Sleep(time.Second)
		s.want("five@95")
		for _, p := range []*guest{three, four, five} {
			p.leave(hostUp)
		}
		s.wantEmpty()
	})
}

func TestLimiterForgetsHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewConnectLimiter(3, time.Minute).(*slidingLimiter)
		for i := range 1000 {
			l.Wait(t.Context(), fmt.Sprint("host", i), "")
			l.Block(fmt.Sprint("other", i), "", time.Now().Add(30*time.Second))
			time.Sleep(time.Second)
		}
		if n := len(l.logs); n > 100 {
			t.Errorf("%d logs are kept", n)
		}
	})
}
