package wsshard

import (
	"testing"
	"time"
)

// An answer says only of the ping that it answers for certain that all before it has come.
func TestPinged(t *testing.T) {
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	var p pinged
	text := func(heartbeat bool, wantSent, wantNewest int, want bool) {
		t.Helper()
		if sent, newest, ok := p.byText(heartbeat); ok != want || sent != second(wantSent) || newest != second(wantNewest) {
			t.Errorf("it answers that of %v, %v, the newest of %v; want %d s, %v, %d s", sent, ok, newest, wantSent, want, wantNewest)
		}
	}
	frame := func(payload string, wantSent int, want bool) {
		t.Helper()
		if sent, ok := p.byFrame(payload); ok != want || sent != second(wantSent) {
			t.Errorf("pong %s answers that of %v, %v; want %d s, %v", payload, sent, ok, wantSent, want)
		}
	}
	add := func(nums ...int) {
		for _, n := range nums {
			p.add(uint64(n), second(n))
		}
	}

	add(1, 2, 3, 4)
	frame("9", 0, false)
	frame("", 0, false)
	frame("2", 2, true) // the first needs no answer of its own
	frame("1", 0, false)
	text(true, 3, 4, true) // the oldest: nothing shows that the peer has seen the fourth
	text(false, 4, 4, true)

	text(true, 0, 0, false) // nobody had asked
	add(5)
	text(true, 5, 5, false) // it may be another of the peer's own
	add(6)
	text(false, 6, 6, true) // a text pong is an answer all the same

	add(7, 40)
	text(false, 7, 40, true) // be it ever so late
	text(false, 40, 40, true)
	for n := range 40 {
		add(50 + n/20)
	}
	if len(p.open) != mostPinged {
		t.Errorf("%d pings are remembered, want %d", len(p.open), mostPinged)
	}
}
