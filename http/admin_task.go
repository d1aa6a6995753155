package http

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// DefaultSlack is how much more than its share a backend may have after a rebalance, unless it is ordered otherwise.
const DefaultSlack = 0.05

// maxBy is how far off the end of a task may be: what is farther is a mistake.
const maxBy = 366 * 24 * time.Hour

func (a *Admin) evacuate(w http.ResponseWriter, r *http.Request) (int, any, error) {
	order, actor, err := readOrder[evacuationOrder](w, r)
	if err != nil {
		return 0, nil, err
	}
	task, err := taskOrder(order.Rate, order.By, nil)
	if err = errors.Join(checkName("backend", r.PathValue("backend")), checkNote(order.Note), err); err != nil {
		return 0, nil, err
	}
	task.Paused, task.Actor, task.Note = order.Paused, actor, order.Note
	report, err := a.operator.Evacuate(r.Context(), r.PathValue("backend"), task)
	return http.StatusOK, report, err
}

func (a *Admin) rebalance(w http.ResponseWriter, r *http.Request) (int, any, error) {
	order, actor, err := readOrder[rebalanceOrder](w, r)
	if err != nil {
		return 0, nil, err
	}
	if order.Slack == nil {
		order.Slack = new(DefaultSlack)
	}
	task, err := taskOrder(order.Rate, order.By, order.Slack)
	if err = errors.Join(checkNote(order.Note), err); err != nil {
		return 0, nil, err
	}
	task.Paused, task.Actor, task.Note = order.Paused, actor, order.Note
	report, err := a.operator.Rebalance(r.Context(), task)
	return http.StatusOK, report, err
}

// taskOrder reads how fast a task shall be.
func taskOrder(rate *int, by *string, slack *float64) (director.TaskOrder, error) {
	var o director.TaskOrder
	switch {
	case rate != nil && by != nil:
		return o, badRequest("rate, by: write one of them: the one follows from the other")
	case rate != nil && (*rate < 1 || *rate > director.MaxRate):
		return o, badRequest("rate: %d is out of bounds; the least is 1 user a minute, the most is %d", *rate, director.MaxRate)
	case rate != nil:
		o.Rate = *rate
	case by != nil:
		at, err := time.Parse(time.RFC3339, *by)
		switch o.By = time.Until(at); {
		case err != nil:
			return o, badRequest("by: %.60q is not a time; write it as in 2026-01-31T04:00:00Z", *by)
		case o.By <= 0:
			return o, badRequest("by: %s is over", *by)
		case o.By > maxBy:
			return o, badRequest("by: %s is more than a year from now", *by)
		}
	}
	if slack != nil {
		if err := checkSlack(*slack); err != nil {
			return o, err
		}
		o.Slack = *slack
	}
	return o, nil
}

func checkSlack(slack float64) error {
	if math.IsNaN(slack) || slack < 0 || slack > director.MaxSlack {
		return badRequest("slack: %v is out of bounds; the least is 0, the most is %v", slack, director.MaxSlack)
	}
	return nil
}

func (a *Admin) plan(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	q, err := readQuery(r, "slack")
	if err != nil {
		return 0, nil, err
	}
	slack := DefaultSlack
	if text := q.values.Get("slack"); text != "" {
		if slack, err = strconv.ParseFloat(text, 64); err != nil {
			return 0, nil, badRequest("slack: %.60q is not a number", text)
		}
	}
	if err := checkSlack(slack); err != nil {
		return 0, nil, err
	}
	report, err := a.operator.Plan(r.Context(), slack)
	if err == nil && report.Backends == nil {
		report.Backends = []director.PlannedShare{}
	}
	return http.StatusOK, report, err
}

func (a *Admin) cancelEvacuation(w http.ResponseWriter, r *http.Request) (int, any, error) {
	note, actor, err := readNote(w, r)
	if err == nil {
		err = checkName("backend", r.PathValue("backend"))
	}
	if err != nil {
		return 0, nil, err
	}
	return a.cancel(r, director.Task{Kind: director.Evacuate, Backend: r.PathValue("backend")}, actor, note)
}

func (a *Admin) cancelRebalance(w http.ResponseWriter, r *http.Request) (int, any, error) {
	note, actor, err := readNote(w, r)
	if err != nil {
		return 0, nil, err
	}
	return a.cancel(r, director.Task{Kind: director.Rebalance}, actor, note)
}

func (a *Admin) cancel(r *http.Request, t director.Task, actor, note string) (int, any, error) {
	return http.StatusOK, CancelAnswer{t.Name()}, a.operator.Cancel(r.Context(), t.Kind, t.Backend, actor, note)
}
