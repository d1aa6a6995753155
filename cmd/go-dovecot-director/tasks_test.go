package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
)

// rows maps so many users to each backend.
func (p ported) rows(users map[string]int) {
	p.t.Helper()
	for backend, n := range users {
		p.exec(fmt.Sprintf(`
			INSERT INTO mailbox_username_backend (username, backend, last_ts)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i || '@%s', '%s', 0 FROM n`, n, backend, backend))
	}
}

func TestTasksNeedAKey(t *testing.T) {
	p := ported{t, migrated(t)}
	p.rows(map[string]int{"dovecot-backend-0": 60, "dovecot-backend-1": 30, "dovecot-backend-2": 10})
	i := start(t, "--endpoints-file", endpoints, "--database-url", p.url)

	plan := parsed[director.PlanReport](i, "rebalance", "--dry-run")
	if plan.Moves != 25 || plan.Least != 25 || plan.Idle != nil || len(plan.Backends) != 3 || plan.PeakBefore < 1.799 || plan.PeakBefore > 1.801 || plan.PeakAfter < 1 || plan.PeakAfter > 1.051 {
		t.Errorf("%+v", plan)
	}
	if b := plan.Backends[0]; b.Before != 60 || b.After != 35 || b.To["dovecot-backend-1"]+b.To["dovecot-backend-2"] != 25 {
		t.Errorf("%+v", b)
	}
	if plan := parsed[director.PlanReport](i, "rebalance", "--dry-run", "--slack", "0.8"); plan.Moves != 0 {
		t.Errorf("%+v", plan)
	}
	if text := i.must("rebalance", "--dry-run"); !strings.Contains(text, "dovecot-backend-0  60      33.3  35     ") || !strings.Contains(text, "least possible   25\n") || !strings.Contains(text, "max/mean before  1.800\n") || strings.Contains(text, "without sessions") {
		t.Error(text)
	}

	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"without a key":            {[]string{"evacuate", "dovecot-backend-1", "--yes"}, exitFailure, "users cannot be moved: no doveadm key is configured (--doveadm-key-file)"},
		"to even out without one":  {[]string{"rebalance", "--apply", "--yes"}, exitFailure, "no doveadm key is configured"},
		"a backend that is none":   {[]string{"evacuate", "dovecot-backend-9", "--yes"}, exitFailure, "no backend dovecot-backend-9 is alive; alive are dovecot-backend-0, "},
		"that nobody confirms":     {[]string{"evacuate", "dovecot-backend-1"}, exitUsage, "evacuate dovecot-backend-1: all its users are moved to others, and their sessions are ended; nobody can be asked here, so --yes is needed"},
		"likewise":                 {[]string{"rebalance", "--apply"}, exitUsage, "--yes is needed"},
		"no backend":               {[]string{"evacuate", "--yes"}, exitUsage, "accepts 1 arg(s)"},
		"rate 0":                   {[]string{"evacuate", "dovecot-backend-1", "--rate", "0"}, exitUsage, "0 users per minute is out of bounds; the least is 1, the most is 6000"},
		"rate -1":                  {[]string{"evacuate", "dovecot-backend-1", "--rate", "-1"}, exitUsage, "-1 users per minute is out of bounds"},
		"rate 9999999":             {[]string{"evacuate", "dovecot-backend-1", "--rate=9999999/min"}, exitUsage, "9999999 users per minute is out of bounds"},
		"rate x":                   {[]string{"rebalance", "--apply", "--rate", "x"}, exitUsage, `"x" is not a number of users per minute; write 50 or 50/min`},
		"rate 50/h":                {[]string{"rebalance", "--apply", "--rate", "50/h"}, exitUsage, "write 50 or 50/min"},
		"a time that is over":      {[]string{"evacuate", "dovecot-backend-1", "--by", "2020-01-01T00:00:00Z"}, exitUsage, "2020-01-01T00:00:00Z is over"},
		"so long ago":              {[]string{"evacuate", "dovecot-backend-1", "--by", "-2h"}, exitUsage, "-2h is over"},
		"a time that is none":      {[]string{"evacuate", "dovecot-backend-1", "--by", "25:00"}, exitUsage, `"25:00" is not a time; write `},
		"a time too far":           {[]string{"evacuate", "dovecot-backend-1", "--yes", "--by", "2999-01-01T00:00:00Z"}, exitFailure, "is more than a year from now"},
		"a rate and a time":        {[]string{"evacuate", "dovecot-backend-1", "--yes", "--rate", "50", "--by", "2h"}, exitUsage, "both --rate and --by are given"},
		"slack -1":                 {[]string{"rebalance", "--dry-run", "--slack", "-1"}, exitUsage, "-1 is out of bounds; the least is 0, the most is 10"},
		"slack NaN":                {[]string{"rebalance", "--dry-run", "--slack", "NaN"}, exitUsage, "NaN is out of bounds"},
		"slack x":                  {[]string{"rebalance", "--dry-run", "--slack", "x"}, exitUsage, `"x" is not a number`},
		"both pause and resume":    {[]string{"evacuate", "dovecot-backend-1", "--pause", "--resume"}, exitUsage, "write one of --pause, --resume and --cancel at most"},
		"both, to even out":        {[]string{"rebalance", "--pause", "--resume"}, exitUsage, "write one of --dry-run, --apply, --pause, --resume and --cancel"},
		"neither of them":          {[]string{"rebalance"}, exitUsage, "write one of --dry-run, --apply, --pause, --resume and --cancel"},
		"none is none":             {[]string{"rebalance", "--apply=false"}, exitUsage, "write one of --dry-run, "},
		"a pause at a rate":        {[]string{"evacuate", "dovecot-backend-1", "--pause", "--rate", "5"}, exitUsage, "--rate and --by cannot go with --pause"},
		"a wait for a pause":       {[]string{"evacuate", "dovecot-backend-1", "--pause", "--wait"}, exitUsage, "--wait cannot go with --pause"},
		"a slack of a pause":       {[]string{"rebalance", "--pause", "--slack", "0.1"}, exitUsage, "--slack goes with --dry-run or --apply"},
		"a wait for a plan":        {[]string{"rebalance", "--dry-run", "--wait"}, exitUsage, "cannot go with --dry-run"},
		"a pause of nothing":       {[]string{"evacuate", "dovecot-backend-1", "--pause"}, exitFailure, `there is no task "evacuate dovecot-backend-1"`},
		"more of nothing":          {[]string{"rebalance", "--resume"}, exitFailure, `there is no task "rebalance"`},
		"an end of nothing":        {[]string{"evacuate", "dovecot-backend-1", "--cancel"}, exitFailure, `there is no task "evacuate dovecot-backend-1"`},
		"likewise, of evening out": {[]string{"rebalance", "--cancel"}, exitFailure, `there is no task "rebalance"`},
	} {
		code, stdout, stderr := i.operate(tc.args...)
		if code != tc.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %q, %q; want %d and one line with %q", name, code, stdout, stderr, tc.code, tc.want)
		}
	}
	status := parsed[director.StatusReport](i, "status")
	if len(status.Tasks) != 0 || status.Backends[0].Users != 60 || slices.ContainsFunc(status.Backends, func(b director.BackendReport) bool { return b.State != director.Active }) {
		t.Errorf("%+v", status)
	}
	if journal := parsed[directorhttp.JournalAnswer](i, "journal"); len(journal.Entries) != 0 {
		t.Errorf("%+v", journal)
	}
}

