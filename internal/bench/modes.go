package main

import (
	"context"
	"runtime"
	"slices"
	"time"
)

// This file answers: what is done to one driver, and which figures come of it?

// modes by their names.
var modes = map[string]func(*job) (map[string]float64, error){
	"saturated": stream,
	"paced":     stream,
	"idle":      idle,
	"storm":     storm,
	"restore":   restore,
	"memory":    memory,
	"subscribe": subscribe,
	"replay":    replay,
}

// stream takes all messages of all connections, however they are sent.
//
//	cpu: ns a message; allocs, bytes: a message; rate: messages/s; p50, p99: µs from the server's write
func stream(j *job) (map[string]float64, error) {
	all := j.await(j.Messages)
	if err := j.open(); err != nil {
		return nil, err
	}
	runtime.GC()
	before, begin := costs(), time.Now()
	if err := j.order("start"); err != nil {
		return nil, err
	}
	all.Wait()
	took, after := time.Since(begin), costs()

	total := float64(j.Messages * j.Conns)
	figures := map[string]float64{
		"cpu":    float64(after.cpu-before.cpu) / total,
		"allocs": float64(after.allocs-before.allocs) / total,
		"bytes":  float64(after.bytes-before.bytes) / total,
		"rate":   total / took.Seconds(),
	}
	var late []int64
	for _, c := range j.consumers {
		late = append(late, c.late...)
	}
	if slices.Sort(late); len(late) > 0 {
		figures["p50"] = float64(late[len(late)/2]) / 1e3
		figures["p99"] = float64(late[len(late)*99/100]) / 1e3
	}
	return figures, nil
}

// idle leaves connections alone that have been in use.
//
//	rss: KiB a connection, of which stack and live: goroutines' stacks and objects; idle: ms of CPU a second, all connections together
func idle(j *job) (map[string]float64, error) {
	empty, err := rss()
	if err != nil {
		return nil, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	used := j.await(j.Subs * j.PerSub)
	if err := j.open(); err != nil {
		return nil, err
	}
	used.Wait()
	j.settle() // what still happens after the last message is not idleness
	full, err := rss()
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&after)
	each := func(bytes uint64) float64 { return float64(bytes) / 1024 / float64(j.Conns) }
	cpu, begin := costs().cpu, time.Now()
	time.Sleep(time.Duration(j.Seconds * float64(time.Second)))
	used1, took := costs().cpu-cpu, time.Since(begin)
	return map[string]float64{
		"rss":   (full - empty) / float64(j.Conns),
		"stack": each(after.StackInuse - before.StackInuse),
		"live":  each(after.HeapAlloc - before.HeapAlloc),
		"idle":  float64(used1) / 1e6 / took.Seconds(),
	}, nil
}

// settle gives what was begun the time to end.
func (j *job) settle() { time.Sleep(j.Settle) }

// storm opens everything at once.
//
//	ms: until each connection has delivered its first message; each: µs a connection; cpu: µs of it a connection
func storm(j *job) (map[string]float64, error) {
	first := j.await(1)
	begin := watch()
	if err := j.open(); err != nil {
		return nil, err
	}
	first.Wait()
	return begin.over(j.Conns), nil
}

// restore loses everything at once.
//
//	ms: until each new connection has delivered its first message; each: µs a connection; cpu: µs of it a connection
func restore(j *job) (map[string]float64, error) {
	first, second := j.await(1), j.await(2)
	if err := j.open(); err != nil {
		return nil, err
	}
	first.Wait()
	j.settle()
	begin := watch()
	if err := j.order("reset"); err != nil {
		return nil, err
	}
	second.Wait()
	return begin.over(j.Conns), nil
}

// memory asks for the live heap of connections with their topics. The topics' own bytes were there before.
//
//	heap: bytes a connection; sub: bytes a topic, if there are many on each
func memory(j *job) (map[string]float64, error) {
	before := heap()
	if err := j.open(); err != nil {
		return nil, err
	}
	j.settle() // until nothing waits for proof any more
	took := float64(heap() - before)
	return map[string]float64{"heap": took / float64(j.Conns), "sub": took / float64(len(j.topics))}, nil
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one freed by finalizers and pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// subscribe does the bookkeeping of one call, without any connection.
//
//	ms: all of it; each: µs a topic; cpu: µs of it a topic, collecting garbage included
func subscribe(j *job) (map[string]float64, error) {
	m, err := newManager(j, false)
	if err != nil {
		return nil, err
	}
	runtime.GC()
	begin := watch()
	if _, err := m.Subscribe(j.topics...); err != nil {
		return nil, err
	}
	return begin.over(len(j.topics)), nil
}

// replay loses a connection that has many topics.
//
//	ms: until all of them are written again; each: µs a topic; cpu: µs of it a topic
func replay(j *job) (map[string]float64, error) {
	m, err := newManager(j, false)
	if err != nil {
		return nil, err
	}
	if err := keepUp(j, m); err != nil {
		return nil, err
	}
	begin := watch()
	if err := j.order("reset"); err != nil {
		return nil, err
	}
	for m.Metrics().Reconnections < uint64(j.Conns) {
		time.Sleep(time.Millisecond)
	}
	if err := m.Sync(context.Background()); err != nil {
		return nil, err
	}
	return begin.over(len(j.topics)), nil
}
