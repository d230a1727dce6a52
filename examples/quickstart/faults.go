package main

import (
	"context"
	"time"

	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what does the server do to us?

// misbehave does what real feeds do, in the course of opt.duration; it returns when it is done or ctx ends.
func misbehave(ctx context.Context, srv *feed.Server, opt options, say func(format string, args ...any)) {
	began := time.Now()
	at := func(part float64) bool {
		return sleep(ctx, time.Until(began.Add(time.Duration(part*float64(opt.duration)))))
	}
	// 1st: every connection is killed once, one after the other; the oldest goes first.
	shards := (opt.topics + opt.perShard - 1) / opt.perShard
	for i := range shards {
		if !at(0.10 + 0.20*float64(i)/float64(shards)) {
			return
		}
		srv.KillOne()
	}
	say("the feed has killed %d connections, one by one", shards)

	// 2nd: it restarts. Ticks go on while it is away.
	if !at(0.40) {
		return
	}
	down := opt.duration / 15
	say("the feed restarts and is away for %v", down.Round(time.Millisecond))
	if err := srv.Restart(down); err != nil {
		say("%v", err)
		return
	}
	say("the feed is back")

	// 3rd: open connections get no data any more, though pings are answered.
	if !at(0.60) {
		return
	}
	silence := 3 * opt.dataTimeout()
	say("the feed goes silent on all its connections for %v", silence.Round(time.Millisecond))
	srv.Silence(silence)
}

// sleep reports whether ctx is still alive after d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
