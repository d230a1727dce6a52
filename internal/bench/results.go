package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// This file answers: what came out, and where?

// figures are by contender and by name, one for each round.
type figures map[string]map[string][]float64

// measured is what is known, from one run or from several.
type measured struct {
	Machine string
	Peers   string             // who is compared with whom
	Date    string             // of the last run
	Note    string             // by hand: what else is to be known of these rounds
	Load    []float64          // the machine's load average after each case: two processes of ours are always part of it
	Checked []string           // contenders that have delivered byte for byte
	Rounds  map[string]figures // by case
}

func newMeasured() *measured {
	return &measured{Machine: machine(), Peers: peers(), Date: time.Now().UTC().Format(time.DateOnly), Rounds: make(map[string]figures)}
}

// add puts rounds behind those that are there.
func (m *measured) add(name string, rows figures) {
	if m.Rounds[name] == nil {
		m.Rounds[name] = make(figures)
	}
	for who, row := range rows {
		if m.Rounds[name][who] == nil {
			m.Rounds[name][who] = make(map[string][]float64)
		}
		for figure, values := range row {
			m.Rounds[name][who][figure] = append(m.Rounds[name][who][figure], values...)
		}
	}
}

// load is the machine's load average of the last minute; 0: unknown.
func load() (avg float64) {
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &avg)
	}
	return avg
}

// of is one figure's rounds; nil: it was not measured.
func (m *measured) of(name, who, figure string) []float64 { return m.Rounds[name][who][figure] }

const keptIn = "results.json"

// load takes what an earlier run kept. One from another machine or of other versions cannot be compared.
func (m *measured) load(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, keptIn))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var before measured
	if err := json.Unmarshal(text, &before); err != nil {
		return fmt.Errorf("%s: %w", keptIn, err)
	}
	if before.Machine != m.Machine || before.Peers != m.Peers {
		return fmt.Errorf("%s is of another machine or other versions: %s; %s", keptIn, before.Machine, before.Peers)
	}
	m.Note, m.Load, m.Checked, m.Rounds = before.Note, before.Load, before.Checked, before.Rounds
	return nil
}

// save writes the figures and what they say.
func (m *measured) save(dir string) error {
	for _, rows := range m.Rounds {
		for _, row := range rows {
			for _, values := range row {
				for i, v := range values {
					values[i] = short(v)
				}
			}
		}
	}
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	for name, content := range map[string]string{keptIn: lines(string(text)), "RESULTS.md": m.markdown(), "results.svg": m.plot()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// short leaves five digits.
func short(v float64) float64 {
	if v == 0 || math.IsNaN(v) {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-4)
	if unit < 1 {
		return math.Round(v*math.Round(1/unit)) / math.Round(1/unit)
	}
	return math.Round(v/unit) * unit
}

// lines puts the numbers of an indented list on one line.
func lines(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "[") {
		if i > 0 {
			list, rest, _ := strings.Cut(part, "]")
			b.WriteString("[" + strings.Join(strings.Fields(list), " ") + "]")
			part = rest
		}
		b.WriteString(part)
	}
	return b.String() + "\n"
}

// machine says what this was measured on.
func machine() string {
	cpu := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				cpu = strings.Join(strings.Fields(value), " ")
				break
			}
		}
	}
	kernel := ""
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(string(text), "-")
		kernel = " " + strings.TrimSpace(version)
	}
	return fmt.Sprintf("%d virtual CPUs (%s), %s%s, %s", runtime.NumCPU(), cpu, runtime.GOOS, kernel, runtime.Version())
}

// peers are the libraries and their versions.
func peers() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var list []string
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/gorilla/websocket", "github.com/lxzan/gws", "github.com/coder/websocket", "github.com/gobwas/ws":
			list = append(list, strings.TrimPrefix(dep.Path, "github.com/")+" "+dep.Version)
		}
	}
	return strings.Join(list, ", ")
}
