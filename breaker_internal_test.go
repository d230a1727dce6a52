package wsshard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// This file answers: when does the breaker open and close, and is a place at the gate ever lost?

var breaker = ConnectionConfig{CircuitBreakerThreshold: 3, CircuitBreakerResetTimeout: 10 * time.Second}

func (s *street) wantNews(want ...string) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.news, want) {
		s.t.Errorf("heard %q, want %q", s.news, want)
	}
	s.news = nil
}

// trip opens the breaker, at the current instant.
func (s *street) trip() {
	s.t.Helper()
	for range s.g.threshold {
		s.come("trip", urgent).leave(hostDown)
	}
	s.wantNews(fmt.Sprint("open ", s.g.reset, " down"))
	s.mu.Lock()
	s.begun = nil
	s.mu.Unlock()
}

func TestBreakerCountsInARow(t *testing.T) {
	gateTest(t, breaker, func(s *street) {
		for range 3 {
			s.come("", urgent).leave(hostDown)
			s.come("", urgent).leave(hostUnknown) // says nothing
			s.come("", urgent).leave(hostDown)
			s.come("", urgent).leave(hostUp)
		}
		s.wantNews()
		s.wantEmpty()
		s.trip()
	})
}

func TestBreakerProbes(t *testing.T) {
	gateTest(t, breaker, func(s *street) {
		s.trip() // at 0
		all := make([]*guest, 5)
		for i := range all {
			all[i] = s.come(fmt.Sprint("u", i), urgent)
		}
		s.want()
		time.Sleep(12 * time.Second)
		s.want("u0@10")
		time.Sleep(8 * time.Second)
		all[0].leave(hostDown) // at 20
		time.Sleep(time.Minute)
		s.want("u1@30")
		all[1].leave(hostUnknown) // at 80: it did not ask the host, so the next one may, at once
		s.want("u2@80")
		all[2].leave(hostUp)
		s.wantAnyOrder("u3@80", "u4@80")
		s.wantNews("closed")
		all[3].leave(hostDown) // from now on failures count from 0 again
		all[4].leave(hostDown)
		s.wantNews()
	})
}

func TestBreakerLetsOthersInPaced(t *testing.T) {
	cfg := breaker
	cfg.MaxConcurrentDials = 2
	gateTest(t, cfg, func(s *street) {
		s.trip()
		all := make([]*guest, 5)
		for i := range all {
			all[i] = s.come(fmt.Sprint("u", i), urgent)
		}
		time.Sleep(10 * time.Second)
		s.want("u0@10")
		all[0].leave(hostUp)
		s.wantAnyOrder("u1@10", "u2@10")
		time.Sleep(time.Second)
		all[2].leave(hostUp)
		s.want("u3@11")
	})
}

// While the breaker is open a switchover is refused at once; when a probe is due and nobody is down, it is the probe: else a
// host whose connections all live would never be asked again.
func TestBreakerAndSwitchovers(t *testing.T) {
	gateTest(t, breaker, func(s *street) {
		s.trip()
		refused := func(p *guest) {
			t.Helper()
			if <-p.over; !errors.Is(p.err, ErrCircuitOpen) {
				t.Errorf("%s: %v, want ErrCircuitOpen", p.name, p.err)
			}
		}
		refused(s.come("a", asked))
		refused(s.come("r", routine))
		time.Sleep(10 * time.Second)
		probe := s.come("probe", routine)
		s.want("probe@10")
		refused(s.come("a", asked))
		probe.leave(hostDown)
		refused(s.come("a", asked))
		time.Sleep(10 * time.Second)
		s.come("probe", asked).leave(hostUp)
		s.wantNews("closed")
		s.come("r", routine).leave(hostUp)
		s.want("probe@20", "r@20")
		s.wantEmpty()
	})
}

