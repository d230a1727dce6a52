// Polymarket follows the order books and trades of Polymarket's CLOB: as many assets as you name, over as many connections
// as they need. The channel is public, so there is nothing to log in with and nothing to keep secret.
//
//	go run ./examples/polymarket -assets <token id>,<token id>
//
// Files, each by its question:
//   - app.go: what does an application implement (begin here)
//   - venue.go: what does the venue say and ask for
//   - board.go: what is known of each asset
//   - main.go: what happens in which order
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what happens in which order?

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	url      string
	assets   []string
	duration time.Duration // 0: until Ctrl-C
	every    time.Duration // between two lines
	limits   limits
}

// run returns the exit status: 1 if some asset was not subscribed at the end.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	opt, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // said already
	}
	if err := follow(ctx, opt, out); err != nil {
		fmt.Fprintln(errOut, "polymarket:", err)
		return 1
	}
	return 0
}

func parse(args []string, errOut io.Writer) (options, error) {
	opt := options{limits: venueLimits}
	var assets string
	flags := flag.NewFlagSet("polymarket", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() {
		fmt.Fprint(errOut, "usage: go run ./examples/polymarket -assets <token id>,<token id> [flags]\n"+
			"Follows order books and trades of Polymarket's CLOB over as many connections as the assets need.\n\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&opt.url, "url", venueURL, "address of the market channel")
	flags.StringVar(&assets, "assets", "", "asset (token) ids, separated by commas; @file: one a line")
	flags.DurationVar(&opt.duration, "for", 0, "how long to run (default until Ctrl-C)")
	flags.DurationVar(&opt.every, "every", 2*time.Second, "how often to print a line")
	flags.IntVar(&opt.limits.perConnection, "per-connection", venueLimits.perConnection, "assets one connection may hold")
	flags.IntVar(&opt.limits.perRequest, "per-request", venueLimits.perRequest, "assets in one request")
	flags.DurationVar(&opt.limits.quiet, "quiet", venueLimits.quiet, "replace a connection that was so long without data")
	if err := flags.Parse(args); err != nil {
		return opt, err
	}
	var err error
	opt.assets, err = readAssets(assets)
	switch {
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("what is %q?", flags.Arg(0))
	case len(opt.assets) == 0:
		err = errors.New("name some assets: a market's two token ids stand in its clobTokenIds")
	case opt.every <= 0 || opt.duration < 0:
		err = errors.New("times above zero, please")
	}
	if err != nil {
		fmt.Fprintln(errOut, "polymarket:", err)
		flags.Usage()
	}
	return opt, err
}

// readAssets takes a list, or the name of a file that has one.
func readAssets(list string) ([]string, error) {
	if name, ok := strings.CutPrefix(list, "@"); ok {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list = string(text)
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r <= ' ' }), nil
}

// follow prints what the assets do until ctx or opt.duration ends.
func follow(ctx context.Context, opt options, out io.Writer) error {
	if opt.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opt.duration)
		defer cancel()
	}
	app := newApp(opt.url, out)
	m, err := wsshard.New(app, opt.limits.config())
	if err != nil {
		return err
	}
	if _, err := m.Subscribe(opt.assets...); err != nil {
		return err
	}
	if err := m.Start(context.Background()); err != nil { // not ctx: the summary looks at live connections
		return err
	}
	watch(ctx, m, app, opt.every)

	// The summary, while it is all still there: what is not subscribed now?
	now, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	missing := m.Sync(now)
	app.summary(m.Metrics())
	stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if missing != nil {
		missing = fmt.Errorf("not all is subscribed: %w", cmp.Or(app.trouble(), missing))
	}
	return errors.Join(missing, m.Stop(stop))
}

// watch prints a line now and then until ctx ends.
func watch(ctx context.Context, m *wsshard.ShardManager[string], app *app, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			app.line(m.Metrics(), every)
		case <-ctx.Done():
			return
		}
	}
}
