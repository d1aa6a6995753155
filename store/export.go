package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// streamSilence is how long the server may be silent while all rows are read: it sorts them before it sends the first.
const streamSilence = time.Minute

// Each calls do with every row, in the order of the users' bytes, as the rows were at one moment. It holds one row at a time, and
// a connection of its own. It ends with the error of do as it is, or with one that names the database; only nil says that these
// were all rows. The store need not run.
func (db *DB) Each(ctx context.Context, do func(director.Row) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stopped error
	err := db.database.each(ctx, func(r director.Row) error {
		if ctx.Err() != nil {
			return ctx.Err() // rows that have arrived already would still be read
		}
		if stopped = do(r); stopped != nil {
			cancel() // closing what is read would read the rest
		}
		return stopped
	})
	if stopped != nil {
		return stopped
	}
	return db.failed(ctx, err)
}

// failed makes an error for operators of one that ended a statement outside of lookups.
func (db *DB) failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, driver.ErrBadConn):
		err = errors.New("the connection was lost")
	default:
		_, err = db.database.explain(err)
	}
	return fmt.Errorf("%s: %w", db.name, err)
}

// eachPostgres sorts by bytes, so that the order is the same in every database. A last_ts that no calendar date can express, like
// infinity, is the nearest that one can.
const eachPostgres = `
SELECT username, backend, floor(extract(epoch FROM least(greatest(last_ts, '0001-01-01T00:00:00Z'), '9999-12-31T23:59:59.999Z')) * 1000)::bigint
FROM mailbox_username_backend ORDER BY username COLLATE "C"`

func (p *postgres) each(ctx context.Context, do func(director.Row) error) error {
	tx, err := p.streaming.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// Whoever reads the output may be slow, which is not the statement's fault.
	if _, err := tx.ExecContext(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, eachPostgres)
	if err != nil {
		return err
	}
	return eachRow(rows, do)
}

func (s *sqliteDB) each(ctx context.Context, do func(director.Row) error) error {
	rows, err := s.db.QueryContext(ctx, `
		SELECT username, backend, min(max(CAST(last_ts AS INTEGER), -62135596800000), 253402300799999)
		FROM mailbox_username_backend ORDER BY username COLLATE BINARY`)
	if err != nil {
		return err
	}
	return eachRow(rows, do)
}

// eachRow reads and closes rows whose last column is in milliseconds of Unix time.
func eachRow(rows *sql.Rows, do func(director.Row) error) error {
	defer rows.Close()
	for rows.Next() {
		var r director.Row
		var millis int64
		if err := rows.Scan(&r.User, &r.Backend, &millis); err != nil {
			return err
		}
		r.LastSeen = time.UnixMilli(millis).UTC()
		if err := do(r); err != nil {
			return err
		}
	}
	return rows.Err()
}