// Dials that began before the breaker opened still say what they found.
func TestBreakerHearsTheLate(t *testing.T) {
	gateTest(t, breaker, func(s *street) {
		late := []*guest{s.come("", urgent), s.come("", urgent), s.come("", urgent)}
		s.trip()
		waits := s.come("waits", urgent)
		time.Sleep(9 * time.Second)
		late[0].leave(hostDown) // no probe: it does not put off the next one
		time.Sleep(time.Second)
		s.want("waits@10")
		more := s.come("more", urgent)
		late[1].leave(hostUp) // it closes the breaker under the probe
		s.want("more@10")
		s.wantNews("closed")
		waits.leave(hostDown)
		more.leave(hostDown)
		s.wantNews()
		late[2].leave(hostDown)
		s.wantNews("open 10s down")
	})
}

func TestBreakerProbeGivesUp(t *testing.T) {
	cfg := breaker
	cfg.Limiter = NewConnectLimiter(3, time.Minute)
	gateTest(t, cfg, func(s *street) {
		s.trip()
		probe, next := s.come("probe", urgent), s.come("next", urgent)
		time.Sleep(30 * time.Second) // the probe waits for the budget
		probe.cancel()
		time.Sleep(time.Minute)
		s.want("next@60")
		last := s.come("last", urgent)
		next.leave(hostUp)
		s.want("last@90")
		last.leave(hostUp)
		s.wantEmpty()
	})
}

func TestBreakerOff(t *testing.T) {
	for _, cfg := range []ConnectionConfig{
		{CircuitBreakerThreshold: -1, CircuitBreakerResetTimeout: time.Second},
		{CircuitBreakerThreshold: 1, CircuitBreakerResetTimeout: -1},
	} {
		gateTest(t, cfg, func(s *street) {
			for range 100 {
				s.come("", urgent).leave(hostDown)
			}
			s.wantNews()
			s.wantEmpty()
		})
	}
}

// A host that refuses at once sees no more dials before the breaker opens than one which does not answer.
func TestGateFailuresTakePlaces(t *testing.T) {
	cfg := breaker
	cfg.MaxConcurrentDials = 4
	gateTest(t, cfg, func(s *street) {
		var all []*guest
		for range 10 {
			all = append(all, s.come("u", urgent))
		}
		all[0].leave(hostDown)
		all[1].leave(hostDown)
		s.want("u@0", "u@0", "u@0", "u@0")
		all[2].leave(hostUp)
		s.want("u@0", "u@0", "u@0") // all places again
	})
	cfg.MaxConcurrentDials = 1
	gateTest(t, cfg, func(s *street) {
		for range 3 {
			s.come("u", urgent).leave(hostDown) // there is always one place
		}
		s.want("u@0", "u@0", "u@0")
	})
}

// An observer hears of the breaker in order, also when the first of them is slow.
func TestBreakerNewsInOrder(t *testing.T) {
	cfg := breaker
	cfg.CircuitBreakerThreshold = 1
	gateTest(t, cfg, func(s *street) {
		s.g.opened = func(doorKey, time.Duration, error) {
			time.Sleep(time.Second)
			s.hear("open")
		}
		one, two := s.come("one", urgent), s.come("two", urgent)
		go s.g.leave(s.key, one.v, hostDown, nil, 0)
		synctest.Wait()
		two.leave(hostUp)
		time.Sleep(time.Minute)
		s.wantNews("open", "closed")
	})
}

// A handler may name a new host each time, and none of them may answer.
func TestGateForgetsHosts(t *testing.T) {
	gateTest(t, breaker, func(s *street) {
		for i := range 1000 {
			s.key.host = fmt.Sprint("host", i)
			s.come("", urgent).leave(hostDown)
			time.Sleep(time.Minute)
		}
		if n := len(s.g.doors); n > 62 {
			t.Errorf("%d doors are kept", n)
		}
	})
}

