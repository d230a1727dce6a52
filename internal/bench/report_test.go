package main

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// invented is a run in which every figure of the plan is there and each contender is worse than the one before it.
func invented() *measured {
	m := newMeasured()
	for _, c := range plan() {
		rows := make(figures)
		for i, who := range c.contenders {
			rows[who] = make(map[string][]float64)
			for _, figure := range []string{"cpu", "allocs", "bytes", "rate", "p50", "p99", "rss", "stack", "live", "idle", "ms", "each", "heap", "sub"} {
				rows[who][figure] = []float64{10 + float64(i), 9 + float64(i), 12 + float64(i)}
			}
		}
		m.Rounds[c.name] = rows
	}
	return m
}

// Every bar and every growth figure names a case, a contender and a figure that the plan measures.
func TestBarsAreOfThePlan(t *testing.T) {
	m := invented()
	for _, b := range bars() {
		if s := spreadOf(b.measure(m)); !s.known() || b.limit <= 0 {
			t.Errorf("%q: %v", b.of, s)
		}
	}
	if text := m.markdown(); strings.Contains(text, " not measured |") {
		t.Errorf("a table has a hole:\n%s", text)
	}
}

func TestReport(t *testing.T) {
	m := newMeasured()
	m.Rounds["idle"] = figures{"naive": {"rss": {10, 10, 20}, "stack": {4}}, "wsshard": {"rss": {9, 9, 9}, "idle": {1, 2, 3}}}
	text := m.markdown()
	for _, want := range []string{
		"| 10.0 (10.0–20.0) | 1.00 (1.00–1.00) |",
		"| 9.00 (9.00–9.00) | 0.90 (0.45–0.90) |",
		"| 0.85 | 0.90 (0.45–0.90) | **not met** |",
		"| 5.00 ms/s | 2.00 (1.00–3.00) ms/s | met |",
		"\n- An idle connection has three goroutines",
		"2,000 connections, idle, 3 rounds",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Connecting") || strings.Contains(text, "How cost grows") || strings.Contains(text, whyCold) {
		t.Errorf("what was not measured is told:\n%s", text)
	}
}

// What a run keeps the next one finds, and adds to: round still stands beside round.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	m := newMeasured()
	if err := m.load(dir); err != nil {
		t.Fatal(err)
	}
	m.Rounds["paced"] = figures{"naive": {"cpu": {1.23456789, 123456.789}}}
	m.Rounds["idle"] = figures{"naive": {"rss": {1, 2, 3}}}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	next := newMeasured()
	if err := next.load(dir); err != nil {
		t.Fatal(err)
	}
	if v := next.of("paced", "naive", "cpu"); len(v) != 2 || v[0] != 1.2346 || v[1] != 123460 {
		t.Errorf("%v", v)
	}
	next.add("idle", figures{"naive": {"rss": {4, 5}}})
	if v := next.of("idle", "naive", "rss"); !slices.Equal(v, []float64{1, 2, 3, 4, 5}) {
		t.Errorf("%v", v)
	}
	other := newMeasured()
	other.Machine = "another"
	if err := other.load(dir); err == nil {
		t.Error("another machine's figures were taken")
	}
}

func TestPlotIsXML(t *testing.T) {
	for name, m := range map[string]*measured{"all": invented(), "nothing": newMeasured()} {
		d := xml.NewDecoder(strings.NewReader(m.plot()))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if text := m.plot(); strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%s: no number is drawn as one", name)
		}
	}
}

func TestContender(t *testing.T) {
	for name, want := range map[string]spec{"gws": {Driver: "gws", Buffer: 4096}, "reuse@64K": {Driver: "reuse", Buffer: 65536}, "wsshard@0.5K": {Driver: "wsshard", Buffer: 512}} {
		if got := (spec{}).with(name); got.Driver != want.Driver || got.Buffer != want.Buffer {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, c := range plan() {
		for _, who := range c.contenders {
			if drivers[c.spec.with(who).Driver] == nil || modes[c.spec.Mode] == nil {
				t.Errorf("%s: %s, %s", c.name, who, c.spec.Mode)
			}
		}
	}
}

// The README tells what was measured last.
func TestREADME(t *testing.T) {
	m := newMeasured()
	text, err := os.ReadFile(keptIn)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, m); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"../../docs/performance.md": m.summary(), "RESULTS.md": m.markdown(), "results.svg": m.plot()} {
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s does not say this (%v):\n%s", name, err, want)
		}
	}
}
