package sim

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

const reported = `
name: A small site
duration: 1h
backends: {count: 4}
users: {count: 400, connected: 50%}
timeline:
- {at: 10m, phase: scale down, scale: {to: 3}, expect: {moves: 0, split_users: 0}}
- {at: 30m, phase: rest}
expect: {users: < 400}
`

// TestTable holds the table as people see it, failed expectations with it.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	results := []*Result{play(t, reported, Ours), play(t, reported, Modulo)}
	if err := WriteTable(&out, results[:1]); err != nil {
		t.Fatal(err)
	}
	out.WriteString("\n")
	if err := WriteComparison(&out, results); err != nil {
		t.Fatal(err)
	}
	const file = "../../testdata/simulate.golden"
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("it is not as in %s; if that is right, run it with -update:\n%s", file, out.String())
	}
	for i, line := range strings.Split(out.String(), "\n") {
		if strings.TrimRight(line, " ") != line {
			t.Errorf("line %d ends with a space", i+1)
		}
	}
}

// TestCSV holds that each phase is a line with all figures, which are those of the phase.
func TestCSV(t *testing.T) {
	var out bytes.Buffer
	r := play(t, reported, Ours)
	if err := WriteCSV(&out, []*Result{r}); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(lines) != 1+len(r.Phases) {
		t.Fatalf("%d lines for %d phases, %v", len(lines), len(r.Phases), err)
	}
	for i, p := range r.Phases {
		line := map[string]string{}
		for c, name := range lines[0] {
			line[name] = lines[i+1][c]
		}
		if line["scenario"] != "A small site" || line["strategy"] != Ours || line["phase"] != p.Name || line["begin_s"] != strconv.Itoa(int(p.Begin.Seconds())) ||
			line["moves"] != strconv.Itoa(p.Moves) || line["users_peak"] != trim(p.UsersLoad.Peak) || len(line) != 5+len(figures) {
			t.Errorf("phase %s: %v", p.Name, line)
		}
	}
}

// TestJSON holds that everything is there, with durations in seconds.
func TestJSON(t *testing.T) {
	var out bytes.Buffer
	r := play(t, reported, Ours)
	if err := WriteJSON(&out, []*Result{r}); err != nil {
		t.Fatal(err)
	}
	var results []struct {
		Scenario, Strategy string
		DurationSeconds    float64 `json:"duration_s"`
		Backends           []string
		Phases             []struct {
			Name         string
			BeginSeconds float64 `json:"begin_s"`
			Moves        int
			UsersLoad    Spread `json:"users_load"`
		}
		Samples []struct {
			AtSeconds float64 `json:"at_s"`
			Users     []int
		}
		Events []struct{ What string }
		Failed []string
	}
	decoder := json.NewDecoder(&out)
	if err := decoder.Decode(&results); err != nil {
		t.Fatal(err)
	}
	got := results[0]
	if got.Scenario != r.Scenario || got.DurationSeconds != 3600 || len(got.Backends) != 4 || len(got.Phases) != 4 || got.Phases[1].BeginSeconds != 600 ||
		got.Phases[1].Moves != r.Phases[1].Moves || got.Phases[1].UsersLoad != r.Phases[1].UsersLoad || len(got.Samples) != len(r.Samples) ||
		got.Samples[2].AtSeconds != r.Samples[2].At.Seconds() || len(got.Samples[2].Users) != 4 || len(got.Events) != 1 || len(got.Failed) != 2 {
		t.Errorf("%+v", got)
	}
}

// TestExpectations holds every comparison and every figure's name.
func TestExpectations(t *testing.T) {
	r := play(t, reported, Ours)
	total := r.Total()
	for _, tc := range []struct {
		bound string
		holds bool
	}{
		{"400", true},
		{"== 400", true},
		{"401", false},
		{"<= 400", true},
		{"<= 399", false},
		{">= 400", true},
		{">= 401", false},
		{"< 401", true},
		{"< 400", false},
		{"> 399", true},
		{"> 400", false},
		{"6m40s", true},
	} {
		s := load(t, "duration: 1h\nusers: {count: 1}\nexpect: {users: \""+tc.bound+"\"}")
		if got := s.expect[0].holds(total); got != tc.holds {
			t.Errorf("%d users, expected %s: %t", total.Users, tc.bound, got)
		}
	}
	if got, want := strings.Join(r.Failed, "\n"), "test.yaml:7: phase scale down: moves is "+strconv.Itoa(r.Phases[1].Moves)+", expected is 0\n"+
		"test.yaml:9: phase all: users is 400, expected is < 400"; got != want || r.Phases[1].Moves == 0 {
		t.Errorf("failed:\n%s\nwant:\n%s", got, want)
	}
	seen := map[string]bool{}
	p := &Phase{Users: 10}
	for _, f := range figures {
		if f.what == "" || seen[f.name] {
			t.Errorf("figure %s is there twice, or says nothing", f.name)
		}
		seen[f.name] = true
		_ = f.of(p) // of a phase in which nothing happened
	}
}

// TestClock holds how moments are written.
func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "00:00:00", 61 * time.Minute: "01:01:00", 49*time.Hour + 5*time.Second: "2d 01:00:05"} {
		if got := clockAt(d); got != want {
			t.Errorf("%s is written %s, want %s", d, got, want)
		}
	}
}
