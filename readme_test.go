package wsshard_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// TestMain sees to it that the root's tests leave no goroutine of the library behind.
func TestMain(m *testing.M) { harness.Main(m) }

// TestREADME compiles the programs in the README and in docs, looks for its fragments in the tests and examples, and for its commands in
// the script that runs them.
func TestREADME(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var readme []byte
	for _, page := range append(pages, "README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("\n")); n > 250 {
			t.Errorf("%s has %d lines: what is more has a page of its own", page, n)
		}
		wantLinks(t, page, string(text))
		readme = append(readme, text...)
	}
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		switch lang, text := block[1], block[2]; {
		case lang == "go" && strings.HasPrefix(text, "package "):
			file := filepath.Join(t.TempDir(), "main.go")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
				t.Errorf("the README's program: %v\n%s\n%s", err, out, text)
			}
		case lang == "go":
			if !compiled(t, text) {
				t.Errorf("no example contains this fragment:\n%s", text)
			}
		case lang == "sh":
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "go get ") && !strings.Contains(string(ci), line) {
					t.Errorf(".ci/run does not run %q", line)
				}
			}
		}
	}
}

// wantLinks checks that what a page links to, outside of the network, is there.
func wantLinks(t *testing.T, page, text string) {
	t.Helper()
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
			t.Errorf("%s links to %s: %v", page, link[1], err)
		}
	}
}

// compiled reports whether a fragment stands, white space aside, in code that is compiled.
func compiled(t *testing.T, fragment string) bool {
	files, err := filepath.Glob("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(squeeze(strings.ReplaceAll(string(src), "exampleFeed", "feed")), squeeze(fragment)) {
			return true
		}
	}
	return false
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
