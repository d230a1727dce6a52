package gaps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: is there a hole without a gap, or a gap without a fault, whatever happens?

// TestGapsAndHoles plays faults that a seed draws beforehand against a feed in which each topic's number is its tick. No hole
// without a Gap: each number that was not delivered lies inside one. No Gap without a fault: each lies around one, no wider
// than outage, detection, dial and paced resubscription allow.
func TestGapsAndHoles(t *testing.T) {
	seeds := harness.Fewer(200, 6)
	var all tally
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { newTrial(t, uint64(seed)).play(&all) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d seeds: %+v", seeds, all)
	if all.missing == 0 || all.gaps == 0 || all.faults == 0 {
		t.Error("nothing happened")
	}
}

type tally struct{ published, missing, faults, gaps int }

const (
	trialTick  = 100 * time.Millisecond
	trialTime  = 2 * time.Minute
	trialRest  = 30 * time.Second // without faults, at the end
	trialSlots = 6                // topics of a shard
)

// fault is one entry of the script.
type fault struct {
	kind  string
	shard int // -1: all
	at    time.Duration
	d     time.Duration // of the outage
}

func (f fault) outage() bool { return f.kind == "down" || f.kind == "hang" }

// trial is one seed's run, and the handler.
type trial struct {
	t       *testing.T
	net     *wstest.Net
	srv     *wstest.Server
	m       *wsshard.ShardManager[string]
	cfg     wsshard.Config
	topics  []string
	latency time.Duration
	honour  time.Duration // from a request to its effect
	script  []fault
	struck  []fault // those of the script that had somebody to meet
	begin   time.Time

	mu    sync.Mutex
	on    map[*wstest.Peer]map[string]bool
	muted map[*wstest.Peer]bool
	fed   map[*wstest.Peer]bool
	got   map[string]map[int]bool
	first map[string]int
	gaps  []wsshard.Event[string]
	story []string
}

func newTrial(t *testing.T, seed uint64) *trial {
	rnd := rand.New(rand.NewPCG(seed, 7))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) }
	c := &trial{
		t: t, net: wstest.NewNet(), topics: harness.Numbered(2 * trialSlots),
		latency: upTo(20 * time.Millisecond), honour: upTo(300 * time.Millisecond),
		on: map[*wstest.Peer]map[string]bool{}, muted: map[*wstest.Peer]bool{}, fed: map[*wstest.Peer]bool{},
		got: map[string]map[int]bool{}, first: map[string]int{}, begin: time.Now(),
	}
	kinds := []string{"kill", "reset", "close", "down", "hang", "blackhole", "mute", "mute", "reconnect", "switchover"}
	for at := 10 * time.Second; at < trialTime-trialRest; {
		c.script = append(c.script, fault{kinds[rnd.IntN(len(kinds))], rnd.IntN(3) - 1, at, upTo(15 * time.Second)})
		at += upTo([]time.Duration{3 * time.Second, 40 * time.Second}[rnd.IntN(2)])
	}
	c.net.SetLatency(c.latency)
	c.srv = wstest.NewServer(t, c.net, "srv:80")
	c.srv.Handle(c.request)
	c.cfg = wsshard.Config{
		MaxSubscriptionsPerShard: trialSlots,
		DisableHotSwitchover:     rnd.IntN(3) == 0,
		Health:                   wsshard.HealthConfig{PingInterval: 2 * time.Second, PongTimeout: time.Second, FailureThreshold: 2, DataTimeout: 5 * time.Second},
		Backoff:                  wsshard.BackoffConfig{MaxDelay: 2 * time.Second},
		Subscribe:                wsshard.SubscribeConfig{MaxPerMessage: 2, MessagesPerWindow: 3},
		Connection: wsshard.ConnectionConfig{
			NetDialContext: c.net.DialContext, ConnectTimeout: 2 * time.Second,
			ProactiveReconnectInterval: harness.Off, CircuitBreakerResetTimeout: harness.Off,
		},
	}
	hook.SetSeed(seed + 1)
	defer hook.SetSeed(0)
	var h wsshard.Handler[string] = c
	switch seed % 3 { // what proves a subscription
	case 0:
		h = struct {
			*trial
			harness.Acknowledges
		}{c, harness.AcksOfTopics}
	case 1:
		h = struct {
			*trial
			harness.Inspects
		}{c, harness.ByTopic}
	}
	var err error
	if c.m, err = wsshard.New(h, c.cfg); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *trial) URL(_ context.Context, st wsshard.ConnectionState) (string, error) {
	return fmt.Sprintf("ws://srv/?shard=%d", st.ShardID), nil
}