// TestOrderingAnEvacuation has backends that cannot be asked, so that nobody is moved.
func TestOrderingAnEvacuation(t *testing.T) {
	p := ported{t, migrated(t)}
	p.rows(map[string]int{"dovecot-backend-0": 60, "dovecot-backend-1": 30, "dovecot-backend-2": 10})
	i := start(t, "--endpoints-file", endpoints, "--database-url", p.url, "--doveadm-key-file", file(t, "key"))
	task := func() (all []director.TaskReport) { return parsed[director.StatusReport](i, "status").Tasks }

	if text := i.must("evacuate", "dovecot-backend-0", "--yes", "--rate", "120/min", "--note", "new disk"); !strings.Contains(text, "evacuate dovecot-backend-0  120/min  60 of 60  30s      no      new disk, by "+actor()+"\n") {
		t.Error(text)
	}
	if text := i.must("status"); !strings.Contains(text, "\n\ntask                        rate     left      ends in  paused  note\nevacuate dovecot-backend-0  120/min  60 of 60  30s      no      new disk, by ") {
		t.Error(text)
	}
	paused := parsed[director.TaskReport](i, "evacuate", "dovecot-backend-0", "--pause")
	if !paused.Paused || paused.Rate != 120 || paused.Note != "new disk" || paused.Backend != "dovecot-backend-0" {
		t.Errorf("%+v", paused)
	}
	if text := i.must("status"); !strings.Contains(text, "60 of 60  -        yes ") {
		t.Error(text)
	}
	if resumed := parsed[director.TaskReport](i, "evacuate", "dovecot-backend-0", "--resume", "--note", "go"); resumed.Paused || resumed.Rate != 120 || resumed.Note != "go" {
		t.Errorf("%+v", resumed)
	}
	if by := parsed[director.TaskReport](i, "evacuate", "dovecot-backend-0", "--yes", "--by", "1h"); by.Rate > 2 || len(task()) != 1 {
		t.Errorf("%+v", by)
	}
	if code, stdout, stderr := i.operate("rebalance", "--apply", "--yes"); code != exitFailure || stdout != "" || strings.Count(stderr, "\n") != 1 || len(task()) != 1 {
		t.Errorf("backends that cannot be asked: exit code %d, %s, %s", code, stdout, stderr)
	}
	if a := parsed[directorhttp.CancelAnswer](i, "evacuate", "dovecot-backend-0", "--cancel"); a.Task != "evacuate dovecot-backend-0" || len(task()) != 0 {
		t.Errorf("%+v", a)
	}
	until(t, "the backend is drained, and stays so", func() bool {
		b := parsed[director.StatusReport](i, "status").Backends[0]
		return b.State == director.Drain && b.Users == 60
	})

	// A rebalance that began when the backends could be asked can be paused when they cannot be. The two backends that are left have 40 users.
	p.exec(`INSERT INTO director_task (name, kind, backend, rate, slack, paused, total, begun_at, actor, note) VALUES ('rebalance', 'rebalance', '', 7, 0.1, 0, 50, 0, 'eve', '')`)
	if text := i.must("rebalance", "--pause"); !strings.Contains(text, "rebalance  7/min  50 of 50  -        yes ") {
		t.Error(text)
	}
	if all := task(); len(all) != 1 || !all[0].Paused || all[0].Slack != 0.1 || all[0].Left != 8 || all[0].Total != 50 {
		t.Errorf("%+v", all)
	}
	if text := i.must("rebalance", "--cancel"); text != "rebalance has ended\n" || len(task()) != 0 {
		t.Error(text)
	}
}

