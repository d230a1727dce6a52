package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// This file answers: is what the pages for visitors say of the tree still so?

const (
	promisesPage = "docs/promises.md"
	mostPage     = 200 // lines of a page
)

// TestPromises: each promise of doc.go is quoted in docs/promises.md, and each quotation is a promise of doc.go. Behind each come
// commands, whose tests and flags are in the packages that they name.
func TestPromises(t *testing.T) {
	promised := promisesOf(t, "doc.go")
	page := string(read(t, promisesPage))
	quoted := make(map[string]int) // promise: its commands
	now := ""
	for _, block := range strings.Split(page, "\n\n") {
		if strings.HasPrefix(block, "> ") {
			now = squeeze(strings.ReplaceAll("\n"+block, "\n> ", "\n"))
			quoted[now] = 0
		}
		for _, line := range strings.Split(block, "\n") {
			if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise ") {
				continue
			}
			found := regexp.MustCompile("`(go [^`]+)`").FindAllStringSubmatch(line, -1)
			if len(found) == 0 {
				t.Errorf("%s: no command in %q", promisesPage, line)
			}
			for _, command := range found {
				quoted[now]++
				checkCommand(t, command[1])
			}
		}
	}
	for _, promise := range promised {
		if quoted[promise] == 0 {
			t.Errorf("%s has no test for what doc.go promises: %q", promisesPage, promise)
		}
	}
	for quote := range quoted {
		if !slices.Contains(promised, quote) {
			t.Errorf("doc.go does not promise what %s quotes: %q", promisesPage, quote)
		}
	}
}

// promisesOf are the items of the list under "# What is promised", as text.
func promisesOf(t *testing.T, file string) (all []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(parsed.Doc.Text(), "# What is promised")
	section, _, _ = strings.Cut(section, "\n# ")
	for item := range strings.SplitSeq(section, "\n  - ") {
		item, _, _ = strings.Cut(item, "\n\n")
		if item = squeeze(regexp.MustCompile(`\[([\w.]+)\]`).ReplaceAllString(item, "$1")); item != "" {
			all = append(all, item)
		}
	}
	if len(all) < 6 {
		t.Fatalf("%s promises %q only: this test is blind", file, all)
	}
	return all
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// checkCommand looks for the tests and flags that a command names: go [-C dir] test … -run 'pattern' … packages [-args -flag …].
func checkCommand(t *testing.T, command string) {
	t.Helper()
	line, args, _ := strings.Cut(command, " -args ")
	words := strings.Fields(line)
	dir := "."
	if len(words) > 3 && words[1] == "-C" {
		dir, words = words[2], words[2:]
	}
	if len(words) < 3 || words[1] != "test" {
		t.Errorf("%s: %q is no test", promisesPage, command)
		return
	}
	var packages []string
	for _, word := range words {
		if word == "." || strings.HasPrefix(word, "./") {
			packages = append(packages, filepath.ToSlash(filepath.Join(dir, word)))
		}
	}
	if len(packages) == 0 {
		t.Errorf("%s: %q names no package: . is the root", promisesPage, command)
	}
	for _, flag := range []string{"-run", "-fuzz"} {
		i := slices.Index(words, flag)
		if i < 0 {
			continue
		}
		pattern := strings.Trim(words[i+1], "'")
		re, err := regexp.Compile(pattern)
		if err != nil {
			t.Errorf("%s: %q: %v", promisesPage, command, err)
			continue
		}
		for _, name := range packages {
			if !slices.ContainsFunc(testsIn(t, name), re.MatchString) {
				t.Errorf("%s: no test of %s is matched by %s %s; it is %s", promisesPage, name, flag, pattern, whereIs(t, re))
			}
		}
	}
	if !slices.Contains(words, "-run") {
		t.Errorf("%s: %q does not say which test: -run '^TestName$'", promisesPage, command)
	}
	for _, flag := range regexp.MustCompile(`(?:^| )-([a-z.-]+)`).FindAllStringSubmatch(args, -1) {
		if !slices.ContainsFunc(packages, func(name string) bool { return hasFlag(t, name, flag[1]) }) {
			t.Errorf("%s: no test in %s defines the flag -%s", promisesPage, strings.Join(packages, ", "), flag[1])
		}
	}
}

// testsIn are the tests, fuzz targets and examples of a package, by name.
func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && regexp.MustCompile(`^(Test|Fuzz|Example)`).MatchString(f.Name.Name) {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

// whereIs says which package has a test that moved.
func whereIs(t *testing.T, re *regexp.Regexp) string {
	t.Helper()
	seen := make(map[string]bool)
	for _, file := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if slices.ContainsFunc(testsIn(t, dir), re.MatchString) {
			return "in " + dir
		}
	}
	return "nowhere"
}

func hasFlag(t *testing.T, dir, flag string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && regexp.MustCompile(`flag\.\w+\("`+regexp.QuoteMeta(flag)+`",`).Match(text)
	})
}

