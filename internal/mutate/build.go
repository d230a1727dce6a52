package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// This file answers: how do mutants become test programs, with nothing written into the library's tree?

//go:embed awake.go.txt
var awake string

// targets are the files that are mutated, by package.
var targets = map[string][]string{
	".": {
		"shard.go", "slot.go", "session.go", "board.go", "read.go", "write.go", "request.go", "outbox.go", "pen.go", "attempt.go",
		"switchover.go", "change.go", "cutover.go", "relay.go", "handover.go", "claims.go", "gap.go", "health.go", "backoff.go", "gate.go",
	},
	"internal/reconcile": nil, // all of it
	"internal/placement": nil,
}

// acceptance are the directories whose tests see the library from outside.
func acceptance(root string) (dirs []string, err error) {
	seen := make(map[string]bool)
	err = filepath.WalkDir(filepath.Join(root, "internal", "acceptance"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(name))
		seen[dir] = true
		return err
	})
	return sortedKeys(seen), err
}

// overlay is what `go build -overlay` reads: sources that take the place of others.
type overlay struct {
	root, dir string // of the library; for the replacements
	replace   map[string]string
}

func newOverlay(root, dir string) *overlay {
	return &overlay{root: root, dir: dir, replace: make(map[string]string)}
}

// put has src stand in for path, which is relative to the module.
func (o *overlay) put(path string, src []byte) error {
	file := filepath.Join(o.dir, strings.ReplaceAll(path, string(filepath.Separator), "_"))
	o.replace[filepath.Join(o.root, path)] = file
	return os.WriteFile(file, src, 0o600)
}

// compile makes the test program of a package.
func (o *overlay) compile(pkg string) (suite, error) {
	name := strings.ReplaceAll(strings.Replace(pkg, ".", "root", 1), string(filepath.Separator), "_")
	s := suite{bin: filepath.Join(o.dir, name+".test"), dir: filepath.Join(o.root, pkg)}
	list, err := json.Marshal(map[string]any{"Replace": o.replace})
	if err != nil {
		return s, err
	}
	file := filepath.Join(o.dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return s, err
	}
	cmd := exec.Command("go", "test", "-c", "-overlay", file, "-o", s.bin, "./"+pkg)
	cmd.Dir = o.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return s, fmt.Errorf("%w: %s", err, out)
	}
	return s, nil
}

// weaveAll puts all mutants into o.
func weaveAll(l *loader, o *overlay, only string) (found []mutant, err error) {
	next := 1
	woven := make(map[string]string) // packages, by directory: their name
	for _, dir := range sortedKeys(targets) {
		p, err := l.load(dir, nil)
		if err != nil {
			return nil, err
		}
		for _, path := range sortedKeys(p.files) {
			list := targets[dir]
			if list != nil && !slices.Contains(list, filepath.Base(path)) || only != "" && !strings.Contains(path, only) {
				continue
			}
			src, more := weave(p, path, &next)
			if err := o.put(path, src); err != nil {
				return nil, err
			}
			found = append(found, more...)
			woven[dir] = p.name
		}
	}
	for dir, name := range woven {
		src := strings.Replace(strings.Replace(awake, "PACKAGE", name, 1), "MUTANTS", strconv.Itoa(next), 1)
		if err := o.put(filepath.Join(dir, "mutants.go"), []byte(src)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
