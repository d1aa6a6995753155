package sim

import "time"

// Result is what came of a scenario under one strategy.
type Result struct {
	// Scenario is its name, Strategy who decided.
	Scenario string `json:"scenario"`
	Strategy string `json:"strategy"`
	// Begin is the time of day at the begin, Duration how long it took, both in simulated time.
	Begin    time.Duration `json:"-"`
	Duration time.Duration `json:"-"`
	// Backends are the names of all that there were, in the order of the loads in Samples.
	Backends []string `json:"backends"`
	// Phases are in the order of time; the last of them is the whole.
	Phases []*Phase `json:"-"`
	// Samples are what was seen at equal intervals.
	Samples []Sample `json:"-"`
	// Events say what happened.
	Events []Happening `json:"-"`
	// Failed has a sentence for each expectation that was not met.
	Failed []string `json:"failed"`
	// Lookups is how many a director answered.
	Lookups int `json:"lookups"`
}

// Total is the phase that is the whole scenario.
func (r *Result) Total() *Phase { return r.Phases[len(r.Phases)-1] }

// Happening is an event of the timeline.
type Happening struct {
	At   time.Duration `json:"-"`
	What string        `json:"what"`
}

// Sample is the state at one moment.
type Sample struct {
	At time.Duration `json:"-"`
	// Users and Sessions are counted by backend, -1 where a backend is not there.
	Users    []int `json:"users"`
	Sessions []int `json:"sessions"`
	// Waiting is how many users were without a session by a fault.
	Waiting int `json:"waiting"`
	// Moves are counted by reason since the sample before.
	Moves map[string]int `json:"moves"`
}

// Phase is a part of a scenario, or all of it.
type Phase struct {
	Name  string        `json:"name"`
	Begin time.Duration `json:"-"`
	End   time.Duration `json:"-"`
	// Users is how many had a backend at the end.
	Users int `json:"users"`
	// Logins are those that succeeded, Refused the lookups that were told to try again.
	Logins  int `json:"logins"`
	Refused int `json:"refused"`
	// Moves are changes of a user's backend, MovedUsers are the users whom they happened to. LeastMoves is how many users had
	// to move whatever anybody decides: they logged in after their backend was lost that did not come back until the end.
	Moves      int `json:"moves"`
	MovedUsers int `json:"moved_users"`
	LeastMoves int `json:"least_moves"`
	// Kicked is how many users' sessions were ended to move them.
	Kicked int `json:"kicked"`
	// WaitedUsers were told to try again at least once. WaitMean and WaitMax are for how many seconds those who were waiting
	// had no session, from when it was cut or refused until a login succeeded. StillWaiting of them had none at the end.
	WaitedUsers  int     `json:"waited_users"`
	StillWaiting int     `json:"still_waiting"`
	WaitMean     float64 `json:"wait_mean"`
	WaitMax      float64 `json:"wait_max"`
	// Unavailable is how many seconds all users were without a session by a fault, those included who had not to wait.
	Unavailable float64 `json:"unavailable"`
	// SplitUsers had sessions on two backends at a time.
	SplitUsers int `json:"split_users"`
	// UsersLoad and SessionsLoad are how users and sessions are spread over the backends that there should be.
	UsersLoad    Spread `json:"users_load"`
	SessionsLoad Spread `json:"sessions_load"`
	// MovesBy counts moves by reason.
	MovesBy map[string]int `json:"moves_by"`

	waits   int
	waitSum float64
}

func (p *Phase) perUser(v float64) float64 { return v / float64(max(1, p.Users)) }

// Spread is how even a load is.
type Spread struct {
	Min  int     `json:"min"`
	Max  int     `json:"max"`
	Mean float64 `json:"mean"`
	// Peak is the load of the fullest backend divided by its share by weight; Worst is the highest Peak of the phase.
	Peak  float64 `json:"peak"`
	Worst float64 `json:"worst"`
}
