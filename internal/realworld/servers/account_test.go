package servers

import (
	"fmt"
	"slices"
	"sort"
	"sync"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: what was published, what became of it, and is every hole inside a Gap?

// account keeps book of what one publisher sent and one Subscriber heard.
type account struct {
	*record

	mu       sync.Mutex // protects following fields
	sequence int
	subjects map[string]*ledger
}

// ledger is one subject's part.
type ledger struct {
	sequences []int        // of what was published, by number-1
	unsure    map[int]bool // numbers of which nobody knows whether the server had them
}

func newAccount() *account {
	return &account{record: newRecord(), subjects: make(map[string]*ledger)}
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
	number = len(l.sequences)
	return fmt.Appendf(nil, "%d %d", number, a.sequence), number
}

// doubt notes a message that the server may not have had.
func (a *account) doubt(subject string, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subjects[subject].unsure[number] = true
}

// published returns the highest number of each subject that the server must have had.
func (a *account) published() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	published := make(map[string]int)
	for subject, l := range a.subjects {
		number := len(l.sequences)
		for l.unsure[number] {
			number--
		}
		published[subject] = number
	}
	return published
}

// behind names a subject whose last message has not come; "": there is none.
func behind(published, last map[string]int) string {
	for subject, number := range published {
		if last[subject] < number {
			return fmt.Sprintf("%s: %d of %d", subject, last[subject], number)
		}
	}
	return ""
}

// caughtUp waits until the last message of each subject has come.
func (a *account) caughtUp(t *testing.T) {
	t.Helper()
	missing := ""
	defer func() {
		if missing != "" {
			t.Log("behind:", missing)
		}
	}()
	published := a.published()
	program.Eventually(t, "the last message of each subject has come", func() bool {
		missing = behind(published, a.lasts())
		return missing == ""
	})
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

func (t totals) plus(u totals) totals {
	return totals{
		t.published + u.published, t.unsure + u.unsure, t.received + u.received, t.inGap + u.inGap, t.missing + u.missing,
		t.again + u.again, t.removed + u.removed, t.keyed + u.keyed, t.together + u.together,
	}
}

// message names a message that was published.
type message struct {
	subject string
	number  int
}

// trial is what close works with.
type trial struct {
	*account
	got    map[message]bool // true: it came with others in a frame
	shards map[string]int   // that a subject's messages came to
	upto   map[int][]int    // of a shard: the highest sequence so far, by arrival
	sum    totals
	errs   []string
}

// close adds up, when everything that can come has come.
func (a *account) close(t *testing.T) totals {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heardMu.Lock()
	defer a.heardMu.Unlock()
	c := &trial{account: a, got: make(map[message]bool), shards: make(map[string]int), upto: make(map[int][]int), errs: a.Errs}
	for shard, arrivals := range a.Arrivals {
		c.delivered(shard, arrivals)
	}
	for _, r := range a.Removed {
		c.removed(r)
	}
	for subject, l := range a.subjects {
		c.missing(subject, l)
	}
	for _, err := range c.errs[:min(len(c.errs), 10)] {
		t.Error(err)
	}
	return c.sum
}

// delivered goes through what a shard has delivered.
func (c *trial) delivered(shard int, arrivals []arrival) {
	last := make(map[string]int)
	for i, r := range arrivals {
		l := c.subjects[r.Subject]
		if l == nil || r.Number > len(l.sequences) || l.sequences[r.Number-1] != r.Sequence {
			c.errs = append(c.errs, fmt.Sprintf("%s %d %d was not published", r.Subject, r.Number, r.Sequence))
		}
		if r.Shared {
			c.sum.together++
		}
		m := message{r.Subject, r.Number}
		if _, twice := c.got[m]; twice {
			c.sum.again++
		} else {
			c.sum.received++
			if r.Number < last[r.Subject] {
				c.errs = append(c.errs, fmt.Sprintf("%s: number %d came after %d", r.Subject, r.Number, last[r.Subject]))
			}
		}
		c.got[m] = r.Shared
		last[r.Subject] = max(last[r.Subject], r.Number)
		c.shards[r.Subject] = shard
		upto := r.Sequence
		if i > 0 {
			upto = max(upto, c.upto[shard][i-1])
		}
		c.upto[shard] = append(c.upto[shard], upto)
	}
}

// removed looks at what the handler kept back: it must have been delivered before.
func (c *trial) removed(r arrival) {
	shared, came := c.got[message{r.Subject, r.Number}]
	if !came {
		c.errs = append(c.errs, fmt.Sprintf("%s %d was taken for a repeat", r.Subject, r.Number))
	}
	c.sum.removed++
	if !r.Shared && !shared {
		c.sum.keyed++
	}
}

// missing looks for a subject's holes.
func (c *trial) missing(subject string, l *ledger) {
	c.sum.published += len(l.sequences)
	for i, sequence := range l.sequences {
		if _, came := c.got[message{subject, i + 1}]; came {
			continue
		}
		switch {
		case l.unsure[i+1]:
			c.sum.unsure++
		case c.insideGap(subject, sequence):
			c.sum.inGap++
		default:
			c.sum.missing++
			c.errs = append(c.errs, fmt.Sprintf("%s %d (%d of all) is missing, and no Gap says so: %s", subject, i+1, sequence, c.around(subject, sequence)))
		}
	}
}

// hole is between which arrivals at its shard a message should have come. -1 and the number of arrivals stand for the ends.
func (c *trial) hole(subject string, sequence int) (arrivals []arrival, before, after int) {
	shard := c.shards[subject]
	upto := c.upto[shard]
	after = sort.Search(len(upto), func(i int) bool { return upto[i] > sequence })
	return c.Arrivals[shard], after - 1, after
}

// insideGap reports whether the hole that a message left in what its shard received is one that a Gap speaks of.
func (c *trial) insideGap(subject string, sequence int) bool {
	arrivals, before, after := c.hole(subject, sequence)
	return slices.ContainsFunc(c.Gaps, func(gap wsshard.Event[string]) bool {
		return (before < 0 || gap.To.UnixNano() >= arrivals[before].At) &&
			(after == len(arrivals) || gap.From.UnixNano() <= arrivals[after].At) &&
			slices.Contains(gap.Subs, subject)
	})
}

// around describes a hole.
func (c *trial) around(subject string, sequence int) string {
	arrivals, before, after := c.hole(subject, sequence)
	text := fmt.Sprintf("shard %d", c.shards[subject])
	if before >= 0 {
		text += fmt.Sprintf(", before it %+v", arrivals[before])
	}
	if after < len(arrivals) {
		text += fmt.Sprintf(", after it %+v", arrivals[after])
	}
	return text
}
