package main

import (
	"fmt"
	"math"
	"slices"
)

// This file answers: what do many rounds say?

// spread is a median with the lowest and the highest.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (mid + v[len(v)/2-1]) / 2
	}
	return spread{mid, v[0], v[len(v)-1]}
}

// paired divides round by round: what disturbs a round disturbs both of a pair.
func paired(a, b []float64) []float64 {
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	return ratios
}

// known: there was something to take the median of.
func (s spread) known() bool { return !math.IsNaN(s.median) }

// times converts to another unit.
func (s spread) times(f float64) spread { return spread{s.median * f, s.low * f, s.high * f} }

func (s spread) String() string {
	if !s.known() {
		return "not measured"
	}
	return fmt.Sprintf("%s (%s–%s)", digits(s.median), digits(s.low), digits(s.high))
}

// digits prints three of them, or all before the point.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95:
		return thousands(fmt.Sprintf("%.0f", v))
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thousands parts long whole numbers.
func thousands(s string) string {
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
