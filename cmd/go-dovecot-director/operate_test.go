package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
)

// operate runs a verb against the instance.
func (i *instance) operate(args ...string) (code int, stdout, stderr string) {
	i.t.Helper()
	return operateAt(i.t, "http://"+i.admin, args...)
}

// tellsOfASlowDatabase says whether a text is of a database that had no time, as on a machine that stands still.
func tellsOfASlowDatabase(text string) bool {
	return strings.Contains(text, "it does not answer in time") || strings.Contains(text, "the file is locked by another program")
}

// operateAt runs it again while the database has no time for it, which has done nothing then, unless it was its answer
// that was late.
func operateAt(t *testing.T, url string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	until(t, "the database has time", func() bool {
		var out, errs bytes.Buffer
		code = run(t.Context(), args, environment("ADMIN_URL", url), &out, &errs)
		stdout, stderr = out.String(), errs.String()
		return !tellsOfASlowDatabase(stderr)
	})
	return code, stdout, stderr
}

// must runs a verb that has to succeed, and returns what it prints.
func (i *instance) must(args ...string) string {
	i.t.Helper()
	code, stdout, stderr := i.operate(args...)
	if code != 0 || stderr != "" {
		i.t.Errorf("%q: exit code %d, %s", args, code, stderr)
	}
	return stdout
}

// parsed reads what a verb prints with -o json.
func parsed[T any](i *instance, args ...string) (answer T) {
	i.t.Helper()
	text := i.must(append(args, "-o", "json")...)
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&answer); err != nil {
		i.t.Errorf("%q: %v in %s", args, err, text)
	}
	return answer
}

