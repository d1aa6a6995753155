package director

import "time"

// Fixed bounds of the policy. They are not settings: each follows from how the parts behave.
const (
	// freshness is how old the last proof of the view may be when a user is moved away from a lost backend. Sources
	// prove it on request within a second.
	freshness = 5 * time.Second
	// rowLag is how much newer than a loss a row may be without telling anything: touches are written with a delay, and
	// replicas see a loss at slightly different times. With short waits there is no room for that: it may have been written after a return.
	rowLag = 5 * time.Second
	// hearsay is for how long other replicas may still write what follows from an older view: it was proven within freshness when
	// they decided, and a lookup takes 3 s at most.
	hearsay = freshness + 3*time.Second
	// rememberFor is how long a remembered mapping may be served while the store is down. While it is down for all
	// nobody can be moved; a replica that is cut off alone must not go on for ever.
	rememberFor = time.Hour
	// brief is how long an outage of the store may have lasted for "ask again in a second" to be good advice. Dovecot
	// spends an auth worker on the wait, and has 30.
	brief = 5 * time.Second
)

// RowState is what the store said about a user.
type RowState uint8

// The row states.
const (
	// RowFound: Facts.Mapping is the user's row.
	RowFound RowState = iota
	// RowAbsent: the user has no row.
	RowAbsent
	// RowRefused: the user has no row, and the database does not take one.
	RowRefused
	// RowUnavailable: the store cannot be asked now.
	RowUnavailable
)

// Remembered is what a replica remembers of a mapping that it served before.
type Remembered struct {
	Backend string
	// At is when the store last said so.
	At time.Time
}

// Facts is everything that a decision depends on.
type Facts struct {
	Now time.Time
	// View is nil before the first complete snapshot.
	View *View
	// Ring belongs to View: both were published together.
	Ring Ring
	// Rooms belong to View. They are needed when the user's backend is lost only.
	Rooms []Room
	// Key is what the ring hashes for this user.
	Key string
	// Load is what is known of sessions, nil when nothing is. It counts for users whose backend is alive.
	Load *Load
	// Row is what the store said, Mapping the row with RowFound.
	Row     RowState
	Mapping Mapping
	// Remembered and Outage count with RowUnavailable: what is remembered, nil for nothing, and how long the store has
	// been unavailable.
	Remembered *Remembered
	Outage     time.Duration
	// New says, with RowUnavailable, that the user had no row when that could be known.
	New bool
	// OutageRing is the ring as it was when the store went down, while it is down and for a moment after; nil otherwise.
	OutageRing Ring
	// ReadOnly lookups never lead to Assign.
	ReadOnly bool
}

// written is when the user's row was written, by this replica's clock.
func (f Facts) written() time.Time { return f.Now.Add(-f.Mapping.Age) }

// Policy decides. It is pure: equal facts give equal decisions in every replica, in the simulator and in explanations.
type Policy struct {
	// RejectUnknown turns users whom the database refuses away. Otherwise they get the ring's proposal and nothing is
	// stored, so that the backend gives the final word.
	RejectUnknown bool
	// EvenAbove lets users who have no session open move at a login from a backend whose sessions are more than so many times
	// its share: 1.1 for a tenth more. 0 moves nobody.
	EvenAbove float64
	// OutageProposes lets new users in while the store is down: by the ring, and their rows are written afterwards.
	OutageProposes bool
}

// Decide says what to do with one lookup at one moment. The rules stand in this order, the first that fits decides:
//
//	no complete view                                  unavailable  no_view
//	store down, remembered, alive ever since          serve        last_known
//	the same, but the view was proven long ago        unavailable  view_stale     unless new users are let in too
//	store down, user is new, if that is wanted        serve        provisional    the proposal of the outage's ring, if it is alive
//	store down                                        unavailable  store_down
//	database refuses the user, strict                 reject       unknown_user
//	database refuses the user                         serve        unknown_user   the ring's proposal
//	no row, backends are expected after a start       hold         view_partial
//	no row, store was down a moment ago               assign       provisional      the proposal of the outage's ring, if it is alive
//	no row                                            assign       proposed       the ring's proposal
//	row, the user is being moved                      hold         moving
//	row, backend is back, others may not know          assign       renewed        the same, so that they see it by the row
//	row, backend alive and crowded, no session open   assign       evened         by room, if that is wanted
//	row, backend alive                                serve        mapped
//	row with the address of an alive backend          assign       renamed
//	row newer than what is known of its lost backend  hold         view_behind
//	row, backend lost, grace                          hold         in_grace, panic
//	row, backend terminating and still serving        hold         in_grace, panic
//	row, backend lost for good, view not proven       hold         view_stale
//	row, backend lost for good                        assign       placed         by room
//
// Where a backend has to be chosen and none is alive: unavailable, no_backend. Read-only lookups serve where others
// assign.
func (p Policy) Decide(f Facts) Decision {
	if f.View == nil {
		return Decision{Verb: Unavailable, Reason: NoView}
	}
	switch f.Row {
	case RowUnavailable:
		return p.storeDown(f)
	case RowRefused:
		if p.RejectUnknown {
			return Decision{Verb: Reject, Reason: UnknownUser}
		}
		return propose(f, Serve, UnknownUser)
	case RowAbsent:
		if end := f.View.gathering; f.Now.Before(end) {
			return Decision{Verb: Hold, Reason: ViewPartial, Until: end}
		}
		if name, ok := f.outageProposal(); ok {
			return Decision{Verb: f.assignOrServe(), Reason: Provisional, Backend: name}
		}
		return propose(f, f.assignOrServe(), Proposed)
	}
	if m := f.Mapping.Moving; m != nil {
		return Decision{Verb: Hold, Reason: BeingMoved, Backend: f.Mapping.Backend, From: f.Mapping.Backend, Until: f.Now.Add(m.Left)}
	}
	if b, _, ok := f.View.Backend(f.Mapping.Backend); ok {
		if f.View.contested(b.Name, f.Now, f.written()) {
			return Decision{Verb: f.assignOrServe(), Reason: Renewed, Backend: b.Name, From: b.Name}
		}
		if to, ok := p.even(f, b.Name); ok {
			return Decision{Verb: Assign, Reason: Evened, Backend: to, From: b.Name}
		}
		return Decision{Verb: Serve, Reason: Mapped, Backend: b.Name}
	}
	if b, ok := f.View.ByAddr(f.Mapping.Backend); ok {
		return Decision{Verb: f.assignOrServe(), Reason: Renamed, Backend: b.Name, From: f.Mapping.Backend}
	}
	return p.lost(f)
}

