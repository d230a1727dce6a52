package switchover

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does a switchover lose, double or disorder anything at an unfriendly server?

var (
	switchSeeds = flag.Int("switchover-seeds", 10, "switchover simulation: how many seeds")
	switchFirst = flag.Uint64("switchover-seed", 1, "switchover simulation: the first seed")
)

// simMode is what the handler offers, and what the switchover is given. Every other seed of a mode without answers names the
// topic of each message in Verdict.Subs, and every other seed with faults has answers.
type simMode struct {
	name   string
	acks   bool
	settle time.Duration
	faults bool // something befalls the old connection, the new one or both
	lossy  bool // something may be missing, under the conditions that excused names
	ready  bool // IsReady proves; nothing comes and goes without a pause then, or it would never be
	plain  bool // messages have no keys
}

var simModes = []simMode{
	{name: "acks", acks: true},
	{name: "settle 2s", settle: simHonour},
	{name: "settle 1s", settle: simHonour / 2, lossy: true},
	{name: "faults", settle: simHonour, faults: true, lossy: true},
	{name: "ready", ready: true},
	{name: "plain acks", acks: true, plain: true},
	{name: "plain settle 2s", settle: simHonour, plain: true},
	{name: "plain faults", settle: simHonour, faults: true, lossy: true, plain: true},
}

const (
	simTopics = 500
	simHonour = 2 * time.Second        // at most so long after a request is a topic live
	simSkew   = 200 * time.Millisecond // at most so much later than another a connection gets a message
	simMoves  = 3
	simLate   = 50 // topics that are subscribed in the middle of a switchover, or come and go
)

