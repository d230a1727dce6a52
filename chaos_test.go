package wsshard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is a run of chaos?

var (
	chaosSeeds = flag.Int("seeds", 4, "chaos: how many seeds")
	chaosFirst = flag.Uint64("seed", 1, "chaos: the first seed")
	chaosSim   = flag.Duration("sim", 2*time.Minute, "chaos: simulated time for each seed")
)

// pastChaos are the seeds that once failed.
var pastChaos = []uint64{58, 106, 110, 234, 238, 321, 523, 537, 559, 607, 757, 778, 783, 805, 837, 972, 1037, 1146, 1181, 1481, 1533, 1757}

// TestChaos lives through a script of faults, drawn from a seed before it begins, with everything switched on: acks, keys,
// sequences, switchovers by every trigger, a pace, a budget, the breaker, parking, Stop and Start, a handler that is slow and
// panics. A topic's number is its tick, so anybody can say what should have come. chaos_oracle_test.go says what must hold.
//
//	go test -run TestChaos -v .                           a few seeds, and the totals
//	go test -run TestChaos -seeds 20 -sim 2m .            as often as it is worth
//	go test -run TestChaos -seed 17 -seeds 1 -v .         the one that failed
//
// A seed decides the script, the network's latency and the library's jitter. What happens within one instant of fake time, the
// scheduler decides: a failure that hangs on that may need its seed to be run some times (-count).
func TestChaos(t *testing.T) {
	seeds := slices.Clone(pastChaos[:fewer(len(pastChaos), 3)])
	for i := range fewer(*chaosSeeds, 1) {
		seeds = append(seeds, *chaosFirst+uint64(i))
	}
	var total chaosTotals
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newChaos(t, seed).run(&total) })
		})
	}
	t.Logf("%d seeds, %.1f simulated hours: %+v", len(seeds), total.Simulated.Hours(), total)
}

// The same seed draws the same script, and another one another.
func TestChaosScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, other := newChaos(t, 7), newChaos(t, 7), newChaos(t, 8)
		if !reflect.DeepEqual(a.script, b.script) || a.trait != b.trait || len(a.script) < 20 {
			t.Errorf("one seed, two scripts: %v and %v, %+v and %+v", a.script, b.script, a.trait, b.trait)
		}
		if reflect.DeepEqual(a.script, other.script) {
			t.Error("two seeds, one script")
		}
	})
}

type chaosTotals struct {
	Simulated                                                                            time.Duration
	Published, Delivered, Reported, Panicked, SequenceDrops                              int
	Switchovers, SwitchoversFailed, Reconnects, Gaps, Parked, BreakerTrips, Stops, Calls int
	Lost, Duplicates                                                                     int
	SlowestStop                                                                          time.Duration
}

const (
	chaosTopics = 60
	chaosBudget = 40 // dials in any chaosWindow
	chaosWindow = 10 * time.Second
	chaosStop   = 10 * time.Second // a Stop's deadline
)

// chaosTrait is what a whole run has or has not.
type chaosTrait struct {
	calm         bool // nothing but switchovers: then nothing may be lost at all
	lowLatency   bool
	resubscriber bool // else a resubscription is an unsubscription and a subscription
	attempts     int  // MaxConnectAttempts
	latency      time.Duration
	honour, skew time.Duration // of a server that takes its time for each request; by how much its connections differ
}

// chaos is one run. It is the handler too.
type chaos struct {
	t         *testing.T
	seed      uint64
	trait     chaosTrait
	script    []chaosStep
	net       *wstest.Net
	srv       *wstest.Server
	topics    *wstest.Topics
	m         *wsshard.ShardManager[string]
	begin     time.Time
	published time.Time     // when the last number was
	turn      chan struct{} // cap 1; a token while what is wanted is changed

	mu         sync.Mutex // protects following fields
	ticks      map[string][]tickLog
	wanted     map[string][]span
	got        map[string][]delivery
	panicked   map[string]bool
	panicCount int
	dropped    map[string]bool        // by ValidateSequence
	again      map[string][]time.Time // resubscribed
	gaps       []wsshard.Event[string]
	down       map[int]wsshard.Event[string] // by shard: a loss that was told of, and no gap yet
	outages    []wsshard.Event[string]       // losses that Stop ended, as if they were gaps
	heard      map[int]time.Time             // by shard: the tick of the last message
	parked     []time.Time
	trips      int
	next       chaosNext
	life       int // counts starts
	turns      map[int]uint64
	reset      map[int]uint64 // generation that ResetSequenceState was called for
	inside     map[int]int
	closed     map[chaosConn]int
	took       map[chaosConn]bool         // those that ever were a shard's current connection
	conns      map[*wstest.Peer]chaosConn // see connOf
	ends       map[chaosConn]time.Time
	busy       []interval        // callbacks that took their time
	switched   map[int]time.Time // by shard: when its last switchover began
	overlaps   []interval        // switchovers that were done
	calls      int
	stops      []time.Duration
	story      []string // of events, for a seed that failed
	suspects   []string // topics about which something is wrong
}

