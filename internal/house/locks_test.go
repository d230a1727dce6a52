package house

import (
	"bytes"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// This file answers: which locks are taken while which are held, and can two goroutines wait for each other's?

// TestLocks: all pairs of a lock that is held and one that is taken under it stand in locks.txt, and they make no circle. A mutex
// whose comment says "a leaf lock" has none under it. What is found is more than what can happen, never less, but for functions
// that are called through a field.
func TestLocks(t *testing.T) {
	p := newProgram(t)
	pairs := p.pairs()
	compare(t, "locks.txt", "is held while one takes", pairs, "# lock: those that are taken while it is held.\n")
	if circle := largestCircle(pairs); len(circle) > 0 {
		t.Errorf("these may wait for each other: %s", strings.Join(circle, " "))
	}
	for lock, under := range pairs {
		if slices.Contains(under, lock) {
			t.Errorf("%s may be taken while it is held", lock)
		}
		if p.leaves[lock] && len(under) > 0 {
			t.Errorf("%s is a leaf lock, as its comment says, and %v are taken under it", lock, under)
		}
	}
	if len(p.leaves) < 10 {
		t.Errorf("%d leaf locks were found: this test is blind", len(p.leaves))
	}
}

// program is the root package with those that it is made of, as functions that lock and call.
type program struct {
	fset   *token.FileSet
	leaves map[string]bool      // locks whose comment says so
	nodes  map[any]*routine     // by *types.Func or *ast.FuncLit
	named  map[string][]*method // by name, for calls through an interface
	info   map[*ast.File]*types.Info
}

// routine is one function.
type routine struct {
	acts  []act // in the order of the text
	calls []any // functions that it is given, and calls whenever it wants
}

// method is one that an interface may call.
type method struct {
	*routine
	has *types.MethodSet // its type's
}

// act is what a function does at one place of its text.
type act struct {
	lock, unlock string // a lock; "": none
	deferred     bool
	call         any         // *types.Func, *ast.FuncLit
	method       *types.Func // called through an interface
}

func newProgram(t *testing.T) *program {
	t.Helper()
	p := &program{
		fset: token.NewFileSet(), leaves: make(map[string]bool), nodes: make(map[any]*routine), named: make(map[string][]*method),
		info: make(map[*ast.File]*types.Info),
	}
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{.GoFiles}}", ".")
	cmd.Dir = root
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &failed)
	}
	exports, ours := make(map[string]string), make(map[string]*types.Package)
	from := importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for line := range strings.Lines(string(out)) { // what is imported comes before who imports it
		columns := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if exports[columns[0]] = columns[1]; !strings.HasPrefix(columns[0], modulePath) {
			continue
		}
		var files []*ast.File
		for _, name := range strings.Fields(strings.Trim(columns[3], "[]")) {
			file, err := parser.ParseFile(p.fset, path.Join(columns[2], name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		info := &types.Info{Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object), Types: make(map[ast.Expr]types.TypeAndValue),
			Selections: make(map[*ast.SelectorExpr]*types.Selection)}
		conf := types.Config{Importer: mixed{ours, from}}
		pkg, err := conf.Check(columns[0], p.fset, files, info)
		if err != nil {
			t.Fatal(err)
		}
		ours[columns[0]] = pkg
		for _, file := range files {
			p.read(file, info, pkg.Name())
		}
	}
	return p
}

// mixed imports what was checked from its source, and all else from export data.
type mixed struct {
	ours map[string]*types.Package
	from types.Importer
}

func (m mixed) Import(path string) (*types.Package, error) {
	if pkg := m.ours[path]; pkg != nil {
		return pkg, nil
	}
	return m.from.Import(path)
}

// read takes in a file.
func (p *program) read(file *ast.File, info *types.Info, pkg string) {
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if spec, ok := spec.(*ast.TypeSpec); ok {
					p.readType(pkg, spec)
				}
			}
		case *ast.FuncDecl:
			if decl.Body == nil {
				continue
			}
			f := info.Defs[decl.Name].(*types.Func)
			r := &routine{}
			if recv := f.Signature().Recv(); recv != nil {
				p.named[f.Name()] = append(p.named[f.Name()], &method{r, types.NewMethodSet(pointerTo(recv.Type()))})
			}
			p.nodes[f] = r
			p.walk(r, decl.Body, info)
		}
	}
}

