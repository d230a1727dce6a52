package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file answers: which files of the root refer to which others, and how many of them reach each other in a circle?

// TestArrows: an arrow leads from a file to each file whose declarations it refers to. All that there are stand in arrows.txt;
// the largest circle there, the files that all reach each other, gets smaller and may not grow.
func TestArrows(t *testing.T) {
	arrows := arrows(t)
	circle := largestCircle(arrows)
	allowed := allowedCircle(t)
	if len(circle) > allowed {
		t.Errorf("%d files reach each other in a circle, at most %d may: %s", len(circle), allowed, strings.Join(circle, " "))
	}
	compare(t, "arrows.txt", "refers to", arrows, fmt.Sprintf("# file: whose declarations it refers to.\n# The largest circle has %d files: %s\n",
		min(allowed, len(circle)), strings.Join(circle, " ")))
	if !*update && len(circle) < allowed {
		t.Errorf("%d files reach each other in a circle, arrows.txt says %d: write it anew (-update), so that it does not grow again", len(circle), allowed)
	}
}

// allowedCircle is the number in arrows.txt. Where there is none, as before the file was first written, any number is allowed.
func allowedCircle(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("arrows.txt")
	found := regexp.MustCompile(`(?m)^# The largest circle has (\d+) files`).FindSubmatch(text)
	if err != nil || found == nil {
		if *update {
			return 1 << 30
		}
		t.Fatalf("arrows.txt does not say how large the largest circle may be: %v", err)
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checked is a package that was type-checked.
type checked struct {
	fset  *token.FileSet
	files []*ast.File
	pkg   *types.Package
	info  *types.Info
}

// checkRoot type-checks the root package. Of what it imports the compiler's export data is read, which the go command knows.
func checkRoot(t *testing.T) *checked {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{if eq .ImportPath \""+modulePath+"\"}}{{.GoFiles}}{{end}}", ".")
	cmd.Dir = root
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &failed)
	}
	exports, sources := make(map[string]string), make(map[string]string)
	for line := range strings.Lines(string(out)) {
		columns := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		exports[columns[0]] = columns[1]
		if columns[2] != "" {
			for _, name := range strings.Fields(strings.Trim(columns[2], "[]")) {
				sources[name] = string(read(t, name))
			}
		}
	}
	return check(t, sources, exports)
}

// check type-checks the files of a package. exports are the files with the export data of what it imports.
func check(t *testing.T, sources, exports map[string]string) *checked {
	t.Helper()
	c := &checked{fset: token.NewFileSet(), info: &types.Info{Uses: make(map[*ast.Ident]types.Object)}}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		file, err := parser.ParseFile(c.fset, name, sources[name], 0)
		if err != nil {
			t.Fatal(err)
		}
		c.files = append(c.files, file)
	}
	conf := types.Config{Importer: importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	var err error
	if c.pkg, err = conf.Check(modulePath, c.fset, c.files, c.info); err != nil {
		t.Fatal(err)
	}
	return c
}

// arrows are those of the root package.
func arrows(t *testing.T) map[string][]string {
	t.Helper()
	c := checkRoot(t)
	sets := make(map[string]map[string]bool)
	for ident, object := range c.info.Uses {
		if object.Pkg() != c.pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := filepath.Base(c.fset.Position(ident.Pos()).Filename), filepath.Base(c.fset.Position(object.Pos()).Filename)
		if from == to {
			continue
		}
		if sets[from] == nil {
			sets[from] = make(map[string]bool)
		}
		sets[from][to] = true
	}
	if len(sets) < 10 {
		t.Fatalf("arrows lead from %d files only: this test is blind", len(sets))
	}
	return lists(sets)
}

// largestCircle returns the files of the largest set in which each reaches each other.
func largestCircle(arrows map[string][]string) (largest []string) {
	reaches := make(map[string]map[string]bool)
	for from := range arrows {
		seen, todo := make(map[string]bool), []string{from}
		for len(todo) > 0 {
			next := todo[0]
			todo = todo[1:]
			for _, to := range arrows[next] {
				if !seen[to] {
					seen[to] = true
					todo = append(todo, to)
				}
			}
		}
		reaches[from] = seen
	}
	for from := range arrows {
		var circle []string
		for to := range reaches[from] {
			if reaches[to][from] {
				circle = append(circle, to)
			}
		}
		slices.Sort(circle)
		if len(circle) > len(largest) || len(circle) == len(largest) && slices.Compare(circle, largest) < 0 {
			largest = circle
		}
	}
	return largest
}

func TestLargestCircle(t *testing.T) {
	for _, c := range []struct {
		arrows map[string][]string
		want   []string
	}{
		{map[string][]string{"a": {"b"}, "b": {"c"}}, nil},
		{map[string][]string{"a": {"b"}, "b": {"a", "c"}}, []string{"a", "b"}},
		{map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, []string{"a", "b", "c"}},
	} {
		if got := largestCircle(c.arrows); !slices.Equal(got, c.want) {
			t.Errorf("of %v: %v, want %v", c.arrows, got, c.want)
		}
	}
}