// chaosConn names a connection.
type chaosConn struct {
	life, shard int
	gen         uint64
}

// chaosNext is what the next call of the handler does.
type chaosNext struct {
	slow     time.Duration
	panic    string // the callback that panics
	sequence wsshard.SequenceValidation[string]
	call     int // a method that OnMessage calls, plus 1
	forbid   bool
}

type tickLog struct {
	n  int
	at time.Time
}

// delivery is a number that OnMessage saw.
type delivery struct{ n, shard int }

// interval is a time at one shard.
type interval struct {
	shard    int
	from, to time.Time
}

func (b interval) has(at time.Time, margin time.Duration) bool {
	return at.After(b.from.Add(-margin)) && at.Before(b.to.Add(margin))
}

// span is a time during which a topic was wanted; to is zero while it is.
type span struct{ from, to time.Time }

type chaosStep struct {
	at   time.Duration
	kind string
	a, b int
	d    time.Duration
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t: t, seed: seed, net: wstest.NewNet(), begin: time.Now(), turn: make(chan struct{}, 1),
		ticks: map[string][]tickLog{}, wanted: map[string][]span{}, got: map[string][]delivery{},
		panicked: map[string]bool{}, dropped: map[string]bool{}, again: map[string][]time.Time{}, turns: map[int]uint64{},
		down: map[int]wsshard.Event[string]{}, heard: map[int]time.Time{},
		reset: map[int]uint64{}, inside: map[int]int{}, closed: map[chaosConn]int{},
		took: map[chaosConn]bool{}, switched: map[int]time.Time{}, ends: map[chaosConn]time.Time{}, conns: map[*wstest.Peer]chaosConn{},
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	c.trait = chaosTrait{
		calm: seed%4 == 0, lowLatency: rnd.IntN(3) == 0, resubscriber: rnd.IntN(2) == 0,
		latency: time.Duration(rnd.IntN(20)) * time.Millisecond,
	}
	if !c.trait.calm {
		c.trait.attempts = []int{-1, 6, 12}[rnd.IntN(3)]
	}
	if rnd.IntN(3) > 0 {
		c.trait.honour, c.trait.skew = time.Duration(100+rnd.IntN(400))*time.Millisecond, time.Duration(rnd.IntN(100))*time.Millisecond
	}
	kinds := chaosFaults
	if c.trait.calm {
		kinds = chaosCalm
	}
	for at := 5 * time.Second; at < *chaosSim; at += time.Duration(rnd.Int64N(int64(4 * time.Second))) {
		c.script = append(c.script, chaosStep{
			at: at, kind: kinds[rnd.IntN(len(kinds))], a: rnd.IntN(1 << 20), b: rnd.IntN(1 << 20),
			d: time.Duration(rnd.Int64N(int64(20 * time.Second))),
		})
	}
	c.net.SetLatency(c.trait.latency)
	c.net.SetBuffer(1 << 20)
	c.srv = wstest.NewServer(t, c.net, "srv:80")
	c.topics = wstest.NewTopics(c.srv)
	c.topics.Ack(true)
	if c.trait.skew > 0 {
		c.topics.Lag(c.trait.honour, func(p *wstest.Peer) time.Duration { return time.Duration(p.Index()%3) * c.trait.skew })
	}
	return c
}

func (c *chaos) config() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: 12,
		Connection: wsshard.ConnectionConfig{
			NetDialContext: c.net.DialContext, ProactiveReconnectInterval: 45 * time.Second, CircuitBreakerResetTimeout: 2 * time.Second,
			Limiter: wsshard.NewConnectLimiter(chaosBudget, chaosWindow), ConnectTimeout: 5 * time.Second,
			LowLatencyMode: c.trait.lowLatency, MaxConnectAttempts: c.trait.attempts,
		},
		Health:    wsshard.HealthConfig{PingInterval: 5 * time.Second, PongTimeout: 3 * time.Second, DataTimeout: 10 * time.Second, FailureThreshold: 2},
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 5, MessagesPerWindow: 20, AckTimeout: 4 * time.Second},
		Backoff:   wsshard.BackoffConfig{MaxDelay: 3 * time.Second},
	}
}

