package reconcile

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func FuzzNext(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x02\x08\x00\x02\x01\x08\x10\x04\x01\x09\x02"))
	f.Add([]byte("\x00\x07\x0e\x00\x00\x05\x08\x33\x0f\x00\x02\x05\x0a\x01\x00\x05\x09\x11\x08\x00"))
	f.Add([]byte("\x00\xff\x08\x00\x04\xff\x0b\x22\x08\x00\x06\x31\x0c\x22\x07\x21\x0d\x01\x08\x00"))
	f.Fuzz(play)
}

// The same with more operations than a fuzzer likes to keep.
func TestRandom(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for range 200 {
		ops := make([]byte, 600)
		random.Read(ops)
		play(t, ops)
	}
}

// play reads each pair of bytes as an operation and its topic; up to three sessions read the set at a time.
func play(t *testing.T, ops []byte) {
	d := New[byte]()
	w := &wanted{want: map[byte]uint64{}, gone: map[byte]uint64{}}
	conns := []*conn{newConn(t, w, d, false)}
	for ; len(ops) >= 2; ops = ops[2:] {
		op, arg := ops[0]%19, ops[1]
		subs := []byte{arg % universe}
		if arg&0x80 != 0 {
			subs = append(subs, (arg>>4)%universe, (arg+1)%universe)
		}
		c := conns[int(ops[0]>>5)%len(conns)]
		most, room := int(arg%5), int(arg>>4)%6-1
		switch op {
		case 0, 1:
			d.Add(subs...)
			for _, s := range subs {
				w.add(s)
			}
		case 2, 3:
			d.Remove(subs...)
			for _, s := range subs {
				w.remove(s)
			}
		case 4:
			d.Again(subs...)
			for _, s := range subs {
				w.again(s)
			}
		case 5:
			c.a.Redo(subs...)
			for _, s := range subs {
				if num := c.on[s]; num != 0 {
					c.redo[s] = num
				}
			}
		case 6: // a rejection, of the present number or an older one
			num := c.on[subs[0]]
			if arg&0x40 != 0 {
				num = max(1, num/2)
			}
			if num > 0 {
				c.fail(Batch[byte]{Subscribe, subs[:1], []uint64{num}})
			}
		case 7: // halved until it can be written
			for n := len(c.ask(0, room).Subs); n > 1; {
				n /= 2
				if b := c.ask(n, room); n == 1 {
					c.fail(b)
				}
			}
		case 8, 9, 10:
			c.done(c.ask(most, room))
		case 11: // the set changes while the request is on its way
			b := c.ask(most, room)
			if arg&0x80 == 0 {
				d.Remove(subs...)
				w.remove(subs[0])
			}
			d.Add(subs...)
			for _, s := range subs {
				w.add(s)
			}
			c.done(b)
		case 12:
			switch b := c.ask(most, room); {
			case b.Kind == Unsubscribe:
				c.a.Keep(b)
				c.keep(b)
			case b.Kind == Resubscribe || arg&0x80 != 0:
				c.drop(b)
			default:
				c.fail(b)
			}
		case 13:
			c.rest(most)
		case 14:
			if len(conns) < 3 {
				conns = append(conns, newConn(t, w, d, arg&1 != 0))
			}
		case 16:
			c.a.Left(subs...)
			for _, s := range subs {
				delete(c.leaving, s)
			}
		case 17:
			if c.patient {
				for _, s := range subs {
					if c.on[s] != 0 {
						c.a.Await(s)
						c.unanswered[s] = true
					}
				}
			}
		case 18:
			for _, s := range subs {
				c.answered(s)
			}
		case 15:
			c.a.Close()
			conns = slices.DeleteFunc(conns, func(o *conn) bool { return o == c })
			if len(conns) == 0 {
				d.Remove(subs...)
				for _, s := range subs {
					w.remove(s)
				}
				conns = append(conns, newConn(t, w, d, arg&1 != 0))
			}
		}
		if len(d.order) > 2*universe+slack+3 {
			t.Fatalf("%d touches", len(d.order))
		}
		c.check()
	}
	for _, c := range conns {
		c.rest(3)
		c.a.Close()
	}
	list := slices.SortedFunc(maps.Keys(w.want), func(a, b byte) int { return cmp.Compare(w.want[a], w.want[b]) })
	if !slices.Equal(d.List(), list) || d.Len() != len(list) {
		t.Fatalf("wanted %v, want %v", d.List(), list)
	}
}
