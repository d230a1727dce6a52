package chaos

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
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is a run of chaos?

var (
	chaosSeeds = flag.Int("seeds", 8, "chaos: how many seeds")
	chaosFirst = flag.Uint64("seed", 1, "chaos: the first seed")
	chaosSim   = flag.Duration("sim", 2*time.Minute, "chaos: simulated time for each seed")
)

// pastChaos are the seeds that once failed.
var pastChaos = []uint64{}

// TestChaos lives through a script of faults, drawn from a seed before it begins, in a world whose traits the plan deals to that
// seed. A topic's number is its tick, so anybody can say what should have come. Where it is answered:
//
//	plan_test.go     which traits does a seed have, and was everything driven?
//	faults_test.go   what befalls a run?
//	server_test.go   how does the server answer?
//	handler_test.go  what does the application do? (hooks_test.go: and what goes wrong in it?)
//	oracle_test.go   what must hold, and in which order do numbers come?
//	lost_test.go     which numbers may be missing?
//	gap_test.go      what must a Gap say, and when must it come?
//
//	go test -run TestChaos -v ./internal/acceptance/chaos                           a few seeds, and the totals
//	go test -run TestChaos -seeds 100 -sim 2m -v ./internal/acceptance/chaos        everything is driven, or it fails
//	go test -run TestChaos -seed 17 -seeds 1 -v ./internal/acceptance/chaos         the one that failed
//
// A seed decides the script, the network's latency and the library's jitter. What happens within one instant of fake time, the
// scheduler decides: a failure that hangs on that may need its seed to be run some times (-count).
func TestChaos(t *testing.T) {
	seeds := slices.Clone(pastChaos[:harness.Fewer(len(pastChaos), 2)])
	for i := range harness.Fewer(*chaosSeeds, 2) {
		seeds = append(seeds, *chaosFirst+uint64(i))
	}
	var total chaosTotals
	var drove driven
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newChaos(t, seed, &drove).run(&total) })
		})
	}
	t.Logf("%d seeds, %.1f simulated hours: %+v", len(seeds), total.Simulated.Hours(), total)
	drove.report(t, len(seeds))
}

// The same seed draws the same script, and another one another.
func TestChaosScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drove driven
		a, b, other := newChaos(t, 7, &drove), newChaos(t, 7, &drove), newChaos(t, 8, &drove)
		if !reflect.DeepEqual(a.script, b.script) || a.trait != b.trait || len(a.script) < 20 {
			t.Errorf("one seed, two scripts: %v and %v, %+v and %+v", a.script, b.script, a.trait, b.trait)
		}
		if reflect.DeepEqual(a.script, other.script) || a.trait == other.trait {
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
	chaosRoom   = 12 // topics on a shard
	chaosBudget = 40 // dials in any chaosWindow
	chaosWindow = 10 * time.Second
	chaosStop   = 10 * time.Second // a Stop's deadline
	chaosAck    = 4 * time.Second  // AckTimeout
	chaosHold   = 80               // HoldMessages, where a hold is to fill; as many keys are remembered
	chaosSettle = 1500 * time.Millisecond
	chaosLinger = 250 * time.Millisecond
)

