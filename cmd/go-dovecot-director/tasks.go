package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

const (
	// taskAgain is how often is looked how far a task is.
	taskAgain = time.Second
	// taskAway is for how long the director may not answer before who waits for a task gives up.
	taskAway = time.Minute
)

// taskVerb is a verb that orders a task: what its flags say.
type taskVerb struct {
	remote
	kind                  director.TaskKind
	rate                  int
	by                    time.Time
	pause, resume, cancel bool
	wait                  bool
}

// registerTask adds the flags that the verbs have in common.
func (v *taskVerb) registerTask(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(newValue(&v.rate, "rate", "", parseRate), "rate", fmt.Sprintf("how many users are moved in a minute, from 1 to %d; %d if neither it nor --by is given", director.MaxRate, director.DefaultRate))
	fs.Var(newValue(&v.by, "time", "", func(s string) (time.Time, error) { return parseBy(s, time.Now()) }), "by", "when it shall have ended instead: 2026-01-31T04:00:00Z, 04:00 or 2h")
	fs.BoolVar(&v.pause, "pause", false, "begin no moves until it is resumed")
	fs.BoolVar(&v.resume, "resume", false, "go on at the rate that it had")
	fs.BoolVar(&v.cancel, "cancel", false, "end it; moves that have begun are carried out")
	fs.BoolVar(&v.wait, "wait", false, "wait until it has ended; when that is interrupted, it goes on by itself")
	v.registerNote(fs)
}

// changes says whether the verb is about a task that is under way.
func (v *taskVerb) changes() bool { return v.pause || v.resume || v.cancel }

// check looks at what single flags cannot tell.
func (v *taskVerb) check() error {
	switch {
	case v.rate != 0 && !v.by.IsZero():
		return errors.New("both --rate and --by are given: the one follows from the other")
	case v.changes() && (v.rate != 0 || !v.by.IsZero()):
		return errors.New("--rate and --by cannot go with --pause, --resume or --cancel; without those they change a task that is under way")
	case (v.pause || v.cancel) && v.wait:
		return errors.New("--wait cannot go with --pause or --cancel")
	}
	if v.changes() {
		v.yes = true // it was confirmed when it began
	}
	return nil
}

// given returns the flags that are set, of these.
func given(cmd *cobra.Command, names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		f := cmd.Flags().Lookup(name)
		return f == nil || f.Value.String() != "true"
	})
}

// order orders a task or changes it, and tells how far it is.
func (v *taskVerb) order(ctx context.Context, o directorhttp.Operator, backend string, slack float64) error {
	t := director.Task{Kind: v.kind, Backend: backend}
	if v.cancel {
		if err := o.Cancel(ctx, t.Kind, backend, actor(), v.note); err != nil {
			return err
		}
		return v.print(directorhttp.CancelAnswer{Task: t.Name()}, func(w io.Writer) {
			fmt.Fprintf(w, "%s has ended\n", cell(t.Name()))
		})
	}
	order := director.TaskOrder{Rate: v.rate, Slack: slack, Paused: v.pause, Actor: actor(), Note: v.note}
	if !v.by.IsZero() {
		order.By = max(time.Until(v.by), time.Second) // it may have been asked for long
	}
	if v.changes() {
		old, _, err := find(ctx, o, t.Name())
		switch {
		case err != nil:
			return err
		case old == nil:
			return fmt.Errorf("there is no task %q", t.Name())
		}
		order.Rate, order.Slack = old.Rate, old.Slack
		if order.Note == "" {
			order.Note = old.Note
		}
	}
	var report *director.TaskReport
	var err error
	if v.kind == director.Evacuate {
		report, err = o.Evacuate(ctx, backend, order)
	} else {
		report, err = o.Rebalance(ctx, order)
	}
	if err != nil {
		return err
	}
	if v.wait {
		if report, err = v.waitFor(ctx, o, report); err != nil {
			return err
		}
	}
	return v.print(report, func(w io.Writer) { writeTasks(w, []director.TaskReport{*report}) })
}

