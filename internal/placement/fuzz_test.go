package placement

import (
	"math"
	"slices"
	"testing"
)

// model is the table as one would explain it: two lists and a flag for each shard, and a look at all of them each time.
type model struct {
	strategy Strategy
	limit    int
	turn     int
	shards   []*modelShard
}

type modelShard struct {
	placed, lingering []byte
	suspended         bool
}

func (s *modelShard) load() int { return len(s.placed) + len(s.lingering) }

func (m *model) room(shard int) int {
	s := m.shards[shard]
	switch {
	case s.suspended:
		return 0
	case m.limit <= 0:
		return math.MaxInt
	}
	return max(0, m.limit-s.load())
}

// where returns the shard on which s is in the list that kind picks.
func (m *model) where(s byte, kind func(*modelShard) *[]byte) answer {
	for id, shard := range m.shards {
		if slices.Contains(*kind(shard), s) {
			return on(id)
		}
	}
	return no
}

func placed(s *modelShard) *[]byte    { return &s.placed }
func lingering(s *modelShard) *[]byte { return &s.lingering }

func drop(list *[]byte, s byte) {
	*list = slices.DeleteFunc(*list, func(other byte) bool { return other == s })
}

// settled does what Place and Displace have in common: s has a place already.
func (m *model) settled(s byte) answer {
	if a := m.where(s, placed); a.ok {
		return a
	}
	a := m.where(s, lingering)
	if !a.ok || m.limit > 0 && len(m.shards[a.shard].placed) >= m.limit {
		return no
	}
	m.place(a.shard, s)
	return a
}

// place puts s on a shard; it lingers nowhere any more.
func (m *model) place(shard int, s byte) {
	if a := m.where(s, lingering); a.ok {
		drop(&m.shards[a.shard].lingering, s)
	}
	m.shards[shard].placed = append(m.shards[shard].placed, s)
}

// choices returns the shards that the strategy may take. Only LeastLoaded may have several.
func (m *model) choices() []answer {
	var open []int
	for id := range m.shards {
		if m.room(id) > 0 {
			open = append(open, id)
		}
	}
	if len(open) == 0 {
		return []answer{no}
	}
	switch m.strategy {
	case Sequential:
		return []answer{on(open[0])}
	case RoundRobin:
		for _, id := range open {
			if id >= m.turn {
				return []answer{on(id)}
			}
		}
		return []answer{on(open[0])}
	}
	least := math.MaxInt
	for _, id := range open {
		least = min(least, m.shards[id].load())
	}
	var all []answer
	for _, id := range open {
		if m.shards[id].load() == least {
			all = append(all, on(id))
		}
	}
	return all
}

// yielding returns the lowest shard with a place for Displace.
func (m *model) yielding() answer {
	for id, s := range m.shards {
		if !s.suspended && len(s.lingering) > 0 && (m.limit <= 0 || len(s.placed) < m.limit) {
			return on(id)
		}
	}
	return no
}

