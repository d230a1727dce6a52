package main

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func loadLibrary(t *testing.T) *loader {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLoader(root)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Every plant still applies, and what it makes of the library compiles: else it could not be caught.
func TestPlantsApply(t *testing.T) {
	l := loadLibrary(t)
	for _, p := range plants {
		if err := p.check(l); err != nil {
			t.Error(err)
		}
	}
	rotten := plant{"rotten", ".", []replacement{{"shard.go", "no such text", ""}}}
	if err := rotten.check(l); err == nil {
		t.Error("a plant that does not apply is not noticed")
	}
	broken := plant{"broken", ".", []replacement{{"shard.go", "s.renewals.restart()\n\twaited", "s.renewals.restart(\"\")\n\twaited"}}}
	if err := broken.check(l); err == nil {
		t.Error("a plant that does not compile is not noticed")
	}
}

// The woven library compiles, and each file that is named has mutants.
func TestWeaveCompiles(t *testing.T) {
	l := loadLibrary(t)
	ov := newOverlay(l.root, t.TempDir())
	found, err := weaveAll(l, ov, "")
	if err != nil {
		t.Fatal(err)
	}
	in := make(map[string]int)
	keys := make(map[string]bool)
	for _, m := range found {
		in[m.File]++
		if keys[m.Key] {
			t.Errorf("two mutants are called %s", m.Key)
		}
		keys[m.Key] = true
	}
	outside, err := acceptance(l.root)
	if err != nil || !slices.Contains(outside, chaosSuite) {
		t.Errorf("no %s among the acceptance tests %q: %v", chaosSuite, outside, err)
	}
	for dir, list := range targets {
		for _, name := range list {
			if n := in[filepath.Join(dir, name)]; n < 10 {
				t.Errorf("%d mutants in %s", n, name)
			}
		}
		if _, err := ov.compile(dir); err != nil {
			t.Error(err)
		}
	}
}

// What each kind of mutant looks like.
func TestWeave(t *testing.T) {
	l := &loader{root: t.TempDir()}
	src := `package p

func f(n int, ok bool) (bool, error) {
	for n < 3 {
		n = min(n+1, 7)
	}
	if ok && n > 5 {
		g()
	}
	return n == 2, h()
}

func g() { return }
func h() error { return nil }
`
	path := "p.go"
	p, err := l.check("p", map[string][]byte{path: []byte(src)})
	if err != nil {
		t.Fatal(err)
	}
	next := 1
	woven, found := weave(p, path, &next)
	if _, err := parser.ParseFile(token.NewFileSet(), path, woven, 0); err != nil {
		t.Fatalf("%v in\n%s", err, woven)
	}
	for _, want := range []string{
		"for mutNot(1, mutLss(2, n , 3)) {", "if mutKeeps(3) { n = mutMin(4, mutAdd(5, n,1), 7) }",
		"if mutNot(6, mutAnd(7, ok , func() bool { return ( mutGtr(8, n , 5))})) {", "if mutKeeps(9) { g() }",
		"return mutNot(11, n == 2), mutErr(10, h())", "func g() { if mutKeeps(12) { return } }", "func h() error { return nil }",
	} {
		if !strings.Contains(string(woven), want) {
			t.Errorf("%q is not in\n%s", want, woven)
		}
	}
	if len(found) != 12 || found[0].Key != "p.go f: condition: n < 3" || found[11].Line != 13 {
		t.Errorf("%d mutants: %+v", len(found), found)
	}
}

// Which test gets the blame.
func TestCulprit(t *testing.T) {
	for out, want := range map[string]string{
		"=== RUN\n    --- FAIL: TestA/b (0.1s)\n--- FAIL: TestA (0.1s)\n": "TestA",
		"panic: test timed out after 10s\n":                               "hangs",
		"panic: deadlock: all goroutines in bubble are blocked\n":         "deadlock",
		"panic: runtime error: index out of range\n":                      "panic",
		"": "exit status 2",
	} {
		if got := culprit(out, errExit); got != want {
			t.Errorf("%q: %s, want %s", out, got, want)
		}
	}
	out := "    chaos_oracle_test.go:31: I1: t01 is on 2 connections\n    chaos_oracle_test.go:31: I4: twice\n    x_test.go:1: I1: again\n"
	if got := invariants(out, errExit); got != "I1, I4" {
		t.Errorf("invariants %s", got)
	}
}

type exitError struct{}

func (exitError) Error() string { return "exit status 2" }

var errExit error = exitError{}
