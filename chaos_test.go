package wsshard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

var (
	chaosSeeds = flag.Int("seeds", 4, "chaos: how many seeds")
	chaosFirst = flag.Uint64("seed", 1, "chaos: the first seed")
	chaosSim   = flag.Duration("sim", 2*time.Minute, "chaos: simulated time for each seed")
)

// pastChaos are the seeds that once failed.
var pastChaos = []uint64{}

// TestChaos lives through a script of faults, drawn from a seed before it begins, with everything switched on: acks, keys,
// switchovers, a pace, a budget, a slow handler that panics. A topic's number is its tick, so anybody can say what should
// have come. chaos_oracle_test.go says what must hold.
func TestChaos(t *testing.T) {
	seeds := slices.Clone(pastChaos)
	for i := range fewer(*chaosSeeds, 1) {
		seeds = append(seeds, *chaosFirst+uint64(i))
	}
	var total chaosTotals
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newChaos(t, seed).run(&total) })
		})
	}
	t.Logf("%d seeds, %.1f simulated hours: %+v", len(seeds), (time.Duration(len(seeds)) * *chaosSim).Hours(), total)
}

type chaosTotals struct {
	Published, Delivered, Reported, Panicked, Switchovers, Reconnects, Gaps, Lost, Duplicates int
}

const (
	chaosTopics = 60
	chaosBudget = 40 // dials in any chaosWindow
	chaosWindow = 10 * time.Second
)

// chaos is one run. It is the handler too.
type chaos struct {
	t      *testing.T
	seed   uint64
	script []chaosStep
	net    *wstest.Net
	srv    *wstest.Server
	topics *wstest.Topics
	m      *wsshard.ShardManager[string]
	begin  time.Time

	mu       sync.Mutex
	ticks    map[string][]tickLog
	wanted   map[string][]span
	got      map[string][]int
	count    map[string]int // by key
	panicked map[string]bool
	gaps     []wsshard.Event[string]
	slow     time.Duration // what the next message takes
	bad      bool          // the next message panics
	inside   map[int]int
	closed   []wsshard.ConnectionState
	story    []string // of events, for a seed that failed
}

type tickLog struct {
	n  int
	at time.Time
}

// span is a time during which a topic was wanted; to is zero while it is.
type span struct{ from, to time.Time }

type chaosStep struct {
	at   time.Duration
	kind string
	a, b int
	d    time.Duration
}

// chaosKinds are the faults and operations, each as likely as it stands here.
var chaosKinds = []string{
	"kill", "kill", "reset", "blackhole", "stall-read", "stall-write", "down", "restart", "reject", "retry-after", "close",
	"silent", "quiet", "switchover", "switchover", "switchover", "switch-all", "reconnect", "subscribe", "subscribe", "unsubscribe",
	"unsubscribe", "resubscribe", "slow", "panic", "notice", "dial-hang", "send",
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t: t, seed: seed, net: wstest.NewNet(), begin: time.Now(),
		ticks: map[string][]tickLog{}, wanted: map[string][]span{}, got: map[string][]int{}, count: map[string]int{},
		panicked: map[string]bool{}, inside: map[int]int{},
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	for at := 5 * time.Second; at < *chaosSim; at += time.Duration(rnd.Int64N(int64(4 * time.Second))) {
		c.script = append(c.script, chaosStep{
			at: at, kind: chaosKinds[rnd.IntN(len(chaosKinds))], a: rnd.IntN(1 << 20), b: rnd.IntN(1 << 20),
			d: time.Duration(rnd.Int64N(int64(20 * time.Second))),
		})
	}
	c.net.SetLatency(time.Duration(rnd.IntN(20)) * time.Millisecond)
	c.net.SetBuffer(1 << 20)
	c.srv = wstest.NewServer(t, c.net, "srv:80")
	c.topics = wstest.NewTopics(c.srv)
	c.topics.Ack(true)
	return c
}

func (c *chaos) config() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: 12,
		Connection: wsshard.ConnectionConfig{
			NetDialContext: c.net.DialContext, ProactiveReconnectInterval: 45 * time.Second, CircuitBreakerResetTimeout: 2 * time.Second,
			Limiter: wsshard.NewConnectLimiter(chaosBudget, chaosWindow), ConnectTimeout: 5 * time.Second,
		},
		Health:    wsshard.HealthConfig{PingInterval: 5 * time.Second, PongTimeout: 3 * time.Second, DataTimeout: 10 * time.Second, FailureThreshold: 2},
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 5, MessagesPerWindow: 20, AckTimeout: 4 * time.Second},
		Backoff:   wsshard.BackoffConfig{MaxDelay: 3 * time.Second},
	}
}

