package store

import (
	"math"
	"testing"
	"time"
)

// TestAge holds what is made of the ages that a database tells, which may be those of rows from the future or from before all times.
func TestAge(t *testing.T) {
	for seconds, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, 3600: time.Hour,
		-1: 0, -60: 0, // clocks differ
		-60.1: unknownAge, -1e9: unknownAge, math.Inf(-1): unknownAge,
		1e18: math.MaxInt64 / 2, math.Inf(1): math.MaxInt64 / 2, math.MaxInt64/2e9 + 1000: math.MaxInt64 / 2,
	} {
		if got := age(seconds); got != want {
			t.Errorf("%v s: %s, want %s", seconds, got, want)
		}
	}
}
