package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// print writes the tables and the goals.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tlookups/s\tof null\tof database\tp50 ms\tp99 ms\tp99 of null\tCPU us\tof null\tdatabase CPU us\tload CPU us")
	for _, c := range r.rows {
		fmt.Fprintf(t, "%s\t%.0f\t%.2f\t%s\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t%.0f\t%.0f\n", c.work.name, c.director.median(perSecondOf), c.ofNull(perSecondOf),
			orNone(ratio(c.director, c.database, perSecondOf)), c.director.median(p50Of)/1e6, c.director.median(p99Of)/1e6, c.ofNull(p99Of),
			c.director.median(cpuOf)/1e3, c.ofNull(cpuOf), c.director.median(databaseCPUOf)/1e3,
			c.director.median(ownCPUOf)/1e3)
	}
	fmt.Fprintln(t, "\nbackends\tusers\tlookups/s\tof null\tp99 ms\tCPU us\tresident MB")
	for _, g := range r.growth {
		fmt.Fprintf(t, "%d\t%d\t%.0f\t%.2f\t%.2f\t%.0f\t%.1f\n", g.backends, g.users, g.director.median(perSecondOf), g.ofNull(perSecondOf), g.director.median(p99Of)/1e6,
			g.director.median(cpuOf)/1e3, megabytes(g.resident))
	}
	fmt.Fprintln(t, "\nreplicas\tlookups/s\tof null\tp99 ms\tCPU us\tdatabase CPU us")
	for _, s := range r.replicas {
		fmt.Fprintf(t, "%d\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\n", s.replicas, s.director.median(perSecondOf), s.ofNull(perSecondOf), s.director.median(p99Of)/1e6,
			s.director.median(cpuOf)/1e3, s.director.median(databaseCPUOf)/1e3)
	}
	if w := r.watched; len(w.watched) > 0 {
		fmt.Fprintln(t, "\nknown users\tlookups/s\tof unwatched\tp99 ms\tCPU us\tof unwatched")
		fmt.Fprintf(t, "watched by %d browsers and Prometheus\t%.0f\t%.3f\t%.2f\t%.0f\t%.3f\n", browsers, w.watched.median(perSecondOf), ratio(w.watched, w.alone, perSecondOf),
			w.watched.median(p99Of)/1e6, w.watched.median(cpuOf)/1e3, ratio(w.watched, w.alone, cpuOf))
	}
	fmt.Fprintln(t, "\ngoal\twanted\tmeasured\t")
	for _, g := range r.goals() {
		verdict := "missed"
		if g.reached() {
			verdict = "reached"
		}
		fmt.Fprintf(t, "%s\t%s\t%.2f\t%s\n", g.what, g.wanted(), g.got, verdict)
	}
	return t.Flush()
}

// goal is a figure that was promised.
type goal struct {
	what        string
	least, most float64 // one of them is set
	got         float64
}

func (g goal) reached() bool {
	if g.most > 0 {
		return g.got <= g.most
	}
	return g.got >= g.least
}

func (g goal) wanted() string {
	if g.most > 0 {
		return fmt.Sprintf("<= %.2f", g.most)
	}
	return fmt.Sprintf(">= %.2f", g.least)
}

// earlierNewUsers is how many new users, as a share of the null handler's answers, an earlier implementation of this service
// took in a second; ten times as many are wanted.
const earlierNewUsers = 0.04

func (r *report) goals() []goal {
	var all []goal
	if c, ok := r.row(knownUsers); ok {
		all = append(all,
			goal{what: "known users, 32 connections: lookups, of null", least: 0.75, got: c.ofNull(perSecondOf)},
			goal{what: "known users, 32 connections: p99, of null", most: 2, got: c.ofNull(p99Of)},
			goal{what: "known users, 32 connections: CPU, of null", most: 1.6, got: c.ofNull(cpuOf)})
	}
	if c, ok := r.row(knownUsers256); ok {
		all = append(all, goal{what: "known users, 256 connections: lookups, of null", least: 0.85, got: c.ofNull(perSecondOf)})
	}
	if c, ok := r.row(knownUsers2); ok {
		all = append(all, goal{what: "known users, 2 connections: p99, of a SELECT by 2 clients", most: 2, got: ratio(c.director, c.database, p99Of)})
	}
	if c, ok := r.row(newUsers); ok {
		all = append(all,
			goal{what: "new users: of null", least: 10 * earlierNewUsers, got: c.ofNull(perSecondOf)},
			goal{what: "new users: of INSERTs by 8 clients", least: 2, got: ratio(c.director, c.database, perSecondOf)})
	}
	if c, ok := r.row(movedUsers); ok {
		all = append(all,
			goal{what: "users of a lost backend: of null", least: 10 * earlierNewUsers, got: c.ofNull(perSecondOf)},
			goal{what: "users of a lost backend: of UPDATEs by 8 clients", least: 2, got: ratio(c.director, c.database, perSecondOf)})
	}
	if len(r.watched.watched) > 0 {
		all = append(all, goal{what: "known users, watched: of unwatched", least: 0.98, got: ratio(r.watched.watched, r.watched.alone, perSecondOf)})
	}
	if r.idle > 0 {
		all = append(all, goal{what: "resident memory, idle, MB", most: 20, got: megabytes(r.idle)})
	}
	if r.loaded > 0 {
		all = append(all, goal{what: "resident memory, 1,000,000 users, 32 connections, MB", most: 48, got: megabytes(r.loaded)})
	}
	return append(all, goal{what: "size of the program, MB", most: 35, got: megabytes(r.program)})
}

func (r *report) row(name string) (compared, bool) {
	for _, c := range r.rows {
		if c.work.name == name {
			return c, true
		}
	}
	return compared{}, false
}

func (c compared) ofNull(figure func(result) float64) float64 {
	return ratio(c.director, c.null, figure)
}

func megabytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func orNone(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}

// picture draws the rows as bars, in the light or the dark.
func (r *report) picture() string {
	const left, width, line = 270, 420, 26
	var b strings.Builder
	height := 60 + line*len(r.rows)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<style>text{fill:#222}.null{fill:#d8dee6}.director{fill:#2f6f9f}@media(prefers-color-scheme:dark){text{fill:#ddd}.null{fill:#3a424c}.director{fill:#6fb1e0}}</style>
<text x="10" y="22" font-size="15">Lookups per second, as a share of a null handler on the same HTTP server</text>
`, left+width+70, height)
	for i, c := range r.rows {
		y, share := 40+line*i, c.ofNull(perSecondOf)
		fmt.Fprintf(&b, `<text x="10" y="%d">%s</text><rect class="null" x="%d" y="%d" width="%d" height="16"/><rect class="director" x="%d" y="%d" width="%.0f" height="16"/><text x="%d" y="%d">%.2f</text>
`, y+13, c.work.name, left, y, width, left, y, width*min(share, 1), left+width+10, y+13, share)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
