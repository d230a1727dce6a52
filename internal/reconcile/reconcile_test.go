package reconcile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Each script is a sentence about the two sets. A step is a call, with what it shows after "=": a batch as
// +a1,b2 (Subscribe), -a3 (Unsubscribe) or *a4 (Resubscribe), each topic with its number; a session as the topics that
// it has written, a kept one as (a1) and a failed one as !a1.
var scripts = []struct {
	name  string
	steps []string
}{
	{"a session writes what is wanted, oldest first",
		[]string{"add b a c", "next = +b1,a2,c3", "done", "next =", "applied = a2 b1 c3", "len = 3"}},
	{"a topic that is wanted already keeps its number",
		[]string{"add a", "add a a", "number a = 1", "list = a", "next = +a1"}},
	{"nothing is promised for a topic that is not wanted",
		[]string{"remove a", "again a", "list =", "next =", "number a ="}},
	{"a batch has at most max topics",
		[]string{"add a b c", "next 2 = +a1,b2", "done", "next 2 = +c3", "done", "next 2 ="}},
	{"a batch comes again until it is done, and with a smaller max its first part",
		[]string{"add a b c d", "next = +a1,b2,c3,d4", "next = +a1,b2,c3,d4", "next 2 = +a1,b2", "next 1 = +a1", "done",
			"next 2 = +b2,c3"}},
	{"a Subscribe has at most room topics",
		[]string{"add a b c", "next 0 2 = +a1,b2", "next 1 2 = +a1", "next 0 0 =", "next 9 0 =", "next 0 1 = +a1"}},
	{"what found no room is found when there is some",
		[]string{"add a b", "next 0 0 =", "again a", "add c", "next 0 0 =", "next 0 9 = +b2,a3,c4"}},
	{"what was done is passed though there is no room",
		[]string{"add a b", "next 1 = +a1", "done", "upto = 0", "next 0 0 =", "upto = 1", "next = +b2", "done",
			"next 0 0 =", "upto = 2"}},
	{"room is for Subscribe alone",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "remove a", "again b", "redo c", "next 0 0 = +c3", "done",
			"next 0 0 = -a4", "done", "next 0 0 = *b5", "done", "next 0 0 ="}},
	{"first what is written once more, then Unsubscribe, Resubscribe, Subscribe",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "add d", "again b", "remove a", "redo c", "next = +c3", "done",
			"next = -a6", "done", "next = *b5", "done", "next = +d4", "done", "next ="}},
	{"a subscription taken back before anything was written costs nothing",
		[]string{"add a", "remove a", "next =", "applied ="}},
	{"an unsubscription between sessions is never replayed",
		[]string{"add a b", "next = +a1,b2", "done", "close", "remove a", "watch", "next = +b2", "done", "next ="}},
	{"a topic that left and came back before the session looked is asked for anew",
		[]string{"add a", "next = +a1", "done", "remove a", "add a", "next = *a3", "done", "next =", "applied = a3"}},
	{"a topic that was removed twice is unsubscribed once",
		[]string{"add a b", "next = +a1,b2", "done", "remove a", "add a", "remove b", "remove a", "next = -b5,a6", "done",
			"next ="}},
	{"a topic asked for twice is asked for under the newest number",
		[]string{"add a b", "next = +a1,b2", "done", "again a b a", "next = *b4,a5", "done", "next ="}},
	{"unsubscriptions come again until they are done",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "remove c a", "next = -c4,a5", "next 1 = -c4", "done",
			"applied = a1 b2", "next = -a5", "add a", "next = *a6"}},
	{"a removal while its subscription is on the way is not missed",
		[]string{"add a", "next = +a1", "remove a", "done", "next = -a2", "done", "next =", "applied ="}},
	{"a request for a topic whose subscription is on the way is not missed",
		[]string{"add a", "next = +a1", "again a", "done", "next = *a2", "done", "next ="}},

	{"a dropped Resubscribe is subscribed again",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "again a b", "next 1 = *a4", "drop", "applied = b2 c3",
			"next 1 = +a4", "done", "next 1 = *b5", "drop", "next = +b5", "done", "next ="}},
	{"a dropped Resubscribe has its place until it has left",
		[]string{"add a b", "next = +a1,b2", "done", "again a b", "next 0 0 = *a3,b4", "drop", "places = 2", "left a", "places = 1",
			"next 0 0 = +b4", "next 0 1 = +a3,b4", "done", "places = 2"}},
	{"a dropped Resubscribe comes before all others",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "add d", "remove c", "again a b", "redo b", "next = -c5", "done", "next 1 = *a6", "drop",
			"next = +a6", "done", "next 1 = *b7", "drop", "next = +b7", "done", "next = +d4", "done", "next =", "upto = 7"}},
	{"a dropped one that finds no room blocks nothing",
		[]string{"add a b", "next = +a1,b2", "done", "again a", "next = *a3", "drop", "left a", "again b", "next 0 0 = *b4", "done", "next 0 0 =",
			"next 0 1 = +a3", "done", "next =", "upto = 4"}},
	{"an unsubscription takes a place until it has left",
		[]string{"add a b", "next = +a1,b2", "done", "remove a", "next = -a3", "done", "len = 1", "places = 2", "left b x", "places = 2",
			"left a", "places = 1"}},
	{"a topic that is leaving has a place",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "done", "add b a", "next 0 0 = +a4", "done", "places = 1",
			"next 0 0 =", "next = +b3"}},
	{"a topic that fails is not leaving",
		[]string{"add a", "next = +a1", "done", "again a", "next = *a2", "drop", "fail", "places = 0"}},

	{"an unsubscription waits for the answer to its subscription",
		[]string{"add a b", "next = +a1,b2", "done", "await a", "remove a b", "next = -b4", "done", "next =", "upto = 4", "answered b", "next =",
			"answered a", "upto = 4", "next = -a3", "next = -a3", "done", "next =", "upto = 4", "applied ="}},
	{"a Resubscribe does not",
		[]string{"add a", "next = +a1", "done", "await a", "again a", "next = *a2"}},
	{"one that begins with an unsubscription does",
		[]string{"offfirst", "add a", "next = +a1", "done", "await a", "again a", "next =", "settled a = false", "upto = 1", "again a", "next =",
			"answered a", "next = *a3", "drop", "next = +a3", "done", "next =", "upto = 3"}},
	{"a topic that is wanted again meanwhile is as it was",
		[]string{"offfirst", "add a", "next = +a1", "done", "await a", "remove a", "next =", "add a", "next =", "answered a", "next = *a3", "drop",
			"next = +a3", "done", "next ="}},
	{"a topic that failed meanwhile needs no unsubscription",
		[]string{"add a", "next = +a1", "done", "await a", "remove a", "next =", "reject a1", "answered a", "next =", "upto = 2", "applied ="}},
	{"what waited comes before the rest, one kind at a time",
		[]string{"offfirst", "add a b c", "next = +a1,b2,c3", "done", "await a b", "remove a", "again b", "add d", "next 1 = +d6", "done",
			"again c", "answered a b", "next 1 = -a4", "done", "next = *b5", "drop", "next = +b5", "done", "next = *c7"}},
	{"a removal that waits survives that the order is compacted",
		[]string{"add a", "next = +a1", "done", "await a", "remove a", "next =", "churn", "next =", "answered a", "next = -a2", "done", "next ="}},

	{"a topic removed after it was dropped is gone",
		[]string{"add a", "next = +a1", "done", "again a", "next = *a2", "drop", "remove a", "next =", "applied ="}},
	{"dropped although Subscribe had passed it",
		[]string{"add a b", "next = +a1,b2", "done", "next =", "redo a", "next = +a1", "drop", "applied = b2",
			"settled a = false", "next = +a1", "done", "next ="}},

	{"a kept topic stays on the wire and is not handed out again",
		[]string{"add a b", "next = +a1,b2", "done", "remove a", "next = -a3", "keep", "next =", "applied = (a1) b2",
			"len = 2", "again a", "next ="}},
	{"a kept topic that is wanted again is subscribed without room, before others",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "keep", "add b a", "next 0 0 = +a4",
			"settled a = false", "done", "applied = a4", "next 0 0 =", "next = +b3"}},
	{"a topic kept once more",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "keep", "add a", "remove a", "next =",
			"add a", "next = +a5", "done", "remove a", "next = -a6", "keep", "next =", "applied = (a5)"}},
	{"a topic wanted again while it was about to be kept",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "add a", "keep", "next = +a3", "done", "next ="}},
	{"an Unsubscribe that fails keeps",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "fail", "applied = (a1)", "next ="}},
	{"what is not on the wire cannot be kept",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "done", "keep", "applied =", "left a", "add a",
			"next 0 0 ="}},

	{"a topic that cannot be written is settled, and the others go on",
		[]string{"add a b", "next 1 = +a1", "fail", "settled a = true", "settled b = false", "next = +b2", "done",
			"next =", "applied = !a1 b2", "len = 1"}},
	{"a rejected topic leaves applied",
		[]string{"add a", "next = +a1", "done", "fail", "applied = !a1", "next =", "settled a = true"}},
	{"a Resubscribe that fails leaves applied",
		[]string{"add a", "next = +a1", "done", "again a", "next = *a2", "fail", "applied = !a2", "next ="}},
	{"a failed topic is subscribed when it is asked for again, and needs room",
		[]string{"add a", "next = +a1", "fail", "again a", "settled a = false", "next 0 0 =", "next = +a2", "done",
			"applied = a2", "next ="}},
	{"to unsubscribe a failed topic writes nothing",
		[]string{"add a", "next = +a1", "fail", "remove a", "settled a = true", "next =", "applied ="}},
	{"a failed topic is tried on the next session",
		[]string{"add a", "next = +a1", "fail", "close", "watch", "next = +a1"}},
	{"a rejection that comes after a newer request was written is not for that",
		[]string{"add a", "next = +a1", "done", "again a", "next = *a2", "done", "reject a1", "applied = a2",
			"reject a2", "reject a1", "applied = !a2"}},
	{"a rejection that comes before the newer request was written",
		[]string{"add a", "next = +a1", "done", "again a", "reject a1", "applied = !a1", "next = +a2"}},
	{"a rejection of what is no longer wanted leaves nothing behind",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "done", "reject a1", "applied ="}},
	{"a rejected topic that is kept is not carried",
		[]string{"add a", "next = +a1", "done", "remove a", "next = -a2", "keep", "reject a1", "applied =", "next =",
			"add a", "next = +a3"}},

	{"topics are written once more with their numbers, oldest first",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "redo c a c d", "redo a", "next 1 = +a1", "next = +a1,c3",
			"done", "next =", "redo b", "next = +b2"}},
	{"what was removed or touched since is not written once more",
		[]string{"add a b c d", "next = +a1,b2,c3,d4", "done", "redo a b c d", "again b", "remove c", "next 1 = +a1",
			"next = +a1,d4", "done", "next = -c6", "done", "next = *b5", "done", "next ="}},
	{"what failed or was dropped since is not written once more",
		[]string{"add a b", "next = +a1,b2", "done", "redo a b", "reject a1", "next = +b2", "drop", "next = +b2", "done",
			"next =", "applied = !a1 b2"}},
	{"a topic is crossed off by whatever writes it",
		[]string{"add a b c", "next = +a1,b2,c3", "done", "redo a b c", "wrote b2", "next = +a1,c3", "done", "next ="}},
	{"a session that is closed twice",
		[]string{"add a", "close", "close", "remove a", "add a", "watch", "next = +a3"}},
}

