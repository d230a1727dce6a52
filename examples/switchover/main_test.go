package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/feed"
)

func TestReplaceAll(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"-for", "1500ms", "-shards", "4", "-topics", "50", "-rate", "5000"}, &out, &errOut); code != 0 {
		t.Fatalf("exit status %d\n%s%s", code, &out, &errOut)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	all := strings.Fields(lines[len(lines)-1])
	if len(lines) != 7 || all[0] != "all" || all[1] == "0" || all[2] == "0" || strings.Join(all[3:6], " ") != "0 0 0" {
		t.Errorf("printed\n%s", &out)
	}
}

func TestCompare(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"-compare", "2", "-shards", "2", "-topics", "20", "-rate", "4000"}, &out, &errOut); code != 0 {
		t.Fatalf("exit status %d\n%s%s", code, &out, &errOut)
	}
	if !strings.Contains(out.String(), "HotSwitchover") || !strings.Contains(out.String(), "Reconnect") {
		t.Errorf("printed\n%s", &out)
	}
}

// Ctrl-C ends the replacing, not the counting.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out, errOut bytes.Buffer
	if code := run(ctx, []string{"-shards", "2", "-topics", "10", "-rate", "1000"}, &out, &errOut); code != 0 {
		t.Errorf("exit status %d\n%s%s", code, &out, &errOut)
	}
	if !strings.Contains(out.String(), "all ") {
		t.Errorf("no table:\n%s", &out)
	}
}

// What is missing, came twice or late fails.
func TestVerdict(t *testing.T) {
	for name, r := range map[string]row{
		"missing":      {missing: 1},
		"duplicates":   {seen: feed.Totals{Duplicates: 1}},
		"out of order": {seen: feed.Totals{OutOfOrder: 1}},
		"":             {},
	} {
		var out bytes.Buffer
		if ok := printTable(&out, []row{{}, r}, 0); ok != (name == "") || ok == strings.Contains(out.String(), "FAILED") {
			t.Errorf("%q: %v\n%s", name, ok, &out)
		}
	}
}

// What never came, though it was sent last, is missing too.
func TestMissingAtTheEnd(t *testing.T) {
	s, err := setUp(t.Context(), options{shards: 1, topics: 1, rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	s.srv.Tick(3)
	s.app = &app{shards: make([]shard, 1)} // it saw nothing
	rows := make([]row, 1)
	if s.count(rows); rows[0].missing < 3 {
		t.Errorf("%d are missing", rows[0].missing)
	}
	if err := s.tearDown(); err != nil {
		t.Fatal(err)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]int{
		"-h":         0,
		"-shards 0":  2,
		"-rate nine": 2,
		"surplus":    2,
	} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &errOut); code != want {
			t.Errorf("%s: exit status %d, want %d", args, code, want)
		}
		if !strings.Contains(errOut.String(), "-shards") {
			t.Errorf("%s: no usage", args)
		}
	}
}
