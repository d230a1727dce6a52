package wsshard

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what do many callers and observers of a manager see (metrics.go, events.go), and what is made of its Config and of its
// errors' texts?

// idle is a handler whose shards are never started.
type idle struct{}

func (idle) URL(context.Context, ConnectionState) (string, error) { return "ws://srv/", nil }
func (idle) SubscriptionMessage(Request[int]) (Message, error)    { return Message{}, nil }
func (idle) OnMessage(context.Context, Message, ConnectionState)  {}
func manyShards(t testing.TB, n int) *ShardManager[int] {
	t.Helper()
	m, err := New[int](idle{}, Config{MaxSubscriptionsPerShard: 1})
	if err != nil {
		t.Fatal(err)
	}
	subs := make([]int, n)
	for i := range subs {
		subs[i] = i
	}
	if _, err := m.Subscribe(subs...); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMetricsHoldsNobodyUp: while Metrics waits for a shard's numbers, the manager's lock is free.
func TestMetricsHoldsNobodyUp(t *testing.T) {
	m := manyShards(t, 3)
	shard := m.life.shards[1]
	shard.stats.mu.Lock()
	got := make(chan Metrics)
	go func() { got <- m.Metrics() }()
	stacks := make([]byte, 1<<20)
	for !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*shardStats).snapshot") { // until it waits there
		runtime.Gosched()
	}
	free := m.mu.TryLock()
	if free {
		m.mu.Unlock()
	}
	shard.stats.mu.Unlock()
	if all := <-got; !free || len(all.Shards) != 3 || all.TotalSubscriptions != 3 || all.Shards[2].SubscriptionCount != 1 {
		t.Errorf("the manager's lock was free: %v; %+v", free, all)
	}
}

// TestMetricsAreOfOneMoment: the shards' numbers of subscriptions add up to the total, whatever comes and goes.
func TestMetricsAreOfOneMoment(t *testing.T) {
	m := manyShards(t, 100)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; !stop.Load(); n++ {
			m.Subscribe(1000 + n%500)
			m.Unsubscribe(1000 + (n+250)%500)
		}
	}()
	for range 200 {
		all, sum := m.Metrics(), 0
		for i, s := range all.Shards {
			if sum += s.SubscriptionCount; s.ShardID != i {
				t.Fatalf("shard %d is at %d", s.ShardID, i)
			}
		}
		if sum != all.TotalSubscriptions {
			t.Fatalf("%d subscriptions on shards, %d in all", sum, all.TotalSubscriptions)
		}
	}
	stop.Store(true)
	<-done
}

// BenchmarkMetrics: how long Metrics takes, and at most how long it holds the manager's lock: on a busy machine what is over
// the median is the machine's.
func BenchmarkMetrics(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d_shards", n), func(b *testing.B) {
			m := manyShards(b, n)
			var held []time.Duration
			for b.Loop() {
				m.Metrics()
				begin := time.Now()
				m.countNow(n)
				held = append(held, time.Since(begin))
			}
			slices.Sort(held)
			b.ReportMetric(float64(held[len(held)/2].Nanoseconds()), "median-ns-locked")
			b.ReportMetric(float64(held[len(held)*9/10].Nanoseconds()), "p90-ns-locked")
		})
	}
}

// popAll empties a queue.
func popAll(q *events[string]) (evs []Event[string]) {
	for {
		ev, ok, _ := q.pop()
		if !ok {
			return evs
		}
		evs = append(evs, ev)
	}
}

func TestEventQueueDropsOldest(t *testing.T) {
	q, dropped := newEvents[string](), 0
	for i := range 3 * maxEvents {
		if q.push(Event[string]{Kind: EventConnecting, Attempt: i}) {
			dropped++
		}
	}
	evs := popAll(q)
	if len(evs) != maxEvents || dropped != 2*maxEvents {
		t.Fatalf("%d events, %d dropped", len(evs), dropped)
	}
	for i, ev := range evs {
		if ev.Attempt != 2*maxEvents+i || ev.Time.IsZero() {
			t.Fatalf("event %d is %+v", i, ev)
		}
	}
}