func TestScripts(t *testing.T) {
	for _, sc := range scripts {
		t.Run(sc.name, func(t *testing.T) {
			p := player{d: New[string]()}
			p.a = p.d.Watch(make(chan struct{}, 1))
			for i, step := range sc.steps {
				call, want, _ := strings.Cut(step, "=")
				if got := p.play(strings.Fields(call)); got != strings.TrimSpace(want) {
					t.Fatalf("step %d, %s: got %q", i, step, got)
				}
			}
		})
	}
}

type player struct {
	d *Desired[string]
	a *Applied[string]
	b Batch[string]
}

func (p *player) play(call []string) string {
	verb, args := call[0], call[1:]
	switch verb {
	case "add":
		p.d.Add(args...)
	case "remove":
		p.d.Remove(args...)
	case "again":
		p.d.Again(args...)
	case "list":
		return strings.Join(p.d.List(), " ")
	case "number":
		return number(p.d.Number(args[0]))
	case "watch":
		p.a = p.d.Watch(make(chan struct{}, 1))
	case "close":
		p.a.Close()
	case "next":
		limits := []int{0, -1}
		for i, arg := range args {
			limits[i], _ = strconv.Atoi(arg)
		}
		p.b, _ = p.a.Next(limits[0], limits[1])
		return show(p.b)
	case "done":
		p.a.Done(p.b)
	case "keep":
		p.a.Keep(p.b)
	case "fail":
		p.a.Fail(p.b)
	case "drop":
		p.a.Drop(p.b)
	case "redo":
		p.a.Redo(args...)
	case "reject", "wrote":
		num, _ := strconv.ParseUint(args[0][1:], 10, 64)
		b := Batch[string]{Subscribe, []string{args[0][:1]}, []uint64{num}}
		if verb == "reject" {
			p.a.Fail(b)
		} else {
			p.a.Done(b)
		}
	case "left":
		p.a.Left(args...)
	case "await":
		p.a.Await(args...)
	case "answered":
		p.a.Answered(args...)
	case "offfirst":
		p.a.OffFirst = true
	case "places":
		return fmt.Sprint(p.a.Places())
	case "churn": // until nothing is left in the order that need not be
		for range 4 * slack {
			p.d.Add("z")
			p.d.Remove("z")
			p.a.Next(0, -1)
		}
	case "settled":
		return fmt.Sprint(p.a.Settled(args[0]))
	case "upto":
		return fmt.Sprint(p.a.Upto())
	case "len":
		return fmt.Sprint(p.a.Len())
	case "applied":
		return p.applied()
	default:
		panic(verb)
	}
	return ""
}

