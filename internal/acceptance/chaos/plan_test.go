package chaos

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
)

// This file answers: which traits does a seed of chaos have?

// chaosTrait is what a whole run has or has not. Each field is one of the levels that chaosLevels names for it.
type chaosTrait struct {
	Proof  string // how the application knows that a topic is live
	Keys   string // of messages
	Unsub  string // whether it can unsubscribe, and ask again
	Switch string // switchovers: turns at a time, or none at all
	Hold   string // room for what the new connection of one brings
	Pace   string // frames a second
	Churn  string // the background of one Subscribe or Unsubscribe after the other
	Shards string // as many as it takes, or as few
	World  string // what befalls it
	Park   string // failures in a row that park a shard
	Mode   string // of delivery
	Seq    string // a SequenceValidator
	Lag    string // of the server
	Ping   string // frames, or messages of the application
}

// chaosLevels has the levels of each field, in its order.
var chaosLevels = [][]string{
	{"topic", "request", "partial", "late", "flaky", "data", "settle", "ready"},
	{"keys", "none"},
	{"both", "unsubscriber", "resubscriber", "none"},
	{"default", "one-turn", "two-turns", "disabled"},
	{"ample", "messages", "bytes"},
	{"20", "2", "none"},
	{"none", "fast", "slow"},
	{"any", "five"},
	{"calm", "links", "server", "hooks", "all"},
	{"never", "6", "12"},
	{"default", "low-latency"},
	{"validator", "none"},
	{"none", "lag"},
	{"frames", "messages"},
}

// chaosTraitOf is what the plan has for a seed.
func chaosTraitOf(seed uint64) chaosTrait {
	plan := chaosPlan()
	return traitOf(plan[seed%uint64(len(plan))])
}

func traitOf(row []int) (tr chaosTrait) {
	for i, level := range row {
		reflect.ValueOf(&tr).Elem().Field(i).SetString(chaosLevels[i][level])
	}
	return tr
}

// names are the traits as they are counted: "Proof=late".
func (tr chaosTrait) names() (list []string) {
	v := reflect.ValueOf(tr)
	for i := range v.NumField() {
		list = append(list, v.Type().Field(i).Name+"="+v.Field(i).String())
	}
	return list
}

// levelPair is one level of a field beside one of another.
type levelPair struct{ a, la, b, lb int }

func pairsOf(row []int, yield func(levelPair)) {
	for b := range row {
		for a := range b {
			yield(levelPair{a, row[a], b, row[b]})
		}
	}
}

// chaosPlan has each level of each field beside each level of every other one, in as few rows as a greedy search finds. Seeds
// take its rows in turn, so as many seeds as it has rows drive all pairs, whichever seed comes first.
var chaosPlan = sync.OnceValue(func() (plan [][]int) {
	rnd := rand.New(rand.NewPCG(11, 14))
	open := map[levelPair]bool{}
	for b := range chaosLevels {
		for a := range b {
			for la := range chaosLevels[a] {
				for lb := range chaosLevels[b] {
					open[levelPair{a, la, b, lb}] = true
				}
			}
		}
	}
	covers := func(row []int) (n int) {
		pairsOf(row, func(p levelPair) {
			if open[p] {
				n++
			}
		})
		return n
	}
	for len(open) > 0 {
		var best []int
		most := 0
		for range 40 {
			row := make([]int, len(chaosLevels))
			for i := range row {
				row[i] = rnd.IntN(len(chaosLevels[i]))
			}
			for range 2 { // each field takes the level that covers most beside the others
				for _, i := range rnd.Perm(len(row)) {
					level, n := row[i], covers(row)
					for l := range chaosLevels[i] {
						if row[i] = l; covers(row) > n {
							level, n = l, covers(row)
						}
					}
					row[i] = level
				}
			}
			if n := covers(row); n > most {
				best, most = row, n
			}
		}
		if best == nil { // luck did not find what is left: take one of it
			continue
		}
		plan = append(plan, best)
		pairsOf(best, func(p levelPair) { delete(open, p) })
	}
	return plan
})

// The plan covers all pairs with fewer rows than a run that must drive everything has seeds.
func TestChaosPlan(t *testing.T) {
	plan, seen := chaosPlan(), map[levelPair]bool{}
	for _, row := range plan {
		pairsOf(row, func(p levelPair) { seen[p] = true })
	}
	all := 0
	for b := range chaosLevels {
		for a := range b {
			all += len(chaosLevels[a]) * len(chaosLevels[b])
		}
	}
	if len(seen) != all || len(plan) > chaosEnough {
		t.Errorf("%d rows cover %d pairs of %d", len(plan), len(seen), all)
	}
	if reflect.TypeFor[chaosTrait]().NumField() != len(chaosLevels) {
		t.Error("not every field has levels")
	}
	t.Logf("%d rows, %d pairs", len(plan), all)
}

// chaosEnough is how many seeds must have driven everything.
const chaosEnough = 100

// driven counts how often each trait, fault and answer was driven.
type driven struct {
	mu sync.Mutex
	n  map[string]int
}

func (d *driven) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == nil {
		d.n = map[string]int{}
	}
	d.n[what]++
}

// report logs the counts, and fails a run of enough seeds that never drove something.
func (d *driven) report(t *testing.T, seeds int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list, never []string
	for what, n := range d.n {
		list = append(list, fmt.Sprint(what, " ", n))
	}
	slices.Sort(list)
	t.Logf("driven: %q", list)
	for _, what := range mustDrive() {
		if d.n[what] == 0 {
			never = append(never, what)
		}
	}
	if seeds >= chaosEnough && len(never) > 0 {
		t.Errorf("%d seeds never drove %q", seeds, never)
	}
}

// mustDrive is all that a run of enough seeds drives.
func mustDrive() (list []string) {
	for i, levels := range chaosLevels {
		for _, level := range levels {
			list = append(list, reflect.TypeFor[chaosTrait]().Field(i).Name+"="+level)
		}
	}
	for _, kind := range slices.Concat(chaosCalm, chaosLinks, chaosServer, chaosHooks, chaosOnce) {
		list = append(list, "step "+kind)
	}
	for _, hook := range chaosHookNames {
		list = append(list, "panic in "+hook, "Goexit in "+hook)
	}
	for _, status := range chaosRefusals {
		list = append(list, fmt.Sprint("refused with ", status))
	}
	return append(list, "a hold that filled", "cut without proof", "no turn was free", "a send that queued", "twice over a switchover",
		"a part of a request was answered", "an answer came late", "an answer was missing", "a topic was rejected",
		"a panic behind", "a Goexit behind", "a gap", "parked", "out of capacity", "a slow step")
}
