package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
	"github.com/k-web-s/go-dovecot-director/store/storetest"
	"github.com/lib/pq"
	"go.uber.org/goleak"
)

// server is shared by the tests that do it no harm.
var server *pgtest.Server

func TestMain(m *testing.M) {
	var err error
	if server, err = pgtest.New(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// open opens a store, runs it for as long as the test lives, and waits until it is up. It is patient, unless the test is about the limits.
func open(t *testing.T, c store.Config) *store.DB {
	t.Helper()
	db := run(t, c)
	until(t, "the store is up", func() bool { return db.Status().Err == nil })
	return db
}

// run opens a store and runs it for as long as the test lives. It is as patient as open's.
func run(t *testing.T, c store.Config) *store.DB {
	t.Helper()
	db, err := store.Open(c.Patient())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- db.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// until waits for a condition of a real server.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// migrated creates the table in a new database and returns the database's URL.
func migrated(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	url := s.Database(t)
	migrate(t, url)
	return url
}

func migrate(t *testing.T, url string) []string {
	t.Helper()
	db, err := store.Open(store.Config{URL: url}.Patient())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	report, err := db.Migrate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// tableAlone creates the one table that is needed, as other programs do, and returns the database's URL.
func tableAlone(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	url := s.Database(t)
	pgtest.Exec(t, url, `CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`)
	return url
}

// postgresBench makes benches of databases of their own. Stores are opened by the URL that through makes, and log to log.
func postgresBench(database func(*testing.T, *pgtest.Server) string, through func(string) string, log *slog.Logger) func(*testing.T) storetest.Bench {
	return func(t *testing.T) storetest.Bench {
		url := database(t, server)
		return storetest.Bench{
			Open: func(t *testing.T) storetest.Store { return open(t, store.Config{URL: through(url), Logger: log}) },
			Insert: func(t *testing.T, backend string, ago time.Duration, users ...string) {
				pgtest.Exec(t, url, `INSERT INTO mailbox_username_backend SELECT unnest($1::varchar[]), $2, now() - $3 * interval '1 second'`, pq.StringArray(users), backend, ago.Seconds())
			},
			Mailboxes: func(t *testing.T, users ...string) {
				pgtest.Exec(t, url, `CREATE TABLE mailbox (username varchar(255) PRIMARY KEY)`)
				pgtest.Exec(t, url, `INSERT INTO mailbox SELECT unnest($1::varchar[])`, pq.StringArray(users))
				pgtest.Exec(t, url, `ALTER TABLE mailbox_username_backend ADD FOREIGN KEY (username) REFERENCES mailbox (username) ON DELETE CASCADE`)
			},
		}
	}
}

func TestPostgres(t *testing.T) {
	storetest.Run(t, postgresBench(migrated, func(url string) string { return url }, nil))
}

// TestTableAlone runs the suite where nothing but the table of mappings is there.
func TestTableAlone(t *testing.T) {
	storetest.Run(t, postgresBench(tableAlone, func(url string) string { return url }, nil))
}

// TestPooler runs the suite through a PgBouncer that keeps no prepared statements.
func TestPooler(t *testing.T) {
	var log bytes.Buffer
	storetest.Run(t, postgresBench(migrated, server.Pooler(t).Through, slog.New(slog.NewTextHandler(&log, nil))))
	if !strings.Contains(log.String(), "a pooler does not keep prepared statements") {
		t.Error("no statement was missed by the pooler")
	}
}

func TestSQLite(t *testing.T) { storetest.Run(t, sqliteBench) }

// TestRowsFromTheFuture has no part in the suite, as the simulation's clock is always right.
func TestRowsFromTheFuture(t *testing.T) {
	for name, bench := range map[string]func(*testing.T) storetest.Bench{
		"PostgreSQL": postgresBench(migrated, func(url string) string { return url }, nil),
		"SQLite":     sqliteBench,
	} {
		t.Run(name, func(t *testing.T) { storetest.TakesRowsFromTheFuture(t, bench(t)) })
	}
}

func sqliteBench(t *testing.T) storetest.Bench {
	path := filepath.Join(t.TempDir(), "a path with spaces, 100% & more?#.db")
	migrate(t, "sqlite:"+path)
	exec := func(t *testing.T, statement string, args ...any) {
		t.Helper()
		db, err := sql.Open("sqlite", strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23", " ", "%20").Replace("file:"+path)+"?_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	var once sync.Once
	var db *store.DB
	return storetest.Bench{
		// One replica: SQLite is for trying the program out.
		Open: func(t *testing.T) storetest.Store {
			once.Do(func() { db = open(t, store.Config{URL: "sqlite:" + path}) })
			return db
		},
		Insert: func(t *testing.T, backend string, ago time.Duration, users ...string) {
			for _, user := range users {
				exec(t, `INSERT INTO mailbox_username_backend VALUES (?, ?, ?)`, user, backend, time.Now().Add(-ago).UnixMilli())
			}
		},
		Mailboxes: func(t *testing.T, users ...string) {
			exec(t, `DROP TABLE mailbox_username_backend`)
			exec(t, `CREATE TABLE mailbox (username TEXT PRIMARY KEY)`)
			exec(t, `CREATE TABLE mailbox_username_backend (username TEXT PRIMARY KEY NOT NULL REFERENCES mailbox (username), backend TEXT NOT NULL, last_ts INTEGER NOT NULL)`)
			for _, user := range users {
				exec(t, `INSERT INTO mailbox VALUES (?)`, user)
			}
		},
	}
}