func (f Facts) assignOrServe() Verb {
	if f.ReadOnly {
		return Serve
	}
	return Assign
}

func propose(f Facts, verb Verb, reason Reason) Decision {
	name, ok := f.Ring.Propose(f.Key)
	if !ok {
		return Decision{Verb: Unavailable, Reason: NoBackend}
	}
	return Decision{Verb: verb, Reason: reason, Backend: name}
}

// outageProposal is the proposal of the ring as it was when the store went down. A backend that is not alive is not replaced: others may see
// it, and two would propose differently.
func (f Facts) outageProposal() (backend string, ok bool) {
	if f.OutageRing == nil {
		return "", false
	}
	name, ok := f.OutageRing.Propose(f.Key)
	if ok {
		_, _, ok = f.View.Backend(name)
	}
	return name, ok
}

// storeDown serves what is remembered if nothing can have changed: the backend is alive, and the user's row was read or written since it was
// away. A replica that is cut off from the API server too does not hear of a loss, while others may move the backend's users when their wait
// is over.
func (p Policy) storeDown(f Facts) Decision {
	if r := f.Remembered; r != nil && f.Now.Sub(r.At) <= rememberFor {
		if f.View.keeps(r.Backend, r.At) {
			if !p.OutageProposes && f.Now.Sub(f.View.CurrentAt) > f.View.vouchesFor() {
				return Decision{Verb: Unavailable, Reason: ViewStale, Backend: r.Backend}
			}
			return Decision{Verb: Serve, Reason: LastKnown, Backend: r.Backend}
		}
	}
	// Who is remembered is not new, even if he cannot be served.
	if p.OutageProposes && f.New && f.Remembered == nil && f.Outage <= rememberFor && !f.Now.Before(f.View.gathering) {
		if name, ok := f.outageProposal(); ok {
			return Decision{Verb: Serve, Reason: Provisional, Backend: name}
		}
	}
	d := Decision{Verb: Unavailable, Reason: StoreDown}
	if f.Outage < brief {
		d.RetryAfter = time.Second
	}
	return d
}

// lost decides for a user whose backend is not alive.
func (p Policy) lost(f Facts) Decision {
	loss := f.View.Loss(f.Mapping.Backend)
	hold := Decision{Verb: Hold, Reason: InGrace, Backend: f.Mapping.Backend, From: f.Mapping.Backend, Until: loss.Until}
	if loss.Panic {
		hold.Reason = InPanic
	}
	// A row that was written after this replica saw the loss, or names a backend that it never saw, says that another
	// replica saw the backend alive since: its users wait as if the backend had been lost when the row was written.
	lag := max(0, min(rowLag, loss.Until.Sub(loss.Since)-hearsay))
	if loss.Cause == Unseen {
		lag = -rowLag
	}
	if written := f.written(); written.After(loss.Since.Add(lag)) {
		hold.Reason = ViewBehind
		hold.Until = later(loss.Until, written.Add(max(hearsay, loss.Until.Sub(loss.Since))))
	}
	switch {
	case f.Now.Before(hold.Until):
		return hold
	case loss.Serving:
		hold.Until = time.Time{}
		return hold
	case f.Now.Sub(f.View.CurrentAt) > freshness:
		hold.Reason, hold.Until = ViewStale, time.Time{}
		return hold
	}
	name, ok := f.Ring.Place(f.Key, f.Rooms)
	if !ok {
		return Decision{Verb: Unavailable, Reason: NoBackend, From: f.Mapping.Backend}
	}
	return Decision{Verb: f.assignOrServe(), Reason: Placed, Backend: name, From: f.Mapping.Backend}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