// find returns the task of a name, nil for none.
func find(ctx context.Context, o directorhttp.Operator, name string) (*director.TaskReport, *director.StatusReport, error) {
	status, err := o.Status(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(status.Tasks, func(t director.TaskReport) bool { return t.Name == name }); i >= 0 {
		return &status.Tasks[i], status, nil
	}
	return nil, status, nil
}

// waitFor returns when a task has ended, with an error if it was not done.
func (v *taskVerb) waitFor(ctx context.Context, o directorhttp.Operator, begun *director.TaskReport) (*director.TaskReport, error) {
	bar := newProgress(v.stderr, 1)
	defer bar.close()
	last, answered, paused := begun, time.Now(), false
	for {
		task, _, err := find(ctx, o, begun.Name)
		switch {
		case err == nil && task == nil:
			return v.done(ctx, o, last)
		case err == nil:
			last, answered = task, time.Now()
			bar.set(0, part(task))
			if task.Paused && !paused {
				fmt.Fprintf(v.stderr, "%s is paused; --resume lets it go on\n", cell(task.Name))
			}
			paused = task.Paused
		case ctx.Err() == nil && time.Since(answered) > taskAway:
			return nil, fmt.Errorf("%s was begun, what became of it is not known: %w", begun.Name, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("interrupted; %s goes on, and 'status' tells how far it is; --cancel ends it", begun.Name)
		case <-time.After(taskAgain):
		}
	}
}

// done reports a task that is there no more, with an error if somebody ended it.
func (v *taskVerb) done(ctx context.Context, o directorhttp.Operator, last *director.TaskReport) (*director.TaskReport, error) {
	entries, err := o.Journal(ctx, "", 0, 1000)
	if err != nil {
		return nil, fmt.Errorf("%s has ended, the journal cannot be read for how: %w", last.Name, err)
	}
	for _, e := range entries { // the newest first
		how, ended := strings.CutPrefix(e.Note, string(last.Kind)+" ended")
		if e.Subject != director.AboutTask || e.From != last.Backend || !ended {
			continue
		}
		switch {
		case e.Actor != "":
			return nil, fmt.Errorf("%s has ended%s, by %s, with %d of %d users left", last.Name, how, e.Actor, last.Left, last.Total)
		case how != ": done":
			return nil, fmt.Errorf("%s has ended%s, with %d of %d users left", last.Name, how, last.Left, last.Total)
		}
		break
	}
	report := *last
	report.Left, report.LeftSeconds = 0, 0
	return &report, nil
}

// part is how much of a task is done, from 0 to 1.
func part(t *director.TaskReport) float64 {
	if t.Total == 0 {
		return 1
	}
	return min(1, max(0, 1-float64(t.Left)/float64(t.Total)))
}

// writeTasks writes how far tasks are.
func writeTasks(w io.Writer, tasks []director.TaskReport) {
	row(w, "task", "rate", "left", "ends in", "paused", "note")
	for _, t := range tasks {
		end := time.Duration(t.LeftSeconds * float64(time.Second)).Round(time.Second).String()
		if t.Paused {
			end = ""
		}
		row(w, t.Name, fmt.Sprintf("%d/min", t.Rate), fmt.Sprintf("%d of %d", t.Left, t.Total), end, yesNo(t.Paused), orderedBy(t.Actor, t.Note))
	}
}

// parseRate reads a number of users per minute.
func parseRate(s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "/min"))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a number of users per minute; write 50 or 50/min", s)
	case n < 1 || n > director.MaxRate:
		return 0, fmt.Errorf("%d users per minute is out of bounds; the least is 1, the most is %d", n, director.MaxRate)
	}
	return n, nil
}

// parseBy reads a time, a time of day that comes next, or how long from now.
func parseBy(s string, now time.Time) (time.Time, error) {
	by, err := time.Parse(time.RFC3339, s)
	if err != nil {
		if d, notLong := time.ParseDuration(s); notLong == nil {
			by, err = now.Add(d), nil
		}
	}
	if err != nil {
		if of, notOfDay := time.Parse("15:04", s); notOfDay == nil {
			at := func(day int) time.Time {
				return time.Date(now.Year(), now.Month(), day, of.Hour(), of.Minute(), 0, 0, now.Location())
			}
			if by, err = at(now.Day()), nil; !by.After(now) {
				by = at(now.Day() + 1)
			}
		}
	}
	switch {
	case err != nil:
		return by, fmt.Errorf("%q is not a time; write 2026-01-31T04:00:00Z, 04:00 or 2h", s)
	case !by.After(now):
		return by, fmt.Errorf("%s is over", s)
	}
	return by, nil
}
