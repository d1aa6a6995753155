package sim

import (
	"bytes"
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"
)

func render(t *testing.T, results ...*Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := WritePage(&b, results); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// busy is a scenario in which users move for two reasons, and wait.
func busy(backends int) string {
	return fmt.Sprintf(`
name: A busy hour
duration: 1h
from: "08:30"
backends: {count: %d}
users: {count: 3000, connected: 100%%}
timeline:
- {at: 10m, phase: crash, crash: {backends: 1, down: forever}, expect: {moves: 0}}
- {at: 20m, every: 1m, until: 29m, not_ready: {backends: 0, for: 5s}}
- {at: 30m, phase: grow, scale: {to: %d}}
- {at: 40m, phase: even out, rebalance: {slack: 5%%, rate: 10/s}}`, backends, backends+2)
}

// TestPageIsTheSameAgain holds that equal results give equal bytes.
func TestPageIsTheSameAgain(t *testing.T) {
	results := []*Result{play(t, busy(4), Modulo), play(t, busy(4), Ours)}
	first := render(t, results...)
	for range 20 { // Go draws another order of a map each time
		if render(t, results...) != first {
			t.Fatal("the same results give another page")
		}
	}
}

// TestPageEscapes holds that names are text and nothing else.
func TestPageEscapes(t *testing.T) {
	const hostile = `</title></svg><script>alert(1)</script><img src=x onerror='alert(1)'>" onload="alert(1) {{.}} http://x`
	for _, backends := range []int{3, 12} {
		r := play(t, busy(backends), Ours)
		r.Scenario, r.Strategy, r.Phases[1].Name, r.Events[0].What, r.Failed = hostile, hostile, hostile, hostile, []string{hostile}
		for i := range r.Backends {
			r.Backends[i] = hostile
		}
		r.Total().MovesBy = map[string]int{hostile: 1}
		r.Samples[5].Moves = map[string]int{hostile: 1}
		other := play(t, busy(backends), Ours)
		other.Scenario = hostile
		for _, page := range []string{render(t, r), render(t, r, other)} {
			if n := strings.Count(html.UnescapeString(page), hostile); n < 8+backends {
				t.Errorf("the names are on the page %d times", n)
			}
			for _, bad := range []string{"<script", "<img", `" onload`, "' onload"} {
				if strings.Contains(page, bad) {
					t.Errorf("there is %s on the page", bad)
				}
			}
			if n := strings.Count(page, "</title>"); n != strings.Count(page, "<title") {
				t.Errorf("%d titles end, %d begin", n, strings.Count(page, "<title"))
			}
		}
	}
}

// TestPageTellsAll looks for each phase, event and backend, for each figure of the table, and for what was not as expected.
func TestPageTellsAll(t *testing.T) {
	for _, backends := range []int{3, 12} {
		r := play(t, busy(backends), Ours)
		page := html.UnescapeString(render(t, r))
		for _, p := range r.Phases[:len(r.Phases)-1] {
			for _, want := range []string{fmt.Sprintf(">%s</li>", p.Name), fmt.Sprintf(`<th scope="row">%s %s</th>`, clockAt(p.Begin), p.Name)} {
				if !strings.Contains(page, want) {
					t.Errorf("phase %q: no %s", p.Name, want)
				}
			}
			for _, c := range columns {
				if !strings.Contains(page, fmt.Sprintf("<td>%s</td>", grouped(c.text(p)))) {
					t.Errorf("phase %q: no %s", p.Name, c.head)
				}
			}
		}
		for _, e := range r.Events {
			if !regexp.MustCompile(`(?m)<li><b>\d+</b> .*` + regexp.QuoteMeta(e.What) + `</li>`).MatchString(page) {
				t.Errorf("event %q is not listed", e.What)
			}
		}
		for _, b := range r.Backends {
			if !strings.Contains(page, fmt.Sprintf(`<th scope="row">%s</th>`, b)) || strings.Count(page, fmt.Sprintf("<title>%s</title>", b)) != 2 {
				t.Errorf("backend %s has no row or no lines", b)
			}
		}
		total := r.Total()
		for _, want := range append(r.Failed, "00:20:00 to 00:29:00, 10 times", "3,000 users", "from 08:30", plural(total.Moves, "moves", "moves"), fmt.Sprintf("%.1f s at most", total.WaitMax)) {
			if !strings.Contains(page, want) {
				t.Errorf("the page does not say %q", want)
			}
		}
		if len(r.Failed) == 0 || len(total.MovesBy) < 2 || total.WaitedUsers == 0 {
			t.Errorf("the scenario is not as busy as it should be: %+v", total)
		}
		for _, reason := range r.Reasons() {
			if !strings.Contains(page, fmt.Sprintf("<title>%s: %s</title>", reason, count(total.MovesBy[reason]))) {
				t.Errorf("there are no bars of %s", reason)
			}
		}
	}
}

// TestPageNeedsNothingElse looks for references to what is not in the page.
func TestPageNeedsNothingElse(t *testing.T) {
	page := render(t, play(t, busy(3), Modulo), play(t, busy(3), Ours), play(t, "duration: 1h\nusers: {count: 100}", Ours))
	if found := regexp.MustCompile(`(?i)[a-z]+://|\ssrc|@import|url\(|<link|<script|href="[^#]`).FindAllString(page, -1); found != nil {
		t.Errorf("the page refers to others: %q", found)
	}
	if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline';`) {
		t.Error("the page allows more than its own style")
	}
}

