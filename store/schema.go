package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// dialect is what differs between the databases in the statements of a ledger. These are written once, with words in braces:
//
//	{now}        the time
//	{at ?}       the time of so many seconds of Unix time
//	{in ?}       the time in so many seconds
//	{unix x}     the seconds of Unix time of x
//	{since x}    how many seconds ago x was
//	{until x}    in how many seconds x will be
//	{id}         the type of a key that the database counts
//	{time}       the type of a time
//	{there}      whether there is the table director_schema
//	{lines x}    all x of a group, one a line
//	{skip}       pass over rows that somebody else has locked
type dialect func(word, argument string) string

var words = regexp.MustCompile(`\{(\w+)(?: ([\w.?]+))?\}`)

// in writes a statement in the dialect.
func (d dialect) in(statement string) string {
	return words.ReplaceAllStringFunc(statement, func(m string) string {
		parts := words.FindStringSubmatch(m)
		return d(parts[1], parts[2])
	})
}

func inPostgres(word, argument string) string {
	switch word {
	case "now":
		return "now()"
	case "at":
		return "to_timestamp(" + argument + "::float8)"
	case "in":
		return "now() + make_interval(secs => " + argument + "::float8)"
	case "unix":
		return "date_part('epoch', " + argument + ")"
	case "since":
		return "date_part('epoch', now() - " + argument + ")"
	case "until":
		return "date_part('epoch', " + argument + " - now())"
	case "id":
		return "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
	case "time":
		return "timestamptz"
	case "there":
		return "to_regclass('director_schema') IS NOT NULL"
	case "lines":
		return "string_agg(" + argument + `, E'\n')`
	case "skip":
		return "FOR UPDATE SKIP LOCKED"
	}
	panic("no such word: " + word)
}

func inSQLite(word, argument string) string {
	switch word {
	case "now":
		return sqliteNow
	case "at":
		return "CAST(" + argument + " * 1000 AS INTEGER)"
	case "in":
		return sqliteNow + " + CAST(" + argument + " * 1000 AS INTEGER)"
	case "unix":
		return argument + " / 1000.0"
	case "since":
		return "(" + sqliteNow + " - " + argument + ") / 1000.0"
	case "until":
		return "(" + argument + " - " + sqliteNow + ") / 1000.0"
	case "id":
		return "integer PRIMARY KEY AUTOINCREMENT"
	case "time":
		return "integer"
	case "there":
		return "EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'director_schema')"
	case "lines":
		return "group_concat(" + argument + ", char(10))"
	case "skip":
		return ""
	}
	panic("no such word: " + word)
}

// migration is a step from one version of the tables to the next. Steps are never changed once they were released.
type migration struct {
	// creates names what the step brings, for the report.
	creates    string
	statements []string
}

// migrations lead from nothing to the tables as this program needs them. The table of mappings is not among them: it may have been
// there before, and belong to somebody else.
var migrations = []migration{
	{"tables director_backend, director_move, director_pin, director_task, director_lease, director_replica, director_journal", []string{
		`CREATE TABLE director_backend (
			backend varchar(255) PRIMARY KEY,
			state varchar(16) NOT NULL CHECK (state IN ('active', 'standby', 'drain', 'off')),
			weight integer NOT NULL CHECK (weight BETWEEN 0 AND 100),
			changed_at {time} NOT NULL,
			actor varchar(255) NOT NULL,
			note text NOT NULL
		)`,
		`CREATE TABLE director_move (
			id {id},
			username varchar(255) NOT NULL UNIQUE,
			from_backend varchar(255) NOT NULL,
			to_backend varchar(255) NOT NULL,
			stage varchar(16) NOT NULL CHECK (stage IN ('begun', 'holding', 'switched')),
			reason varchar(32) NOT NULL,
			actor varchar(255) NOT NULL,
			note text NOT NULL,
			forced boolean NOT NULL,
			idle_only boolean NOT NULL,
			begun_at {time} NOT NULL,
			held_at {time},
			deadline {time} NOT NULL,
			claimed_by varchar(255) NOT NULL,
			claimed_until {time} NOT NULL
		)`,
		`CREATE TABLE director_pin (
			username varchar(255) PRIMARY KEY,
			pinned_at {time} NOT NULL,
			actor varchar(255) NOT NULL,
			note text NOT NULL
		)`,
		`CREATE TABLE director_task (
			name varchar(255) PRIMARY KEY,
			kind varchar(16) NOT NULL CHECK (kind IN ('evacuate', 'rebalance')),
			backend varchar(255) NOT NULL,
			rate integer NOT NULL,
			due {time},
			slack double precision NOT NULL,
			paused boolean NOT NULL,
			total integer NOT NULL,
			begun_at {time} NOT NULL,
			actor varchar(255) NOT NULL,
			note text NOT NULL
		)`,
		`CREATE TABLE director_lease (
			name varchar(255) PRIMARY KEY,
			holder varchar(255) NOT NULL,
			until {time} NOT NULL
		)`,
		`CREATE TABLE director_replica (
			name varchar(255) PRIMARY KEY,
			version varchar(64) NOT NULL,
			generation bigint NOT NULL,
			fingerprint varchar(64) NOT NULL,
			alive integer NOT NULL,
			lost integer NOT NULL,
			seen_at {time} NOT NULL,
			heard_at {time} NOT NULL
		)`,
		`CREATE TABLE director_journal (
			id {id},
			at {time} NOT NULL DEFAULT ({now}),
			subject varchar(16) NOT NULL,
			username varchar(255) NOT NULL DEFAULT '',
			from_backend varchar(255) NOT NULL DEFAULT '',
			to_backend varchar(255) NOT NULL DEFAULT '',
			reason varchar(32) NOT NULL DEFAULT '',
			actor varchar(255) NOT NULL DEFAULT '',
			replica varchar(255) NOT NULL DEFAULT '',
			note text NOT NULL DEFAULT ''
		)`,
		`CREATE INDEX director_journal_username ON director_journal (username, id)`,
		`CREATE INDEX director_journal_at ON director_journal (at)`,
	}},
}

