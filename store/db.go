package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// countLimit is how long counting all rows may take. No lookup waits for it.
	countLimit = 10 * time.Second
	// batchLimit is how many users share a statement.
	batchLimit = 500
	// readLanes is how many batches are read at once at most.
	readLanes = 4
	// few and many say when those who ask gather; see batcher.
	few, many = 4, 32
	// touchEvery is how often touches are written, maxTouches how many wait at most.
	touchEvery = time.Second
	maxTouches = 20_000
	// touchBatch is how many users share a statement that touches.
	touchBatch = 100
	// touchRest is how long the writer of touches rests after each statement, as a multiple of the time that it took: in a login storm
	// everybody's last_ts is due, and the database has lookups to answer.
	touchRest = 3
	// suspectFor is how long the assignments of a user go in statements of their own who was refused, or whose row was locked.
	suspectFor  = time.Minute
	maxSuspects = 10_000
	// suspectLanes is how many of them may be waited for at once.
	suspectLanes = 2
	// complainEvery is how often the same fault is logged.
	complainEvery = time.Minute
)

// database is what differs between PostgreSQL and SQLite.
type database interface {
	// read returns the rows that exist of these users.
	read(ctx context.Context, users []string) (map[string]director.Mapping, error)
	// The users in a batch to assign or to touch are sorted and occur once.

	// assign returns the rows of all users as they are afterwards. An impatient one fails when it would have to wait for more
	// than some hundredths of a second for a row that somebody else has locked.
	assign(ctx context.Context, batch []director.Assignment, impatient bool) (map[string]director.Mapping, error)
	touch(ctx context.Context, touches []touch) error
	counts(ctx context.Context) (map[string]int, error)
	// each calls do with every row, in the order of the users' bytes, and ends with its error.
	each(ctx context.Context, do func(director.Row) error) error
	// insert writes the rows of users who have none, all or nothing, and returns those users.
	insert(ctx context.Context, rows []director.Row) (written map[string]bool, err error)
	// ledger is where operators' orders and moves are.
	ledger() ledgerIn
	// probe proves that the table can be read, and looks whether there is a ledger.
	probe(ctx context.Context) error
	migrate(ctx context.Context) ([]string, error)
	close() error
	// explain turns the driver's error into one for operators and says what kind it is.
	explain(err error) (kind, error)
}

// kind is what an error means to the callers.
type kind uint8

const (
	// none: there was no error.
	none kind = iota
	// broken: the connection or the server is no good; asking again needs a new connection.
	broken
	// slow: the statement took too long.
	slow
	// refused: one of the users cannot be stored.
	refused
	// retry: two statements were in each other's way.
	retry
	// locked: somebody else has locked one of the rows, and for longer than the statement was patient.
	locked
	// faulty: this statement cannot work, others may: a missing right, another table than expected.
	faulty
)

// touch says that user was served by backend.
type touch struct{ user, backend string }

type (
	reading   = question[string, director.Mapping]
	assigning = question[director.Assignment, director.Mapping]
	assigner  = batcher[director.Assignment, director.Mapping]
)

// DB is a store. It implements director.Mappings and director.Counter.
type DB struct {
	database database
	name     string
	limits   limits
	log      *slog.Logger
	meter    Meter // nil if nobody counts

	reads    batcher[string, director.Mapping]
	assigns  assigner
	suspects assigner

	health health

	mu           sync.Mutex
	touches      map[string]string
	refusals     map[string]time.Time
	complained   string
	complainedAt time.Time
}

// newDB makes a store of a database that takes so many writers at once, with so many users in one statement.
func newDB(d database, name string, writers, users int, l limits, log *slog.Logger) *DB {
	db := &DB{database: d, name: name, limits: l, log: log, touches: map[string]string{}, refusals: map[string]time.Time{}}
	db.reads = batcher[string, director.Mapping]{ask: db.readBatch, limits: l, lanes: readLanes, limit: batchLimit, few: few, many: many}
	db.assigns = assigner{ask: db.assignBatch, limits: l, lanes: writers, limit: users, few: few, many: many}
	db.suspects = assigner{ask: func(one []*assigning) { db.assignUsers(one, false) }, limits: l, lanes: suspectLanes, limit: 1}
	db.health.init()
	return db
}

