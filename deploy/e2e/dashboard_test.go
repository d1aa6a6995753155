package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// dashboard is what there is to check of Grafana's model.
type dashboard struct {
	Panels []struct {
		Type, Title string
		ID          int
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct{ Expr, RefID string }
	}
}

func shippedDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(file(t, "grafana", "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Panels have numbers of their own, and do not lie on each other.
func TestDashboardIsLaidOut(t *testing.T) {
	t.Parallel()
	seen, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range shippedDashboard(t).Panels {
		if seen[p.ID] || p.ID == 0 || p.Title == "" || (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %d %q", p.ID, p.Title)
		}
		seen[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" || at[0] >= 24 {
					t.Fatalf("%q lies on %q at %v", p.Title, taken[at], at)
				}
				taken[at] = p.Title
			}
		}
	}
}

// wantDashboard holds that a director shows each metric of the dashboard and of the alerts, that the dashboard has all of the directors' own,
// and that a Prometheus which watches a platform can evaluate every expression of the dashboard and has something to show for it.
func wantDashboard(t *testing.T, p *platform, w *prometheus) {
	panels, used, recorded := shippedDashboard(t).Panels, map[string]bool{}, map[string]bool{"up": true} // which Prometheus records by itself
	use := func(expression string) {
		for _, name := range metricsOf(expression) {
			used[name] = true
		}
	}
	for _, panel := range panels {
		for _, target := range panel.Targets {
			use(target.Expr)
		}
	}
	shown := scrapedNames(t, p.proxies[0].director)
	for name := range shown {
		if strings.HasPrefix(name, "dovecot_director_") && !used[name] && !used[family(name)+"_bucket"] && !used[family(name)+"_sum"] {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
	for _, group := range shippedRules(t).Groups {
		for _, rule := range group.Rules {
			recorded[rule.Record] = true
			use(rule.Expr.StrVal)
		}
	}
	eventually(t, "a director shows all metrics that expressions name", func() error {
		shown := scrapedNames(t, p.proxies[0].director)
		missing := slices.Sorted(maps.Keys(used))
		if missing = slices.DeleteFunc(missing, func(name string) bool { return shown[name] || recorded[name] }); len(missing) > 0 {
			return fmt.Errorf("it does not show %v", missing)
		}
		return nil
	})
	filled := strings.NewReplacer("$job", scrapeJob, "$__rate_interval", "5s", " > 0", "") // what is only shown if it is above zero may be zero
	for _, panel := range panels {
		for _, target := range panel.Targets {
			eventually(t, fmt.Sprintf("%q: %s has something to show", panel.Title, target.Expr), func() error {
				if len(w.values(t, filled.Replace(target.Expr))) == 0 {
					return fmt.Errorf("nothing")
				}
				return nil
			})
		}
	}
}

// family is the name of a sample without the suffixes of a histogram's.
func family(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// scrapedNames are the names of all samples that a director shows.
func scrapedNames(t *testing.T, d *program.Director) map[string]bool {
	t.Helper()
	response, err := http.Get("http://" + strings.Replace(d.Addr(), ":8080", ":8081", 1) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	names := map[string]bool{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if name := lines.Text(); !strings.HasPrefix(name, "#") {
			names[name[:strings.IndexAny(name, "{ ")]] = true
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}