// chaos is one run. It is the handler too.
type chaos struct {
	t         *testing.T
	seed      uint64
	trait     chaosTrait
	drove     *driven
	latency   time.Duration
	honour    time.Duration // what the server takes for a request
	skew      time.Duration // by how much its connections differ
	script    []chaosStep
	net       *wstest.Net
	srv       *wstest.Server
	topics    *wstest.Topics
	m         *wsshard.ShardManager[string]
	begin     time.Time
	published time.Time     // when the last number was
	turn      chan struct{} // cap 1; a token while what is wanted is changed

	mu         sync.Mutex // protects following fields
	answers    *rand.Rand // of the server
	honest     bool       // from now on it answers as it should
	refusals   map[string][]refusal
	givenUp    map[string][]givenUp // that an event told of
	requests   map[chaosConn]int    // written
	honoured   map[*wstest.Peer]int
	ticks      map[string][]tickLog
	wanted     map[string][]span
	encoded    map[string][]encoding
	got        map[string][]delivery
	panicked   map[string]bool
	panicCount int
	dropped    map[string]bool        // by ValidateSequence
	again      map[string][]time.Time // resubscribed
	gaps       []wsshard.Event[string]
	down       map[int]wsshard.Event[string] // by shard: a loss that was told of, and no gap yet
	outages    []wsshard.Event[string]       // losses that Stop ended, as if they were gaps; Generation is the life
	heard      map[int]time.Time             // by shard: the tick of the last message
	parked     []time.Time
	trips      int
	next       chaosNext
	dealt      int // hooks to spoil
	life       int // counts starts
	lives      []time.Time
	turns      map[int]uint64
	reset      map[int]uint64 // generation that ResetSequenceState was called for
	inside     map[int]int
	closed     map[chaosConn]int
	opened     map[chaosConn]time.Time    // by OnConnect
	took       map[chaosConn]takeover     // those that ever were a shard's current connection
	conns      map[*wstest.Peer]chaosConn // see connOf
	ends       map[chaosConn]time.Time
	busy       []interval        // callbacks that took their time
	switching  map[int]time.Time // by shard: since when it is in a switchover
	brought    map[chaosConn]int // how many numbers came to OnMessage
	broughtAt  map[int]brought   // by shard: of the old connection, when the switchover began
	cutShort   []cutShort
	fellSilent int // losses for want of data when nothing was published any more
	losses     []loss
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

type tickLog struct {
	n  int
	at time.Time
}

// delivery is a number that OnMessage saw.
type delivery struct {
	n    int
	conn chaosConn
}

// encoding is a topic in a request that was encoded.
type encoding struct {
	sign byte
	at   time.Time
	conn chaosConn
}

// givenUp is a topic that was asked for twice and not answered, as an event said.
type givenUp struct {
	at   time.Time
	conn chaosConn
}

// refusal is a topic that the server rejected.
type refusal struct {
	at   time.Time
	peer *wstest.Peer
}

// interval is a time at one shard.
type interval struct {
	shard    int
	from, to time.Time
}

// span is a time during which a topic was wanted; to is zero while it is.
type span struct {
	from, to    time.Time
	life, shard int // where it was placed
}

type chaosStep struct {
	at   time.Duration
	kind string
	a, b int
	d    time.Duration
}

func newChaos(t *testing.T, seed uint64, drove *driven) *chaos {
	c := &chaos{
		t: t, seed: seed, drove: drove, net: wstest.NewNet(), begin: time.Now(), turn: make(chan struct{}, 1),
		trait: chaosTraitOf(seed), answers: rand.New(rand.NewPCG(seed, 1)),
		refusals: map[string][]refusal{}, givenUp: map[string][]givenUp{}, requests: map[chaosConn]int{}, honoured: map[*wstest.Peer]int{},
		ticks: map[string][]tickLog{}, wanted: map[string][]span{}, encoded: map[string][]encoding{}, got: map[string][]delivery{},
		panicked: map[string]bool{}, dropped: map[string]bool{}, again: map[string][]time.Time{}, turns: map[int]uint64{},
		down: map[int]wsshard.Event[string]{}, heard: map[int]time.Time{}, reset: map[int]uint64{}, inside: map[int]int{},
		closed: map[chaosConn]int{}, opened: map[chaosConn]time.Time{}, took: map[chaosConn]takeover{}, switching: map[int]time.Time{},
		brought: map[chaosConn]int{}, broughtAt: map[int]brought{},
		ends: map[chaosConn]time.Time{}, conns: map[*wstest.Peer]chaosConn{},
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	c.latency = time.Duration(rnd.IntN(20)) * time.Millisecond
	honour, skew := time.Duration(100+rnd.IntN(400))*time.Millisecond, time.Duration(1+rnd.IntN(60))*time.Millisecond
	if c.trait.Lag == "lag" {
		c.honour, c.skew = honour, skew
	}
	kinds := c.kinds()
	for at := 5 * time.Second; at < *chaosSim; at += time.Duration(rnd.Int64N(int64(4 * time.Second))) {
		c.script = append(c.script, chaosStep{
			at: at, kind: kinds[rnd.IntN(len(kinds))], a: rnd.IntN(1 << 20), b: rnd.IntN(1 << 20),
			d: time.Duration(rnd.Int64N(int64(20 * time.Second))),
		})
	}
	if c.trait.World == "server" || c.trait.World == "all" { // what keeps everybody out for minutes comes last
		kind := chaosOnce[rnd.IntN(len(chaosOnce))]
		c.script = append(c.script, chaosStep{at: *chaosSim, kind: kind, a: rnd.IntN(1 << 20), b: rnd.IntN(1 << 20), d: 5 * time.Second})
	}
	c.net.SetLatency(c.latency)
	c.net.SetBuffer(1 << 20)
	c.srv = wstest.NewServer(t, c.net, "srv:80")
	c.topics = wstest.NewTopics(c.srv)
	c.serve()
	return c
}

func (c *chaos) config() wsshard.Config {
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: chaosRoom,
		DisableHotSwitchover:     c.trait.Switch == "disabled",
		Connection: wsshard.ConnectionConfig{
			NetDialContext: c.net.DialContext, ProactiveReconnectInterval: 45 * time.Second,
			Limiter: wsshard.NewConnectLimiter(chaosBudget, chaosWindow), ConnectTimeout: 5 * time.Second,
			LowLatencyMode:     c.trait.Mode == "low-latency",
			MaxConnectAttempts: map[string]int{"never": -1, "6": 6, "12": 12}[c.trait.Park],
		},
		Health: wsshard.HealthConfig{PingInterval: 5 * time.Second, PongTimeout: 3 * time.Second, DataTimeout: 10 * time.Second, FailureThreshold: 2},
		Subscribe: wsshard.SubscribeConfig{
			MaxPerMessage: 5, MessagesPerWindow: map[string]int{"20": 20, "2": 2, "none": 0}[c.trait.Pace], AckTimeout: chaosAck,
		},
		Switchover: wsshard.SwitchoverConfig{Settle: chaosSettle, Linger: chaosLinger, MaxConcurrent: c.turnsAtOnce()},
		Backoff:    wsshard.BackoffConfig{MaxDelay: 3 * time.Second},
	}
	if c.textPong() {
		cfg.Health.TextPong = "pong"
	}
	switch c.trait.Hold {
	case "messages":
		cfg.Switchover.HoldMessages = chaosHold
	case "bytes":
		cfg.Switchover.HoldBytes = 600
	}
	if c.trait.Shards == "five" {
		cfg.MaxShards = chaosTopics / chaosRoom
	}
	return cfg
}

// turnsAtOnce is MaxConcurrent; 0: the default.
func (c *chaos) turnsAtOnce() int {
	return map[string]int{"one-turn": 1, "two-turns": 2}[c.trait.Switch]
}

func (c *chaos) run(total *chaosTotals) {
	hook.SetSeed(c.seed)
	defer hook.SetSeed(0)
	for _, name := range c.trait.names() {
		c.drove.note(name)
	}
	m, err := wsshard.New(c, c.config())
	if err != nil {
		c.t.Fatal(err)
	}
	hook.Without(m, c.lacks()...)
	c.m = m
	c.lives = []time.Time{time.Now()}
	for i := range chaosTopics / 2 {
		c.want(topicName(i))
	}
	if err := m.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	stop, calm := make(chan struct{}), make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { c.publish(stop) })
	others.Go(func() { c.churn(calm) })
	for _, step := range c.script {
		time.Sleep(time.Until(c.begin.Add(step.at)))
		c.drove.note("step " + step.kind)
		others.Go(func() { c.do(step) })
	}
	time.Sleep(30 * time.Second) // the longest fault
	close(calm)
	c.settle()
	close(stop)
	c.mu.Lock()
	c.published = time.Now()
	c.mu.Unlock()
	others.Wait() // I9
	time.Sleep(5 * time.Second)
	for calm := 0; calm < 100; calm++ { // else a topic is on two connections or none, or the server has not heard of the end of one
		if !c.atRest() {
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
	c.srv.Reject(nil)
	for _, conn := range c.net.Conns() {
		conn.BlackHole(false)
	}
	c.mu.Lock()
	c.next = chaosNext{} // what nothing has asked for yet
	c.honest = true
	c.mu.Unlock()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for quiet := false; ctx.Err() == nil; {
		part, end := context.WithTimeout(ctx, time.Minute)
		err := c.m.Sync(part)
		end()
		if err == nil {
			if quiet {
				return
			}
			quiet = true
			time.Sleep(20 * time.Second) // an answer that is late may take back what another one has granted
			continue
		}
		quiet = false
		if errors.Is(err, wsshard.ErrShardParked) {
			c.revive()
		}
		if c.onlyAnew() && time.Since(begin) > time.Minute {
			for id := range c.m.ShardCount() {
				c.m.Reconnect(id)
			}
		}
		c.resubscribe(c.desired()...) // for what was rejected
		time.Sleep(time.Second)
	}
	c.t.Errorf("I1: not in sync 10 minutes after the last fault: %+v", c.m.Metrics())
}

// onlyAnew reports whether a shard's room may be taken until somebody reconnects it: nothing is ever unsubscribed, and the hold
// is too small for a switchover to go through.
func (c *chaos) onlyAnew() bool { return !c.unsubscribes() && c.trait.Hold != "ample" }

// atRest reports whether no connection is being replaced, and all that is wanted has been asked for.
func (c *chaos) atRest() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	return len(c.inState(wsshard.ShardSwitching)) == 0 && !errors.Is(c.m.Sync(ctx), context.DeadlineExceeded)
}

func (c *chaos) inState(state wsshard.ShardState) (ids []int) {
	for _, s := range c.m.Metrics().Shards {
		if s.State == state {
			ids = append(ids, s.ShardID)
		}
	}
	return ids
}

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
		if c.during(time.Now(), 0, "quiet") {
			continue
		}
		for i := range chaosTopics {
			if n%(1+i%7) != 0 {
				continue
			}
			topic := topicName(i)
			c.mu.Lock()
			c.ticks[topic] = append(c.ticks[topic], tickLog{n, time.Now()})
			c.mu.Unlock()
			c.topics.Publish(topic, strconv.Itoa(n))
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