// Get reads the user's row. It does not look at ctx: it takes little longer than a second at most, and a caller who leaves
// spares nobody any work.
func (db *DB) Get(_ context.Context, user string) (director.Mapping, error) {
	if err := db.health.err(); err != nil {
		return director.Mapping{}, err
	}
	m, err := db.reads.call(user)
	return m, db.named(err)
}

// Assign performs the compare-and-set and returns the row that is true afterwards. It does not look at ctx, as Get does not.
func (db *DB) Assign(_ context.Context, a director.Assignment) (director.Mapping, error) {
	if err := db.health.err(); err != nil {
		return director.Mapping{}, err
	}
	queue := &db.assigns
	if db.suspect(a.User) {
		queue = &db.suspects
	}
	m, err := queue.call(a)
	return m, db.named(err)
}

// named says which database did not answer a call in time.
func (db *DB) named(err error) error {
	if err != errTooLong {
		return err
	}
	db.health.doubt()
	return fmt.Errorf("%w: %s: %w", director.ErrUnavailable, db.name, err)
}

// Touch notes that the user was served by backend now. What does not fit is dropped.
func (db *DB) Touch(user, backend string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, known := db.touches[user]; known || len(db.touches) < maxTouches {
		db.touches[user] = backend
	}
}

// Counts returns the number of users per backend as the rows name it.
func (db *DB) Counts(ctx context.Context) (map[string]int, error) {
	if err := db.health.err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, countLimit)
	defer cancel()
	begun := time.Now()
	counts, err := db.database.counts(ctx)
	k := none
	if err != nil {
		k, err = db.database.explain(err)
	}
	db.called(callCount, 0, begun, k)
	if err != nil {
		return nil, fmt.Errorf("counting users: %w", err)
	}
	return counts, nil
}

// Migrate creates the tables if they are missing and says what it did, a line each.
func (db *DB) Migrate(ctx context.Context) ([]string, error) {
	report, err := db.database.migrate(ctx)
	if err != nil {
		_, err = db.database.explain(err)
		return report, fmt.Errorf("%s: %w", db.name, err)
	}
	return report, nil
}

// Close closes the connections. Run must have returned.
func (db *DB) Close() error {
	db.reads.wait()
	db.assigns.wait()
	db.suspects.wait()
	return db.database.close()
}

// readBatch answers a batch of Get.
func (db *DB) readBatch(batch []*reading) {
	bisect(batch, func(part []*reading) bool {
		users := make([]string, len(part))
		for i, q := range part {
			users[i] = q.ask
		}
		found, k, err := attempt(db, callGet, len(users), func(ctx context.Context) (map[string]director.Mapping, error) { return db.database.read(ctx, users) })
		if k == refused && len(part) > 1 {
			return false
		}
		for _, q := range part {
			m, ok := found[q.ask]
			if !ok && err == nil {
				q.finish(m, director.ErrNoMapping)
			} else {
				q.finish(m, err)
			}
		}
		return true
	})
}

// assignBatch answers a batch of Assign. Users who are in the way of the others are sought out by halves: those whom the
// database refuses, and those whose rows are locked, which are waited for in statements of their own.
func (db *DB) assignBatch(batch []*assigning) {
	slices.SortStableFunc(batch, func(a, b *assigning) int { return strings.Compare(a.ask.User, b.ask.User) })
	bisect(batch, func(part []*assigning) bool { return db.assignUsers(part, true) })
}

// assignUsers writes assignments in one statement; they are sorted by user. Of several of one user the first is carried out; the
// others get the row that it leads to, as if they had come second. It reports false, and has answered nobody, if the batch should be
// tried in halves.
func (db *DB) assignUsers(batch []*assigning, impatient bool) bool {
	unique := make([]director.Assignment, 0, len(batch))
	for _, q := range batch {
		if len(unique) == 0 || unique[len(unique)-1].User != q.ask.User {
			unique = append(unique, q.ask)
		}
	}
	found, k, err := attempt(db, callAssign, len(unique), func(ctx context.Context) (map[string]director.Mapping, error) {
		return db.database.assign(ctx, unique, impatient)
	})
	if k == refused || k == locked {
		if len(unique) > 1 {
			return false
		}
		db.accuse(unique[0].User)
	}
	for _, q := range batch {
		m, ok := found[q.ask.User]
		switch {
		case k == locked && impatient:
			db.suspects.add(q)
		case !ok && err == nil:
			err := fmt.Errorf("%w: %s: the row that was written for %q is another user's; the column username must tell all names apart", director.ErrUnavailable, db.name, q.ask.User)
			db.complain(err)
			q.finish(m, err)
		default:
			q.finish(m, err)
		}
	}
	return true
}