func (c *chaos) run(total *chaosTotals) {
	wsshard.SetSeed(c.seed)
	defer wsshard.SetSeed(0)
	var h wsshard.Handler[string] = c
	if c.trait.resubscriber {
		h = chaosResubscriber{c}
	}
	m, err := wsshard.New(h, c.config())
	if err != nil {
		c.t.Fatal(err)
	}
	c.m = m
	for i := range chaosTopics / 2 {
		c.want(topicName(i))
	}
	if err := m.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { c.publish(stop) })
	for _, step := range c.script {
		time.Sleep(time.Until(c.begin.Add(step.at)))
		others.Go(func() { c.do(step) })
	}
	c.settle()
	close(stop)
	c.published = time.Now()
	others.Wait() // I9
	time.Sleep(5 * time.Second)
	for calm := 0; calm < 50; calm++ { // else a topic is on two connections, or the server has not heard of the end of one
		if c.switching() {
			calm = 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.check(total)
	c.halt()
	synctest.Wait()
	c.checkEnd()
	if c.t.Failed() {
		c.explain()
	}
	total.Simulated += time.Since(c.begin)
	total.Stops += len(c.stops)
	total.SlowestStop = max(total.SlowestStop, slices.Max(c.stops))
}

// settle ends all faults and waits until all is well again.
func (c *chaos) settle() {
	time.Sleep(30 * time.Second) // the longest fault
	c.srv.Reject(nil)
	for _, conn := range c.net.Conns() {
		conn.BlackHole(false)
	}
	c.mu.Lock()
	c.next = chaosNext{} // what nothing has asked for yet
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for err := c.m.Sync(ctx); err != nil && ctx.Err() == nil; err = c.m.Sync(ctx) {
		if errors.Is(err, wsshard.ErrShardParked) {
			c.revive()
		}
		c.resubscribe(c.desired()...) // for an answer that a fault ate
		time.Sleep(time.Second)
	}
	if ctx.Err() != nil {
		c.t.Errorf("I1: not in sync 5 minutes after the last fault: %+v", c.m.Metrics())
	}
	time.Sleep(20 * time.Second)
}

func (c *chaos) inState(state wsshard.ShardState) (ids []int) {
	for _, s := range c.m.Metrics().Shards {
		if s.State == state {
			ids = append(ids, s.ShardID)
		}
	}
	return ids
}

func (c *chaos) switching() bool { return len(c.inState(wsshard.ShardSwitching)) > 0 }

func (c *chaos) revive() {
	for _, id := range c.inState(wsshard.ShardParked) {
		c.m.Reconnect(id)
	}
}

// publish ticks: topic i each 50(1+i%7) ms.
func (c *chaos) publish(stop chan struct{}) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		quiet := c.during(time.Now(), 0, "quiet")
		for i := range chaosTopics {
			if n%(1+i%7) != 0 {
				continue
			}
			topic := topicName(i)
			c.mu.Lock()
			c.ticks[topic] = append(c.ticks[topic], tickLog{n, time.Now()})
			c.mu.Unlock()
			if !quiet {
				c.topics.Publish(topic, strconv.Itoa(n))
			}
		}
	}
}

func topicName(i int) string { return fmt.Sprintf("t%02d", i) }

// during reports whether a step of these kinds lasts at that time, give or take a margin.
func (c *chaos) during(at time.Time, margin time.Duration, kinds ...string) bool {
	return slices.ContainsFunc(c.script, func(s chaosStep) bool {
		from := c.begin.Add(s.at)
		return slices.Contains(kinds, s.kind) && !at.Before(from.Add(-margin)) && at.Before(from.Add(s.d+margin))
	})
}

// accuse fails the run because of a topic, whose story explain then tells.
func (c *chaos) accuse(topic, format string, args ...any) {
	c.t.Errorf(format, args...)
	c.suspects = append(c.suspects, topic)
}

// explain logs what happened, for a seed that failed.
func (c *chaos) explain() {
	c.t.Logf("seed %d: %+v", c.seed, c.trait)
	for _, s := range c.script {
		c.t.Logf("%v %s a=%d b=%d for %v", s.at, s.kind, s.a, s.b, s.d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.story {
		c.t.Log(line)
	}
	slices.Sort(c.suspects)
	for _, topic := range slices.Compact(c.suspects) {
		for _, sp := range c.wanted[topic] {
			c.t.Logf("%s is wanted from %v to %v", topic, sp.from.Sub(c.begin), sp.to.Sub(c.begin))
		}
		for _, ch := range c.topics.Changes(topic) {
			c.t.Logf("%s is on=%v at %v on connection %d of shard %s", topic, ch.On, ch.At.Sub(c.begin), ch.Peer.Index(), ch.Peer.Request().URL.Path)
		}
	}
}
