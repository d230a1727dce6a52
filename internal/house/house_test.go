// Package house has no code, only tests: they watch the rules by which this repository is built.
package house

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file answers: is each file short, does it say what it answers, and does it import what it may?
//
//	go test ./internal/house -args -update
//
// writes imports.txt, arrows.txt and locks.txt anew. What changes in them is what a reviewer looks at.

var update = flag.Bool("update", false, "write imports.txt, arrows.txt and locks.txt as the code is now")

const (
	root       = "../.."
	modulePath = "github.com/seed-829c304d/wsshard"
	mostLines  = 450
)

// goFiles are the Go files of the repository by their paths from its root, nested modules' too.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() && name != root && (strings.HasPrefix(base, ".") || base == "node_modules" || base == "testdata") {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil || len(files) < 100 {
		t.Fatalf("%d Go files: %v", len(files), err)
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestFilesAreShort(t *testing.T) {
	for _, file := range goFiles(t) {
		if n := bytes.Count(read(t, file), []byte("\n")); n > mostLines {
			t.Errorf("%s has %d lines, at most %d are allowed: which of its questions is another file's?", file, n, mostLines)
		}
	}
}

// TestFilesBeginWithTheirQuestion: a reader sees in each file of the library's heart what it is for. doc.go has the package's
// own comment instead.
func TestFilesBeginWithTheirQuestion(t *testing.T) {
	question := regexp.MustCompile(`This file answers: [^?]+\?`)
	for _, file := range goFiles(t) {
		if strings.Contains(file, "/") || strings.HasSuffix(file, "_test.go") || file == "doc.go" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(parsed.Comments, func(c *ast.CommentGroup) bool {
			return question.MatchString(strings.ReplaceAll(c.Text(), "\n", " "))
		}) {
			t.Errorf(`%s: a comment below the package clause must say "This file answers: …?"`, file)
		}
	}
}

// TestImports: which package imports which, and which modules of others, stands in imports.txt. Internal packages import
// neither the root nor each other unless it is said there.
func TestImports(t *testing.T) {
	nested := nestedModules(t)
	sets := make(map[string]map[string]bool)
	for _, file := range goFiles(t) {
		dir := path.Dir(file)
		if slices.ContainsFunc(nested, func(module string) bool { return dir == module || strings.HasPrefix(dir, module+"/") }) {
			continue
		}
		name := dir
		if strings.HasSuffix(file, "_test.go") {
			name += " (tests)"
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") { // the standard library
				continue
			}
			switch own, ok := strings.CutPrefix(imported, modulePath); {
			case ok && own == "":
				imported = "."
			case ok && strings.HasPrefix(own, "/"):
				imported = own[1:]
			}
			if imported == dir { // tests outside a package import it
				continue
			}
			if sets[name] == nil {
				sets[name] = make(map[string]bool)
			}
			sets[name][imported] = true
		}
	}
	compare(t, "imports.txt", "imports", lists(sets), "# package: what it imports from this module (. is the root) and from others; of the tests, what only they import counts too.\n")
}

// nestedModules are the directories below the root that have a go.mod of their own.
func nestedModules(t *testing.T) (dirs []string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, file := range goFiles(t) {
		for dir := path.Dir(file); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(dir), "go.mod")); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func lists(sets map[string]map[string]bool) map[string][]string {
	all := make(map[string][]string, len(sets))
	for name, set := range sets {
		all[name] = slices.Sorted(maps.Keys(set))
	}
	return all
}

// compare checks a list against a file of lines "name: one another", or writes the file.
func compare(t *testing.T, file, verb string, got map[string][]string, head string) {
	t.Helper()
	if *update {
		text := head
		for _, name := range slices.Sorted(maps.Keys(got)) {
			text += name + ": " + strings.Join(got[name], " ") + "\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if name, list, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(line, "#") {
			want[name] = strings.Fields(list)
		}
	}
	names := make(map[string]bool)
	for name := range maps.Keys(got) {
		names[name] = true
	}
	for name := range maps.Keys(want) {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, what := range got[name] {
			if !slices.Contains(want[name], what) {
				t.Errorf("%s %s %s, which %s does not allow: do without, or add it there and say why in the commit", name, verb, what, file)
			}
		}
		for _, what := range want[name] {
			if !slices.Contains(got[name], what) {
				t.Errorf("%s no longer %s %s: take it out of %s", name, verb, what, file)
			}
		}
	}
}
