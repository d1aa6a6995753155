package director

import "time"

// Snapshot is one raw observation of all backends, as a source (the Kubernetes API, a file) delivers it. A source
// delivers complete snapshots only: while its first list is still under way it delivers nothing, because "not seen
// yet" must never be taken for "dead".
type Snapshot struct {
	// Backends are all that the source lists, in any order and any condition; names are unique. What was listed before
	// and is missing now has vanished.
	Backends []Backend
	// StatefulSets are what the source knows of the sets that the backends belong to, names unique. Sets that it does not
	// know, or may not read, are missing.
	StatefulSets []StatefulSet
	// ListsTerminating says that backends which are being deleted are listed until they have ended. Otherwise they vanish
	// while they may go on serving.
	ListsTerminating bool
	// Blind is for how long the source had no contact with its server, all in all since it started. No wait goes on in
	// that time: what the server would have brought back meanwhile could not be seen, or not be brought back at all.
	Blind time.Duration
	// Gaps is how often what the source lists was found changed after such a time, or may have changed without its seeing it: a backend may
	// have been lost in it and have come back.
	Gaps int
	// CurrentAt is a moment at which the source knows that this was the truth: its server answered a request made then,
	// or sent a sign of life. An open watch alone proves nothing.
	CurrentAt time.Time
}
