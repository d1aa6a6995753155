package chaos_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// mutant is a director with a fault that was put in on purpose: new in the place of old, which stands once in the file.
type mutant struct{ name, file, old, new string }

// mutants are ways to break the promise, each of which a careless change could bring.
var mutants = []mutant{
	{
		// Who comes second writes over the winner's row, and believes to have won.
		name: "compare-and-set broken",
		file: "store/postgres.go",
		old:  "SELECT was = m.backend AND (age = 0 OR now() - m.last_ts >= age * interval '1 second' OR m.last_ts > now() + interval '1 minute')",
		new:  "SELECT true",
	},
	{
		// A row that names a backend which this replica has not seen yet is taken for one of a backend that has long gone.
		name: "view-lag rule off",
		file: "policy.go",
		old:  "if written := f.written(); written.After(loss.Since.Add(lag)) {",
		new:  "if written := f.written(); false && written.After(loss.Since.Add(lag)) {",
	},
	{
		// Who is back is answered with at once, and a replica that has not heard of it does not see that.
		name: "late returns not told",
		file: "policy.go",
		old:  "if f.View.contested(b.Name,",
		new:  "if false && f.View.contested(b.Name,",
	},
	{
		// Whom this replica has answered before it answers from memory, whatever the table says meanwhile.
		name: "answers from memory",
		file: "director.go",
		old:  "\tif d.View() != nil {\n\t\tfacts.Row, facts.Mapping = d.read(ctx, user.Name)\n\t}\n",
		new: "\tif r := d.known.recall(user.Name); r != nil {\n\t\tfacts.Row, facts.Mapping = RowFound, Mapping{Backend: r.Backend, Age: time.Minute}\n" +
			"\t} else if d.View() != nil {\n\t\tfacts.Row, facts.Mapping = d.read(ctx, user.Name)\n\t}\n",
	},
}

// build builds the mutant without touching the source.
func (m mutant) build(t *testing.T) (path string) {
	t.Helper()
	root, dir := dovecot.Dir("..", ".."), t.TempDir()
	file := filepath.Join(root, m.file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		t.Fatalf("%s holds the text to break %d times, not once; adapt the mutant to what took its place:\n%s", m.file, n, m.old)
	}
	mutated, overlay := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutated, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{file: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "go-dovecot-director")
	cmd := exec.Command("go", "build", "-race", "-overlay", overlay, "-o", path, "./cmd/go-dovecot-director")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}
