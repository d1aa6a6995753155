package director

import (
	"context"
	"errors"
	"time"
)

// Mapping is a user's row in the store: the durable answer to "which backend does this user belong to?".
type Mapping struct {
	// Backend is the backend's name. Rows that an older deployment wrote hold an IP address.
	Backend string
	// Age is the time since the row was written or touched, by the store's own clock, so that clocks of director and
	// database need not agree. Never negative; a row that is from the future by more than clocks differ counts as an old one.
	Age time.Duration
	// Moving is set while the user is being moved: lookups hold.
	Moving *Moving
}

// Moving is a move that is under way.
type Moving struct {
	// To is the backend that the user is moved to.
	To string
	// Left is when the move is given up at the latest, by the store's clock. Positive.
	Left time.Duration
}

// Row is a user's row as it is exported and imported.
type Row struct {
	User, Backend string
	// LastSeen is the row's last_ts. Zero, in a row to be written, is the store's now.
	LastSeen time.Time
}

// Assignment is a compare-and-set on one user's mapping: "was Was or absent, becomes Becomes". One to the same backend renews the row.
type Assignment struct {
	User string
	// Was is the backend that the row must still hold, empty when the row must be absent. An absent row satisfies any Was.
	Was string
	// Age is how old the row was when it was read. One that was written or touched since is left as it is. 0 fits every row.
	Age time.Duration
	// Becomes is the backend that the row shall hold.
	Becomes string
	// Reason is why, for the journal.
	Reason Reason
}

// The errors of a store. They are sentinels to be found with errors.Is; the wrapping error says more.
var (
	// ErrNoMapping reports that the user has no row.
	ErrNoMapping = errors.New("no mapping")
	// ErrUserRefused reports that the database does not take this user: the foreign key says that there is no such
	// mailbox, or its encoding cannot hold the name. Nothing was stored.
	ErrUserRefused = errors.New("the database refuses this user")
	// ErrUnavailable reports that the store cannot be asked now. Nothing is known about the user.
	ErrUnavailable = errors.New("the store is unavailable")
)

// Mappings is what resolving needs of a store. Implementations are safe for concurrent use and answer within 1.2 s, whether
// they mind ctx or not.
type Mappings interface {
	// Get reads the user's row. Each call is answered by a read that began after it; there is no cache.
	// It returns ErrNoMapping, ErrUserRefused or ErrUnavailable.
	Get(ctx context.Context, user string) (Mapping, error)

	// Assign performs the compare-and-set and returns the row that is true afterwards: a.Becomes if this call (or an
	// equal one) won, another replica's choice, or a younger row, if that was first. It returns ErrUserRefused or ErrUnavailable; after
	// ErrUnavailable the row may or may not have been written.
	Assign(ctx context.Context, a Assignment) (Mapping, error)

	// Touch notes that the user was served by backend now, provided that the row still says so. It never blocks and may
	// be lost in a crash: last_ts is for people and clean-up, not for decisions that must not be wrong.
	Touch(user, backend string)
}

// Counter is implemented by stores that can count users.
type Counter interface {
	// Counts returns the number of mapped users per backend as the rows name it.
	Counts(ctx context.Context) (map[string]int, error)
}