func (c *chaos) run(total *chaosTotals) {
	wsshard.SetSeed(c.seed)
	defer wsshard.SetSeed(0)
	m, err := wsshard.New[string](c, c.config())
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
	others.Wait()
	time.Sleep(5 * time.Second)
	for c.switching() { // then a topic is on two connections
		time.Sleep(10 * time.Millisecond)
	}
	c.check(total)
	if c.t.Failed() {
		c.explain()
	}
	if err := m.Stop(context.Background()); err != nil {
		c.t.Error("Stop:", err)
	}
	synctest.Wait()
	if n := c.net.Open(); n != 0 {
		c.t.Errorf("I7: %d sockets are open", n)
	}
}

// settle ends all faults and waits until all is well again.
func (c *chaos) settle() {
	time.Sleep(30 * time.Second) // the longest fault
	c.srv.Reject(nil)
	for _, conn := range c.net.Conns() {
		conn.BlackHole(false)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for errors.Is(c.m.Sync(ctx), wsshard.ErrAckTimeout) { // an answer that a fault ate
		c.m.Resubscribe(c.desired()...)
	}
	if ctx.Err() != nil {
		c.t.Errorf("I1: not in sync 5 minutes after the last fault: %+v", c.m.Metrics())
	}
	time.Sleep(20 * time.Second)
}

func (c *chaos) switching() bool {
	return slices.ContainsFunc(c.m.Metrics().Shards, func(s wsshard.ShardMetrics) bool { return s.State == wsshard.ShardSwitching })
}

// publish ticks: topic i each 50(1+i%7) ms.
func (c *chaos) publish(stop chan struct{}) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		for i := range chaosTopics {
			if n%(1+i%7) != 0 {
				continue
			}
			c.mu.Lock()
			topic := topicName(i)
			c.ticks[topic] = append(c.ticks[topic], tickLog{n, time.Now()})
			c.mu.Unlock()
			if c.quietNow() {
				continue
			}
			c.topics.Publish(topic, strconv.Itoa(n))
		}
	}
}

func topicName(i int) string { return fmt.Sprintf("t%02d", i) }

func (c *chaos) quietNow() bool {
	at := time.Since(c.begin)
	for _, s := range c.script {
		if s.kind == "quiet" && at >= s.at && at < s.at+s.d {
			return true
		}
	}
	return false
}

func (c *chaos) want(topic string) {
	c.mu.Lock()
	spans := c.wanted[topic]
	if len(spans) == 0 || !spans[len(spans)-1].to.IsZero() {
		c.wanted[topic] = append(spans, span{from: time.Now()})
	}
	c.mu.Unlock()
	c.m.Subscribe(topic)
}

func (c *chaos) unwant(topic string) {
	c.m.Unsubscribe(topic)
	c.mu.Lock()
	defer c.mu.Unlock()
	if spans := c.wanted[topic]; len(spans) > 0 && spans[len(spans)-1].to.IsZero() {
		spans[len(spans)-1].to = time.Now()
	}
}

func (c *chaos) desired() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, spans := range c.wanted {
		if spans[len(spans)-1].to.IsZero() {
			list = append(list, topic)
		}
	}
	slices.Sort(list)
	return list
}

