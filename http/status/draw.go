package status

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// arc is a piece of a circle, ready to be drawn.
type arc struct {
	Class, Path, Title string
	// Label stands outside at X, Y; pieces that are too small have none.
	Label string
	X, Y  float64
}

// piece is what becomes an arc.
type piece struct {
	class, title, label string
	size                float64
}

const (
	// Radii of the two circles, and of where labels stand, in a drawing from -130 to 130.
	outerFar, outerNear = 104, 84
	innerFar, innerNear = 78, 62
	labelAt             = 116
	// gap is between arcs, in units of length.
	gap = 1.6
	// labelled pieces are at least this part of the circle.
	labelled = 0.035
)

// arcs lays pieces around the circle, clockwise from the top.
func arcs(pieces []piece, far, near float64) (all []arc) {
	sum := 0.0
	for _, p := range pieces {
		sum += p.size
	}
	if sum <= 0 {
		return nil
	}
	from := 0.0
	for _, p := range pieces {
		part := p.size / sum
		if part <= 0 {
			continue
		}
		a := arc{Class: p.class, Title: p.title, Path: arcPath(from, from+part, far, near)}
		if part >= labelled {
			a.Label = p.label
			a.X, a.Y = onCircle(from+part/2, labelAt)
		}
		all = append(all, a)
		from += part
	}
	return all
}

// onCircle returns the place at a part of the circle.
func onCircle(part, radius float64) (x, y float64) {
	sin, cos := math.Sincos(2 * math.Pi * part)
	return round(radius * sin), round(-radius * cos)
}

func round(v float64) float64 { return math.Round(v*100) / 100 }

// arcPath outlines the part of a ring from one part of the circle to another.
func arcPath(from, to, far, near float64) string {
	if to-from > 0.999 { // an arc cannot end where it begins
		return fmt.Sprintf("M0 %[1]g A%[2]g %[2]g 0 1 1 0 %[2]g A%[2]g %[2]g 0 1 1 0 %[1]g Z M0 %[3]g A%[4]g %[4]g 0 1 0 0 %[4]g A%[4]g %[4]g 0 1 0 0 %[3]g Z",
			-far, far, -near, near)
	}
	margin := min(gap/2, (to-from)*math.Pi*near/2)
	point := func(part, radius, aside float64) string {
		x, y := onCircle(part+aside/(2*math.Pi*radius), radius)
		return fmt.Sprintf("%g %g", x, y)
	}
	large := 0
	if to-from > 0.5 {
		large = 1
	}
	return fmt.Sprintf("M%s A%g %g 0 %d 1 %s L%s A%g %g 0 %d 0 %s Z",
		point(from, far, margin), far, far, large, point(to, far, -margin), point(to, near, -margin), near, near, large, point(from, near, margin))
}

// Lines over time are drawn in this box.
const lineWidth, lineHeight = 600.0, 100.0

// line draws values over time, as a line and as the area under it. Missing values, below 0, interrupt it.
func line(values []float64, top float64) (path, area string) {
	var p, a strings.Builder
	x := func(i int) float64 { return round(lineWidth * float64(i) / float64(len(values)-1)) }
	for i := 0; i < len(values); i++ {
		if values[i] < 0 {
			continue
		}
		begin, last := i, -1.0
		for ; i < len(values) && values[i] >= 0; i++ {
			y := round(lineHeight * (1 - min(1, values[i]/top)))
			ends := i+1 == len(values) || values[i+1] < 0
			switch {
			case i == begin:
				fmt.Fprintf(&p, "M%g %g h.1 ", x(i), y) // a single value is a dot
				fmt.Fprintf(&a, "M%g %g V%g ", x(i), lineHeight, y)
			case y == last && !ends && values[i+1] == values[i]: // in the middle of what is level
			default:
				fmt.Fprintf(&p, "L%g %g ", x(i), y)
				fmt.Fprintf(&a, "L%g %g ", x(i), y)
			}
			last = y
		}
		fmt.Fprintf(&a, "V%g Z ", lineHeight)
	}
	return strings.TrimSpace(p.String()), strings.TrimSpace(a.String())
}

// nice is the next larger number of 1, 2 or 5 and zeros, which a scale may end with.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 5, 10} {
		if v <= step*power*(1+1e-9) {
			return step * power
		}
	}
	return 10 * power
}

// chart is what has been over the last minutes.
type chart struct {
	ID, Name, Describe, Top string
	Lines                   []chartLine
}

// chartLine is one line of a chart.
type chartLine struct {
	Class, Name, Now, Path, Area string
}

// charts draws lookups and latencies.
func charts(all [periods]spell, rate [outcomes]float64) []chart {
	var lookups [outcomes][]float64
	var p50, p99 []float64
	most, slowest := 0.0, 0.0
	for _, s := range all {
		for o, n := range s.lookups {
			each := float64(n) / period.Seconds()
			if !s.counted {
				each = -1
			}
			lookups[o] = append(lookups[o], each)
			most = max(most, each)
		}
		half, last := s.p50.Seconds()*1000, s.p99.Seconds()*1000
		if s.p99 == 0 {
			half, last = -1, -1
		}
		p50, p99 = append(p50, half), append(p99, last)
		slowest = max(slowest, last)
	}
	top, slow := nice(most), nice(slowest)
	newest := all[len(all)-1]
	rates := chart{
		ID: "rates", Name: "Lookups per second", Top: plain(top),
		Describe: fmt.Sprintf("Per second, in the last five: %s answered, %s held, %s failed. The most in ten minutes was %s.", plain(rate[answered]), plain(rate[held]), plain(rate[failed]), plain(most)),
	}
	for o, name := range [outcomes]string{"answered", "held", "failed"} {
		path, area := line(lookups[o], top)
		if o != answered {
			area = ""
			if slices.Max(lookups[o]) <= 0 {
				path = "" // it would hide the others' ground
			}
		}
		rates.Lines = append(rates.Lines, chartLine{Class: name, Name: name, Now: plain(rate[o]), Path: path, Area: area})
	}
	times := chart{
		ID: "times", Name: "Time per lookup", Top: milliseconds(slow),
		Describe: fmt.Sprintf("In the last five seconds half of the lookups took at most %s, 99 in 100 at most %s.", duration(newest.p50), duration(newest.p99)),
	}
	if newest.p99 == 0 {
		times.Describe = "There were no lookups in the last five seconds."
	}
	path, _ := line(p99, slow)
	times.Lines = append(times.Lines, chartLine{Class: "p99", Name: "99 in 100", Now: duration(newest.p99), Path: path})
	path, _ = line(p50, slow)
	times.Lines = append(times.Lines, chartLine{Class: "p50", Name: "half", Now: duration(newest.p50), Path: path})
	return []chart{rates, times}
}

// plain writes a number with no more digits than say something.
func plain(v float64) string {
	if v >= 10 || v == math.Trunc(v) {
		return number(int(math.Round(v)))
	}
	return fmt.Sprintf("%.1f", v)
}

func duration(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return milliseconds(d.Seconds() * 1000)
}

func milliseconds(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.3g s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.2g ms", v)
}
