package main

import (
	"math"
	"slices"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
		text   string
	}{
		{[]float64{3}, spread{3, 3, 3}, "3.00 (3.00–3.00)"},
		{[]float64{9, 1, 5}, spread{5, 1, 9}, "5.00 (1.00–9.00)"},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4}, "2.50 (1.00–4.00)"},
	} {
		before := slices.Clone(c.values)
		got := spreadOf(c.values)
		if got != c.want || got.String() != c.text || !got.known() {
			t.Errorf("%v: %v, want %v", c.values, got, c.text)
		}
		if !slices.Equal(c.values, before) {
			t.Errorf("%v were sorted to %v: rounds no longer pair", before, c.values)
		}
		if twice := got.times(2); twice.median != 2*got.median || twice.low != 2*got.low || twice.high != 2*got.high {
			t.Errorf("%v twice is %v", got, twice)
		}
	}
	if none := spreadOf(nil); none.known() || none.String() != "not measured" {
		t.Errorf("of nothing: %v", none)
	}
}

// A round that was slow for both says nothing of either.
func TestPaired(t *testing.T) {
	if got := paired([]float64{1, 20, 3}, []float64{2, 40, 6, 8}); !slices.Equal(got, []float64{0.5, 0.5, 0.5}) {
		t.Errorf("%v", got)
	}
	if got := paired(nil, []float64{1}); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.314: "0.31", -0.5: "-0.50", 9.99: "9.99", 9.999: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 999.6: "1,000", -4321: "-4,321", 1234567: "1,234,567",
	} {
		if got := digits(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]float64{0: 0, math.NaN(): 0, 1.0000123: 1, 0.123456: 0.12346, 123456.7: 123460, -12.34567: -12.346} {
		if got := short(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}
