package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// This file answers: how long is the handler without a message, in a switchover and in a reconnect?

// way is one way to replace a connection.
type way struct {
	name    string
	do      func(ctx context.Context, id int) error
	silence []time.Duration // the longest during each replacement
	missing uint64
}

// compare replaces one connection after the other, in either way by turns.
func compare(ctx context.Context, opt options, out io.Writer) (ok bool, err error) {
	s, err := setUp(ctx, opt)
	if err != nil {
		return false, err
	}
	ways := []*way{
		{name: "HotSwitchover", do: s.m.HotSwitchover},
		{name: "Reconnect", do: func(_ context.Context, id int) error { return s.m.Reconnect(id) }},
	}
	fmt.Fprintf(out, "%d connections under %d messages a second: the longest silence at the handler in %d replacements\n",
		opt.shards, opt.rate, opt.compare)
	for i := range opt.compare {
		for _, w := range ways {
			if err == nil {
				err = s.replace(ctx, w, i%opt.shards)
			}
		}
	}
	if err == nil {
		printSilence(out, ways)
	}
	return ways[0].missing == 0, errors.Join(err, s.tearDown())
}

// replace does it once, and watches from shortly before until shortly after, equally long in either way: a busy machine is
// silent now and then by itself.
func (s *stage) replace(ctx context.Context, w *way, id int) error {
	const around, watched = 25 * time.Millisecond, 450 * time.Millisecond
	sh := &s.app.shards[id]
	sleep(ctx, around)
	missed, before := sh.tally.Totals().Missed, sh.served()
	sh.silence()
	begin := time.Now()
	sleep(ctx, around)
	if err := w.do(ctx, id); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for sh.served() == before {
		if limit.Err() != nil {
			return fmt.Errorf("%s: the new connection does not deliver: %w", w.name, context.Cause(limit))
		}
		sleep(limit, time.Millisecond)
	}
	err := s.m.Sync(limit)
	sleep(ctx, max(6*around, watched-time.Since(begin))) // each topic ticks again
	w.silence = append(w.silence, sh.silence())
	w.missing += sh.tally.Totals().Missed - missed
	return err
}

func printSilence(out io.Writer, ways []*way) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tp50\tp99\tlongest\tmessages missed\t")
	for _, way := range ways {
		slices.Sort(way.silence)
		n := len(way.silence)
		at := func(percent int) time.Duration { return way.silence[(n-1)*percent/100].Round(100 * time.Microsecond) }
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%d\t\n", way.name, at(50), at(99), at(100), way.missing)
	}
	_ = w.Flush()
}
