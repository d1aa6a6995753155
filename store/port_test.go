package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// port is a database to export from or to import into, with a store that is not run.
type port struct {
	*store.DB
	url  string
	exec func(statement string)
}

// ports runs a test on a new database of either kind.
func ports(t *testing.T, test func(t *testing.T, p port)) {
	for name, make := range map[string]func(t *testing.T) port{
		"PostgreSQL": func(t *testing.T) port {
			url := migrated(t, server)
			return port{url: url, exec: func(statement string) { pgtest.Exec(t, url, statement) }}
		},
		"SQLite": func(t *testing.T) port {
			path := filepath.Join(t.TempDir(), "x.db")
			migrate(t, "sqlite:"+path)
			return port{url: "sqlite:" + path, exec: func(statement string) {
				t.Helper()
				db, err := sql.Open("sqlite", "file:"+path+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)")
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if _, err := db.Exec(statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := make(t)
			p.DB = idle(t, p.url)
			test(t, p)
		})
	}
}

// idle opens a store and does not run it.
func idle(t *testing.T, url string) *store.DB {
	t.Helper()
	db, err := store.Open(store.Config{URL: url}.Patient())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func all(t *testing.T, db *store.DB) []director.Row {
	t.Helper()
	var rows []director.Row
	if err := db.Each(t.Context(), func(r director.Row) error { rows = append(rows, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

// manyRows are rows of user-000000 and so on, on three backends.
func manyRows(n int) []director.Row {
	rows := make([]director.Row, n)
	for i := range rows {
		rows[i] = director.Row{User: fmt.Sprintf("user-%06d", i), Backend: fmt.Sprintf("backend-%d", i%3), LastSeen: time.UnixMilli(1700000000000 + int64(i)).UTC()}
	}
	return rows
}

func TestInsertedRowsAreReadBackInOrder(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		rows := manyRows(1200)
		for i, user := range []string{"Zoë", "zoe", "ada@example.org", "ADA@example.org", "Ada", " ", "a\tb\nc", `"`, `\`, "{a,b}", "NULL", "🙂", strings.Repeat("ä", 255)} {
			rows = append(rows, director.Row{User: user, Backend: "backend-0", LastSeen: time.UnixMilli(int64(i)).UTC()})
		}
		inserted, err := p.Insert(t.Context(), rows)
		if err != nil || inserted.Written != len(rows) || len(inserted.Kept)+len(inserted.Refused) != 0 {
			t.Fatalf("%+v, %v", inserted, err)
		}
		slices.SortFunc(rows, func(a, b director.Row) int { return strings.Compare(a.User, b.User) })
		if got := all(t, p.DB); !slices.Equal(got, rows) {
			t.Errorf("got %+v", got[:20])
		}
	})
}

func TestInsertLeavesRowsThatAreThere(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		rows := manyRows(1000)
		if _, err := p.Insert(t.Context(), rows[100:200]); err != nil {
			t.Fatal(err)
		}
		moved := slices.Clone(rows)
		for i := range moved {
			moved[i].Backend, moved[i].LastSeen = "elsewhere", time.Time{}
		}
		inserted, err := p.Insert(t.Context(), moved)
		if err != nil || inserted.Written != 900 || len(inserted.Kept) != 100 || inserted.Kept["user-000100"] != "backend-1" {
			t.Errorf("%d written, %d kept, %v", inserted.Written, len(inserted.Kept), err)
		}
		found, err := p.Find(t.Context(), []string{"user-000100", "user-000200", "nobody"})
		if err != nil || len(found) != 2 || found["user-000100"].Backend != "backend-1" || found["user-000200"].Backend != "elsewhere" || found["user-000200"].Age > time.Minute {
			t.Errorf("%+v, %v", found, err)
		}
		if again, err := p.Insert(t.Context(), moved); err != nil || again.Written != 0 || len(again.Kept) != 1000 {
			t.Errorf("again: %d written, %d kept, %v", again.Written, len(again.Kept), err)
		}
	})
}

func TestInsertPassesOverUsersWithoutAMailbox(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		p.exec(`DROP TABLE mailbox_username_backend`)
		p.exec(`CREATE TABLE mailbox (username varchar(255) PRIMARY KEY)`)
		stamp := "bigint"
		if strings.HasPrefix(p.url, "postgres") {
			stamp = "timestamptz"
		}
		p.exec(`CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY REFERENCES mailbox (username), backend varchar(255) NOT NULL, last_ts ` + stamp + ` NOT NULL)`)
		rows := manyRows(1000)
		var known []string
		refused := map[string]bool{}
		for i, r := range rows {
			if i%97 == 5 || i == 999 {
				refused[r.User] = true
			} else {
				known = append(known, "('"+r.User+"')")
			}
		}
		p.exec(`INSERT INTO mailbox VALUES ` + strings.Join(known, ","))
		inserted, err := p.Insert(t.Context(), rows)
		if err != nil || inserted.Written != len(known) || len(inserted.Refused) != len(refused) || len(inserted.Kept) != 0 {
			t.Fatalf("%d written, %d refused, %d kept, %v", inserted.Written, len(inserted.Refused), len(inserted.Kept), err)
		}
		for _, user := range inserted.Refused {
			if !refused[user] {
				t.Errorf("%s is refused", user)
			}
		}
	})
}

// TestImportsAndAssignmentsAgree imports twice while directors assign the same users: every user has one owner in the end, and
// everybody was told who it is.
func TestImportsAndAssignmentsAgree(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		rows := manyRows(2000)
		running := open(t, store.Config{URL: p.url})
		var wg sync.WaitGroup
		told := make([]string, len(rows))
		var imports [2]store.Inserted
		for i := range imports {
			into := p.DB
			if i > 0 && strings.HasPrefix(p.url, "postgres") {
				into = idle(t, p.url)
			}
			wg.Go(func() {
				var err error
				if imports[i], err = into.Insert(t.Context(), rows); err != nil {
					t.Error(err)
				}
			})
		}
		for lane := range 4 {
			wg.Go(func() {
				for i := len(rows) - 1 - lane; i >= 0; i -= 4 {
					var m director.Mapping
					err := director.ErrUnavailable
					for deadline := time.Now().Add(time.Minute); errors.Is(err, director.ErrUnavailable) && time.Now().Before(deadline); {
						m, err = running.Assign(t.Context(), director.Assignment{User: rows[i].User, Becomes: "assigned"})
					}
					if err != nil {
						t.Error(err)
						return
					}
					told[i] = m.Backend
				}
			})
		}
		wg.Wait()
		got := all(t, p.DB)
		assigned := 0
		for i, r := range got {
			if r.Backend != told[i] {
				t.Errorf("%s: told %q, the row says %q", r.User, told[i], r.Backend)
			}
			if r.Backend == "assigned" {
				assigned++
			}
			for _, done := range imports {
				if kept, ok := done.Kept[r.User]; ok && kept != r.Backend {
					t.Errorf("%s: an import was told %q, the row says %q", r.User, kept, r.Backend)
				}
			}
		}
		if len(got) != len(rows) || imports[0].Written+imports[1].Written+assigned != len(rows) {
			t.Errorf("%d rows of %d: %d and %d imported, %d assigned", len(got), len(rows), imports[0].Written, imports[1].Written, assigned)
		}
	})
}

func TestADateThatNoCalendarHasIsTheNearest(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		for user, stamp := range map[string][2]string{"a": {"'-infinity'", fmt.Sprint(math.MinInt64)}, "b": {"'infinity'", fmt.Sprint(math.MaxInt64)}, "c": {"'1969-12-31T23:59:59.9999Z'", "-1"}} {
			value := stamp[1]
			if strings.HasPrefix(p.url, "postgres") {
				value = stamp[0]
			}
			p.exec(`INSERT INTO mailbox_username_backend VALUES ('` + user + `', 'backend-0', ` + value + `)`)
		}
		want := []string{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"}
		for i, r := range all(t, p.DB) {
			if got := r.LastSeen.Format(time.RFC3339Nano); got != want[i] {
				t.Errorf("%s: %s, want %s", r.User, got, want[i])
			}
		}
	})
}

func TestEachEndsWithTheErrorOfItsCaller(t *testing.T) {
	ports(t, func(t *testing.T, p port) {
		if _, err := p.Insert(t.Context(), manyRows(2000)); err != nil {
			t.Fatal(err)
		}
		enough, n := errors.New("enough"), 0
		if err := p.Each(t.Context(), func(director.Row) error {
			if n++; n == 10 {
				return enough
			}
			return nil
		}); err != enough || n != 10 {
			t.Errorf("error %v after %d rows", err, n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		n = 0
		err := p.Each(ctx, func(director.Row) error {
			if n++; n == 10 {
				cancel(errors.New("interrupted"))
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "interrupted") {
			t.Errorf("a cancelled export ends with %v after %d rows", err, n)
		}
		if inserted, err := p.Insert(ctx, manyRows(10)); err == nil || !strings.Contains(err.Error(), "interrupted") || inserted.Written != 0 {
			t.Errorf("a cancelled import ends with %v, %+v", err, inserted)
		}
		if got := all(t, p.DB); len(got) != 2000 { // its connection is still good
			t.Errorf("%d rows", len(got))
		}
	})
}

// TestAServerThatDiesIsNoEnd has the server, or the connection, go away while rows are read and written.
func TestAServerThatDiesIsNoEnd(t *testing.T) {
	for name, end := range map[string]func(s *pgtest.Server, h *hole){
		"stopped": func(s *pgtest.Server, _ *hole) { s.Stop() },
		"killed":  func(s *pgtest.Server, _ *hole) { s.Kill() },
		"reset":   func(_ *pgtest.Server, h *hole) { h.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			s := pgtest.Start(t)
			url := migrated(t, s)
			pgtest.Exec(t, url, `INSERT INTO mailbox_username_backend SELECT 'user-' || n, 'backend-0', now() FROM generate_series(1, 300000) AS n`)
			h := newHole(t, s.Addr())
			db := idle(t, strings.Replace(url, s.Addr(), h.addr(), 1))
			n := 0
			err := db.Each(t.Context(), func(director.Row) error {
				if n++; n == 1000 {
					end(s, h)
				}
				return nil
			})
			if err == nil || n == 300000 || !strings.Contains(err.Error(), "PostgreSQL at ") {
				t.Errorf("error %v after %d rows", err, n)
			}
			if name == "reset" {
				return
			}
			if inserted, err := db.Insert(t.Context(), manyRows(10)); err == nil || !strings.Contains(err.Error(), "PostgreSQL at ") || inserted.Written != 0 {
				t.Errorf("error %v, %+v", err, inserted)
			}
		})
	}
}

// TestALockedRowStopsAnImport holds that an import does not wait for ever, and says why.
func TestALockedRowStopsAnImport(t *testing.T) {
	url := migrated(t, server)
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`INSERT INTO mailbox_username_backend VALUES ('user-000700', 'backend-0', now())`); err != nil {
		t.Fatal(err)
	}
	inserted, err := idle(t, url).Insert(t.Context(), manyRows(1000))
	if err == nil || !strings.Contains(err.Error(), "somebody else has locked") || inserted.Written != 500 {
		t.Errorf("error %v, %+v", err, inserted)
	}
}

// TestInsertTellsNamesApart holds that nobody is taken for written whose row is another user's.
func TestInsertTellsNamesApart(t *testing.T) {
	url := server.Database(t)
	pgtest.Exec(t, url, `CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	pgtest.Exec(t, url, `CREATE TABLE mailbox_username_backend (username varchar(255) COLLATE careless PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`)
	pgtest.Exec(t, url, `INSERT INTO mailbox_username_backend VALUES ('ADA', 'backend-0', now())`)
	inserted, err := idle(t, url).Insert(t.Context(), []director.Row{{User: "ada", Backend: "backend-1"}, {User: "bob", Backend: "backend-1"}})
	if err == nil || !strings.Contains(err.Error(), `"ada"`) || inserted.Written != 1 || len(inserted.Kept) != 0 {
		t.Errorf("%+v, %v", inserted, err)
	}
}

// TestImportWorksInEveryIsolationLevel imports what others import at the same time, where a site's default is strict.
func TestImportWorksInEveryIsolationLevel(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		url := migrated(t, server)
		pgtest.Exec(t, url, `ALTER DATABASE `+url[strings.LastIndexByte(url, '/')+1:strings.IndexByte(url, '?')]+` SET default_transaction_isolation = '`+level+`'`)
		var wg sync.WaitGroup
		var written [4]int
		for i := range written {
			db := idle(t, url)
			wg.Go(func() {
				inserted, err := db.Insert(t.Context(), manyRows(3000))
				if err != nil {
					t.Errorf("%s: %v", level, err)
				}
				written[i] = inserted.Written
			})
		}
		wg.Wait()
		if sum := written[0] + written[1] + written[2] + written[3]; sum != 3000 {
			t.Errorf("%s: %v written", level, written)
		}
	}
}