func TestOperatingADirector(t *testing.T) {
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t))
	until(t, "new users get a backend", func() bool {
		_, answer := i.lookup(`{"user":"user-0"}`)
		return strings.Contains(answer, `"code":1,`)
	})
	for n := range 20 {
		i.lookup(fmt.Sprintf(`{"user":"user-%d"}`, n))
	}
	i.lookup(`{"user":"a/b\t..%2F"}`)

	status := parsed[director.StatusReport](i, "status")
	if status.Users != 21 || len(status.Backends) != 3 || status.Backends[1].Name != "dovecot-backend-1" || status.Backends[1].Condition != "alive" {
		t.Errorf("%+v", status)
	}
	if text := i.must("status", "--sessions"); !strings.Contains(text, "dovecot-backend-2  192.0.2.13  alive      active  1") || !strings.Contains(text, "\nsessions on dovecot-backend-0, dovecot-backend-1, dovecot-backend-2 are not known: ") || !strings.HasSuffix(text, "\n21 users\n") {
		t.Error(text)
	}

	if text := i.must("drain", "dovecot-backend-1", "--note", "new disk"); text != "dovecot-backend-1: state drain, weight as its source says\n" {
		t.Error(text)
	}
	if s := parsed[directorhttp.StandAnswer](i, "weight", "dovecot-backend-1", "7"); s.State != director.Drain || s.Weight != 7 || s.Actor != actor() {
		t.Errorf("%+v", s)
	}
	if text := i.must("standby", "dovecot-backend-1"); text != "dovecot-backend-1: state standby, weight 7\n" {
		t.Error(text)
	}
	if text := i.must("activate", "dovecot-backend-1"); text != "dovecot-backend-1: state active, weight 7\n" {
		t.Error(text)
	}
	if text := i.must("weight", "dovecot-backend-1", "0"); text != "dovecot-backend-1: state active, weight as its source says\n" {
		t.Error(text)
	}
	if text := i.must("off", "dovecot-backend-2", "--force", "--yes"); !strings.Contains(text, "state off") {
		t.Error(text)
	}
	i.must("drain", "dovecot-backend-9", "--force")

	if text := i.must("pin", "USER-1"); text != "USER-1 is pinned\n" {
		t.Error(text)
	}
	if text := i.must("pin", "user-1"); text != "user-1 is pinned already\n" {
		t.Error(text)
	}
	if u := parsed[director.UserReport](i, "user", "User-1"); u.User != "user-1" || !u.Pinned || u.Backend == "" || len(u.History) == 0 || u.History[0].Subject != director.AboutPin {
		t.Errorf("%+v", u)
	}
	if a := parsed[directorhttp.PinAnswer](i, "unpin", "user-1"); a.Pinned || !a.Changed {
		t.Errorf("%+v", a)
	}
	if text := i.must("user", "user-1"); !strings.Contains(text, "pinned             no\n") || !strings.Contains(text, actor()) {
		t.Error(text)
	}
	// Such a name reaches the director as it is, and the terminal does not obey it.
	if text := i.must("user", "a/b\t..%2F"); !strings.HasPrefix(text, "user               \"a/b\\t..%2f\"\nbackend            dovecot-backend-") {
		t.Error(text)
	}

	journal := parsed[directorhttp.JournalAnswer](i, "journal", "--limit", "4")
	if len(journal.Entries) != 4 || journal.Entries[0].Note != "unpinned" || journal.Entries[0].Actor != actor() {
		t.Errorf("%+v", journal)
	}
	if text := i.must("journal"); strings.Count(text, "\n") < 9 || !strings.Contains(text, "state drain: new disk\n") {
		t.Error(text)
	}
	if text := i.must("journal", "user-1"); strings.Contains(text, "dovecot-backend-9") || !strings.Contains(text, "unpinned\n") {
		t.Error(text)
	}

	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a move without a doveadm key": {[]string{"move", "user-1"}, exitFailure, "no doveadm key is configured"},
		"a move of nobody":             {[]string{"move", "nobody", "dovecot-backend-0"}, exitFailure, "nobody has no backend yet"},
		"a kick without a key":         {[]string{"kick", "user-1", "--yes"}, exitFailure, "no doveadm key is configured"},
		"a backend that is none":       {[]string{"drain", "dovecot-backend-8"}, exitFailure, "no backend dovecot-backend-8 is known"},
		"off a backend that is alive":  {[]string{"off", "dovecot-backend-0", "--yes"}, exitFailure, "is alive: switched off"},
		"a replica that is none":       {[]string{"forget-replica", "x/y", "--yes"}, exitFailure, `no replica "x/y" is known`},
		"a user that is none":          {[]string{"user", ""}, exitUsage, "an argument is empty"},
		"a user that cannot be":        {[]string{"user", "\xff"}, exitFailure, "not valid UTF-8"},
		"a kick that nobody confirms":  {[]string{"kick", "user-1"}, exitUsage, "kick user-1: all sessions of the user are ended; nobody can be asked here, so --yes is needed"},
		"off likewise":                 {[]string{"off", "dovecot-backend-0", "--force"}, exitUsage, "--yes is needed"},
		"a forced move likewise":       {[]string{"move", "user-1", "--force"}, exitUsage, "--yes is needed"},
		"to forget likewise":           {[]string{"forget-replica", "x"}, exitUsage, "--yes is needed"},
		"a weight that is none":        {[]string{"weight", "dovecot-backend-0", "heavy"}, exitUsage, `"heavy" is not a whole number`},
		"a weight too large":           {[]string{"weight", "dovecot-backend-0", "101"}, exitUsage, "101 is out of bounds"},
		"no user":                      {[]string{"user"}, exitUsage, "accepts 1 arg(s)"},
		"a limit out of bounds":        {[]string{"journal", "--limit", "0"}, exitUsage, "0 is out of bounds; the least is 1, the most is 1000"},
		"an output that is none":       {[]string{"status", "-o", "xml"}, exitUsage, "write one of table, json"},
		"a URL that is none":           {[]string{"status", "--admin-url", "127.0.0.1"}, exitUsage, "--admin-url (environment: ADMIN_URL): "},
		"a token file that is absent":  {[]string{"status", "--admin-token-file", "/no/such"}, exitUsage, "--admin-token-file (environment: ADMIN_TOKEN_FILE): open "},
		"a CA file that is none":       {[]string{"status", "--admin-ca-file", endpoints}, exitUsage, "holds no certificate"},
		"a note of two lines":          {[]string{"drain", "dovecot-backend-0", "--note", "a\nb"}, exitFailure, "note: it is not one line"},
	} {
		code, stdout, stderr := i.operate(tc.args...)
		if code != tc.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %q, %q; want %d and one line with %q", name, code, stdout, stderr, tc.code, tc.want)
		}
	}
	if code, _, stderr := operateAt(t, "http://127.0.0.1:1", "status"); code != exitFailure || !strings.Contains(stderr, "the admin API at http://127.0.0.1:1 cannot be asked: ") {
		t.Errorf("nobody there: exit code %d, %s", code, stderr)
	}
}

func TestDangerousVerbsMindNoVariables(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"kick", "ada"}, environment("YES", "true", "FORCE", "true", "OUTPUT", "xml"), io.Discard, &stderr)
	if code != exitUsage || !strings.Contains(stderr.String(), "--yes is needed") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

