package wsshard

import (
	"slices"
	"testing"
	"time"
)

// popAll empties a queue.
func popAll(q *events[string]) (evs []Event[string]) {
	for {
		ev, ok, _ := q.pop()
		if !ok {
			return evs
		}
		evs = append(evs, ev)
	}
}

func TestEventQueueDropsOldest(t *testing.T) {
	q, dropped := newEvents[string](), 0
	for i := range 3 * maxEvents {
		if q.push(Event[string]{Kind: EventConnecting, Attempt: i}) {
			dropped++
		}
	}
	evs := popAll(q)
	if len(evs) != maxEvents || dropped != 2*maxEvents {
		t.Fatalf("%d events, %d dropped", len(evs), dropped)
	}
	for i, ev := range evs {
		if ev.Attempt != 2*maxEvents+i || ev.Time.IsZero() {
			t.Fatalf("event %d is %+v", i, ev)
		}
	}
}

// Gaps, parked shards and rejections outlive any number of others: each shard has at most one of each when the queue is full.
func TestEventQueueMerges(t *testing.T) {
	q := newEvents[string]()
	at := func(sec int) time.Time { return time.Unix(int64(sec), 0) }
	for i := range maxEvents {
		q.push(Event[string]{Kind: EventBackoff, Attempt: i})
	}
	for i := range 100 {
		n := 10 * i
		q.push(Event[string]{Kind: EventGap, ShardID: i % 2, Generation: uint64(i), From: at(1000 - n), To: at(2000 + n), Subs: []string{"g", string(rune('a' + i%3))}})
		q.push(Event[string]{Kind: EventParked, ShardID: 1, Attempt: i, Err: ErrDataTimeout, Subs: []string{"p"}})
		q.push(Event[string]{Kind: EventSubscriptionRejected, ShardID: 1, Err: ErrRejected, Subs: []string{string(rune('a' + i%26))}})
		if i == 50 {
			q.push(Event[string]{Kind: EventSubscriptionRejected, ShardID: 1, Subs: []string{"z"}})
		}
	}
	q.push(Event[string]{Kind: EventStopped, ShardID: -1})
	evs := popAll(q)
	if len(evs) != maxEvents {
		t.Errorf("%d events", len(evs))
	}
	if last := evs[len(evs)-1]; last.Kind != EventStopped {
		t.Errorf("the last is %v", last.Kind)
	}
	evs = slices.DeleteFunc(evs, func(ev Event[string]) bool { return ev.Kind == EventBackoff || ev.Kind == EventStopped })
	if len(evs) != 4 {
		t.Fatalf("%+v", evs)
	}
	for _, ev := range evs {
		switch {
		case ev.Kind == EventGap && ev.ShardID == 0:
			if ev.From != at(20) || ev.To != at(2980) || len(ev.Subs) != 4 || ev.Generation != 98 {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventGap && ev.ShardID == 1:
			if ev.From != at(10) || ev.To != at(2990) || len(ev.Subs) != 4 || ev.Generation != 99 {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventParked:
			if ev.Attempt != 99 || len(ev.Subs) != 1 || ev.Err != ErrDataTimeout {
				t.Errorf("%+v", ev)
			}
		case ev.Kind == EventSubscriptionRejected:
			if len(ev.Subs) != 26 || ev.Err != ErrRejected {
				t.Errorf("%+v", ev)
			}
		}
	}
}

// With nothing but events that are kept the queue grows by one for each shard and kind, and others are dropped.
func TestEventQueueOfKeptOnly(t *testing.T) {
	q := newEvents[string]()
	for i := range 2 * maxEvents {
		if q.push(Event[string]{Kind: EventGap, ShardID: i}) {
			t.Fatal("a gap pushed something out")
		}
	}
	if !q.push(Event[string]{Kind: EventConnected}) {
		t.Error("dropped without being counted")
	}
	evs := popAll(q)
	if len(evs) != 2*maxEvents {
		t.Errorf("%d events", len(evs))
	}
}