// TestPageGroups holds that results of one scenario are compared, with scales that are the same, and that others stand alone.
func TestPageGroups(t *testing.T) {
	quiet := play(t, "name: A quiet hour\nduration: 1h\nusers: {count: 100}", Ours)
	page := render(t, play(t, busy(3), Modulo), play(t, busy(3), Ours), quiet, quiet)
	for want, n := range map[string]int{
		`<section class="chapter `: 3, `<section class="chapter compared"`: 1, "<caption>The strategies compared": 1, "<figcaption>" + Modulo + "<": 4, "<figcaption>" + Ours + "<": 4,
		"Nobody moved.</p>": 2, `<a href="#s3">A quiet hour</a>`: 1, "<title>3 scenarios:": 1,
	} {
		if got := strings.Count(page, want); got != n {
			t.Errorf("there are %d of %s, want %d", got, want, n)
		}
	}
	axes := map[string]map[string]int{} // by what the charts are about
	for _, chart := range strings.Split(page, `<figure class="chart">`)[1:] {
		id := regexp.MustCompile(`aria-labelledby="(s1-[a-z]+)-`).FindStringSubmatch(chart)
		if id == nil {
			continue
		}
		labels := regexp.MustCompile(`<text class="y".*`).FindString(chart)
		if axes[id[1]] == nil {
			axes[id[1]] = map[string]int{}
		}
		axes[id[1]][labels]++
	}
	if len(axes) != 4 {
		t.Errorf("there are charts about %d things", len(axes))
	}
	for about, labels := range axes {
		if len(labels) != 1 {
			t.Errorf("%s: the scales differ: %v", about, labels)
		}
	}
	// The plan is ours alone.
	if !regexp.MustCompile(`plan: .* <span class="whose">only ` + Ours + `</span>`).MatchString(page) {
		t.Error("the page does not say whose plan it is")
	}
}

// TestPageStaysSmall bounds what the largest page weighs: as many samples as there can be, and twenty lines that never rest. With more
// decimals in its paths it would be too large.
func TestPageStaysSmall(t *testing.T) {
	r := play(t, busy(20), Ours)
	r.Samples = r.Samples[:1]
	for i := range samples + 1 {
		s := Sample{At: r.Duration * time.Duration(i) / samples, Waiting: i * 7919 % 1013, Moves: map[string]int{"placed": i}}
		for b := range r.Backends {
			s.Users, s.Sessions = append(s.Users, (i+b)*7919%10007), append(s.Sessions, (i+b)*7907%10007)
		}
		r.Samples = append(r.Samples, s)
	}
	if n := len(render(t, r)); n > 400_000 {
		t.Errorf("a page has %d bytes", n)
	}
}

// TestAxes holds what axes come to, from the shortest to the longest scenario, and from nobody to many.
func TestAxes(t *testing.T) {
	for end, want := range map[time.Duration]string{
		time.Minute: "0 5 10 15 20 25 30 35 40 45 50 55 60 s", 40 * time.Minute: "0 5 10 15 20 25 30 35 40 min", 24 * time.Hour: "0 2 4 6 8 10 12 14 16 18 20 22 24 h",
		27 * time.Hour: "0 3 6 9 12 15 18 21 24 27 h", 7 * 24 * time.Hour: "0 1 2 3 4 5 6 7 days", 45 * 24 * time.Hour: "0 5 10 15 20 25 30 35 40 45 days",
	} {
		ticks, unit := timeAxis(end)
		got, coarse := "", 0
		for _, tick := range ticks {
			got += tick.Label + " "
			if !tick.Fine {
				coarse++
			}
		}
		if got += unit; got != want || coarse < 3 || coarse > 7 {
			t.Errorf("%s: %s with %d coarse ticks; want %s", end, got, coarse, want)
		}
	}
	for most, want := range map[int]string{0: "0 1", 1: "0 1", 6: "0 1 2 3 4 5 6", 7: "0 2 4 6 8", 11114: "0 2k 4k 6k 8k 10k 12k", 1_234_567: "0 500k 1M 1.5M"} {
		ticks, top := loadAxis(most)
		var labels []string
		for _, tick := range ticks {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != want || top < most {
			t.Errorf("%d: %s; want %s", most, got, want)
		}
	}
}
