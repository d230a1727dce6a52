package integration

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what was published, what became of it, and is every hole inside a Gap?

// account keeps book of every message. A payload is "number sequence": of the message in its subject, and among all.
type account struct {
	before func(Delivery) // called first by receive; set before anything is delivered; nil: none

	mu       sync.Mutex // protects following fields
	sequence int
	subjects map[string]*ledger
	shards   map[int][]arrival // in order of delivery
	shared   map[message]bool  // those that came with others in a frame
	gaps     []wsshard.Event[string]
	reports  []*wsshard.SwitchoverReport
	events   map[wsshard.EventKind]int
	errs     []string
}

// ledger is one subject's part.
type ledger struct {
	sequences []int        // of what was published, by number-1
	unsure    map[int]bool // numbers of which nobody knows whether the server had them
	got       []bool       // by number-1
	received  int
	last      int
	again     int // came twice
	removed   int // came twice and was removed by the handler
	keyed     int // of these, alone in its frame both times: the library should have dropped it
}

type message struct {
	subject string
	number  int
}

// arrival is a message that was delivered.
type arrival struct {
	sequence int
	at       time.Time
}

func newAccount() *account {
	return &account{
		subjects: make(map[string]*ledger), shards: make(map[int][]arrival),
		shared: make(map[message]bool), events: make(map[wsshard.EventKind]int),
	}
}

// enter gives the next message of a subject its number, and returns its payload.
func (a *account) enter(subject string) (payload []byte, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.subjects[subject]
	if l == nil {
		l = &ledger{unsure: make(map[int]bool)}
		a.subjects[subject] = l
	}
	a.sequence++
	l.sequences = append(l.sequences, a.sequence)
	l.got = append(l.got, false)
	number = len(l.sequences)
	return fmt.Appendf(nil, "%d %d", number, a.sequence), number
}

// doubt notes a message that the server may not have had.
func (a *account) doubt(subject string, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subjects[subject].unsure[number] = true
}

// receive books a delivery.
func (a *account) receive(d Delivery) {
	if a.before != nil {
		a.before(d)
	}
	at := time.Now()
	head := bytes.Fields(d.Payload[:min(len(d.Payload), 40)])
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.subjects[d.Subject]
	if l == nil || len(head) < 2 {
		a.errs = append(a.errs, fmt.Sprintf("%q on %q was not published", head, d.Subject))
		return
	}
	number, _ := strconv.Atoi(string(head[0]))
	sequence, _ := strconv.Atoi(string(head[1]))
	if number < 1 || number > len(l.sequences) || l.sequences[number-1] != sequence {
		a.errs = append(a.errs, fmt.Sprintf("%q on %q was not published", head, d.Subject))
		return
	}
	if d.Shared {
		a.shared[message{d.Subject, number}] = true
	}
	if l.got[number-1] {
		l.again++
		return
	}
	if number < l.last {
		a.errs = append(a.errs, fmt.Sprintf("%s: number %d came after %d", d.Subject, number, l.last))
	}
	l.got[number-1], l.last = true, max(l.last, number)
	l.received++
	a.shards[d.Shard] = append(a.shards[d.Shard], arrival{sequence, at})
}

// removed books what the handler kept back: it must have been delivered before.
func (a *account) removed(d Delivery) {
	a.mu.Lock()
	defer a.mu.Unlock()
	number := d.Number()
	l := a.subjects[d.Subject]
	if l == nil || number < 1 || number > len(l.got) || !l.got[number-1] {
		a.errs = append(a.errs, fmt.Sprintf("%s %d was taken for a repeat", d.Subject, number))
		return
	}
	l.removed++
	if !d.Shared && !a.shared[message{d.Subject, number}] {
		l.keyed++
	}
}

func (a *account) event(ev wsshard.Event[string]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events[ev.Kind]++
	switch ev.Kind {
	case wsshard.EventGap:
		a.gaps = append(a.gaps, ev)
	case wsshard.EventSwitchoverDone:
		a.reports = append(a.reports, ev.Switchover)
	}
}

func (a *account) count(kind wsshard.EventKind) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events[kind]
}

// delivered is how much a shard has received.
func (a *account) delivered(shard int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.shards[shard])
}

// totals are an account's figures.
type totals struct {
	published, unsure, received int
	inGap, missing              int // of what was published and did not come: inside a Gap, and not
	again                       int // came twice to the application
	removed, keyed              int // came twice to the handler; of these, with one key both times
	together                    int // came with others in a frame
}

