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
	// statementLimit is how long a read or an assignment may take, so that a lookup, which makes up to two of them,
	// stays within its 3 s.
	statementLimit = time.Second
	// countLimit is how long counting all rows may take. No lookup waits for it.
	countLimit = 10 * time.Second
	// batchLimit is how many users share a statement.
	batchLimit = 500
	// touchEvery is how often touches are written, maxTouches how many wait at most.
	touchEvery = time.Second
	maxTouches = 100_000
	// suspectFor is how long a refused user's assignments go in statements of their own.
	suspectFor  = time.Minute
	maxSuspects = 10_000
	// complainEvery is how often the same fault is logged.
	complainEvery = time.Minute
)

// database is what differs between PostgreSQL and SQLite. Users in a batch are sorted and occur once.
type database interface {
	// read returns the rows that exist.
	read(ctx context.Context, users []string) (map[string]director.Mapping, error)
	// assign returns the rows of all users as they are afterwards.
	assign(ctx context.Context, batch []director.Assignment) (map[string]director.Mapping, error)
	touch(ctx context.Context, touches []touch) error
	counts(ctx context.Context) (map[string]int, error)
	// probe proves that the table can be read.
	probe(ctx context.Context) error
	migrate(ctx context.Context) ([]string, error)
	close() error
	// explain turns the driver's error into one for operators and says what kind it is.
	explain(err error) (kind, error)
}

// kind is what an error means to the callers.
type kind uint8

const (
	// broken: the connection or the server is no good; asking again needs a new connection.
	broken kind = iota
	// slow: the statement took too long.
	slow
	// refused: one of the users cannot be stored.
	refused
	// retry: two statements were in each other's way.
	retry
	// faulty: this statement cannot work, others may: a missing right, another table than expected.
	faulty
)

// touch says that user was served by backend.
type touch struct{ user, backend string }

// DB is a store. It implements director.Mappings and director.Counter.
type DB struct {
	database database
	name     string
	log      *slog.Logger

	reads    batcher[string, director.Mapping]
	assigns  batcher[director.Assignment, director.Mapping]
	suspects batcher[director.Assignment, director.Mapping]

	health health

	mu           sync.Mutex
	touches      map[string]string
	refusals     map[string]time.Time
	complained   string
	complainedAt time.Time
}

// newDB makes a store of a database that takes so many writers at once, with so many users in one statement.
func newDB(d database, name string, writers, users int, log *slog.Logger) *DB {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db := &DB{database: d, name: name, log: log, touches: map[string]string{}, refusals: map[string]time.Time{}}
	db.reads = batcher[string, director.Mapping]{ask: db.readBatch, lanes: 2, limit: batchLimit}
	db.assigns = batcher[director.Assignment, director.Mapping]{ask: db.assignBatch, lanes: writers, limit: users}
	db.suspects = batcher[director.Assignment, director.Mapping]{ask: db.assignBatch, lanes: 1, limit: 1}
	db.health.init()
	return db
}

// Get reads the user's row.
func (db *DB) Get(ctx context.Context, user string) (director.Mapping, error) {
	if err := db.health.err(); err != nil {
		return director.Mapping{}, err
	}
	return db.reads.call(ctx, user)
}

// Assign performs the compare-and-set and returns the row that is true afterwards.
func (db *DB) Assign(ctx context.Context, a director.Assignment) (director.Mapping, error) {
	if err := db.health.err(); err != nil {
		return director.Mapping{}, err
	}
	if db.suspect(a.User) {
		return db.suspects.call(ctx, a)
	}
	return db.assigns.call(ctx, a)
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
	counts, err := db.database.counts(ctx)
	if err != nil {
		_, err = db.database.explain(err)
		return nil, fmt.Errorf("counting users: %w", err)
	}
	return counts, nil
}

