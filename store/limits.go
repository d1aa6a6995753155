package store

import "time"

// limits are for how long the database is waited for. They are a value so that tests can be about something else than
// the speed of the machine that runs them.
type limits struct {
	// statement is how long the statement of a read or an assignment may take, and call how long a caller waits for
	// one, a statement before it included: a lookup makes two of them, and has 3 s.
	statement, call time.Duration
	// silence is how long a server may be silent within a statement. A cancelled context alone does not end a read
	// from a server that is frozen or behind a black hole.
	silence time.Duration
	// connect is how long connecting to one address may take.
	connect time.Duration
	// flush is how long writing the last touches may take at shutdown.
	flush time.Duration
}

// usual are the limits of everybody but tests.
var usual = limits{
	statement: time.Second,
	call:      1200 * time.Millisecond,
	silence:   1500 * time.Millisecond,
	connect:   time.Second,
	flush:     4 * time.Second,
}
