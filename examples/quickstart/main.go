// Quickstart keeps 2,000 topics alive over four connections while the server it runs against kills connections,
// restarts and goes silent. It counts what it missed, and the server counts what it could not send: from the first line on
// it says both, and what was lost beyond that, which must be nothing. It fits 60 columns.
//
//	go run ./examples/quickstart
//
// Files, each by its question:
//   - app.go: what does an application implement (begin here)
//   - main.go: what happens in which order
//   - faults.go: what does the server do to us
//   - table.go: what is shown meanwhile
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
	topics   int
	perShard int
	rate     int
}

// run returns the exit status: 1 if something was lost unnoticed or is not live at the end.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	opt, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // said already
	}
	res, err := demo(ctx, opt, out)
	if err != nil {
		fmt.Fprintln(errOut, "quickstart:", err)
		return 1
	}
	res.print(out)
	if !res.ok() {
		return 1
	}
	return 0
}

func parse(args []string, errOut io.Writer) (options, error) {
	var opt options
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() {
		fmt.Fprint(errOut, "usage: go run ./examples/quickstart [flags]\n"+
			"Keeps topics alive over connections to a feed on loopback that kills them, restarts and goes silent.\n\n")
		flags.PrintDefaults()
	}
	flags.DurationVar(&opt.duration, "for", 30*time.Second, "how long to run")
	flags.IntVar(&opt.topics, "topics", 2000, "topics to subscribe to")
	flags.IntVar(&opt.perShard, "per-shard", 500, "topics one connection may hold")
	flags.IntVar(&opt.rate, "rate", 4000, "messages a second, over all topics")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	if flags.NArg() > 0 || opt.duration <= 0 || opt.topics < 1 || opt.perShard < 1 || opt.rate < 1 {
		err := errors.New("quickstart: no arguments, and every flag above zero, please")
		fmt.Fprintln(errOut, err)
		flags.Usage()
		return opt, err
	}
	return opt, nil
}

// dataTimeout is how long a connection may be silent before it is replaced.
func (o options) dataTimeout() time.Duration { return max(time.Second, o.duration/12) }

// config is meant for a demonstration: everything is noticed soon. The defaults suit a real feed better.
func (o options) config() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: o.perShard,
		Connection: wsshard.ConnectionConfig{
			CircuitBreakerResetTimeout: 500 * time.Millisecond, // the server is never away for long
		},
		Backoff: wsshard.BackoffConfig{
			InitialDelay: 50 * time.Millisecond,
			MaxDelay:     time.Second,
			StableAfter:  time.Second,
		},
		Health: wsshard.HealthConfig{
			DataTimeout: o.dataTimeout(), // pings follow
		},
	}
}

func demo(ctx context.Context, opt options, out io.Writer) (*result, error) {
	// 1st: a server
	srv, err := feed.Start(feed.Config{Rate: opt.rate, TopicsPerConn: opt.perShard})
	if err != nil {
		return nil, err
	}
	defer srv.Close()

	// 2nd: a manager for our handler, and what it shall keep alive
	began := time.Now()
	screen := newScreen(out, began)
	app := &app{url: srv.URL(), began: began, screen: screen, causes: make(map[int]error)}
	m, err := wsshard.New(app, opt.config())
	if err != nil {
		return nil, err
	}
	topics := make([]string, opt.topics)
	for i := range topics {
		topics[i] = fmt.Sprintf("t%04d", i+1)
	}
	if _, err := m.Subscribe(topics...); err != nil {
		return nil, err
	}
	screen.draw(m.Metrics(), app.tally.Totals(), srv.Missed())
	// Not ctx: after Ctrl-C the counts are compared first. A service would call m.Run(ctx) and be done.
	if err := m.Start(context.Background()); err != nil {
		return nil, err
	}
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return m.Stop(ctx)
	}

	// 3rd: look on while the server misbehaves
	show, cancel := context.WithTimeout(ctx, opt.duration)
	defer cancel()
	if err := m.Sync(show); err == nil {
		screen.say("%d topics are live on %d connections", m.TotalSubscriptions(), m.ShardCount())
	}
	var feedFaults sync.WaitGroup
	feedFaults.Go(func() { misbehave(show, srv, opt, screen.say) })
	watch(show, srv, m, app, screen)
	feedFaults.Wait()

	// 4th: compare
	res, err := settle(srv, m, app, topics, opt)
	return res, errors.Join(err, stop())
}

// watch draws until ctx ends.
func watch(ctx context.Context, srv *feed.Server, m *wsshard.ShardManager[string], app *app, screen *screen) {
	redraw := time.NewTicker(screen.interval())
	defer redraw.Stop()
	draw := func() {
		seen := app.tally.Totals() // first: what the feed could not send by then is in its count
		screen.draw(m.Metrics(), seen, srv.Missed())
	}
	for {
		draw()
		select {
		case <-redraw.C:
		case <-ctx.Done():
			draw()
			return
		}
	}
}
