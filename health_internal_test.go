package wsshard

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: are the rules of time kept, with time passed in: when is a connection sick (health.go), and what may be written (pace.go)?

const sec = time.Second

// patient is a connection as health sees it: a script moves its clock and shows signs.
type patient struct {
	t     *testing.T
	h     *health
	now   time.Duration
	signs wsconn.Signs
	data  time.Duration // the data timeout
}

func newPatient(t *testing.T, cfg HealthConfig) *patient {
	t.Helper()
	cfg = Config{Health: cfg}.withDefaults(0).Health
	return &patient{t: t, h: newHealth(cfg, 0), signs: wsconn.Signs{Waiting: true}, data: cfg.DataTimeout}
}

// received shows bytes at an instant; the reader goes on to wait at once.
func (p *patient) received(at time.Duration) {
	p.now = at
	s := &p.signs
	s.Waited, s.Since = s.Clock(at), at
	s.Reads++
}

// handled shows a data message at an instant.
func (p *patient) handled(at time.Duration) {
	p.received(at)
	p.signs.Fed, p.signs.Data = true, p.signs.Waited
}

// busy stops the reader's clock at an instant, idle lets it run on.
func (p *patient) busy(at time.Duration) {
	p.received(at)
	p.signs.Waiting = false
}

func (p *patient) idle(at time.Duration) {
	p.now = at
	p.signs.Waiting, p.signs.Since = true, at
}

// ping has a ping leave when it is due, at that instant exactly.
func (p *patient) ping(at time.Duration) {
	p.t.Helper()
	if p.h.pingDue(at - 1) {
		p.t.Errorf("a ping is due before %v", at)
	}
	p.now = at
	if !p.h.pingDue(at) {
		p.t.Errorf("no ping is due at %v", at)
	}
	p.h.sent(at, p.signs)
}

// well and sick judge at an instant.
func (p *patient) well(at time.Duration) { p.t.Helper(); p.judged(at, nil, 0) }

func (p *patient) judged(at time.Duration, want error, missed int) {
	p.t.Helper()
	p.now = at
	if got, n := p.h.judge(at, p.signs, p.data); got != want || n != missed {
		p.t.Errorf("at %v: %v and %d missed, want %v and %d", at, got, n, want, missed)
	}
}

// falls checks that the cause comes at this instant and not a nanosecond before, and that due foresaw it.
func (p *patient) falls(at time.Duration, want error, missed int) {
	p.t.Helper()
	due, ok := p.h.due(p.now, p.signs, p.data)
	if !ok || due > at {
		p.t.Errorf("at %v the next look is due at %v (%v), too late for %v", p.now, due, ok, at)
	}
	p.well(at - 1)
	p.judged(at, want, missed)
}

var off = time.Duration(-1)

func TestHealthHalfOpen(t *testing.T) {
	p := newPatient(t, HealthConfig{FailureThreshold: 1, DataTimeout: off})
	p.ping(20 * sec)
	p.received(20 * sec)
	p.ping(40 * sec)
	p.falls(50*sec, ErrPongTimeout, 1) // last pong + interval + timeout
}

func TestHealthMissesInARow(t *testing.T) {
	p := newPatient(t, HealthConfig{DataTimeout: off})
	p.ping(20 * sec)
	p.judged(30*sec, nil, 1)
	p.judged(31*sec, nil, 0) // once
	p.ping(40 * sec)
	p.judged(50*sec, nil, 1)
	p.ping(60 * sec)
	p.falls(70*sec, ErrPongTimeout, 1)
}

func TestHealthAnythingReceivedIsLife(t *testing.T) {
	p := newPatient(t, HealthConfig{FailureThreshold: 2, DataTimeout: off})
	p.ping(20 * sec)
	p.received(29 * sec) // whatever it was
	p.well(30 * sec)
	p.ping(40 * sec)
	p.judged(50*sec, nil, 1)
	p.ping(60 * sec)
	p.received(69 * sec)
	p.well(70 * sec)
	p.ping(80 * sec)
	p.judged(90*sec, nil, 1) // the first in a row again
}

// A pong that is late by a little is a missed one, and a sign of life all the same.
func TestHealthLatePong(t *testing.T) {
	p := newPatient(t, HealthConfig{FailureThreshold: 2, DataTimeout: off})
	for at := 20 * sec; at < 400*sec; at += 20 * sec {
		p.ping(at)
		p.judged(at+10*sec, nil, 1)
		p.received(at + 11*sec)
		p.well(at + 11*sec)
	}
}

