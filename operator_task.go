package director

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"
)

// TaskOrder asks for many users to be moved, or for such a task to be changed.
type TaskOrder struct {
	// Rate is how many users are moved in a minute, By when the task shall have ended, from now on; one of them, or neither for the default
	// rate.
	Rate int
	By   time.Duration
	// Slack is for a rebalance: how much more than its share a backend may have.
	Slack float64
	// Paused begins no moves until the task is ordered again.
	Paused bool
	Actor  string
	Note   string
}

// TaskReport is how far a task is.
type TaskReport struct {
	Name    string   `json:"name"`
	Kind    TaskKind `json:"kind"`
	Backend string   `json:"backend,omitempty"`
	Paused  bool     `json:"paused"`
	// Rate is in users per minute. Left of Total users are to be moved. Those of a rebalance are how many the backends have above their
	// limits, be they pinned or not.
	Rate  int `json:"rate"`
	Left  int `json:"left"`
	Total int `json:"total"`
	// Slack is a rebalance's.
	Slack float64 `json:"slack,omitempty"`
	// RunningSeconds is how long it has run, LeftSeconds how long it takes still at its rate.
	RunningSeconds float64 `json:"running_seconds"`
	LeftSeconds    float64 `json:"left_seconds"`
	Actor          string  `json:"actor,omitempty"`
	Note           string  `json:"note,omitempty"`
}

// maxTaskName is how long a task's name may be, in bytes: the width of its column.
const maxTaskName = 255

// MaxSlack is the most that a backend may be allowed to have over its share.
const MaxSlack = 10.0

func (o TaskOrder) check() error {
	switch {
	case o.Rate < 0 || o.Rate > MaxRate:
		return refuse("rate %d is out of bounds: the least is 1 user a minute, the most is %d", o.Rate, MaxRate)
	case o.By < 0:
		return refuse("the time by which it shall have ended is over")
	case o.By > 0 && o.Rate > 0:
		return refuse("both a rate and a time are given: the one follows from the other")
	case !(o.Slack >= 0 && o.Slack <= MaxSlack):
		return refuse("slack %v is out of bounds: the least is 0, the most is %v", o.Slack, MaxSlack)
	}
	return nil
}

func (o TaskOrder) task(kind TaskKind, backend string, total int) Task {
	t := Task{Kind: kind, Backend: backend, Rate: o.Rate, By: o.By, Slack: o.Slack, Paused: o.Paused, Total: total, Actor: o.Actor, Note: o.Note}
	if t.Rate == 0 && t.By == 0 {
		t.Rate = DefaultRate
	}
	return t
}

// Evacuate drains a backend and begins to move its users to others, or changes how that is done. A backend that has been told to end may
// be evacuated as long as its users wait for it: they then need not. One that its StatefulSet does not want any more is not drained, as it
// takes no new users anyway, and shall take them if it is wanted again.
func (o *Operator) Evacuate(ctx context.Context, backend string, order TaskOrder) (*TaskReport, error) {
	view, err := o.view()
	if err != nil {
		return nil, err
	}
	if err := order.check(); err != nil {
		return nil, err
	}
	tasks, err := o.config.Tasks.Tasks(ctx)
	if err != nil {
		return nil, err
	}
	// What is under way can be changed however the backends are.
	underWay := slices.ContainsFunc(tasks, func(t Task) bool { return t.Kind == Evacuate && t.Backend == backend })
	switch {
	case !underWay && !evacuable(view, backend, o.config.Director.now()):
		return nil, notFound("no backend %s is alive; alive are %s; the users of one that is lost are moved by themselves", backend, aliveNames(view))
	case len(Task{Kind: Evacuate, Backend: backend}.Name()) > maxTaskName:
		return nil, refuse("the name of backend %s is too long for a task: %d bytes are the most", backend, maxTaskName-len(Evacuate)-1)
	case o.config.Sessions == nil:
		return nil, refuse("users cannot be moved: no doveadm key is configured (--doveadm-key-file)")
	case !underWay && !slices.ContainsFunc(view.Members(), func(m Member) bool { return m.Name != backend }):
		return nil, refuse("there is no other backend that takes users: alive are %s", aliveNames(view))
	}
	users, err := o.users(ctx, view)
	if err != nil {
		return nil, err
	}
	claim, _ := claim(view.sets, backend)
	var drain *Standing
	standing := o.config.Director.standing(backend)
	if standing.State != Drain && claim != unwanted {
		standing.State, standing.Actor, standing.Note = Drain, order.Actor, order.Note
		drain = &standing
	}
	return o.order(ctx, order.task(Evacuate, backend, users[backend]), drain, users)
}

// evacuable reports whether users can be moved off a backend one by one: it can be asked for their sessions, or will be again.
func evacuable(view *View, backend string, now time.Time) bool {
	if _, _, alive := view.Backend(backend); alive {
		return true
	}
	l := view.Loss(backend)
	return l.Backend.Addr.IsValid() && !l.Final(now)
}

