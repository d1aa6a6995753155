package director

import "time"

// Tally is told of what changes, to count it. It is called from any number of goroutines, and returns at once.
type Tally interface {
	// Assigned tells that a lookup has written a user's row.
	Assigned(Reason)
	// Moved tells that a user's backend was changed from one to another.
	Moved(Reason)
	// Undone tells that a move was given up; the user stays where he was.
	Undone(Reason)
	// RingBuilt tells how long a new ring took.
	RingBuilt(took time.Duration)
}

// untold is the Tally of who wants none.
type untold struct{}

func (untold) Assigned(Reason)         {}
func (untold) Moved(Reason)            {}
func (untold) Undone(Reason)           {}
func (untold) RingBuilt(time.Duration) {}

// Outcomes are all that a lookup may come to.
var Outcomes = map[Verb][]Reason{
	Serve:       {Mapped, Renamed, Renewed, Proposed, Placed, Evened, UnknownUser, LastKnown, Provisional},
	Hold:        {InGrace, InPanic, ViewBehind, ViewPartial, ViewStale, BeingMoved, Contended},
	Unavailable: {NoView, NoBackend, StoreDown, ViewStale},
	Reject:      {UnknownUser},
}

var (
	// AssignReasons are why a lookup writes a user's row.
	AssignReasons = []Reason{Proposed, Renamed, Renewed, Placed, Evened, Provisional}
	// SwapReasons are why a user's backend is changed from one to another: at a lookup, or by a move.
	SwapReasons = append([]Reason{Placed}, MoveReasons...)
	// MoveReasons are why users are moved who do not log in.
	MoveReasons = []Reason{Moved, Evacuated, Rebalanced, Evened}
)
