package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (m *measured) markdown() string {
	var b strings.Builder
	for _, c := range append(cases(), growth()...) {
		rows := m.Rounds[c.name]
		if rows == nil {
			continue
		}
		fmt.Fprintf(&b, "## %s\n", c.title)
		for _, who := range c.contenders {
			fmt.Fprintf(&b, "%-16s", who)
			for _, f := range slices.Sorted(maps.Keys(rows[who])) {
				fmt.Fprintf(&b, "  %s %s", f, spreadOf(rows[who][f]))
				if who != c.contenders[0] {
					fmt.Fprintf(&b, " x%s", digits(spreadOf(paired(rows[who][f], rows[c.contenders[0]][f])).median))
				}
			}
			b.WriteString("\n")
		}
	}
	for _, x := range bars() {
		s := spreadOf(x.measure(m))
		if s.String() == "not measured" { continue }
		fmt.Fprintf(&b, "%v  %s: %s, limit %v\n", s.median <= x.limit, x.of, s, x.limit)
	}
	return b.String()
}
