package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"testing"
)

// The models keep maps alone and go through all of them each time.

const universe = 12 // topics: few, so that they meet

type wanted struct {
	last       uint64
	want, gone map[byte]uint64
}

func (w *wanted) add(s byte) {
	if w.want[s] == 0 {
		w.last++
		w.want[s] = w.last
		delete(w.gone, s)
	}
}

func (w *wanted) remove(s byte) {
	if w.want[s] != 0 {
		w.last++
		w.gone[s] = w.last
		delete(w.want, s)
	}
}

func (w *wanted) again(s byte) {
	if w.want[s] != 0 {
		w.last++
		w.want[s] = w.last
	}
}

// conn is one session: what it has written, and what the server then carries for it.
type conn struct {
	t      *testing.T
	w      *wanted
	a      *Applied[byte]
	on     map[byte]uint64
	kept   map[byte]bool
	failed map[byte]uint64
	redo   map[byte]uint64
	server map[byte]bool

	leaving map[byte]bool
	first   []byte // dropped

	// Where unsubscriptions wait for answers, when a walk has passed them decides what comes first: valid says what must hold.
	patient    bool
	unanswered map[byte]bool
}

func newConn(t *testing.T, w *wanted, d *Desired[byte], patient bool) *conn {
	c := &conn{
		t: t, w: w, a: d.Watch(make(chan struct{}, 1)), on: map[byte]uint64{}, kept: map[byte]bool{}, failed: map[byte]uint64{},
		redo: map[byte]uint64{}, server: map[byte]bool{}, leaving: map[byte]bool{}, patient: patient, unanswered: map[byte]bool{},
	}
	c.a.OffFirst = patient
	return c
}

// valid checks a batch of a connection that waits for answers, and that there is one where there can be.
func (c *conn) valid(b Batch[byte], most, room int) {
	c.t.Helper()
	if most <= 0 {
		most = universe
	}
	free := room
	can := func(s byte) (kinds []Kind) {
		num, on := c.w.want[s], c.on[s]
		if num != 0 && on == num && c.redo[s] == num || num != 0 && c.kept[s] {
			kinds = append(kinds, Subscribe)
		}
		switch {
		case c.kept[s]:
		case on != 0 && num == 0 && !c.unanswered[s]:
			kinds = append(kinds, Unsubscribe)
		case on != 0 && num != 0 && on != num && !c.unanswered[s]:
			kinds = append(kinds, Resubscribe)
		case on == 0 && num != 0 && c.failed[s] != num && (free != 0 || c.leaving[s]):
			kinds = append(kinds, Subscribe)
		}
		return kinds
	}
	c.first = slices.DeleteFunc(c.first, func(s byte) bool { // those that are not off any more
		return c.on[s] != 0 || c.w.want[s] == 0 || c.failed[s] == c.w.want[s]
	})
	any, dropped := false, false
	for s := range byte(universe) {
		any = any || len(can(s)) > 0
	}
	for _, s := range c.first {
		dropped = dropped || c.on[s] == 0 && slices.Contains(can(s), Subscribe)
	}
	if any != (len(b.Subs) > 0) || len(b.Subs) > most {
		c.t.Fatalf("next(%d, %d) = %v; there is something: %v", most, room, b, any)
	}
	if dropped && (b.Kind != Subscribe || !slices.Contains(c.first, b.Subs[0])) {
		c.t.Fatalf("next(%d, %d) = %v, before %v which are off", most, room, b, c.first)
	}
	for i, s := range b.Subs {
		if !slices.Contains(can(s), b.Kind) || slices.Contains(b.Subs[:i], s) || b.Kind != Unsubscribe && b.Nums[i] != c.w.want[s] {
			c.t.Fatalf("next(%d, %d) = %v: %d", most, room, b, s)
		}
		if b.Kind == Subscribe && c.on[s] == 0 && !c.leaving[s] {
			free--
		}
	}
}

