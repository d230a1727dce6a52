package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/seed-829c304d/wsshard/internal/feed"
)

// The whole demonstration, short: every connection killed once, a restart, a silence.
func TestDemo(t *testing.T) {
	opt := options{duration: 3 * time.Second, topics: 2000, perShard: 500, rate: 4000}
	var out bytes.Buffer
	res, err := demo(t.Context(), opt, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	res.print(&out)
	defer func() {
		if t.Failed() {
			t.Logf("\n%s", &out)
		}
	}()

	if res.notSynced != nil || res.live != opt.topics {
		t.Errorf("%d of %d topics are live; Sync: %v", res.live, opt.topics, res.notSynced)
	}
	if res.seen.Missed != res.missed || res.seen.Distinct() != res.distinct {
		t.Errorf("the handler missed %d and saw %d, the feed says %d and %d",
			res.seen.Missed, res.seen.Distinct(), res.missed, res.distinct)
	}
	if res.missed == 0 {
		t.Error("the faults cost nothing")
	}
	happened := make(map[feed.Reason]int)
	for _, d := range res.downs {
		happened[d.Reason]++
	}
	if happened[feed.Killed] != 4 || happened[feed.Restarted] != 1 || happened[feed.Silent] != 1 || len(happened) != 3 {
		t.Errorf("the feed did %v", happened)
	}
	if res.metrics.Reconnections < 4 { // a slow machine may still be down when the next fault comes
		t.Errorf("%d reconnections", res.metrics.Reconnections)
	}
	gaps := make(map[int]int)
	for _, g := range res.gaps {
		gaps[g.shard]++
	}
	for shard := range 4 {
		if gaps[shard] < 1 {
			t.Errorf("shard %d: no gap was reported for a kill, a restart and a silence", shard)
		}
	}
	if first, _, _ := strings.Cut(out.String(), "\n"); !strings.Contains(first, "not sent: 0, lost: 0") {
		t.Errorf("the first line is %q", first)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	for _, want := range []string{"not sent: 0, lost: 0", "are live on 4 connections", "4 of 4 connected", "2000 of 2000 topics are live"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not say %q", want)
		}
	}
	for _, ugly := range []string{"\x1b", "<nil>", "wsshard: stopped"} { // the output is no terminal; our own end is no loss
		if strings.Contains(out.String(), ugly) {
			t.Errorf("the output says %q", ugly)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var out, errOut bytes.Buffer
	if code := run(ctx, []string{"-topics", "20", "-per-shard", "10", "-rate", "1000"}, &out, &errOut); code != 0 {
		t.Errorf("exit status %d\n%s%s", code, &out, &errOut)
	}
	if !strings.Contains(out.String(), "20 of 20 topics are live") {
		t.Errorf("no summary:\n%s", &out)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]int{
		"-h":         0,
		"-topics 0":  2,
		"-rate nine": 2,
		"surplus":    2,
	} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &errOut); code != want {
			t.Errorf("%s: exit status %d, want %d", args, code, want)
		}
		if !strings.Contains(errOut.String(), "-per-shard") {
			t.Errorf("%s: no usage", args)
		}
	}
}

func TestTableOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out, time.Now())
	s.tty = true
	s.print("", "one\ntwo\n")
	out.Reset()
	s.say("hello")
	got := out.String()
	if !strings.HasPrefix(got, "\x1b[2A\r\x1b[J") || !strings.HasSuffix(got, "  hello\n\x1b[?7lone\ntwo\n\x1b[?7h") {
		t.Errorf("printed %q", got)
	}
}

func TestWrap(t *testing.T) {
	word := strings.Repeat("x", width+5)
	for text, want := range map[string]string{
		"short":                           "short\n",
		strings.Repeat("ab ", 20) + "end": strings.TrimSpace(strings.Repeat("ab ", 20)) + "\n  end\n",
		word:                              word + "\n",
		word + " y":                       word + "\n  y\n",
		"a " + word + " b":                "a\n  " + word + "\n  b\n",
	} {
		if got := wrap(text, 2); got != want {
			t.Errorf("%q is wrapped to %q, want %q", text, got, want)
		}
	}
}
