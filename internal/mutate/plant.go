package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// This file answers: what catches the mistakes that are planted?

// apply returns the files that the plant changes.
func (p plant) apply(root string) (map[string][]byte, error) {
	changed := make(map[string][]byte)
	for _, e := range p.edits {
		src, ok := changed[e.file]
		if !ok {
			var err error
			if src, err = os.ReadFile(filepath.Join(root, e.file)); err != nil {
				return nil, err
			}
		}
		if n := strings.Count(string(src), e.old); n != 1 {
			return nil, fmt.Errorf("%s: its text is %d times in %s, want once: %q", p.name, n, e.file, e.old)
		}
		changed[e.file] = []byte(strings.Replace(string(src), e.old, e.new, 1))
	}
	return changed, nil
}

// check type-checks the library with the plant in it.
func (p plant) check(l *loader) error {
	changed, err := p.apply(l.root)
	if err != nil {
		return err
	}
	dirs := make(map[string]bool)
	for path := range changed {
		dirs[filepath.Dir(path)] = true
	}
	for dir := range dirs {
		if _, err := l.load(dir, changed); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// plantAll plants each mistake and prints what catches it: the chaos soak, and the first of all other tests.
func plantAll(o huntOptions) error {
	begin := time.Now()
	missed := 0
	fmt.Printf("| planted | the chaos soak says | the first other test |\n|---|---|---|\n")
	for i, p := range plants {
		if i < o.from || !strings.Contains(p.name, o.only) {
			continue
		}
		if time.Since(begin) > o.budget {
			fmt.Printf("\nThe time is over: go on with -from %d.\n", i)
			break
		}
		row, caught, err := p.grow(o)
		if err != nil {
			return err
		}
		if !caught {
			missed++
		}
		fmt.Println(row)
	}
	if missed > 0 {
		return fmt.Errorf("%d plants were not caught", missed)
	}
	return nil
}

// chaosSuite is where TestChaos is.
const chaosSuite = "internal/acceptance/chaos"

// grow compiles the library with the plant in it and runs the tests.
func (p plant) grow(o huntOptions) (row string, caught bool, err error) {
	dir, err := os.MkdirTemp("", "plant")
	if err != nil {
		return "", false, err
	}
	defer os.RemoveAll(dir)
	changed, err := p.apply(o.root)
	if err != nil {
		return "", false, err
	}
	ov := newOverlay(o.root, dir)
	for path, src := range changed {
		if err := ov.put(path, src); err != nil {
			return "", false, err
		}
	}
	dirs, err := p.suites(o)
	if err != nil {
		return "", false, err
	}
	ask := p.asker(ov)
	chaos := "not asked"
	if slices.Contains(dirs, chaosSuite) {
		out, failed, err := ask(chaosSuite, 2*time.Minute, "-test.short=false", "-test.run", "^TestChaos$", "-seeds", "12")
		if err != nil {
			return "", false, err
		}
		if chaos = "nothing"; failed != nil {
			caught, chaos = true, invariants(out, failed)
		}
	}
	for _, run := range []string{p.tests, "."} {
		for _, dir := range dirs {
			out, failed, err := ask(dir, 3*time.Minute, "-test.run", run, "-test.skip", "^TestChaos$")
			if err != nil {
				return "", false, err
			}
			if failed != nil {
				return fmt.Sprintf("| %s | %s | %s |", p.name, chaos, culprit(out, failed)), true, nil
			}
		}
	}
	return fmt.Sprintf("| %s | %s | nothing |", p.name, chaos), caught, nil
}

// asker returns a function that runs tests of a directory, and compiles them before the first. failed says how they ended, if
// not well.
func (p plant) asker(ov *overlay) func(dir string, limit time.Duration, args ...string) (out string, failed, err error) {
	programs := make(suites)
	return func(dir string, limit time.Duration, args ...string) (out string, failed, err error) {
		program, ok := programs[dir]
		if !ok {
			if program, err = ov.compile(dir); err != nil {
				return "", nil, fmt.Errorf("%s: %w", p.name, err)
			}
			programs[dir] = program
		}
		out, failed = program.run(nil, limit, args...)
		return out, failed, nil
	}
}

// suites are the directories of the tests that are asked about the plant: those of the root, those that see the library from
// outside, and those that stand beside a file that it changes, as far as the caller wants them.
func (p plant) suites(o huntOptions) (dirs []string, err error) {
	outside, err := acceptance(o.root)
	if err != nil {
		return nil, err
	}
	wanted, err := regexp.Compile(o.suites)
	if err != nil {
		return nil, err
	}
	dirs = append(outside, ".")
	for _, e := range p.edits {
		dirs = append(dirs, filepath.Dir(e.file))
	}
	slices.Sort(dirs)
	return slices.DeleteFunc(slices.Compact(dirs), func(dir string) bool { return !wanted.MatchString(dir) }), nil
}

var invariantMark = regexp.MustCompile(`(?m)^\s+\S+_test\.go:\d+: (I\d+|[^:\n]{1,60})`)

// invariants names what the soak found broken.
func invariants(out string, err error) string {
	var marks []string
	for _, m := range invariantMark.FindAllStringSubmatch(out, -1) {
		if strings.HasPrefix(m[1], "I") && len(m[1]) < 4 && !slices.Contains(marks, m[1]) {
			marks = append(marks, m[1])
		}
	}
	if len(marks) == 0 {
		return culprit(out, err)
	}
	slices.Sort(marks)
	return strings.Join(marks, ", ")
}
