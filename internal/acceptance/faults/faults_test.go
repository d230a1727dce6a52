package faults

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which faults are there, in which phases can each of them happen, and what came of it?
//
//	go test -run 'TestFaults$' -v ./internal/acceptance/faults
//
// drives every cell and prints the matrix at its end. A row's name begins with its number; phase_test.go says how a
// fault of each kind is driven in each phase, check_test.go what must hold at the end of every cell.

// phase is what a shard is doing when a fault strikes.
type phase int

const (
	connecting phase = iota
	steady
	backoff
	switching
)

var phaseNames = []string{"connecting", "steady", "backoff", "switchover"}

func (p phase) String() string { return phaseNames[p] }

// row is one fault of the matrix.
type row struct {
	no      int
	name    string
	kind    *kind
	own     map[phase][]drive // instead of the kind's
	not     map[phase]string  // why there is no such cell, where the kind has one or would give another reason
	with    func(cfg *wsshard.Config)
	handler func(c *cell) wsshard.Handler[string] // nil: a patient
	setup   func(c *cell)                         // in the bubble, before anything else
	scheme  string                                // "": ws
	beats   bool                                  // the server sends heartbeats
	// restless: it makes many dials, for a reason
	restless bool
	strikes  []strike
	real     string // the test with real parts, "package: name"
}

// strike is one way for a fault to happen.
type strike struct {
	name  string
	with  func(cfg *wsshard.Config)
	do    func(c *cell, at target)
	is    func(err error) bool // what is heard of it; nil: nothing is to be heard
	mild  bool                 // of a connection: it survives
	mute  bool                 // of a connection: nobody is told that it is dead, so it is replaced
	check func(c *cell)        // more that must hold while the fault lasts

	callback string // in which it happens, where it has to do with all of them
}

var faults = slices.SortedFunc(func(yield func(*row) bool) {
	for _, rows := range [][]*row{dialFaults, answerFaults, proxyFaults, linkFaults, frameFaults, shardFaults, callFaults, stopFaults} {
		for _, f := range rows {
			if !yield(f) {
				return
			}
		}
	}
}, func(a, b *row) int { return cmp.Compare(a.no, b.no) })

// drives are the cells of a fault in a phase; none: not says why.
func (f *row) drives(p phase) (drives []drive, not string) {
	if not := f.not[p]; not != "" {
		return nil, not
	}
	if own := f.own[p]; own != nil {
		return own, ""
	}
	if f.kind == nil {
		return nil, ""
	}
	return f.kind.drives[p], f.kind.not[p]
}

// TestFaults drives every fault in every phase in which it can happen.
func TestFaults(t *testing.T) {
	lines := []string{"", "row                        " + strings.Join(phaseNames, "     ")}
	cells, failed := 0, 0
	for _, f := range faults {
		title := fmt.Sprintf("%02d_%s", f.no, f.name)
		line, before := fmt.Sprintf("%-26s", title), cells
		t.Run(title, func(t *testing.T) {
			for p := range phase(len(phaseNames)) {
				n, bad := f.try(t, p)
				cells, failed = cells+n, failed+bad
				word := "-"
				switch {
				case bad > 0:
					word = fmt.Sprintf("%d of %d FAILED", bad, n)
				case n > 0:
					word = fmt.Sprintf("%d ok", n)
				}
				line += fmt.Sprintf(" %-14s", word)
			}
		})
		if before < cells { // -run may have left it out
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	t.Logf("%s\n%d cells, %d failed; Stop took at most %v", strings.Join(lines, "\n"), cells, failed, slowestStop)
}

// try drives the cells of one phase.
func (f *row) try(t *testing.T, p phase) (n, failed int) {
	drives, _ := f.drives(p)
	if len(drives) == 0 {
		return 0, 0
	}
	t.Run(p.String(), func(t *testing.T) {
		for _, d := range drives {
			strikes := f.strikes
			if len(strikes) == 0 {
				strikes = []strike{{}}
			}
			for i, s := range strikes {
				if testing.Short() && len(strikes) > 3 && i%max(4, len(strikes)/8) != int(p) { // a few of them in each phase
					continue
				}
				n++
				one := func(t *testing.T) {
					c := newCell(f, p, d, s)
					c.run(t, d)
					slowestStop = max(slowestStop, c.worst)
				}
				if name := strings.TrimSpace(d.name + " " + s.name); len(drives)*len(strikes) > 1 {
					if !t.Run(name, one) {
						failed++
					}
				} else if one(t); t.Failed() {
					failed++
				}
			}
		}
	})
	return n, failed
}

// TestFaultList: no row is missing, and for each phase there is a cell or a reason why there is none.
func TestFaultList(t *testing.T) {
	for i, f := range faults {
		if f.no != i+1 {
			t.Fatalf("row %d is %d_%s", i+1, f.no, f.name)
		}
		for p := range phase(len(phaseNames)) {
			if drives, not := f.drives(p); (len(drives) == 0) == (not == "") {
				t.Errorf("%02d_%s, %v: %d cells, and the reason for none is %q", f.no, f.name, p, len(drives), not)
			}
		}
		if dir, name, ok := strings.Cut(f.real, ": "); f.real != "" {
			files, _ := filepath.Glob(filepath.Join("../../..", dir, "*_test.go"))
			found := slices.ContainsFunc(files, func(file string) bool {
				text, err := os.ReadFile(file)
				return err == nil && strings.Contains(string(text), "func "+name+"(")
			})
			if !ok || !found {
				t.Errorf("%02d_%s: there is no %s", f.no, f.name, f.real)
			}
		}
	}
	if len(faults) != 54 {
		t.Errorf("%d rows, want 54", len(faults))
	}
}
