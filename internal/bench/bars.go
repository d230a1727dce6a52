package main

import "fmt"

// This file answers: what must come out?

// A bar is the most that a figure may be: a share of another contender's in the same rounds, or a number.
type bar struct {
	of      string // what is compared
	limit   float64
	unit    string // of a number; "": it is a share
	measure func(m *measured) []float64
	why     string // it may not be met
}

// because says what a profile said of a bar that is not met.
func (b bar) because(why string) bar {
	b.why = why
	return b
}

// What profiles say, in lines of the report.
const (
	whyOurs = `Against a loop with a buffer as large: what is done for each message beside reading it takes some 50 ns: counting, the
  verdict, and the copies of Message and ConnectionState that calling a handler takes.`
	whyTLS = `Over TLS nothing is read ahead, since a record is read as one anyway: those 50 ns are a larger share of what is left.`

	whyCold = `A message that comes alone finds the caches cold, and a session has more to fetch than a bare loop: about 1 µs of CPU and a
  few µs of latency. Two thirds of all CPU, theirs and ours, are system calls and the scheduler. Of the two reads that a burst
  takes the second finds nothing; it cannot be left out, because the poller tells of the connection's end only once.`
	whyIdle = `An idle connection has three goroutines, of which each keeps 4 KiB of stack once it has dialled, read or written, and many
  small objects. A write loop that is started when there is something to write would save a sixth of all that: the bar would
  still not be met, and the loop would be three places instead of one.`
)

// share compares a figure of two contenders, round by round.
func share(of string, limit float64, name, who, figure, with string) bar {
	return bar{of: of, limit: limit, measure: func(m *measured) []float64 {
		return paired(m.of(name, who, figure), m.of(name, with, figure))
	}}
}

// number takes a figure as it is.
func number(of string, limit float64, unit, name, who, figure string) bar {
	return bar{of: of, limit: limit, unit: unit, measure: func(m *measured) []float64 { return m.of(name, who, figure) }}
}

// topicHeap is what a topic takes where all shards have 500 of them rather than one, in bytes.
func topicHeap(m *measured) []float64 {
	few, many := m.of("memory/1", "wsshard", "heap"), m.of("memory/500", "wsshard", "heap")
	each := make([]float64, min(len(few), len(many)))
	for i := range each {
		each[i] = (many[i] - few[i]) / 499
	}
	return each
}

// bars in the order of the report. "LowLatency" and "default" are our two modes.
func bars() []bar {
	const ll, us = "wsshard-ll", "wsshard"
	list := []bar{
		share("256 B, 16 connections, LowLatency: CPU against the hand-tuned loop", 1.15, center, ll, "cpu", "reuse"),
		share("… against the hand-tuned loop with a 64 KiB buffer, which is what we borrow while bytes come", 1.15, center, ll, "cpu", "reuse@64K").because(whyOurs),
		share("… against the naive loop", 0.45, center, ll, "cpu", "naive"),
		share("… against gws", 0.75, center, ll, "cpu", "gws"),
		share("… against coder", 0.35, center, ll, "cpu", "coder"),
		number("… allocations a message", 1.02, "", center, ll, "allocs"),
		number("… bytes a message", 16, "B", center, ll, "bytes"),
		share("256 B, 16 connections, default: CPU against the naive loop", 0.85, center, us, "cpu", "naive"),
		number("… allocations a message", 2.05, "", center, us, "allocs"),
		number("… bytes a message", 300, "B", center, us, "bytes"),
		share("16 KiB, LowLatency: CPU against the naive loop", 0.30, "saturated/16384B/16", ll, "cpu", "naive"),
		share("500 connections, LowLatency: CPU against the naive loop", 0.45, "saturated/256B/500", ll, "cpu", "naive"),
		share("TLS, LowLatency: CPU against the naive loop", 0.50, "saturated/TLS", ll, "cpu", "naive").because(whyTLS),
	}
	for _, mode := range []struct{ name, who string }{{"default", us}, {"LowLatency", ll}} {
		list = append(list,
			share(fmt.Sprintf("100 × 200 messages/s, %s: CPU against the naive loop", mode.name), 1.10, "paced", mode.who, "cpu", "naive").because(whyCold),
			share("… p50", 1.15, "paced", mode.who, "p50", "naive").because(whyCold),
			share("… p99", 1.25, "paced", mode.who, "p99", "naive").because(whyCold),
			share(fmt.Sprintf("the same in bursts of 16, %s: CPU against the naive loop", mode.name), 0.90, "bursts", mode.who, "cpu", "naive").because(whyCold),
			share("… p99", 0.75, "bursts", mode.who, "p99", "naive").because(whyCold),
		)
	}
	return append(list,
		share("an idle connection of 2,000: resident memory against the naive client", 0.85, "idle", us, "rss", "naive").because(whyIdle),
		share("… with ReadBufferSize 1024", 0.70, "idle", "wsshard@1K", "rss", "naive").because(whyIdle),
		number("… CPU of all 2,000, pings off", 5, "ms/s", "idle", us, "idle"),
		share("opening 1,000 against the naive client, 64 at a time both", 1.3, "storm", us, "ms", "naive"),
		share("restoring 1,000 after a reset, resubscription included", 1.5, "restore", us, "ms", "naive"),
		number("Subscribe of 1,000,000 topics on 2,000 shards: CPU", 1, "µs a topic", "subscribe/2000", us, "cpu"),
		number("… one call, all of it", 2000, "ms", "subscribe/2000", us, "ms"),
		bar{of: "… against the same on 20 shards", limit: 1.5, measure: func(m *measured) []float64 {
			return paired(m.of("subscribe/2000", us, "cpu"), m.of("subscribe/20", us, "cpu"))
		}},
		bar{of: "… memory a topic, live, without its own bytes", limit: 240, unit: "B", measure: topicHeap},
	)
}
