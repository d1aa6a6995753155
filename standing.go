package director

import (
	"fmt"
	"slices"
	"time"
)

// Standing is what operators want of one backend.
type Standing struct {
	Backend string
	State   State
	// Weight is the backend's share of new users relative to the others; 0 is what the source of backends says.
	Weight int
	// Age is how long ago this was ordered, by the store's clock; Actor and Note say by whom and why.
	Age         time.Duration
	Actor, Note string
}

// MaxWeight is the largest weight of a backend. Each unit is a member of the ring.
const MaxWeight = 100

// State is what a backend is used for.
type State string

// The states. A backend that nobody has said anything about is active.
const (
	// Active backends take new users.
	Active State = "active"
	// Standby backends are ready and wait for a go: they take no new users.
	Standby State = "standby"
	// Drain: the backend takes no new users and keeps those that it has.
	Drain State = "drain"
	// Off: nobody is sent to the backend, and its users are mapped to others at their next login, without any wait, but for those
	// whose row was written since: they wait for eight seconds. Only an operator can know that no session goes on there.
	Off State = "off"
)

// States are all states.
var States = []State{Active, Standby, Drain, Off}

// ParseState reads a state's word.
func ParseState(text string) (State, error) {
	if s := State(text); slices.Contains(States, s) {
		return s, nil
	}
	return "", fmt.Errorf("%q is not a state of a backend; write one of %v", text, States)
}

// stand returns the backends as the operators' standings make them. Those that are switched off are among them even if the source
// does not list them any more.
func stand(backends []Backend, standings map[string]Standing) []Backend {
	if len(standings) == 0 {
		return backends
	}
	backends = slices.Clone(backends)
	listed := make(map[string]bool, len(backends))
	for i := range backends {
		listed[backends[i].Name] = true
		s, ok := standings[backends[i].Name]
		if !ok {
			continue
		}
		if s.Weight > 0 {
			backends[i].Weight = s.Weight
		}
		switch s.State {
		case Standby, Drain:
			backends[i].Weight = 0
		case Off:
			backends[i].Condition = SwitchedOff
		}
	}
	for name, s := range standings {
		if s.State == Off && !listed[name] {
			backends = append(backends, Backend{Name: name, Condition: SwitchedOff})
		}
	}
	return backends
}