func (p *player) applied() string {
	var all []string
	for _, s := range []string{"a", "b", "c", "d"} {
		num, ok := p.a.Number(s)
		text := s + number(num, ok)
		if p.a.Kept(s) {
			text = "(" + text + ")"
		}
		if ok {
			all = append(all, text)
		}
		if num, ok := p.a.Failed(s); ok {
			all = append(all, "!"+s+number(num, ok))
		}
	}
	return strings.Join(all, " ")
}

func number(num uint64, ok bool) string {
	if !ok {
		return ""
	}
	return strconv.FormatUint(num, 10)
}

func show(b Batch[string]) string {
	var all []string
	for i, s := range b.Subs {
		all = append(all, s+strconv.FormatUint(b.Nums[i], 10))
	}
	if all == nil {
		return ""
	}
	return "+-*"[b.Kind:b.Kind+1] + strings.Join(all, ",")
}

func TestWake(t *testing.T) {
	d := New[string]()
	woken := func(wake chan struct{}) bool {
		select {
		case <-wake:
			return true
		default:
			return false
		}
	}
	one, two := make(chan struct{}, 1), make(chan struct{}, 1)
	a := d.Watch(one)
	d.Watch(two)
	steps := []struct {
		name  string
		do    func()
		wakes bool
	}{
		{"watch", func() {}, true},
		{"add", func() { d.Add("a") }, true},
		{"add what is wanted", func() { d.Add("a") }, false},
		{"again", func() { d.Again("a") }, true},
		{"again what is not wanted", func() { d.Again("b") }, false},
		{"many changes, one token", func() { d.Add("b", "c"); d.Remove("c") }, true},
		{"remove", func() { d.Remove("a") }, true},
		{"remove what is not wanted", func() { d.Remove("a") }, false},
	}
	for _, step := range steps {
		step.do()
		for _, wake := range []chan struct{}{one, two} {
			if woken(wake) != step.wakes {
				t.Errorf("%s: want woken %v", step.name, step.wakes)
			}
			if woken(wake) {
				t.Errorf("%s: two tokens", step.name)
			}
		}
	}
	a.Close()
	d.Add("z")
	if woken(one) || !woken(two) {
		t.Error("a closed session was woken, or its neighbour was not")
	}
}

