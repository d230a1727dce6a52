package faults

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// This file answers: is there a place in the program where a goroutine may wait and Stop was not tried?

// neverStopped are the functions that look as if they waited and need no Stop there.
var neverStopped = map[string]string{
	"(*opening).begin":          "its channel has room for the one result",
	"(*change).tellKeys":        "its channel is filled when a context ends that has ended",
	"(*opening).askURL":         "its channel has room for the one answer; the wait itself is (*core).apart's",
	"gate.(*Gate).spend":        "a Limiter's wait, which (*opening).admission ends; the stack names no package but ours",
	"gate.(*Gate).quitLocked":   "the Limiter has been told to return",
	"(*outbox).next":            "a send's channel has room for the one result",
	"(*outbox).fail":            "a send's channel has room for the one result",
	"(*HandshakeError).Error":   "a strings.Builder",
	"handshakeError":            "the library below has read the body by then",
	"ended":                     "ctx ends in the same instant",
	"wsconn.(*ahead).fill":      "the same Read, of a real socket: see internal/realworld/servers",
	"wsconn.newAhead":           "it is what fill calls",
	"(*ShardManager).Dump":      "the caller's own writer; no shard waits for it",
	"wsconn.(*sealed).ask":      "it gets what is there: beneath TLS nothing waits",
	"wsconn.(*beneath).Read":    "it is what TLS calls in its handshake, and readHead calls TLS",
	"(*outbox).moveTo":          "a send's channel has room for the one result",
	"wsconn.(*Conn).fill":       "it reads what whole waits for",
	"wsconn.payloadOf.Read":     "a strings.Reader",
	"wsconn.(*Tap).Write":       "it is what Write, control and SendClose call",
	"wsconn.(*Unfinished).hold": "until a reader that a deadline has woken returns",
}

// blocking are the calls that may wait for a peer, the application or another goroutine.
var blocking = []string{
	"Wait", "DialContext", "NetDialContext", "HandshakeContext", "NextReader", "WriteMessage", "WriteControl", "ReadResponse", "ReadAll",
	"WriteString", "Read", "Write", "Sleep", "ReadFull", "Copy",
}

// TestEveryWaitIsListed: each function of the library with a select that has no default, a receive, a send, or a call that may
// block is one in which some point of row 36 was seen to wait, or has a reason why it needs none; and nothing else is listed.
func TestEveryWaitIsListed(t *testing.T) {
	listed := make(map[string]bool)
	for _, sp := range stopPoints {
		for _, f := range append(slices.Clone(sp.waits), sp.during...) {
			listed[f] = true
		}
	}
	found := make(map[string]bool)
	for dir, prefix := range map[string]string{".": "", "internal/wsconn": "wsconn.", "internal/reconcile": "reconcile.", "internal/placement": "placement.", "internal/gate": "gate."} {
		files, err := filepath.Glob(filepath.Join("../../..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := goparser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && mayWait(f) {
					found[prefix+functionName(f)] = true
				}
			}
		}
	}
	for _, f := range slices.Sorted(maps.Keys(found)) {
		if !listed[f] && neverStopped[f] == "" {
			t.Errorf("%s may wait: is Stop tried there?", f)
		}
	}
	for f := range neverStopped {
		if !found[f] {
			t.Errorf("%s does not wait (any more)", f)
		}
	}
}

// mayWait looks for what may block, in closures too.
func mayWait(f *ast.FuncDecl) (may bool) {
	polled := make(map[ast.Node]bool) // what a select asks for
	ast.Inspect(f, func(n ast.Node) bool {
		if polled[n] {
			return false
		}
		switch n := n.(type) {
		case *ast.SelectStmt:
			waits := true
			for _, c := range n.Body.List {
				c := c.(*ast.CommClause)
				if polled[c.Comm] = true; c.Comm == nil {
					waits = false
				}
			}
			may = may || waits
		case *ast.UnaryExpr:
			may = may || n.Op == token.ARROW
		case *ast.SendStmt:
			may = true
		case *ast.CallExpr:
			call, ok := n.Fun.(*ast.SelectorExpr)
			may = may || ok && slices.Contains(blocking, call.Sel.Name)
		}
		return true
	})
	return may
}

// functionName is as a stack has it, without type arguments.
func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	typ, star := f.Recv.List[0].Type, ""
	if p, ok := typ.(*ast.StarExpr); ok {
		typ, star = p.X, "*"
	}
	if g, ok := typ.(*ast.IndexExpr); ok {
		typ = g.X
	}
	name := typ.(*ast.Ident).Name
	if star != "" {
		name = "(*" + name + ")"
	}
	return name + "." + f.Name.Name
}