func (c *trial) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (c *trial) OnMessage(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) {
	topic, number, _ := strings.Cut(m.String(), ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got[topic] == nil {
		c.got[topic] = map[int]bool{}
		c.first[topic] = n
	}
	c.got[topic][n] = true
}

func (c *trial) OnEvent(ev wsshard.Event[string]) {
	c.story = append(c.story, fmt.Sprintf("%v %v of %d, generation %d: %v %v", ev.Time.Sub(c.begin), ev.Kind, ev.ShardID, ev.Generation, ev.Err, ev.Switchover))
	if ev.Kind == wsshard.EventGap {
		c.gaps = append(c.gaps, ev)
	}
}

// request takes effect, and is answered, a while after it came.
func (c *trial) request(p *wstest.Peer, _ int, data []byte) {
	time.AfterFunc(c.honour, func() {
		c.mu.Lock()
		if c.on[p] == nil {
			c.on[p] = map[string]bool{}
		}
		for topic := range strings.SplitSeq(string(data[1:]), ",") {
			c.on[p][topic] = true
		}
		c.mu.Unlock()
		p.Send("ack:" + string(data))
	})
}

// tick sends each topic's next number to whoever has it.
func (c *trial) tick(n int) {
	for _, p := range c.srv.Live() {
		for _, topic := range c.topics {
			c.mu.Lock()
			send := c.on[p][topic] && !c.muted[p]
			c.fed[p] = c.fed[p] || send
			c.mu.Unlock()
			if send {
				p.Send(fmt.Sprintf("%s:%d", topic, n))
			}
		}
	}
}

// victims are the live connections that a fault meets.
func (c *trial) victims(f fault) (peers []*wstest.Peer) {
	for _, p := range c.srv.Live() {
		if f.shard < 0 || p.Request().URL.Query().Get("shard") == fmt.Sprint(f.shard) {
			peers = append(peers, p)
		}
	}
	return peers
}

// spared reports whether a fault would meet a connection that is mute, or make one mute that is about to be replaced. What
// such a connection has not given is noticed by the data timeout only: a loss before tells of what was missed since the last
// frame, whatever that was.
func (c *trial) spared(f fault) bool {
	for _, b := range c.struck {
		if b.outage() && f.outage() && f.at < b.at+b.d || f.kind == "mute" && b.kind == "switchover" && f.at < b.at+10*time.Second {
			return true // one outage at a time
		}
	}
	if f.outage() {
		f.shard = -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.victims(f), func(p *wstest.Peer) bool { return c.muted[p] })
}

func (c *trial) strike(f fault) {
	if c.spared(f) {
		return
	}
	c.struck = append(c.struck, f)
	for _, p := range c.victims(f) {
		switch f.kind {
		case "kill", "hang":
			p.Kill()
		case "reset":
			p.Reset()
		case "close":
			p.Close(1001, "")
		case "blackhole":
			p.Net().(*wstest.Conn).BlackHole(true)
			time.AfterFunc(30*time.Second, p.Kill) // nobody is behind it any more
		case "mute":
			c.mu.Lock()
			c.muted[p] = c.muted[p] || c.fed[p] // one that was silent from the beginning is a quiet market
			c.mu.Unlock()
		}
	}
	switch f.kind {
	case "down":
		c.srv.Down()
		time.AfterFunc(f.d, c.srv.Restart)
	case "hang":
		c.net.OnDial(harness.NoAnswer)
		time.AfterFunc(f.d, func() { c.net.OnDial(nil) })
	case "reconnect", "switchover":
		for shard := range 2 {
			if f.shard < 0 || f.shard == shard {
				if f.kind == "reconnect" {
					c.m.Reconnect(shard)
				} else {
					go c.m.HotSwitchover(context.Background(), shard)
				}
			}
		}
	}
}

func (c *trial) play(all *tally) {
	c.m.Subscribe(c.topics...)
	if err := c.m.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	n, script := 0, c.script
	for now := time.Duration(0); now < trialTime; now = time.Since(c.begin) {
		if len(script) > 0 && now >= script[0].at {
			c.strike(script[0])
			script = script[1:]
		}
		if now >= time.Duration(n)*trialTick {
			c.tick(n)
			n++
		}
		next := time.Duration(n) * trialTick
		if len(script) > 0 {
			next = min(next, script[0].at)
		}
		time.Sleep(next - time.Since(c.begin))
	}
	harness.After(time.Second)
	if err := c.m.Stop(context.Background()); err != nil {
		c.t.Error(err)
	}
	synctest.Wait()
	all.faults += len(c.struck)
	all.published += n * len(c.topics)
	all.gaps += len(c.gaps)
	c.checkHoles(n, all)
	c.checkGaps()
	if c.t.Failed() {
		for _, f := range c.struck {
			c.t.Logf("%v %s of %d for %v", f.at, f.kind, f.shard, f.d)
		}
		for _, ev := range c.gaps {
			c.t.Logf("gap of %d from %v to %v, told at %v", ev.ShardID, ev.From.Sub(c.begin), ev.To.Sub(c.begin), ev.Time.Sub(c.begin))
		}
		c.t.Log(strings.Join(c.story, "\n"))
		c.t.Logf("latency %v, honour %v, hot %v", c.latency, c.honour, !c.cfg.DisableHotSwitchover)
	}
}

// checkHoles looks for numbers that are missing and in no gap.
func (c *trial) checkHoles(ticks int, all *tally) {
	for _, topic := range c.topics {
		if c.got[topic] == nil {
			c.t.Errorf("%s was never delivered", topic)
			continue
		}
		var holes []time.Duration
		for n := c.first[topic]; n < ticks; n++ {
			if c.got[topic][n] {
				continue
			}
			all.missing++
			at := c.begin.Add(time.Duration(n) * trialTick)
			if !slices.ContainsFunc(c.gaps, func(ev wsshard.Event[string]) bool {
				// A frame arrives after it was sent: what was sent next may be that much earlier than From.
				return slices.Contains(ev.Subs, topic) && !at.Before(ev.From.Add(-c.latency)) && !at.After(ev.To)
			}) {
				holes = append(holes, at.Sub(c.begin))
			}
		}
		if len(holes) > 0 {
			c.t.Errorf("%s: %d numbers, from %v to %v, are missing and in no gap", topic, len(holes), holes[0], holes[len(holes)-1])
		}
	}
}

// window is when a gap may be, because of a fault.
type window struct{ from, to time.Duration }

// checkGaps looks for gaps that no fault explains, or not all of.
func (c *trial) checkGaps() {
	for shard := range 2 {
		windows := c.windows(shard)
		for _, ev := range c.gaps {
			from, to := ev.From.Sub(c.begin), ev.To.Sub(c.begin)
			if ev.ShardID == shard && !slices.ContainsFunc(windows, func(w window) bool { return w.from <= from+harness.DefaultLinger && to <= w.to }) {
				c.t.Errorf("the gap of shard %d from %v to %v is around no fault: %v", shard, from, to, windows)
			}
		}
	}
}

// windows are those of a shard's faults, joined where one begins before another ends: a fault may strike a connection that
// has not proven everything yet.
func (c *trial) windows(shard int) (ws []window) {
	h := c.cfg.Health
	trip := 2 * c.latency
	// The last frame before a fault came one tick before it at most.
	before := trialTick + c.latency
	// Once the server can be reached: an attempt that hangs must end, the backoff, the handshake, the requests (three
	// messages, two of which leave in 1.1 s), their effect, and the proof, of which Settle takes longest.
	recover := c.cfg.Connection.ConnectTimeout + c.cfg.Backoff.MaxDelay + 2*trip +
		1100*time.Millisecond + c.honour + time.Second + trip
	for _, f := range c.struck {
		if f.shard >= 0 && f.shard != shard && !f.outage() {
			continue
		}
		w := window{f.at - before, f.at + trip + recover}
		switch f.kind {
		case "switchover":
			if !c.cfg.DisableHotSwitchover {
				continue // nothing may be missed
			}
			w.to += time.Second // our close frame waits as long for a reply
		case "close", "reconnect":
			w.to += time.Second
		case "down", "hang":
			w.to += f.d
		case "blackhole": // up to an interval until the next ping, and so often; then an answer to our close frame
			w.to += time.Duration(h.FailureThreshold)*h.PingInterval + h.PongTimeout + time.Second
		case "mute": // it may have met the next connection of a switchover, whose data timeout begins with its cutover
			w.to += h.DataTimeout + time.Second + recover
		}
		if n := len(ws); n > 0 && w.from <= ws[n-1].to {
			ws[n-1].to = max(ws[n-1].to, w.to)
		} else {
			ws = append(ws, w)
		}
	}
	return ws
}
