package sim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A plot's paths are in these units, and browsers stretch them to the room that there is. Text keeps a size of its own, so that it
// can be read on a phone.
const (
	plotWidth  = 1000
	plotHeight = 300
)

// distinct is how many lines can be told apart. If there are more, three are coloured and the others are grey.
const distinct = 8

// chart is a picture of one result over time.
type chart struct {
	// ID is unique on the page. Name says whose chart it is, where there are several.
	ID, Name string
	// Title and Describe are for those who do not see it.
	Title, Describe string
	X, Y            []tick
	// Unit is that of the time.
	Unit   string
	Phases []stripe
	Marks  []pin
	Shapes []shape
	Keys   []key
	// Empty is said where there is nothing to draw.
	Empty string
}

// tick is a value on an axis, at so many percent of it. Fine ones are left out where there is little room.
type tick struct {
	At, Label string
	Fine      bool
}

// stripe is a phase: where it begins and how long it is in percent, and as words.
type stripe struct{ Name, From, Width, When string }

// pin marks an event, or some that are too close to each other to be told apart.
type pin struct {
	At, Label string
	Fine      bool
}

// shape is a path. Class gives it its colour.
type shape struct{ Class, Name, Path string }

// key says what a colour stands for.
type key struct{ Class, Name, Value string }

// timeUnit is one of the axis of time: up to which duration it is taken, and the steps that look natural in it.
type timeUnit struct {
	below, unit time.Duration
	name        string
	steps       []float64
}

var timeUnits = []timeUnit{
	{2 * time.Minute, time.Second, "s", []float64{1, 2, 5, 10, 20, 30}},
	{3 * time.Hour, time.Minute, "min", []float64{1, 2, 5, 10, 15, 30}},
	{72 * time.Hour, time.Hour, "h", []float64{0.5, 1, 2, 3, 4, 6, 12}},
	{math.MaxInt64, 24 * time.Hour, "days", []float64{0.5, 1, 2, 5, 10, 20, 50, 100}},
}

// timeAxis divides the time: into twelve parts at most, and six where there is little room.
func timeAxis(end time.Duration) (ticks []tick, unit string) {
	u := timeUnits[slices.IndexFunc(timeUnits, func(u timeUnit) bool { return end < u.below })]
	length := float64(end) / float64(u.unit)
	fits := func(parts, multiple float64) float64 {
		for _, step := range u.steps {
			if length/step <= parts && math.Mod(step, multiple) == 0 {
				return step
			}
		}
		return u.steps[len(u.steps)-1]
	}
	fine := fits(12, u.steps[0])
	coarse := fits(6, fine)
	for v := 0.0; v <= length; v += fine {
		ticks = append(ticks, tick{percent(v / length), trim(v), math.Mod(v, coarse) != 0})
	}
	return ticks, u.name
}

// loadAxis divides an axis of numbers into six parts at most. It begins at 0, so that heights can be compared.
func loadAxis(most int) (ticks []tick, top int) {
	step := 1
	for i := 0; most > 6*step; i++ {
		step = step * []int{2, 5, 2}[i%3] / []int{1, 2, 1}[i%3]
	}
	top = max(1, (most+step-1)/step) * step
	for v := 0; v <= top; v += step {
		ticks = append(ticks, tick{At: percent(1 - float64(v)/float64(top)), Label: short(v)})
	}
	return ticks, top
}

// percent writes a part for an attribute of SVG.
func percent(part float64) string { return trim(math.Round(part*1e4) / 1e2) }

// short writes a number so that it fits beside an axis: 12k.
func short(n int) string {
	for _, unit := range []struct {
		size int
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= unit.size {
			return trim(float64(n)/float64(unit.size)) + unit.name
		}
	}
	return strconv.Itoa(n)
}

// pen writes a path. One decimal is finer than anybody sees, and keeps pages small.
type pen struct {
	strings.Builder
	end time.Duration
	top int
}

func (p *pen) number(v float64) { p.WriteString(strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)) }

func (p *pen) x(at time.Duration) {
	p.number(float64(at) / float64(p.end) * plotWidth)
}
func (p *pen) y(v int) { p.number(plotHeight * (1 - float64(v)/float64(p.top))) }

