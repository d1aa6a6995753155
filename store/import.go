package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/lib/pq"
)

const (
	// insertLimit is how long writing a batch of rows may take. No lookup waits for it.
	insertLimit = countLimit
	// insertPatience is how long it waits for one lock.
	insertPatience = "5s"
	// insertTries is how often a batch is tried whose users had rows that were gone when they were looked at.
	insertTries = 3
)

// Inserted is what became of rows that were to be inserted.
type Inserted struct {
	// Written is how many of the users had no row and have this one now.
	Written int
	// Kept are the users who had a row, with the backend that it names.
	Kept map[string]string
	// Refused are the users whom the database refuses: no such mailbox, or a name that it cannot hold.
	Refused []string
}

// Insert writes the rows of users who have none, as many at once as assignments, in a transaction each; rows that are there stay as they
// are. Each user is named once. It can be repeated, and other programs may write meanwhile. With an error, what is returned was done
// before it; the statement that it is about may have been carried out. The store need not run.
func (db *DB) Insert(ctx context.Context, rows []director.Row) (Inserted, error) {
	done := Inserted{Kept: map[string]string{}}
	for range insertTries {
		var gone []director.Row
		var failure error
		for batch := range slices.Chunk(rows, db.assigns.limit) {
			bisect(batch, func(part []director.Row) bool {
				if failure != nil {
					return true
				}
				again, k, err := db.insert(ctx, part, &done)
				switch {
				case k == refused && len(part) > 1:
					return false
				case k == refused:
					done.Refused = append(done.Refused, part[0].User)
				default:
					failure = err
				}
				gone = append(gone, again...)
				return true
			})
		}
		if rows = gone; failure != nil || len(rows) == 0 {
			return done, failure
		}
	}
	return done, fmt.Errorf("%s: the row in the way of %q is another user's; the column username must tell all names apart", db.name, rows[0].User)
}

// insert writes rows in one transaction and notes what became of them. It returns those that found a row in the way which is not there
// any more when it is looked at: it was deleted meanwhile, with its mailbox.
func (db *DB) insert(ctx context.Context, rows []director.Row, done *Inserted) ([]director.Row, kind, error) {
	var written map[string]bool
	k, err := db.within(ctx, insertLimit, func(ctx context.Context) (err error) {
		written, err = db.database.insert(ctx, rows)
		return err
	})
	if err != nil {
		return nil, k, err
	}
	done.Written += len(written)
	var users []string
	for _, r := range rows {
		if !written[r.User] {
			users = append(users, r.User)
		}
	}
	there, err := db.Find(ctx, users)
	if err != nil {
		return nil, faulty, err
	}
	var gone []director.Row
	for _, r := range rows {
		if m, ok := there[r.User]; ok && !written[r.User] {
			done.Kept[r.User] = m.Backend
		} else if !written[r.User] {
			gone = append(gone, r)
		}
	}
	return gone, none, nil
}

// Find returns the rows that exist of these users. The store need not run.
func (db *DB) Find(ctx context.Context, users []string) (map[string]director.Mapping, error) {
	all := make(map[string]director.Mapping, len(users))
	var failure error
	for batch := range slices.Chunk(users, batchLimit) {
		bisect(batch, func(part []string) bool {
			if failure != nil {
				return true
			}
			var found map[string]director.Mapping
			k, err := db.within(ctx, db.limits.statement, func(ctx context.Context) (err error) {
				found, err = db.database.read(ctx, part)
				return err
			})
			switch {
			case k == refused: // a name that cannot be stored has no row
				return len(part) == 1
			case err != nil:
				failure = err
			}
			maps.Copy(all, found)
			return true
		})
	}
	return all, failure
}

// within carries a statement out that no lookup waits for, and repeats it some times when statements were in each other's way.
func (db *DB) within(ctx context.Context, limit time.Duration, statement func(context.Context) error) (kind, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for try := 0; ; try++ {
		err := statement(limited)
		if err == nil {
			return none, nil
		}
		k, explained := db.database.explain(err)
		switch {
		case ctx.Err() != nil:
			return broken, db.failed(ctx, err)
		case k == retry && try < 10 && limited.Err() == nil:
			continue
		case limited.Err() != nil && k != slow:
			explained = errTooLong // whatever the driver says of its context
		}
		return k, fmt.Errorf("%s: %w", db.name, explained)
	}
}

// insertPostgres locks rows in the order of names, as assignPostgres does, and sets in the same way how long it waits for one lock.
const insertPostgres = `
WITH patience AS MATERIALIZED (
	SELECT set_config('lock_timeout', $4, true)
), input AS (
	SELECT username, backend, last_ts FROM unnest($1::varchar[], $2::varchar[], $3::text[]) AS input (username, backend, last_ts), patience
)
INSERT INTO mailbox_username_backend (username, backend, last_ts)
SELECT username, backend, coalesce(nullif(last_ts, '')::timestamptz, now()) FROM input ORDER BY username
ON CONFLICT (username) DO NOTHING
RETURNING username`

func (p *postgres) insert(ctx context.Context, rows []director.Row) (map[string]bool, error) {
	users, backends, times := make(pq.StringArray, len(rows)), make(pq.StringArray, len(rows)), make(pq.StringArray, len(rows))
	for i, r := range rows {
		users[i], backends[i] = r.User, r.Backend
		if !r.LastSeen.IsZero() {
			times[i] = r.LastSeen.UTC().Format(time.RFC3339Nano)
		}
	}
	var names []string
	if err := p.patient.SelectContext(ctx, &names, insertPostgres, users, backends, times, insertPatience); err != nil {
		return nil, err
	}
	written := make(map[string]bool, len(names))
	for _, name := range names {
		written[name] = true
	}
	return written, nil
}

// insert rests for as long as it took: who waits for the file's one lock asks for it now and then, and must find it free.
func (s *sqliteDB) insert(ctx context.Context, rows []director.Row) (map[string]bool, error) {
	s.write.Lock()
	defer s.write.Unlock()
	tx, err := s.db.BeginTxx(ctx, nil)
	for err != nil {
		if k, _ := s.explain(err); k != slow || ctx.Err() != nil {
			return nil, err
		}
		tx, err = s.db.BeginTxx(ctx, nil) // others have the lock, and nobody waits for this
	}
	defer tx.Rollback()
	begun := time.Now() // not with the wait for the lock
	written := make(map[string]bool, len(rows))
	for _, r := range rows {
		var millis *int64
		if !r.LastSeen.IsZero() {
			m := r.LastSeen.UnixMilli()
			millis = &m
		}
		result, err := tx.ExecContext(ctx, `
			INSERT INTO mailbox_username_backend (username, backend, last_ts) VALUES (?, ?, coalesce(?, `+sqliteNow+`))
			ON CONFLICT (username) DO NOTHING`, r.User, r.Backend, millis)
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil {
			return nil, err
		} else if n > 0 {
			written[r.User] = true
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	pause(ctx, time.Since(begun))
	return written, nil
}