// Migrate creates the table if it is missing and says what it did, a line each.
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
func (db *DB) readBatch(users []string) []answer[director.Mapping] {
	unique := slices.Compact(slices.Sorted(slices.Values(users)))
	rows := map[string]answer[director.Mapping]{}
	bisect(unique, func(part []string) bool {
		found, k, err := attempt(db, part, db.database.read)
		if err != nil && k == refused && len(part) > 1 {
			return false
		}
		for _, user := range part {
			m, ok := found[user]
			switch {
			case err != nil:
				rows[user] = answer[director.Mapping]{err: err}
			case !ok:
				rows[user] = answer[director.Mapping]{err: director.ErrNoMapping}
			default:
				rows[user] = answer[director.Mapping]{value: m}
			}
		}
		return true
	})
	answers := make([]answer[director.Mapping], len(users))
	for i, user := range users {
		answers[i] = rows[user]
	}
	return answers
}

// assignBatch answers a batch of Assign. Of several assignments of one user the first is carried out; the others get
// the row that it leads to, as if they had come second.
func (db *DB) assignBatch(batch []director.Assignment) []answer[director.Mapping] {
	unique := slices.Clone(batch)
	slices.SortStableFunc(unique, func(a, b director.Assignment) int { return strings.Compare(a.User, b.User) })
	unique = slices.CompactFunc(unique, func(a, b director.Assignment) bool { return a.User == b.User })
	rows := map[string]answer[director.Mapping]{}
	bisect(unique, func(part []director.Assignment) bool {
		found, k, err := attempt(db, part, db.database.assign)
		if err != nil && k == refused {
			if len(part) > 1 {
				return false
			}
			db.accuse(part[0].User)
		}
		for _, a := range part {
			m, ok := found[a.User]
			row := answer[director.Mapping]{value: m, err: err}
			if !ok && err == nil {
				row.err = fmt.Errorf("%w: %s: the row that was written for %q is another user's; the column username must tell all names apart", director.ErrUnavailable, db.name, a.User)
				db.complain(row.err)
			}
			rows[a.User] = row
		}
		return true
	})
	answers := make([]answer[director.Mapping], len(batch))
	for i, a := range batch {
		answers[i] = rows[a.User]
	}
	return answers
}

// bisect lets do handle the batch, and each half of it where do says no.
func bisect[T any](batch []T, do func([]T) bool) {
	if len(batch) == 0 || do(batch) {
		return
	}
	bisect(batch[:len(batch)/2], do)
	bisect(batch[len(batch)/2:], do)
}

// attempt runs a statement within its limit. It repeats it some times when statements were in each other's way.
// Connections that are found dead are replaced below, by database/sql.
func attempt[T any](db *DB, batch []T, statement func(context.Context, []T) (map[string]director.Mapping, error)) (map[string]director.Mapping, kind, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statementLimit)
	defer cancel()
	for try := 0; ; try++ {
		found, err := statement(ctx, batch)
		if err == nil {
			return found, 0, nil
		}
		k, explained := db.database.explain(err)
		switch {
		case k == retry && try < 10 && ctx.Err() == nil:
			continue
		case k == refused:
			return nil, k, fmt.Errorf("%w: %w", director.ErrUserRefused, explained)
		case k == broken && ctx.Err() == nil:
			db.down(explained)
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

// flush writes the touches that have gathered. On failure they are kept, unless newer ones took their place.
func (db *DB) flush(ctx context.Context) error {
	db.mu.Lock()
	gathered := db.touches
	db.touches = map[string]string{}
	db.mu.Unlock()
	touches := make([]touch, 0, len(gathered))
	for user, backend := range gathered {
		touches = append(touches, touch{user, backend})
	}
	slices.SortFunc(touches, func(a, b touch) int { return strings.Compare(a.user, b.user) })
	for part := range slices.Chunk(touches, batchLimit) {
		limit, cancel := context.WithTimeout(ctx, statementLimit)
		err := db.database.touch(limit, part)
		cancel()
		if err == nil {
			continue
		}
		k, err := db.database.explain(err)
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

// errNotAsked is the state before the first probe.
var errNotAsked = errors.New("not reached yet")
