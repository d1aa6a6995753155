package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// ported is a database and the verbs that work on it.
type ported struct {
	t   *testing.T
	url string
}

// onDatabases runs a test with a maker of empty databases of either kind.
func onDatabases(t *testing.T, test func(t *testing.T, empty func() ported)) {
	t.Run("SQLite", func(t *testing.T) {
		test(t, func() ported { return ported{t, migrated(t)} })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		server := pgtest.Start(t)
		test(t, func() ported {
			p := ported{t, server.Database(t)}
			if code, _, stderr := p.run("migrate"); code != 0 {
				t.Fatal(stderr)
			}
			return p
		})
	})
}

func (p ported) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(p.t.Context(), append(args, "--database-url", p.url), none, &out, &errs)
	return code, out.String(), errs.String()
}

// exec executes a statement, with TIMESTAMP for the type of last_ts.
func (p ported) exec(statement string) {
	p.t.Helper()
	if path, ok := strings.CutPrefix(p.url, "sqlite:"); ok {
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=foreign_keys(1)")
		if err != nil {
			p.t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(strings.ReplaceAll(statement, "TIMESTAMP", "INTEGER")); err != nil {
			p.t.Fatalf("%s: %v", statement, err)
		}
		return
	}
	pgtest.Exec(p.t, p.url, strings.ReplaceAll(statement, "TIMESTAMP", "timestamptz"))
}

func (p ported) export(args ...string) string {
	p.t.Helper()
	code, stdout, stderr := p.run(append([]string{"export"}, args...)...)
	if code != 0 || stderr != "" {
		p.t.Fatalf("export: exit code %d, %s", code, stderr)
	}
	return stdout
}

// imports imports a text, and returns the report.
func (p ported) imports(text string, args ...string) string {
	p.t.Helper()
	code, stdout, stderr := p.run(append([]string{"import", file(p.t, text)}, args...)...)
	if code != 0 || stderr != "" {
		p.t.Fatalf("import: exit code %d, %s", code, stderr)
	}
	return stdout
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mappings")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// reports holds that a report says how many there are of something.
func reports(t *testing.T, report string, want map[string]int) {
	t.Helper()
	for what, n := range want {
		if !strings.Contains(report, fmt.Sprintf("%-23s %8d\n", what, n)) {
			t.Errorf("the report does not say %d for %s:\n%s", n, what, report)
		}
	}
}

// mappingText is CSV with so many users, and with names of all kinds.
func mappingText(users int) string {
	var b bytes.Buffer
	rows := [][]string{}
	for i, name := range []string{"zoë", "a\tb\nc", "cr\r\nlf", `"`, `\.`, " ", "#x", "<unknown>", "o'hara, jr", "🙂"} {
		rows = append(rows, []string{name, "dovecot-backend-0", fmt.Sprintf("2026-01-02T03:04:05.%03dZ", i)})
	}
	for i := range users {
		rows = append(rows, []string{fmt.Sprintf("user-%07d@example.org", i), fmt.Sprintf("dovecot-backend-%d", i%3), time.UnixMilli(int64(i) * 12345).UTC().Format(exportTime)})
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	w := csv.NewWriter(&b)
	_ = w.WriteAll(append([][]string{{"username", "backend", "last_ts"}}, rows...))
	return b.String()
}

func TestExportImportAndExportAreTheSame(t *testing.T) {
	text := mappingText(2000)
	onDatabases(t, func(t *testing.T, empty func() ported) {
		one := empty()
		reports(t, one.imports(text, "--endpoints-file", endpoints), map[string]int{"rows": 2010, "written": 2010, "there already": 0})
		if got := one.export(); got != text {
			t.Errorf("what was imported is exported as something else:\n%.2000s", got)
		}
		other := empty()
		other.imports(one.export("--format", "tsv"), "--allow-unknown-backends")
		if got := other.export(); got != text {
			t.Errorf("the way over TSV changes something:\n%.2000s", got)
		}
		reports(t, other.imports(text, "--endpoints-file", endpoints), map[string]int{"written": 0, "there already": 2010})
		if got := empty().export(); got != "username,backend,last_ts\n" {
			t.Errorf("an empty table is exported as %q", got)
		}
		reports(t, empty().imports("username,backend,last_ts\n", "--endpoints-file", endpoints), map[string]int{"rows": 0, "written": 0})
	})
}

func TestImportKeepsRowsAndPassesOverRefusedUsers(t *testing.T) {
	onDatabases(t, func(t *testing.T, empty func() ported) {
		p := empty()
		p.exec(`DROP TABLE mailbox_username_backend`)
		p.exec(`CREATE TABLE mailbox (username varchar(255) PRIMARY KEY)`)
		p.exec(`CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY REFERENCES mailbox (username), backend varchar(255) NOT NULL, last_ts TIMESTAMP NOT NULL)`)
		p.exec(`INSERT INTO mailbox VALUES ('ada'), ('bob'), ('cy'), ('dee'), ('eve')`)
		p.imports("ada,192.0.2.11\nbob,dovecot-backend-1\ncy,elsewhere\n", "--allow-unknown-backends")
		text := "user,host\nADA,dovecot-backend-0.mail.svc\nbob,192.0.2.12\ncy,::ffff:192.0.2.13\ndee,dovecot-backend-2\nDee,192.0.2.13\nnobody,dovecot-backend-2\neve,dovecot-backend-2\n"
		before := p.export()
		dry := p.imports(text, "--endpoints-file", endpoints, "--dry-run")
		reports(t, dry, map[string]int{"rows": 7, "would be written": 3, "there already": 2, "kept on another backend": 1, "repeated in the file": 1, "<unknown> users": 0})
		if p.export() != before {
			t.Error("a dry run wrote something")
		}
		report := p.imports(text, "--endpoints-file", endpoints)
		reports(t, report, map[string]int{"rows": 7, "written": 2, "there already": 2, "kept on another backend": 1, "refused by the database": 1, "repeated in the file": 1})
		for _, want := range []string{"\n  cy is on elsewhere, not dovecot-backend-2\n", "\n  nobody\n"} {
			if !strings.Contains(report, want) {
				t.Errorf("%q is not in\n%s", want, report)
			}
		}
		var users []string
		for line := range strings.Lines(p.export()) {
			users = append(users, line[:strings.LastIndexByte(line, ',')])
		}
		if want := []string{"username,backend", "ada,192.0.2.11", "bob,dovecot-backend-1", "cy,elsewhere", "dee,dovecot-backend-2", "eve,dovecot-backend-2"}; !slices.Equal(users, want) {
			t.Errorf("%q, want %q", users, want)
		}
	})
}

func TestImportOfDovecotsDirector(t *testing.T) {
	onDatabases(t, func(t *testing.T, empty func() ported) {
		for _, ext := range []string{"txt", "tsv"} {
			p := empty()
			code, stdout, stderr := p.run("import", "../../testdata/mappings/doveadm-director-map."+ext, "--endpoints-file", endpoints)
			if code != 0 {
				t.Fatal(stderr)
			}
			reports(t, stdout, map[string]int{"rows": 12, "written": 10, "<unknown> users": 2})
			if got := p.export(); !strings.Contains(got, "\ndan o'hara@example.org,dovecot-backend-0,20") {
				t.Error(got)
			}
		}
	})
}

// TestNothingIsWrittenIfALineIsBad holds that each bad line is named, with what is wrong.
func TestNothingIsWrittenIfALineIsBad(t *testing.T) {
	p := ported{t, migrated(t)}
	for name, tc := range map[string]struct{ text, want, sum string }{
		"a field too few":             {"user,host,last_ts\nx,dovecot-backend-0\n", "line 2: fields: 2, in the header: 3\n", "1 of its rows cannot be imported; nothing was written"},
		"a user without a name":       {"ada,dovecot-backend-0\n,dovecot-backend-0\n", "line 2: invalid user name: the name is empty\n", "1 of its rows"},
		"a user who is too long":      {strings.Repeat("x", 256) + ",dovecot-backend-0\n", "line 1: invalid user name: the name has 256 characters", "1 of its rows"},
		"a user who is no text":       {"a\xff,dovecot-backend-0\n", "line 1: invalid user name: the name is not valid UTF-8", "1 of its rows"},
		"a bad last_ts":               {"ada,dovecot-backend-0,soon\n", `line 1: last_ts: "soon" is not a time`, "1 of its rows"},
		"a user on two backends":      {"ada,dovecot-backend-0\nbob,dovecot-backend-1\nada,dovecot-backend-1\n", `line 3: the user "ada" is on "dovecot-backend-1" here and on "dovecot-backend-0" in line 1` + "\n", "1 of its rows"},
		"the same by the user format": {"Ada,dovecot-backend-0\naDa,192.0.2.12\n", `line 2: the user "ada" is on "dovecot-backend-1" here and on "dovecot-backend-0" in line 1` + "\n", "1 of its rows"},
		"a time to come":              {"ada,dovecot-backend-0,2999-01-02T03:04:05Z\n", "line 1: last_ts: 2999-01-02T03:04:05Z is in the future; leave it empty if it is not known\n", "1 of its rows cannot be imported; nothing was written"},
		"an unknown name":             {"ada,dovecot-backend-3\n", `line 1: there is no such backend: "dovecot-backend-3"` + "\n", "1 of its rows cannot be imported, 1 of them for their backend; the known ones are dovecot-backend-0, dovecot-backend-1, dovecot-backend-2; nothing was written"},
		"an unknown address":          {"ada,192.0.2.1\n", `line 1: there is no such backend: "192.0.2.1"`, "1 of its rows"},
		"an unknown host":             {"ada,mail.dovecot-backend-0\n", `line 1: there is no such backend: "mail.dovecot-backend-0"`, "1 of its rows"},
		"two":                         {"bob,\neve,dovecot-backend-0\nada,x\n", "line 1: there is no such backend: \"\"\nline 3: there is no such backend: \"x\"\n", "2 of its rows"},
		"a header of no use":          {"user,server\n", "", "line 1: the header has no column of backends"},
		"an empty file":               {"", "", "it is empty"},
	} {
		path := file(t, tc.text)
		code, stdout, stderr := p.run("import", path, "--endpoints-file", endpoints)
		if code != exitFailure || stdout != "" || !strings.HasPrefix(stderr, tc.want) || !strings.Contains(stderr, program+": "+path+": "+tc.sum) || !strings.Contains(stderr, "nothing was written") {
			t.Errorf("%s: exit code %d, %s%s", name, code, stdout, stderr)
		}
	}
	code, _, stderr := p.run("import", file(t, strings.Repeat("x,y\n", 70)), "--endpoints-file", endpoints)
	if code != exitFailure || strings.Count(stderr, "\n") != 22 || !strings.Contains(stderr, "\nline 20: ") || !strings.Contains(stderr, "\nand 50 more\n") || !strings.Contains(stderr, "70 of its rows") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	for name, text := range map[string]string{"empty": "ada,", "too long": "ada," + strings.Repeat("x", 256), "no text": "ada,\xff"} {
		if code, _, stderr := p.run("import", file(t, text), "--allow-unknown-backends"); code != exitFailure || !strings.HasPrefix(stderr, "line 1: the backend's name ") {
			t.Errorf("a backend that is %s: exit code %d, %s", name, code, stderr)
		}
	}
	if got := p.export(); got != "username,backend,last_ts\n" {
		t.Errorf("written: %s", got)
	}
}

func TestTheSitesUserFormatIsApplied(t *testing.T) {
	p := ported{t, migrated(t)}
	p.imports("Ada@example.org,dovecot-backend-0\n", "--allow-unknown-backends", "--username-format", "%Un")
	if got := p.export(); !strings.Contains(got, "\nADA,dovecot-backend-0,") {
		t.Error(got)
	}
}

func TestImportFromStandardInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	text := mappingText(3000)
	go func() {
		defer w.Close()
		_, _ = io.WriteString(w, text)
	}()
	defer func(before *os.File) { os.Stdin = before }(os.Stdin)
	os.Stdin = r
	p := ported{t, migrated(t)}
	if code, _, stderr := p.run("import", "-", "--endpoints-file", endpoints); code != 0 || p.export() != text {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	if code, _, stderr := p.run("import", "-", "--endpoints-file", endpoints); code != exitFailure || !strings.Contains(stderr, "set TMPDIR") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestVerbsThatCannotBegin(t *testing.T) {
	url := migrated(t)
	for name, tc := range map[string]struct {
		code int
		args []string
		want string
	}{
		"no file":             {exitUsage, []string{"import"}, "import takes one FILE, or - for standard input"},
		"two files":           {exitUsage, []string{"import", "x", "y"}, "import takes one FILE"},
		"no backends":         {exitUsage, []string{"import", "x", "--database-url", url}, "--service is missing"},
		"a file of no name":   {exitFailure, []string{"import", "/nowhere/x", "--database-url", url, "--endpoints-file", endpoints}, "open /nowhere/x: "},
		"a directory":         {exitFailure, []string{"import", t.TempDir(), "--database-url", url, "--endpoints-file", endpoints}, "is a directory"},
		"no table":            {exitFailure, []string{"export", "--database-url", "sqlite:" + file(t, "")}, "the table mailbox_username_backend is missing: run 'go-dovecot-director migrate'"},
		"no table for import": {exitFailure, []string{"import", file(t, "a,b"), "--allow-unknown-backends", "--database-url", "sqlite:" + file(t, "")}, "the import ended when 0 of 1 rows were written"},
		"no server":           {exitFailure, []string{"export", "--database-url", "postgres://u@" + closed(t) + "/x"}, "the export ended after 0 rows, what was written is not complete: PostgreSQL at 127.0.0.1"},
		"a bad format":        {exitUsage, []string{"export", "--format", "xml", "--database-url", url}, "write one of csv, tsv"},
		"an argument":         {exitUsage, []string{"export", "x", "--database-url", url}, `unknown command "x"`},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), tc.args, none, &stdout, &stderr); code != tc.code || !strings.Contains(stderr.String(), tc.want) || strings.Count(stderr.String(), "\n") != 1 || stdout.Len() > 0 {
			t.Errorf("%s: exit code %d, %s%s", name, code, stdout.String(), stderr.String())
		}
	}
}

// closed is an address of this machine on which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestKnownBackends(t *testing.T) {
	if _, err := (sourceSettings{endpointsFile: file(t, "[]\n")}).known(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "backend") {
		t.Errorf("no backends: %v", err)
	}
	config := file(t, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://"+closed(t)+"'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	away := sourceSettings{kubeconfig: config, namespace: "mail", service: "dovecot-backend"}
	until(t, "it is said that the API server is away", func() bool {
		_, err := away.known(t.Context(), 3*time.Second)
		if err == nil || !strings.Contains(err.Error(), "no complete view of the backends within 3s: ") {
			t.Fatalf("an API server that is away: %v", err)
		}
		return strings.Contains(err.Error(), "connection refused") // unless 3 s were too short to find out
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	if _, err := away.known(ctx, time.Minute); err == nil || err.Error() != "interrupted" {
		t.Errorf("a cancelled wait: %v", err)
	}
	k := newKnownBackends([]director.Backend{
		{Name: "b-1", Addr: netip.MustParseAddr("192.0.2.1"), Condition: director.Terminating}, {Name: "b-0", Addr: netip.MustParseAddr("192.0.2.1")}, {Name: "b-2", Addr: netip.MustParseAddr("2001:db8::2"), Condition: director.NotReady},
	})
	for text, want := range map[string]string{"b-1": "b-1", "192.0.2.1": "b-0", "::ffff:192.0.2.1": "b-0", "2001:DB8:0::2": "b-2", "b-2.x.y": "b-2", "b-2.": "b-2", "b-3": "", "B-1": "", "": "", ".b-1": ""} {
		if got, ok := k.name(text); ok != (want != "") || ok && got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// TestLargeMappings has 200,000 users go out and in, in little memory.
func TestLargeMappings(t *testing.T) {
	const users, most = 200_000, 48 << 20
	onDatabases(t, func(t *testing.T, empty func() ported) {
		p, other := empty(), empty()
		generate := `INSERT INTO mailbox_username_backend SELECT 'user-' || n || '@example.org', 'dovecot-backend-' || n % 3, now() FROM generate_series(1, 200000) AS n`
		if strings.HasPrefix(p.url, "sqlite:") {
			generate = `WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200000) INSERT INTO mailbox_username_backend SELECT 'user-' || n || '@example.org', 'dovecot-backend-' || (n % 3), n FROM s`
		}
		p.exec(generate)
		path := filepath.Join(t.TempDir(), "all.csv")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		runtime.GC()
		out := &weighed{w: f, before: inUse()}
		if code := run(t.Context(), []string{"export", "--database-url", p.url}, none, out, io.Discard); code != 0 || out.lines != users+1 || out.most > most {
			t.Errorf("export: exit code %d, %d lines, %d KiB of memory", code, out.lines, out.most>>10)
		}
		runtime.GC()
		out = &weighed{w: io.Discard, before: inUse()}
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					out.weigh()
				}
			}
		}()
		var report, stderr bytes.Buffer
		code := run(t.Context(), []string{"import", path, "--database-url", other.url, "--endpoints-file", endpoints}, none, &report, &stderr)
		close(stop)
		<-done
		if code != 0 || out.most > most {
			t.Errorf("import: exit code %d, %d KiB of memory, %s", code, out.most>>10, stderr.String())
		}
		reports(t, report.String(), map[string]int{"rows": users, "written": users})
	})
}

// weighed is a writer that counts lines, and looks how much memory is in use beyond what was before.
type weighed struct {
	w            io.Writer
	lines        int
	before, most int64
}

func (w *weighed) Write(p []byte) (int, error) {
	w.lines += bytes.Count(p, []byte("\n"))
	w.weigh()
	return w.w.Write(p)
}

func (w *weighed) weigh() { w.most = max(w.most, inUse()-w.before) }

func inUse() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// full is a writer that takes so many bytes.
type full struct {
	left int
	then func() error
}

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		if err := f.then(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func TestAnExportThatCannotGoOnIsAnError(t *testing.T) {
	onDatabases(t, func(t *testing.T, empty func() ported) {
		p := empty()
		var stderr bytes.Buffer
		noSpace := func() error { return errors.New("no space left") }
		// So little is written at the end, all at once.
		if code := run(t.Context(), []string{"export", "--database-url", p.url}, none, &full{0, noSpace}, &stderr); code != exitFailure || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("a header alone: exit code %d, %s", code, stderr.String())
		}
		p.imports(mappingText(20000), "--allow-unknown-backends")
		ctx, cancel := context.WithCancelCause(t.Context())
		for _, tc := range []struct {
			then func() error
			want string
		}{
			{noSpace, "no space left"},
			{func() error { cancel(errors.New("interrupted")); return nil }, "interrupted"},
		} {
			var stderr bytes.Buffer
			code := run(ctx, []string{"export", "--database-url", p.url}, none, &full{200_000, tc.then}, &stderr)
			if text := stderr.String(); code != exitFailure || !strings.Contains(text, "the export ended after ") || !strings.Contains(text, tc.want) {
				t.Errorf("exit code %d, %s", code, text)
			}
		}
		stderr.Reset()
		if code := run(ctx, []string{"import", file(t, mappingText(10)), "--allow-unknown-backends", "--database-url", p.url}, none, io.Discard, &stderr); code != exitFailure || !strings.Contains(stderr.String(), "interrupted; nothing was written") {
			t.Errorf("import: exit code %d, %s", code, stderr.String())
		}
	})
}

// TestABrokenPipeIsAnError runs the program itself: what it does about a pipe to a reader that leaves is about its standard output.
func TestABrokenPipeIsAnError(t *testing.T) {
	p := ported{t, migrated(t)}
	p.imports(mappingText(20000), "--allow-unknown-backends")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "export", "--database-url", p.url)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailure || !strings.Contains(stderr.String(), "what was written is not complete: write /dev/stdout: broken pipe") {
		t.Errorf("%v: %s", err, stderr.String())
	}
}

// TestAnImportThatCannotGoOnSaysHowFarItCame has the server end while rows are written, and the file change.
func TestAnImportThatCannotGoOnSaysHowFarItCame(t *testing.T) {
	server := pgtest.Start(t)
	p := ported{t, server.Database(t)}
	p.run("migrate")
	// The server ends its session at a row in the middle.
	p.exec(`CREATE FUNCTION die() RETURNS trigger AS $$ BEGIN IF new.username = 'user-0001200@example.org' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN new; END $$ LANGUAGE plpgsql`)
	p.exec(`CREATE TRIGGER die BEFORE INSERT ON mailbox_username_backend FOR EACH ROW EXECUTE FUNCTION die()`)
	path := file(t, mappingText(2000))
	code, stdout, stderr := p.run("import", path, "--endpoints-file", endpoints)
	if code != exitFailure || stdout != "" || !strings.Contains(stderr, "the import ended when 1000 of 2010 rows were written, rows that were there not counted; it is safe to repeat it: PostgreSQL at ") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
	p.exec(`DROP TRIGGER die ON mailbox_username_backend`)
	code, stdout, stderr = p.run("import", path, "--endpoints-file", endpoints)
	if code != 0 {
		t.Error(stderr)
	}
	reports(t, stdout, map[string]int{"written": 1010, "there already": 1000})
	var format director.UserFormat
	var err error
	if format.Name, err = director.ParseTemplate("%Lu"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"longer": "ada,b\nbob,b\n", "shorter": "username,backend\n", "empty": "", "another": "ada,c\n", "other": "bob,b\n"} {
		m := newMappingImport(strings.NewReader("ada,b\n"), format)
		if err := m.check(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
		m.file = strings.NewReader(text)
		if err := m.again(t.Context(), func([]director.Row) error { return nil }); err == nil {
			t.Errorf("%s: the change is not noticed", name)
		}
	}
}