// graph draws a value at the times of the samples. It has a gap where the value is negative, and no points between equal ones.
func graph(r *Result, top int, of func(*Sample) int) string {
	p := pen{end: r.Duration, top: top}
	value := func(i int) int {
		if i < 0 || i >= len(r.Samples) {
			return -1
		}
		return max(-1, of(&r.Samples[i]))
	}
	for i := range r.Samples {
		before, v, after := value(i-1), value(i), value(i+1)
		if v < 0 || before == v && v == after {
			continue
		}
		if before < 0 {
			p.WriteByte('M')
		} else {
			p.WriteByte(' ')
		}
		p.x(r.Samples[i].At)
		p.WriteByte(' ')
		p.y(v)
	}
	return p.String()
}

// area is a graph that has no gaps, closed along the axis.
func area(r *Result, top int, of func(*Sample) int) string {
	return fmt.Sprintf("M0 %d %sL%d %dZ", plotHeight, strings.TrimPrefix(graph(r, top, of), "M"), plotWidth, plotHeight)
}

// bin is what several samples add up to.
type bin struct {
	from, to time.Duration
	moves    map[string]int
	all      int
}

// bins adds samples up, so that there are as many bars at most.
func bins(r *Result, most int) []bin {
	each := max(1, (len(r.Samples)-1+most-1)/most)
	var all []bin
	for i := 1; i < len(r.Samples); i += each {
		b := bin{from: r.Samples[i-1].At, moves: map[string]int{}}
		for _, s := range r.Samples[i:min(i+each, len(r.Samples))] {
			b.to = s.At
			for reason, n := range s.Moves {
				b.moves[reason] += n
				b.all += n
			}
		}
		all = append(all, b)
	}
	return all
}

// bars draws the bars of one reason, on top of those of the reasons before it.
func bars(all []bin, reasons []string, reason int, end time.Duration, top int) string {
	p := pen{end: end, top: top}
	for _, b := range all {
		n := b.moves[reasons[reason]]
		if n == 0 {
			continue
		}
		below := 0
		for _, r := range reasons[:reason] {
			below += b.moves[r]
		}
		gap := (b.to - b.from) / 12
		p.WriteByte('M')
		p.x(b.from + gap)
		p.WriteByte(' ')
		p.y(below)
		p.WriteByte('V')
		p.y(below + n)
		p.WriteByte('H')
		p.x(b.to - gap)
		p.WriteByte('V')
		p.y(below)
		p.WriteByte('Z')
	}
	return p.String()
}

// mark is an event of a scenario, or one that came again and again with no other between.
type mark struct {
	number   int
	from, to time.Duration
	times    int
	what     string
	who      []int // the results in which it happened
}

// marks numbers the events of all results of a scenario. Most happen in all of them; what is drawn, and what the planner says, may not.
func marks(results []*Result) []mark {
	who := map[Happening][]int{}
	var order []Happening
	for i, r := range results {
		for _, e := range r.Events {
			if who[e] == nil {
				order = append(order, e)
			}
			if !slices.Contains(who[e], i) {
				who[e] = append(who[e], i)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b Happening) int { return cmp.Compare(a.At, b.At) })
	var all []mark
	for _, e := range order {
		if n := len(all); n > 0 && all[n-1].what == e.What && slices.Equal(all[n-1].who, who[e]) {
			all[n-1].to = e.At
			all[n-1].times++
			continue
		}
		all = append(all, mark{len(all) + 1, e.At, e.At, 1, e.What, who[e]})
	}
	return all
}

// everybody stands for all results.
const everybody = -1

// pins are the marks of one result. Those that would cover each other share a label.
func pins(all []mark, result int, end time.Duration) []pin {
	const wide, narrow = 0.03, 0.09 // what a label takes of a plot
	var fs []pin
	first, last, roomy := 0, -1.0, -1.0
	for _, m := range all {
		if result != everybody && !slices.Contains(m.who, result) {
			continue
		}
		at := float64(m.from) / float64(end)
		if last >= 0 && at-last < wide {
			f := &fs[len(fs)-1]
			f.Label = fmt.Sprintf("%d–%d", first, m.number)
			continue
		}
		f := pin{At: percent(at), Label: strconv.Itoa(m.number), Fine: roomy >= 0 && at-roomy < narrow}
		if !f.Fine {
			roomy = at
		}
		first, last = m.number, at
		fs = append(fs, f)
	}
	return fs
}

// stripes are the phases of a result, without the whole.
func stripes(r *Result) []stripe {
	var all []stripe
	for _, p := range r.Phases[:len(r.Phases)-1] {
		part := func(d time.Duration) string { return percent(float64(d) / float64(r.Duration)) }
		all = append(all, stripe{p.Name, part(p.Begin), part(p.End - p.Begin), clockAt(p.Begin) + " to " + clockAt(p.End)})
	}
	return all
}
