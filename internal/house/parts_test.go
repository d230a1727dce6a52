package house

import (
	"go/ast"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// This file answers: does each part of a session keep to its own fields?

// parts are the types of which only their own methods may name a field: one goroutine owns each.
var parts = []string{"reader", "writer"}

// TestPartsOfASession: what the read loop owns is named by methods of reader only, and what the write loop owns by methods of writer.
func TestPartsOfASession(t *testing.T) {
	named, wrong := partsOf(t, checkRoot(t), parts)
	for _, part := range parts {
		if named[part] < 10 {
			t.Errorf("fields of %s are named %d times: this test is blind", part, named[part])
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// partsOf counts how often fields of each part are named, and says where a function names one that is not its own.
func partsOf(t *testing.T, p *checked, parts []string) (named map[string]int, wrong []string) {
	t.Helper()
	owner := make(map[types.Object]string)
	for _, part := range parts {
		object := p.pkg.Scope().Lookup(part)
		if object == nil {
			t.Fatalf("there is no type %s", part)
		}
		fields := object.Type().Underlying().(*types.Struct)
		for i := range fields.NumFields() {
			if field := fields.Field(i); !field.Embedded() {
				owner[field] = part
			}
		}
	}
	named = make(map[string]int)
	for _, file := range p.files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				field, ok := p.info.Uses[selector.Sel].(*types.Var)
				if !ok {
					return true
				}
				if part := owner[field.Origin()]; part != "" {
					if named[part]++; receiver(f) != part {
						wrong = append(wrong, p.fset.Position(selector.Pos()).String()+": "+f.Name.Name+" names "+field.Name()+", which belongs to "+part)
					}
				}
				return true
			})
		}
	}
	return named, wrong
}

// receiver is the name of the type whose method f is; "": it is a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if g, ok := typ.(*ast.IndexExpr); ok {
		typ = g.X
	}
	name, _ := typ.(*ast.Ident)
	if name == nil {
		return ""
	}
	return name.Name
}

// Where a function names what belongs to another part, through however many others, partsOf notices.
func TestPartsAreSeen(t *testing.T) {
	const source = `package p
type base[S any] struct { r reader[S]; w writer[S] }
type reader[S any] struct { *base[S]; live bool }
type writer[S any] struct { *base[S]; pace int }
func (r *reader[S]) own() bool { return r.live }
func (r *reader[S]) foreign() int { return r.w.pace }
func (w *writer[S]) own() int { return func() int { return w.base.w.pace }() }
func (b *base[S]) both() bool { return b.r.live && b.w.pace > 0 }
`
	_, wrong := partsOf(t, check(t, map[string]string{"p.go": source}, nil), parts)
	var where []string
	for _, w := range wrong {
		_, what, _ := strings.Cut(w, ": ")
		where = append(where, what)
	}
	want := []string{"foreign names pace, which belongs to writer", "both names live, which belongs to reader", "both names pace, which belongs to writer"}
	if !slices.Equal(where, want) {
		t.Errorf("%q, want %q", where, want)
	}
}
