package wsshard

import (
	"math"
	"slices"
	"testing"
	"time"
)

func ladder(cfg BackoffConfig, u float64, n int) (delays []time.Duration) {
	a := newAttempts(Config{Backoff: cfg}.withDefaults(0).Backoff, func() float64 { return u })
	for range n {
		delays = append(delays, a.delay())
	}
	return delays
}

func TestBackoffLadder(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		cfg  BackoffConfig
		u    float64
		want []time.Duration
	}{
		{"defaults", BackoffConfig{DisableJitter: true}, 0, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms,
			3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 30000 * ms, 30000 * ms}},
		{"most jitter", BackoffConfig{}, 0.5, []time.Duration{50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms,
			6400 * ms, 12800 * ms, 15000 * ms, 15000 * ms}},
		{"nothing drawn", BackoffConfig{}, 0, make([]time.Duration, 12)},
		{"constant", BackoffConfig{DisableJitter: true, Multiplier: 1}, 0, []time.Duration{100 * ms, 100 * ms, 100 * ms}},
		{"first is most", BackoffConfig{DisableJitter: true, InitialDelay: 5 * ms, MaxDelay: 5 * ms}, 0, []time.Duration{5 * ms, 5 * ms}},
		{"steep", BackoffConfig{DisableJitter: true, Multiplier: math.MaxFloat64, MaxDelay: math.MaxInt64}, 0,
			[]time.Duration{100 * ms, eternity, eternity}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ladder(c.cfg, c.u, len(c.want)); !slices.Equal(got, c.want) {
				t.Errorf("delays %v, want %v", got, c.want)
			}
		})
	}
}

// Full jitter fills all of [0, cap), and does so for each rung: a jitter that is added to a delay, or cut at the cap
// afterwards, brings a crowd back together.
func TestFullJitterFillsItsRange(t *testing.T) {
	cfg := Config{}.withDefaults(0).Backoff
	const shards = 2000
	for rung, most := range ladder(BackoffConfig{DisableJitter: true}, 0, 14) {
		var tenths [10]int
		for shard := range shards {
			a := newAttempts(cfg, newUniform(7, shard))
			var d time.Duration
			for range rung + 1 {
				d = a.delay()
			}
			if d < 0 || d >= most {
				t.Fatalf("rung %d: %v is not in [0, %v)", rung, d, most)
			}
			tenths[10*d/most]++
		}
		for i, n := range tenths {
			if n < shards/20 || n > shards/5 {
				t.Errorf("rung %d: %d of %d delays in tenth %d", rung, n, shards, i)
			}
		}
	}
}

func TestBackoffNeverGivesUp(t *testing.T) {
	a := newAttempts(Config{}.withDefaults(0).Backoff, func() float64 { return 0.9 })
	for i := range 10_000 {
		a.refused()
		if d := a.delay(); d <= 0 || d > 30*time.Second {
			t.Fatalf("attempt %d: %v", i, d)
		}
	}
	if a.failed != 10_000 {
		t.Errorf("%d failures counted", a.failed)
	}
}

func TestOnlyStableSessionsResetBackoff(t *testing.T) {
	cfg := Config{Backoff: BackoffConfig{DisableJitter: true}}.withDefaults(0).Backoff
	for _, c := range []struct {
		uptime time.Duration
		failed int
		next   time.Duration
	}{
		{0, 4, 800 * time.Millisecond},
		{5*time.Second - 1, 4, 800 * time.Millisecond},
		{5 * time.Second, 0, 100 * time.Millisecond},
	} {
		a := newAttempts(cfg, nil)
		for range 3 {
			a.refused()
			a.delay()
		}
		a.lost(c.uptime)
		if d := a.delay(); a.failed != c.failed || d != c.next {
			t.Errorf("up %v: %d failures, then %v; want %d, %v", c.uptime, a.failed, d, c.failed, c.next)
		}
	}
}

func TestJitterIsReproducible(t *testing.T) {
	draw := func(seed uint64, shard int) (f [4]float64) {
		u := newUniform(seed, shard)
		for i := range f {
			f[i] = u()
		}
		return f
	}
	if draw(1, 2) != draw(1, 2) || draw(1, 2) == draw(1, 3) || draw(1, 2) == draw(2, 2) || draw(0, 2) == draw(0, 2) {
		t.Error("the same seed and shard must draw the same, others not")
	}
}
