package feed

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestSeries(t *testing.T) {
	for _, tc := range []struct {
		in     []uint64
		want   []sighting
		missed uint64
	}{
		{nil, nil, 0},
		{[]uint64{5}, []sighting{inOrder}, 0},
		{[]uint64{5, 6, 7}, []sighting{inOrder, inOrder, inOrder}, 0},
		{[]uint64{5, 9}, []sighting{inOrder, inOrder}, 3},
		{[]uint64{5, 9, 7, 7, 6, 8, 6}, []sighting{inOrder, inOrder, late, duplicate, late, late, duplicate}, 0},
		{[]uint64{5, 9, 6, 8}, []sighting{inOrder, inOrder, late, late}, 1},
		{[]uint64{5, 4, 1}, []sighting{inOrder, late, late}, 2},
		{[]uint64{1, 3, 5, 7, 4}, []sighting{inOrder, inOrder, inOrder, inOrder, late}, 2},
	} {
		var s series
		for i, n := range tc.in {
			if got := s.add(n); got != tc.want[i] {
				t.Errorf("%v: sighting %d is %d, want %d", tc.in, i, got, tc.want[i])
			}
		}
		if s.missed() != tc.missed {
			t.Errorf("%v: missed %d, want %d", tc.in, s.missed(), tc.missed)
		}
	}
}

func TestSeriesAgainstASet(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var s series
		set := make(map[uint64]bool)
		lo, hi := uint64(100), uint64(0)
		for range 60 {
			n := 1 + rnd.Uint64N(40)
			was := set[n]
			if got := s.add(n); (got == duplicate) != was {
				t.Fatalf("seed %d: %d is sighting %d, but seen before: %v", seed, n, got, was)
			}
			set[n] = true
			lo, hi = min(lo, n), max(hi, n)
			if want := hi - lo + 1 - uint64(len(set)); s.missed() != want {
				t.Fatalf("seed %d: missed %d, want %d", seed, s.missed(), want)
			}
			holes := uint64(0)
			for _, h := range s.holes {
				holes += h.hi - h.lo + 1
			}
			if holes != s.missed() {
				t.Fatalf("seed %d: the holes %v hold %d, missed is %d", seed, s.holes, holes, s.missed())
			}
		}
	}
}

func TestTally(t *testing.T) {
	var tally Tally
	var shards sync.WaitGroup
	for shard := range 4 {
		shards.Go(func() {
			for n := uint64(1); n <= 100; n++ {
				for i := range 10 {
					topic := fmt.Appendf(nil, "t%d-%d", shard, i)
					switch n {
					case 50: // missed
					case 60: // late
						tally.Seen(topic, 61)
					case 61:
						tally.Seen(topic, 60)
					case 70: // twice
						if !tally.Seen(topic, n) || tally.Seen(topic, n) {
							t.Error("Seen does not tell new from old")
						}
					default:
						tally.Seen(topic, n)
					}
				}
			}
		})
	}
	shards.Wait()
	want := Totals{Received: 4000, Missed: 40, Duplicates: 40, OutOfOrder: 40}
	if got := tally.Totals(); got != want || got.Distinct() != 3960 {
		t.Errorf("Totals %+v, want %+v", got, want)
	}
	if got := tally.Last("t3-9"); got != 100 {
		t.Errorf("Last = %d, want 100", got)
	}
	if got := tally.Last("nobody"); got != 0 {
		t.Errorf("Last of an unknown topic = %d", got)
	}
}

func BenchmarkHandler(b *testing.B) {
	msg := appendTick(nil, "t0001", 123456, 1700000000000000000)
	var tally Tally
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for n := uint64(1); b.Loop(); n++ {
		tick, _ := ParseTick(msg)
		tally.Seen(tick.Topic, n)
	}
}
