package main

import (
	"fmt"
	"slices"
	"strings"
)

// This file answers: how do the figures look?

// Colours: ours are blue, loops by hand grey, libraries warm.
var colours = map[string]string{
	"naive": "#94a3b8", "reuse": "#64748b", "gobwas": "#fde68a", "gws": "#f59e0b", "coder": "#fca5a5",
	"wsshard": "#60a5fa", "wsshard-ll": "#1d4ed8",
}

var labels = map[string]string{
	"naive": "naive loop (gorilla ReadMessage)", "reuse": "hand-tuned loop (gorilla NextReader)", "gws": "gws", "coder": "coder/websocket",
	"gobwas": "gobwas/ws, by hand", "wsshard": "wsshard", "wsshard-ll": "wsshard, LowLatencyMode",
}

// drawing collects SVG elements.
type drawing struct{ strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(x, y float64, class, s string) {
	d.add(`<text x="%.0f" y="%.0f" class="%s">%s</text>`, x, y, class, s)
}

// style of the whole: readable on white and on black.
const style = `<style>
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#334155}
.h{font-size:19px;font-weight:600;fill:#0f172a}.t{font-size:15px;font-weight:600;fill:#0f172a}.s{fill:#64748b;font-size:12px}
.r{text-anchor:end}.m{text-anchor:middle}.b{font-weight:600}
</style>`

const (
	plotWidth  = 920.0
	plotHeight = 668.0
)

// plot is an SVG of what matters most: a message's cost, the same from case to case, and what connections cost.
func (m *measured) plot() string {
	d := &drawing{}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="CPU, memory and time that wsshard needs, compared with other libraries">`, plotWidth, plotHeight)
	d.add(style)
	d.add(`<rect width="%.0f" height="%.0f" rx="12" fill="#fff" stroke="#e2e8f0"/>`, plotWidth, plotHeight)
	d.text(32, 44, "h", "What a message and a connection cost the client")
	d.text(32, 66, "s", fmt.Sprintf("medians of %d rounds, loopback, %s; lines reach from the lowest round to the highest", len(m.of(center, "naive", "cpu")), m.Machine))
	m.messages(d, 32, 108)
	m.shares(d, 500, 108)
	m.connections(d, 32, 440)
	d.add(`</svg>`)
	return d.String()
}

// messages are bars: CPU a message, the dearest first.
func (m *measured) messages(d *drawing, x, y float64) {
	d.text(x, y, "t", "CPU a message")
	d.text(x, y+18, "s", "ns in the client's process; 256 B, 16 connections, saturated")
	who := slices.Clone(everybody)
	cpu := func(name string) spread { return spreadOf(m.of(center, name, "cpu")) }
	slices.SortFunc(who, func(a, b string) int { return int(cpu(b).median - cpu(a).median) })
	scale := 0.0
	for _, name := range who {
		scale = max(scale, cpu(name).high)
	}
	const width, step = 372.0, 36.0
	for i, name := range who {
		s := cpu(name)
		if !s.known() {
			continue
		}
		top := y + 34 + float64(i)*step
		d.text(x, top+9, class("s", name), labels[name])
		d.add(`<rect x="%.0f" y="%.1f" width="%.1f" height="12" rx="2" fill="%s"/>`, x, top+14, width*s.median/scale, colours[name])
		d.whisker(x+width*s.low/scale, x+width*s.high/scale, top+20)
		d.text(x+width+50, top+24, class("r", name), fmt.Sprintf("%.0f", s.median))
	}
}

// class makes our own labels bold.
func class(c, name string) string {
	if strings.HasPrefix(name, "wsshard") {
		return c + " b"
	}
	return c
}

func (d *drawing) whisker(from, to, y float64) {
	d.add(`<path d="M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6" stroke="#0f172a" stroke-opacity=".45" fill="none"/>`, from, y, to, from, y-3, to, y-3)
}

// shares are dots: CPU a message as a share of the naive loop's, case by case.
func (m *measured) shares(d *drawing, x, y float64) {
	d.text(x, y, "t", "From case to case")
	d.text(x, y+18, "s", "CPU a message, the naive loop = 1")
	shown := []string{"wsshard-ll", "wsshard", "gws", "coder"}
	for i, who := range shown {
		lx := x + []float64{0, 188, 264, 314}[i]
		d.add(`<circle cx="%.0f" cy="%.0f" r="5" fill="%s"/>`, lx+5, y+36, colours[who])
		d.text(lx+15, y+40, "s", strings.TrimSuffix(labels[who], "/websocket"))
	}
	const left, width, most = 150.0, 230.0, 2.0
	at := func(v float64) float64 { return x + left + width*min(v, most)/most }
	var rows []testcase
	for _, c := range cases() {
		if c.spec.Mode == "saturated" || c.spec.Mode == "paced" {
			rows = append(rows, c)
		}
	}
	top, step := y+66, 20.0
	bottom := top + float64(len(rows))*step
	for _, v := range []float64{0, 0.5, 1, 1.5, 2} {
		d.add(`<path d="M%.1f %.0fV%.0f" stroke="%s"/>`, at(v), top-12, bottom-10, map[bool]string{true: "#64748b", false: "#e2e8f0"}[v == 1])
		d.text(at(v), bottom+5, "s m", strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0"))
	}
	titles := map[string]string{center: "256 B, 16 connections", "paced": "100 × 200/s", "bursts": "100 × 200/s in bursts"}
	for i, c := range rows {
		line := top + float64(i)*step
		title := c.title
		if t := titles[c.name]; t != "" {
			title = t
		}
		d.text(x+left-14, line+4, "s r", title)
		for k := len(shown) - 1; k >= 0; k-- { // ours on top
			s := spreadOf(paired(m.of(c.name, shown[k], "cpu"), m.of(c.name, "naive", "cpu")))
			if s.known() {
				d.add(`<circle cx="%.1f" cy="%.1f" r="5" fill="%s" stroke="#fff"><title>%s: %s</title></circle>`, at(s.median), line, colours[shown[k]], labels[shown[k]], s)
			}
		}
	}
}

// connections are small bars: what connections cost when nothing or everything happens to them.
func (m *measured) connections(d *drawing, x, y float64) {
	for i, panel := range []struct {
		title, sub, name, figure, unit string
		who                            []string
	}{
		{"An idle connection", "KiB resident, 2,000 of them", "idle", "rss", " KiB", []string{"naive", "gws", "coder", "wsshard"}},
		{"Opening 1,000", "until each has delivered", "storm", "ms", " ms", dialling},
		{"Restoring 1,000 after a reset", "resubscription included", "restore", "ms", " ms", dialling},
	} {
		px := x + float64(i)*296
		d.text(px, y, "t", panel.title)
		d.text(px, y+18, "s", panel.sub)
		scale := 0.0
		for _, who := range panel.who {
			scale = max(scale, spreadOf(m.of(panel.name, who, panel.figure)).high)
		}
		for k, who := range panel.who {
			s := spreadOf(m.of(panel.name, who, panel.figure))
			if !s.known() {
				continue
			}
			top := y + 34 + float64(k)*38
			const width = 180.0
			d.text(px, top+9, class("s", who), strings.TrimSuffix(labels[who], " (gorilla ReadMessage)"))
			d.add(`<rect x="%.0f" y="%.1f" width="%.1f" height="12" rx="2" fill="%s"/>`, px, top+14, width*s.median/scale, colours[who])
			d.whisker(px+width*s.low/scale, px+width*s.high/scale, top+20)
			d.text(px+width+70, top+24, class("r", who), digits(s.median)+panel.unit)
		}
	}
}
