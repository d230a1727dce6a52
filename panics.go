package wsshard

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// This file answers: which callbacks run, and how is something logged: panics that do not end, and what a lock was held for?

// callbacks are those under guard that have not returned.
type callbacks struct {
	mu    sync.Mutex // protects following field; a leaf lock
	calls map[*call]struct{}
}

// call is one of them.
type call struct {
	callback string
	shard    int // noShard: none in particular
	since    time.Time
}

func (r *callbacks) begin(callback string, shard int) *call {
	c := &call{callback, shard, time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == nil {
		r.calls = make(map[*call]struct{})
	}
	r.calls[c] = struct{}{}
	return c
}

func (r *callbacks) end(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.calls, c)
}

// all is a copy, the oldest first.
func (r *callbacks) all() (calls []*call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.calls {
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b *call) int { return a.since.Compare(b.since) })
	return calls
}

// A callback that panics on every message would write a stack for each: its first panic is logged whole, the next ones are
// counted and told by one line in panicEvery. After panicQuiet without one it may be another fault, which is logged whole again.
const (
	panicEvery = time.Second
	panicQuiet = time.Minute
)

// panicLog tallies panics by callback.
type panicLog struct {
	mu sync.Mutex // protects following fields; a leaf lock
	by map[string]*panicTally
}

type panicTally struct {
	last  time.Time   // of the last panic
	told  time.Time   // when the last line was written
	value any         // of the last panic
	more  int         // since the last line
	timer *time.Timer // tells of them; nil: nothing to tell
}

// note takes a panic of a callback. whole: it is to be logged with its stack; else it is told of by log, at the latest
// panicEvery from now.
func (p *panicLog) note(log *slog.Logger, callback string, value any) (whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	t := p.by[callback]
	if t == nil || now.Sub(t.last) >= panicQuiet && t.more == 0 {
		if p.by == nil {
			p.by = make(map[string]*panicTally)
		}
		p.by[callback] = &panicTally{last: now, told: now}
		return true
	}
	t.last, t.value = now, value
	if t.more++; t.timer == nil {
		t.timer = time.AfterFunc(max(0, panicEvery-now.Sub(t.told)), func() { p.tell(log, callback, t) })
	}
	return false
}

// tell writes the line of a callback whose panics go on.
func (p *panicLog) tell(log *slog.Logger, callback string, t *panicTally) {
	p.mu.Lock()
	more, value := t.more, t.value
	t.more, t.value, t.told = 0, nil, time.Now()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	p.mu.Unlock()
	if more > 0 {
		log.Error("panics in a callback go on", "callback", callback, "count", more, "panic", value)
	}
}

// flush tells of all that was counted and not told.
func (p *panicLog) flush(log *slog.Logger) {
	p.mu.Lock()
	var left []func()
	for callback, t := range p.by {
		if t.more > 0 {
			left = append(left, func() { p.tell(log, callback, t) })
		}
	}
	p.mu.Unlock()
	for _, tell := range left {
		tell()
	}
}

// note is a line for the log. A list, because a slice would take from a manager that it is comparable, as it is announced.
type note struct {
	say  func()
	next *note // older
}

// tell says the oldest first.
func (n *note) tell() {
	if n != nil {
		n.next.tell()
		n.say()
	}
}
