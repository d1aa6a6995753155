package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// simulated runs the program and returns what it says.
func simulated(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, environment(), &out, &errs)
	return code, out.String(), errs.String()
}

// built is the program without the race detector, for large simulations. It runs in the project's folder, as a reader does.
type built string

func build(t *testing.T) built {
	t.Helper()
	binary := filepath.Join(t.TempDir(), program)
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return built(binary)
}

// run returns what it prints, and fails the test if it fails or complains.
func (b built) run(t *testing.T, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), string(b), args...)
	cmd.Dir, cmd.Stderr = "../..", &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %v\n%s%s", args, err, out, stderr.String())
	}
	return string(out)
}

// TestScenarios plays all scenarios as they are.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob(scenarios + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scenarios", err)
	}
	args := []string{"simulate"}
	for _, file := range files {
		args = append(args, strings.TrimPrefix(file, "../../"))
	}
	out := build(t).run(t, args...)
	if played := strings.Count(out, "\nphase "); played != len(files) {
		t.Errorf("%d scenarios were played of %d", played, len(files))
	}
	for _, file := range files { // each says what should come of it
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte("expect")) || !bytes.HasPrefix(text, []byte("# ")) {
			t.Errorf("%s expects nothing, or has no comment: %v", file, err)
		}
	}
}

func TestSimulateSaysWhatIsNotAsExpected(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("a.yaml", "duration: 10m\nusers: {file: users.csv}\nexpect: {moves: 7}\nsettings: {restart-grace: 1m}\n")
	write("users.csv", "username,backend\nada@example.org,dovecot-backend-0\nbob@example.org,dovecot-backend-2\n")
	code, stdout, stderr := simulated(t, "simulate", file)
	if want := "NOT AS EXPECTED: " + file + ":3: phase all: moves is 0, expected is 7\n"; code != exitFailure || !strings.HasSuffix(stdout, want) ||
		stderr != "go-dovecot-director: not all is as the scenarios expect\n" || !strings.Contains(stdout, "\n00:00:00 all") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = simulated(t, "simulate", "--output", "json", "--html", filepath.Join(dir, "page.html"), file)
	var results []struct{ Strategy string }
	if err := json.Unmarshal([]byte(stdout), &results); err != nil || code != exitFailure || len(results) != 1 {
		t.Errorf("exit code %d, %v, %s", code, err, stdout)
	}
	if page, err := os.ReadFile(filepath.Join(dir, "page.html")); err != nil || !bytes.Contains(page, []byte("dovecot-backend-2")) {
		t.Errorf("%v, %d bytes", err, len(page))
	}
	if code, stdout, _ = simulated(t, "simulate", "--output", "csv", file, file); code != exitFailure || strings.Count(stdout, "\n") != 5 {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	if code, stdout, _ = simulated(t, "simulate", "--compare", file); code != exitFailure || strings.Count(stdout, "\n") != 8 || !strings.Contains(stdout, "rendezvous") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	bad := write("bad.yaml", "duration: 10m\nusers: {count: 3}\nsettings: {restart-grace: 99d}\n")
	unreadable := write("unreadable.yaml", "duration: 10m\nusers: {file: torn.csv}\n")
	write("torn.csv", "username,backend\nada@example.org,dovecot-backend-0,x,y\n")
	for want, args := range map[string][]string{
		bad + `:3:12: invalid argument "99d" for "--restart-grace" flag: "99d" is not a duration; write 30s, 2m or 1h30m`: {bad},
		unreadable + ":2:15: the users cannot be read: line 2: ":                                                          {unreadable},
		"open " + filepath.Join(dir, "none.yaml") + ": no such file or directory":                                         {filepath.Join(dir, "none.yaml")},
		"--html: open " + dir + ": is a directory":                                                                        {"--html", dir, file},
		`invalid argument "xml" for "--output" flag: "xml" is not known; write one of table, json, csv`:                   {"--output", "xml", file},
		"requires at least 1 arg(s), only received 0":                                                                     {},
	} {
		code, stdout, stderr := simulated(t, append([]string{"simulate"}, args...)...)
		if code == 0 || stdout != "" || !strings.HasPrefix(stderr, "go-dovecot-director: "+want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d\n%s got %swant %s", args, code, stdout, stderr, want)
		}
	}
}

func TestRing(t *testing.T) {
	code, stdout, stderr := simulated(t, "ring", "3", "--name", "mx")
	want := `backend  weight  new users %  of its share  if it leaves, % change
mx-0     1       `
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, want) || strings.Count(stdout, "\n") != 6 || !strings.Contains(stdout, "\nif mx-3 joins, ") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	var d ringDescription
	code, stdout, _ = simulated(t, "ring", "a", "b=2", "--output", "json")
	if err := json.Unmarshal([]byte(stdout), &d); err != nil || code != 0 || len(d.Backends) != 2 || d.Joining.Name != "dovecot-backend-2" {
		t.Fatalf("exit code %d, %v\n%s", code, err, stdout)
	}
	b := d.Backends[1]
	if b.Name != "b" || b.Weight != 2 || b.Share < 0.6 || b.Share > 0.73 || b.Fair < 0.66 || b.Fair > 0.67 || b.Leaving < b.Share-1e-9 || b.Leaving > b.Share+0.01 ||
		d.Joining.Moves < d.Joining.Least-1e-9 || d.Joining.Least < 0.22 || d.Joining.Least > 0.28 || len(d.Checksum) != 16 {
		t.Errorf("%+v", d)
	}
	if code, stdout, _ := simulated(t, "ring", "1"); code != 0 || !strings.Contains(stdout, "100.00       1.000         100.00") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	for arg, want := range map[string]string{
		"0": "0 backends are out of bounds; the least is 1, the most is 1000", "1001": "1001 backends are out of bounds; the least is 1, the most is 1000",
		"a=0": `"a=0": the weight must be a whole number from 1 to 100`, "a=": `"a=": the weight must be a whole number from 1 to 100`, "=2": `"=2": a name must not be empty, and be there once`,
	} {
		if code, _, stderr := simulated(t, "ring", arg); code != exitUsage || stderr != "go-dovecot-director: "+want+"\n" {
			t.Errorf("%s: exit code %d, %s", arg, code, stderr)
		}
	}
	if code, _, stderr := simulated(t, "ring", "a", "a"); code != exitUsage || !strings.Contains(stderr, "be there once") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestTheBar(t *testing.T) {
	for want, done := range map[string][]float64{
		"[                                        ]   0 %": {0, 0}, "[====================                    ]  50 %": {1, 0}, "[========================================] 100 %": {1, 1},
	} {
		if got := drawBar(done); got != want {
			t.Errorf("%v: %s", done, got)
		}
	}
	var out bytes.Buffer
	p := newProgress(&out, 1)
	p.set(0, 0.5)
	p.close()
	if out.Len() > 0 {
		t.Errorf("a bar where there is no terminal: %q", out.String())
	}
}
