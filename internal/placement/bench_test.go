package placement

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// What a place costs must not follow the number of shards, so a million topics go over few and over many of them. The
// small table beside them shows how much of it is the map outgrowing the caches.
func BenchmarkPlace(b *testing.B) {
	for _, strategy := range []struct {
		name string
		Strategy
	}{{"LeastLoaded", LeastLoaded}, {"RoundRobin", RoundRobin}, {"Sequential", Sequential}} {
		for _, size := range []struct{ shards, limit int }{{20, 500}, {20, 50_000}, {2000, 500}} {
			b.Run(fmt.Sprintf("%s/shards=%d/limit=%d", strategy.name, size.shards, size.limit), func(b *testing.B) {
				benchmarkPlace(b, strategy.Strategy, size.shards, size.limit)
			})
		}
	}
}

var million = sync.OnceValue(func() []string {
	topics := make([]string, 1_000_000)
	for i := range topics {
		topics[i] = "topic-" + strconv.Itoa(i)
	}
	return topics
})

func benchmarkPlace(b *testing.B, strategy Strategy, shards, limit int) {
	topics := million()[:shards*limit]
	var table *Table[string]
	b.ReportAllocs()
	for b.Loop() {
		table = New[string](strategy, limit)
		for range shards {
			table.Open()
		}
		table.Reserve(len(topics))
		for _, s := range topics {
			if _, ok := table.Place(s); !ok {
				b.Fatal("no place")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(topics)), "ns/topic")

	full := heap()
	runtime.KeepAlive(table)
	table = nil
	b.ReportMetric(float64(full-heap())/float64(len(topics)), "B/topic")
}

// heap returns the bytes that are in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