func TestThePlanOfAScaleUp(t *testing.T) {
	p := ported{t, migrated(t)}
	p.rows(map[string]int{"b0": 4000, "b1": 3500, "b2": 2500})
	var list strings.Builder
	for n := range 5 {
		list.WriteString(fmt.Sprintf("- {name: b%d, address: 192.0.2.%d}\n", n, n+1))
	}
	i := start(t, "--endpoints-file", file(t, list.String()), "--database-url", p.url)
	plan := parsed[director.PlanReport](i, "rebalance", "--dry-run", "--slack", "0.05")
	if least := 10000 - 3*2100; plan.Least != least || plan.Moves < least || float64(plan.Moves) > 1.01*float64(least) || plan.PeakBefore != 2 || plan.PeakAfter > 1.05 {
		t.Errorf("%+v", plan)
	}
	sum := 0
	for _, b := range plan.Backends {
		sum += b.After
		for _, n := range b.To {
			plan.Moves -= n
		}
	}
	if sum != 10000 || plan.Moves != 0 {
		t.Errorf("%+v", plan)
	}
}

func TestTimesOfTasks(t *testing.T) {
	now := time.Date(2026, 3, 28, 12, 30, 15, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"2026-03-28T12:00:00Z": "2026-03-28T12:00:00Z", "12:31": "2026-03-28T12:31:00+01:00", "12:30": "2026-03-29T12:30:00+01:00", "04:00": "2026-03-29T04:00:00+01:00",
		"2h": "2026-03-28T14:30:15+01:00", "90m": "2026-03-28T14:00:15+01:00",
	} {
		if by, err := parseBy(text, now); err != nil || by.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", text, by, err, want)
		}
	}
	for _, text := range []string{"", "0s", "-1m", "24:00", "4", "tomorrow", "2026-03-28", "2026-03-28T11:30:15Z"} {
		if by, err := parseBy(text, now); err == nil {
			t.Errorf("%q: %v", text, by)
		}
	}
}

