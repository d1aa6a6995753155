package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite the generated part of the README")

const readme = "../../README.md"

// settingsTable is the README's table of settings, made of the flags.
func settingsTable() string {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.SortFlags = false
	var s settings
	s.register(fs)
	var b strings.Builder
	b.WriteString("| variable | flag | default | what it is |\n| --- | --- | --- | --- |\n")
	fs.VisitAll(func(f *pflag.Flag) {
		usage := strings.TrimSuffix(f.Usage, " ["+environmentName(f.Name)+"]")
		preset := f.Value.String()
		usage = strings.TrimSuffix(usage, " (default "+preset+")")
		if preset != "" {
			preset = "`" + preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s |\n", environmentName(f.Name), f.Name, preset, usage)
	})
	return b.String()
}

// TestReadmeSettings holds that the README lists the settings as they are.
func TestReadmeSettings(t *testing.T) { readmeHolds(t, "settings", settingsTable()) }

// metricsTable is the README's table of metrics, made of what the program registers.
func metricsTable() string {
	measured := newMetrics()
	measured.Show(metrics.Shown{})
	var b strings.Builder
	b.WriteString("| metric | type | labels | what it is |\n| --- | --- | --- | --- |\n")
	for _, f := range measured.Families() {
		var labels []string
		for _, label := range f.Labels {
			labels = append(labels, "`"+label+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, strings.Join(labels, ", "), f.Help)
	}
	return b.String()
}

// TestReadmeMetrics holds that the README lists the metrics as they are.
func TestReadmeMetrics(t *testing.T) { readmeHolds(t, "metrics", metricsTable()) }

// readmeHolds holds that a generated part of the README is as it would be generated now.
func readmeHolds(t *testing.T, part, table string) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := fmt.Sprintf("<!-- %s: written by %s, run it with -update -->\n", part, t.Name()), fmt.Sprintf("<!-- end of %s -->", part)
	before, rest, ok1 := strings.Cut(string(text), begin)
	there, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("the README has no place for the %s", part)
	}
	want := "\n" + table + "\n"
	if there == want {
		return
	}
	if *update {
		if err := os.WriteFile(readme, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the README's %s differ from the program's; run: go test ./cmd/... -run %s -update", part, t.Name())
}

// TestReadmeImport imports what the README imports, and holds that a reader gets the report that stands there.
func TestReadmeImport(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^\$ go-dovecot-director import (\S+)\n((?:[^$].*\n)*)`).FindStringSubmatch(string(text))
	if example == nil {
		t.Fatal("the README has no example")
	}
	p := ported{t, migrated(t)}
	code, report, stderr := p.run("import", "../../"+example[1], "--endpoints-file", endpoints)
	if code != 0 || report != example[2] {
		t.Errorf("exit code %d, %s\n%s\nthe README says\n%s", code, stderr, report, example[2])
	}
}

// TestReadmeExamples asks what the README's curl lines ask, and holds that a reader gets the answers that stand there.
func TestReadmeExamples(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`(?m)^\$ curl -d '(\{.*\})' localhost:8080/auth_passdb_lookup\n(.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(examples) == 0 {
		t.Fatal("the README has no example")
	}
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t))
	for _, example := range examples {
		if _, answer := i.lookup(example[1]); answer != example[2] {
			t.Errorf("%s: the README says %s, the director %s", example[1], example[2], answer)
		}
	}
}

// TestReadmeSimulations runs what the README shows of simulate and ring, and holds that what stands there comes of it.
func TestReadmeSimulations(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	director := build(t)
	shown := regexp.MustCompile("(?m)^\\$ (go-dovecot-director (simulate|ring)|cat) (.*)\n((?:[^$`].*\n|\n)*)")
	seen := map[string]bool{}
	now := shown.ReplaceAllStringFunc(string(text), func(example string) string {
		m := shown.FindStringSubmatch(example)
		out := ""
		if m[2] == "" {
			data, err := os.ReadFile("../../" + m[3])
			if err != nil {
				t.Error(err)
			}
			out = string(data)
		} else {
			out = director.run(t, append([]string{m[2]}, strings.Fields(m[3])...)...)
		}
		seen[m[2]] = true
		return "$ " + m[1] + " " + m[3] + "\n" + out
	})
	if !seen["simulate"] || !seen["ring"] || !seen[""] {
		t.Fatalf("the README shows %v", seen)
	}
	if now == string(text) {
		return
	}
	if *update {
		if err := os.WriteFile(readme, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the README's examples differ from what comes of them; run: go test ./cmd/... -run %s -update", t.Name())
}
