package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what came of it?

// row is one shard's.
type row struct {
	moves   int64
	seen    feed.Totals
	missing uint64 // between the first tick of a topic that was seen and the last that was made
	silence time.Duration
}

// settle lets the feed fall silent and everything arrive, and takes the counts.
func (s *stage) settle() ([]row, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.srv.Finish(ctx); err != nil {
		return nil, err
	}
	rows := make([]row, len(s.app.shards))
	for ctx.Err() == nil {
		if s.count(rows); total(rows).missing == 0 {
			break
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return rows, nil
}

func (s *stage) count(rows []row) {
	for id := range rows {
		sh := &s.app.shards[id]
		seen := sh.tally.Totals()
		rows[id] = row{seen: seen, missing: seen.Missed}
		sh.mu.Lock()
		rows[id].silence = sh.longest
		sh.mu.Unlock()
	}
	for _, count := range s.srv.Counts() { // the last ones of a topic, should they be missing
		id, _ := s.m.SubscriptionShard(count.Topic)
		rows[id].missing += count.Number - s.app.shards[id].tally.Last(count.Topic)
	}
}

func total(rows []row) (sum row) {
	for _, r := range rows {
		sum.moves += r.moves
		sum.seen.Received += r.seen.Received
		sum.seen.Duplicates += r.seen.Duplicates
		sum.seen.OutOfOrder += r.seen.OutOfOrder
		sum.missing += r.missing
		sum.silence = max(sum.silence, r.silence)
	}
	return sum
}

// printTable reports whether nothing was missing, twice or out of order.
func printTable(out io.Writer, rows []row, failed int64) bool {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shard\tswitchovers\tdelivered\tmissing\tduplicates\tout of order\tlongest silence\t")
	line := func(name string, r row) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%v\t\n", name, r.moves, r.seen.Received, r.missing,
			r.seen.Duplicates, r.seen.OutOfOrder, r.silence.Round(100*time.Microsecond))
	}
	for id, r := range rows {
		line(fmt.Sprint(id), r)
	}
	sum := total(rows)
	line("all", sum)
	_ = w.Flush()
	if failed > 0 {
		fmt.Fprintf(out, "%d switchovers failed; the old connections went on.\n", failed)
	}
	if sum.missing+sum.seen.Duplicates+sum.seen.OutOfOrder > 0 {
		fmt.Fprintln(out, "FAILED: a switchover must lose nothing, repeat nothing and keep the order.")
		return false
	}
	return true
}
