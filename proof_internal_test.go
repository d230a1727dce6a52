package wsshard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: what is proven of a topic, what was missed (gap.go), and what is remembered of it (freshness.go)?

// court is the claims of a connection with what a session keeps beside it: the topics that are wanted, under numbers.
type court struct {
	t      *testing.T
	p      *claims[string]
	wanted map[string]uint64
	start  time.Time

	answered bool // the last Ack answered something
}

func newCourt(t *testing.T, acks bool) *court {
	cfg := Config{}.withDefaults(0)
	return &court{t: t, p: newProof[string](acks, &cfg), wanted: make(map[string]uint64), start: time.Now()}
}

// wrote claims topics; each has the number of its letter unless it was given another.
func (c *court) wrote(request uint64, at time.Duration, subs ...string) {
	b := reconcile.Batch[string]{Subs: subs}
	for _, s := range subs {
		if c.wanted[s] == 0 {
			c.wanted[s] = uint64(s[0])
		}
		b.Nums = append(b.Nums, c.wanted[s])
	}
	c.p.wrote(request, b, c.start.Add(at))
}

func (c *court) answer(a Ack[string], confirmed, rejected []string) {
	c.t.Helper()
	yes, no, answered := c.p.answer(a, func(s string) (uint64, bool) { n, ok := c.wanted[s]; return n, ok })
	slices.Sort(yes)
	slices.Sort(no)
	if c.answered = answered; len(yes) > 0 && !answered {
		c.t.Errorf("%+v confirmed %q and answered nothing", a, yes)
	}
	if !slices.Equal(yes, confirmed) || !slices.Equal(no, rejected) {
		c.t.Errorf("%+v confirmed %q and rejected %q, want %q and %q", a, yes, no, confirmed, rejected)
	}
}

func (c *court) expire(at time.Duration, redo, failed []string) {
	c.t.Helper()
	again, gone := c.p.expire(c.start.Add(at))
	if !slices.Equal(again, redo) || !slices.Equal(gone, failed) {
		c.t.Errorf("after %v: %q once more and %q failed, want %q and %q", at, again, gone, redo, failed)
	}
}

func (c *court) state(sub string, waiting bool, err error) {
	c.t.Helper()
	if w, e := c.p.state(sub); w != waiting || !errors.Is(e, err) {
		c.t.Errorf("%q: waiting %v, %v; want %v, %v", sub, w, e, waiting, err)
	}
}

func (c *court) refused(want ...string) {
	c.t.Helper()
	if got := c.p.takeRefused(); !slices.Equal(got, want) {
		c.t.Errorf("refused %q, want %q", got, want)
	}
}

type names = []string

var errNo = errors.New("no")

