package wsshard_test

import (
	"context"
	"crypto/tls"
	"fmt"
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
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is one cell of the fault matrix, and what must hold at its end whatever happened in it?

// cell is a bubble with a manager, a server that publishes numbers, and one fault in one phase.
type cell struct {
	*world
	*history
	row *row
	strike
	cfg     wsshard.Config
	keyless bool // no message has a key: the overlap of a switchover is delivered twice

	at        phase
	dialled   []dialled // under history.mu
	hooks     hooks     // under history.mu
	detour    string    // where dials go instead; under history.mu
	muted     map[*wstest.Peer]bool
	ca        *authority // of TLS
	good      *tls.Certificate
	shown     atomic.Pointer[tls.Certificate] // by the server
	agents    *agents                         // its proxies; nil: none
	released  chan struct{}                   // closed when callbacks that ignore their context may return
	expensive bool                            // each dial is
	raging    atomic.Bool                     // a strike goes on
	isDown    bool                            // the server is
	every     *every                          // the handler of a fault that has to do with all callbacks
	final     []string                        // what is to be wanted in the end; nil: what the manager says
	stopped   time.Time                       // by a callback: what is published in that instant may be lost. Under history.mu
	runs      int                             // Starts after the first; under history.mu
	closes    map[*wstest.Peer]int            // codes of the close frames that the server should hear

	ticks  map[string]map[int]time.Time // when each number of a topic was published
	shut   chan struct{}
	joined sync.WaitGroup
	worst  time.Duration // of Stop
}

// hooks replace what the handler does; nil: what is right.
type hooks struct {
	url     func(ctx context.Context) (string, error)
	header  func(ctx context.Context) (http.Header, error)
	login   func(ctx context.Context, conn wsshard.LoginConn) error
	connect func(ctx context.Context) ([]wsshard.Message, error)
	message func(ctx context.Context, msg wsshard.Message)
	encode  func(sign string, req wsshard.Request[string]) (wsshard.Message, error)
	onError func(err error) bool
	// these only wait
	judge      func(ctx context.Context) // in OnError
	disconnect func()
	event      func()
}

// wanted are the topics of a cell, unless it changes them.
var wanted = []string{"a", "b"}

func newCell(f *row, p phase, d drive, s strike) *cell {
	c := &cell{
		history: &history{ledger: &ledger{}, got: make(map[string][]int), causes: make(map[opened][]error)},
		row:     f, at: p, strike: s, muted: make(map[*wstest.Peer]bool), ticks: make(map[string]map[int]time.Time),
	}
	c.cfg.Connection.ProactiveReconnectInterval = -1
	c.cfg.Connection.Header = http.Header{"Authorization": {"Bearer " + canary}}
	c.cfg.Connection.NetDialContext = c.dial
	if f.handler != nil {
		c.every = &every{}
		(&dials{e: c.every, dial: c.dial}).with(&c.cfg)
	}
	c.cfg.Logger = slog.New(slog.NewJSONHandler(c.ledger, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
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
	wsshard.SetSeed(uint64(c.row.no))
	defer wsshard.SetSeed(0)
	handler := func(a *app) wsshard.Handler[string] { return &patient{c} }
	if c.row.handler != nil {
		handler = func(*app) wsshard.Handler[string] { return c.row.handler(c) }
	}
	bubble(t, c.cfg, handler, func(w *world) {
		c.world, c.shut = w, make(chan struct{})
		c.topics.Ack(true)
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
	c.ledger.check(t)
}

// dial is the NetDialContext.
func (c *cell) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	c.dialled = append(c.dialled, dialled{addr, time.Now()})
	if c.detour != "" {
		addr = c.detour
	}
	c.mu.Unlock()
	return c.net.DialContext(ctx, network, addr)
}

type dialled struct {
	addr string
	at   time.Time
}

// dialTimes is when each dial began.
func (c *cell) dialTimes() (at []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dialled {
		at = append(at, d.at)
	}
	return at
}

// phase is which one the cell is of.
func (c *cell) phase() phase { return c.at }

// leadTo has dials go to another address.
func (c *cell) leadTo(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detour = addr
}

// serve has a script answer all dials, instead of the server.
func (c *cell) serve(script func(rc *rawConn)) {
	c.serveRaw("raw:80", nil, script)
	c.leadTo("raw:80")
}

// set changes hooks.
func (c *cell) set(change func(h *hooks)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.hooks)
}

func (c *cell) hook() hooks {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hooks
}

// heal ends the fault.
func (c *cell) heal() {
	c.raging.Store(false)
	c.bribe(nil)
	c.shown.Store(c.good)
	c.leadTo("")
	c.set(func(h *hooks) { *h = hooks{} })
	c.net.OnDial(nil)
	c.srv.Reject(nil)
	c.srv.OnOpen(nil)
	c.topics.Deaf(false)
	c.topics.Ack(true)
	if c.isDown {
		c.isDown = false
		c.srv.Restart()
	}
}

// trade publishes the next number of every topic each tenth of a second, on the connections that the server has it on.
func (c *cell) trade() {
	pause := 100 * ms
	if c.row.beats { // its cells are many and long
		pause = 500 * ms
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-c.shut:
			return
		}
		c.publish(n)
	}
}

// publish also counts what a connection that is hushed does not bring: the market goes on.
func (c *cell) publish(n int) {
	for _, p := range c.srv.Live() {
		hushed := c.isMuted(p)
		for _, topic := range c.topics.On(p) {
			c.mu.Lock()
			if c.ticks[topic] == nil {
				c.ticks[topic] = make(map[int]time.Time)
			}
			c.ticks[topic][n] = time.Now()
			c.mu.Unlock()
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
	c.mu.Lock()
	defer c.mu.Unlock()
	c.muted[p] = true
}

// expect notes with which close code the client is to say goodbye.
func (c *cell) expect(p *wstest.Peer, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closes == nil {
		c.closes = make(map[*wstest.Peer]int)
	}
	c.closes[p] = code
}

func (c *cell) isMuted(p *wstest.Peer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	c.t.Helper()
	for range 3000 {
		synctest.Wait()
		if so() {
			return
		}
		time.Sleep(100 * ms)
	}
	c.t.Fatalf("five minutes, and not yet %s; the shard is %v", what, c.m.Metrics().Shards)
}

// generation is whose connection a peer is.
func generation(p *wstest.Peer) opened {
	at := strings.Split(p.Request().URL.Path, "/")
	shard, _ := strconv.Atoi(at[2])
	gen, _ := strconv.ParseUint(at[3], 10, 64)
	return opened{shard, gen}
}

// only is the one live peer.
func (c *cell) only() *wstest.Peer {
	c.t.Helper()
	synctest.Wait()
	if live := c.srv.Live(); len(live) != 1 {
		c.t.Fatalf("%d live peers", len(live))
	}
	return c.srv.Live()[0]
}

// wantWell is what must hold at the end of every cell: each shard is connected, with the topics that are wanted as the server
// sees them; every number reached the handler or lies in a gap; Stop is quick and leaves nothing; OnDisconnect heard of each
// connection once; and no secret was told (see run).
func (c *cell) wantWell() {
	c.t.Helper()
	c.until("well", c.right)
	time.Sleep(3 * time.Second) // the last of the old, the first of the new
	synctest.Wait()
	if n := c.net.Open(); n != c.m.ShardCount() && c.agents == nil && c.ca == nil {
		c.t.Errorf("%d sockets are open for %d shards", n, c.m.ShardCount())
	}
	if c.final != nil {
		got := c.want()
		slices.Sort(got)
		if slices.Sort(c.final); !slices.Equal(got, c.final) {
			c.t.Errorf("wanted are %q, should be %q", got, c.final)
		}
	}
	if !c.right() {
		c.t.Errorf("the server has %v, want %q each once", c.topics.All(), c.want())
	}
	c.closeMarket()
	time.Sleep(time.Second)
	synctest.Wait()
	c.say(c.m.Metrics())
	for _, s := range c.m.Metrics().Shards {
		c.say(s)
		if s.LastError != nil {
			c.say(s.LastError)
		}
	}
	c.wantCalm()
	begin := time.Now()
	if err := c.m.Stop(context.Background()); err != nil {
		c.t.Errorf("Stop: %v", err)
	}
	if c.worst = time.Since(begin); c.worst > 2*time.Second {
		c.t.Errorf("Stop took %v", c.worst)
	}
	wantLoops(c.t, "stopped", 0)
	for p, code := range c.closes {
		if got := p.CloseCode(); got != code {
			c.t.Errorf("the server heard close %d, want %d", got, code)
		}
	}
	if n := c.net.Open(); n != 0 {
		c.t.Errorf("%d sockets are open", n)
	}
	c.wantAccounts()
	c.wantGoodbyes()
}

// right says whether each shard is connected and the server has each topic once.
func (c *cell) right() bool {
	all, want, closed := make(map[string]int), c.want(), make(map[string]bool)
	for _, conn := range c.net.Conns() {
		closed[conn.LocalAddr().String()] = conn.Closed()
	}
	for _, p := range c.srv.Live() {
		if closed[p.Net().RemoteAddr().String()] { // which its server does not always learn
			continue
		}
		for _, topic := range c.topics.On(p) {
			all[topic]++
		}
	}
	for _, topic := range want {
		if all[topic] != 1 {
			return false
		}
	}
	return len(all) == len(want) && c.m.Metrics().ActiveConnections == c.m.ShardCount()
}

// want is what the server must have: the shards' own list.
func (c *cell) want() (topics []string) {
	for id := range c.m.ShardCount() {
		topics = append(topics, c.m.ShardSubscriptions(id)...)
	}
	return topics
}

// wantAccounts checks that no number is missing but in a gap, and that none came twice or out of order.
func (c *cell) wantAccounts() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, ticks := range c.ticks {
		got := c.got[topic]
		if len(got) == 0 {
			c.t.Errorf("nothing of %s was delivered", topic)
			continue
		}
		for i, n := range got[1:] {
			if n <= got[i] && !c.keyless {
				c.t.Errorf("%s:%d came after %d", topic, n, got[i])
			}
		}
		var lost []time.Time
		for n, at := range ticks {
			if n > got[0] && !slices.Contains(got, n) && !c.reportedLocked(topic, at) && !at.Equal(c.stopped) {
				lost = append(lost, at)
			}
		}
		if len(lost) > 0 {
			slices.SortFunc(lost, time.Time.Compare)
			c.t.Errorf("%d numbers of %s, from %s to %s, are lost in silence", len(lost), topic, lost[0].Format(clock), lost[len(lost)-1].Format(clock))
		}
	}
}

const clock = "04:05.000"

func (c *cell) reportedLocked(topic string, at time.Time) bool {
	return slices.ContainsFunc(c.events, func(ev wsshard.Event[string]) bool {
		return ev.Kind == wsshard.EventGap && slices.Contains(ev.Subs, topic) && !at.Before(ev.From) && !at.After(ev.To)
	})
}

// wantGoodbyes checks that OnDisconnect heard once of each connection that was opened.
func (c *cell) wantGoodbyes() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	heard := 0
	for conn, causes := range c.causes {
		if heard += len(causes); len(causes) > 1+c.runs || slices.Contains(causes, nil) {
			c.t.Errorf("OnDisconnect heard of %v: %v", conn, causes)
		}
	}
	if n := c.m.Metrics().Connections; n != uint64(heard) {
		c.t.Errorf("%d connections were opened, OnDisconnect heard of %d", n, heard)
	}
}

// wantCalm checks that no shard dialled in a tight loop.
func (c *cell) wantCalm() {
	c.t.Helper()
	const most, window = 30, 10 * time.Second
	times, shards := c.dialTimes(), c.m.ShardCount()
	for i := most * shards; i < len(times) && !c.row.restless; i++ {
		if d := times[i].Sub(times[i-most*shards]); d < window {
			c.t.Errorf("%d dials within %v", most*shards, d)
			return
		}
	}
}

// opened names a connection.
type opened struct {
	shard int
	gen   uint64
}

// history is what a handler was told.
type history struct {
	*ledger
	got    map[string][]int // numbers by topic, as they came
	causes map[opened][]error
	events []wsshard.Event[string]
	errs   []failure
}

// failure is what OnError heard.
type failure struct {
	err error
	at  time.Time
}

func (h *history) message(msg wsshard.Message) {
	topic, number, _ := strings.Cut(msg.String(), ":")
	n, err := strconv.Atoi(number)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.got[topic] = append(h.got[topic], n)
	}
}

func (h *history) disconnected(cause error, st wsshard.ConnectionState) {
	h.say(cause)
	h.mu.Lock()
	defer h.mu.Unlock()
	k := opened{st.ShardID, st.Generation}
	h.causes[k] = append(h.causes[k], cause)
}

func (h *history) failed(err error, st wsshard.ConnectionState) {
	h.say(err)
	h.say(st)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, failure{err, time.Now()})
}

