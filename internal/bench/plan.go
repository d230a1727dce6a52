package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// This file answers: what is measured?

// testcase is one setting in which several contenders are compared.
type testcase struct {
	name       string
	title      string
	spec       spec
	contenders []string
}

// A contender is a driver, with "@16K" for a read buffer other than the 4 KiB that all have by default.
func (s spec) with(contender string) spec {
	name, buffer, other := strings.Cut(contender, "@")
	s.Driver, s.Buffer = name, 4096
	if other {
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(buffer, "K"), 64)
		s.Buffer = int(kib * 1024)
	}
	return s
}

var (
	everybody = []string{"naive", "reuse", "gws", "coder", "gobwas", "wsshard", "wsshard-ll"}
	wide      = []string{"reuse@16K", "reuse@64K", "gws@16K", "gobwas@16K", "wsshard@16K", "wsshard-ll@16K"}
	patient   = []string{"naive", "gws", "coder", "wsshard", "wsshard@1K"}
	pacing    = []string{"naive", "gws", "coder", "wsshard", "wsshard-ll"}
	dialling  = []string{"naive", "gws", "wsshard"}
)

// plan is everything.
func plan() []testcase { return append(cases(), growth()...) }

// center is the case that most of what is said refers to.
const center = "saturated/256B/16"

// cases are compared with one another, driver by driver. bars.go refers to them by name.
func cases() []testcase {
	saturated := func(title string, size, conns, total int, change func(*spec)) testcase {
		s := spec{Mode: "saturated", Size: size, Conns: conns, Messages: total / conns, Subs: 1}
		name := fmt.Sprintf("saturated/%dB/%d", size, conns)
		if change != nil {
			change(&s)
			name = fmt.Sprintf("saturated/%s", title)
		}
		return testcase{name, title, s, everybody}
	}
	list := []testcase{
		saturated("256 B, 16 connections", 256, 16, 1_000_000, nil),
		saturated("64 B", 64, 16, 1_000_000, nil),
		saturated("1 KiB", 1024, 16, 320_000, nil),
		saturated("16 KiB", 16384, 16, 48_000, nil),
		saturated("1 connection", 256, 1, 600_000, nil),
		saturated("500 connections", 256, 500, 800_000, nil),
		saturated("TLS", 256, 16, 480_000, func(s *spec) { s.TLS = true }),
		saturated("one frame a write", 256, 16, 128_000, func(s *spec) { s.Batch = 1 }),
		saturated("64 MiB of other heap", 256, 16, 640_000, func(s *spec) { s.Ballast = 64 }),
		{"paced", "100 × 200 messages/s", spec{Mode: "paced", Size: 256, Conns: 100, Rate: 200, Messages: 400, Subs: 1}, pacing},
		{"bursts", "100 × 200 messages/s in bursts of 16", spec{Mode: "paced", Size: 256, Conns: 100, Rate: 200, Messages: 400, Batch: 16, Subs: 1}, pacing},
		{"idle", "2,000 connections, idle", spec{Mode: "idle", Size: 256, Conns: 2000, Subs: 4, PerSub: 32, Seconds: 1, Settle: time.Second}, patient},
		{"storm", "open 1,000", spec{Mode: "storm", Size: 256, Conns: 1000, Subs: 1, PerSub: 1}, dialling},
		{"storm/TLS", "open 1,000, TLS", spec{Mode: "storm", Size: 256, Conns: 1000, Subs: 1, PerSub: 1, TLS: true}, dialling},
		{"restore", "restore 1,000", spec{Mode: "restore", Size: 256, Conns: 1000, Subs: 1, PerSub: 1, Settle: 300 * time.Millisecond}, dialling},
		{"restore/TLS", "restore 1,000, TLS", spec{Mode: "restore", Size: 256, Conns: 1000, Subs: 1, PerSub: 1, TLS: true, Settle: 300 * time.Millisecond}, dialling},
		{"subscribe/20", "1,000,000 topics, 20 shards", spec{Mode: "subscribe", Conns: 20, Subs: 50_000}, []string{"wsshard"}},
		{"subscribe/2000", "1,000,000 topics, 2,000 shards", spec{Mode: "subscribe", Conns: 2000, Subs: 500}, []string{"wsshard"}},
		{"memory/1", "2,000 shards, a topic each", spec{Mode: "memory", Conns: 2000, Subs: 1, Settle: 2500 * time.Millisecond}, []string{"wsshard"}},
		{"memory/500", "2,000 shards, 500 topics each", spec{Mode: "memory", Conns: 2000, Subs: 500, Settle: 2500 * time.Millisecond}, []string{"wsshard"}},
	}
	list[0].contenders = append(append([]string(nil), everybody...), wide...)
	return list
}

// growth is how our own cost grows.
func growth() []testcase {
	us := []string{"wsshard"}
	both := []string{"wsshard", "wsshard-ll"}
	saturated := func(conns int) testcase {
		return testcase{fmt.Sprintf("growth/message/%d", conns), fmt.Sprintf("a message, %d shards", conns),
			spec{Mode: "saturated", Size: 256, Conns: conns, Messages: 1_000_000 / conns, Subs: 1}, both}
	}
	topics := func(total int) testcase {
		return testcase{fmt.Sprintf("growth/subscribe/%d", total), fmt.Sprintf("a subscription, %d of them, 500 a shard", total),
			spec{Mode: "subscribe", Conns: total / 500, Subs: 500}, us}
	}
	resets := func(conns int) testcase {
		return testcase{fmt.Sprintf("growth/restore/%d", conns), fmt.Sprintf("restoring a shard, %d of them", conns),
			spec{Mode: "restore", Size: 256, Conns: conns, Subs: 1, PerSub: 1, Settle: 300 * time.Millisecond}, us}
	}
	idle := func(conns int) testcase {
		return testcase{fmt.Sprintf("growth/idle/%d", conns), fmt.Sprintf("an idle shard, %d of them", conns),
			spec{Mode: "idle", Size: 256, Conns: conns, Subs: 4, PerSub: 32, Seconds: 1, Settle: time.Second}, us}
	}
	return []testcase{
		saturated(1), saturated(100), saturated(2000),
		topics(10_000), topics(100_000), topics(1_000_000),
		{"growth/subscribe/one", "a subscription, 100000 of them on one shard", spec{Mode: "subscribe", Conns: 1, Subs: 100_000}, us},
		{"growth/memory/one", "memory of 100000 subscriptions on one live shard", spec{Mode: "memory", Conns: 1, Subs: 100_000, Settle: 2500 * time.Millisecond}, us},
		{"growth/replay/one", "restoring 100000 subscriptions on one shard", spec{Mode: "replay", Conns: 1, Subs: 100_000}, us},
		idle(100), idle(1000), idle(4000),
		resets(100), resets(1000), resets(5000),
	}
}

// quickly makes a case small enough to be no more than a check that it works.
func (c testcase) quickly() testcase {
	s := &c.spec
	s.Conns, s.Subs = min(s.Conns, 32), min(s.Subs, 500)
	switch s.Mode {
	case "saturated":
		s.Messages = min(s.Messages, 32_000/s.Conns)
	case "paced":
		s.Messages = min(s.Messages, 64)
	case "idle":
		s.Seconds = 0.1
	}
	s.Settle = min(s.Settle, 100*time.Millisecond)
	return c
}