// What an Ack says of a request for a, b, c and an older one for a.
func TestAckMeaning(t *testing.T) {
	for name, test := range map[string]struct {
		ack                          Ack[string]
		confirmed, rejected, waiting names
		err                          error
	}{
		"whole request":            {ack: Ack[string]{Request: 2}, confirmed: names{"a", "b", "c"}},
		"whole request rejected":   {ack: Ack[string]{Request: 2, Err: errNo}, rejected: names{"a", "b", "c"}, err: errNo},
		"some confirmed":           {ack: Ack[string]{Request: 2, Confirmed: names{"b"}}, confirmed: names{"b"}, waiting: names{"a", "c"}},
		"some rejected":            {ack: Ack[string]{Request: 2, Rejected: names{"b"}}, confirmed: names{"a", "c"}, rejected: names{"b"}, err: ErrRejected},
		"some rejected, with why":  {ack: Ack[string]{Request: 2, Rejected: names{"b"}, Err: errNo}, confirmed: names{"a", "c"}, rejected: names{"b"}, err: errNo},
		"some of each":             {ack: Ack[string]{Request: 2, Confirmed: names{"a"}, Rejected: names{"b"}, Err: errNo}, confirmed: names{"a"}, rejected: names{"b"}, waiting: names{"c"}, err: errNo},
		"by topic":                 {ack: Ack[string]{Confirmed: names{"a"}, Rejected: names{"c"}}, confirmed: names{"a"}, rejected: names{"c"}, waiting: names{"b"}, err: ErrRejected},
		"by topic, unknown ones":   {ack: Ack[string]{Confirmed: names{"x"}, Rejected: names{"y"}}, waiting: names{"a", "b", "c"}},
		"stale":                    {ack: Ack[string]{Request: 1}, waiting: names{"a", "b", "c"}},
		"stale rejection":          {ack: Ack[string]{Request: 1, Err: errNo}, waiting: names{"a", "b", "c"}},
		"stale, naming topics":     {ack: Ack[string]{Request: 1, Confirmed: names{"a", "b"}, Rejected: names{"c"}}, waiting: names{"a", "b", "c"}},
		"unknown request":          {ack: Ack[string]{Request: 9}, waiting: names{"a", "b", "c"}},
		"nothing":                  {ack: Ack[string]{}, waiting: names{"a", "b", "c"}},
		"nothing but an error":     {ack: Ack[string]{Err: errNo}, waiting: names{"a", "b", "c"}},
		"a topic of another's ack": {ack: Ack[string]{Request: 2, Confirmed: names{"x"}}, waiting: names{"a", "b", "c"}},
	} {
		t.Log(name)
		c := newCourt(t, true)
		c.wrote(1, 0, "a")
		c.wanted["a"] = 1000 // asked for again
		c.wrote(2, 0, "a", "b", "c")
		c.answer(test.ack, test.confirmed, test.rejected)
		c.refused(test.rejected...)
		for _, s := range test.rejected {
			c.state(s, false, test.err)
		}
		for _, s := range test.confirmed {
			c.state(s, false, nil)
		}
		for _, s := range test.waiting {
			c.state(s, true, nil)
		}
		if n := c.p.unproven(); n != len(test.waiting) {
			t.Errorf("%d unproven", n)
		}
		c.answer(test.ack, nil, nil) // once more changes nothing
		if c.answered {
			t.Errorf("%+v answered something a second time", test.ack)
		}
		c.refused()
	}
}

func TestAckInParts(t *testing.T) {
	c := newCourt(t, true)
	c.wrote(1, 0, "a", "b", "c")
	c.answer(Ack[string]{Request: 1, Confirmed: names{"a"}}, names{"a"}, nil)
	c.answer(Ack[string]{Request: 1, Confirmed: names{"c"}}, names{"c"}, nil)
	c.answer(Ack[string]{Request: 1}, names{"b"}, nil)
	c.p.takeEnded()
	if p := c.p; p.claims != nil || p.requests != nil || p.queue.Len() > 0 || p.open.Load() || p.busy.Load() {
		t.Errorf("something is kept of what was proven: %+v", p)
	}
}

func TestAckTimeout(t *testing.T) {
	c := newCourt(t, true)
	c.wrote(1, 0, "a", "b")
	c.wrote(2, 4*time.Second, "c")
	if at, ok := c.p.due(); !ok || at != c.start.Add(10*time.Second) {
		t.Errorf("due at %v", at)
	}
	c.answer(Ack[string]{Confirmed: names{"b"}}, names{"b"}, nil)
	c.expire(10*time.Second-1, nil, nil)
	c.expire(10*time.Second, names{"a"}, nil)
	c.expire(10*time.Second, nil, nil)
	c.wrote(3, 10*time.Second, "a")
	c.expire(14*time.Second, names{"c"}, nil)
	c.expire(20*time.Second-1, nil, nil)
	c.state("a", true, nil)
	c.expire(20*time.Second, nil, names{"a"})
	c.state("a", false, ErrAckTimeout)
	c.refused() // the server may have it all the same

	c.wanted["a"] = 1000 // asked for again: two more tries
	c.wrote(4, 30*time.Second, "a")
	c.state("a", true, nil)
	c.expire(40*time.Second, names{"a"}, nil)
}

