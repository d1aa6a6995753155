package sim

import (
	"math"
	"slices"
	"testing"
	"time"
)

// TestStreams holds that numbers are spread as they should be, and that streams differ.
func TestStreams(t *testing.T) {
	const n = 100_000
	s := newStream(1, 1)
	unit, exp, least, most := 0.0, 0.0, 1.0, 0.0
	for range n {
		u := s.unit()
		unit += u
		least, most = min(least, u), max(most, u)
		exp += s.exp()
	}
	if math.Abs(unit/n-0.5) > 0.005 || math.Abs(exp/n-1) > 0.015 || least < 0 || least > 0.001 || most >= 1 || most < 0.999 {
		t.Errorf("means %.3f and %.3f, bounds %f and %f", unit/n, exp/n, least, most)
	}
	seen := map[uint64]bool{}
	for seed := range uint64(30) {
		for number := range uint64(30) {
			s := newStream(seed, number)
			seen[s.next()] = true
		}
	}
	if len(seen) != 900 {
		t.Errorf("900 streams begin with %d numbers", len(seen))
	}
	drawn := s.within(span{time.Second, 2 * time.Second})
	if drawn < time.Second || drawn >= 2*time.Second || s.within(span{time.Second, time.Second}) != time.Second {
		t.Errorf("drew %s from a second to two", drawn)
	}
	if i := s.below(3); i < 0 || i > 2 {
		t.Errorf("drew %d of three", i)
	}
}

// TestCurve holds that activity comes at the hours that the curve says, and once a day on average.
func TestCurve(t *testing.T) {
	total := 0.0
	for _, w := range office {
		total += w
	}
	c := newCurve(office)
	s := newStream(1, 1)
	hours := make([]float64, 24)
	const n = 200_000
	at := moment(0)
	for range n {
		next := c.after(at, s.exp()/100)
		if next < at {
			t.Fatalf("after %d comes %d", at, next)
		}
		at = next
		hours[at%day/hour]++
	}
	if days := float64(at) / float64(day); math.Abs(days-n/100) > n/100*0.02 {
		t.Errorf("%d logins at 100 a day took %.0f days", n, days)
	}
	for h, got := range hours {
		want := office[h] / total * n
		if math.Abs(got-want) > 5*math.Sqrt(want)+0.01*want {
			t.Errorf("hour %d has %.0f logins, want %.0f", h, got, want)
		}
	}
	// Hours without any activity are passed over.
	night := slices.Repeat([]float64{0}, 24)
	night[12] = 1
	if at := newCurve(night).after(13*hour, 0.5); at < day+12*hour+20*60*second || at > day+12*hour+40*60*second {
		t.Errorf("half a day's activity after 13:00, where all is between 12:00 and 13:00, ends at %s", clockAt(since(at)))
	}
	if at := newCurve(flat).after(day+6*hour, 1.25); math.Abs(float64(at-(2*day+12*hour))) > 2 {
		t.Errorf("a day and a quarter after day 1, 06:00 is %s", clockAt(since(at)))
	}
}
