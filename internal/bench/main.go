// Bench runs read loops and WebSocket libraries side by side with wsshard and compares what a message, a connection and a
// reconnect cost. Inside this directory:
//
//	go run .                       all of it, about a quarter of an hour: writes RESULTS.md, results.svg, results.json
//	go run . -only saturated,idle  some cases: prints what came out
//	go run . -only idle -keep      the same, added to what results.json has: writes all three; so a run can be had in turns
//	go run . -quick                two short rounds of everything, to see that it works: prints
//
// The server and each client are processes of their own, so that CPU time, memory and allocations are the client's alone.
// Every round runs all drivers in a new order; a figure is the median of the rounds, a comparison the median of the rounds'
// ratios, each with the lowest and the highest beside it. Before that every driver must deliver each message byte for byte.
//
// Files, each by its question:
//   - plan.go: what is measured
//   - bars.go: what must come out
//   - drivers.go, wsshard.go: who is measured
//   - client.go, modes.go: how is one driver measured
//   - server.go, frames.go: who sends to it, and what
//   - round.go: how are processes run and rounds ordered
//   - results.go: what came out, and where
//   - ratio.go: what do many rounds say
//   - report.go, tables.go, plot.go: how is it shown
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
)

// This file answers: which process is this?

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if role := os.Getenv(roleVar); role != "" {
		return play(role)
	}
	var opt options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&opt.rounds, "rounds", 9, "rounds of each comparison")
	flags.BoolVar(&opt.quick, "quick", false, "two short rounds, to see that all of it works; writes no files")
	flags.StringVar(&only, "only", "", "cases whose name begins with one of these, separated by commas; writes no files without -keep")
	flags.BoolVar(&opt.keep, "keep", false, "add the rounds to those that results.json has, instead of beginning anew")
	flags.StringVar(&opt.out, "out", ".", "where results.json, RESULTS.md and results.svg are")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if only != "" {
		opt.only = strings.Split(only, ",")
	}
	if opt.quick {
		opt.rounds = min(opt.rounds, 2)
	}
	m := newMeasured()
	if opt.keep {
		if err := m.load(opt.out); err != nil {
			return err
		}
	}
	if err := measureAll(opt, m, os.Stderr); err != nil {
		return err
	}
	if opt.writes() {
		return m.save(opt.out) // also when nothing was measured: what is kept is told anew
	}
	fmt.Println(m.markdown())
	return nil
}

// options are the command line.
type options struct {
	rounds int
	quick  bool
	keep   bool
	only   []string
	out    string
}

// writes reports whether what comes out is kept, case by case.
func (o options) writes() bool { return !o.quick && (o.keep || o.only == nil) }

// wanted reports whether a case is asked for.
func (o options) wanted(name string) bool {
	for _, prefix := range o.only {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return o.only == nil
}

// roleVar tells a child process what it is.
const roleVar = "WSSHARD_BENCH_ROLE"

// play is a child process: it reads its orders from standard input and answers on standard output.
func play(role string) error {
	orders := json.NewDecoder(os.Stdin)
	var s spec
	if err := orders.Decode(&s); err != nil {
		return err
	}
	if role == "server" {
		return serve(s, os.Stdin, os.Stdout)
	}
	return json.NewEncoder(os.Stdout).Encode(measure(s))
}