// TestDocNamesEveryRoom: doc.go says of each file of the root and of each package below it what it is for.
func TestDocNamesEveryRoom(t *testing.T) {
	doc := string(read(t, "doc.go"))
	rooms := make(map[string]bool)
	for _, file := range goFiles(t) {
		switch dir := filepath.ToSlash(filepath.Dir(file)); {
		case dir == "." && !strings.HasSuffix(file, "_test.go") && file != "doc.go":
			rooms[file] = true
		case strings.HasPrefix(dir, "internal/"):
			rooms[dir] = true
		}
	}
	for room := range rooms {
		named := regexp.MustCompile(`(^|[^\w/])` + regexp.QuoteMeta(room) + `\b`)
		if parent := filepath.ToSlash(filepath.Dir(room)); !named.MatchString(doc) && (parent == "internal" || parent == "." || !strings.Contains(doc, parent+"/")) {
			t.Errorf("doc.go does not say what %s is for", room)
		}
	}
}

// pages are those for visitors, by their paths from the root.
func pages(t *testing.T) (all []string) {
	t.Helper()
	for _, pattern := range []string{"CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/decisions/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: no page, %v", pattern, err)
		}
		for _, file := range found {
			rel, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, filepath.ToSlash(rel))
		}
	}
	return all
}

// TestPages: each page is short, what it links to is there, and so is each file and each test that it names.
func TestPages(t *testing.T) {
	tests, files := make(map[string]bool), make(map[string]bool)
	for _, file := range goFiles(t) {
		files[filepath.Base(file)], files[file] = true, true
		dir := filepath.ToSlash(filepath.Dir(file))
		if !files[dir] {
			files[dir] = true
			for _, name := range testsIn(t, dir) {
				tests[name] = true
			}
		}
	}
	for _, page := range pages(t) {
		text := string(read(t, page))
		if n := strings.Count(text, "\n"); n > mostPage {
			t.Errorf("%s has %d lines, at most %d are allowed", page, n, mostPage)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
			}
		}
		for _, name := range regexp.MustCompile("`(Test[A-Z]\\w*|Fuzz[A-Z]\\w*)`").FindAllStringSubmatch(text, -1) {
			if !tests[name[1]] {
				t.Errorf("%s names %s, which is nowhere", page, name[1])
			}
		}
		for _, name := range regexp.MustCompile("`([\\w/]+\\.go)`").FindAllStringSubmatch(text, -1) {
			if !files[name[1]] {
				t.Errorf("%s names %s, which is nowhere", page, name[1])
			}
		}
	}
}

// TestDebuggingKnowsTheLog: who finds a line of the log at night finds it in docs/debugging.md, too.
func TestDebuggingKnowsTheLog(t *testing.T) {
	_, page, _ := strings.Cut(string(read(t, "docs/debugging.md")), "\n## The log\n")
	page, _, _ = strings.Cut(page, "\n## ")
	page = squeeze(page)
	said := 0
	for _, file := range goFiles(t) {
		if strings.Contains(file, "/") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, line := range regexp.MustCompile(`[lL]og\.(Info|Warn|Error)\("([^"]+)"`).FindAllStringSubmatch(string(read(t, file)), -1) {
			if said++; !strings.Contains(page, fmt.Sprintf("`%s`", squeeze(line[2]))) {
				t.Errorf("docs/debugging.md does not explain %q, which %s logs", line[2], file)
			}
		}
	}
	if said < 10 {
		t.Errorf("%d lines of the log were found: this test is blind", said)
	}
}