// TestUnfriendlyServer switches over from and to a server that honours a subscription after up to simHonour, that drops what
// it has queued when it is told to close, and that fans out each message with a lag of its own up to simSkew, so that only
// the order within a topic is kept. Its 500 topics tick at unequal rates, some never. Nothing may be missing, come twice or
// out of order; where Settle is too short, what is missing was announced by Proof=settle; where a connection was lost, it lies
// inside a Gap.
func TestUnfriendlyServer(t *testing.T) {
	seeds := *switchSeeds
	if testing.Short() {
		seeds = (seeds + 4) / 5
	}
	for _, mode := range simModes {
		t.Run(mode.name, func(t *testing.T) {
			var sum simTotals
			seeds := seeds
			if mode.plain || mode.ready { // variants of what the others look at more often
				seeds = (seeds + 1) / 2
			}
			for i := range seeds {
				seed := *switchFirst + uint64(i)
				synctest.Test(t, func(t *testing.T) { newSim(t, seed, mode).run(&sum) })
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("%d seeds: %+v", seeds, sum)
			if mode.lossy && sum.Missing == 0 && seeds >= 10 {
				t.Error("nothing was missing: the server is too friendly to tell")
			}
		})
	}
}

type simTotals struct{ Published, Delivered, Missing, Twice, Disordered, Switchovers, Failed, Gaps, Dropped int }

// sim is one run: the server, and the handler.
type sim struct {
	t     *testing.T
	mode  simMode
	acks  bool
	named bool       // Verdict.Subs
	rnd   *rand.Rand // of the goroutine that runs the script; hooks have their own
	net   *wstest.Net
	srv   *wstest.Server
	m     *wsshard.ShardManager[string]
	begin time.Time
	wake  chan struct{} // cap 1: an event was added
	stop  chan struct{}

	latency, honour, skew time.Duration // of this seed
	churns                bool
	pause                 time.Duration // between two changes

	mu     sync.Mutex
	sched  *rand.Rand
	events simHeap
	seq    int
	topics []*simTopic
	conns  map[*wstest.Peer]*simConn

	asked  map[uint64]map[string]bool // and not honoured yet, by generation
	got    map[string][]simSeen
	left   map[string]time.Time // topics that were unsubscribed for good
	gaps   []wsshard.Event[string]
	spans  []simSpan // of switchovers
	closed map[uint64]error
	story  []string
}

type simTopic struct {
	name string
	mean time.Duration // between two ticks; 0: never
	at   []time.Time   // when it ticked
}

type simSeen struct {
	n   int
	at  time.Time
	gen uint64
}

type simSpan struct {
	from, to time.Time
	report   wsshard.SwitchoverReport
	failed   bool
}

func newSim(t *testing.T, seed uint64, mode simMode) *sim {
	s := &sim{
		t: t, mode: mode, rnd: rand.New(rand.NewPCG(seed, 1)), sched: rand.New(rand.NewPCG(seed, 2)), net: wstest.NewNet(),
		begin: time.Now(), wake: make(chan struct{}, 1), stop: make(chan struct{}),
		conns: map[*wstest.Peer]*simConn{}, asked: map[uint64]map[string]bool{}, got: map[string][]simSeen{}, left: map[string]time.Time{}, closed: map[uint64]error{},
	}
	s.latency = s.upTo(20 * time.Millisecond)
	s.honour = []time.Duration{simHonour, simHonour, s.upTo(simHonour) + 1}[s.rnd.IntN(3)]
	s.honour = min(s.honour, simHonour-s.latency) // from its writing on
	s.skew = []time.Duration{simSkew, s.upTo(simSkew) + 1}[s.rnd.IntN(2)]
	s.churns, s.pause = s.rnd.IntN(3) == 0 && !mode.ready, s.upTo(200*time.Millisecond)+5*time.Millisecond
	s.net.SetLatency(s.latency)
	s.net.SetBuffer(1 << 20)
	s.srv = wstest.NewServer(t, s.net, "srv:80")
	s.srv.OnOpen(s.opened)
	s.srv.Handle(s.request)
	for i := range simTopics {
		mean := []time.Duration{0, 20 * time.Second, 5 * time.Second, 2 * time.Second, 2 * time.Second, 500 * time.Millisecond}[s.rnd.IntN(6)]
		if i < 5 {
			mean = 20 * time.Millisecond
		}
		s.topics = append(s.topics, &simTopic{name: fmt.Sprintf("t%03d", i), mean: mean})
	}
	var h wsshard.Handler[string] = s
	s.acks = mode.acks || mode.faults && seed%2 == 0
	switch s.named = s.acks || seed%2 == 0; {
	case s.acks:
		h = simAcks{s}
	case mode.ready:
		h = simReady{s}
	}
	var err error
	s.m, err = wsshard.New(h, wsshard.Config{
		Connection: wsshard.ConnectionConfig{NetDialContext: s.net.DialContext},
		Switchover: wsshard.SwitchoverConfig{Settle: mode.settle},
		Health:     wsshard.HealthConfig{PingInterval: 2 * time.Second, PongTimeout: time.Second, FailureThreshold: 2, DataTimeout: 5 * time.Second},
		Subscribe: wsshard.SubscribeConfig{
			MaxPerMessage:     []int{0, 25, 500}[s.rnd.IntN(3)],
			MessagesPerWindow: []int{0, 0, 10}[s.rnd.IntN(3)],
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sim) upTo(d time.Duration) time.Duration { return time.Duration(s.rnd.Int64N(int64(d))) }

// The handler.

func (s *sim) URL(context.Context, wsshard.ConnectionState) (string, error) { return "ws://srv/", nil }

func (s *sim) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	s.asks(req)
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (s *sim) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

func (s *sim) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	topic, _, _ := strings.Cut(text, ":")
	if topic == "ack" {
		v.NoData = true
		return v
	}
	if !s.mode.plain {
		v.Key = text
	}
	if s.named {
		v.Subs = []string{topic}
	}
	return v
}

type simAcks struct{ *sim }

func (simAcks) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return harness.AckOf(msg)
}

// simReady counts what the server has honoured: a connection is live when that is all that was asked for.
type simReady struct{ *sim }

func (s simReady) IsReady(msg wsshard.Message, st wsshard.ConnectionState) bool {
	topic, ok := strings.CutPrefix(msg.String(), "ack:")
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked[st.Generation], topic)
	return ok && len(s.asked[st.Generation]) == 0
}

// asks notes what a connection has asked for.
func (s *sim) asks(req wsshard.Request[string]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked[req.State.Generation]
	if asked == nil {
		asked = map[string]bool{}
		s.asked[req.State.Generation] = asked
	}
	for _, topic := range req.Subs {
		asked[topic] = true
	}
}

func (s *sim) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	topic, number, _ := strings.Cut(msg.String(), ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got[topic] = append(s.got[topic], simSeen{n, time.Now(), st.Generation})
}

func (s *sim) OnEvent(ev wsshard.Event[string]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.story = append(s.story, fmt.Sprintf("%v %v, generation %d: %v %+v", ev.Time.Sub(s.begin), ev.Kind, ev.Generation, ev.Err, ev.Switchover))
	switch ev.Kind {
	case wsshard.EventGap:
		s.gaps = append(s.gaps, ev)
	case wsshard.EventSwitchoverStarted:
		s.spans = append(s.spans, simSpan{from: ev.Time})
	case wsshard.EventSwitchoverDone, wsshard.EventSwitchoverFailed:
		last := &s.spans[len(s.spans)-1]
		last.to, last.report, last.failed = ev.Time, *ev.Switchover, ev.Kind == wsshard.EventSwitchoverFailed
	}
}

// The script.

func (s *sim) run(sum *simTotals) {
	go s.loop()
	defer close(s.stop)
	names := make([]string, simTopics)
	for i, topic := range s.topics {
		names[i] = topic.name
	}
	const late = simLate
	s.m.Subscribe(names[late:]...)
	if err := s.m.Start(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	defer s.m.Stop(context.Background())
	for i, topic := range s.topics {
		if topic.mean > 0 {
			s.mu.Lock()
			s.laterLocked(time.Now().Add(s.upTo(topic.mean)), func() { s.tick(i) })
			s.mu.Unlock()
		}
	}
	time.Sleep(2*simHonour + s.upTo(time.Second))
	for i := range simMoves {
		leaver := names[late+i]
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.m.HotSwitchover(context.Background(), 0)
		}()
		for range 5 {
			name := names[s.rnd.IntN(late)]
			time.AfterFunc(s.upTo(3*time.Second), func() { s.m.Subscribe(name) })
		}
		if s.churns {
			go s.churn(names[:late], done)
		}
		if s.mode.faults {
			s.strike()
			time.AfterFunc(s.upTo(4*time.Second), func() { s.leave(leaver) }) // it may be dead by then
		}
		<-done
		time.Sleep(s.upTo(2 * time.Second))
		if s.mode.faults {
			time.Sleep(15 * time.Second) // until all is well again
		}
	}
	time.Sleep(simHonour + time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check(sum)
}

// leave unsubscribes a topic for good.
func (s *sim) leave(topic string) {
	s.mu.Lock()
	s.left[topic] = time.Now()
	s.mu.Unlock()
	s.m.Unsubscribe(topic)
}

// churn lets topics come and go without a pause.
func (s *sim) churn(names []string, done chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-time.After(s.pause):
		}
		s.m.Subscribe(names[i%len(names)])
		s.m.Unsubscribe(names[(i+len(names)/2)%len(names)])
	}
}

