package servers

import (
	"bytes"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what has a Subscriber heard?

// record keeps what a Subscriber hears, in order. A payload is "number sequence": of the message in its subject, and among
// all of one publisher.
type record struct {
	before func(Delivery) // called first by receive; set before anything is delivered; nil: none

	heardMu sync.Mutex // protects following fields
	heard
	last map[string]int // the highest number, by subject
}

// heard can be sent to another process.
type heard struct {
	Arrivals map[int][]arrival // of a shard, in the order of delivery
	Removed  []arrival         // by the handler
	Gaps     []wsshard.Event[string]
	Reports  []wsshard.SwitchoverReport
	Events   map[wsshard.EventKind]int
	Errs     []string
}

// arrival is a message that was delivered.
type arrival struct {
	Subject          string
	Number, Sequence int
	Shared           bool  // with others in a frame
	At               int64 // ns since 1970
}

func newRecord() *record {
	return &record{
		heard: heard{Arrivals: make(map[int][]arrival), Events: make(map[wsshard.EventKind]int)},
		last:  make(map[string]int),
	}
}

func (r *record) receive(d Delivery) {
	if r.before != nil {
		r.before(d)
	}
	a, err := arrivalOf(d)
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	if err != nil {
		r.Errs = append(r.Errs, err.Error())
		return
	}
	r.Arrivals[d.Shard] = append(r.Arrivals[d.Shard], a)
	r.last[a.Subject] = max(r.last[a.Subject], a.Number)
}

func (r *record) removed(d Delivery) {
	a, err := arrivalOf(d)
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	if err != nil {
		r.Errs = append(r.Errs, err.Error())
		return
	}
	r.Removed = append(r.Removed, a)
}

func arrivalOf(d Delivery) (a arrival, err error) {
	a = arrival{Subject: d.Subject, Number: d.Number(), Shared: d.Shared, At: time.Now().UnixNano()}
	head := bytes.Fields(d.Payload[:min(len(d.Payload), 40)])
	if len(head) >= 2 {
		a.Sequence, _ = strconv.Atoi(string(head[1]))
	}
	if a.Number == 0 || a.Sequence == 0 {
		return a, fmt.Errorf("%q on %q was not published", head, d.Subject)
	}
	return a, nil
}

func (r *record) event(ev wsshard.Event[string]) {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	r.Events[ev.Kind]++
	switch ev.Kind {
	case wsshard.EventGap:
		r.Gaps = append(r.Gaps, ev)
	case wsshard.EventSwitchoverDone:
		r.Reports = append(r.Reports, *ev.Switchover)
	}
}

func (r *record) count(kind wsshard.EventKind) int {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	return r.Events[kind]
}

// delivered is how much a shard has received.
func (r *record) delivered(shard int) int {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	return len(r.Arrivals[shard])
}

func (r *record) lasts() map[string]int {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	return maps.Clone(r.last)
}

// all is what was heard so far.
func (r *record) all() *heard {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	h := r.heard
	h.Arrivals, h.Events = maps.Clone(h.Arrivals), maps.Clone(h.Events)
	return &h
}

// take makes another's record ours.
func (r *record) take(h *heard) {
	r.heardMu.Lock()
	defer r.heardMu.Unlock()
	r.heard = *h
}