// ledgerTables are what serve needs rights on.
var ledgerTables = []string{"director_backend", "director_move", "director_pin", "director_task", "director_lease", "director_replica", "director_journal"}

// migrateLedger takes the steps that are missing, each in a transaction of its own, and says so. Directors may run meanwhile, and
// another migrate too: lock makes it wait.
func migrateLedger(ctx context.Context, db *sqlx.DB, d dialect, lock string) ([]string, error) {
	var report []string
	for {
		taken, err := nextMigration(ctx, db, d, lock)
		if e, ok := errors.AsType[*pq.Error](err); ok && e.Code == pqerror.InsufficientPrivilege {
			return append(report, fmt.Sprintf("tables for operators' orders: not made, %s; run migrate as a user who may create tables if users shall be moved or backends drained; lookups do without", e.Message)), nil
		}
		if err != nil {
			return report, err
		}
		if taken == "" {
			break
		}
		report = append(report, taken+": created")
	}
	if report == nil {
		report = []string{fmt.Sprintf("tables for moving users: are there, version %d", len(migrations))}
	}
	return report, nil
}

// nextMigration takes one step, and returns what it created, or nothing if none is missing.
func nextMigration(ctx context.Context, db *sqlx.DB, d dialect, lock string) (string, error) {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer tx.Rollback()
	if lock != "" {
		if _, err := tx.ExecContext(ctx, lock); err != nil {
			return "", err
		}
	}
	var there bool
	if err := tx.GetContext(ctx, &there, `SELECT `+d.in(`{there}`)); err != nil {
		return "", err
	}
	if !there { // to create what is there needs a right, too
		if _, err := tx.ExecContext(ctx, d.in(`CREATE TABLE director_schema (version integer PRIMARY KEY, applied_at {time} NOT NULL)`)); err != nil {
			return "", err
		}
	}
	var version int
	if err := tx.GetContext(ctx, &version, `SELECT coalesce(max(version), 0) FROM director_schema`); err != nil {
		return "", err
	}
	switch {
	case version > len(migrations):
		return "", fmt.Errorf("the tables have version %d, this program knows %d: it is older than the one that made them, and must not change them", version, len(migrations))
	case version == len(migrations):
		return "", nil
	}
	step := migrations[version]
	for _, statement := range step.statements {
		if _, err := tx.ExecContext(ctx, d.in(statement)); err != nil {
			return "", fmt.Errorf("step %d: %w", version+1, err)
		}
	}
	if _, err := tx.ExecContext(ctx, tx.Rebind(d.in(`INSERT INTO director_schema (version, applied_at) VALUES (?, {now})`)), version+1); err != nil {
		return "", err
	}
	return step.creates, tx.Commit()
}

// errLedgerMissing is what a ledger answers without its tables.
var errLedgerMissing = errors.New("the tables for operators' orders are missing, or older than this program: run 'go-dovecot-director migrate'; until then lookups work, but nobody can be moved, drained or looked up in the journal")

// errLedgerDenied reports that the tables are there, and may not be used.
var errLedgerDenied = errors.New("rights on the tables for operators' orders are missing")

// ledgerInPostgres reports whether the ledger's tables are there and may be used.
func ledgerInPostgres(ctx context.Context, db *sqlx.DB) (bool, error) {
	var schema struct{ There, Readable bool }
	if err := db.GetContext(ctx, &schema, `SELECT oid IS NOT NULL AS there, coalesce(has_table_privilege(oid, 'SELECT'), false) AS readable FROM to_regclass('director_schema') AS oid`); err != nil || !schema.There {
		return false, err
	}
	if !schema.Readable {
		return false, fmt.Errorf("%w: GRANT SELECT ON director_schema, and SELECT, INSERT, UPDATE, DELETE ON %s to the director's user", errLedgerDenied, strings.Join(ledgerTables, ", "))
	}
	var version int
	if err := db.GetContext(ctx, &version, `SELECT coalesce(max(version), 0) FROM director_schema`); err != nil || version < len(migrations) {
		return false, err
	}
	var denied sql.NullString
	err := db.GetContext(ctx, &denied, `
		SELECT string_agg(name, ', ') FROM unnest($1::varchar[]) AS tables (name)
		WHERE NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT') AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))`,
		pq.StringArray(ledgerTables))
	if err == nil && denied.String != "" {
		err = fmt.Errorf("%w: GRANT SELECT, INSERT, UPDATE, DELETE ON %s to the director's user; users who are moved by other replicas meanwhile would be served as before", errLedgerDenied, denied.String)
	}
	return err == nil, err
}

// ledgerInSQLite reports whether the ledger's tables are there.
func ledgerInSQLite(ctx context.Context, db *sqlx.DB) (bool, error) {
	var there int
	if err := db.GetContext(ctx, &there, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'director_schema'`); err != nil || there == 0 {
		return false, err
	}
	var version int
	err := db.GetContext(ctx, &version, `SELECT coalesce(max(version), 0) FROM director_schema`)
	return version >= len(migrations), err
}