func FuzzTable(f *testing.F) {
	const ops = 11
	open, place, displace, remove, removeLinger, linger, release, suspend, resume := byte(0), byte(2), byte(3), byte(4),
		byte(5), byte(6), byte(7), byte(8), byte(9)
	at := func(shard, s byte) byte { return (shard+1)<<5 | s }
	for strategy := range byte(3) {
		// fill, free, fill again
		f.Add(strategy, byte(2), []byte{open, 0, open, 0, place, 1, place, 2, place, 3, place, 4, place, 5, remove, 2,
			remove, 3, place, 6, place, 7, place, 8})
		// a suspended shard, above the limit, taken back
		f.Add(strategy, byte(1), []byte{open, 0, open, 0, place, 1, linger, at(0, 2), linger, at(0, 3), suspend, at(0, 0),
			place, 2, resume, at(0, 0), removeLinger, 1, displace, 9, remove, 2, displace, 9, release, at(0, 3), place, 4,
			place, 5})
		// the only one of the lowest load goes and comes
		f.Add(strategy, byte(0), []byte{open, 0, suspend, at(0, 0), open, 0, place, 1, place, 2, place, 3,
			resume, at(0, 0), place, 4, suspend, at(0, 0), place, 5, suspend, at(1, 0), place, 6, resume, at(1, 0), place, 6})
		// displaced above the limit: the count may not follow
		f.Add(strategy, byte(2), []byte{open, 0, place, 1, place, 2, linger, at(0, 3), linger, at(0, 4), displace, 5,
			remove, 1, displace, 5, displace, 6})
		// wanted again: nothing is left to displace
		f.Add(strategy, byte(1), []byte{open, 0, place, 1, removeLinger, 1, place, 1, displace, 2, linger, at(0, 1),
			linger, at(0, 3), linger, at(0, 3), release, at(1, 3), release, at(0, 3), place, 2})
	}
	f.Fuzz(func(t *testing.T, strategy, limit byte, script []byte) {
		m := &model{strategy: Strategy(strategy % 3), limit: int(limit % 6)}
		table := New[byte](m.strategy, m.limit)
		for ; len(script) >= 2; script = script[2:] {
			op, arg := script[0]%ops, script[1]
			s, shard := arg%32, int(arg>>5)-1 // -1 to 6: some unknown
			known := shard >= 0 && shard < len(m.shards)
			switch op {
			case open:
				if len(m.shards) == 8 {
					continue
				}
				if id := table.Open(); id != len(m.shards) {
					t.Fatalf("Open: %d", id)
				}
				m.shards = append(m.shards, new(modelShard))
			case 1, place:
				want := []answer{m.settled(s)}
				fresh := !want[0].ok
				if fresh {
					want = m.choices()
				}
				id, ok := table.Place(s)
				if !slices.Contains(want, answer{id, ok}) {
					t.Fatalf("Place %d: %d %v, want one of %v", s, id, ok, want)
				}
				if fresh && ok {
					m.place(id, s)
					m.turn = id + 1
				}
			case displace:
				want := m.settled(s)
				fresh := !want.ok
				if fresh {
					want = m.yielding()
				}
				id, ok := table.Displace(s)
				if want != (answer{id, ok}) {
					t.Fatalf("Displace %d: %d %v, want %v", s, id, ok, want)
				}
				if fresh && ok {
					on := m.shards[id]
					before := len(on.lingering)
					left := table.Lingering(id)
					on.lingering = slices.DeleteFunc(on.lingering, func(s byte) bool { return !slices.Contains(left, s) })
					if len(on.lingering) != before-1 {
						t.Fatalf("Displace %d: %d lingered, now %d", s, before, len(on.lingering))
					}
					m.place(id, s)
				}
			case remove, removeLinger:
				want := m.where(s, placed)
				id, ok := table.Remove(s, op == removeLinger)
				if want != (answer{id, ok}) {
					t.Fatalf("Remove %d: %d %v, want %v", s, id, ok, want)
				}
				if ok {
					drop(&m.shards[id].placed, s)
					if op == removeLinger {
						m.shards[id].lingering = append(m.shards[id].lingering, s)
					}
				}
			case linger:
				want := known && !m.where(s, placed).ok && !m.where(s, lingering).ok
				if got := table.Linger(shard, s); got != want {
					t.Fatalf("Linger %d on %d: %v", s, shard, got)
				}
				if want {
					m.shards[shard].lingering = append(m.shards[shard].lingering, s)
				}
			case release:
				want := m.where(s, lingering) == on(shard)
				if got := table.Release(shard, s); got != want {
					t.Fatalf("Release %d on %d: %v", s, shard, got)
				}
				if want {
					drop(&m.shards[shard].lingering, s)
				}
			case suspend, resume:
				if op == suspend {
					table.Suspend(shard)
				} else {
					table.Resume(shard)
				}
				if known {
					m.shards[shard].suspended = op == suspend
				}
			default:
				table.Reserve(int(arg))
			}
			m.check(t, table)
		}
	})
}

// check compares all that a table can be asked.
func (m *model) check(t *testing.T, table *Table[byte]) {
	t.Helper()
	total, room := 0, 0
	for id, s := range m.shards {
		same(t, "List", id, table.List(id), s.placed)
		same(t, "Lingering", id, table.Lingering(id), s.lingering)
		if table.Count(id) != len(s.placed) || table.AppendCounts(nil)[id] != uint32(len(s.placed)) || table.Load(id) != s.load() {
			t.Fatalf("shard %d: count %d, load %d, want %d, %d", id, table.Count(id), table.Load(id), len(s.placed), s.load())
		}
		total += len(s.placed)
		if r := m.room(id); r == math.MaxInt {
			room = r
		} else {
			room += r
		}
	}
	if table.Len() != total || table.Shards() != len(m.shards) || table.Room() != room {
		t.Fatalf("len %d, shards %d, room %d, want %d, %d, %d", table.Len(), table.Shards(), table.Room(), total,
			len(m.shards), room)
	}
	for s := range byte(32) {
		id, ok := table.Lookup(s)
		if want := m.where(s, placed); want != (answer{id, ok}) {
			t.Fatalf("Lookup %d: %d %v, want %v", s, id, ok, want)
		}
		at := m.where(s, lingering)
		own := at.ok && (m.limit <= 0 || len(m.shards[at.shard].placed) < m.limit)
		if table.Holds(s) != (ok || own) {
			t.Fatalf("Holds %d: %v", s, table.Holds(s))
		}
	}
}

func same(t *testing.T, what string, shard int, got, want []byte) {
	t.Helper()
	want = slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || (got == nil) != (len(want) == 0) {
		t.Fatalf("%s of shard %d: %v, want %v", what, shard, got, want)
	}
}
