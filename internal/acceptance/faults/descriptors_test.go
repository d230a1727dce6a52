//go:build linux

package faults

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what of the matrix needs real descriptors? Rows 45 and 51. Sockets and the clock are real; descriptors are
// counted in /proc.

var reconnectCount = flag.Int("reconnects", 500, "how many reconnects TestReconnectsLeaveNothing makes")

// survivor is a handler that only counts.
type survivor struct {
	*harness.Caller
	connects, errors atomic.Int64
}

func (s *survivor) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

func (s *survivor) OnConnect(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
	s.connects.Add(1)
	return nil, nil
}

func (s *survivor) OnError(context.Context, error, wsshard.ConnectionState) bool {
	s.errors.Add(1)
	return true
}

// eventually waits for what must come soon.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(harness.Patience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not yet %s", what)
		}
	}
}

// TestReconnectsLeaveNothing: after so many reconnects, half of them asked for and half forced, there are as many descriptors and
// goroutines as before, and no more memory to speak of.
func TestReconnectsLeaveNothing(t *testing.T) {
	srv := harness.StartLive(t, "127.0.0.1:0", nil)
	h := &survivor{Caller: harness.NewCaller(srv.URL)}
	m, err := wsshard.New(h, wsshard.Config{
		MaxSubscriptionsPerShard: 1, Connection: wsshard.ConnectionConfig{CircuitBreakerThreshold: -1},
		// Each connection is stable: else the gate would take the server for one that accepts and closes.
		Backoff: wsshard.BackoffConfig{InitialDelay: time.Microsecond, MaxDelay: time.Microsecond, StableAfter: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	const shards = 4
	m.Subscribe(harness.Numbered(shards)...)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	still := func() bool {
		srv.Mu.Lock()
		defer srv.Mu.Unlock()
		srv.Seen = nil // else it is the server that grows
		return m.Metrics().ActiveConnections == shards && len(srv.Conns) == shards
	}
	round := func(i int) {
		before := h.connects.Load()
		if i%2 == 0 {
			srv.CloseAll()
		} else {
			for id := range shards {
				m.Reconnect(id)
			}
		}
		eventually(t, "connected again", func() bool { return h.connects.Load() >= before+shards && still() })
	}
	eventually(t, "connected", still)
	for i := range 4 { // what is made once is made now
		round(i)
	}
	memory := func() uint64 {
		runtime.GC()
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		return ms.HeapInuse + ms.StackInuse
	}
	descriptors, goroutines, bytes := countDescriptors(t), runtime.NumGoroutine(), memory()
	for i := range *reconnectCount / shards {
		round(i)
	}
	eventually(t, "as it was", func() bool { return countDescriptors(t) <= descriptors && runtime.NumGoroutine() <= goroutines })
	grown := int64(memory()) - int64(bytes)
	t.Logf("%d connections; descriptors %d before and %d after, goroutines %d and %d, memory grew by %d KiB",
		h.connects.Load(), descriptors, countDescriptors(t), goroutines, runtime.NumGoroutine(), grown>>10)
	if grown > 1<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestDescriptorsRunOut: while there are none, dials fail, no circuit breaker opens and the connections that live go on; when there
// are some again, all shards connect. The limit is a whole process's, so it is a process of its own.
func TestDescriptorsRunOut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted in /proc")
	}
	if os.Getenv("WSSHARD_DESCRIPTORS") == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(exe, "-test.run=^TestDescriptorsRunOut$", "-test.v")
		child.Env = append(os.Environ(), "WSSHARD_DESCRIPTORS=few")
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	srv := harness.StartLive(t, "127.0.0.1:0", nil)
	h := &survivor{Caller: harness.NewCaller(srv.URL)}
	m, err := wsshard.New(h, wsshard.Config{
		MaxSubscriptionsPerShard: 1, Backoff: wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond},
		Connection: wsshard.ConnectionConfig{CircuitBreakerThreshold: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe("t0000")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected", func() bool { return m.Metrics().ActiveConnections == 1 })

	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := before
	setLimit(&few.Cur, countDescriptors(t)-1) // the one that counted is free again
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	const shards = 8
	m.Subscribe(harness.Numbered(shards)...)
	eventually(t, "failed often", func() bool { return h.errors.Load() > 30 })
	if got := m.Metrics(); got.ActiveConnections != 1 || got.CircuitBreakerTrips != 0 {
		t.Errorf("%d connections are live, the breaker opened %d times", got.ActiveConnections, got.CircuitBreakerTrips)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected all", func() bool { return m.Metrics().ActiveConnections == shards })
	if m.Metrics().Shards[0].Generation != 1 {
		t.Error("the first connection did not live on")
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// setLimit sets a field of Rlimit, which is signed on some systems.
func setLimit[T int64 | uint64](field *T, n int) { *field = T(n) }
