package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// This file answers: what does the library's source say, types and all?

const modulePath = "github.com/seed-829c304d/wsshard"

// pkg is one package of the library, type-checked.
type pkg struct {
	name  string
	fset  *token.FileSet
	files map[string]*ast.File // by path relative to the module
	src   map[string][]byte
	info  *types.Info
}

// loader type-checks packages against the compiled form of what they import.
type loader struct {
	root    string
	exports map[string]string // compiled packages, by import path
}

func newLoader(root string) (*loader, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list in %s: %w", root, err)
	}
	l := &loader{root: root, exports: make(map[string]string)}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return nil, err
		}
		l.exports[p.ImportPath] = p.Export
	}
}

// load parses and checks the package in dir. changed has sources that take the place of what is on disk.
func (l *loader) load(dir string, changed map[string][]byte) (*pkg, error) {
	entries, err := os.ReadDir(filepath.Join(l.root, dir))
	if err != nil {
		return nil, err
	}
	src := make(map[string][]byte)
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		if fits, err := build.Default.MatchFile(filepath.Join(l.root, dir), e.Name()); err != nil || !fits {
			continue // for another system, or for race builds
		}
		path := filepath.Join(dir, e.Name())
		if src[path] = changed[path]; src[path] != nil {
			continue
		}
		if src[path], err = os.ReadFile(filepath.Join(l.root, path)); err != nil {
			return nil, err
		}
	}
	return l.check(filepath.Join(modulePath, dir), src)
}

// check parses and checks a package.
func (l *loader) check(importPath string, src map[string][]byte) (*pkg, error) {
	p := &pkg{
		fset: token.NewFileSet(), files: make(map[string]*ast.File), src: src,
		info: &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)},
	}
	var files []*ast.File
	for _, path := range sortedKeys(src) {
		f, err := parser.ParseFile(p.fset, path, src[path], parser.ParseComments)
		if err != nil {
			return nil, err
		}
		p.name, p.files[path] = f.Name.Name, f
		files = append(files, f)
	}
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(l.exports[path])
	})}
	_, err := conf.Check(importPath, p.fset, files, p.info)
	return p, err
}