// do plays one step of the script, and its end.
func (c *chaos) do(s chaosStep) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	shard := s.a % max(1, c.m.ShardCount())
	live := c.srv.Live()
	conns := c.net.Conns()
	var peer *wstest.Peer
	var conn *wstest.Conn
	if len(live) > 0 {
		peer = live[s.a%len(live)]
	}
	if len(conns) > 0 {
		conn = conns[max(0, len(conns)-1-s.a%8)]
	}
	switch topic := topicName(s.a % chaosTopics); s.kind {
	case "kill", "reset", "close", "silent":
		if peer == nil {
			return
		}
		switch s.kind {
		case "kill":
			peer.Kill()
		case "reset":
			peer.Reset()
		case "close":
			peer.Close([]int{1000, 1001, 1008, 1011, 1012, 1013, 4000}[s.b%7], "chaos")
		case "silent":
			peer.Silent(true)
			time.Sleep(s.d)
			peer.Silent(false)
		}
	case "blackhole", "stall-read", "stall-write":
		stall := map[string]func(bool){"blackhole": conn.BlackHole, "stall-read": conn.StallRead, "stall-write": conn.StallWrite}[s.kind]
		stall(true)
		time.Sleep(s.d)
		stall(false)
	case "down":
		c.srv.Down()
		time.Sleep(s.d)
		c.srv.Restart()
	case "restart":
		c.srv.Restart()
	case "reject", "retry-after":
		status, h := []int{401, 403, 500, 502}[s.b%4], http.Header{}
		if s.kind == "retry-after" {
			status = []int{429, 503}[s.b%2]
			h.Set("Retry-After", strconv.Itoa(1+s.b%5))
		}
		c.srv.Reject(func(*http.Request) (int, http.Header, string) { return status, h, "" })
		time.Sleep(s.d / 2)
		c.srv.Reject(nil)
	case "switchover":
		c.m.HotSwitchover(ctx, shard)
	case "switch-all":
		for i := range c.m.ShardCount() {
			c.m.HotSwitchover(ctx, i)
		}
	case "reconnect":
		c.m.Reconnect(shard)
	case "subscribe":
		c.want(topic)
	case "unsubscribe":
		c.unwant(topic)
	case "resubscribe":
		c.m.Resubscribe(topic)
	case "slow":
		c.mu.Lock()
		c.slow = s.d
		c.mu.Unlock()
	case "panic":
		c.mu.Lock()
		c.bad = true
		c.mu.Unlock()
	case "notice":
		if peer != nil {
			peer.Send("notice")
		}
	case "dial-hang":
		c.net.OnDial(func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(s.d / 2)
		c.net.OnDial(nil)
	case "send":
		c.m.Send(ctx, shard, wsshard.Text("hello"))
	}
}

// The handler.

func (c *chaos) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (c *chaos) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (c *chaos) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

func (c *chaos) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	if text == "notice" {
		return wsshard.Verdict[string]{NoData: true, Switchover: true}
	}
	if topic, _, ok := strings.Cut(text, ":"); ok && topic != "ack" {
		v.Key, v.Subs = text, []string{topic}
	}
	return v
}

func (c *chaos) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (a wsshard.Ack[string], ok bool) {
	if request, ok := strings.CutPrefix(msg.String(), "ack:+"); ok {
		return wsshard.Ack[string]{Confirmed: strings.Split(request, ",")}, true
	}
	return a, strings.HasPrefix(msg.String(), "ack:")
}

func (c *chaos) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	c.mu.Lock()
	c.inside[st.ShardID]++
	if c.inside[st.ShardID] > 1 {
		c.t.Errorf("concurrent OnMessage on shard %d", st.ShardID)
	}
	slow, bad := c.slow, c.bad
	c.slow, c.bad = 0, false
	text := msg.String()
	topic, n, ok := strings.Cut(text, ":")
	if number, err := strconv.Atoi(n); ok && err == nil {
		if bad {
			c.panicked[text] = true
		} else {
			c.count[text]++
			c.got[topic] = append(c.got[topic], number)
		}
	} else {
		bad = false
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inside[st.ShardID]--
		c.mu.Unlock()
	}()
	if bad {
		panic("chaos")
	}
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
}

func (c *chaos) OnEvent(ev wsshard.Event[string]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story = append(c.story, fmt.Sprintf("%v shard %d gen %d: %v err=%v delay=%v from=%v to=%v subs=%v %+v", ev.Time.Sub(c.begin), ev.ShardID, ev.Generation,
		ev.Kind, ev.Err, ev.Delay, ev.From.Sub(c.begin), ev.To.Sub(c.begin), ev.Subs, ev.Switchover))
	if ev.Kind == wsshard.EventGap {
		c.gaps = append(c.gaps, ev)
	}
}

func (c *chaos) OnDisconnect(_ context.Context, _ error, st wsshard.ConnectionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, old := range c.closed {
		if old.ShardID == st.ShardID && old.Generation == st.Generation {
			c.t.Errorf("OnDisconnect twice for shard %d, generation %d", st.ShardID, st.Generation)
		}
	}
	c.closed = append(c.closed, st)
}

// explain logs what happened, for a seed that failed.
func (c *chaos) explain() {
	for _, s := range c.script {
		c.t.Logf("%v %s a=%d b=%d for %v", s.at, s.kind, s.a, s.b, s.d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.story {
		c.t.Log(line)
	}
}