// strike has something befall the old connection, the new one or both, at some moment of the switchover.
func (s *sim) strike() {
	kind := []string{"kill", "reset", "close", "blackhole", "stall"}[s.rnd.IntN(5)]
	which, at, long := s.rnd.IntN(3), s.upTo(3*time.Second), s.upTo(3*time.Second)
	if kind == "stall" && !s.acks { // else a request is not honoured within Settle
		which = 0
	}
	time.AfterFunc(at, func() {
		live := s.srv.Live()
		switch {
		case which == 0 && len(live) > 0:
			live = live[:1]
		case which == 1 && len(live) > 1:
			live = live[1:]
		}
		s.mu.Lock()
		s.story = append(s.story, fmt.Sprintf("%v %s of %d, of %d connections", time.Since(s.begin), kind, len(live), which))
		s.mu.Unlock()
		for _, p := range live {
			conn := p.Net().(*wstest.Conn)
			switch kind {
			case "kill":
				p.Kill()
			case "reset":
				p.Reset()
			case "close":
				p.Close(1001, "")
			case "blackhole":
				conn.BlackHole(true)
				time.AfterFunc(20*time.Second, p.Kill) // nobody is behind it any more
			case "stall":
				conn.BlackHole(true)
				time.AfterFunc(long, func() { conn.BlackHole(false) })
			}
		}
	})
}