// The set is changed by some goroutines while two sessions read it; at the end both have written what is wanted.
func TestConcurrent(t *testing.T) {
	d := New[int]()
	var users, sessions sync.WaitGroup
	stop := make(chan struct{})
	applied := make([]*Applied[int], 2)
	for i := range applied {
		wake := make(chan struct{}, 1)
		a := d.Watch(wake)
		applied[i] = a
		sessions.Go(func() {
			for last := false; !last; {
				select {
				case <-wake:
				case <-stop:
					last = true
				}
				for b, ok := a.Next(7, -1); ok; b, ok = a.Next(7, -1) {
					a.Done(b)
				}
			}
		})
	}
	for u := range 3 {
		users.Go(func() {
			for i := range 2000 {
				s := (i*31 + u) % 100
				switch i % 4 {
				case 0, 1:
					d.Add(s, s+1)
				case 2:
					d.Remove(s)
				case 3:
					d.Again(s, s+1)
				}
				if i%500 == 0 {
					d.Watch(make(chan struct{}, 1)).Close()
					d.List()
				}
			}
		})
	}
	users.Wait()
	close(stop)
	sessions.Wait()
	for _, a := range applied {
		if a.Len() != d.Len() {
			t.Errorf("%d applied, %d wanted", a.Len(), d.Len())
		}
		for _, s := range d.List() {
			if !a.Settled(s) {
				t.Errorf("%d is not settled", s)
			}
		}
		a.Close()
	}
}

func TestListFollowsTouches(t *testing.T) {
	d := New[string]()
	d.Add("a", "b", "c", "d")
	d.Again("b")
	d.Remove("c")
	d.Add("c")
	if got, want := d.List(), []string{"a", "d", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
