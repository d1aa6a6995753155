package pgtest_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// A fault that does nothing would prove whatever is tested with it. These tests show that each does what its name says.

// client makes a table in a server and returns a client of it, and its URL.
func client(t *testing.T, s *pgtest.Server) *sql.DB {
	t.Helper()
	pgtest.Exec(t, s.URL("postgres"), "CREATE TABLE mark (n int)")
	return connect(t, s)
}

func connect(t *testing.T, s *pgtest.Server) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mark(db *sql.DB) error {
	_, err := db.Exec("INSERT INTO mark VALUES (1)")
	return err
}

// marks expects that a table holds so many.
func marks(t *testing.T, db *sql.DB, want int) {
	t.Helper()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM mark").Scan(&n); err != nil || n != want {
		t.Errorf("%d marks, want %d: %v", n, want, err)
	}
}

// refused expects an error of the server with this code.
func refused(t *testing.T, err error, want pqerror.Code) {
	t.Helper()
	if e, ok := errors.AsType[*pq.Error](err); !ok || e.Code != want {
		t.Errorf("%v, want one with the code %s", err, want)
	}
}

// until repeats check until it returns nil.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func TestAPromotedStandbyHasWhatWasWritten(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	standby := primary.Standby(t, primary.Addr())
	primary.Synchronous(t)
	before := client(t, primary)
	if err := mark(before); err != nil {
		t.Fatal(err)
	}
	after := connect(t, standby)
	until(t, "the standby has what the primary has", func() error {
		return after.QueryRow("SELECT FROM mark").Scan()
	})
	refused(t, mark(after), pqerror.ReadOnlySQLTransaction)
	primary.Crash()
	standby.Promote(t)
	if err := mark(after); err != nil {
		t.Error(err)
	}
	marks(t, after, 2)
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	db := client(t, s)
	s.ReadOnly(t, true)
	until(t, "writing is refused", func() error {
		if err := mark(db); err == nil {
			return errors.New("it was written")
		}
		return nil
	})
	refused(t, mark(db), pqerror.ReadOnlySQLTransaction)
	if err := db.QueryRow("SELECT count(*) FROM mark").Scan(new(int)); err != nil {
		t.Error(err)
	}
	s.ReadOnly(t, false)
	until(t, "writing is possible again", func() error { return mark(db) })
}

func TestExhaustTakesTheConnectionsOfOthersToo(t *testing.T) {
	t.Parallel()
	s, err := pgtest.New("max_connections=10")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	db := client(t, s)
	db.SetMaxIdleConns(1)
	if err := mark(db); err != nil { // and keeps its connection
		t.Fatal(err)
	}
	release := s.Exhaust(t)
	refused(t, connect(t, s).Ping(), pqerror.TooManyConnections)
	if err := db.Ping(); err == nil {
		t.Error("another session goes on")
	}
	release()
	until(t, "there are connections again", db.Ping)
	marks(t, db, 1)
}

func TestKillSessionEndsAllSessionsAndTheServerComesBack(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	db := client(t, s)
	if err := mark(db); err != nil {
		t.Fatal(err)
	}
	session, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	s.KillSession(t)
	until(t, "another session ends", func() error {
		if err := session.PingContext(t.Context()); err == nil {
			return errors.New("it goes on")
		}
		return nil
	})
	until(t, "the server is back", db.Ping)
	marks(t, db, 1)
}

func TestACrashLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	db := client(t, s)
	if err := mark(db); err != nil {
		t.Fatal(err)
	}
	s.Crash()
	if err := connect(t, s).Ping(); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("after a crash: %v", err)
	}
	s.Restart(t)
	marks(t, db, 1)
}

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	s := pgtest.StartOnDisk(t, 80)
	db := client(t, s)
	if err := mark(db); err != nil {
		t.Fatal(err)
	}
	free := s.FillDisk(t)
	if err := mark(connect(t, s)); err == nil {
		t.Error("it was written")
	}
	free()
	s.Revive(t)
	until(t, "there is room", func() error {
		return mark(db)
	})
	marks(t, db, 2)
}
