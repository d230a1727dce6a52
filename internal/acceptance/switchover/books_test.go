package switchover

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: do books of snapshots and deltas stay right over switchovers?

var bookMoves = flag.Int("switchover-books", 400, "books: how many switchovers")

// TestBooks keeps order books through many switchovers. A connection gives a snapshot of a book and then deltas that apply to
// it, without keys. After each switchover the books are the server's, and each connection's deltas came without a hole.
func TestBooks(t *testing.T) {
	moves := *bookMoves / 2
	if testing.Short() {
		moves /= 5
	}
	for _, acks := range []bool{true, false} {
		t.Run(fmt.Sprintf("acks=%v", acks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newExchange(t, acks).run(moves) })
		})
	}
}

const exchangeBooks = 4

// book is one order book, as either side sees it.
type book struct {
	levels  map[int]int // size by price
	version int
	gen     uint64 // at the handler: of the connection that it is from
}

// exchange is the server, and the handler.
type exchange struct {
	t      *testing.T
	script *rand.Rand // of run
	net    *wstest.Net
	srv    *wstest.Server
	m      *wsshard.ShardManager[string]

	mu     sync.Mutex
	rnd    *rand.Rand
	theirs [exchangeBooks]book
	conns  map[*wstest.Peer]*exchangeConn
	ours   map[string]book
	deltas int
}

type exchangeConn struct {
	peer   *wstest.Peer
	lag    time.Duration // of its fan-out
	on     [exchangeBooks]bool
	closed bool
}

func newExchange(t *testing.T, acks bool) *exchange {
	e := &exchange{
		t: t, script: rand.New(rand.NewPCG(1, 8)), rnd: rand.New(rand.NewPCG(1, 9)), net: wstest.NewNet(),
		conns: map[*wstest.Peer]*exchangeConn{}, ours: map[string]book{},
	}
	for i := range e.theirs {
		e.theirs[i].levels = map[int]int{}
	}
	e.net.SetLatency(3 * time.Millisecond)
	e.srv = wstest.NewServer(t, e.net, "srv:80")
	e.srv.OnOpen(e.opened)
	e.srv.Handle(e.request)
	var h wsshard.Handler[string] = e
	if acks {
		h = exchangeAcks{e}
	}
	var err error
	e.m, err = wsshard.New(h, wsshard.Config{
		Connection: wsshard.ConnectionConfig{NetDialContext: e.net.DialContext, ProactiveReconnectInterval: -1},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// random is below n. The caller holds mu.
func (e *exchange) random(n time.Duration) time.Duration {
	return time.Duration(e.rnd.Int64N(int64(n)))
}

func (e *exchange) opened(p *wstest.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &exchangeConn{peer: p, lag: e.random(simSkew)}
	e.conns[p] = c
	p.Conn().SetCloseHandler(func(code int, _ string) error { // what is queued is dropped
		e.mu.Lock()
		c.closed = true
		delete(e.conns, p)
		e.mu.Unlock()
		return p.Conn().WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	})
}

// request is honoured for each book in its own time: with an answer, the snapshot, and deltas from then on.
func (e *exchange) request(p *wstest.Peer, _ int, data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.conns[p]
	for name := range strings.SplitSeq(string(data[1:]), ",") {
		time.AfterFunc(e.random(500*time.Millisecond), func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			i := int(name[1] - '0')
			c.on[i] = true
			var levels strings.Builder
			for price, size := range e.theirs[i].levels {
				fmt.Fprintf(&levels, " %d=%d", price, size)
			}
			e.queueLocked(c, fmt.Sprintf("snapshot %s %d%s", name, e.theirs[i].version, &levels))
			e.queueLocked(c, "ack "+name)
		})
	}
}

// queueLocked sends text when the connection's lag is over.
func (e *exchange) queueLocked(c *exchangeConn, text string) {
	time.AfterFunc(c.lag, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !c.closed {
			c.peer.Send(text)
		}
	})
}

// trade changes one level of one book.
func (e *exchange) trade() {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, price, size := e.rnd.IntN(exchangeBooks), e.rnd.IntN(20), e.rnd.IntN(5)
	b := &e.theirs[i]
	b.version++
	if b.levels[price] = size; size == 0 {
		delete(b.levels, price)
	}
	for _, c := range e.conns {
		if c.on[i] {
			e.queueLocked(c, fmt.Sprintf("delta b%d %d %d=%d", i, b.version, price, size))
		}
	}
}

func (e *exchange) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (e *exchange) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (e *exchange) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	word := strings.Fields(msg.String())
	if v.NoData = word[0] == "ack"; !v.NoData {
		v.Subs = word[1:2]
	}
	return v
}

type exchangeAcks struct{ *exchange }

func (exchangeAcks) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (a wsshard.Ack[string], ok bool) {
	name, ok := strings.CutPrefix(msg.String(), "ack ")
	return wsshard.Ack[string]{Confirmed: []string{name}}, ok
}

func (e *exchange) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	word := strings.Fields(msg.String())
	if word[0] == "ack" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	name, version := word[1], 0
	fmt.Sscan(word[2], &version)
	b := e.ours[name]
	switch {
	case word[0] == "snapshot":
		b = book{levels: map[int]int{}, gen: st.Generation}
	case b.gen != st.Generation:
		e.t.Errorf("%q of connection %d, whose snapshot has not come", msg, st.Generation)
	case version != b.version+1:
		e.t.Errorf("%q after version %d of connection %d", msg, b.version, b.gen)
	default:
		e.deltas++
	}
	b.version = version
	for _, level := range word[3:] {
		var price, size int
		fmt.Sscanf(level, "%d=%d", &price, &size)
		if b.levels[price] = size; size == 0 {
			delete(b.levels, price)
		}
	}
	e.ours[name] = b
}

func (e *exchange) run(moves int) {
	defer func() {
		e.m.Stop(context.Background())
		synctest.Wait()
	}()
	e.m.Subscribe("b0", "b1", "b2", "b3")
	if err := e.m.Start(context.Background()); err != nil {
		e.t.Fatal(err)
	}
	harness.After(time.Second)
	for move := range moves {
		done := make(chan error, 1)
		go func() { done <- e.m.HotSwitchover(context.Background(), 0) }()
		for over := false; !over; {
			time.Sleep(time.Duration(1 + e.script.IntN(int(60*time.Millisecond))))
			e.trade()
			select {
			case err := <-done:
				if over = true; err != nil {
					e.t.Errorf("switchover %d: %v", move, err)
				}
			default:
			}
		}
		for range e.script.IntN(5) { // the new connection goes on
			time.Sleep(time.Duration(1 + e.script.IntN(int(60*time.Millisecond))))
			e.trade()
		}
		harness.After(simSkew + 10*time.Millisecond)
		e.compare(move)
		if e.t.Failed() {
			return
		}
	}
	m := e.m.Metrics()
	if m.Gaps != 0 || m.Errors != 0 || int(m.HotSwitchovers) != moves {
		e.t.Errorf("%+v", m)
	}
	e.t.Logf("%d switchovers, %d deltas applied", moves, e.deltas)
}

// compare checks the handler's books.
func (e *exchange) compare(move int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, b := range e.theirs {
		name := fmt.Sprintf("b%d", i)
		if got := e.ours[name]; !maps.Equal(got.levels, b.levels) || got.version != b.version {
			e.t.Errorf("after switchover %d %s is %v at version %d, and should be %v at %d", move, name,
				slices.Sorted(maps.Keys(got.levels)), got.version, slices.Sorted(maps.Keys(b.levels)), b.version)
		}
	}
}
