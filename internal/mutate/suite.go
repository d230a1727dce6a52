package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file answers: what does a test program say of a mutant?

// suite is one compiled test program.
type suite struct {
	bin, dir string // the program, and where it runs
}

// suites are test programs by their packages' directories.
type suites map[string]suite

// test is one test of a suite, and what it does when nothing is wrong.
type test struct {
	Package string // its directory
	Name    string
	Took    time.Duration
	Reaches []int // mutants that would have made a difference
}

const memoryLimit = 6 << 20 // KiB of address space: a loop that never ends must not take the machine along

// run runs tests of the suite and returns what they print.
func (s suite) run(env []string, limit time.Duration, args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+10*time.Second)
	defer cancel()
	args = append([]string{"-test.short", "-test.failfast", "-test.timeout", limit.String()}, args...)
	args = append([]string{"-c", fmt.Sprintf(`ulimit -v %d; exec "$0" "$@"`, memoryLimit), s.bin}, args...)
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = s.dir, append(os.Environ(), env...), time.Second
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	return buf.String(), err
}

func exactly(names ...string) string {
	for i, name := range names {
		names[i] = regexp.QuoteMeta(name)
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

// tests runs each test alone, with every mutant asleep: how long it takes, and which mutants it reaches. One that fails so
// (allocations are other ones in a woven program) is left out.
func (s suite) tests(trace string, workers int) (list []test, failed []string, err error) {
	out, err := s.run(nil, time.Minute, "-test.list", "^(Test|Fuzz|Example)")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, out)
	}
	names := strings.Fields(out)
	list = make([]test, len(names))
	each(workers, len(names), func(i int) {
		file := fmt.Sprintf("%s%d", trace, i)
		begin := time.Now()
		_, err := s.run([]string{"MUTANT_TRACE=" + file}, 2*time.Minute, "-test.run", exactly(names[i]))
		if err != nil {
			return
		}
		list[i] = test{Name: names[i], Took: time.Since(begin)}
		ids, _ := os.ReadFile(file)
		os.Remove(file)
		for id := range strings.FieldsSeq(string(ids)) {
			if n, err := strconv.Atoi(id); err == nil {
				list[i].Reaches = append(list[i].Reaches, n)
			}
		}
	})
	for i, t := range list {
		if t.Name == "" {
			failed = append(failed, names[i])
		}
	}
	list = slices.DeleteFunc(list, func(t test) bool { return t.Name == "" })
	return list, failed, nil
}

// verdict is what became of a mutant.
type verdict struct {
	Killed bool
	By     string // the test that failed first, or how it ended else
	Tests  int    // that were run
}

// hunt runs the quickest tests first, few at once, until one fails or limit is spent.
func (all suites) hunt(id int, tests []test, limit time.Duration) (v verdict) {
	var reach []test
	for _, t := range tests {
		if slices.Contains(t.Reaches, id) {
			reach = append(reach, t)
		}
	}
	slices.SortStableFunc(reach, func(a, b test) int { return cmp.Compare(a.Took, b.Took) })
	spent := time.Duration(0)
	for chunk := 6; len(reach) > 0; chunk *= 5 {
		names := make(map[string][]string) // by package
		took := make(map[string]time.Duration)
		n := 0
		for len(reach) > 0 && n < chunk && (spent < limit || spent == 0) {
			t := reach[0]
			names[t.Package] = append(names[t.Package], t.Name)
			took[t.Package] += t.Took
			spent += t.Took
			reach = reach[1:]
			n++
		}
		if n == 0 {
			return v
		}
		v.Tests += n
		for _, dir := range sortedKeys(names) {
			out, err := all[dir].run([]string{"MUTANT=" + strconv.Itoa(id)}, 10*time.Second+4*took[dir], "-test.run", exactly(names[dir]...))
			if err != nil {
				v.Killed, v.By = true, culprit(out, err)
				return v
			}
		}
	}
	return v
}

var failLine = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// culprit names the test that failed.
func culprit(out string, err error) string {
	switch m := failLine.FindStringSubmatch(out); {
	case m != nil:
		return m[1]
	case strings.Contains(out, "test timed out"):
		return "hangs"
	case strings.Contains(out, "deadlock"):
		return "deadlock"
	case strings.Contains(out, "panic: "):
		return "panic"
	}
	return err.Error()
}

// each calls f for 0 to n-1, a few at a time.
func each(workers, n int, f func(i int)) {
	next := make(chan int)
	done := make(chan struct{})
	for range workers {
		go func() {
			for i := range next {
				f(i)
			}
			done <- struct{}{}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range workers {
		<-done
	}
}