func TestHealthBusyReader(t *testing.T) {
	p := newPatient(t, HealthConfig{FailureThreshold: 1})
	p.h.expectData(true, 0)
	p.handled(5 * sec)
	p.busy(6 * sec)
	p.ping(20 * sec)
	p.well(1000 * sec)
	p.idle(1000 * sec)
	p.well(1010*sec - 1)
	p.judged(1010*sec, ErrPongTimeout, 1) // a full timeout of waiting
}

func TestHealthBusyReaderData(t *testing.T) {
	p := newPatient(t, HealthConfig{PingInterval: off})
	p.h.expectData(true, 0)
	p.handled(5 * sec)
	p.busy(15 * sec)
	p.well(1000 * sec)
	p.idle(1000 * sec)
	p.falls(1020*sec, ErrDataTimeout, 0) // 10 s were waited before
}

func TestHealthDataTimeout(t *testing.T) {
	p := newPatient(t, HealthConfig{PingInterval: off})
	p.well(100 * sec) // nothing is expected
	p.h.expectData(true, 100*sec)
	p.falls(130*sec, ErrDataTimeout, 0)
	p.handled(131 * sec)
	p.received(150 * sec) // no data
	p.falls(161*sec, ErrDataTimeout, 0)
	p.h.expectData(false, 161*sec)
	p.well(1000 * sec)
	p.h.expectData(true, 1000*sec)
	p.h.expectData(true, 1010*sec) // as before
	p.falls(1030*sec, ErrDataTimeout, 0)
	p.data = 60 * sec
	p.falls(1060*sec, ErrDataTimeout, 0)
}

func TestHealthMessageTimeout(t *testing.T) {
	p := newPatient(t, HealthConfig{PingInterval: off})
	p.signs.Begun, p.signs.Began = true, 7*sec
	p.received(36 * sec)
	p.falls(37*sec, ErrMessageTimeout, 0)
	p.signs.Begun = false
	p.well(1000 * sec)
}

// An overdue ping is for whoever writes pings to wait for: due must not name the past, or the loop would spin.
func TestHealthDueIsNeverThePast(t *testing.T) {
	p := newPatient(t, HealthConfig{})
	p.h.expectData(true, 0)
	for _, at := range []time.Duration{20 * sec, 25 * sec, 29 * sec} {
		if due, ok := p.h.due(at, p.signs, p.data); !ok || due != 30*sec {
			t.Errorf("at %v: due at %v, %v", at, due, ok)
		}
	}
}

// While the reader is busy a deadline does not come nearer, however near it is.
func TestHealthDueWhileBusy(t *testing.T) {
	for _, left := range []time.Duration{1, time.Microsecond, time.Millisecond} {
		p := newPatient(t, HealthConfig{PingInterval: off})
		p.h.expectData(true, 0)
		p.busy(30*sec - left)
		if due, ok := p.h.due(31*sec, p.signs, p.data); !ok || due < 31*sec+50*time.Millisecond || due > 32*sec {
			t.Errorf("%v before the deadline: due at %v, %v", left, due, ok)
		}
	}
	p := newPatient(t, HealthConfig{})
	p.h.expectData(true, 0)
	p.busy(19 * sec)
	if due, _ := p.h.due(20*sec-1, p.signs, p.data); due != 20*sec {
		t.Errorf("a ping is due at %v, but the next look at %v", 20*sec, due)
	}
}

func TestHealthGrace(t *testing.T) {
	p := newPatient(t, HealthConfig{FailureThreshold: 1})
	p.h.expectData(true, 0)
	p.ping(20 * sec)
	p.signs.Begun, p.signs.Began = true, 20*sec
	p.h.grace(100*sec, p.signs) // the process slept from 21 s to 100 s
	p.now = 100 * sec
	p.falls(110*sec, ErrPongTimeout, 1)
	p.falls(130*sec, ErrMessageTimeout, 0)
	p.signs.Begun = false
	p.judged(130*sec, ErrDataTimeout, 0)
}