// bisect lets do handle the batch, and each half of it where do says no. Do must not say no to a batch of one.
func bisect[T any](batch []T, do func([]T) bool) {
	if len(batch) == 0 || do(batch) {
		return
	}
	bisect(batch[:len(batch)/2], do)
	bisect(batch[len(batch)/2:], do)
}

// attempt runs a statement within its limit. It repeats it some times when statements were in each other's way.
// Connections that are found dead are replaced below, by database/sql.
func attempt(db *DB, call string, users int, statement func(context.Context) (map[string]director.Mapping, error)) (found map[string]director.Mapping, k kind, err error) {
	begun := time.Now()
	defer func() { db.called(call, users, begun, k) }()
	ctx, cancel := context.WithTimeout(context.Background(), db.limits.statement)
	defer cancel()
	for try := 0; ; try++ {
		found, err := statement(ctx)
		if err == nil {
			return found, none, nil
		}
		k, explained := db.database.explain(err)
		switch {
		case k == retry && try < 10 && ctx.Err() == nil:
			continue
		case k == refused:
			return nil, k, fmt.Errorf("%w: %w", director.ErrUserRefused, explained)
		case k == broken && ctx.Err() == nil:
			db.down(explained)
		case k == locked:
			return nil, k, fmt.Errorf("%w: %s: %w", director.ErrUnavailable, db.name, explained)
		case k == faulty:
			db.complain(explained)
		}
		db.health.doubt()
		return nil, k, fmt.Errorf("%w: %s: %w", director.ErrUnavailable, db.name, explained)
	}
}

// complain logs a fault of statements, each text once a minute.
func (db *DB) complain(fault error) {
	db.mu.Lock()
	repeated := db.complained == fault.Error() && time.Since(db.complainedAt) < complainEvery
	if !repeated {
		db.complained, db.complainedAt = fault.Error(), time.Now()
	}
	db.mu.Unlock()
	if !repeated {
		db.log.Error("a statement cannot be carried out; the users whom it is for get a temporary failure", "database", db.name, "error", fault)
	}
}

// suspect reports whether the user was refused a short time ago.
func (db *DB) suspect(user string) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	until, ok := db.refusals[user]
	if ok && time.Now().After(until) {
		delete(db.refusals, user)
		return false
	}
	return ok
}

// accuse makes the user a suspect.
func (db *DB) accuse(user string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	now := time.Now()
	if len(db.refusals) >= maxSuspects {
		for u, until := range db.refusals {
			if now.After(until) {
				delete(db.refusals, u)
			}
		}
	}
	if len(db.refusals) < maxSuspects {
		db.refusals[user] = now.Add(suspectFor)
	}
}

// flush writes the touches that have gathered, and rests after each statement for rest times as long as it took. On failure they are
// kept, unless newer ones took their place.
func (db *DB) flush(ctx context.Context, rest time.Duration) error {
	db.mu.Lock()
	gathered := db.touches
	db.touches = map[string]string{}
	db.mu.Unlock()
	touches := make([]touch, 0, len(gathered))
	for user, backend := range gathered {
		touches = append(touches, touch{user, backend})
	}
	slices.SortFunc(touches, func(a, b touch) int { return strings.Compare(a.user, b.user) })
	for part := range slices.Chunk(touches, touchBatch) {
		begun := time.Now()
		limit, cancel := context.WithTimeout(ctx, db.limits.statement)
		err := db.database.touch(limit, part)
		cancel()
		k := none
		if err != nil {
			k, err = db.database.explain(err)
		}
		db.called(callTouch, len(part), begun, k)
		if err == nil {
			pause(ctx, rest*time.Since(begun))
			continue
		}
		if k == refused {
			continue // a name that cannot be stored has no row to touch
		}
		db.mu.Lock()
		for _, t := range touches {
			if _, newer := db.touches[t.user]; !newer && len(db.touches) < maxTouches {
				db.touches[t.user] = t.backend
			}
		}
		db.mu.Unlock()
		if k == broken {
			db.health.doubt()
		}
		return fmt.Errorf("%s: writing last_ts: %w", db.name, err)
	}
	return nil
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, length time.Duration) {
	if length <= 0 {
		return
	}
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// errNotAsked is the state before the first probe.
var errNotAsked = errors.New("not reached yet")
