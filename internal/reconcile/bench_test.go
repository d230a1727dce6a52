package reconcile

import (
	"runtime"
	"strconv"
	"testing"
	"time"
)

const many = 100_000

func topics(n int) []string {
	subs := make([]string, n)
	for i := range subs {
		subs[i] = "topic-" + strconv.Itoa(i)
	}
	return subs
}

func perTopic(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/topic")
}

func BenchmarkAdd(b *testing.B) {
	subs := topics(many)
	b.ReportAllocs()
	for b.Loop() {
		New[string]().Add(subs...)
	}
	perTopic(b, many)
}

// A restore: what a new session pays to list all that is wanted, and to say that it was written.
func BenchmarkFirstPass(b *testing.B) {
	d := New[string]()
	d.Add(topics(many)...)
	for _, size := range []int{100, 1000, many} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			b.ReportAllocs()
			wake := make(chan struct{}, 1)
			var listing time.Duration
			for b.Loop() {
				a := d.Watch(wake)
				for {
					start := time.Now()
					batch, ok := a.Next(size, -1)
					listing += time.Since(start)
					if !ok {
						break
					}
					a.Done(batch)
				}
				a.Close()
			}
			perTopic(b, many)
			b.ReportMetric(float64(listing.Nanoseconds())/float64(b.N)/many, "ns/listed")
		})
	}
}

// One topic leaves and comes back, among many.
func BenchmarkNextOne(b *testing.B) {
	subs := topics(many)
	d := New[string]()
	d.Add(subs...)
	a := d.Watch(make(chan struct{}, 1))
	all(a)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s := subs[i%many]
		d.Remove(s)
		batch, _ := a.Next(100, -1)
		a.Done(batch)
		d.Add(s)
		batch, _ = a.Next(100, -1)
		a.Done(batch)
		i++
	}
}

func all[S comparable](a *Applied[S]) {
	for batch, ok := a.Next(0, -1); ok; batch, ok = a.Next(0, -1) {
		a.Done(batch)
	}
}

// A session at rest.
func BenchmarkNextNone(b *testing.B) {
	d := New[string]()
	d.Add(topics(many)...)
	a := d.Watch(make(chan struct{}, 1))
	all(a)
	for b.Loop() {
		a.Next(100, -1)
	}
}

// What a topic takes in memory, wanted and applied.
func BenchmarkMemory(b *testing.B) {
	subs := topics(many)
	for b.Loop() {
		var before, wanted, applied runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		d := New[string]()
		d.Add(subs...)
		runtime.GC()
		runtime.ReadMemStats(&wanted)
		a := d.Watch(make(chan struct{}, 1))
		all(a)
		runtime.GC()
		runtime.ReadMemStats(&applied)
		runtime.KeepAlive(a)
		b.ReportMetric(float64(wanted.HeapAlloc-before.HeapAlloc)/many, "B/wanted")
		b.ReportMetric(float64(applied.HeapAlloc-wanted.HeapAlloc)/many, "B/applied")
	}
}
