package main

import (
	"fmt"
	"slices"
	"strings"
)

// This file answers: how is all of it told?

// page is Markdown in the making.
type page struct{ strings.Builder }

func (p *page) say(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// row is one line of a table.
func (p *page) row(cells ...string) { p.say("| %s |", strings.Join(cells, " | ")) }

// head is a table's first two lines; all columns but the first are numbers.
func (p *page) head(cells ...string) {
	p.say("")
	p.row(cells...)
	p.say("|---%s|", strings.Repeat("|--:", len(cells)-1))
}

// markdown is the report.
func (m *measured) markdown() string {
	p := &page{}
	p.say("# What it costs")
	p.say("")
	p.say("Measured on %s, over loopback, on %s. Beside us: %s. In `internal/bench`:", m.Machine, m.Date, m.Peers)
	p.say("")
	p.say("```sh\ngo run .\n```")
	p.say("")
	p.say("![CPU, memory and time, side by side](results.svg)")
	p.say("")
	p.say("%s", m.summary())
	p.say("")
	p.say("The server and each client are processes of their own; what is told is the client's CPU time (user and system), memory and")
	p.say("allocations. Each round runs all contenders in a new order. A figure is the median of the rounds (lowest–highest); × is the")
	p.say("median of its ratios to the first row, round by round. Before that each contender delivered messages of 64 B to 100,000 B,")
	p.say("with TLS and without, byte for byte.")
	p.say("")
	p.say("- naive: gorilla's `ReadMessage` in a loop, which is what most people write")
	p.say("- reuse: gorilla's `NextReader` into one buffer, which is what one writes who cares")
	p.say("- gobwas: its lowest level, by hand: header, payload, nothing else is looked at")
	p.say("- wsshard: the default, in which the handler owns each message's bytes; wsshard-ll: `LowLatencyMode`, which lends them")
	p.say("- a read buffer of 4 KiB, or what stands after the @; coder's own cannot be set")

	m.barTable(p)
	for _, part := range []struct{ title, prefix, text string }{
		{"A message", "saturated/", "The server writes as fast as it can."},
		{"A message at a realistic pace", "paced", "100 connections, 200 messages a second on each. Nearly all of it is the system's work."},
		{"The same in bursts", "bursts", "16 messages in one write."},
		{"An idle connection", "idle", "2,000 of them, after four subscriptions and 128 messages each, pings off. A goroutine that has written to a socket\nor read from one keeps 4 KiB of stack; the rest of what is resident is the allocator's."},
		{"Connecting", "storm", "1,000 connections, at most 64 at a time, until each was subscribed and has delivered a message."},
		{"Restoring", "restore", "The server resets 1,000 connections at once. Until each new one was subscribed and has delivered."},
		{"Subscribing", "subscribe/", "One call, nothing connected: what placing and wanting cost."},
		{"Memory", "memory/", "The live heap, without the topics' own bytes."},
	} {
		m.part(p, part.title, part.prefix, part.text)
	}
	m.growthTable(p)
	p.say("")
	p.say("## What is not measured")
	p.say("")
	p.say("Loopback has no round trip, no loss and no distance: connecting and restoring over a real network take as long as its round")
	p.say("trips do. Permessage-deflate, proxies and what a handler does with a message are not in these figures.")
	if s := spreadOf(m.Load); s.known() {
		p.say("")
		p.say("The machine had a load average of %s meanwhile, of which the benchmark itself is about two. CPU and memory are the", s)
		p.say("process' own and suffer little from what else runs; latencies, messages/s and what is told in ms of the clock do.")
		if m.Note != "" {
			p.say("%s", m.Note)
		}
	}
	return p.String()
}

// summary is what the README tells.
func (m *measured) summary() string {
	fig := func(name, who, figure string) string { return digits(spreadOf(m.of(name, who, figure)).median) }
	ratio := func(name, who, figure string) string {
		return digits(spreadOf(paired(m.of(name, who, figure), m.of(name, "naive", figure))).median)
	}
	const ll, us = "wsshard-ll", "wsshard"
	p := &page{}
	p.say("- **A message costs less than in the loop that most people write.** 256 B, 16 connections, saturated: %s ns of CPU with", fig(center, ll, "cpu"))
	p.say("  `LowLatencyMode` and %s ns by default; gorilla's `ReadMessage` %s, its `NextReader` into one buffer %s, gws %s,", fig(center, us, "cpu"), fig(center, "naive", "cpu"), fig(center, "reuse", "cpu"), fig(center, "gws", "cpu"))
	p.say("  coder/websocket %s. One allocation a message, by default two.", fig(center, "coder", "cpu"))
	p.say("- **At a realistic pace it hardly matters.** 100 connections, 200 messages a second each: %s of the CPU of the `ReadMessage`", ratio("paced", us, "cpu"))
	p.say("  loop; in bursts of 16 %s. Nearly all of it is the system's work.", ratio("bursts", us, "cpu"))
	p.say("- **A connection costs more.** Idle it takes %s KiB, with `ReadMessage` in a loop %s: it has three goroutines instead of one.", fig("idle", us, "rss"), fig("idle", "naive", "rss"))
	fmt.Fprintf(p, "  Opening 1,000 takes %s times as long, restoring them after a reset %s times. A live topic takes %s B beside its name.", ratio("storm", us, "ms"), ratio("restore", us, "ms"), digits(spreadOf(topicHeap(m)).median))
	return p.String()
}

// barTable holds each bar against what came out.
func (m *measured) barTable(p *page) {
	p.say("")
	p.say("## Bars\n\nThe limits that were set before. LowLatency and default are our two modes.")
	p.head("what", "most", "measured", "")
	var why []string
	for _, b := range bars() {
		s := spreadOf(b.measure(m))
		if !s.known() {
			continue
		}
		verdict := "met"
		if s.median > b.limit {
			verdict = "**not met**"
			if b.why != "" && !slices.Contains(why, b.why) {
				why = append(why, b.why)
			}
		}
		unit := ""
		if b.unit != "" {
			unit = " " + b.unit
		}
		p.row(b.of, digits(b.limit)+unit, s.String()+unit, verdict)
	}
	if len(why) > 0 {
		p.say("\nWhat profiles say of those that are not met:\n\n- %s", strings.Join(why, "\n- "))
	}
}

// part has a table for each case whose name begins with prefix.
func (m *measured) part(p *page, title, prefix, text string) {
	begun := false
	for _, c := range cases() {
		rows := m.Rounds[c.name]
		if rows == nil || !strings.HasPrefix(c.name, prefix) {
			continue
		}
		if !begun {
			p.say("\n## %s\n\n%s", title, text)
			begun = true
		}
		m.table(p, c)
	}
}

// table is one case: a row for each contender.
func (m *measured) table(p *page, c testcase) {
	first := c.contenders[0]
	compared := len(c.contenders) > 1
	heads := []string{fmt.Sprintf("%s, %d rounds", c.title, m.rounds(c))}
	for _, col := range columns[c.spec.Mode] {
		if heads = append(heads, col.head); col.compared && compared {
			heads = append(heads, "×")
		}
	}
	p.head(heads...)
	for _, who := range c.contenders {
		cells := []string{who}
		for _, col := range columns[c.spec.Mode] {
			values := m.of(c.name, who, col.figure)
			if cells = append(cells, spreadOf(values).times(col.unit).String()); col.compared && compared {
				cells = append(cells, spreadOf(paired(values, m.of(c.name, first, col.figure))).String())
			}
		}
		p.row(cells...)
	}
}

// rounds is how often a case was run; a figure that came later has fewer.
func (m *measured) rounds(c testcase) (most int) {
	for _, values := range m.Rounds[c.name][c.contenders[0]] {
		most = max(most, len(values))
	}
	return most
}

// column is a figure as a table shows it.
type column struct {
	figure, head string
	unit         float64 // what the figure is multiplied by
	compared     bool    // with the first contender's
}

// columns by mode.
var columns = map[string][]column{
	"saturated": {{"cpu", "CPU, ns", 1, true}, {"allocs", "allocations", 1, false}, {"bytes", "bytes", 1, false}, {"rate", "messages/s", 1, false}},
	"paced":     {{"cpu", "CPU, µs", 1e-3, true}, {"p50", "p50, µs", 1, true}, {"p99", "p99, µs", 1, true}},
	"idle":      {{"rss", "resident, KiB", 1, true}, {"stack", "of it stacks", 1, false}, {"live", "objects", 1, false}, {"idle", "CPU of all, ms/s", 1, false}},
	"storm":     {{"ms", "all, ms", 1, true}, {"cpu", "CPU of each, µs", 1, true}},
	"restore":   {{"ms", "all, ms", 1, true}, {"cpu", "CPU of each, µs", 1, true}},
	"subscribe": {{"cpu", "CPU a topic, ns", 1e3, false}, {"ms", "all, ms", 1, false}},
	"memory":    {{"heap", "a shard, KiB", 1.0 / 1024, false}},
}

// growthTable shows how our own cost follows the number of what we hold.
func (m *measured) growthTable(p *page) {
	type point struct{ at, name string }
	rows := []struct {
		what, who, figure string
		unit              float64
		points            []point
	}{
		{"CPU a message, ns, default", "wsshard", "cpu", 1, []point{{"1 shard", "growth/message/1"}, {"100 shards", "growth/message/100"}, {"2,000 shards", "growth/message/2000"}}},
		{"CPU a message, ns, LowLatency", "wsshard-ll", "cpu", 1, []point{{"1 shard", "growth/message/1"}, {"100 shards", "growth/message/100"}, {"2,000 shards", "growth/message/2000"}}},
		{"Subscribe, ns of CPU a topic", "wsshard", "cpu", 1e3, []point{{"10⁴ topics", "growth/subscribe/10000"}, {"10⁵ topics", "growth/subscribe/100000"}, {"10⁶ topics", "growth/subscribe/1000000"}}},
		{"restoring a shard, µs of CPU", "wsshard", "cpu", 1, []point{{"100 shards", "growth/restore/100"}, {"1,000 shards", "growth/restore/1000"}, {"5,000 shards", "growth/restore/5000"}}},
		{"an idle shard, KiB resident", "wsshard", "rss", 1, []point{{"100 shards", "growth/idle/100"}, {"1,000 shards", "growth/idle/1000"}, {"4,000 shards", "growth/idle/4000"}}},
		{"a live subscription, B of heap", "wsshard", "sub", 1, []point{{"2,000 shards of 500", "memory/500"}, {"one shard of 100,000", "growth/memory/one"}}},
		{"100,000 topics on one shard, µs of CPU a topic", "wsshard", "cpu", 1, []point{{"to subscribe", "growth/subscribe/one"}, {"to restore", "growth/replay/one"}}},
	}
	begun := false
	for _, r := range rows {
		cells, known := []string{r.what}, false
		for _, pt := range r.points {
			s := spreadOf(m.of(pt.name, r.who, r.figure)).times(r.unit)
			known = known || s.known()
			cells = append(cells, fmt.Sprintf("%s: %s", pt.at, s))
		}
		if !known {
			continue
		}
		if !begun {
			p.say("\n## How cost grows\n\nOf wsshard alone; 256 B messages.")
			p.head("", "few", "more", "many")
			begun = true
		}
		for len(cells) < 4 {
			cells = append(cells, "")
		}
		p.row(cells...)
	}
}
