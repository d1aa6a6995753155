package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// surveyEvery is how often sessions are added up for evening out, between the moves that change the sums.
const surveyEvery = 10 * time.Minute

// schedule books what the scenario says.
func (w *world) schedule() {
	for i := range w.scenario.timeline {
		e := &w.scenario.timeline[i]
		if e.every == 0 {
			w.at(e.at, func() { w.happen(e) })
			continue
		}
		var again func()
		at := e.at
		again = func() {
			w.happen(e)
			if at += e.every; at <= e.until {
				w.at(at, again)
			}
		}
		w.at(at, again)
	}
	if w.scenario.replicas.evenAbove > 0 {
		var survey func()
		survey = func() {
			w.survey()
			w.after(surveyEvery, survey)
		}
		survey()
	}
}

// happen carries out an event.
func (w *world) happen(e *event) {
	if e.phase != "" {
		w.book.phase(w, e.phase, e.expect)
	}
	a := &e.action
	if a.name == "" {
		return
	}
	targets := a.targets
	if a.anyone {
		if targets = w.anyone(); targets == nil {
			return // none is ready
		}
	}
	w.book.happening(w, a.describe(w, targets))
	for _, i := range targets {
		if a.name != "director_restart" {
			w.cluster.pod(i)
		}
	}
	switch a.name {
	case "scale":
		w.cluster.scale(a.to)
	case "rolling_restart":
		w.cluster.roll(a)
	case "database_outage":
		w.database(true)
		w.after(w.random.within(a.down), func() { w.database(false) })
	case "api_outage":
		w.cluster.outage(true)
		w.after(w.random.within(a.down), func() { w.cluster.outage(false) })
	case "director_restart":
		w.restartDirectors(a)
	case "rebalance":
		w.rebalance(a)
	default:
		for _, i := range targets {
			w.strike(a, i)
		}
	}
}

// strike carries out what happens to one backend.
func (w *world) strike(a *action, i int) {
	p := w.cluster.pods[i]
	switch a.name {
	case "drain":
		p.weight = 0
		w.cluster.tell()
	case "weight":
		p.weight = a.to
		w.cluster.tell()
	case "restart":
		if p.state != absent {
			w.cluster.restart(i, w.stop(a), w.random.within(a.down), func() {})
		}
	case "crash":
		if !p.serves() {
			return
		}
		w.cluster.enter(i, failing)
		if !a.never {
			w.cluster.later(w.random.within(a.down), i, func() { w.cluster.enter(i, ready) })
		}
	case "not_ready":
		if p.state != ready {
			return
		}
		w.cluster.enter(i, unready)
		w.cluster.later(w.random.within(a.down), i, func() { w.cluster.enter(i, ready) })
	}
}

// stop draws how long a backend serves that was told to end.
func (w *world) stop(a *action) time.Duration {
	if a.stop != nil {
		return w.random.within(*a.stop)
	}
	return w.random.within(w.scenario.backends.stop)
}

// anyone draws a backend that is ready.
func (w *world) anyone() []int {
	var some []int
	for i, p := range w.cluster.pods {
		if p.state == ready && w.cluster.wanted(i) {
			some = append(some, i)
		}
	}
	if some == nil {
		return nil
	}
	return []int{some[w.random.below(len(some))]}
}

func (w *world) database(down bool) {
	w.databaseDown = down
	if d, ok := w.strategy.(*directors); ok {
		d.store.down = down
	}
	w.trace(Step{Database: true, Down: down})
}

func (w *world) restartDirectors(a *action) {
	d, ok := w.strategy.(*directors)
	if !ok {
		return
	}
	targets := a.targets
	if targets == nil {
		for i := range d.replicas {
			targets = append(targets, i)
		}
	}
	for _, i := range targets {
		d.restart(i, w.random.within(a.down))
	}
}

// rebalance carries out a plan of the production planner at a rate.
func (w *world) rebalance(a *action) {
	d, ok := w.strategy.(*directors)
	if !ok {
		return
	}
	view := d.replicas[0].d.View()
	if view == nil {
		return
	}
	byName := make(map[string]uint32, len(w.users))
	residents := make([]director.Resident, 0, len(w.users))
	for i := range w.users {
		u := &w.users[i]
		if u.home < 0 {
			continue
		}
		canonical, err := w.scenario.settings.Users.Canonical(u.name)
		if err != nil {
			continue
		}
		load := 1.0
		if a.bySessions {
			load = w.expected(u)
		}
		byName[u.name] = uint32(i)
		residents = append(residents, director.Resident{User: u.name, Key: canonical.Key, Backend: w.cluster.pods[u.home].name, Load: load, Idle: u.open == 0})
	}
	plan := a.planner.Plan(view.Members(), w.build(view.Members()), residents)
	w.book.happening(w, fmt.Sprintf("plan: %d moves, the least is %d, peak %.3f to %.3f", len(plan.Moves), plan.Least, director.Peak(plan.Before), director.Peak(plan.After)))
	moves, due := plan.Moves, 0.0
	var tick func()
	tick = func() {
		for due += a.rate; due >= 1 && len(moves) > 0; due-- {
			w.move(d, byName[moves[0].User], moves[0])
			moves = moves[1:]
		}
		if len(moves) > 0 {
			w.after(time.Second, tick)
		}
	}
	tick()
}

// move ends the user's sessions, if there are any, and changes the mapping, unless one of the backends is not as planned any more.
func (w *world) move(d *directors, number uint32, m director.PlannedMove) {
	u := &w.users[number]
	from, to := w.byName[m.Backend], w.byName[m.To]
	if int(u.home) != from || w.cluster.pods[to].state != ready || w.databaseDown {
		return
	}
	canonical, err := w.scenario.settings.Users.Canonical(u.name)
	if err != nil {
		return
	}
	row, err := d.store.Assign(context.Background(), director.Assignment{User: canonical.Name, Was: m.Backend, Becomes: m.To})
	if err != nil || row.Backend != m.To {
		return
	}
	if u.open > 0 {
		w.book.kick()
		w.kick(u)
	}
	w.book.rehome(w, u, to, "planned")
	w.trace(Step{Moved: &director.Assignment{User: canonical.Name, Was: m.Backend, Becomes: m.To}})
}

// describe says in words what happens.
func (a *action) describe(w *world, targets []int) string {
	names := make([]string, len(targets))
	for i, t := range targets {
		if a.name == "director_restart" {
			names[i] = fmt.Sprintf("replica %d", t)
		} else {
			names[i] = w.scenario.backends.name(t)
		}
	}
	whom := strings.Join(names, ", ")
	switch a.name {
	case "scale":
		return fmt.Sprintf("scale from %d to %d", w.cluster.replicas, a.to)
	case "weight":
		return fmt.Sprintf("weight of %s becomes %d", whom, a.to)
	}
	what := strings.ReplaceAll(a.name, "_", " ")
	if whom == "" {
		return what
	}
	return what + " of " + whom
}