// Gaps, parked shards and rejections outlive any number of others: each shard has at most one of each when the queue is full.
func TestEventQueueMerges(t *testing.T) {
	q := newEvents[string]()
	at := func(sec int) time.Time { return time.Unix(int64(sec), 0) }
	for i := range maxEvents {
		q.push(Event[string]{Kind: EventBackoff, Attempt: i})
	}
	for i := range 100 {
		n := 10 * i
		q.push(Event[string]{Kind: EventGap, ShardID: i % 2, Generation: uint64(i), From: at(1000 - n), To: at(2000 + n), Subs: []string{"g", string(rune('a' + i%3))}})
		q.push(Event[string]{Kind: EventParked, ShardID: 1, Attempt: i, Err: ErrDataTimeout, Subs: []string{"p"}})
		q.push(Event[string]{Kind: EventSubscriptionRejected, ShardID: 1, Err: ErrRejected, Subs: []string{string(rune('a' + i%26))}})
		if i == 50 {
			q.push(Event[string]{Kind: EventSubscriptionRejected, ShardID: 1, Subs: []string{"z"}})
		}
	}
	q.push(Event[string]{Kind: EventStopped, ShardID: -1})
	evs := popAll(q)
	if len(evs) != maxEvents {
		t.Errorf("%d events", len(evs))
	}
	if last := evs[len(evs)-1]; last.Kind != EventStopped {
		t.Errorf("the last is %v", last.Kind)
	}
	evs = slices.DeleteFunc(evs, func(ev Event[string]) bool { return ev.Kind == EventBackoff || ev.Kind == EventStopped })
	if len(evs) != 4 {
		t.Fatalf("%+v", evs)
	}
	for _, ev := range evs {
		switch {
		case ev.Kind == EventGap && ev.ShardID == 0:
			if ev.From != at(20) || ev.To != at(2980) || len(ev.Subs) != 4 || ev.Generation != 98 {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventGap && ev.ShardID == 1:
			if ev.From != at(10) || ev.To != at(2990) || len(ev.Subs) != 4 || ev.Generation != 99 {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventParked:
			if ev.Attempt != 99 || len(ev.Subs) != 1 || ev.Err != ErrDataTimeout {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventSubscriptionRejected:
			if len(ev.Subs) != 26 || ev.Err != ErrRejected {
				t.Errorf("%+v", ev)
			}
		}
	}
}

// With nothing but events that are kept the queue grows by one for each shard and kind, and others are dropped.
func TestEventQueueOfKeptOnly(t *testing.T) {
	q := newEvents[string]()
	for i := range 2 * maxEvents {
		if q.push(Event[string]{Kind: EventGap, ShardID: i}) {
			t.Fatal("a gap pushed something out")
		}
	}
	if !q.push(Event[string]{Kind: EventConnected}) {
		t.Error("dropped without being counted")
	}
	evs := popAll(q)
	if len(evs) != 2*maxEvents {
		t.Errorf("%d events", len(evs))
	}
}

// TestDefaultsYield: a default fits what is set beside it, and what is set stays as it is.
func TestDefaultsYield(t *testing.T) {
	const s = time.Second
	type three struct{ ping, pong, data time.Duration }
	for set, want := range map[three]three{
		{}:                {20 * s, 10 * s, 30 * s},
		{ping: 5 * s}:     {5 * s, 5 * s, 30 * s},
		{ping: 15 * s}:    {15 * s, 10 * s, 30 * s},
		{ping: 60 * s}:    {60 * s, 10 * s, 60 * s},
		{ping: 1}:         {1, 1, 30 * s},
		{ping: -1}:        {-1, 10 * s, 30 * s},
		{pong: 21 * s}:    {21 * s, 21 * s, 30 * s},
		{pong: 40 * s}:    {40 * s, 40 * s, 40 * s},
		{pong: -1}:        {20 * s, -1, 30 * s},
		{data: 10 * s}:    {10 * s, 10 * s, 10 * s},
		{data: 5 * s}:     {5 * s, 5 * s, 5 * s},
		{data: 25 * s}:    {20 * s, 10 * s, 25 * s},
		{data: -1}:        {20 * s, 10 * s, -1},
		{5 * s, 0, 7 * s}: {5 * s, 5 * s, 7 * s},
		{0, 3 * s, 5 * s}: {5 * s, 3 * s, 5 * s},
		{5 * s, 2 * s, 0}: {5 * s, 2 * s, 30 * s},
		{-1, 0, 1 * s}:    {-1, 10 * s, 1 * s},
		{40 * s, 0, -1}:   {40 * s, 10 * s, -1},
		{0, 40 * s, -1}:   {40 * s, 40 * s, -1},
	} {
		c := Config{Health: HealthConfig{PingInterval: set.ping, PongTimeout: set.pong, DataTimeout: set.data}}.withDefaults(0)
		if got := (three{c.Health.PingInterval, c.Health.PongTimeout, c.Health.DataTimeout}); got != want {
			t.Errorf("%+v is filled to %+v, want %+v", set, got, want)
		}
		if err := c.validate(); err != nil {
			t.Errorf("%+v: %v", set, err)
		}
	}
	for set, want := range map[[2]time.Duration][2]time.Duration{
		{}:                  {100 * time.Millisecond, 30 * s},
		{60 * s, 0}:         {60 * s, 60 * s},
		{0, 99 * 1_000_000}: {99 * time.Millisecond, 99 * time.Millisecond},
		{0, 10 * s}:         {100 * time.Millisecond, 10 * s},
		{5 * s, 0}:          {5 * s, 30 * s},
	} {
		c := Config{Backoff: BackoffConfig{InitialDelay: set[0], MaxDelay: set[1]}}.withDefaults(0)
		if got := [2]time.Duration{c.Backoff.InitialDelay, c.Backoff.MaxDelay}; got != want {
			t.Errorf("%v is filled to %v, want %v", set, got, want)
		}
		if err := c.validate(); err != nil {
			t.Errorf("%v: %v", set, err)
		}
	}
}

// TestSourcesInIPv6Clothes: ::ffff:a.b.c.d is an IPv4 address, for the socket and in what is said.
func TestSourcesInIPv6Clothes(t *testing.T) {
	d := newDialer(Config{Connection: ConnectionConfig{SourceIPs: []string{"::ffff:127.0.0.9", "::1"}}}.withDefaults(0).Connection)
	if addr, _ := d.source(0); addr != netip.MustParseAddr("127.0.0.9") || d.egress(0) != "127.0.0.9" || d.egress(10) != "::1" {
		t.Errorf("shard 0 dials from %v, and the egresses are %q and %q", addr, d.egress(0), d.egress(10))
	}
}

// What a peer says is shown in one line of at most 200 of its bytes, and never with half a character.
func TestPrintable(t *testing.T) {
	for said, want := range map[string]string{
		"":                              "",
		"bye":                           "bye",
		"a\r\nb\x1b[2J\x00\"\\":         `a\r\nb\x1b[2J\x00\"\\`,
		"\xff\u202e":                    `\xff\u202e`,
		strings.Repeat("x", 200):        strings.Repeat("x", 200),
		strings.Repeat("x", 201):        strings.Repeat("x", 200) + "…",
		strings.Repeat("x", 199) + "€":  strings.Repeat("x", 199) + "…",
		strings.Repeat("x", 197) + "€y": strings.Repeat("x", 197) + "€…",
	} {
		if got := printable(said); got != want {
			t.Errorf("%q is shown as %q, want %q", said, got, want)
		}
	}
}

// loginFails has no server that it likes.
type loginFails struct{ tries int }

func (h *loginFails) URL(context.Context, ConnectionState) (string, error) { return "ws://srv/", nil }
func (h *loginFails) SubscriptionMessage(Request[string]) (Message, error) { return Text("sub"), nil }
func (h *loginFails) OnMessage(context.Context, Message, ConnectionState)  {}
func (h *loginFails) Login(context.Context, LoginConn, ConnectionState) error {
	h.tries++
	return io.EOF
}

// What a failed Login leaves is forgotten: else a shard that cannot log in for a week would remember every connection of it.
func TestFailedLoginsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, h := wstest.NewNet(), &loginFails{}
		wstest.NewServer(t, network, "srv:80")
		m, err := New(h, Config{Connection: ConnectionConfig{NetDialContext: network.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe("a")
		if err := m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		defer m.Stop(context.Background())
		time.Sleep(time.Hour)
		synctest.Wait()
		m.run.mu.Lock()
		defer m.run.mu.Unlock()
		if n := len(m.run.conns); n > 1 || h.tries < 10 {
			t.Errorf("%d connections are remembered after %d logins", n, h.tries)
		}
	})
}

// TestMethodsFoundByName: each method that is looked for on the stack exists under that name, and says that it is found by it. Whoever
// renames one without the other is told.
func TestMethodsFoundByName(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[frame]bool) // of the methods that say so: is one of them looked for?
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if ok && f.Recv != nil && strings.Contains(strings.Join(strings.Fields(f.Doc.Text()), " "), "onStack finds it by this name") {
				said[frame{receiverType(f), f.Name.Name}] = false
			}
		}
	}
	for _, wanted := range []frame{inGuard, inMessage, inHandle, inWriteLoop} {
		if _, ok := said[wanted]; !ok {
			t.Errorf("no method of %s says in its comment that it is found by the name %s", wanted.typ, wanted.method)
		}
		said[wanted] = true
	}
	for f, wanted := range said {
		if !wanted {
			t.Errorf("%s.%s says that it is found by its name, and is not looked for", f.typ, f.method)
		}
	}
}