// An answer may come when a topic was given up.
func TestAckLate(t *testing.T) {
	given := func() *court {
		c := newCourt(t, true)
		c.wrote(1, 0, "a", "b")
		c.expire(10*time.Second, names{"a", "b"}, nil)
		c.wrote(2, 10*time.Second, "a", "b")
		c.expire(20*time.Second, nil, names{"a", "b"})
		return c
	}
	c := given()
	c.answer(Ack[string]{Request: 1}, nil, nil) // to the first writing
	c.state("a", false, ErrAckTimeout)
	c.answer(Ack[string]{Request: 2}, names{"a", "b"}, nil)
	c.state("a", false, nil)

	c = given()
	c.answer(Ack[string]{Confirmed: names{"b"}}, names{"b"}, nil)
	c.state("a", false, ErrAckTimeout)
	c.state("b", false, nil)

	c = given()
	c.answer(Ack[string]{Request: 2, Err: errNo}, nil, nil) // that they failed is known
	c.state("a", false, errNo)
	if r := c.p.takeRefused(); len(r) != 2 {
		t.Errorf("refused %q", r)
	}
	c.answer(Ack[string]{Confirmed: names{"a"}}, nil, nil) // contradicts itself
	c.state("a", false, errNo)
}

// A server may take back what it confirmed.
func TestAckTakenBack(t *testing.T) {
	c := newCourt(t, true)
	c.wrote(1, 0, "a", "b")
	c.answer(Ack[string]{Request: 1}, names{"a", "b"}, nil)
	c.answer(Ack[string]{Rejected: names{"a", "x"}, Err: errNo}, nil, names{"a"})
	c.refused("a")
	c.state("a", false, errNo)
	c.state("b", false, nil)
	c.answer(Ack[string]{Request: 1, Rejected: names{"b"}}, nil, nil) // a request that is answered
	c.state("b", false, nil)
}

// A rejection that arrives while the next request for the topic is being encoded is not meant for that.
func TestAckCrossesRequest(t *testing.T) {
	c := newCourt(t, true)
	c.wrote(1, 0, "a", "b")
	c.answer(Ack[string]{Request: 1, Err: errNo}, nil, names{"a", "b"})
	c.wrote(2, 0, "a")
	c.refused("b")
	c.state("a", true, nil)
	c.state("b", false, errNo)
}

func TestUnsubscribedIsForgotten(t *testing.T) {
	c := newCourt(t, true)
	c.wrote(1, 0, "a", "b")
	c.p.forget(names{"a"})
	delete(c.wanted, "a")
	c.answer(Ack[string]{Rejected: names{"a"}}, nil, nil)
	c.state("a", false, nil)
	c.expire(10*time.Second, names{"b"}, nil)
}

// Without an Acknowledger data or time proves a topic.
func TestProofWithoutAcks(t *testing.T) {
	c := newCourt(t, false)
	c.wrote(1, 0, "a", "b")
	c.wrote(2, 500*time.Millisecond, "c")
	if c.p.data(names{"x"}) || c.p.data(names{"a"}) {
		t.Error("proven too early")
	}
	c.expire(time.Second-1, nil, nil)
	if c.p.settledByTime() || c.p.unproven() != 2 {
		t.Error("settled too early")
	}
	c.expire(time.Second, nil, nil)
	if !c.p.settledByTime() || c.p.unproven() != 1 {
		t.Error("not settled in time")
	}
	if !c.p.data(names{"c", "d"}) || c.p.open.Load() {
		t.Error("not proven by data")
	}
}

