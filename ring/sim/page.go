package sim

import (
	"bytes"
	"cmp"
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.gohtml
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what the template shows.
type page struct {
	Title    string
	Chapters []chapter
	Columns  []column
}

// chapter is a scenario, under one strategy or compared under several.
type chapter struct {
	ID, Name   string
	Compared   bool
	Comparison grid
	Timeline   chart
	Events     []happened
	Topics     []topic
	Parts      []part
}

// happened is a line in the list of events.
type happened struct {
	Number     int
	When, What string
	// Whose says under which strategies it happened, if not under all.
	Whose string
}

// topic is what charts are about: one for each result.
type topic struct {
	ID, Name, Text string
	Keys           []key
	Charts         []chart
	// Wide is for one that has a row of its own.
	Wide bool
}

// part is the words and tables of one result.
type part struct {
	ID, Strategy, Summary string
	Failed                []string
	// Peer is for one that the scenario's expectations are not about.
	Peer             bool
	Phases, Backends grid
}

// grid is a table. Groups are headlines above several columns.
type grid struct {
	Name, First string
	Groups      []string
	Heads       []column
	Rows        []gridRow
}

type gridRow struct {
	Name   string
	Cells  []string
	Strong bool
}

// WritePage writes results as a page for a browser that needs nothing else. Results of the same scenario that follow each other are
// compared.
func WritePage(w io.Writer, results []*Result) error {
	p := page{Columns: columns}
	for len(results) > 0 {
		n := 1
		for n < len(results) && results[n].Scenario == results[0].Scenario && results[n].Strategy != results[0].Strategy {
			n++
		}
		p.Chapters = append(p.Chapters, newChapter(fmt.Sprintf("s%d", len(p.Chapters)+1), results[:n]))
		results = results[n:]
	}
	p.Title = fmt.Sprintf("%d scenarios", len(p.Chapters))
	if len(p.Chapters) == 1 {
		p.Title = p.Chapters[0].Name
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func newChapter(id string, results []*Result) chapter {
	s := newScene(id, results)
	c := chapter{ID: id, Name: results[0].Scenario, Compared: len(results) > 1, Events: s.events()}
	c.Timeline = s.chart(0, "timeline", "Timeline", "")
	c.Timeline.Name, c.Timeline.Marks = "", pins(s.marks, everybody, s.end)
	c.Timeline.Describe = fmt.Sprintf("%d phases and %d events; they are listed below.", len(c.Timeline.Phases), len(c.Events))
	c.Topics = arrange([]topic{
		s.loads("users", "Users by backend", "Users whose backend it is.", func(p *Sample) []int { return p.Users }),
		s.loads("sessions", "Sessions by backend", "Sessions that are open.", func(p *Sample) []int { return p.Sessions }),
		s.moves(), s.waiting(),
	})
	c.Comparison = grid{Name: "The strategies compared, over all phases", First: "strategy", Heads: columns}
	for i, r := range results {
		c.Comparison.Rows = append(c.Comparison.Rows, gridRow{r.Strategy, cells(r.Total()), r.Strategy == Ours})
		c.Parts = append(c.Parts, newPart(fmt.Sprintf("%s-%d", id, i+1), r))
	}
	return c
}

// arrange puts topics with charts into rows of two, and those that have nothing to show below them.
func arrange(topics []topic) []topic {
	slices.SortStableFunc(topics, func(a, b topic) int { return cmp.Compare(min(1, len(b.Charts)), min(1, len(a.Charts))) })
	drawn := 0
	for i := range topics {
		if topics[i].Charts == nil {
			topics[i].Wide = true
		} else {
			drawn++
		}
	}
	if drawn%2 == 1 {
		topics[drawn-1].Wide = true
	}
	return topics
}

func newPart(id string, r *Result) part {
	p := part{ID: id, Strategy: r.Strategy, Summary: r.summary(), Failed: r.Failed, Peer: r.Strategy != Ours}
	p.Phases = grid{Name: "Phases", First: "phase", Heads: columns}
	for i, phase := range r.Phases {
		p.Phases.Rows = append(p.Phases.Rows, gridRow{clockAt(phase.Begin) + " " + phase.Name, cells(phase), i == len(r.Phases)-1})
	}
	moments := []column{{head: "begin", what: "at the begin"}, {head: "least", what: "at its emptiest"}, {head: "most", what: "at its fullest"}, {head: "end", what: "at the end"}}
	p.Backends = grid{Name: "Backends", First: "backend", Groups: []string{"users", "sessions"}, Heads: append(slices.Clone(moments), moments...)}
	for i, name := range r.Backends {
		users := r.course(i, func(s *Sample) []int { return s.Users })
		sessions := r.course(i, func(s *Sample) []int { return s.Sessions })
		p.Backends.Rows = append(p.Backends.Rows, gridRow{Name: name, Cells: append(users, sessions...)})
	}
	return p
}

// cells are the figures of a phase in the order of the columns.
func cells(p *Phase) []string {
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = grouped(c.text(p))
	}
	return row
}

// course says what a backend had at the begin, at least, at most, and at the end. It has nothing while it is not there.
func (r *Result) course(backend int, of func(*Sample) []int) []string {
	least, most := -1, -1
	for i := range r.Samples {
		if v := of(&r.Samples[i])[backend]; v >= 0 {
			if least < 0 || v < least {
				least = v
			}
			most = max(most, v)
		}
	}
	row := make([]string, 0, 4)
	for _, v := range []int{of(&r.Samples[0])[backend], least, most, of(&r.Samples[len(r.Samples)-1])[backend]} {
		text := "–"
		if v >= 0 {
			text = count(v)
		}
		row = append(row, text)
	}
	return row
}

// scene is what the charts of a scenario have in common, so that they can be compared.
type scene struct {
	id      string
	results []*Result
	end     time.Duration
	marks   []mark
	ticks   []tick
	unit    string
}

func newScene(id string, results []*Result) *scene {
	s := &scene{id: id, results: results, end: results[0].Duration, marks: marks(results)}
	s.ticks, s.unit = timeAxis(s.end)
	return s
}

// chart begins the chart of a result.
func (s *scene) chart(result int, about, title, describe string) chart {
	r := s.results[result]
	c := chart{
		ID: fmt.Sprintf("%s-%s-%d", s.id, about, result+1), Title: title, Describe: describe, X: s.ticks, Unit: s.unit,
		Phases: stripes(r), Marks: pins(s.marks, result, s.end),
	}
	if len(s.results) > 1 {
		c.Name = r.Strategy
		c.Title += ", " + r.Strategy
	}
	return c
}

// events is the list of what happened.
func (s *scene) events() []happened {
	var all []happened
	for _, m := range s.marks {
		h := happened{Number: m.number, When: clockAt(m.from), What: m.what}
		if m.times > 1 {
			h.When = fmt.Sprintf("%s to %s, %d times", clockAt(m.from), clockAt(m.to), m.times)
		}
		if len(m.who) < len(s.results) {
			var names []string
			for _, i := range m.who {
				names = append(names, s.results[i].Strategy)
			}
			h.Whose = strings.Join(names, "; ")
		}
		all = append(all, h)
	}
	return all
}

// loads shows how full the backends are.
func (s *scene) loads(about, name, text string, of func(*Sample) []int) topic {
	t := topic{ID: s.id + "-" + about, Name: name, Text: text}
	var backends []string
	most := 0
	for _, r := range s.results {
		if len(r.Backends) > len(backends) {
			backends = r.Backends
		}
		for i := range r.Samples {
			most = max(most, slices.Max(of(&r.Samples[i])))
		}
	}
	few := len(backends) <= distinct
	if !few {
		t.Text += " In colour are the fullest, the median and the emptiest at the end."
	} else {
		for i, backend := range backends {
			t.Keys = append(t.Keys, key{Class: fmt.Sprintf("c%d", i), Name: backend})
		}
	}
	y, top := loadAxis(most)
	for i, r := range s.results {
		c := s.chart(i, about, name, "")
		c.Y = y
		extremes := extremes(r, of)
		c.Describe = fmt.Sprintf("A line for each of %d backends.", len(r.Backends))
		for _, e := range extremes {
			c.Describe += fmt.Sprintf(" %s at the end is %s with %s.", upper(e.Name), r.Backends[e.backend], e.Value)
		}
		classes := make([]string, len(r.Backends))
		for b := range classes {
			classes[b] = fmt.Sprintf("c%d", b)
			if !few {
				classes[b] = "rest"
			}
		}
		if !few {
			for _, e := range extremes {
				classes[e.backend] = e.Class
				c.Keys = append(c.Keys, key{e.Class, e.Name + ": " + r.Backends[e.backend], e.Value})
			}
			c.Keys = append(c.Keys, key{Class: "rest", Name: "the others"})
		}
		for b, class := range classes {
			c.Shapes = append(c.Shapes, shape{"line " + class, r.Backends[b], graph(r, top, func(p *Sample) int { return of(p)[b] })})
		}
		// Those with a colour are in front of the grey ones.
		slices.SortStableFunc(c.Shapes, func(a, b shape) int { return cmp.Compare(rank(b.Class), rank(a.Class)) })
		t.Charts = append(t.Charts, c)
	}
	return t
}

func rank(class string) int {
	if class == "line rest" {
		return 1
	}
	return 0
}

// extreme is a backend that stands for others.
type extreme struct {
	key
	backend int
}

// extremes are the fullest, the median and the emptiest backend at the end.
func extremes(r *Result, of func(*Sample) []int) []extreme {
	loads := of(&r.Samples[len(r.Samples)-1])
	var there []int
	for i, v := range loads {
		if v >= 0 {
			there = append(there, i)
		}
	}
	if len(there) < 3 {
		return nil
	}
	slices.SortStableFunc(there, func(a, b int) int { return cmp.Compare(loads[b], loads[a]) })
	named := func(class, name string, i int) extreme { return extreme{key{class, name, count(loads[i])}, i} }
	return []extreme{named("c1", "fullest", there[0]), named("c5", "median", there[len(there)/2]), named("c0", "emptiest", there[len(there)-1])}
}

// moves shows when users moved, and why.
func (s *scene) moves() topic {
	t := topic{ID: s.id + "-moves", Name: "Moves"}
	wanted := 72
	if len(s.results) > 1 {
		wanted = 40 // charts are smaller
	}
	var reasons []string
	all := make([][]bin, len(s.results))
	most, total := 0, 0
	var each time.Duration
	for i, r := range s.results {
		reasons = append(reasons, r.Reasons()...)
		all[i] = bins(r, wanted)
		for _, b := range all[i] {
			most, each = max(most, b.all), max(each, b.to-b.from)
			total += b.all
		}
	}
	if total == 0 {
		t.Text = "Nobody moved."
		return t
	}
	slices.Sort(reasons)
	reasons = slices.Compact(reasons)
	t.Text = "Users who changed their backend, in each " + words(each) + ", by reason."
	for k, reason := range reasons {
		t.Keys = append(t.Keys, key{Class: "bar " + barClass(k), Name: reason, Value: reasonText[reason]})
	}
	y, top := loadAxis(most)
	for i, r := range s.results {
		c := s.chart(i, "moves", t.Name, plural(r.Total().Moves, "move", "moves")+".")
		c.Y = y
		for k, reason := range reasons {
			if n := r.Total().MovesBy[reason]; n > 0 {
				c.Describe += fmt.Sprintf(" %s %s.", count(n), reason)
				c.Shapes = append(c.Shapes, shape{"bar " + barClass(k), fmt.Sprintf("%s: %s", reason, count(n)), bars(all[i], reasons, k, s.end, top)})
			}
		}
		if len(c.Shapes) == 0 {
			c.Empty = "nobody moved"
		}
		t.Charts = append(t.Charts, c)
	}
	return t
}

// reasonText says what the reasons of moves mean.
var reasonText = map[string]string{
	"placed":  "the backend was lost",
	"evened":  "at a login, to even out",
	"planned": "by a plan",
}

func barClass(reason int) string { return fmt.Sprintf("c%d", reason%distinct) }

// waiting shows how many users were without a session.
func (s *scene) waiting() topic {
	t := topic{ID: s.id + "-waiting", Name: "Users without a session", Text: "Cut off or told to try again, and not back yet."}
	most, waited := 0, 0
	for _, r := range s.results {
		waited += r.Total().WaitedUsers
		for i := range r.Samples {
			most = max(most, r.Samples[i].Waiting)
		}
	}
	switch {
	case most == 0 && waited == 0:
		t.Text = "Nobody was cut off, and nobody waited."
		return t
	case most == 0:
		t.Text = "Too few waited, and not long enough, to be seen in a picture."
		return t
	}
	y, top := loadAxis(most)
	value := func(p *Sample) int { return p.Waiting }
	for i, r := range s.results {
		worst := slices.MaxFunc(r.Samples, func(a, b Sample) int { return cmp.Compare(a.Waiting, b.Waiting) })
		c := s.chart(i, "waiting", t.Name, "")
		c.Y = y
		if worst.Waiting == 0 {
			c.Describe, c.Empty = "None.", "nobody"
		} else {
			c.Describe = fmt.Sprintf("At most %s, %s after the begin.", count(worst.Waiting), clockAt(worst.At))
			c.Shapes = []shape{{"area c1", "", area(r, top, value)}, {"line c1", t.Name, graph(r, top, value)}}
		}
		t.Charts = append(t.Charts, c)
	}
	return t
}

// summary says in plain words what came of it.
func (r *Result) summary() string {
	p := r.Total()
	first := &r.Samples[0]
	var says []string
	say := func(format string, a ...any) { says = append(says, fmt.Sprintf(format, a...)) }
	say("%s, on %s, for %s from %02d:%02d.", change(total(first.Users), p.Users, "user", "users"), change(there(first.Users), there(r.Samples[len(r.Samples)-1].Users), "backend", "backends"),
		words(r.Duration), r.Begin/time.Hour, r.Begin/time.Minute%60)
	switch {
	case p.Moves == 0:
		say("Nobody moved.")
	case p.Moves == p.LeastMoves:
		say("%s, which is the least possible.", plural(p.Moves, "move", "moves"))
	case p.LeastMoves == 0:
		say("%s, %.2f for each user; none was forced by a backend that is gone for good.", plural(p.Moves, "move", "moves"), p.perUser(float64(p.Moves)))
	default:
		say("%s, %.2f for each user; the least possible is %s.", plural(p.Moves, "move", "moves"), p.perUser(float64(p.Moves)), count(p.LeastMoves))
	}
	if p.Kicked > 0 {
		say("Sessions were ended for %s of them.", count(p.Kicked))
	}
	if p.WaitedUsers == 0 {
		say("Nobody was told to wait.")
	} else {
		say("%s told to wait, and without a session for %.1f s on average, %.1f s at most.", plural(p.WaitedUsers, "user was", "users were"), p.WaitMean, p.WaitMax)
	}
	if p.StillWaiting > 0 {
		say("At the end %s.", plural(p.StillWaiting, "user still waits", "users still wait"))
	}
	if p.Unavailable > 0 {
		say("Faults left each user without a session for %.2f s on average.", p.perUser(p.Unavailable))
	}
	if p.SplitUsers == 0 {
		say("Nobody had sessions on two backends at a time.")
	} else {
		say("%s sessions on two backends at a time.", plural(p.SplitUsers, "user had", "users had"))
	}
	return strings.Join(says, " ")
}

func total(loads []int) int {
	sum := 0
	for _, v := range loads {
		sum += max(0, v)
	}
	return sum
}

func there(loads []int) int {
	n := 0
	for _, v := range loads {
		if v >= 0 {
			n++
		}
	}
	return n
}

// change says how many there are, and how many there were before if that is not the same.
func change(before, after int, one, many string) string {
	if before == after {
		return plural(after, one, many)
	}
	return fmt.Sprintf("%s at first and %s at the end", plural(before, one, many), count(after))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// words writes a duration for people: 4 min 30 s.
func words(d time.Duration) string {
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / u.unit; n > 0 && (u.name != "d" || n > 1) { // 24 h is more usual than 1 d
			parts = append(parts, fmt.Sprintf("%d %s", n, u.name))
			d -= n * u.unit
		}
	}
	return strings.Join(parts, " ")
}

func count(n int) string { return grouped(strconv.Itoa(n)) }

// grouped puts a comma between thousands.
func grouped(number string) string {
	whole, rest, _ := strings.Cut(number, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}
