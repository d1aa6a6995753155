package sim

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// column is one of the table: a headline, what it is about, the figure that it shows, and how many decimals it has.
type column struct {
	head, what string
	of         func(*Phase) float64
	decimals   int
}

// Head is the headline, and What the column is about.
func (c column) Head() string { return c.head }
func (c column) What() string { return c.what }

func (c column) text(p *Phase) string { return strconv.FormatFloat(c.of(p), 'f', c.decimals, 64) }

var columns = []column{
	{"users", "users with a backend at the end", func(p *Phase) float64 { return float64(p.Users) }, 0},
	{"logins", "logins that succeeded", func(p *Phase) float64 { return float64(p.Logins) }, 0},
	{"moves", "changes of a user's backend", func(p *Phase) float64 { return float64(p.Moves) }, 0},
	{"% of users", "moves divided by users", func(p *Phase) float64 { return 100 * p.perUser(float64(p.Moves)) }, 2},
	{"least", "users who logged in after their backend was lost for good: they had to move", func(p *Phase) float64 { return float64(p.LeastMoves) }, 0},
	{"waited", "users who were told to try again at least once", func(p *Phase) float64 { return float64(p.WaitedUsers) }, 0},
	{"mean s", "how long they were without a session, on average", func(p *Phase) float64 { return p.WaitMean }, 1},
	{"max s", "the same of the one who waited longest", func(p *Phase) float64 { return p.WaitMax }, 1},
	{"away s/user", "how long all users were without a session by a fault, on average", func(p *Phase) float64 { return p.perUser(p.Unavailable) }, 2},
	{"users min", "users of the emptiest backend at the end", func(p *Phase) float64 { return float64(p.UsersLoad.Min) }, 0},
	{"mean", "users of a backend on average", func(p *Phase) float64 { return p.UsersLoad.Mean }, 0},
	{"max", "users of the fullest backend", func(p *Phase) float64 { return float64(p.UsersLoad.Max) }, 0},
	{"peak", "users of the fullest backend divided by its share", func(p *Phase) float64 { return p.UsersLoad.Peak }, 3},
	{"worst", "the same at its worst", func(p *Phase) float64 { return p.UsersLoad.Worst }, 3},
	{"sessions", "sessions of a backend on average, at the end", func(p *Phase) float64 { return p.SessionsLoad.Mean }, 0},
	{"peak", "sessions of the fullest backend divided by its share", func(p *Phase) float64 { return p.SessionsLoad.Peak }, 3},
	{"kicked", "times that a user's sessions were ended to move the user", func(p *Phase) float64 { return float64(p.Kicked) }, 0},
	{"split", "users who had sessions on two backends at a time", func(p *Phase) float64 { return float64(p.SplitUsers) }, 0},
}

// WriteTable writes results for people: a line for each phase.
func WriteTable(w io.Writer, results []*Result) error {
	for i, r := range results {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, r.Scenario)
		if err := table(w, "phase", r.Phases, func(p *Phase) string { return fmt.Sprintf("%s %s", clockAt(p.Begin), p.Name) }); err != nil {
			return err
		}
		for _, f := range r.Failed {
			fmt.Fprintln(w, "NOT AS EXPECTED: "+f)
		}
	}
	return nil
}

// WriteComparison writes the same scenario under several strategies, a line for each.
func WriteComparison(w io.Writer, results []*Result) error {
	fmt.Fprintln(w, results[0].Scenario)
	phases := make([]*Phase, len(results))
	names := make(map[*Phase]string, len(results))
	for i, r := range results {
		phases[i] = r.Total()
		names[phases[i]] = r.Strategy
	}
	return table(w, "strategy", phases, func(p *Phase) string { return names[p] })
}

func table(w io.Writer, first string, phases []*Phase, name func(*Phase) string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := len(first)
	for _, p := range phases {
		width = max(width, len(name(p)))
	}
	fmt.Fprintf(t, "%-*s\t", width, first) // names stand on the left, numbers on the right
	for _, c := range columns {
		fmt.Fprintf(t, "%s\t", c.head)
	}
	fmt.Fprintln(t)
	for _, p := range phases {
		fmt.Fprintf(t, "%-*s\t", width, name(p))
		for _, c := range columns {
			fmt.Fprintf(t, "%s\t", c.text(p))
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a strings.Builder takes everything
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(strings.TrimPrefix(line, "  "), " \n")); err != nil {
			return err
		}
	}
	return nil
}

// clockAt writes how long after the begin something was: 1d 02:30:00.
func clockAt(d time.Duration) string {
	days := d / (24 * time.Hour)
	d -= days * 24 * time.Hour
	s := fmt.Sprintf("%02d:%02d:%02d", d/time.Hour, d/time.Minute%60, d/time.Second%60)
	if days > 0 {
		return fmt.Sprintf("%dd %s", days, s)
	}
	return s
}

// WriteJSON writes everything that is known of results. Times are in seconds since the begin.
func WriteJSON(w io.Writer, results []*Result) error {
	type phase struct {
		*Phase
		Begin float64 `json:"begin_s"`
		End   float64 `json:"end_s"`
	}
	type sample struct {
		Sample
		At float64 `json:"at_s"`
	}
	type event struct {
		Happening
		At float64 `json:"at_s"`
	}
	type result struct {
		*Result
		Begin    float64  `json:"time_of_day_s"`
		Duration float64  `json:"duration_s"`
		Phases   []phase  `json:"phases"`
		Events   []event  `json:"events"`
		Samples  []sample `json:"samples"`
	}
	all := make([]result, len(results))
	for i, r := range results {
		all[i] = result{Result: r, Begin: r.Begin.Seconds(), Duration: r.Duration.Seconds()}
		for _, p := range r.Phases {
			all[i].Phases = append(all[i].Phases, phase{p, p.Begin.Seconds(), p.End.Seconds()})
		}
		for _, e := range r.Events {
			all[i].Events = append(all[i].Events, event{e, e.At.Seconds()})
		}
		for _, s := range r.Samples {
			all[i].Samples = append(all[i].Samples, sample{s, s.At.Seconds()})
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(all)
}

// WriteCSV writes all figures of all phases, a line for each.
func WriteCSV(w io.Writer, results []*Result) error {
	c := csv.NewWriter(w)
	head := []string{"scenario", "strategy", "phase", "begin_s", "end_s"}
	for _, f := range figures {
		head = append(head, f.name)
	}
	lines := [][]string{head}
	for _, r := range results {
		for _, p := range r.Phases {
			line := []string{r.Scenario, r.Strategy, p.Name, trim(p.Begin.Seconds()), trim(p.End.Seconds())}
			for _, f := range figures {
				line = append(line, trim(f.of(p)))
			}
			lines = append(lines, line)
		}
	}
	return c.WriteAll(lines)
}