// readType notes which mutexes are leaves.
func (p *program) readType(pkg string, spec *ast.TypeSpec) {
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range s.Fields.List {
		if sel, ok := field.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Mutex" && field.Comment != nil && len(field.Names) == 1 {
			if text := field.Comment.Text(); strings.Contains(text, "leaf lock") && !strings.Contains(text, "but for") {
				p.leaves[pkg+"."+spec.Name.Name+"."+field.Names[0].Name] = true
			}
		}
	}
}

func pointerTo(t types.Type) types.Type {
	if _, ok := t.(*types.Pointer); ok {
		return t
	}
	return types.NewPointer(t)
}

func typeName(t types.Type) string {
	if ptr, ok := t.(*types.Pointer); ok {
		t = ptr.Elem()
	}
	if named, ok := t.(*types.Named); ok {
		return named.Obj().Pkg().Name() + "." + named.Obj().Name()
	}
	return ""
}

// walk notes what a body does, in the order of its text.
func (p *program) walk(r *routine, body ast.Node, info *types.Info) {
	var visit func(n ast.Node, deferred bool)
	visit = func(n ast.Node, deferred bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt: // it holds none of our locks
				p.literal(n.Call.Fun, info)
				for _, arg := range n.Call.Args {
					visit(arg, false)
				}
				return false
			case *ast.DeferStmt:
				visit(n.Call, true)
				return false
			case *ast.FuncLit: // it is called here, unless it was an argument
				r.acts = append(r.acts, act{call: p.literal(n, info)})
				return false
			case *ast.CallExpr:
				p.call(r, n, info, deferred, visit)
				return false
			}
			return true
		})
	}
	visit(body, false)
}

// literal makes a function of its own of a literal.
func (p *program) literal(e ast.Expr, info *types.Info) any {
	lit, ok := e.(*ast.FuncLit)
	if !ok {
		return nil
	}
	if p.nodes[lit] == nil {
		own := &routine{}
		p.nodes[lit] = own
		p.walk(own, lit.Body, info)
	}
	return lit
}

// call notes a call: of a mutex, of a function, of a method of an interface.
func (p *program) call(r *routine, c *ast.CallExpr, info *types.Info, deferred bool, visit func(ast.Node, bool)) {
	var callee *types.Func
	viaInterface := false
	fun := ast.Unparen(c.Fun)
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	switch fun := fun.(type) {
	case *ast.SelectorExpr:
		if sel, ok := fun.X.(*ast.SelectorExpr); ok && isMutex(info.TypeOf(fun.X)) {
			lock := typeName(info.TypeOf(sel.X)) + "." + sel.Sel.Name
			switch fun.Sel.Name {
			case "Lock":
				r.acts = append(r.acts, act{lock: lock})
			case "Unlock":
				r.acts = append(r.acts, act{unlock: lock, deferred: deferred})
			}
			return
		}
		visit(fun.X, false)
		callee, _ = info.Uses[fun.Sel].(*types.Func)
		if s := info.Selections[fun]; s != nil && callee != nil {
			viaInterface = types.IsInterface(s.Recv()) && !isTypeParam(s.Recv())
		}
	case *ast.Ident:
		callee, _ = info.Uses[fun].(*types.Func)
	case *ast.FuncLit:
		r.acts = append(r.acts, act{call: p.literal(fun, info)})
	}
	given := p.given(c, info, visit)
	switch {
	case isBuiltin(fun, info): // append keeps them
	case callee == nil, callee.Pkg() == nil:
		r.later(given)
	case viaInterface:
		r.acts = append(r.acts, act{method: callee})
		r.later(given)
	case !strings.HasPrefix(callee.Pkg().Path(), modulePath):
		if name := callee.Name(); name != "AfterFunc" && name != "Go" { // else another goroutine calls them
			r.later(given)
		}
	default:
		callee = callee.Origin()
		r.acts = append(r.acts, act{call: callee, deferred: deferred})
		if p.nodes[callee] == nil {
			p.nodes[callee] = &routine{}
		}
		p.nodes[callee].calls = append(p.nodes[callee].calls, given...)
	}
}

// later notes that r calls what it gave away, here.
func (r *routine) later(given []any) {
	for _, f := range given {
		r.acts = append(r.acts, act{call: f})
	}
}

