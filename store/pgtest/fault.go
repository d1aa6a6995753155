package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// StartOnDisk starts a server whose files are on a disk of their own of so many megabytes, 60 of which it needs itself.
// Its write-ahead log grows by one megabyte at a time, so that it notices soon that the disk is full.
func StartOnDisk(tb testing.TB, megabytes int, settings ...string) *Server {
	tb.Helper()
	s, err := place(megabytes, append(settings, "min_wal_size=2MB", "max_wal_size=8MB", "shared_buffers=4MB"))
	if err != nil {
		tb.Fatal(err)
	}
	s.closeWith(tb)
	if err := errors.Join(s.run("initdb", append(initdb, "--wal-segsize=1")...), s.start()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// FillDisk leaves no room on the server's own disk until free is called, and lets the server notice: it ends all sessions, cannot
// recover, and ends. Revive starts it again.
func (s *Server) FillDisk(tb testing.TB) (free func()) {
	tb.Helper()
	if !s.mounted {
		tb.Fatal("the server has no disk of its own: use StartOnDisk")
	}
	path := filepath.Join(s.dir, "ballast")
	ballast, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer ballast.Close()
	block := make([]byte, 4096)
	for err == nil {
		_, err = ballast.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		tb.Fatal(err)
	}
	// The log is what a database cannot do without. What is in it already is written over before more is needed.
	for written := 0; ; written++ {
		if err := s.exec("postgres", "SELECT pg_logical_emit_message(true, 'ballast', repeat('x', 500000))"); err != nil {
			break
		}
		if written > 1000 {
			tb.Fatal("the server's disk is full, and it goes on writing")
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			tb.Error(err)
		}
	}
}

// Standby starts a second server that follows this one, which it finds at the address primary; it lives as long as the test.
func (s *Server) Standby(tb testing.TB, primary string) *Server {
	tb.Helper()
	standby, err := place(0, s.settings)
	if err != nil {
		tb.Fatal(err)
	}
	standby.closeWith(tb)
	follow := fmt.Sprintf("postgres://postgres@%s/?application_name=standby", primary)
	err = standby.run("pg_basebackup", "-D", "data", "-d", follow, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err := errors.Join(err, standby.start()); err != nil {
		tb.Fatal(err)
	}
	s.await(tb, "the standby follows", "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming')")
	return standby
}

// Synchronous makes commits wait for the standby.
func (s *Server) Synchronous(tb testing.TB) {
	tb.Helper()
	s.set(tb, "synchronous_standby_names", "'standby'")
	s.await(tb, "the standby is waited for", "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
}

// Promote makes a standby a primary, which waits for no other. The old one has to be stopped before: two would both take writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	if err := s.exec("postgres", "SELECT pg_promote()"); err != nil {
		tb.Fatal(err)
	}
	s.await(tb, "the standby is promoted", "SELECT NOT pg_is_in_recovery()")
	s.set(tb, "synchronous_standby_names", "''")
}

// ReadOnly lets all sessions only read, or write again.
func (s *Server) ReadOnly(tb testing.TB, on bool) {
	tb.Helper()
	s.set(tb, "default_transaction_read_only", fmt.Sprint(on))
}

// set changes a setting as an administrator does. Sessions follow before their next statement.
func (s *Server) set(tb testing.TB, name, value string) {
	tb.Helper()
	err := errors.Join(s.exec("postgres", fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, value)), s.exec("postgres", "SELECT pg_reload_conf()"))
	if err != nil {
		tb.Fatal(err)
	}
}

// Exhaust takes all connections that the server has, those of others too, and keeps them until release is called.
func (s *Server) Exhaust(tb testing.TB) (release func()) {
	tb.Helper()
	db, err := sql.Open("postgres", s.URL("postgres")+"&application_name="+hog)
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxIdleConns(0)
	first, err := db.Conn(context.Background())
	if err != nil {
		tb.Fatal(errors.Join(err, db.Close()))
	}
	taken := []*sql.Conn{first}
	release = func() {
		for _, c := range taken {
			_ = c.Close() // it may have been ended with the server
		}
		_ = db.Close()
	}
	var most int // the sessions are a superuser's, for whom nothing is reserved
	if err := first.QueryRowContext(context.Background(), "SELECT current_setting('max_connections')::int").Scan(&most); err != nil {
		release()
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		if len(taken) == most {
			return release
		}
		conn, err := db.Conn(context.Background())
		if err == nil {
			taken = append(taken, conn)
			continue
		}
		if pe, ok := errors.AsType[*pq.Error](err); !ok || pe.Code != pqerror.TooManyConnections {
			release()
			tb.Fatal(err)
		}
		// Who has been ended holds its place for a moment more.
		if _, err := first.ExecContext(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> $1`, hog); err != nil {
			release()
			tb.Fatal(err)
		}
	}
	release()
	tb.Fatal("others always got connections")
	return nil
}

// hog is the name of the sessions that Exhaust takes.
const hog = "hog"

// Crash kills all of the server's processes at once (kill -9), as a machine that dies does. Restart recovers it.
func (s *Server) Crash() {
	s.signalAll(syscall.SIGKILL)
	<-s.exited
}

// KillSession kills the process of one session (kill -9), as the kernel does when memory runs out. The server then ends all
// sessions and recovers by itself.
func (s *Server) KillSession(tb testing.TB) {
	tb.Helper()
	db, err := sql.Open("postgres", s.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	var pid int
	if err := db.QueryRow("SELECT pg_backend_pid()").Scan(&pid); err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Fatal(err)
	}
}

// await waits until a query says true.
func (s *Server) await(tb testing.TB, what, query string) {
	tb.Helper()
	db, err := sql.Open("postgres", s.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	var done bool
	for deadline := time.Now().Add(startLimit); !done && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = db.QueryRow(query).Scan(&done)
	}
	if !done {
		tb.Fatalf("%s: not within %s: %v", what, startLimit, err)
	}
}

// Revive waits until a server that had trouble answers, and restarts it if it ends by itself, as what supervises it does.
func (s *Server) Revive(tb testing.TB) {
	tb.Helper()
	for deadline := time.Now().Add(startLimit); ; {
		err := s.exec("postgres", "SELECT 1")
		if err == nil {
			return
		}
		select {
		case <-s.exited:
			s.Restart(tb)
			return
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			tb.Fatalf("PostgreSQL neither ends nor answers: %v", err)
		}
	}
}