func (h *history) event(ev wsshard.Event[string]) {
	h.say(ev)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, ev)
}

// failures returns what OnError heard so far.
func (h *history) failures() []failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.errs)
}

// cause is what OnDisconnect heard of a connection; nil: nothing yet.
func (h *history) cause(k opened) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.causes[k]) == 0 {
		return nil
	}
	return h.causes[k][0]
}

// heard is how many events of a kind were heard.
func (h *history) heard(kind wsshard.EventKind) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.events {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

// patient is a cell's handler, for a wstest.Topics that acknowledges: with keys, and with a secret wherever one can be.
type patient struct{ c *cell }

func (p *patient) URL(ctx context.Context, st wsshard.ConnectionState) (string, error) {
	if h := p.c.hook().url; h != nil {
		return h(ctx)
	}
	scheme := p.c.row.scheme
	if scheme == "" {
		scheme = "ws"
	}
	return fmt.Sprintf("%s://srv/%s/%d/%d?token=%s", scheme, canary, st.ShardID, st.Generation, canary), nil
}

func (p *patient) ConnectionHeaders(ctx context.Context, _ wsshard.ConnectionState) (http.Header, error) {
	if h := p.c.hook().header; h != nil {
		return h(ctx)
	}
	return http.Header{"Cookie": {"session=" + canary}, "X-Key": {canary}}, nil
}

func (p *patient) Login(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
	if h := p.c.hook().login; h != nil {
		return h(ctx, conn)
	}
	return nil
}

func (p *patient) OnConnect(ctx context.Context, _ wsshard.ConnectionState) ([]wsshard.Message, error) {
	if h := p.c.hook().connect; h != nil {
		return h(ctx)
	}
	return []wsshard.Message{wsshard.Text("key " + canary)}, nil
}

func (p *patient) request(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	if h := p.c.hook().encode; h != nil {
		return h(sign, req)
	}
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

func (p *patient) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return p.request("+", req)
}

func (p *patient) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return p.request("-", req)
}

