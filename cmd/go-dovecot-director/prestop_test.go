package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
)

// ending is a director that sees a backend end, step by step.
type ending struct {
	directorhttp.Operator
	steps []any // director.BackendReport or error, the last one again and again; a task is under way for tasks steps
	asked int
	tasks int
	order *director.TaskOrder
}

func (e *ending) Status(context.Context, bool) (*director.StatusReport, error) {
	next := e.steps[min(e.asked, len(e.steps)-1)]
	e.asked++
	if err, failed := next.(error); failed {
		return nil, err
	}
	status := &director.StatusReport{Backends: []director.BackendReport{{Name: "b0", Condition: "alive"}, next.(director.BackendReport)}}
	if e.order != nil && e.tasks > 0 {
		e.tasks--
		status.Tasks = []director.TaskReport{{Name: "evacuate b1", Kind: director.Evacuate, Backend: "b1", Total: 9, Left: 5, Rate: 1}}
	}
	return status, nil
}

func (e *ending) Evacuate(_ context.Context, backend string, o director.TaskOrder) (*director.TaskReport, error) {
	e.order = &o
	return &director.TaskReport{Name: "evacuate " + backend, Kind: director.Evacuate, Backend: backend, Total: 9, Left: 9, Rate: 1}, nil
}

func (e *ending) Journal(context.Context, string, int64, int) ([]director.Entry, error) {
	return nil, nil
}

// TestPrestop holds whose users are moved when a pod ends, and for how long it is kept.
func TestPrestop(t *testing.T) {
	b1 := func(condition string, change ...func(*director.BackendReport)) director.BackendReport {
		b := director.BackendReport{Name: "b1", Condition: condition, State: director.Active}
		for _, c := range change {
			c(&b)
		}
		return b
	}
	drained := func(b *director.BackendReport) { b.State = director.Drain }
	leaving := func(b *director.BackendReport) { b.Leaving = true }
	away := errors.New("director is away")
	for name, tc := range map[string]struct {
		steps     []any
		tasks     int
		note      string // of the evacuation, empty for none
		said, err string
		took      time.Duration
	}{
		"it restarts":                         {steps: []any{b1("alive"), b1("alive"), b1("lost")}, said: "b1 is neither drained nor scaled away", took: taskAgain / 2},
		"it is not seen to end":               {steps: []any{b1("alive")}, said: "b1 is neither drained", took: stopSeen + taskAgain/4},
		"it is drained":                       {steps: []any{b1("alive", drained)}, tasks: 3, note: "preStop: it is drained", said: "evacuate b1", took: 3 * taskAgain},
		"it is scaled away, which comes late": {steps: []any{b1("alive"), b1("alive", leaving)}, tasks: 1, note: "preStop: it is scaled away", said: "evacuate b1", took: taskAgain + taskAgain/4},
		"the director restarts":               {steps: []any{away, away, b1("lost", leaving)}, note: "preStop: it is scaled away", said: "evacuate b1", took: taskAgain / 2},
		"the director is away":                {steps: []any{away}, err: "the director does not answer, and nobody is moved: director is away", took: stopAway + taskAgain/4},
		"a name that nobody knows":            {steps: []any{director.BackendReport{Name: "b2"}}, err: "the director knows no backend b1"},
		"it takes too long":                   {steps: []any{b1("lost", drained)}, tasks: 1000, note: "preStop: it is drained", err: "not all users were moved within 4m0s", took: 4 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var stdout bytes.Buffer
				v := stopping{remote: remote{console: console{stdout: &stdout, stderr: &bytes.Buffer{}}}, within: 4 * time.Minute, rate: 7}
				e := &ending{steps: tc.steps, tasks: tc.tasks}
				before := time.Now()
				err := v.stop(t.Context(), e, "b1")
				if took := time.Since(before); took != tc.took {
					t.Errorf("it took %s, want %s", took, tc.took)
				}
				if !strings.Contains(stdout.String(), tc.said) || (err != nil) != (tc.err != "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
					t.Errorf("%q, %v", stdout.String(), err)
				}
				switch {
				case (e.order != nil) != (tc.note != ""):
					t.Errorf("ordered %+v", e.order)
				case e.order != nil && *e.order != (director.TaskOrder{Rate: 7, Actor: actor(), Note: tc.note}):
					t.Errorf("ordered %+v", *e.order)
				}
			})
		})
	}
}
