package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// This file answers: which mutants are there, and how do all of them live in one program?

// mutant is one small mistake. All of a package are woven into its source, each dormant until the environment names it, so
// that hundreds cost one compilation.
type mutant struct {
	ID   int    `json:"-"` // in this build
	Key  string // the same in every build of the same source
	File string
	Line int `json:"-"`
	Func string
	Op   string
	Text string // what is mutated
}

// weaver adds mutants to one file.
type weaver struct {
	p     *pkg
	path  string
	src   []byte
	next  *int
	found []mutant
	edits []edit
	named map[string]int
	stack []ast.Node
	opens int
}

// edit replaces src[from:to].
type edit struct {
	from, to int
	text     string
	order    int // among those that begin at the same place
}

// weave returns the source of a file with its mutants. next is the id of the first; it counts on.
func weave(p *pkg, path string, next *int) (woven []byte, found []mutant) {
	w := &weaver{p: p, path: path, src: p.src[path], next: next, named: make(map[string]int)}
	ast.PreorderStack(p.files[path], nil, func(n ast.Node, stack []ast.Node) bool {
		w.stack = stack
		w.visit(n)
		return true
	})
	slices.SortStableFunc(w.edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.order, b.order)) })
	var out []byte
	at := 0
	for _, e := range w.edits {
		out = append(append(out, w.src[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, w.src[at:]...), w.found
}

func (w *weaver) visit(n ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		w.binary(n)
	case *ast.IfStmt:
		w.negate(n.Cond, "condition")
	case *ast.ForStmt:
		if n.Cond != nil {
			w.negate(n.Cond, "condition")
		}
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, c := range n.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					w.negate(e, "case")
				}
			}
		}
	case *ast.BlockStmt:
		w.statements(n.List)
	case *ast.CaseClause:
		w.statements(n.Body)
	case *ast.CommClause:
		w.statements(n.Body)
	case *ast.ReturnStmt:
		w.results(n)
	case *ast.CallExpr:
		w.minMax(n)
	}
}

// binary mutates an operator.
func (w *weaver) binary(e *ast.BinaryExpr) {
	if w.constant(e) {
		return
	}
	kind := w.basic(e.X)
	if untyped := w.basic(e.Y); kind&types.IsUntyped != 0 {
		kind = untyped
	}
	number := kind&types.IsNumeric != 0
	switch e.Op {
	case token.LAND:
		w.wrap(e, "and", "mutAnd", ", func() bool { return (", ")})")
	case token.LOR:
		w.wrap(e, "or", "mutOr", ", func() bool { return (", ")})")
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		if kind&types.IsOrdered != 0 {
			name := map[token.Token]string{token.LSS: "mutLss", token.LEQ: "mutLeq", token.GTR: "mutGtr", token.GEQ: "mutGeq"}[e.Op]
			w.wrap(e, "bound", name, ",", ")")
		}
	case token.ADD, token.SUB, token.MUL, token.QUO:
		if number {
			name := map[token.Token]string{token.ADD: "mutAdd", token.SUB: "mutSub", token.MUL: "mutMul", token.QUO: "mutQuo"}[e.Op]
			w.wrap(e, "arithmetic", name, ",", ")")
		}
	case token.EQL, token.NEQ:
		if !w.isCondition(e) {
			w.negate(e, "equality")
		}
	}
}

// wrap turns x op y into name(id, x, y).
func (w *weaver) wrap(e *ast.BinaryExpr, op, name, between, end string) {
	id := w.add(e, op)
	w.open(e.Pos(), fmt.Sprintf("%s(%d, ", name, id))
	at := w.offset(e.OpPos)
	w.edits = append(w.edits, edit{from: at, to: at + len(e.Op.String()), text: between})
	w.close(e.End(), end)
}

func (w *weaver) negate(e ast.Expr, op string) {
	if w.constant(e) {
		return
	}
	id := w.add(e, op)
	w.open(e.Pos(), fmt.Sprintf("mutNot(%d, ", id))
	w.close(e.End(), ")")
}

// statements drops each statement that something else could do without.
func (w *weaver) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok {
				if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
					continue
				}
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.IncDecStmt, *ast.SendStmt, *ast.DeferStmt, *ast.GoStmt:
		case *ast.BranchStmt:
			if s.Tok != token.BREAK && s.Tok != token.CONTINUE {
				continue
			}
		case *ast.ReturnStmt:
			if f := w.signature(); f == nil || f.Results().Len() > 0 {
				continue
			}
		default:
			continue
		}
		id := w.add(s, "dropped")
		w.open(s.Pos(), fmt.Sprintf("if mutKeeps(%d) { ", id))
		w.close(s.End(), " }")
	}
}

