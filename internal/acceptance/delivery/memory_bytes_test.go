package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
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

// This file answers: how much memory do many connections take together, while large messages come and when they have come?
//
//	go test -run '^TestFigure(TwentyBombs|OneSnapshot)' -v ./internal/acceptance/delivery

// gatherer has a topic on each connection, and counts.
type gatherer struct {
	passer
	mu     sync.Mutex // protects following fields
	got    int
	causes []error
}

func (g *gatherer) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got++
}

func (g *gatherer) OnDisconnect(_ context.Context, cause error, _ wsshard.ConnectionState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.causes = append(g.causes, cause)
}

func (g *gatherer) lost() []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.causes)
}

// TestFigureTwentyBombs: twenty connections are sent a message each that is a thousand times as large as what is sent of it. At no
// time are more than MaxUnfinished and 5 MiB for each open connection in use.
func TestFigureTwentyBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes hundreds of MiB")
	}
	const count, each = 20, 5 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(2)) // garbage is not what is asked for
	for _, readLimit := range []int{0, 64 << 20} {
		size := readLimit // MiB of each message, not quite its whole
		if size == 0 {
			size = 16 << 20
		}
		pieces := size>>20 - 1
		t.Run(fmt.Sprintf("%d of %d MiB", count, size>>20), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, bomb, turns := wstest.NewNet(), harness.Bomb(pieces), make([]chan struct{}, pieces)
				piece := func(i int) string { return bomb[i*len(bomb)/pieces : (i+1)*len(bomb)/pieces] }
				for i := range turns {
					turns[i] = make(chan struct{})
				}
				g := &gatherer{}
				var mu sync.Mutex // protects following fields
				var before, peak, excess int64
				look := func() {
					mu.Lock()
					defer mu.Unlock()
					var now runtime.MemStats
					runtime.ReadMemStats(&now)
					used, open := int64(now.HeapAlloc)-before, int64(count-len(g.lost()))
					peak, excess = max(peak, used), max(excess, used-256<<20-open*each)
				}
				listenPlain(t, n, "passing:80", true, func(ws *websocket.Conn) {
					gone := readsAll(ws)
					defer func() { <-gone }()
					defer ws.Close()
					kind := byte(harness.Rsv1 | harness.OpBinary)
					for i := range turns {
						select {
						case <-turns[i]:
						case <-gone:
							return
						}
						if _, err := io.WriteString(ws.NetConn(), harness.RawBytes(kind, piece(i))); err != nil {
							return
						}
						kind = harness.OpCont
						look()
					}
					<-gone
				})
				cfg := wsshard.Config{MaxSubscriptionsPerShard: 1, Backoff: wsshard.BackoffConfig{InitialDelay: time.Hour, MaxDelay: time.Hour}}
				cfg.Connection = wsshard.ConnectionConfig{NetDialContext: n.DialContext, EnableCompression: true, ReadLimit: int64(readLimit)}
				m, err := wsshard.New(g, cfg)
				if err != nil {
					t.Fatal(err)
				}
				m.Subscribe(topicNumbers(count)...)
				if err := m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				before, excess = int64(liveHeap()), -1<<62
				for i := range pieces {
					close(turns[i])
					time.Sleep(10 * time.Millisecond)
					look()
				}
				for _, cause := range g.lost() {
					if !errors.Is(cause, wsshard.ErrMaxUnfinished) {
						t.Errorf("ended by %v", cause)
					}
				}
				t.Logf("%d bombs of %d MiB: %d MiB at most, %d have ended; %d MiB below what is allowed", count, size>>20, peak>>20, len(g.lost()), -excess>>20)
				if excess > 0 {
					t.Errorf("%d bytes more than MaxUnfinished and %d for each open connection", excess, each)
				}
				if peak < 192<<20 || len(g.lost()) == 0 {
					t.Errorf("%d bytes at most, %d have ended: this test is blind", peak, len(g.lost()))
				}
				m.Stop(context.Background())
			})
		})
	}
}

// TestFigureOneSnapshot: five seconds after one large message a connection takes at most 64 KiB, whatever comes then.
func TestFigureOneSnapshot(t *testing.T) {
	const count, most = 50, 64 << 10
	for _, size := range []int{300 << 10, 900 << 10, 1 << 20} {
		for _, low := range []bool{false, true} {
			for _, then := range []string{"small messages", "pongs only"} {
				t.Run(fmt.Sprintf("%d KiB, LowLatencyMode %v, then %s", size>>10, low, then), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := wstest.NewNet()
						snapshot := []byte(strings.Repeat("x", size))
						listenPlain(t, n, "passing:80", false, func(ws *websocket.Conn) {
							gone := readsAll(ws)
							ws.WriteMessage(websocket.TextMessage, snapshot)
							for then == "small messages" && ws.WriteMessage(websocket.TextMessage, []byte("small")) == nil {
								time.Sleep(100 * time.Millisecond)
							}
							<-gone
						})
						g := &gatherer{}
						cfg := wsshard.Config{MaxSubscriptionsPerShard: 1, Health: wsshard.HealthConfig{PingInterval: time.Second}}
						cfg.Connection = wsshard.ConnectionConfig{NetDialContext: n.DialContext, LowLatencyMode: low}
						m, err := wsshard.New(g, cfg)
						if err != nil {
							t.Fatal(err)
						}
						m.Subscribe(topicNumbers(count)...)
						before := liveHeap()
						if err := m.Start(context.Background()); err != nil {
							t.Fatal(err)
						}
						for g.received() < count {
							time.Sleep(time.Millisecond)
						}
						time.Sleep(5 * time.Second)
						each := (int64(liveHeap()) - int64(before)) / count
						t.Logf("%d KiB a connection, both ends, of %d that got %d KiB", each>>10, count, size>>10)
						if each > most {
							t.Errorf("%d bytes a connection, at most %d are allowed", each, most)
						}
						m.Stop(context.Background())
					})
				})
			}
		}
	}
}

func (g *gatherer) received() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got
}

// readsAll reads, and answers pings, until the client is gone.
func readsAll(ws *websocket.Conn) (gone chan struct{}) {
	gone = make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
		}
	}()
	return gone
}

func topicNumbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}