// nextFirst is the batch of what comes before all else, if there is any.
func (c *conn) nextFirst(most, room int) (b Batch[byte]) {
	kinds := map[byte]Kind{}
	c.first = slices.DeleteFunc(c.first, func(s byte) bool {
		num, on := c.w.want[s], c.on[s]
		switch {
		case c.kept[s], num == 0 && on == 0, num != 0 && (on == num || on == 0 && c.failed[s] == num):
			return true
		case num == 0:
			kinds[s] = Unsubscribe
		case on != 0:
			kinds[s] = Resubscribe
		}
		return false
	})
	for _, s := range c.first {
		if kinds[s] != Subscribe || len(b.Subs) == most || room == 0 && !c.leaving[s] {
			continue
		}
		if !c.leaving[s] {
			room--
		}
		b.Subs, b.Nums = append(b.Subs, s), append(b.Nums, c.w.want[s])
	}
	if len(b.Subs) > 0 {
		return b
	}
	for _, s := range c.first {
		if kinds[s] == Subscribe {
			continue
		}
		if len(b.Subs) == most || len(b.Subs) > 0 && kinds[s] != b.Kind {
			break
		}
		b.Kind, b.Subs, b.Nums = kinds[s], append(b.Subs, s), append(b.Nums, max(c.w.want[s], c.w.gone[s]))
	}
	return b
}

func (c *conn) next(most, room int) Batch[byte] {
	pick := func(kind Kind, from map[byte]uint64, most int, ok func(s byte, num uint64) bool) Batch[byte] {
		b := Batch[byte]{Kind: kind}
		for s, num := range from {
			if ok(s, num) {
				b.Subs = append(b.Subs, s)
			}
		}
		slices.SortFunc(b.Subs, func(s, t byte) int { return cmp.Compare(from[s], from[t]) })
		if most >= 0 && most < len(b.Subs) {
			b.Subs = b.Subs[:most]
		}
		for _, s := range b.Subs {
			b.Nums = append(b.Nums, from[s])
		}
		return b
	}
	if most <= 0 {
		most = -1
	}
	if b := c.nextFirst(most, room); len(b.Subs) > 0 {
		return b
	}
	want := c.w.want
	for s, num := range c.redo {
		if c.on[s] != num || want[s] != num {
			delete(c.redo, s)
		}
	}
	for _, b := range []Batch[byte]{
		pick(Subscribe, c.redo, most, func(byte, uint64) bool { return true }),
		pick(Unsubscribe, c.w.gone, most, func(s byte, _ uint64) bool { return c.on[s] != 0 && !c.kept[s] }),
		pick(Resubscribe, want, most, func(s byte, num uint64) bool { return c.on[s] != 0 && c.on[s] != num && !c.kept[s] }),
		pick(Subscribe, want, most, func(s byte, _ uint64) bool { return c.kept[s] }),
	} {
		if len(b.Subs) > 0 {
			return b
		}
	}
	b := pick(Subscribe, want, -1, func(s byte, num uint64) bool { return c.on[s] == 0 && c.failed[s] != num })
	placed := Batch[byte]{Kind: Subscribe}
	for i, s := range b.Subs {
		if room == 0 && !c.leaving[s] || len(placed.Subs) == most {
			continue
		}
		if !c.leaving[s] {
			room--
		}
		placed.Subs, placed.Nums = append(placed.Subs, s), append(placed.Nums, b.Nums[i])
	}
	return placed
}

// ask compares a batch with that of the model.
func (c *conn) ask(most, room int) Batch[byte] {
	c.t.Helper()
	if c.patient {
		b, _ := c.a.Next(most, room)
		c.valid(b, most, room)
		return b
	}
	want := c.next(most, room)
	b, ok := c.a.Next(most, room)
	if ok != (len(want.Subs) > 0) || ok && b.Kind != want.Kind ||
		!slices.Equal(b.Subs, want.Subs) || !slices.Equal(b.Nums, want.Nums) {
		c.t.Fatalf("next(%d, %d) = %v %v, want %v", most, room, b, ok, want)
	}
	return b
}

// write is what a server sees of b.
func (c *conn) write(b Batch[byte]) {
	for _, s := range b.Subs {
		switch {
		case b.Kind == Subscribe && c.server[s] && !c.kept[s] && c.redo[s] == 0:
			c.t.Fatalf("subscribed %d twice", s)
		case b.Kind != Subscribe && !c.server[s]:
			c.t.Fatalf("kind %d of %d, which the server does not carry", b.Kind, s)
		}
		c.server[s] = b.Kind != Unsubscribe
	}
}