func receiverType(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if g, ok := typ.(*ast.IndexExpr); ok {
		typ = g.X
	}
	return typ.(*ast.Ident).Name
}

// asksStack is a slog.Handler that looks at the stack.
type asksStack struct {
	slog.Handler
	found bool
}

func (h *asksStack) Handle(context.Context, slog.Record) error {
	h.found = onStack(inHandle)
	return nil
}

// What is on the stack is found, inside generic code and outside of it, and nothing else.
func TestOnStack(t *testing.T) {
	c := &core[string]{log: slog.New(slog.DiscardHandler)}
	c.guard("here", noShard, func() {
		if !onStack(inWriteLoop, inGuard) {
			t.Error("guard is not found")
		}
		if onStack(inMessage, inHandle, inWriteLoop) {
			t.Error("something is found that is not there")
		}
	}, nil)
	h := &asksStack{Handler: slog.NewTextHandler(io.Discard, nil)}
	slog.New(guardedLog{h, &c.count.panics}).Info("asked")
	if !h.found || onStack(inGuard) {
		t.Errorf("a log handler is found: %v, guard, which has returned: %v", h.found, onStack(inGuard))
	}
	for name, want := range map[string]bool{
		"(*core[...]).guard": true, "(*core).guard": true, "core[...].guard": true, "core.guard": true,
		"(*core[...]).guard.func1": false, "(*score[...]).guard": false, "(*core[...]).onguard": false, "(*cores).guard": false, "guard": false,
	} {
		if got := inGuard.is(name); got != want {
			t.Errorf("%s is guard: %v", name, got)
		}
	}
	if own := reflect.TypeFor[Config]().PkgPath() + "."; packagePath != own {
		t.Errorf("functions of %s are looked for by %s", own, packagePath)
	}
}
