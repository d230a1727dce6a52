package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// This file answers: is each function simple enough to be read?

// mostWays is how many ways may lead through a function: its cyclomatic complexity, as gocyclo counts.
const mostWays = 20

func TestFunctionsAreSimple(t *testing.T) {
	nested, seen := nestedModules(t), 0
	for _, file := range goFiles(t) {
		if dir := path.Dir(file); strings.HasSuffix(file, "_test.go") || slices.ContainsFunc(nested, func(module string) bool { return strings.HasPrefix(dir+"/", module+"/") }) {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, read(t, file), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				if seen++; ways(f) > mostWays {
					t.Errorf("%s: %d ways lead through %s, at most %d may: which of its steps has a name?", file, ways(f), f.Name.Name, mostWays)
				}
			}
		}
	}
	if seen < 500 {
		t.Errorf("%d functions were looked at: this test is blind", seen)
	}
}

// ways is one more than a function has decisions.
func ways(f *ast.FuncDecl) int {
	n := 1
	ast.Inspect(f, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil {
				n++
			}
		case *ast.CommClause:
			if node.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

func TestWays(t *testing.T) {
	for body, want := range map[string]int{
		"":                        1,
		"if a && b || c {}":       4,
		"for range a { if b {} }": 3,
		"switch a { case 1, 2: case 3: default: }":            3,
		"select { case <-a: default: }; func() { if b {} }()": 3,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "f.go", "package p\nfunc f() {"+body+"}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := ways(file.Decls[0].(*ast.FuncDecl)); got != want {
			t.Errorf("%s: %d, want %d", body, got, want)
		}
	}
}
