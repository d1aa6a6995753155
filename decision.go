package director

import (
	"net/netip"
	"time"
)

// Verb is what a Decision asks for.
type Verb uint8

// The verbs.
const (
	// Serve: answer with Backend. Nothing has to be written.
	Serve Verb = iota
	// Assign: write From -> Backend to the store as compare-and-set, then decide again on the row that won.
	Assign
	// Hold: the user waits. Answer "temporary failure", never "wrong password" nor "unknown user".
	Hold
	// Unavailable: this replica cannot know. Answer HTTP 503, another replica may do better.
	Unavailable
	// Reject: there is no such user and the operator wants to be strict.
	Reject
)

// String returns the verb's word.
func (v Verb) String() string {
	switch v {
	case Serve:
		return "serve"
	case Assign:
		return "assign"
	case Hold:
		return "hold"
	case Unavailable:
		return "unavailable"
	case Reject:
		return "reject"
	default:
		return "unknown"
	}
}

// Reason says why. The same word stands in answers, logs, metric labels and the journal.
type Reason string

// The reasons.
const (
	Mapped      Reason = "mapped"       // serve: the mapping's backend is alive
	Renamed     Reason = "renamed"      // assign: the row holds the address of an alive backend; it becomes the name
	Proposed    Reason = "proposed"     // assign or serve: the ring's proposal for a user without a mapping
	Renewed     Reason = "renewed"      // assign: the mapping's backend is back, other replicas may not have heard and move the user otherwise
	Placed      Reason = "placed"       // assign or serve: the mapping's backend is lost for good
	Evened      Reason = "evened"       // assign: the mapping's backend is crowded, the user has no session open
	UnknownUser Reason = "unknown_user" // serve or reject: the foreign key refuses the user
	LastKnown   Reason = "last_known"   // serve: the store is down, this replica remembers the mapping
	Provisional Reason = "provisional"  // serve or assign: the ring's proposal for a new user while the store is down, and its row afterwards
	InGrace     Reason = "in_grace"     // hold: the backend is lost, it may come back
	InPanic     Reason = "panic"        // hold: more than half of the backends are lost at once
	ViewBehind  Reason = "view_behind"  // hold: the row is newer than this replica's view of its backend
	ViewPartial Reason = "view_partial" // hold: after a start, backends are expected that a user without a mapping may belong to
	ViewStale   Reason = "view_stale"   // hold: the view is not known to be current, it may not move anybody; unavailable: nor serve from memory
	BeingMoved  Reason = "moving"       // hold: the user is being moved
	Contended   Reason = "contended"    // hold: the row changed under this lookup again and again
	NoView      Reason = "no_view"      // unavailable: no complete view has been seen yet
	NoBackend   Reason = "no_backend"   // unavailable: no backend is alive that could take the user
	StoreDown   Reason = "store_down"   // unavailable: the store is down and the user is not remembered

	// Why users are moved who did not log in:
	Moved      Reason = "moved"      // by an operator
	Evacuated  Reason = "evacuated"  // off a backend that is being emptied
	Rebalanced Reason = "rebalanced" // off a backend that has more than its share
)

// Decision says what to do with one lookup.
type Decision struct {
	Verb   Verb
	Reason Reason
	// Backend is the chosen one's name, with Serve and Assign; with Hold the lost one's.
	Backend string
	// From is what the row held, with Assign and Hold; empty when there was none.
	From string
	// Until is when a hold is expected to end, zero when nobody knows.
	Until time.Time
	// RetryAfter is set with Unavailable when asking again so soon is worth a Dovecot auth worker.
	RetryAfter time.Duration
}

// Request is one lookup as a proxy asks it.
type Request struct {
	// User is the name as the proxy sent it.
	User string
	// Protocol is Dovecot's service name (imap, pop3, lmtp, sieve, ...), empty when the proxy named none.
	Protocol string
	// Session is Dovecot's name of the session, for the log; empty when the proxy named none.
	Session string
	// ReadOnly lookups (userdb) read and propose but write nothing: looking at a user must not map it.
	ReadOnly bool
}

// Answer is what a lookup comes to. Verb is never Assign.
type Answer struct {
	Decision
	// User is the canonical name.
	User string
	// Addr is where the backend serves now; always valid with Serve.
	Addr netip.Addr
	// Port is the backend's port for the request's protocol, 0 when it has none or none was named.
	Port uint16
	// NotBefore is when the proxy shall log in at the earliest; zero for at once.
	NotBefore time.Time
	// At is when this was decided.
	At time.Time
}
