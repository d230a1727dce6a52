package main

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

func TestPayload(t *testing.T) {
	for _, size := range []int{minSize, 64, 256, 70_000} {
		a, b := payload(size, 1), payload(size, 2)
		if len(a) != size || len(b) != size || bytes.Equal(a, b) {
			t.Errorf("%d bytes: %d and %d of them, %.60s and %.60s", size, len(a), len(b), a, b)
		}
	}
}

// What a server stamps a client finds.
func TestStamp(t *testing.T) {
	r := newRing(256)
	frames := bytes.Clone(r.frames[:3*r.size])
	now := time.Unix(1_700_000_000, 123)
	r.stamp(frames, 3, now)
	for i := range 3 {
		msg := frames[i*r.size+r.size-256 : (i+1)*r.size]
		if got := stamped(msg); got != now.UnixNano() {
			t.Errorf("frame %d: %d", i, got)
		}
	}
	if !bytes.Equal(frames[3*r.size-100:], r.frames[3*r.size-100:3*r.size]) {
		t.Error("what is no stamp was changed")
	}
	if stamped([]byte("short")) != 0 {
		t.Error("a stamp was found where none is")
	}
}

func TestConsumer(t *testing.T) {
	r := newRing(64)
	var second, third sync.WaitGroup
	second.Add(1)
	third.Add(1)
	c := &consumer{check: r, goals: []goal{{2, &second}, {3, &third}}}
	c.message(r.payloads[0])
	c.message(r.payloads[1])
	second.Wait()
	c.message(r.payloads[1]) // a duplicate
	third.Wait()
	if c.n != 3 || c.wrong != 1 || len(c.goals) != 0 {
		t.Errorf("%d messages, %d wrong, %d goals left", c.n, c.wrong, len(c.goals))
	}
}
