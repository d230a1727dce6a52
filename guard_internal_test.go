package wsshard

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// This file answers: are the methods that are looked for on the stack found there?

// TestMethodsFoundByName: each method that is looked for on the stack exists under that name, and says that it is found by it. Whoever
// renames one without the other is told.
func TestMethodsFoundByName(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[frame]bool) // of the methods that say so: is one of them looked for?
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if ok && f.Recv != nil && strings.Contains(strings.Join(strings.Fields(f.Doc.Text()), " "), "onStack finds it by this name") {
				said[frame{receiverType(f), f.Name.Name}] = false
			}
		}
	}
	for _, wanted := range []frame{inGuard, inMessage, inHandle, inWriteLoop} {
		if _, ok := said[wanted]; !ok {
			t.Errorf("no method of %s says in its comment that it is found by the name %s", wanted.typ, wanted.method)
		}
		said[wanted] = true
	}
	for f, wanted := range said {
		if !wanted {
			t.Errorf("%s.%s says that it is found by its name, and is not looked for", f.typ, f.method)
		}
	}
}

func receiverType(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if g, ok := typ.(*ast.IndexExpr); ok {
		typ = g.X
	}
	return typ.(*ast.Ident).Name
}

// asksStack is a slog.Handler that looks at the stack.
type asksStack struct {
	slog.Handler
	found bool
}

func (h *asksStack) Handle(context.Context, slog.Record) error {
	h.found = onStack(inHandle)
	return nil
}

// What is on the stack is found, inside generic code and outside of it, and nothing else.
func TestOnStack(t *testing.T) {
	c := &core[string]{log: slog.New(slog.DiscardHandler)}
	c.guard("here", func() {
		if !onStack(inWriteLoop, inGuard) {
			t.Error("guard is not found")
		}
		if onStack(inMessage, inHandle, inWriteLoop) {
			t.Error("something is found that is not there")
		}
	}, nil)
	h := &asksStack{Handler: slog.NewTextHandler(io.Discard, nil)}
	slog.New(guardedLog{h, &c.count.panics}).Info("asked")
	if !h.found || onStack(inGuard) {
		t.Errorf("a log handler is found: %v, guard, which has returned: %v", h.found, onStack(inGuard))
	}
	for name, want := range map[string]bool{
		"(*core[...]).guard": true, "(*core).guard": true, "core[...].guard": true, "core.guard": true,
		"(*core[...]).guard.func1": false, "(*score[...]).guard": false, "(*core[...]).onguard": false, "(*cores).guard": false, "guard": false,
	} {
		if got := inGuard.is(name); got != want {
			t.Errorf("%s is guard: %v", name, got)
		}
	}
	if own := reflect.TypeFor[Config]().PkgPath() + "."; packagePath != own {
		t.Errorf("functions of %s are looked for by %s", own, packagePath)
	}
}