func (p *patient) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	topic, number, ok := strings.Cut(msg.String(), ":")
	if _, err := strconv.Atoi(number); ok && err == nil {
		v.Key, v.Subs = msg.String(), []string{topic}
	}
	v.Heartbeat = msg.String() == "hb"
	return v
}

func (p *patient) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return acksOfTopics(msg, st)
}

func (p *patient) OnMessage(ctx context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	p.c.message(msg)
	if h := p.c.hook().message; h != nil {
		h(ctx, msg)
	}
}

func (p *patient) OnDisconnect(_ context.Context, cause error, st wsshard.ConnectionState) {
	p.c.disconnected(cause, st)
	if h := p.c.hook().disconnect; h != nil {
		h()
	}
}

func (p *patient) OnError(ctx context.Context, err error, st wsshard.ConnectionState) bool {
	p.c.failed(err, st)
	h := p.c.hook()
	if h.judge != nil {
		h.judge(ctx)
	}
	return h.onError == nil || h.onError(err)
}

func (p *patient) OnEvent(ev wsshard.Event[string]) {
	p.c.event(ev)
	if h := p.c.hook().event; h != nil {
		h()
	}
}

var (
	_ wsshard.Handler[string]       = (*patient)(nil)
	_ wsshard.Unsubscriber[string]  = (*patient)(nil)
	_ wsshard.ConnectHandler        = (*patient)(nil)
	_ wsshard.Authenticator         = (*patient)(nil)
	_ wsshard.DisconnectHandler     = (*patient)(nil)
	_ wsshard.ErrorHandler          = (*patient)(nil)
	_ wsshard.HeaderProvider        = (*patient)(nil)
	_ wsshard.Inspector[string]     = (*patient)(nil)
	_ wsshard.Acknowledger[string]  = (*patient)(nil)
	_ wsshard.EventObserver[string] = (*patient)(nil)
)
