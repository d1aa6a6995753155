package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	director "github.com/k-web-s/go-dovecot-director"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// sqliteDB is a database in SQLite, for trying the program out: one file, one replica. last_ts is in milliseconds of
// Unix time.
type sqliteDB struct {
	path string
	db   *sqlx.DB
	// write lets one writer at a time try: SQLite has one, and makes the others poll for their turn.
	write    sync.Mutex
	ledgered atomic.Bool
	replica  string
}

func openSQLite(path string, c Config) (*DB, error) {
	if path == "" {
		return nil, errors.New("database-url: the path is missing; write sqlite:PATH")
	}
	busy := fmt.Sprintf("busy_timeout(%d)", (c.limits.statement * 4 / 5).Milliseconds())
	// mode=rw does not create the file: that is migrate's.
	query := url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_pragma": {busy, "journal_mode(WAL)", "foreign_keys(1)", "synchronous(NORMAL)"}}
	db, err := sqlx.Open("sqlite", "file:"+url.PathEscape(path)+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("database-url: %w", err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	// One writer, and few rows at once: it carries them out one by one, and others wait.
	return newDB(&sqliteDB{path: path, db: db, replica: c.Replica}, "SQLite in "+path, 1, 50, c.limits, c.Logger), nil
}

const sqliteNow = `CAST(unixepoch('subsec') * 1000 AS INTEGER)`

func (s *sqliteDB) read(ctx context.Context, users []string) (map[string]director.Mapping, error) {
	list, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	statement := `
		SELECT username, backend, (` + sqliteNow + ` - last_ts) / 1000.0 AS age
		FROM mailbox_username_backend WHERE username IN (SELECT value FROM json_each(?))`
	if s.ledgered.Load() {
		statement = `
		SELECT m.username, m.backend, (` + sqliteNow + ` - m.last_ts) / 1000.0, v.to_backend, (v.deadline - ` + sqliteNow + `) / 1000.0
		FROM mailbox_username_backend AS m
		LEFT JOIN director_move AS v ON v.username = m.username AND v.stage <> 'switched' AND v.deadline > ` + sqliteNow + `
		WHERE m.username IN (SELECT value FROM json_each(?))`
	}
	rows, err := s.db.QueryxContext(ctx, statement, string(list))
	if err != nil {
		return nil, err
	}
	return mappings(rows.Rows, len(users))
}

// sqliteFits says whether an assignment fits a row; as in PostgreSQL.
const sqliteFits = `m.backend = ?2 AND (?4 = 0 OR ` + sqliteNow + ` - m.last_ts >= ?4 OR m.last_ts > ` + sqliteNow + ` + 60000)`

// assign waits for nobody: a file has one writer.
func (s *sqliteDB) assign(ctx context.Context, batch []director.Assignment, _ bool) (map[string]director.Mapping, error) {
	s.write.Lock()
	defer s.write.Unlock()
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	assigned := make(map[string]director.Mapping, len(batch))
	for _, a := range batch {
		age := a.Age.Milliseconds()
		if s.ledgered.Load() && (a.Was != "" && a.Reason != director.Renamed && a.Reason != director.Renewed || a.Reason == director.Provisional) {
			if _, err := tx.ExecContext(ctx, `
				INSERT INTO director_journal (subject, username, from_backend, to_backend, reason, replica)
				SELECT 'user', ?1, ?2, ?3, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM mailbox_username_backend AS m WHERE username = ?1 AND NOT (`+sqliteFits+`))`,
				a.User, a.Was, a.Becomes, age, string(a.Reason), s.replica); err != nil {
				return nil, err
			}
		}
		var r row
		err := tx.GetContext(ctx, &r, `
			INSERT INTO mailbox_username_backend AS m (username, backend, last_ts) VALUES (?1, ?3, `+sqliteNow+`)
			ON CONFLICT (username) DO UPDATE SET
				backend = CASE WHEN `+sqliteFits+` THEN excluded.backend ELSE m.backend END,
				last_ts = CASE WHEN `+sqliteFits+` THEN excluded.last_ts ELSE m.last_ts END
			RETURNING username, backend, (`+sqliteNow+` - last_ts) / 1000.0 AS age`, a.User, a.Was, a.Becomes, age)
		if err != nil {
			return nil, err
		}
		assigned[r.Username] = r.mapping()
	}
	return assigned, tx.Commit()
}

func (s *sqliteDB) touch(ctx context.Context, touches []touch) error {
	s.write.Lock()
	defer s.write.Unlock()
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, t := range touches {
		if _, err := tx.ExecContext(ctx, `UPDATE mailbox_username_backend SET last_ts = `+sqliteNow+` WHERE username = ? AND backend = ?`, t.user, t.backend); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (s *sqliteDB) counts(ctx context.Context) (map[string]int, error) {
	return selectCounts(ctx, s.db)
}

func (s *sqliteDB) probe(ctx context.Context) error {
	var n int
	err := s.db.GetContext(ctx, &n, `SELECT count(*) FROM (SELECT username, backend, last_ts FROM mailbox_username_backend LIMIT 1)`)
	if err == nil {
		_, _ = s.findLedger(ctx) // what is wrong with it is the follower's to say
	}
	return err
}

// findLedger looks whether there is a ledger. If that cannot be known, it is as before.
func (s *sqliteDB) findLedger(ctx context.Context) (bool, error) {
	there, err := ledgerInSQLite(ctx, s.db)
	if err == nil {
		s.ledgered.Store(there)
	}
	return there, err
}

func (s *sqliteDB) ledger() ledgerIn {
	return ledgerIn{slow: s.db, db: s.db, following: s.db, dialect: inSQLite, find: s.findLedger, there: s.ledgered.Load, writing: &s.write}
}

func (s *sqliteDB) close() error { return s.db.Close() }

func (s *sqliteDB) migrate(ctx context.Context) ([]string, error) {
	var report []string
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		report = append(report, "file "+s.path+": created")
		if err := f.Close(); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	mappings, err := s.migrateMappings(ctx)
	report = append(report, mappings...)
	if err != nil {
		return report, err
	}
	more, err := migrateLedger(ctx, s.db, inSQLite, "")
	return append(report, more...), err
}

func (s *sqliteDB) migrateMappings(ctx context.Context) ([]string, error) {
	var there int
	if err := s.db.GetContext(ctx, &there, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'mailbox_username_backend'`); err != nil {
		return nil, err
	}
	if there > 0 {
		if err := s.probe(ctx); err != nil {
			return nil, fmt.Errorf("table mailbox_username_backend is there, but cannot be used: %w", err)
		}
		return []string{"table mailbox_username_backend: is there, left as it is"}, nil
	}
	_, err := s.db.ExecContext(ctx, `CREATE TABLE mailbox_username_backend (
		username TEXT PRIMARY KEY NOT NULL,
		backend TEXT NOT NULL,
		last_ts INTEGER NOT NULL
	)`)
	if err != nil {
		return nil, err
	}
	return []string{"table mailbox_username_backend: created"}, nil
}

// explain turns an error into one for operators.
func (s *sqliteDB) explain(err error) (kind, error) {
	if errors.Is(err, context.DeadlineExceeded) {
		return slow, errTooLong
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return broken, err
	}
	switch e.Code() & 0xff {
	case sqlitelib.SQLITE_CONSTRAINT:
		return refused, err
	case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED:
		return slow, errors.New("the file is locked by another program")
	case sqlitelib.SQLITE_INTERRUPT:
		return slow, errTooLong
	case sqlitelib.SQLITE_CANTOPEN:
		if _, statErr := os.Stat(s.path); errors.Is(statErr, fs.ErrNotExist) {
			return broken, fmt.Errorf("the file is missing: run 'go-dovecot-director migrate --database-url sqlite:%s'; the folder %s must be there", s.path, filepath.Dir(s.path))
		}
	case sqlitelib.SQLITE_ERROR:
		if probe := s.tableMissing(); probe {
			return broken, errors.New("the table mailbox_username_backend is missing: run 'go-dovecot-director migrate'")
		}
	}
	return broken, err
}

// tableMissing reports whether the file holds no table of mappings.
func (s *sqliteDB) tableMissing() bool {
	// On a slow machine, too, it is to be said what to do.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var there int
	err := s.db.GetContext(ctx, &there, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'mailbox_username_backend'`)
	return err == nil && there == 0
}
