package faults

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is one cell of the fault matrix?

// cell is a bubble with a manager, a server that publishes numbers, and one fault in one phase.
type cell struct {
	*harness.World
	*harness.History
	row *row
	strike
	cfg     wsshard.Config
	keyless bool // no message has a key: the overlap of a switchover is delivered twice

	at        phase
	dialled   []dialled // under history.mu
	hooks     hooks     // under history.mu
	detour    string    // where dials go instead; under history.mu
	muted     map[*wstest.Peer]bool
	ca        *wstest.Authority // of TLS
	good      *tls.Certificate
	shown     atomic.Pointer[tls.Certificate] // by the server
	agents    *agents                         // its proxies; nil: none
	released  chan struct{}                   // closed when callbacks that ignore their context may return
	expensive bool                            // each dial is
	raging    atomic.Bool                     // a strike goes on
	isDown    bool                            // the server is
	every     *harness.Every                  // the handler of a fault that has to do with all callbacks
	final     []string                        // what is to be wanted in the end; nil: what the manager says
	turned    time.Time                       // the application stopped or unsubscribed: what is published in that instant may be lost. Under history.mu
	runs      int                             // Starts after the first; under history.mu
	closes    map[*wstest.Peer]int            // codes of the close frames that the server should hear

	ticks  map[string]map[int]time.Time // when each number of a topic was published
	market chan struct{}                // holds a token while somebody publishes; a mutex would stop the bubble's clock
	number int                          // the last that was published; whoever has the token may touch it
	shut   chan struct{}
	joined sync.WaitGroup
	worst  time.Duration // of Stop
}

// wanted are the topics of a cell, unless it changes them.
var wanted = []string{"a", "b"}

func newCell(f *row, p phase, d drive, s strike) *cell {
	c := &cell{
		History: &harness.History{Ledger: &harness.Ledger{}, Got: make(map[string][]int), Causes: make(map[harness.Opened][]error)},
		row:     f, at: p, strike: s, muted: make(map[*wstest.Peer]bool), ticks: make(map[string]map[int]time.Time),
		market: make(chan struct{}, 1),
	}
	c.cfg.Connection.ProactiveReconnectInterval = -1
	c.cfg.Connection.Header = http.Header{"Authorization": {"Bearer " + harness.Canary}}
	c.cfg.Connection.NetDialContext = c.dial
	if f.handler != nil {
		c.every = &harness.Every{}
		(&harness.Dials{E: c.every, Dial: c.dial}).With(&c.cfg)
	}
	c.cfg.Logger = slog.New(slog.NewJSONHandler(c.Ledger, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
	for _, with := range []func(*wsshard.Config){f.with, d.with, s.with} {
		if with != nil {
			with(&c.cfg)
		}
	}
	return c
}

// run drives the cell, and then looks whether all is well.
func (c *cell) run(t *testing.T, d drive) {
	t.Helper()
	hook.SetSeed(uint64(c.row.no))
	defer hook.SetSeed(0)
	handler := func(a *harness.App) wsshard.Handler[string] { return &patient{c} }
	if c.row.handler != nil {
		handler = func(*harness.App) wsshard.Handler[string] { return c.row.handler(c) }
	}
	harness.Bubble(t, c.cfg, handler, func(w *harness.World) {
		c.World, c.shut = w, make(chan struct{})
		c.Topics.Ack(true)
		for _, setup := range []func(*cell){c.row.setup, d.setup} {
			if setup != nil {
				setup(c)
			}
		}
		c.joined.Go(c.trade)
		defer func() {
			c.heal()
			c.closeMarket()
			c.joined.Wait()
		}()
		d.do(c)
		c.heal()
		c.wantWell()
	})
	c.Ledger.Check(t)
}

// dial is the NetDialContext.
func (c *cell) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.Mu.Lock()
	c.dialled = append(c.dialled, dialled{addr, time.Now()})
	if c.detour != "" {
		addr = c.detour
	}
	c.Mu.Unlock()
	return c.Net.DialContext(ctx, network, addr)
}

type dialled struct {
	addr string
	at   time.Time
}

// dialTimes is when each dial began.
func (c *cell) dialTimes() (at []time.Time) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	for _, d := range c.dialled {
		at = append(at, d.at)
	}
	return at
}