func (t totals) String() string {
	return fmt.Sprintf("published %d, received %d, missing inside Gap events %d, missing outside them %d, duplicates %d, removed by the handler %d (%d with keys; %d shared a frame), unsure %d",
		t.published, t.received, t.inGap, t.missing, t.again, t.removed, t.keyed, t.together, t.unsure)
}

// close adds up, when everything that can come has come.
func (a *account) close(t *testing.T, s *Subscriber) (sum totals) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, err := range a.errs[:min(len(a.errs), 10)] {
		t.Error(err)
	}
	sum.together = len(a.shared)
	for subject, l := range a.subjects {
		sum.published += len(l.sequences)
		sum.received += l.received
		sum.again += l.again
		sum.removed += l.removed
		sum.keyed += l.keyed
		shard, _ := s.Manager.SubscriptionShard(subject)
		for i, got := range l.got {
			switch {
			case got:
			case l.unsure[i+1]:
				sum.unsure++
			case a.insideGap(subject, a.shards[shard], l.sequences[i]):
				sum.inGap++
			default:
				sum.missing++
			}
		}
	}
	return sum
}

// insideGap reports whether the hole that a message left in what its shard received, from the arrival before to the one
// after, is one that a Gap speaks of.
func (a *account) insideGap(subject string, arrivals []arrival, sequence int) bool {
	after := slices.IndexFunc(arrivals, func(r arrival) bool { return r.sequence > sequence })
	if after < 0 {
		after = len(arrivals)
	}
	return slices.ContainsFunc(a.gaps, func(gap wsshard.Event[string]) bool {
		return slices.Contains(gap.Subs, subject) &&
			(after == 0 || !gap.To.Before(arrivals[after-1].at)) &&
			(after == len(arrivals) || !gap.From.After(arrivals[after].at))
	})
}

// caughtUp waits until the last message of each subject has come.
func (a *account) caughtUp(t *testing.T) {
	t.Helper()
	behind := ""
	defer func() {
		if behind != "" {
			t.Log("behind:", behind)
		}
	}()
	eventually(t, "the last message of each subject has come", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		behind = ""
		for subject, l := range a.subjects {
			if l.last < len(l.sequences) && !l.unsure[len(l.sequences)] {
				behind = fmt.Sprintf("%s: %d of %d", subject, l.last, len(l.sequences))
				return false
			}
		}
		return true
	})
}

// publisher publishes through nats.go.
type publisher struct {
	nc   *nats.Conn
	book *account
	pad  func(number int) int // bytes to add to a payload; nil: none
}

// round publishes one message for each subject. true: the server has them all.
func (p *publisher) round(subjects ...string) (sure bool) {
	numbers := make([]int, len(subjects))
	sure = true
	for i, subject := range subjects {
		var payload []byte
		payload, numbers[i] = p.book.enter(subject)
		if p.pad != nil {
			payload = append(append(payload, ' '), bytes.Repeat([]byte{'x'}, p.pad(numbers[i]))...)
		}
		sure = p.nc.Publish(subject, payload) == nil && sure
	}
	if sure = sure && p.nc.FlushTimeout(limit) == nil; !sure {
		for i, subject := range subjects {
			p.book.doubt(subject, numbers[i])
		}
	}
	return sure
}

// run publishes the rounds again and again, each at once and at most one a millisecond: so few messages share a frame. It
// makes so many messages a second, and returns when ctx ends.
func (p *publisher) run(ctx context.Context, rounds [][]string, perSecond int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	published, begin := 0, time.Now()
	for i := 0; ; {
		if due := int(time.Since(begin).Seconds() * float64(perSecond)); published < due {
			round := rounds[i%len(rounds)]
			i++
			if published += len(round); !p.round(round...) {
				begin, published = time.Now(), 0 // the server is away: nothing to catch up with
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// background runs run until the returned function is called, which waits for its end.
func (p *publisher) background(rounds [][]string, perSecond int) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { p.run(ctx, rounds, perSecond) })
	return func() {
		cancel()
		done.Wait()
	}
}

// rounds puts one subject of each shard into each round, so that each goes to a connection of its own.
func rounds(m *wsshard.ShardManager[string], subjects []string) (rounds [][]string) {
	of := make(map[int]int)
	for _, subject := range subjects {
		shard, _ := m.SubscriptionShard(subject)
		i := of[shard]
		if of[shard]++; i == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[i] = append(rounds[i], subject)
	}
	return rounds
}

func numbered(prefix string, n int) []string {
	subjects := make([]string, n)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("%s.%d", prefix, i)
	}
	return subjects
}

func synced(t *testing.T, s *Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := s.Manager.Sync(ctx); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

func stop(t *testing.T, s *Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := s.Manager.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}