// Each check alone, each off, and all combinations: what is on sees what it is there for, and nothing else does.
func TestHealthCombinations(t *testing.T) {
	for i := range 1 << 5 {
		bit := func(n int) bool { return i>>n&1 != 0 }
		cfg := HealthConfig{PingInterval: 20 * sec, PongTimeout: 10 * sec, FailureThreshold: 1, DataTimeout: 35 * sec, MessageTimeout: 40 * sec}
		for n, f := range []*time.Duration{&cfg.PingInterval, &cfg.PongTimeout, &cfg.DataTimeout, &cfg.MessageTimeout} {
			if bit(n) {
				*f = off
			}
		}
		if bit(4) {
			cfg.FailureThreshold = -1
		}
		p := newPatient(t, cfg)
		p.h.expectData(true, 0)
		p.signs.Begun = true
		for p.now < 100*sec {
			want := error(nil)
			switch {
			case cfg.PingInterval > 0 && cfg.PongTimeout > 0 && cfg.FailureThreshold > 0 && p.now >= 30*sec:
				want = ErrPongTimeout
			case cfg.MessageTimeout > 0 && p.now >= 40*sec:
				want = ErrMessageTimeout
			case cfg.DataTimeout > 0 && p.now >= 35*sec:
				want = ErrDataTimeout
			}
			got, _ := p.h.judge(p.now, p.signs, p.data)
			if got != want {
				t.Errorf("%05b at %v: %v, want %v", i, p.now, got, want)
			}
			if want != nil {
				break
			}
			if p.h.pingDue(p.now) {
				p.h.sent(p.now, p.signs)
			}
			next, ok := p.h.due(p.now, p.signs, p.data)
			if ok && next <= p.now {
				t.Fatalf("%05b at %v: due at %v", i, p.now, next)
			}
			if !ok {
				next = 100 * sec
			}
			p.now = next
		}
	}
}

// A reader that never waits for long is judged by what it had handled when it last went to read: what came since may be what is
// missed.
func TestReaderThatIsAlwaysBusy(t *testing.T) {
	cfg := Config{Health: HealthConfig{PingInterval: -1, DataTimeout: 30 * sec, MessageTimeout: 40 * sec}}.withDefaults(0).Health
	for _, c := range []struct {
		signs wsconn.Signs
		want  error
	}{
		{wsconn.Signs{Waited: 31 * sec, Asked: 29 * sec}, nil}, // it has read something since, maybe data
		{wsconn.Signs{Waited: 31 * sec, Asked: 30 * sec}, ErrDataTimeout},
		{wsconn.Signs{Waited: 31 * sec, Asked: 30 * sec, Fed: true, Data: 1 * sec}, nil},
		{wsconn.Signs{Waited: 31 * sec, Asked: 31 * sec, Fed: true, Data: 1 * sec}, ErrDataTimeout},
		{wsconn.Signs{Waited: 40 * sec, Asked: 40 * sec, Fed: true, Data: 39 * sec, Begun: true}, ErrMessageTimeout},
		{wsconn.Signs{Waited: 41 * sec, Asked: 39 * sec, Fed: true, Data: 39 * sec, Begun: true}, nil},
	} {
		h := newHealth(cfg, 0)
		h.expectData(true, 0)
		c.signs.Reads = 1
		if got, _ := h.judge(time.Hour, c.signs, cfg.DataTimeout); got != c.want {
			t.Errorf("%+v: %v, want %v", c.signs, got, c.want)
		}
	}
}

