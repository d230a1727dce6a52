package harness

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// This file answers: what does the library leave behind?

// WantLoops checks which goroutines the library runs: n of each.
func WantLoops(t *testing.T, when string, n int, each ...string) {
	t.Helper()
	synctest.Wait()
	var want []string
	for range n {
		want = append(want, each...)
	}
	slices.Sort(want)
	if got := Loops(); !slices.Equal(got, want) {
		t.Errorf("%s: %d goroutines:\n%s\nwant %d:\n%s", when, len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

const (
	ReconnectLoop = "(*ShardManager).launchLocked"
	ReadLoop      = "(*reader).run"
	WriteLoop     = "(*writer).run"
	ObserverLoop  = "(*run).observe"
)

// Main is TestMain of each suite: it sees to it that no goroutine of the library outlives the tests. Bubbles look for themselves; this is for tests
// with real goroutines and sockets.
func Main(m *testing.M) {
	code := m.Run()
	if left := LeftOver(10 * time.Second); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// LeftOver waits until no goroutine of the library is left, and returns those that stay. A goroutine that has done its last
// takes a moment to end, and there is nothing to wait on for that.
func LeftOver(limit time.Duration) (left []string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		if left = Ours(); len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

const libraryFrame = "github.com/seed-829c304d/wsshard."

// Ours returns the stacks of the goroutines that the library runs, the caller's aside. In a bubble only its own count: one of
// the test before, with real sockets, may be about to end.
func Ours() (stacks []string) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := strings.Split(strings.TrimSpace(string(buf)), "\n\n")
	caller, _, _ := strings.Cut(all[0], "\n")
	_, bubble, _ := strings.Cut(caller, ", synctest bubble ") // "7]:"
	for _, stack := range all[1:] {
		if head, _, _ := strings.Cut(stack, "\n"); bubble != "" && !strings.HasSuffix(head, ", synctest bubble "+bubble) {
			continue
		}
		if slices.ContainsFunc(strings.Split(stack, "\n"), func(line string) bool { return strings.HasPrefix(line, libraryFrame) }) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// Loops returns the functions of the library that its goroutines began with, sorted: closures by the function they are in, without
// package and type arguments.
func Loops() (names []string) {
	for _, stack := range Ours() {
		outermost := ""
		for line := range strings.SplitSeq(stack, "\n") {
			if name, ok := strings.CutPrefix(line, libraryFrame); ok {
				for _, end := range []string{"(0x", "({", "(...)", "()", ".func"} {
					name, _, _ = strings.Cut(name, end)
				}
				outermost = strings.ReplaceAll(name, "[...]", "")
			}
		}
		names = append(names, outermost)
	}
	slices.Sort(names)
	return names
}
