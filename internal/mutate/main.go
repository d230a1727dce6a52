// Mutate asks whether the tests bite. It plants mistakes in the library, one at a time, and runs the tests that reach
// them: a mutant that no test notices is either a test that is missing, or one that SURVIVORS.md explains.
//
//	go run . -plants                  the mistakes that plants.go has by hand: each one applied, and what catches it
//	go run . -plants -from 30 -suites '^\.$|gaps$'   from the 31st on, asked of the tests of the root and of .../gaps only
//	go run . -budget 4m               mutants, drawn by -seed, for four minutes; the next call goes on where this one stopped
//	go run . -budget 4m -again        and first tries the survivors of earlier hunts once more: after tests were added
//	go run . -budget 4m -only gate    those of the files whose path has "gate" in it
//
// Nothing is written into the library's tree: changed sources reach the compiler through its -overlay flag, and lie in
// -work with the results.
//
//	load.go     what does the library's source say, types and all?
//	weave.go    which mutants are there, and how do all of them live in one program?
//	build.go    how do mutants become test programs?
//	suite.go    what does a test program say of a mutant?
//	hunt.go     which mutants survive?
//	plants.go   which mistakes are planted by hand?
//	plant.go    what catches them?
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	var o huntOptions
	plants := flag.Bool("plants", false, "plant the mistakes of plants.go")
	flag.StringVar(&o.root, "root", "../..", "the library")
	flag.StringVar(&o.work, "work", filepath.Join(os.TempDir(), "wsshard-mutants"), "where results are kept")
	flag.StringVar(&o.only, "only", "", "only files, or plants, with this in their name")
	flag.StringVar(&o.suites, "suites", "", "of a plant ask only the tests of directories that match this; the root is \".\"")
	flag.Uint64Var(&o.seed, "seed", 1, "which mutants come first")
	flag.DurationVar(&o.budget, "budget", 4*time.Minute, "begin no mutant after so long")
	flag.DurationVar(&o.each, "each", 20*time.Second, "of tests for one mutant, the quick ones first")
	flag.IntVar(&o.most, "most", 0, "at most so many mutants (0: all)")
	flag.IntVar(&o.from, "from", 0, "the first plant")
	flag.BoolVar(&o.again, "again", false, "try the survivors of earlier hunts once more, first of all")
	flag.IntVar(&o.workers, "workers", 2, "test programs at a time")
	flag.Parse()
	root, err := filepath.Abs(o.root)
	if err == nil {
		if o.root = root; *plants {
			err = plantAll(o)
		} else {
			err = hunt(o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}