// Whatever is asked for and whenever, no window has more frames than it may, one place is left to control frames, and a
// wait is as long as it was said to be.
func TestPaceProperty(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n, window := 1+rnd.IntN(8), time.Duration(1+rnd.IntN(5000))*time.Millisecond
		p := newPace(SubscribeConfig{MessagesPerWindow: n, Window: window})
		long := window + window/10
		var all, controls []time.Time // when each frame left
		within := func(left []time.Time, d time.Duration, now time.Time) (frames int) {
			for _, at := range left {
				if now.Sub(at) < d {
					frames++
				}
			}
			return frames
		}
		now := time.Unix(1e9, 0)
		for range 300 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(window) / float64(2*n)))
			control := rnd.IntN(3) == 0
			wait, charge := p.wait, func(now time.Time) { p.charge(now, 1) }
			if control {
				wait, charge = p.waitControl, p.chargeControl
			}
			due := wait(now)
			var may bool
			switch {
			case n == 1 && control: // in turns
				may = within(all, long, now) == 0 && within(controls, 2*long, now) == 0
			case n == 1:
				may = within(all, long, now) == 0
			case control:
				may = within(controls, long, now) == 0
			default:
				may = within(all, long, now)-within(controls, long, now) < n-1
			}
			if may != (due == 0) {
				t.Fatalf("seed %d: limit %d, %d frames within the window, control %v: wait %v", seed, n, within(all, long, now), control, due)
			}
			if rnd.IntN(2) == 0 { // or change one's mind
				continue
			}
			if due > 0 {
				if wait(now.Add(due-1)) == 0 {
					t.Fatalf("seed %d: told to wait %v, and it was too long", seed, due)
				}
				now = now.Add(due)
				if d := wait(now); d != 0 {
					t.Fatalf("seed %d: told to wait %v, then %v", seed, due, d)
				}
			}
			charge(now)
			all = append(all, now)
			if control {
				controls = append(controls, now)
			}
		}
		for i := range all {
			if i >= n && all[i].Sub(all[i-n]) < long {
				t.Fatalf("seed %d: %d frames within %v", seed, n+1, all[i].Sub(all[i-n]))
			}
		}
	}
}

func TestPaceWithoutLimit(t *testing.T) {
	now := time.Now()
	for _, n := range []int{0, -1, math.MaxInt} {
		p := newPace(SubscribeConfig{MessagesPerWindow: n, Window: time.Second})
		for range 1000 {
			if p.wait(now) != 0 {
				t.Fatalf("MessagesPerWindow %d waits", n)
			}
			if n <= 0 && p.waitControl(now) != 0 {
				t.Fatalf("MessagesPerWindow %d lets a control frame wait", n)
			}
			p.charge(now, 3)
			p.chargeControl(now)
		}
	}
}

// A message of many frames is charged for all of them, up to the whole window.
func TestPaceFrames(t *testing.T) {
	for _, c := range []struct{ n, frames, free int }{{5, 1, 3}, {5, 3, 1}, {5, 4, 0}, {5, 50, 0}, {2, 1, 0}, {1, 2, 0}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			p, now, free := newPace(SubscribeConfig{MessagesPerWindow: c.n, Window: time.Second}), time.Now(), 0
			for p.charge(now, c.frames); p.wait(now) == 0; p.charge(now, 1) {
				free++
			}
			if free != c.free {
				t.Errorf("room for %d more, want %d", free, c.free)
			}
			if d := p.wait(now); d != 1100*time.Millisecond {
				t.Errorf("then a wait of %v", d)
			}
		})
	}
}

// An answer says only of the ping that it answers for certain that all before it has come.
func TestPinged(t *testing.T) {
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	var p pinged
	text := func(heartbeat bool, wantSent, wantNewest int, want bool) {
		t.Helper()
		if sent, newest, ok := p.byText(heartbeat); ok != want || sent != second(wantSent) || newest != second(wantNewest) {
			t.Errorf("it answers that of %v, %v, the newest of %v; want %d s, %v, %d s", sent, ok, newest, wantSent, want, wantNewest)
		}
	}
	frame := func(payload string, wantSent int, want bool) {
		t.Helper()
		if sent, ok := p.byFrame(payload); ok != want || sent != second(wantSent) {
			t.Errorf("pong %s answers that of %v, %v; want %d s, %v", payload, sent, ok, wantSent, want)
		}
	}
	add := func(nums ...int) {
		for _, n := range nums {
			p.add(uint64(n), second(n))
		}
	}

	add(1, 2, 3, 4)
	frame("9", 0, false)
	frame("", 0, false)
	frame("2", 2, true) // the first needs no answer of its own
	frame("1", 0, false)
	text(true, 3, 4, true) // the oldest: nothing shows that the peer has seen the fourth
	text(false, 4, 4, true)

	text(true, 0, 0, false) // nobody had asked
	add(5)
	text(true, 5, 5, false) // it may be another of the peer's own
	add(6)
	text(false, 6, 6, true) // a text pong is an answer all the same

	add(7, 40)
	text(false, 7, 40, true) // be it ever so late
	text(false, 40, 40, true)
	for n := range 40 {
		add(50 + n/20)
	}
	if len(p.open) != mostPinged {
		t.Errorf("%d pings are remembered, want %d", len(p.open), mostPinged)
	}
}
