package delivery

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what is left of topics that came and went? Whoever lives long sees more of them than fit into any memory.
//
//	go test -run '^TestFigureTopicsThatGoLeaveNothing$' -v -timeout 1h ./internal/acceptance/delivery -args -figures

var allFigures = flag.Bool("figures", false, "10,000,000 topics, which take minutes")

// passer subscribes to numbers, each in a request of its own.
type passer struct{}

func (passer) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://passing/", nil
}

func (passer) SubscriptionMessage(req wsshard.Request[int]) (wsshard.Message, error) {
	return wsshard.Text(fmt.Sprint("+", req.Subs[0])), nil
}

func (passer) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

// leaver unsubscribes too.
type leaver struct{ passer }

func (leaver) UnsubscriptionMessage(req wsshard.Request[int]) (wsshard.Message, error) {
	return wsshard.Text(fmt.Sprint("-", req.ID)), nil
}

// replier hears which topics are on ("+7"), refused ("!7"), and which request is done ("-4711").
type replier struct{ leaver }

func (replier) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[int], bool) {
	text := string(msg.Data)
	n, err := strconv.Atoi(text[1:])
	switch {
	case err != nil:
		return wsshard.Ack[int]{}, false
	case text[0] == '+':
		return wsshard.Ack[int]{Confirmed: []int{n}}, true
	case text[0] == '!':
		return wsshard.Ack[int]{Rejected: []int{n}}, true
	default:
		return wsshard.Ack[int]{Request: uint64(n)}, true
	}
}

// listenPlain serves WebSocket connections on n with a server that remembers nothing, and has small buffers. What they do must end
// when the client is gone: the test waits for them.
func listenPlain(t *testing.T, n *wstest.Net, addr string, compressed bool, serve func(ws *websocket.Conn)) {
	t.Helper()
	n.SetBuffer(4 << 10)
	upgrader := websocket.Upgrader{EnableCompression: compressed, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}
	var open sync.WaitGroup
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Done()
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		serve(ws)
	})}
	l, done := n.Listen(addr), make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
		open.Wait()
	})
}

// liveHeap is what is alive: what is garbage, and what a finalizer or a pool holds back, is collected first.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestFigureTopicsThatGoLeaveNothing: millions of topics come and go, eleven at a time, with never a moment in which nothing is
// unanswered. However it is answered, nothing of them is left.
func TestFigureTopicsThatGoLeaveNothing(t *testing.T) {
	const wanted, most = 11, 128 << 10 // of which 64 KiB are what the connection may read ahead into, if it does so just then
	all := func(prefix string) func(request string) (answers string) {
		return func(request string) string {
			if request[0] == '-' {
				return request
			}
			return prefix + request[1:]
		}
	}
	for _, c := range []struct {
		name    string
		h       wsshard.Handler[int]
		every   time.Duration
		answers func(request string) (answers string)
	}{
		{"each answered as the next is asked for", replier{}, 10 * time.Millisecond, func() func(string) string {
			late := ""
			return func(request string) string {
				if request[0] == '-' {
					return request
				}
				defer func() { late = request }()
				return late
			}
		}()},
		{"each refused", replier{}, 10 * time.Millisecond, all("!")},
		{"none answered", replier{}, 200 * time.Millisecond, func(string) string { return "" }}, // each is asked for twice, and given up
		{"no unsubscription answered", replier{}, 10 * time.Millisecond, func(request string) string {
			if request[0] == '-' {
				return ""
			}
			return request
		}},
		{"a server that answers nothing by its nature", leaver{}, 10 * time.Millisecond, func(string) string { return "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := wstest.NewNet()
				listenPlain(t, n, "passing:80", false, func(ws *websocket.Conn) {
					for {
						_, request, err := ws.ReadMessage()
						if err != nil {
							return
						}
						if answer := c.answers(string(request)); answer != "" {
							if ws.WriteMessage(websocket.TextMessage, []byte(answer)) != nil {
								return
							}
						}
					}
				})
				cfg := wsshard.Config{ // what has to be remembered for a while is so for a second: a fifth of the topics take longer
					Health:    wsshard.HealthConfig{PingInterval: time.Second, DataTimeout: -1},
					Subscribe: wsshard.SubscribeConfig{AckTimeout: time.Second},
				}
				cfg.Connection.NetDialContext, cfg.Connection.ProactiveReconnectInterval = n.DialContext, -1
				m, err := wsshard.New(c.h, cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Stop(context.Background())
				if err := m.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
				count := 20_000
				switch {
				case testing.Short():
					count = 4_000
				case *allFigures && c.name == "each answered as the next is asked for":
					count = 10_000_000
				case *allFigures:
					count = 1_000_000
				}
				var early uint64
				for i := range count {
					m.Subscribe(i)
					if i >= wanted {
						m.Unsubscribe(i - wanted)
					}
					time.Sleep(c.every)
					if i == count/5 {
						early = liveHeap()
					}
				}
				late := liveHeap()
				t.Logf("%d topics: %d KiB are alive, %d KiB after a fifth of them", count, late>>10, early>>10)
				if late > early+most {
					t.Errorf("%d topics more have left %d bytes, at most %d are allowed", count-count/5, late-early, most)
				}
				if got := m.Metrics(); got.TotalSubscriptions != wanted || got.MessagesSent < uint64(count) {
					t.Errorf("%d topics are wanted, %d messages were sent", got.TotalSubscriptions, got.MessagesSent)
				}
			})
		})
	}
}
