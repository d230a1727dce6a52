package subscriptions

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does it cost to subscribe, and to be asked for it again?

// A topic costs the same on few and on many shards, and nearly the same among few and among many: what grows is the map
// that outgrows the caches. B/topic is what placement and the desired sets keep, without the bytes of the topics.
func BenchmarkSubscribe(b *testing.B) {
	for _, topics := range []int{10_000, 100_000, 1_000_000} {
		for _, shards := range []int{20, 2000} {
			b.Run(fmt.Sprintf("topics=%d/shards=%d", topics, shards), func(b *testing.B) {
				subs := million()[:topics]
				var m *wsshard.ShardManager[string]
				before := inUse()
				b.ReportAllocs()
				for b.Loop() {
					m = idle(b, wsshard.Config{MaxSubscriptionsPerShard: topics / shards})
					if _, err := m.Subscribe(subs...); err != nil {
						b.Fatal(err)
					}
				}
				perTopic(b, topics)
				b.ReportMetric(float64(inUse()-before)/float64(topics), "B/topic")
				runtime.KeepAlive(m)
			})
		}
	}
}

// The same where each topic comes alone and goes again.
func BenchmarkSubscribeOneByOne(b *testing.B) {
	for _, shards := range []int{20, 2000} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			subs := million()[:100_000]
			m := idle(b, wsshard.Config{MaxSubscriptionsPerShard: len(subs) / shards})
			m.Subscribe(subs...)
			m.Unsubscribe(subs[:len(subs)/2]...)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				sub := subs[i%(len(subs)/2)]
				if _, err := m.Subscribe(sub); err != nil {
					b.Fatal(err)
				}
				m.Unsubscribe(sub)
			}
			perTopic(b, 1)
		})
	}
}

// What a topic takes beside its own bytes while it is live: its place, the wish, and what one connection has applied. The
// few connections that carry so many weigh next to nothing.
func BenchmarkSubscriptionMemory(b *testing.B) {
	for _, topics := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("topics=%d/shards=4", topics), func(b *testing.B) {
			subs := million()[:topics]
			for b.Loop() {
				before := inUse()
				m := connected(b, wsshard.Config{MaxSubscriptionsPerShard: topics / 4})
				m.Subscribe(subs...)
				mustSync(b, m)
				b.ReportMetric(float64(inUse()-before)/float64(topics), "B/topic")
				m.Stop(context.Background())
			}
		})
	}
}

// A connection that is lost and made anew writes all its topics again. The far end only reads.
func BenchmarkRestore(b *testing.B) {
	for _, topics := range []int{500, 5000, 100_000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			m := connected(b, wsshard.Config{MaxSubscriptionsPerShard: -1})
			m.Subscribe(million()[:topics]...)
			mustSync(b, m)
			b.ReportAllocs()
			for b.Loop() {
				gen := m.Metrics().Shards[0].Generation
				m.Reconnect(0)
				for m.Metrics().Shards[0].Generation == gen {
					runtime.Gosched()
				}
				mustSync(b, m)
			}
			perTopic(b, topics)
			m.Stop(context.Background())
		})
	}
}

func perTopic(b *testing.B, topics int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*topics), "ns/topic")
}

var million = sync.OnceValue(func() []string {
	topics := make([]string, 1_000_000)
	for i := range topics {
		topics[i] = "topic-" + strconv.Itoa(i)
	}
	return topics
})

// inUse returns the bytes of the heap that are in use.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// connected returns a manager that runs against a server which only reads.
func connected(b *testing.B, cfg wsshard.Config) *wsshard.ShardManager[string] {
	return connectedTo(b, harness.HandlerOnly{}, cfg)
}

func connectedTo(b *testing.B, h wsshard.Handler[string], cfg wsshard.Config) *wsshard.ShardManager[string] {
	n := wstest.NewNet()
	upgrader := websocket.Upgrader{WriteBufferPool: new(sync.Pool)}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	})}
	go server.Serve(n.Listen("srv:80"))
	b.Cleanup(func() { server.Close() })
	cfg.Connection.NetDialContext = n.DialContext
	cfg.Switchover.Settle = -1
	m, err := wsshard.New(h, cfg)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.Start(context.Background()); err != nil {
		b.Fatal(err)
	}
	return m
}

func mustSync(b *testing.B, m *wsshard.ShardManager[string]) {
	b.Helper()
	if err := m.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
}
