package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
	"github.com/k-web-s/go-dovecot-director/store/storetest"
)

func TestMigrateCreatesAndThenLeavesAlone(t *testing.T) {
	for name, url := range map[string]string{"PostgreSQL": server.Database(t), "SQLite": "sqlite:" + t.TempDir() + "/x.db"} {
		first, second := strings.Join(migrate(t, url), "\n"), strings.Join(migrate(t, url), "\n")
		if !strings.Contains(first, "created") || !strings.Contains(second, "left as it is") || strings.Contains(second, "created") {
			t.Errorf("%s: first %q, then %q", name, first, second)
		}
	}
}

func TestMigrateSaysWhatIsWrongWithATable(t *testing.T) {
	for name, tc := range map[string]struct{ statement, want string }{
		"a missing column":      {`CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL)`, "last_ts"},
		"no primary key":        {`CREATE TABLE mailbox_username_backend (username varchar(255), backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`, "unique"},
		"a column of no use":    {`CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend int NOT NULL, last_ts timestamptz NOT NULL)`, "integer"},
		"another kind of thing": {`CREATE VIEW mailbox_username_backend AS SELECT 'a'::varchar AS username, 'b'::varchar AS backend, now() AS last_ts`, "view"},
	} {
		t.Run(name, func(t *testing.T) {
			url := server.Database(t)
			pgtest.Exec(t, url, tc.statement)
			db, err := store.Open(store.Config{URL: url}.Patient())
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// TestMinimalRights works with a table that another role owns, with the foreign key, and no right but three on it.
func TestMinimalRights(t *testing.T) {
	admin := server.Database(t)
	role := fmt.Sprintf("director%d", rand.Uint32())
	password := `p@ss:w/o?r#d '"\%41`
	for _, statement := range []string{
		`CREATE TABLE mailbox (username varchar(255) PRIMARY KEY)`,
		`INSERT INTO mailbox VALUES ('ada')`,
		`CREATE TABLE mailbox_username_backend (username varchar(255) NOT NULL PRIMARY KEY REFERENCES mailbox(username) ON DELETE CASCADE,
			backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`,
		`CREATE ROLE ` + role + ` LOGIN PASSWORD '` + strings.ReplaceAll(password, "'", "''") + `'`,
		`GRANT SELECT, INSERT, UPDATE ON mailbox_username_backend TO ` + role,
		`REVOKE CREATE ON SCHEMA public FROM PUBLIC`,
	} {
		pgtest.Exec(t, admin, statement)
	}
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(u.Host)
	for name, config := range map[string]store.Config{
		"by fields": {Host: host, Port: port, Name: strings.TrimPrefix(u.Path, "/"), User: role, Password: password, SSLMode: "prefer"},
		"by URL":    {URL: "postgres://" + role + "@" + u.Host + u.Path, Password: password, SSLMode: "disable"},
	} {
		db := open(t, config)
		if m, err := db.Assign(t.Context(), director.Assignment{User: "ada", Becomes: "backend-0"}); err != nil || m.Backend != "backend-0" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if _, err := db.Assign(t.Context(), director.Assignment{User: "nobody", Becomes: "backend-0"}); !errors.Is(err, director.ErrUserRefused) {
			t.Errorf("%s: %v", name, err)
		}
		db.Touch("ada", "backend-0")
		report, err := db.Migrate(t.Context())
		if err != nil || len(report) != 2 || report[0] != "table mailbox_username_backend: is there, left as it is" || !strings.Contains(report[1], "not made, permission denied for schema public; run migrate as a user who may create tables") {
			t.Errorf("%s: %q, %v", name, report, err)
		}
		if _, err := db.Ledger("replica-0", time.Hour).Standings(t.Context()); err == nil || !strings.Contains(err.Error(), "run 'go-dovecot-director migrate'") {
			t.Errorf("%s: without its tables, the ledger says %v", name, err)
		}
		if _, err := db.Counts(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOutagesAreExplained holds that an operator reads what to do.
func TestOutagesAreExplained(t *testing.T) {
	admin := server.Database(t)
	u, _ := url.Parse(admin)
	role := fmt.Sprintf("poor%d", rand.Uint32())
	pgtest.Exec(t, admin, `CREATE ROLE `+role+` LOGIN`)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	readOnly := migrated(t, server)
	withTable := migrated(t, server)
	for name, tc := range map[string]struct{ url, want string }{
		"no server":          {"postgres://u:topsecret@" + closed.Addr().String() + "/mail?sslmode=disable", "connection refused"},
		"no such database":   {"postgres://postgres@" + u.Host + "/nosuch?sslmode=disable", `"nosuch" does not exist`},
		"no such user":       {"postgres://nosuch@" + u.Host + u.Path + "?sslmode=disable", `"nosuch" does not exist`},
		"no TLS":             {"postgres://postgres@" + u.Host + u.Path + "?sslmode=require", "SSL"},
		"no table":           {admin, "run 'go-dovecot-director migrate'"},
		"no rights":          {strings.Replace(withTable, "postgres@", role+"@", 1), "GRANT SELECT, INSERT, UPDATE"},
		"a read-only server": {readOnly + "&default_transaction_read_only=on", "read-only"},
		"no SQLite file":     {"sqlite:" + t.TempDir() + "/none.db", "run 'go-dovecot-director migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			db := run(t, store.Config{URL: tc.url}.Usual())
			until(t, "the cause is known: "+tc.want, func() bool {
				err := db.Status().Err
				return err != nil && strings.Contains(err.Error(), tc.want)
			})
			_, err := db.Get(t.Context(), "ada")
			if !errors.Is(err, director.ErrUnavailable) || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestAMissingRightHarmsOnlyWhatNeedsIt works with a role that may read and not write: known users are answered.
func TestAMissingRightHarmsOnlyWhatNeedsIt(t *testing.T) {
	admin := migrated(t, server)
	role := fmt.Sprintf("reader%d", rand.Uint32())
	pgtest.Exec(t, admin, `INSERT INTO mailbox_username_backend VALUES ('ada', 'backend-0', now())`)
	pgtest.Exec(t, admin, `CREATE ROLE `+role+` LOGIN`)
	pgtest.Exec(t, admin, `GRANT SELECT ON mailbox_username_backend TO `+role)
	var log lockedBuffer
	db := open(t, store.Config{URL: strings.Replace(admin, "postgres@", role+"@", 1), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 5 {
		if _, err := db.Assign(t.Context(), director.Assignment{User: "new", Becomes: "backend-0"}); !errors.Is(err, director.ErrUnavailable) || !strings.Contains(err.Error(), "GRANT SELECT, INSERT, UPDATE") {
			t.Errorf("error %v", err)
		}
		if m, err := db.Get(t.Context(), "ada"); err != nil || m.Backend != "backend-0" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if err := db.Status().Err; err != nil {
		t.Errorf("the store is down: %v", err)
	}
	if n := strings.Count(log.String(), "GRANT"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// TestADatabaseInAnotherEncoding holds that a name which it cannot hold harms nobody else.
func TestADatabaseInAnotherEncoding(t *testing.T) {
	pgtest.Exec(t, server.URL("postgres"), `CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'`)
	u := server.URL("latin")
	migrate(t, u)
	db := open(t, store.Config{URL: u})
	var wg sync.WaitGroup
	for i := range 50 {
		for _, name := range []string{"ada", "Ödön", "пётр", "👩"} {
			user := fmt.Sprintf("%s-%d", name, i)
			wg.Go(func() {
				_, err := db.Get(context.Background(), user)
				m, assignErr := db.Assign(context.Background(), director.Assignment{User: user, Becomes: "backend-0"})
				if name == "ada" || name == "Ödön" {
					if !errors.Is(err, director.ErrNoMapping) || assignErr != nil || m.Backend != "backend-0" {
						t.Errorf("%s: %v; %+v, %v", user, err, m, assignErr)
					}
				} else if !errors.Is(err, director.ErrUserRefused) || !errors.Is(assignErr, director.ErrUserRefused) {
					t.Errorf("%s: %v; %v", user, err, assignErr)
				}
			})
		}
	}
	wg.Wait()
}

// TestStricterIsolation races on a database whose owner made repeatable read or serializable the default: statements
// that are in each other's way fail there, and have to be repeated.
func TestStricterIsolation(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			u := migrated(t, server)
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, u, `ALTER DATABASE `+strings.TrimPrefix(parsed.Path, "/")+` SET default_transaction_isolation = '`+level+`'`)
			var wg sync.WaitGroup
			for w := range 4 {
				db := open(t, store.Config{URL: u})
				for _, n := range rand.Perm(200) {
					wg.Go(func() {
						a := director.Assignment{User: fmt.Sprintf("user-%d", n), Becomes: fmt.Sprintf("backend-%d", w)}
						if _, err := db.Assign(context.Background(), a); err != nil {
							t.Errorf("writer %d: %v", w, err)
						}
					})
				}
			}
			wg.Wait()
		})
	}
}

// TestAColumnThatTakesNamesForTheSame holds that nobody is answered with another user's row.
func TestAColumnThatTakesNamesForTheSame(t *testing.T) {
	u := server.Database(t)
	pgtest.Exec(t, u, `CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	pgtest.Exec(t, u, `CREATE TABLE mailbox_username_backend (username varchar(255) COLLATE careless PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend VALUES ('ADA', 'backend-0', now())`)
	db := open(t, store.Config{URL: u})
	if m, err := db.Assign(t.Context(), director.Assignment{User: "ada", Becomes: "backend-1"}); !errors.Is(err, director.ErrUnavailable) || m.Backend != "" {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestAnotherUsersRowHarmsNobodyElse has the row of another user in the way of one in a batch.
func TestAnotherUsersRowHarmsNobodyElse(t *testing.T) {
	u := server.Database(t)
	pgtest.Exec(t, u, `CREATE EXTENSION citext`)
	pgtest.Exec(t, u, `CREATE TABLE mailbox_username_backend (username citext PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend VALUES ('ADA', 'backend-0', now())`)
	db := open(t, store.Config{URL: u})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			user, want := fmt.Sprintf("user-%d", i), error(nil)
			if i%20 == 0 {
				user, want = "ada", director.ErrUnavailable
			}
			if m, err := db.Assign(context.Background(), director.Assignment{User: user, Becomes: "backend-1"}); !errors.Is(err, want) || (m.Backend == "backend-1") != (err == nil) {
				t.Errorf("%s: %+v, %v", user, m, err)
			}
		})
	}
	wg.Wait()
}

// TestCollationsThatSortByMeaning holds that names which sort as one stay several.
func TestCollationsThatSortByMeaning(t *testing.T) {
	storetest.KeepsNames(t, postgresBench(func(t *testing.T, s *pgtest.Server) string {
		u := s.Database(t)
		pgtest.Exec(t, u, `CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level1-ka-shifted')`)
		pgtest.Exec(t, u, `CREATE TABLE mailbox_username_backend (username varchar(255) COLLATE lax PRIMARY KEY, backend varchar(255) COLLATE lax NOT NULL, last_ts timestamptz NOT NULL)`)
		return u
	}, func(url string) string { return url }, nil)(t))
}

// TestNamesThatTheDatabaseCannotHold has databases in which 255 characters are 255 bytes, or not all characters are there. Such names are
// refused, and nobody else who asks at the same time is.
func TestNamesThatTheDatabaseCannotHold(t *testing.T) {
	for encoding, odd := range map[string]string{"SQL_ASCII": strings.Repeat("ä", 255), "LATIN1": "пример"} {
		t.Run(encoding, func(t *testing.T) {
			u := server.Database(t)
			name := strings.ToLower(encoding) + "_names"
			pgtest.Exec(t, u, `CREATE DATABASE `+name+` ENCODING '`+encoding+`' LOCALE 'C' TEMPLATE template0`)
			u = server.URL(name)
			migrate(t, u)
			db := open(t, store.Config{URL: u})
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() {
					user, want := fmt.Sprintf("ädä-%d", i), error(nil)
					if i%20 == 0 {
						user, want = odd, director.ErrUserRefused
					}
					if _, err := db.Assign(context.Background(), director.Assignment{User: user, Becomes: "backend-0"}); !errors.Is(err, want) {
						t.Errorf("%.20q: %v", user, err)
					}
					if m, err := db.Get(context.Background(), user); want == nil && (err != nil || m.Backend != "backend-0") || want != nil && !errors.Is(err, director.ErrNoMapping) && !errors.Is(err, want) {
						t.Errorf("%.20q: %+v, %v", user, m, err)
					}
				})
			}
			wg.Wait()
			if status := db.Status(); status.Err != nil {
				t.Errorf("an odd name is no outage: %v", status.Err)
			}
		})
	}
}

func TestBadConfigurationShowsNoPassword(t *testing.T) {
	for _, url := range []string{
		"mysql://u:topsecret@db/mail", "postgres://u:topsecret@db:port/mail", "postgres://u:topsecret@db:99999/mail", "postgres://u:topsecret@[::1/mail",
		"postgres://u:topsecret%zz@db/mail", "postgres://u:topsecret@db/mail?sslmode=maybe", "sqlite:", "host=db password=topsecret", "://u:topsecret@db",
		"postgres://u:topsecret#x@db/mail", "postgres://u:topsecret/x@db/mail", "postgres://u:topsecret?x@db/mail", "postgres://u:topsecret\n@db/mail",
	} {
		if _, err := store.Open(store.Config{URL: url}); err == nil || strings.Contains(err.Error(), "topsecret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v", url, err)
		}
	}
}

// traffic looks users up and assigns new ones until stop, and tells what happened.
type traffic struct {
	ok, unavailable, wrong atomic.Int64
	slowest                atomic.Int64
	end                    func() // when all have stopped
}

// drive begins with it. It ends with the test at the latest.
func drive(t *testing.T, db *store.DB) *traffic {
	tr := &traffic{}
	stop := make(chan struct{})
	var running sync.WaitGroup
	tr.end = sync.OnceFunc(func() {
		close(stop)
		running.Wait()
	})
	t.Cleanup(tr.end)
	for n := range 8 {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				user := fmt.Sprintf("user-%d-%d", n, i%50)
				start := time.Now()
				m, err := db.Assign(context.Background(), director.Assignment{User: user, Becomes: "backend-" + user})
				if err == nil {
					m, err = db.Get(context.Background(), user)
				}
				if took := int64(time.Since(start)); took > tr.slowest.Load() {
					tr.slowest.Store(took)
				}
				switch {
				case err == nil && m.Backend == "backend-"+user:
					tr.ok.Add(1)
				case errors.Is(err, director.ErrUnavailable):
					tr.unavailable.Add(1)
					time.Sleep(time.Millisecond)
				default:
					t.Errorf("%s: %+v, %v", user, m, err)
					tr.wrong.Add(1)
					return
				}
			}
		})
	}
	return tr
}

// goesOn waits until lookups are answered again without an error for a while.
func (tr *traffic) goesOn(t *testing.T) {
	t.Helper()
	until(t, "lookups are answered", func() bool {
		ok, unavailable := tr.ok.Load(), tr.unavailable.Load()
		time.Sleep(100 * time.Millisecond)
		return tr.ok.Load() > ok+10 && tr.unavailable.Load() == unavailable
	})
}

func TestTheServerIsRestarted(t *testing.T) {
	for name, end := range map[string]func(*pgtest.Server){"stopped": (*pgtest.Server).Stop, "killed": (*pgtest.Server).Kill} {
		t.Run(name, func(t *testing.T) {
			s := pgtest.Start(t)
			var log bytes.Buffer
			db := open(t, store.Config{URL: migrated(t, s), Logger: slog.New(slog.NewTextHandler(&log, nil))}.Usual())
			tr := drive(t, db)
			tr.goesOn(t)
			end(s)
			until(t, "the outage is noticed", func() bool { return db.Status().Err != nil && tr.unavailable.Load() > 0 })
			if !db.Status().Answered {
				t.Error("it is forgotten that the store once answered")
			}
			s.Restart(t)
			tr.goesOn(t)
			if db.Status().Err != nil {
				t.Error(db.Status().Err)
			}
		})
	}
}

// TestStaleConnectionsAreNotNoticed restarts the server while nothing is asked: the next lookups find dead connections
// in the pool and are answered all the same.
func TestStaleConnectionsAreNotNoticed(t *testing.T) {
	s := pgtest.Start(t)
	db := open(t, store.Config{URL: migrated(t, s)})
	tr := drive(t, db)
	tr.goesOn(t)
	tr.end()
	s.Stop()
	s.Restart(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := db.Get(context.Background(), fmt.Sprintf("user-%d", i)); !errors.Is(err, director.ErrNoMapping) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestResetConnectionsAreNotNoticed resets all connections while nothing is asked, as a firewall or a failed-over address
// does.
func TestResetConnectionsAreNotNoticed(t *testing.T) {
	hole := newHole(t, server.Addr())
	db := open(t, store.Config{URL: strings.Replace(migrated(t, server), server.Addr(), hole.addr(), 1)})
	tr := drive(t, db)
	tr.goesOn(t)
	tr.end()
	hole.reset()
	for i := range 20 {
		if _, err := db.Get(t.Context(), fmt.Sprintf("nobody-%d", i)); !errors.Is(err, director.ErrNoMapping) {
			t.Error(err)
		}
	}
}

func TestTheServerIsFrozen(t *testing.T) {
	s := pgtest.Start(t)
	db := open(t, store.Config{URL: migrated(t, s)}.Usual())
	tr := drive(t, db)
	tr.goesOn(t)
	s.Freeze()
	until(t, "calls fail", func() bool { return db.Status().Err != nil })
	failed := tr.unavailable.Load()
	until(t, "calls fail at once", func() bool { return tr.unavailable.Load() > failed+100 })
	s.Thaw()
	tr.goesOn(t)
}

// TestALockedTableIsWaitedForALittle lets another session lock the table, as a migration of its owner does.
func TestALockedTableIsWaitedForALittle(t *testing.T) {
	u := migrated(t, server)
	db := open(t, store.Config{URL: u}.Usual())
	pgtest.Exec(t, u, `CREATE FUNCTION wait() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		LOCK TABLE mailbox_username_backend; PERFORM pg_advisory_lock(1); END $$`)
	var locker sync.WaitGroup
	t.Cleanup(locker.Wait)
	release := hold(t, u)
	locker.Go(func() { pgtest.Exec(t, u, `SELECT wait()`) })
	until(t, "lookups are refused", func() bool {
		_, err := db.Get(t.Context(), "ada")
		return errors.Is(err, director.ErrUnavailable)
	})
	release()
	locker.Wait()
	until(t, "lookups are answered", func() bool {
		_, err := db.Get(t.Context(), "ada")
		return errors.Is(err, director.ErrNoMapping)
	})
}

// TestGivenUpIsGivenUp loses what cancels a statement, as a pooler or a cut network may. A user's backend must not change when whoever had
// locked his row lets it go, long after his lookup was answered.
func TestGivenUpIsGivenUp(t *testing.T) {
	u := migrated(t, server)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend VALUES ('ada', 'lost', now())`)
	parsed := must[*url.URL](t)(url.Parse(u))
	relay := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { relay.Close() })
	target := parsed.Host
	var deaf atomic.Bool
	go func() {
		for {
			client, err := relay.Accept()
			if err != nil {
				return
			}
			if deaf.Load() {
				client.Close() // a cancellation is a connection of its own
				continue
			}
			upstream, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			go func() { _, _ = io.Copy(upstream, client) }() // that the client has left is not told either
			go func() { _, _ = io.Copy(client, upstream); client.Close() }()
			t.Cleanup(func() { upstream.Close() })
		}
	}()
	parsed.Host = relay.Addr().String()
	db := open(t, store.Config{URL: parsed.String()}.Usual())
	until(t, "the database answers", func() bool {
		_, err := db.Get(t.Context(), "ada")
		return err == nil
	})
	other := must[*sql.DB](t)(sql.Open("postgres", u))
	defer other.Close()
	tx := must[*sql.Tx](t)(other.BeginTx(t.Context(), nil))
	if _, err := tx.Exec(`SELECT FROM mailbox_username_backend WHERE username = 'ada' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	deaf.Store(true)
	if _, err := db.Assign(t.Context(), director.Assignment{User: "ada", Was: "lost", Becomes: "b"}); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("the row is locked: %v", err)
	}
	until(t, "nobody waits for the lock", func() bool {
		var waiting int
		if err := other.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 0
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	var backend string
	if err := other.QueryRow(`SELECT backend FROM mailbox_username_backend`).Scan(&backend); err != nil || backend != "lost" {
		t.Errorf("ada is on %q, %v", backend, err)
	}
}

// TestALockedRowIsNotEverybodys lets another session lock a user's row while many log in. The others must be answered
// while it is locked, and the user once it is not.
func TestALockedRowIsNotEverybodys(t *testing.T) {
	const users = 200
	u := migrated(t, server)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend SELECT 'user-' || n, 'lost', now() FROM generate_series(0, 199) AS n`)
	db := open(t, store.Config{URL: u}.Within(8*time.Second, 30*time.Second))
	session, err := sql.Open("postgres", u)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	tx, err := session.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`SELECT FROM mailbox_username_backend WHERE username = 'user-77' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	move := func(n int, was, becomes string) error {
		m, err := db.Assign(t.Context(), director.Assignment{User: fmt.Sprintf("user-%d", n), Was: was, Becomes: becomes})
		if err == nil && m.Backend != becomes {
			t.Errorf("user-%d is on %q, want %q", n, m.Backend, becomes)
		}
		return err
	}
	for _, step := range []struct{ was, becomes string }{{"lost", "b"}, {"b", "c"}} { // the second time it is known who is in the way
		var wg sync.WaitGroup
		for n := range users {
			wg.Go(func() {
				switch err := move(n, step.was, step.becomes); {
				case n == 77 && !errors.Is(err, director.ErrUnavailable):
					t.Errorf("the user whose row is locked: %v", err)
				case n != 77 && err != nil:
					t.Errorf("user-%d waits for another one: %v", n, err)
				}
			})
		}
		wg.Wait()
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := move(77, "lost", "c"); err != nil {
		t.Error(err)
	}
}

// TestTouchesPassOverLockedRows holds that last_ts waits for nobody's lock: those who share the statement are touched.
func TestTouchesPassOverLockedRows(t *testing.T) {
	u := migrated(t, server)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend SELECT 'user-' || n, 'b', now() - interval '1 hour' FROM generate_series(1, 3) AS n`)
	session, err := sql.Open("postgres", u)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	tx, err := session.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`SELECT FROM mailbox_username_backend WHERE username = 'user-2' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	db := open(t, store.Config{URL: u})
	age := func(user string) time.Duration {
		m, err := db.Get(t.Context(), user)
		if err != nil {
			t.Error(err)
		}
		return m.Age
	}
	for n := range 3 {
		db.Touch(fmt.Sprintf("user-%d", n+1), "b")
	}
	for deadline := time.Now().Add(time.Minute); age("user-1") > time.Minute || age("user-3") > time.Minute; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they wait for the row that is locked")
		}
	}
	if age("user-2") < time.Minute {
		t.Error("the row that is locked was written")
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
}

// TestTheTableIsChangedUnderPreparedStatements changes what the prepared statements return.
func TestTheTableIsChangedUnderPreparedStatements(t *testing.T) {
	u := migrated(t, server)
	db := open(t, store.Config{URL: u})
	for i, change := range []string{`SELECT`, `ALTER TABLE mailbox_username_backend ALTER backend TYPE text`, `ALTER TABLE mailbox_username_backend ALTER username TYPE text`} {
		pgtest.Exec(t, u, change)
		was, becomes := fmt.Sprint("b", i-1), fmt.Sprint("b", i)
		if m, err := db.Assign(t.Context(), director.Assignment{User: "ada", Was: was, Becomes: becomes}); err != nil || m.Backend != becomes {
			t.Errorf("after %s: assigned %q, %v", change, m.Backend, err)
		}
		if m, err := db.Get(t.Context(), "ada"); err != nil || m.Backend != becomes {
			t.Errorf("after %s: read %q, %v", change, m.Backend, err)
		}
	}
}

// hold takes the advisory lock that wait waits for, and returns how to let go of it, which the end of the test does too.
func hold(t *testing.T, u string) (release func()) {
	t.Helper()
	db, err := sql.Open("postgres", u)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), `SELECT pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		conn.Close()
		db.Close()
	})
	t.Cleanup(release)
	return release
}

// TestABlackHole puts a proxy before the server that stops passing anything on.
func TestABlackHole(t *testing.T) {
	u := migrated(t, server)
	hole := newHole(t, server.Addr())
	db := open(t, store.Config{URL: strings.Replace(u, server.Addr(), hole.addr(), 1)}.Usual())
	tr := drive(t, db)
	tr.goesOn(t)
	hole.swallow.Store(true)
	until(t, "calls fail", func() bool { return db.Status().Err != nil && tr.unavailable.Load() > 100 })
	hole.swallow.Store(false)
	tr.goesOn(t)
}

// hole is a TCP proxy that can swallow everything, and reset its connections.
type hole struct {
	listener net.Listener
	swallow  atomic.Bool

	mu      sync.Mutex
	clients []*net.TCPConn
}

func (h *hole) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.clients {
		_ = c.SetLinger(0)
		c.Close()
	}
	h.clients = nil
}

func newHole(t *testing.T, target string) *hole {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{listener: l}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			h.mu.Lock()
			h.clients = append(h.clients, client.(*net.TCPConn))
			h.mu.Unlock()
			context.AfterFunc(ctx, func() { client.Close(); upstream.Close() })
			for _, way := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
				wg.Go(func() {
					_, _ = io.Copy(&swallower{h, way[1]}, way[0])
					way[1].Close()
				})
			}
		}
	})
	return h
}

func (h *hole) addr() string { return h.listener.Addr().String() }

type swallower struct {
	hole *hole
	to   net.Conn
}

func (s *swallower) Write(b []byte) (int, error) {
	if s.hole.swallow.Load() {
		return len(b), nil
	}
	return s.to.Write(b)
}

// TestTouchesSurviveShutdown holds that what was touched is written when Run ends.
func TestTouchesSurviveShutdown(t *testing.T) {
	u := migrated(t, server)
	pgtest.Exec(t, u, `INSERT INTO mailbox_username_backend SELECT 'user-' || n, 'backend-0', now() - interval '1 hour' FROM generate_series(1, 2000) AS n`)
	db, err := store.Open(store.Config{URL: u}.Patient())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- db.Run(ctx) }()
	until(t, "up", func() bool { return db.Status().Err == nil })
	for n := range 2000 {
		db.Touch(fmt.Sprintf("user-%d", n+1), "backend-0")
	}
	cancel()
	if err := errors.Join(<-done, db.Close()); err != nil {
		t.Fatal(err)
	}
	other := open(t, store.Config{URL: u})
	for n := range 2000 {
		if m, err := other.Get(t.Context(), fmt.Sprintf("user-%d", n+1)); err != nil || m.Age > 30*time.Minute {
			t.Fatalf("user-%d: %+v, %v", n+1, m, err)
		}
	}
}
