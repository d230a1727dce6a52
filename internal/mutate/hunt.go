package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file answers: which mutants survive?

type huntOptions struct {
	root, work string
	only       string // part of a file's name
	seed       uint64
	budget     time.Duration
	each       time.Duration
	most       int
	from       int    // of the plants
	suites     string // a plant asks those that match it
	again      bool   // the survivors of earlier hunts
	workers    int
}

// result is a line of results.jsonl: a hunt goes on where the last one stopped.
type result struct {
	mutant
	verdict
}

func hunt(o huntOptions) error {
	begin := time.Now()
	l, err := newLoader(o.root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.work, 0o700); err != nil {
		return err
	}
	ov := newOverlay(o.root, o.work)
	found, err := weaveAll(l, ov, o.only)
	if err != nil {
		return err
	}
	outside, err := acceptance(o.root)
	if err != nil {
		return err
	}
	programs := make(suites)
	tests := make(map[string][]test)
	for _, dir := range append(sortedKeys(targets), outside...) {
		s, err := ov.compile(dir)
		if err != nil {
			return err
		}
		programs[dir] = s
		if tests[dir], err = traced(s, dir, o); err != nil {
			return err
		}
	}
	var ofRoot []test // what sees the library as a whole
	for _, dir := range append([]string{"."}, outside...) {
		ofRoot = append(ofRoot, tests[dir]...)
	}
	fmt.Printf("%d mutants in %d files; built and traced after %v\n", len(found), len(ov.replace), time.Since(begin).Round(time.Second))

	file := filepath.Join(o.work, "results.jsonl")
	known, err := readResults(file)
	if err != nil {
		return err
	}
	var todo []mutant
	for _, m := range found {
		if r, ok := known[m.Key]; !ok || o.again && !r.Killed {
			todo = append(todo, m)
		}
	}
	// A sample that is the same for the same seed, whichever mutants were tried before.
	slices.SortFunc(todo, func(a, b mutant) int { return compareHash(o.seed, a.Key, b.Key) })
	slices.SortStableFunc(todo, func(a, b mutant) int { return tried(known, b) - tried(known, a) })
	if o.most > 0 && len(todo) > o.most {
		todo = todo[:o.most]
	}
	out, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	var mu sync.Mutex
	each(o.workers, len(todo), func(i int) {
		if time.Since(begin) > o.budget {
			return
		}
		m := todo[i]
		dir := filepath.Dir(m.File)
		var v verdict
		if dir != "." {
			v = programs.hunt(m.ID, tests[dir], o.each)
		}
		if !v.Killed {
			w := programs.hunt(m.ID, ofRoot, o.each)
			w.Tests += v.Tests
			v = w
		}
		mu.Lock()
		defer mu.Unlock()
		known[m.Key] = result{m, v}
		line, _ := json.Marshal(result{m, v})
		fmt.Fprintf(out, "%s\n", line)
	})
	report(found, known)
	return nil
}

// traced runs a suite's tests once each, unless that was done with the very same program.
func traced(s suite, dir string, o huntOptions) (list []test, err error) {
	bin, err := os.ReadFile(s.bin)
	if err != nil {
		return nil, err
	}
	file := fmt.Sprintf("%s.%x.json", s.bin, sha256.Sum256(bin))
	if old, err := os.ReadFile(file); err == nil {
		return list, json.Unmarshal(old, &list)
	}
	list, failed, err := s.tests(filepath.Join(o.work, "trace"), o.workers)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Package = dir
	}
	if len(failed) > 0 {
		fmt.Printf("left out, as they fail in the woven program: %s\n", strings.Join(failed, " "))
	}
	data, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return list, os.WriteFile(file, data, 0o600)
}

// tried is 1 for a mutant that was tried before: it comes first.
func tried(known map[string]result, m mutant) int {
	if _, ok := known[m.Key]; ok {
		return 1
	}
	return 0
}

func compareHash(seed uint64, a, b string) int {
	hash := func(key string) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, seed, key)
		return h.Sum64()
	}
	if x, y := hash(a), hash(b); x != y {
		if x < y {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

func readResults(file string) (map[string]result, error) {
	known := make(map[string]result)
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return known, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		var r result
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return nil, err
		}
		known[r.Key] = r
	}
	return known, in.Err()
}

// report prints the survivors of the mutants that are in the source now, and figures for each file.
func report(found []mutant, known map[string]result) {
	type figures struct{ tried, killed, unreached int }
	files := make(map[string]*figures)
	var total figures
	for _, m := range found {
		f := files[m.File]
		if f == nil {
			f = new(figures)
			files[m.File] = f
		}
		r, ok := known[m.Key]
		if !ok {
			continue
		}
		f.tried++
		total.tried++
		switch {
		case r.Killed:
			f.killed++
			total.killed++
			continue
		case r.Tests == 0:
			f.unreached++
			total.unreached++
		}
		fmt.Printf("survived %d tests: %s:%d %s: %s: %s\n", r.Tests, m.File, m.Line, m.Func, m.Op, m.Text)
	}
	fmt.Println()
	for _, path := range sortedKeys(files) {
		f := files[path]
		fmt.Printf("%-32s %4d tried %4d killed %4d survived, %d of them where no test sees a difference\n", path, f.tried, f.killed, f.tried-f.killed, f.unreached)
	}
	fmt.Printf("%d mutants, %d tried, %d killed, %d survived, %d of them where no test sees a difference\n", len(found), total.tried, total.killed, total.tried-total.killed, total.unreached)
}