// worker is an operator with one task, step by step.
type worker struct {
	directorhttp.Operator
	steps   []any // *director.TaskReport, nil or error, the last one again and again
	asked   int
	journal []director.Entry
	ordered director.TaskOrder
}

func (w *worker) Status(context.Context, bool) (*director.StatusReport, error) {
	next := w.steps[min(w.asked, len(w.steps)-1)]
	w.asked++
	switch step := next.(type) {
	case error:
		return nil, step
	case *director.TaskReport:
		return &director.StatusReport{Tasks: []director.TaskReport{{Name: "evacuate b9"}, *step}}, nil
	}
	return &director.StatusReport{}, nil
}

func (w *worker) Journal(context.Context, string, int64, int) ([]director.Entry, error) {
	return w.journal, nil
}

func (w *worker) Rebalance(_ context.Context, o director.TaskOrder) (*director.TaskReport, error) {
	w.ordered = o
	return &director.TaskReport{Name: "rebalance", Kind: director.Rebalance}, nil
}

func TestATaskIsWaitedFor(t *testing.T) {
	at := func(left int, paused bool) *director.TaskReport {
		return &director.TaskReport{Name: "evacuate b0", Kind: director.Evacuate, Backend: "b0", Left: left, Total: 9, Rate: 60, Paused: paused, LeftSeconds: 1}
	}
	entry := func(backend, actor, note string) director.Entry {
		return director.Entry{Subject: director.AboutTask, From: backend, Actor: actor, Note: note}
	}
	away := errors.New("director is away")
	for name, tc := range map[string]struct {
		steps        []any
		journal      []director.Entry
		want, stderr string
		took         time.Duration
	}{
		"done":                 {[]any{at(9, false), away, at(12, false), at(1, false), nil}, []director.Entry{{User: "ada"}, entry("b1", "eve", "evacuate ended: cancelled"), entry("b0", "", "evacuate ended: done"), entry("b0", "eve", "evacuate ended: cancelled")}, "", "", 4 * time.Second},
		"at once":              {[]any{nil}, nil, "", "", 0},
		"paused":               {[]any{at(9, true), at(9, true), at(9, false), nil}, nil, "", "evacuate b0 is paused; --resume lets it go on\n", 3 * time.Second},
		"cancelled":            {[]any{at(4, false), nil}, []director.Entry{entry("b0", "eve", "evacuate ended: cancelled: enough")}, "evacuate b0 has ended: cancelled: enough, by eve, with 4 of 9 users left", "", time.Second},
		"the director is away": {[]any{at(4, false), away}, nil, "evacuate b0 was begun, what became of it is not known: director is away", "", taskAway + taskAgain},
	} {
		synctest.Test(t, func(t *testing.T) {
			var stderr bytes.Buffer
			v := taskVerb{remote: remote{console: console{stderr: &stderr}}}
			before := time.Now()
			report, err := v.waitFor(t.Context(), &worker{steps: tc.steps, journal: tc.journal}, at(9, false))
			if tc.want == "" && (err != nil || report.Left != 0 || report.Total != 9) || tc.want != "" && (err == nil || err.Error() != tc.want) || stderr.String() != tc.stderr {
				t.Errorf("%s: %+v, %v, %q", name, report, err, stderr.String())
			}
			if took := time.Since(before); took != tc.took {
				t.Errorf("%s: it took %v, want %v", name, took, tc.took)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := taskVerb{remote: remote{console: console{stderr: io.Discard}}}
	if _, err := v.waitFor(ctx, &worker{steps: []any{ctx.Err()}}, at(9, false)); err == nil || !strings.Contains(err.Error(), "interrupted; evacuate b0 goes on") {
		t.Error(err)
	}
}

func TestARebalanceThatIsResumedStaysAsItWas(t *testing.T) {
	w := &worker{steps: []any{&director.TaskReport{Name: "rebalance", Rate: 7, Slack: 0.2, Note: "even"}}}
	v := taskVerb{remote: remote{console: console{stdout: io.Discard}}, kind: director.Rebalance, resume: true}
	if err := v.order(t.Context(), w, "", directorhttp.DefaultSlack); err != nil || w.ordered != (director.TaskOrder{Rate: 7, Slack: 0.2, Actor: actor(), Note: "even"}) {
		t.Errorf("%+v, %v", w.ordered, err)
	}
}
