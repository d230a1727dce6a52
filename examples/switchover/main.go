// Switchover replaces the connections of a numbered feed, each of them once a second, under 20,000 messages a second, and
// counts what the handler missed, got twice or out of order: nothing.
//
//	go run ./examples/switchover
//	go run ./examples/switchover -compare 200
//
// The second asks another question: how long is the handler without a message, in a switchover and in a reconnect?
//
// Files, each by its question:
//   - app.go: what does an application implement so that a switchover loses nothing and repeats nothing (begin here)
//   - main.go: what happens in which order
//   - compare.go: how long is the handler without a message
//   - summary.go: what came of it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what happens in which order?

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	duration time.Duration
	shards   int
	topics   int // of a shard
	rate     int
	compare  int
}

// run returns the exit status: 1 if anything is missing, came twice or out of order.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	opt, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // said already
	}
	play := replaceAll
	if opt.compare > 0 {
		play = compare
	}
	ok, err := play(ctx, opt, out)
	if err != nil {
		fmt.Fprintln(errOut, "switchover:", err)
	}
	if err != nil || !ok {
		return 1
	}
	return 0
}

func parse(args []string, errOut io.Writer) (options, error) {
	var opt options
	flags := flag.NewFlagSet("switchover", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.DurationVar(&opt.duration, "for", 30*time.Second, "how long to run")
	flags.IntVar(&opt.shards, "shards", 8, "connections, each of which is replaced once a second")
	flags.IntVar(&opt.topics, "topics", 250, "topics of each connection")
	flags.IntVar(&opt.rate, "rate", 20_000, "messages a second, over all topics")
	flags.IntVar(&opt.compare, "compare", 0, "instead: so many switchovers, and as many reconnects, one after the other")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	if flags.NArg() > 0 || opt.duration <= 0 || opt.shards < 1 || opt.topics < 1 || opt.rate < 1 || opt.compare < 0 {
		err := errors.New("switchover: no arguments, and every flag above zero, please")
		fmt.Fprintln(errOut, err)
		flags.Usage()
		return opt, err
	}
	return opt, nil
}

// stage is a feed and a manager whose shards are all live.
type stage struct {
	srv    *feed.Server
	app    *app
	m      *wsshard.ShardManager[string]
	topics []string
}

func setUp(ctx context.Context, opt options) (*stage, error) {
	srv, err := feed.Start(feed.Config{Rate: opt.rate, TopicsPerConn: opt.topics, QueueBytes: 16 << 20})
	if err != nil {
		return nil, err
	}
	s := &stage{srv: srv, app: &app{url: srv.URL(), shards: make([]shard, opt.shards)}}
	s.m, err = wsshard.New(s.app, wsshard.Config{
		MaxSubscriptionsPerShard: opt.topics,
		Switchover:               wsshard.SwitchoverConfig{MaxConcurrent: opt.shards},
	})
	if err == nil {
		for i := range opt.shards * opt.topics {
			s.topics = append(s.topics, fmt.Sprintf("t%04d", i+1))
		}
		_, err = s.m.Subscribe(s.topics...)
	}
	if err == nil {
		err = s.m.Start(context.Background()) // not ctx: after Ctrl-C the counts are compared first
	}
	if err == nil {
		err = s.m.Sync(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.tearDown())
	}
	return s, nil
}

func (s *stage) tearDown() error {
	var err error
	if s.m != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = s.m.Stop(ctx)
	}
	return errors.Join(err, s.srv.Close())
}

// replaceAll replaces each connection once a second until the time is over, and then compares what was sent with what came.
func replaceAll(ctx context.Context, opt options, out io.Writer) (ok bool, err error) {
	s, err := setUp(ctx, opt)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "%d topics on %d connections, each of which is replaced once a second for %v, under %d messages a second\n",
		len(s.topics), s.m.ShardCount(), opt.duration, opt.rate)
	limit, cancel := context.WithTimeout(ctx, opt.duration)
	defer cancel()
	moves := make([]atomic.Int64, opt.shards)
	var failed atomic.Int64
	var movers sync.WaitGroup
	for id := range opt.shards {
		movers.Go(func() {
			sleep(limit, time.Duration(id)*time.Second/time.Duration(opt.shards))
			each := time.NewTicker(time.Second)
			defer each.Stop()
			for limit.Err() == nil {
				// Not limit: the last one ends, too.
				if err := s.m.HotSwitchover(ctx, id); err == nil {
					moves[id].Add(1)
				} else if ctx.Err() == nil {
					failed.Add(1)
				}
				select {
				case <-each.C:
				case <-limit.Done():
				}
			}
		})
	}
	movers.Wait()
	rows, err := s.settle()
	if err == nil {
		for id := range rows {
			rows[id].moves = moves[id].Load()
		}
		ok = printTable(out, rows, failed.Load())
	}
	return ok, errors.Join(err, s.tearDown())
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