// phase is which one the cell is of.
func (c *cell) phase() phase { return c.at }

// leadTo has dials go to another address.
func (c *cell) leadTo(addr string) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.detour = addr
}

// serve has a script answer all dials, instead of the server.
func (c *cell) serve(script func(rc *harness.RawConn)) {
	c.ServeRaw("raw:80", nil, script)
	c.leadTo("raw:80")
}

// set changes hooks.
func (c *cell) set(change func(h *hooks)) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	change(&c.hooks)
}

func (c *cell) hook() hooks {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	return c.hooks
}

// heal ends the fault.
func (c *cell) heal() {
	c.raging.Store(false)
	c.bribe(nil)
	c.shown.Store(c.good)
	c.leadTo("")
	c.set(func(h *hooks) { *h = hooks{} })
	c.Net.OnDial(nil)
	c.Srv.Reject(nil)
	c.Srv.OnOpen(nil)
	c.Topics.Deaf(false)
	c.Topics.Ack(true)
	if c.isDown {
		c.isDown = false
		c.Srv.Restart()
	}
}

// trade publishes the next number of every topic each tenth of a second, on the connections that the server has it on.
func (c *cell) trade() {
	pause := 100 * time.Millisecond
	if c.row.beats { // its cells are many and long
		pause = 500 * time.Millisecond
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.shut:
			return
		}
		c.publish()
	}
}

// publish also counts what a connection that is hushed does not bring: the market goes on. Now the older connection of a
// switchover comes first, now the newer one.
func (c *cell) publish() {
	c.market <- struct{}{}
	defer func() { <-c.market }()
	c.number++
	n, peers := c.number, c.Srv.Live()
	if n%2 == 0 {
		slices.Reverse(peers)
	}
	for _, p := range peers {
		hushed := c.isMuted(p)
		for _, topic := range c.Topics.On(p) {
			c.Mu.Lock()
			if c.ticks[topic] == nil {
				c.ticks[topic] = make(map[int]time.Time)
			}
			c.ticks[topic][n] = time.Now()
			c.Mu.Unlock()
			if !hushed {
				p.Send(topic + ":" + strconv.Itoa(n))
			}
		}
		if c.row.beats && n%10 == 0 && !hushed {
			p.Send("hb")
		}
	}
}

// hush has a peer say nothing about its topics any more, as if it had forgotten them.
func (c *cell) hush(p *wstest.Peer) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.muted[p] = true
}

// expect notes with which close code the client is to say goodbye.
func (c *cell) expect(p *wstest.Peer, code int) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if c.closes == nil {
		c.closes = make(map[*wstest.Peer]int)
	}
	c.closes[p] = code
}

func (c *cell) isMuted(p *wstest.Peer) bool {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	return c.muted[p]
}

func (c *cell) closeMarket() {
	select {
	case <-c.shut:
	default:
		close(c.shut)
	}
}

// until lets time pass until something is so, at most five minutes.
func (c *cell) until(what string, so func() bool) {
	c.T.Helper()
	for range 3000 {
		synctest.Wait()
		if so() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.T.Fatalf("five minutes, and not yet %s; the shard is %v", what, c.M.Metrics().Shards)
}

// generation is whose connection a peer is.
func generation(p *wstest.Peer) harness.Opened {
	at := strings.Split(p.Request().URL.Path, "/")
	shard, _ := strconv.Atoi(at[2])
	gen, _ := strconv.ParseUint(at[3], 10, 64)
	return harness.Opened{Shard: shard, Gen: gen}
}

// only is the one live peer.
func (c *cell) only() *wstest.Peer {
	c.T.Helper()
	synctest.Wait()
	if live := c.Srv.Live(); len(live) != 1 {
		c.T.Fatalf("%d live peers", len(live))
	}
	return c.Srv.Live()[0]
}
