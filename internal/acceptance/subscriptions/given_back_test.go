package subscriptions

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how much of many topics stays when nearly all of them have gone?
//
//	go test -run '^TestFigureGivenBack$' -v ./internal/acceptance/subscriptions -args -figures

var allFigures = flag.Bool("figures", false, "1,000,000 topics, which take a minute")

// lender is a handler whose server answers each request by its number, at will, and whose data names topics.
type lender struct {
	harness.HandlerOnly
	refuses bool // the server refuses all but the first topics
	named   []string
}

func (l *lender) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if l.refuses && !slices.Contains(req.Subs, million()[0]) {
		return wsshard.Text(fmt.Sprint("!", req.ID)), nil
	}
	return wsshard.Text(fmt.Sprint("+", req.ID)), nil
}

func (l *lender) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text(fmt.Sprint("-", req.ID)), nil
}

func (l *lender) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	if msg.Data[0] == '!' {
		ack.Err = harness.ErrWhy
	}
	var err error
	ack.Request, err = strconv.ParseUint(string(msg.Data[1:]), 10, 64)
	return ack, err == nil
}

func (l *lender) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if msg.Data[0] == 'd' {
		v.Subs = l.named
	}
	return v
}

// TestFigureGivenBack: many topics come, and go again. Whatever was kept of them on the way, what stays follows those that are left.
func TestFigureGivenBack(t *testing.T) {
	const left, mostPerTopic = 1000, 10 // bytes; each container that keeps its size takes 16 at least
	count := harness.Fewer(100_000, 50_000)
	if *allFigures {
		count = 1_000_000 - left
	}
	stays, all := million()[:left], million()[left:][:count]
	together := func(m *wsshard.ShardManager[string]) { m.Unsubscribe(all...) }
	for _, c := range []struct {
		name  string
		h     lender
		lacks []string
		gone  func(m *wsshard.ShardManager[string])
	}{
		{"answered", lender{}, nil, together},
		{"unanswered", lender{}, []string{"acknowledger"}, together},
		{"few at a time", lender{}, nil, func(m *wsshard.ShardManager[string]) {
			for few := range slices.Chunk(all, 100) {
				m.Unsubscribe(few...)
				time.Sleep(time.Millisecond)
			}
		}},
		{"refused", lender{refuses: true}, nil, together},
		{"asked for again", lender{}, nil, func(m *wsshard.ShardManager[string]) {
			m.Resubscribe(all...)
			time.Sleep(time.Minute)
			together(m)
		}},
		{"with data that names them", lender{named: million()[:left+count]}, nil, together},
		{"with no way to take them back, but a new connection", lender{}, []string{"unsubscriber"}, func(m *wsshard.ShardManager[string]) {
			together(m)
			time.Sleep(time.Minute)
			for id := range m.ShardCount() {
				m.HotSwitchover(context.Background(), id)
			}
		}},
		{"before anything is connected", lender{}, nil, func(m *wsshard.ShardManager[string]) {
			m.Stop(context.Background())
			time.Sleep(time.Minute)
			m.Start(context.Background())
			m.Subscribe(stays...)
			m.Subscribe(all...)
			together(m)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := lent(t, &c.h, c.lacks)
				defer m.Stop(context.Background())
				m.Subscribe(stays...)
				time.Sleep(5 * time.Minute)
				few := inUse()
				m.Subscribe(all...)
				time.Sleep(5 * time.Minute)
				many := inUse()
				c.gone(m)
				time.Sleep(5 * time.Minute)
				late := inUse()
				t.Logf("%d topics took %d KiB, of which %d stay", count, (many-few)>>10, int64(late-few)>>10)
				if late > few+uint64(mostPerTopic*count) {
					t.Errorf("%d topics have left %d bytes, at most %d are allowed", count, late-few, mostPerTopic*count)
				}
				if got := m.TotalSubscriptions(); got != left {
					t.Errorf("%d topics are wanted", got)
				}
				runtime.KeepAlive(c.h.named)
			})
		})
	}
}

// lent returns a manager that runs against a server which answers each request with itself, and sends data after some.
func lent(t *testing.T, h *lender, lacks []string) *wsshard.ShardManager[string] {
	n := wstest.NewNet()
	n.SetBuffer(4 << 10)
	upgrader := websocket.Upgrader{ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}
	var open sync.WaitGroup
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Done()
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for i := 0; ; i++ {
			kind, request, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, request) != nil {
				return
			}
			if h.named != nil && (i == 99 || i%1000 == 999) {
				conn.WriteMessage(kind, []byte("data"))
			}
		}
	})}
	l, done := n.Listen("srv:80"), make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
		open.Wait()
	})
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 300_000, Health: wsshard.HealthConfig{DataTimeout: -1}}
	cfg.Connection.NetDialContext, cfg.Connection.ProactiveReconnectInterval = n.DialContext, -1
	m, err := wsshard.New(h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	hook.Without(m, lacks...)
	if err := m.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m
}
