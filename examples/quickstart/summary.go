package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what came of it?

// maxGaps are printed.
const maxGaps = 40

// result is what came of it.
type result struct {
	began          time.Time
	topics, live   int // live: heard of at the end
	notSynced      error
	seen           feed.Totals
	sent, distinct uint64 // by the feed
	missed         uint64 // by the feed's count
	downs          []feed.Down
	gaps           []gap
	metrics        wsshard.Metrics
}

// settle waits until every topic is live again, lets the feed fall silent and everything arrive, and takes the counts.
func settle(srv *feed.Server, m *wsshard.ShardManager[string], app *app, topics []string, opt options) (*result, error) {
	round := time.Duration(opt.topics) * time.Second / time.Duration(opt.rate) // until each topic has ticked once
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second+2*round)
	defer cancel()

	// 1st: the library says that all is applied, and a tick made from now on is heard for every topic.
	res := &result{began: app.began, topics: len(topics), notSynced: m.Sync(ctx)}
	waiting := make(map[string]uint64, len(topics))
	for _, topic := range topics {
		count, _ := srv.Count(topic)
		waiting[topic] = count.Number
	}
	until(ctx, func() bool {
		for topic, n := range waiting {
			if app.tally.Last(topic) > n {
				delete(waiting, topic)
			}
		}
		return len(waiting) == 0
	})
	res.live = len(topics) - len(waiting)

	// 2nd: no more ticks; what is under way arrives.
	ctx, cancel = context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Finish(ctx); err != nil {
		return nil, err
	}
	until(ctx, func() bool { return app.tally.Totals().Distinct() == srv.Distinct() })

	// 3rd: count
	res.metrics = m.Metrics()
	res.seen = app.tally.Totals()
	res.sent, res.distinct, res.missed = srv.Sent(), srv.Distinct(), srv.Missed()
	res.downs = srv.Downs()
	app.mu.Lock()
	defer app.mu.Unlock()
	res.gaps = app.gaps
	return res, nil
}

// until asks now and then, and gives up with ctx.
func until(ctx context.Context, done func() bool) {
	for !done() && sleep(ctx, 10*time.Millisecond) {
	}
}

func (r *result) ok() bool {
	return r.notSynced == nil && r.live == r.topics && r.seen.Missed == r.missed
}

func (r *result) print(out io.Writer) {
	fmt.Fprintln(out, "\nwhat the feed did to its connections")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range r.downs {
		lasted := ""
		if d.Until.After(d.At) {
			lasted = "for " + d.Until.Sub(d.At).Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "  %s\t%s\tconnections: %d\t%s\n", r.clock(d.At), d.Reason, d.Connections, lasted)
	}
	_ = w.Flush()

	fmt.Fprintln(out, "\ngaps: when a shard may have missed something, from its last\nmessage to the proof that its topics are live again")
	for i, g := range r.gaps {
		if i == maxGaps {
			fmt.Fprintf(w, "  and %d more\n", len(r.gaps)-maxGaps)
			break
		}
		fmt.Fprintf(w, "  %s\tshard %d\t%v\t%d topics\t%s\n",
			r.clock(g.from), g.shard, g.to.Sub(g.from).Round(time.Millisecond), g.topics, brief(g.cause))
	}
	_ = w.Flush()

	fmt.Fprintln(out)
	w.Init(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tby the feed\tby the handler\t")
	fmt.Fprintf(w, "messages sent, received\t%d\t%d\t\n", r.sent, r.seen.Received)
	fmt.Fprintf(w, "of them distinct\t%d\t%d\t\n", r.distinct, r.seen.Distinct())
	fmt.Fprintf(w, "not sent, missed\t%d\t%d\t\n", r.missed, r.seen.Missed)
	fmt.Fprintf(w, "lost\t\t%d\t\n", lost(r.seen.Missed, r.missed))
	_ = w.Flush()

	fmt.Fprintf(out, "\n%d of %d topics are live, after %d reconnects and\n%d hot switchovers.\n",
		r.live, r.topics, r.metrics.Reconnections-min(r.metrics.HotSwitchovers, r.metrics.Reconnections), r.metrics.HotSwitchovers)
	switch {
	case r.notSynced != nil:
		fmt.Fprint(out, wrap(fmt.Sprint("FAILED: not all is subscribed: ", r.notSynced), 2))
	case r.live != r.topics:
		fmt.Fprintln(out, "FAILED: some topics did not come back.")
	case r.seen.Missed != r.missed:
		fmt.Fprintln(out, "FAILED: more was missed than was not sent: something got\nlost.")
	default:
		fmt.Fprintln(out, "Nothing was lost: all that was missed is what the feed\ncould not send.")
	}
}

// brief is a cause in a few words: the table has no room for an address.
func brief(cause error) string {
	var ce *wsshard.CloseError
	switch {
	case cause == nil:
		return ""
	case errors.As(cause, &ce):
		return fmt.Sprintf("closed %d", ce.Code)
	case errors.Is(cause, syscall.ECONNRESET):
		return "reset"
	case errors.Is(cause, io.EOF), errors.Is(cause, io.ErrUnexpectedEOF):
		return "eof"
	}
	text := []rune(strings.TrimPrefix(cause.Error(), "wsshard: "))
	return string(text[:min(len(text), 14)])
}

func (r *result) clock(t time.Time) string { return fmt.Sprintf("%7.3fs", t.Sub(r.began).Seconds()) }