// given are the functions among a call's arguments.
func (p *program) given(c *ast.CallExpr, info *types.Info, visit func(ast.Node, bool)) (given []any) {
	for _, arg := range c.Args {
		switch arg := ast.Unparen(arg).(type) {
		case *ast.FuncLit:
			given = append(given, p.literal(arg, info))
			continue
		case *ast.SelectorExpr:
			if f, ok := info.Uses[arg.Sel].(*types.Func); ok && f.Pkg() != nil && strings.HasPrefix(f.Pkg().Path(), modulePath) {
				given = append(given, f.Origin())
			}
		}
		visit(arg, false)
	}
	return given
}

func isMutex(t types.Type) bool { return t != nil && t.String() == "sync.Mutex" }

func isBuiltin(e ast.Expr, info *types.Info) bool {
	ident, ok := e.(*ast.Ident)
	if ok {
		_, ok = info.Uses[ident].(*types.Builtin)
	}
	return ok
}

func isTypeParam(t types.Type) bool { _, ok := t.(*types.TypeParam); return ok }

// takes are the locks that a function may take, itself or through others.
func (p *program) takes(f any, seen map[any]bool) map[string]bool {
	all := make(map[string]bool)
	var follow func(r *routine)
	follow = func(r *routine) {
		if r == nil || seen[r] {
			return
		}
		seen[r] = true
		let := make(map[string]int) // locks of its callers that it has let go of, to take them again
		for _, a := range r.acts {
			if a.unlock != "" {
				let[a.unlock]++
			}
			if a.lock != "" {
				if let[a.lock]--; let[a.lock] < 0 {
					all[a.lock] = true
				}
			}
			for _, next := range p.callees(a) {
				follow(next)
			}
		}
		for _, f := range r.calls {
			follow(p.nodes[f])
		}
	}
	follow(p.nodes[f])
	return all
}

// callees are the functions that an act may call.
func (p *program) callees(a act) []*routine {
	if a.method != nil {
		var all []*routine
		for _, m := range p.named[a.method.Name()] {
			if m.fits(a.method.Signature().Recv().Type().Underlying().(*types.Interface)) {
				all = append(all, m.routine)
			}
		}
		return all
	}
	if a.call != nil {
		return []*routine{p.nodes[a.call]}
	}
	return nil
}

// fits reports whether the method's type has all that an interface asks for, by name.
func (m *method) fits(i *types.Interface) bool {
	for k := range i.NumMethods() {
		if m.has.Lookup(i.Method(k).Pkg(), i.Method(k).Name()) == nil {
			return false
		}
	}
	return true
}

// releases reports whether a function lets go of a lock that its caller holds.
func (r *routine) releases(lock string) bool {
	held := 0
	for _, a := range r.acts {
		if a.lock == lock {
			held++
		}
		if a.unlock == lock {
			held--
		}
	}
	return held < 0
}

// pairs are the locks that may be taken under each.
func (p *program) pairs() map[string][]string {
	sets := make(map[string]map[string]bool)
	for _, r := range p.nodes {
		for i, a := range r.acts {
			if a.lock == "" {
				continue
			}
			if sets[a.lock] == nil {
				sets[a.lock] = make(map[string]bool)
			}
			for _, b := range r.acts[i+1 : p.heldUntil(r, i)] {
				if b.lock != "" && b.lock != a.lock {
					sets[a.lock][b.lock] = true
				}
				for _, next := range p.callees(b) {
					for taken := range p.takesOf(next) {
						sets[a.lock][taken] = true
					}
				}
			}
		}
	}
	maps.DeleteFunc(sets, func(_ string, under map[string]bool) bool { return len(under) == 0 })
	return lists(sets)
}

func (p *program) takesOf(r *routine) map[string]bool {
	for f, own := range p.nodes {
		if own == r {
			return p.takes(f, make(map[any]bool))
		}
	}
	return nil
}

// heldUntil is where what is locked at i is unlocked for the last time: the first act that is not under it any more.
func (p *program) heldUntil(r *routine, i int) int {
	lock, end := r.acts[i].lock, len(r.acts)
	found := false
	for k := i + 1; k < len(r.acts); k++ {
		b := r.acts[k]
		if b.unlock == lock && !b.deferred {
			end, found = k, true
		}
		if b.unlock == lock && b.deferred {
			return len(r.acts)
		}
		if b.lock == lock && found {
			return end
		}
		for _, next := range p.callees(b) {
			if next != nil && !b.deferred && next.releases(lock) {
				return k
			}
		}
	}
	return end
}