func TestCompletion(t *testing.T) {
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t))
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"drain", ""}, "dovecot-backend-0\talive\ndovecot-backend-1\talive\ndovecot-backend-2\talive\n:4\n"},
		{[]string{"off", "dovecot-backend-1"}, "dovecot-backend-1\talive\n:4\n"},
		{[]string{"weight", "dovecot-backend-1", ""}, ":4\n"},
		{[]string{"move", ""}, ":4\n"},
		{[]string{"move", "ada", "--force", "dovecot-backend-2"}, "dovecot-backend-2\talive\n:4\n"},
		{[]string{"user", ""}, ":4\n"},
		{[]string{"evacuate", "--rate", "50", "dovecot-backend-0"}, "dovecot-backend-0\talive\n:4\n"},
		{[]string{"rebalance", ""}, ":4\n"},
		{[]string{"status", "-o", ""}, "table\njson\n:4\n"},
	} {
		until(t, fmt.Sprintf("%q completes to %q", tc.args, tc.want), func() bool { return i.completed(tc.args...) == tc.want })
	}
	i.admin = "127.0.0.1:1"
	if text := i.completed("drain", ""); text != ":4\n" {
		t.Errorf("nobody there: %q", text)
	}
	if text := i.must("--help"); !strings.Contains(text, "  completion ") || !strings.Contains(i.must("completion", "bash"), "__start_go-dovecot-director") {
		t.Error(text)
	}
}

func (i *instance) completed(args ...string) string {
	i.t.Helper()
	code, stdout, stderr := i.operate(append([]string{"__complete"}, args...)...)
	if code != 0 || strings.Contains(stderr, "cannot") {
		i.t.Errorf("%q: exit code %d, %s", args, code, stderr)
	}
	return stdout
}

// mover is an operator who moves one user, step by step.
type mover struct {
	directorhttp.Operator
	reports []any // *director.UserReport or error, the last one again and again
	asked   int
}

func (m *mover) UserOf(context.Context, string) (*director.UserReport, error) {
	next := m.reports[min(m.asked, len(m.reports)-1)]
	m.asked++
	if err, ok := next.(error); ok {
		return nil, err
	}
	return next.(*director.UserReport), nil
}

func TestAMoveIsWaitedFor(t *testing.T) {
	begun := director.MoveState{User: "ada", From: "b0", To: "b1", Stage: director.MoveBegun, LeftSeconds: 30, Waiting: []string{"r2"}}
	switched := begun
	switched.Stage, switched.Waiting = director.MoveSwitched, nil
	under := func(s director.MoveState) *director.UserReport {
		return &director.UserReport{User: "ada", Backend: "b0", Move: &s}
	}
	at := func(backend string, history ...director.Entry) *director.UserReport {
		return &director.UserReport{User: "ada", Backend: backend, History: history}
	}
	pinned := director.Entry{Subject: director.AboutPin}
	undone := director.Entry{Subject: director.AboutUndone, To: "b1", Note: "not moved, no time is left"}
	away := errors.New("director is away")
	for name, tc := range map[string]struct {
		reports      []any
		want, stderr string
		took         time.Duration
	}{
		"done":                      {[]any{under(begun), away, under(begun), under(switched), at("b1")}, "", "from b0 to b1, begun, for 30s more at most; waits for the directors [r2] to hear of it\nfrom b0 to b1, switched, for 30s more at most\n", 2 * time.Second},
		"given up":                  {[]any{at("b0", pinned, undone)}, "ada stays on b0: not moved, no time is left", "", 0},
		"overtaken":                 {[]any{at("b2", director.Entry{Subject: director.AboutUser, To: "b2", Reason: director.Placed}, undone)}, "ada is on b2, not on b1: moved there meanwhile, reason placed", "", 0},
		"the journal is silent":     {[]any{at("b0")}, "the journal does not say why", "", 0},
		"the director is away":      {[]any{away}, "what became of it is not known: director is away", "", moveWait},
		"it goes on and on and on ": {[]any{under(switched)}, "it takes longer than it should", "from b0 to b1, switched, for 30s more at most\n", moveWait},
	} {
		synctest.Test(t, func(t *testing.T) {
			var stderr bytes.Buffer
			r := remote{console: console{stderr: &stderr}}
			before := time.Now()
			_, err := r.waitForMove(t.Context(), &mover{reports: tc.reports}, &begun)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) || stderr.String() != tc.stderr {
				t.Errorf("%s: %v, %q", name, err, stderr.String())
			}
			if took := time.Since(before); took != tc.took {
				t.Errorf("%s: it took %v, want %v", name, took, tc.took)
			}
		})
	}
}

func TestAMoveGoesOnWithoutWhoWaitsForIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := remote{console: console{stderr: io.Discard}}
	begun := &director.MoveState{User: "ada", From: "b0", To: "b1"}
	if _, err := r.waitForMove(ctx, &mover{reports: []any{ctx.Err()}}, begun); err == nil || !strings.Contains(err.Error(), "interrupted; the move of ada goes on") {
		t.Error(err)
	}
}
