package director

// Member is a backend as the ring sees it: its name and its share of new users. Members carry nothing that changes at
// a restart, so a pod that comes back with another address leaves the ring as it was.
type Member struct {
	Name string
	// Weight is 1 or more.
	Weight int
}

// Room is how many more users a backend should take: the weight in the placement of users whose backend is lost.
type Room struct {
	Backend string
	// Free is not negative. A backend with no room has the chance 0.
	Free float64
}

// Ring proposes backends. It is immutable: safe for concurrent use without locks. The same members give the same
// answers in every replica, whatever the history.
type Ring interface {
	// Propose returns the backend for a user without a mapping. ok is false when the ring has no members.
	Propose(key string) (backend string, ok bool)

	// Place returns the backend for a user whose own is lost: the highest score of -Free/ln(h(key, backend)) over rooms,
	// with h uniform in (0, 1). ok is false when no room is free.
	Place(key string, rooms []Room) (backend string, ok bool)
}