// Rebalance begins to even out how many users the backends have, or changes how that is done.
func (o *Operator) Rebalance(ctx context.Context, order TaskOrder) (*TaskReport, error) {
	if err := order.check(); err != nil {
		return nil, err
	}
	if o.config.Sessions == nil {
		return nil, refuse("users cannot be moved: no doveadm key is configured (--doveadm-key-file)")
	}
	tasks, err := o.config.Tasks.Tasks(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(tasks, func(t Task) bool { return t.Kind == Rebalance }); i >= 0 {
		return o.order(ctx, order.task(Rebalance, "", tasks[i].Total), nil, nil) // even a backend that does not answer cannot keep it from being paused
	}
	report, err := o.Plan(ctx, order.Slack)
	if err != nil {
		return nil, err
	}
	return o.order(ctx, order.task(Rebalance, "", report.Moves), nil, nil)
}

func (o *Operator) order(ctx context.Context, t Task, s *Standing, users map[string]int) (*TaskReport, error) {
	if err := o.config.Tasks.Order(ctx, t, s); err != nil {
		return nil, err
	}
	tasks, err := o.tasks(ctx, users)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tasks, func(r TaskReport) bool { return r.Name == t.Name() })
	if i < 0 {
		return nil, notFound("%s has ended already", t.Name())
	}
	return &tasks[i], nil
}

// Cancel ends a task. Moves that have begun are carried out; a backend that was evacuated stays drained.
func (o *Operator) Cancel(ctx context.Context, kind TaskKind, backend, actor, note string) error {
	name := Task{Kind: kind, Backend: backend}.Name()
	ended, err := o.config.Tasks.End(ctx, name, actor, "cancelled"+colon(note))
	if err == nil && !ended {
		return notFound("there is no task %q", name)
	}
	return err
}

// users counts users by backend.
func (o *Operator) users(ctx context.Context, view *View) (map[string]int, error) {
	if o.config.Director.config.Counter == nil {
		return nil, errors.New("users cannot be counted")
	}
	counts, err := o.config.Director.config.Counter.Counts(ctx)
	if err != nil {
		return nil, err
	}
	users := make(map[string]int, len(counts))
	for backend, n := range counts {
		users[located(view, backend).Name] += n
	}
	return users, nil
}

// tasks reports all tasks, given how many users the backends have.
func (o *Operator) tasks(ctx context.Context, users map[string]int) ([]TaskReport, error) {
	tasks, err := o.config.Tasks.Tasks(ctx)
	reports := make([]TaskReport, len(tasks))
	for i, t := range tasks {
		left := t.left(o.config.Director.state.Load().members, users)
		rate := t.PerMinute(left)
		reports[i] = TaskReport{
			Name: t.Name(), Kind: t.Kind, Backend: t.Backend, Paused: t.Paused, Rate: rate, Left: left, Total: t.Total, Slack: t.Slack, RunningSeconds: rounded(t.Age),
			LeftSeconds: float64(left) / float64(rate) * 60, Actor: t.Actor, Note: t.Note,
		}
	}
	return reports, err
}

// left is how many users a task has to move still, given how many the backends have.
func (t Task) left(members []Member, users map[string]int) int {
	switch {
	case t.Kind == Evacuate:
		return users[t.Backend]
	case users != nil:
		return min(t.Total, excess(members, users, t.Slack))
	}
	return t.Total
}

// excess is how many users the members have above what that slack allows.
func excess(members []Member, users map[string]int, slack float64) (n int) {
	for _, s := range sharesOf(members, func(name string) float64 { return float64(users[name]) }) {
		n += int(math.Ceil(max(0, s.Has-s.Fair*(1+slack)*(1+roundOff))))
	}
	return n
}

// PlanReport is what a rebalance would do.
type PlanReport struct {
	// Moves is how many users would be moved, Least how many would have to be at least, Idle how many of them have no session; it is
	// missing if the backends cannot be asked for those.
	Moves int  `json:"moves"`
	Least int  `json:"least"`
	Idle  *int `json:"idle,omitempty"`
	// PeakBefore and PeakAfter are how many times its share the fullest backend has.
	PeakBefore float64        `json:"peak_before"`
	PeakAfter  float64        `json:"peak_after"`
	Backends   []PlannedShare `json:"backends"`
}

// PlannedShare is what a rebalance would do to one backend.
type PlannedShare struct {
	Backend string  `json:"backend"`
	Before  int     `json:"before"`
	After   int     `json:"after"`
	Fair    float64 `json:"fair"`
	// To is how many users would go where.
	To map[string]int `json:"to,omitempty"`
}

// Plan says what a rebalance would do with that slack. It changes nothing.
func (o *Operator) Plan(ctx context.Context, slack float64) (*PlanReport, error) {
	view, err := o.view()
	if err != nil {
		return nil, err
	}
	if err := (TaskOrder{Slack: slack}).check(); err != nil {
		return nil, err
	}
	c := ConductorConfig{Director: o.config.Director, Tasks: o.config.Tasks, Sessions: o.config.Sessions, Stay: o.config.Stay}
	plan, _, err := c.balance(ctx, slack, view)
	if err != nil {
		return nil, err
	}
	r := &PlanReport{Moves: len(plan.Moves), Least: plan.Least, PeakBefore: Peak(plan.Before), PeakAfter: Peak(plan.After), Backends: []PlannedShare{}}
	to := make(map[string]map[string]int)
	idle := 0
	for _, m := range plan.Moves {
		from := located(view, m.Backend).Name
		if to[from] == nil {
			to[from] = make(map[string]int)
		}
		to[from][m.To]++
		if m.Idle {
			idle++
		}
	}
	if o.config.Sessions != nil {
		r.Idle = &idle
	}
	for i, s := range plan.Before {
		r.Backends = append(r.Backends, PlannedShare{Backend: s.Backend, Before: int(s.Has), After: int(plan.After[i].Has), Fair: s.Fair, To: to[s.Backend]})
	}
	return r, nil
}