// TestGapBeginsWhileItsTopicsLeave: a gap that begins in the instant in which the application unsubscribes a topic of it either
// leaves that out or hears of it. One that did neither would wait for a topic that nobody wants, and never be told.
func TestGapBeginsWhileItsTopicsLeave(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	subs := make([]string, 500)
	for i := range subs {
		subs[i] = fmt.Sprint(i)
	}
	for round := range 300 {
		s := newShard[string](m.core, m, 0)
		s.log, s.run = m.log, &run[string]{}
		s.desired.Add(subs...)
		now := time.Now()
		g := &gap[string]{from: now, sure: now, open: make(map[string]uint64)}
		var both sync.WaitGroup
		both.Go(func() { s.miss(g, slices.Clone(subs)) })
		both.Go(func() {
			for _, sub := range subs {
				s.desired.Remove(sub)
				s.gaps.leaves([]string{sub}, s.isDown)
			}
		})
		both.Wait()
		if len(s.gaps.list) > 0 {
			t.Fatalf("round %d: a gap waits for %d topics that left", round, len(s.gaps.list[0].open))
		}
	}
}

// A server that names topics nobody asked for, ever new ones, fills no memory; what is wanted is kept.
func TestUnaskedTopicsAreForgotten(t *testing.T) {
	want := reconcile.New[string]()
	want.Add("a", "b")
	var f freshness[string]
	var r resubscriptions[string]
	f.note([]string{"a", "b"}, 1, want)
	for i := range 10_000 {
		unasked := fmt.Sprint("unasked", i)
		f.note([]string{unasked}, 2, want)
		if n := len(r.claim([]string{unasked}, want, time.Unix(0, 0), time.Second)); n != 0 {
			t.Fatalf("a topic that is not wanted is asked for %d times", n)
		}
	}
	if len(f.at) > 1100 || len(r.since) != 0 || r.some.Load() {
		t.Errorf("%d topics are noted, %d are waited for", len(f.at), len(r.since))
	}
	for _, s := range []string{"a", "b"} {
		if at, named := f.of(s); at != 1 || !named {
			t.Errorf("%s: %d, %v", s, at, named)
		}
		if again := r.claim([]string{s}, want, time.Unix(0, 0), time.Second); len(again) != 1 {
			t.Errorf("%s cannot be asked for", s)
		}
	}
}

// TestGapOfATopicThatIsRejected: the connection that takes over may have been refused a topic long before it delivers. Until then
// the one before it carried the topic, so its part of the gap ends with the take-over, and that of a topic that was proven with its proof.
func TestGapOfATopicThatIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, true)
		c.p.tell(true)
		c.wrote(1, 0, "good", "bad")
		begun := time.Now()
		c.answer(Ack[string]{Confirmed: names{"good"}, Rejected: names{"bad"}}, names{"good"}, names{"bad"})
		time.Sleep(5 * time.Second)
		ended := make(map[string]time.Time)
		gs := &gaps[string]{}
		for sub := range c.wanted {
			gs.miss(&gap[string]{from: begun, open: map[string]uint64{}}, names{sub}, func(string) bool { return true })
		}
		for _, g := range gs.proven(c.p, 1) {
			ended[g.subs[0]] = g.to
		}
		if want := map[string]time.Time{"good": begun, "bad": time.Now()}; !maps.Equal(ended, want) {
			t.Errorf("the gaps end at %v, want %v", ended, want)
		}
	})
}

// TestALostConnectionEndsNoGapOfItsOwn: what a connection had proven before it was lost says nothing of what is missed since then,
// be it told ever so late. The next one ends the gap.
func TestALostConnectionEndsNoGapOfItsOwn(t *testing.T) {
	gs := &gaps[string]{}
	proves := func(gen uint64) (over []*gap[string]) {
		c := newCourt(t, true)
		c.p.tell(true)
		c.wrote(1, 0, "a")
		c.answer(Ack[string]{Confirmed: names{"a"}}, names{"a"}, nil)
		return gs.proven(c.p, gen)
	}
	gs.miss(&gap[string]{after: 3, open: map[string]uint64{}}, names{"a"}, func(string) bool { return true })
	if over := proves(3); len(over) != 0 {
		t.Error("generation 3 ended the gap of its own loss")
	}
	if over := proves(4); len(over) != 1 || gs.some.Load() {
		t.Errorf("generation 4 ended %d gaps, want 1", len(over))
	}
}
