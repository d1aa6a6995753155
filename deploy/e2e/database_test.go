package e2e_test

import (
	"database/sql"
	"maps"
	"sync"
	"testing"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// database is a PostgreSQL server of a test's own, with a database that another application made: the mailboxes, and
// the table of mappings.
type database struct {
	server *pgtest.Server
	url    string
}

func startDatabase(t *testing.T) *database {
	t.Helper()
	server := pgtest.Start(t)
	d := &database{server, server.Database(t)}
	d.exec(t, "CREATE TABLE mailbox (username varchar(255) PRIMARY KEY)")
	d.exec(t, "CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)")
	return d
}

func (d *database) exec(t *testing.T, statement string) {
	t.Helper()
	pgtest.Exec(t, d.url, statement)
}

// rows returns the mapping as it stands in the table.
func (d *database) rows(t *testing.T) map[string]string {
	t.Helper()
	db, err := sql.Open("postgres", d.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := db.Query("SELECT username, backend FROM mailbox_username_backend")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	rows := map[string]string{}
	for found.Next() {
		var user, backend string
		if err := found.Scan(&user, &backend); err != nil {
			t.Fatal(err)
		}
		rows[user] = backend
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// wantRows expects that the table still holds what it held.
func (d *database) wantRows(t *testing.T, want map[string]string) {
	t.Helper()
	if got := d.rows(t); !maps.Equal(got, want) {
		t.Errorf("the table changed:\n got %v\nwant %v", got, want)
	}
}

// count returns the one number that a query leads to.
func (d *database) count(t *testing.T, query string) (n int) {
	t.Helper()
	db, err := sql.Open("postgres", d.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// lock keeps others from writing to the table of mappings until it is unlocked.
func (d *database) lock(t *testing.T) (unlock func()) {
	t.Helper()
	db, err := sql.Open("postgres", d.url)
	if err != nil {
		t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() { db.Close() })
	t.Cleanup(unlock)
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN; LOCK TABLE mailbox_username_backend IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	return unlock
}