// Whatever comes together, no place is lost, none is taken twice, and nobody is forgotten.
func TestGateLosesNoPlace(t *testing.T) {
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

// jostle sends many through one gate: they come, are cancelled, lose their connection and leave at random instants.
func jostle(t *testing.T, rnd *rand.Rand) {
	cfg := ConnectionConfig{
		MaxConcurrentDials:         rnd.IntN(5),
		CircuitBreakerThreshold:    rnd.IntN(5),
		CircuitBreakerResetTimeout: time.Second,
	}
	if rnd.IntN(2) == 0 {
		cfg.Limiter = NewConnectLimiter(1+rnd.IntN(3), 100*time.Millisecond)
	}
	g := newGate(cfg, func() float64 { return 0.5 })
	g.opened = func(doorKey, time.Duration, error) {}
	g.closed = func(doorKey) {}
	k := doorKey{host: "srv"}
	var mu sync.Mutex
	inside, most := 0, 0
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		inside += n
		most = max(most, inside)
	}
	ms := func(n int) time.Duration { return time.Duration(rnd.IntN(n)) * time.Millisecond }
	var all sync.WaitGroup
	for range 100 {
		come, giveUp, lose, stay := ms(2000), ms(4000), ms(1000), ms(200)
		class, host := urgency(rnd.IntN(3)), outcome(rnd.IntN(3))
		retryAfter := time.Duration(max(0, rnd.IntN(20)-17)) * 100 * time.Millisecond
		all.Go(func() {
			time.Sleep(come)
			ctx, cancel := context.WithTimeout(context.Background(), giveUp)
			defer cancel()
			lost := make(chan struct{})
			timer := time.AfterFunc(lose, func() { close(lost) })
			defer timer.Stop()
			v, err := g.enter(ctx, k, class, lost)
			if err != nil {
				if !errors.Is(err, ErrCircuitOpen) && ctx.Err() == nil {
					t.Errorf("enter: %v", err)
				}
				return
			}
			count(1)
			time.Sleep(stay)
			count(-1)
			g.leave(k, v, host, err, retryAfter)
		})
	}
	all.Wait()
	if limit := cfg.MaxConcurrentDials; limit > 0 && most > limit {
		t.Errorf("%d were in at once, %d may", most, limit)
	}
	time.Sleep(time.Minute) // past any Retry-After and reset
	v, err := g.enter(context.Background(), k, urgent, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.leave(k, v, hostUp, nil, 0)
	if len(g.doors) != 0 {
		t.Errorf("left: %+v", g.doors[k])
	}
}

// What a proxy says of the server counts as if the server had been asked; what it says of the credentials does not.
func TestJudgeHost(t *testing.T) {
	proxy := func(step string, status int, err error) error {
		return &ProxyError{Proxy: "http://proxy:80", Step: step, StatusCode: status, Err: err}
	}
	said := func(text string) error {
		step, err := socksError("connect", errors.New(text))
		return proxy(step, 0, err)
	}
	for _, c := range []struct {
		err  error
		want outcome
	}{
		{proxy("auth", 407, errProxyAuth), hostUp},
		{proxy("auth", 0, errProxyAuth), hostUp},
		{proxy("auth", 0, io.EOF), hostDown}, // it broke while the password was on its way
		{proxy("connect", 403, errors.New("no")), hostUp},
		{proxy("connect", 502, errors.New("no")), hostDown},
		{proxy("dial", 0, syscall.ECONNREFUSED), hostDown},
		{proxy("dial", 0, syscall.EADDRNOTAVAIL), hostUnknown},
		{proxy("tunnel", 0, io.ErrUnexpectedEOF), hostDown},
		{proxy("connect", 0, context.DeadlineExceeded), hostDown},
		{proxy("connect", 0, ErrStopped), hostUnknown},
		{proxy("greeting", 0, errMethod), hostUnknown},
		{said("unknown error connection refused"), hostDown},
		{said("unknown error host unreachable"), hostDown},
		{said("unknown error general SOCKS server failure"), hostDown},
		{said("unknown error unknown code: 91"), hostDown},
		{said("unknown error connection not allowed by ruleset"), hostUnknown},
		{said("unknown error address type not supported"), hostUnknown},
		{said("username/password authentication failed"), hostUp},
		{said("unexpected protocol version 72"), hostUnknown},
		{context.Canceled, hostUnknown},
		{ErrReconnect, hostUnknown},
	} {
		if got := judgeHost(fmt.Errorf("dial: %w", c.err)); got != c.want {
			t.Errorf("%v: outcome %d, want %d", c.err, got, c.want)
		}
	}
}
