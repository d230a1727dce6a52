//go:build !race

package delivery

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"weak"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does a message cost in allocations? What it costs in time is measured, not tested. How many
// goroutines a shard has is in lifecycle/goroutine_test.go.

// In the default mode a message is the 8 bytes of gorilla's reader and a copy of its own; in LowLatencyMode the reader alone.
func TestAllocationsOfAMessage(t *testing.T) {
	for _, c := range []struct {
		name          string
		cfg           wsshard.ConnectionConfig
		size          int
		allocs, bytes float64
	}{
		{"default", wsshard.ConnectionConfig{}, 256, 2.05, 300},
		{"low latency", wsshard.ConnectionConfig{LowLatencyMode: true}, 256, 1.02, 16},
		{"default", wsshard.ConnectionConfig{}, 16 << 10, 2.05, 17_500},
		{"low latency", wsshard.ConnectionConfig{LowLatencyMode: true}, 16 << 10, 1.02, 200}, // its one buffer grows first
	} {
		const count = 20_000
		var marks []runtime.MemStats
		deliver(t, c.cfg, c.size, count, func() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			marks = append(marks, m)
		})
		allocs := float64(marks[1].Mallocs-marks[0].Mallocs) / count
		bytes := float64(marks[1].TotalAlloc-marks[0].TotalAlloc) / count
		if allocs > c.allocs || bytes > c.bytes {
			t.Errorf("%s, %d B: %.3f allocations and %.1f bytes a message, want at most %v and %v", c.name, c.size, allocs, bytes, c.allocs, c.bytes)
		}
	}
}

// keeper keeps one message and looks on as the others go.
type keeper struct {
	counter
	kept   []byte
	others []weak.Pointer[byte]
}

func (h *keeper) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if h.n == 100 {
		h.kept = msg.Data
	} else {
		h.others = append(h.others, weak.Make(&msg.Data[0]))
	}
	h.counter.OnMessage(ctx, msg, st)
}

// A handler that keeps a message keeps that message, and nothing besides: no read buffer, no message that came with it.
func TestAKeptMessagePinsNothingElse(t *testing.T) {
	const size, count = 256, 200
	h := &keeper{counter: counter{last: count, done: make(chan struct{})}}
	conn := newCanned(bytes.Repeat([]byte("x"), size), count)
	deliverTo(t, h, conn, wsshard.ConnectionConfig{}, h.done)
	runtime.GC()
	pinned := 0
	for _, p := range h.others {
		if p.Value() != nil {
			pinned++
		}
	}
	if pinned > 0 || cap(h.kept) != size {
		t.Errorf("%d of %d other messages live on, and the one that is kept has room for %d bytes", pinned, len(h.others), cap(h.kept))
	}
	runtime.KeepAlive(h.kept)
}
