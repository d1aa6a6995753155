package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"go.yaml.in/yaml/v3"
)

// event is one entry of the timeline: something that happens, the begin of a phase, or both.
type event struct {
	at, every, until moment
	phase            string
	expect           []expectation
	action           action
}

// action is what happens to whom. Which of the fields count depends on what it is.
type action struct {
	name       string
	targets    []int
	anyone     bool // a random backend that is ready
	down       span
	never      bool // it does not come back
	stop       *span
	to         int
	pause      time.Duration
	planner    director.Planner
	rate       float64
	bySessions bool
}

// readTimeline reads the events.
func (s *Scenario) readTimeline(n node) error {
	return n.items(func(_ int, item node) error {
		var e event
		var at, every, until time.Duration
		most := s.Duration
		known := []field{
			{"at", duration(&at, 0, most)},
			{"every", duration(&every, time.Second, most)},
			{"until", duration(&until, 0, most)},
			{"phase", text(&e.phase)},
			{"expect", func(n node) error { return readExpectations(n, &e.expect) }},
		}
		for name, read := range actions {
			known = append(known, field{name, func(n node) error {
				if e.action.name != "" {
					return n.errorf("%s and %s in one event; expected is one thing that happens", e.action.name, name)
				}
				e.action.name = name
				return read(&e.action, n, s)
			}})
		}
		slices.SortFunc(known[5:], func(a, b field) int { return strings.Compare(a.name, b.name) })
		if err := item.fields(known...); err != nil {
			return err
		}
		e.at, e.every, e.until = moment(at.Milliseconds()), moment(every.Milliseconds()), moment(until.Milliseconds())
		switch {
		case e.action.name == "" && e.phase == "":
			return item.errorf("nothing happens here; expected is a phase or one of %s", strings.Join(actionNames(), ", "))
		case len(e.expect) > 0 && e.phase == "":
			return item.errorf("expectations without a phase that they are about; expected is phase: NAME")
		case until > 0 && every == 0:
			return item.errorf("until without every")
		case every > 0 && e.phase != "":
			return item.errorf("a phase begins once; expected is no every beside it")
		}
		if every > 0 && until == 0 {
			e.until = moment(s.Duration.Milliseconds())
		}
		s.timeline = append(s.timeline, e)
		return nil
	})
}

// actions read what can happen.
var actions = map[string]func(*action, node, *Scenario) error{
	"scale": func(a *action, n node, s *Scenario) error {
		if s.backends.names != nil {
			return n.errorf("backends with names of their own cannot be scaled; expected are backends with a count")
		}
		a.to = -1
		if err := n.fields(field{"to", whole(&a.to, 1, maxBackends)}); err != nil {
			return err
		}
		return needs(n, a.to >= 0, "to", "the number of backends")
	},
	"crash": func(a *action, n node, s *Scenario) error {
		err := n.fields(a.backends(s), field{"down", func(n node) error {
			if n.Value == "forever" {
				a.never = true
				return nil
			}
			return durations(&a.down, 0, longest)(n)
		}})
		if err != nil {
			return err
		}
		if err := a.needsBackends(n); err != nil {
			return err
		}
		return needs(n, a.never || a.down.most > 0, "down", "a duration, or forever")
	},
	"restart":         readRestart,
	"rolling_restart": readRestart,
	"not_ready": func(a *action, n node, s *Scenario) error {
		if err := n.fields(a.backends(s), field{"for", durations(&a.down, time.Second, longest)}); err != nil {
			return err
		}
		if err := a.needsBackends(n); err != nil {
			return err
		}
		return needs(n, a.down.most > 0, "for", "a duration")
	},
	"drain": func(a *action, n node, s *Scenario) error {
		if err := n.fields(a.backends(s)); err != nil {
			return err
		}
		return a.needsBackends(n)
	},
	"weight": func(a *action, n node, s *Scenario) error {
		a.to = -1
		if err := n.fields(a.backends(s), field{"to", whole(&a.to, 0, 100)}); err != nil {
			return err
		}
		if err := a.needsBackends(n); err != nil {
			return err
		}
		return needs(n, a.to >= 0, "to", "the new weight")
	},
	"database_outage": readOutage,
	"api_outage":      readOutage,
	"director_restart": func(a *action, n node, s *Scenario) error {
		return n.fields(
			field{"replicas", func(n node) error {
				return a.readTargets(n, func(n node) (int, error) {
					i := 0
					err := whole(&i, 0, s.replicas.count-1)(n)
					return i, err
				})
			}},
			field{"down", durations(&a.down, 0, longest)},
		)
	},
	"rebalance": func(a *action, n node, _ *Scenario) error {
		of, first := "users", "idle"
		a.planner.Slack, a.rate = 0.1, 1
		err := n.fields(
			field{"slack", number(&a.planner.Slack, 0, 10)},
			field{"rate", into(&a.rate, "a rate as 50/s or 300/min", parseRate)},
			field{"of", choice(&of, "users", "sessions")},
			field{"first", choice(&first, "idle", "heavy")},
		)
		a.bySessions, a.planner.IdleFirst = of == "sessions", first == "idle"
		return err
	},
}

func readRestart(a *action, n node, s *Scenario) error {
	a.down = s.backends.start
	a.pause = 10 * time.Second
	var stop span
	known := []field{
		{"down", durations(&a.down, 0, longest)},
		{"stop", func(n node) error { a.stop = &stop; return durations(&stop, 0, time.Hour)(n) }},
	}
	if a.name == "rolling_restart" {
		return n.fields(append(known, field{"pause", duration(&a.pause, 0, 24*time.Hour)})...)
	}
	if err := n.fields(append(known, a.backends(s))...); err != nil {
		return err
	}
	return a.needsBackends(n)
}

func readOutage(a *action, n node, _ *Scenario) error {
	if err := n.fields(field{"for", durations(&a.down, time.Second, longest)}); err != nil {
		return err
	}
	return needs(n, a.down.most > 0, "for", "a duration")
}

func actionNames() []string {
	names := make([]string, 0, len(actions))
	for name := range actions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func needs(n node, ok bool, key, what string) error {
	if !ok {
		return n.errorf("%s is missing; expected is %s", key, what)
	}
	return nil
}

// backends is the key that says whom an action is done to.
func (a *action) backends(s *Scenario) field {
	return field{"backends", func(n node) error {
		if n.Kind == yaml.ScalarNode && n.Value == "random" {
			a.anyone = true
			return nil
		}
		return a.readTargets(n, s.backends.index)
	}}
}

func (a *action) readTargets(n node, read func(node) (int, error)) error {
	add := func(_ int, item node) error {
		i, err := read(item)
		if err == nil && slices.Contains(a.targets, i) {
			err = item.errorf("%s is here twice", item.Value)
		}
		a.targets = append(a.targets, i)
		return err
	}
	if n.Kind == yaml.SequenceNode {
		return n.items(add)
	}
	return add(0, n)
}

func (a *action) needsBackends(n node) error {
	return needs(n, a.anyone || len(a.targets) > 0, "backends", "a backend, a list of them, or random")
}

func parseRate(v string) (float64, error) {
	digits, unit, _ := strings.Cut(v, "/")
	n, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil:
		return 0, err
	case unit == "min":
		n /= 60
	case unit == "h":
		n /= 3600
	case unit != "s":
		return 0, errUnexpected
	}
	if !(n > 0 && n <= 1e6) {
		return 0, errUnexpected
	}
	return n, nil
}