func (c *conn) done(b Batch[byte]) {
	c.write(b)
	c.a.Done(b)
	for i, s := range b.Subs {
		if c.on[s] != 0 && b.Kind == Unsubscribe {
			c.leaving[s] = true
		}
		delete(c.on, s)
		delete(c.kept, s)
		delete(c.failed, s)
		delete(c.redo, s)
		if b.Kind != Unsubscribe {
			c.on[s] = b.Nums[i]
			delete(c.leaving, s)
		}
	}
}

func (c *conn) drop(b Batch[byte]) {
	c.a.Drop(b)
	c.first = append(slices.Clone(b.Subs), slices.DeleteFunc(c.first, func(s byte) bool { return slices.Contains(b.Subs, s) })...)
	for _, s := range b.Subs {
		if c.on[s] != 0 {
			c.leaving[s] = true
		}
		delete(c.on, s)
		delete(c.kept, s)
		delete(c.server, s)
	}
}

func (c *conn) keep(b Batch[byte]) {
	for _, s := range b.Subs {
		if c.on[s] != 0 {
			c.kept[s] = true
		}
	}
}

func (c *conn) fail(b Batch[byte]) {
	c.a.Fail(b)
	if b.Kind == Unsubscribe {
		c.keep(b)
		return
	}
	for i, s := range b.Subs {
		if c.on[s] > b.Nums[i] || c.failed[s] > b.Nums[i] {
			continue
		}
		delete(c.on, s)
		delete(c.kept, s)
		delete(c.server, s)
		delete(c.leaving, s)
		if c.w.want[s] != 0 {
			c.failed[s] = b.Nums[i]
		}
	}
}

// check compares all that a session tells.
func (c *conn) check() {
	c.t.Helper()
	if list := c.a.List(); c.a.Len() != len(list) || !slices.Equal(slices.Sorted(slices.Values(list)), slices.Sorted(maps.Keys(c.on))) {
		c.t.Fatalf("%v applied, want %v", list, c.on)
	}
	if n := len(c.on) + len(c.leaving); c.a.Places() != n || len(c.a.Leaving()) != len(c.leaving) {
		c.t.Fatalf("%d places, want %d", c.a.Places(), n)
	}
	for s := range byte(universe) {
		num, ok := c.a.Number(s)
		if num != c.on[s] || ok != (num > 0) || c.a.Kept(s) != c.kept[s] {
			c.t.Fatalf("%d has number %d, kept %v, want %d, %v", s, num, c.a.Kept(s), c.on[s], c.kept[s])
		}
		want, wanted := c.w.want[s]
		if c.a.Settled(s) != (!wanted || c.on[s] == want || c.failed[s] == want) {
			c.t.Fatalf("%d is settled: %v", s, c.a.Settled(s))
		}
		if wanted && want <= c.a.Upto() && !c.a.Settled(s) {
			c.t.Fatalf("%d is not settled, though all up to %d is", s, c.a.Upto())
		}
		// An older failure is forgotten if Next came by while the topic was not wanted.
		if num, _ := c.a.Failed(s); wanted && (num == want) != (c.failed[s] == want) {
			c.t.Fatalf("%d failed under %d, want %d", s, num, c.failed[s])
		}
	}
}

// rest writes all that is left, and finds the server with what is wanted, less what failed, plus what is kept.
func (c *conn) rest(most int) {
	c.t.Helper()
	for s := range byte(universe) {
		c.answered(s)
	}
	for b := c.ask(most, -1); len(b.Subs) > 0; b = c.ask(most, -1) {
		c.done(b)
	}
	for s := range byte(universe) {
		want := c.w.want[s] != 0 && c.failed[s] != c.w.want[s] || c.kept[s]
		if c.server[s] != want {
			c.t.Fatalf("the server carries %d: %v, want %v", s, c.server[s], want)
		}
	}
	looked := c.a.looked
	if b := c.ask(0, -1); len(b.Subs) > 0 || c.a.looked != looked || c.a.Upto() != c.w.last {
		c.t.Fatalf("not at rest: %v after %d looks", b, c.a.looked-looked)
	}
	if len(c.a.failed) > len(c.w.want) || len(c.a.redo)+len(c.a.first)+len(c.a.aside)+len(c.a.unanswered) > 0 {
		c.t.Fatalf("left behind: failed %v, redo %v, first %v, aside %v", c.a.failed, c.a.redo, c.a.first, c.a.aside)
	}
}

func (c *conn) answered(s byte) {
	c.a.Answered(s)
	delete(c.unanswered, s)
}