// results mutates what is returned.
func (w *weaver) results(s *ast.ReturnStmt) {
	f := w.signature()
	if f == nil || f.Results().Len() != len(s.Results) {
		return
	}
	for i, e := range s.Results {
		t := f.Results().At(i).Type()
		tv := w.p.info.Types[e]
		switch {
		case types.Identical(t, types.Typ[types.Bool]) && !w.isNegated(e):
			id := w.add(e, "result")
			w.open(e.Pos(), fmt.Sprintf("mutNot(%d, ", id))
			w.close(e.End(), ")")
		case types.Identical(t, types.Universe.Lookup("error").Type()) && !tv.IsNil():
			id := w.add(e, "no error")
			w.open(e.Pos(), fmt.Sprintf("mutErr(%d, ", id))
			w.close(e.End(), ")")
		}
	}
}

// isNegated reports whether another visit negates e already.
func (w *weaver) isNegated(e ast.Expr) bool {
	b, ok := e.(*ast.BinaryExpr)
	return ok && (b.Op == token.EQL || b.Op == token.NEQ) && !w.constant(e)
}

// minMax swaps the two builtins.
func (w *weaver) minMax(e *ast.CallExpr) {
	f, ok := e.Fun.(*ast.Ident)
	if !ok || w.constant(e) {
		return
	}
	if _, ok := w.p.info.Uses[f].(*types.Builtin); !ok || f.Name != "min" && f.Name != "max" {
		return
	}
	id := w.add(e, "extreme")
	from := w.offset(f.Pos())
	w.opens++
	w.edits = append(w.edits, edit{from: from, to: w.offset(e.Lparen) + 1, text: fmt.Sprintf("mut%s(%d, ", strings.ToUpper(f.Name[:1])+f.Name[1:], id), order: w.opens})
}

func (w *weaver) add(n ast.Node, op string) (id int) {
	text := strings.Join(strings.Fields(string(w.src[w.offset(n.Pos()):w.offset(n.End())])), " ")
	if len(text) > 70 {
		text = text[:70] + "…"
	}
	m := mutant{ID: *w.next, File: w.path, Line: w.p.fset.Position(n.Pos()).Line, Func: w.function(), Op: op, Text: text}
	m.Key = fmt.Sprintf("%s %s: %s: %s", m.File, m.Func, m.Op, m.Text)
	if w.named[m.Key]++; w.named[m.Key] > 1 {
		m.Key = fmt.Sprintf("%s (%d)", m.Key, w.named[m.Key])
	}
	*w.next++
	w.found = append(w.found, m)
	return m.ID
}

// open inserts text where a node begins: the outer one's first. Nodes are visited outside in.
func (w *weaver) open(pos token.Pos, text string) {
	w.opens++
	w.edits = append(w.edits, edit{w.offset(pos), w.offset(pos), text, w.opens})
}

// close inserts text where a node ends: the inner one's first.
func (w *weaver) close(pos token.Pos, text string) {
	w.edits = append(w.edits, edit{w.offset(pos), w.offset(pos), text, -w.opens})
}

func (w *weaver) offset(pos token.Pos) int { return w.p.fset.Position(pos).Offset }

func (w *weaver) constant(e ast.Expr) bool { return w.p.info.Types[e].Value != nil }

func (w *weaver) basic(e ast.Expr) types.BasicInfo {
	t := w.p.info.TypeOf(e)
	if t == nil {
		return 0
	}
	b, ok := t.Underlying().(*types.Basic)
	if !ok {
		return 0
	}
	return b.Info()
}

func (w *weaver) isCondition(e ast.Expr) bool {
	switch s := w.stack[len(w.stack)-1].(type) {
	case *ast.IfStmt:
		return s.Cond == e
	case *ast.ForStmt:
		return s.Cond == e
	case *ast.CaseClause:
		sw, ok := w.stack[len(w.stack)-3].(*ast.SwitchStmt)
		return ok && sw.Tag == nil && slices.Contains(s.List, e)
	}
	return false
}

// function names the declaration around the current node.
func (w *weaver) function() string {
	for _, n := range w.stack {
		if f, ok := n.(*ast.FuncDecl); ok {
			return f.Name.Name
		}
	}
	return ""
}

// signature is that of the innermost function around the current node.
func (w *weaver) signature() *types.Signature {
	for _, n := range slices.Backward(w.stack) {
		switch f := n.(type) {
		case *ast.FuncLit:
			return w.p.info.TypeOf(f).(*types.Signature)
		case *ast.FuncDecl:
			return w.p.info.Defs[f.Name].Type().(*types.Signature)
		}
	}
	return nil
}
