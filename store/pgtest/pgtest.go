// Package pgtest runs a real PostgreSQL server for tests: in a temporary folder, on a free port of 127.0.0.1, as a user
// that is not root. Tests that need it fail where PostgreSQL is not installed, and say what to install.
package pgtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver
)

// startLimit is generous: machines that run tests are busy.
const startLimit = 3 * time.Minute

// Server is a PostgreSQL server. Its methods are for one goroutine, but for Database.
type Server struct {
	dir, bin   string
	mounted    bool // the folder is a disk of its own
	settings   []string
	port       port
	credential *syscall.Credential
	log        bytes.Buffer
	process    *os.Process
	exited     chan struct{}
	databases  atomic.Int32
}

// Start starts a server that lives as long as the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := New()
	if err != nil {
		tb.Fatal(err)
	}
	s.closeWith(tb)
	return s
}

func (s *Server) closeWith(tb testing.TB) {
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
}

// New starts a server with settings (name=value) that differ from those for tests, which give up durability. Close stops it
// and removes its files.
func New(settings ...string) (*Server, error) {
	s, err := place(0, settings)
	if err != nil {
		return nil, err
	}
	if err := s.run("initdb", initdb...); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// initdb are the arguments that make a server's files.
var initdb = []string{"-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}

// place makes the folder and takes the port of a server without files. With a size its folder is a disk of so many megabytes.
func place(megabytes int, settings []string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: append([]string{"listen_addresses=127.0.0.1", "max_connections=300", "fsync=off", "shared_buffers=64MB"}, settings...)}
	if os.Geteuid() == 0 {
		if s.credential, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if s.port, err = reserve(); err != nil {
		return nil, err
	}
	// A short path: sockets in it have at most 107 characters.
	if s.dir, err = os.MkdirTemp("/tmp", "pgtest-"); err != nil {
		s.port.release()
		return nil, err
	}
	if megabytes > 0 {
		if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
			return nil, errors.Join(fmt.Errorf("a disk that can be full is mounted as root only: %w", err), s.Close())
		}
		s.mounted = true
	}
	if s.credential != nil {
		if err := os.Chown(s.dir, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// run runs one of PostgreSQL's programs in the server's folder.
func (s *Server) run(program string, arguments ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, program), arguments...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// binaries finds the folder of PostgreSQL's programs.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) > 0 {
		slices.Sort(found)
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("PostgreSQL's server is not installed: apt-get install postgresql")
}

// unprivileged is the user to run the server as: PostgreSQL refuses root.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("neither a user postgres nor nobody: PostgreSQL does not run as root")
}

// start starts the server and waits until it answers.
func (s *Server) start() error {
	arguments := []string{"-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(s.port.number)}
	for _, setting := range s.settings {
		arguments = append(arguments, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), arguments...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	s.exited = make(chan struct{})
	go func() {
		// The signal at the parent's death comes when the thread ends that started the process: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process = cmd.Process
	deadline := time.Now().Add(startLimit)
	for {
		err := s.exec("postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("PostgreSQL ended at its start:\n%s", s.log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		}
	}
}

func (s *Server) exec(database, statement string) error {
	db, err := sql.Open("postgres", s.URL(database))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// URL is the URL of a database of this server, as its superuser.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.Addr(), database)
}

// Bin is the folder of PostgreSQL's programs.
func (s *Server) Bin() string { return s.bin }

// Addr is the server's host and port.
func (s *Server) Addr() string { return s.port.addr() }

// Database creates a database and returns its URL.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	if err := s.exec("postgres", "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	return s.URL(name)
}

// WriteFile writes a file of the server's data folder, for the server's user alone, as the key of its certificate has to be.
func (s *Server) WriteFile(tb testing.TB, name string, content []byte) {
	tb.Helper()
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	if s.credential != nil {
		if err := os.Chown(path, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
}

// Reload makes the server read its files again, which it does a moment later.
func (s *Server) Reload() { s.signal(syscall.SIGHUP, false) }

// Exec executes a statement in the database of a URL.
func Exec(tb testing.TB, url, statement string, args ...any) {
	tb.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement, args...); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}

// Stop shuts the server down as an administrator does: sessions are ended.
func (s *Server) Stop() { s.signal(syscall.SIGINT, true) }

// Kill ends the server at once, as a power cut does.
func (s *Server) Kill() { s.signal(syscall.SIGQUIT, true) }

// Freeze stops the server's processes without ending them: connections stay open and silent.
func (s *Server) Freeze() { s.signalAll(syscall.SIGSTOP) }

// Thaw lets them go on.
func (s *Server) Thaw() { s.signalAll(syscall.SIGCONT) }

// Restart starts a server that was stopped or killed, on the same port.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.start(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) signal(signal syscall.Signal, wait bool) {
	_ = s.process.Signal(signal)
	if wait {
		<-s.exited
	}
}

// signalAll signals all processes of the server.
func (s *Server) signalAll(signal syscall.Signal) {
	for _, pid := range s.Processes() {
		_ = syscall.Kill(pid, signal)
	}
}

// Processes returns the IDs of the server's process and of its children, which are sessions and workers.
func (s *Server) Processes() []int {
	all := []int{s.process.Pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.process.Pid, s.process.Pid))
	for field := range bytes.FieldsSeq(children) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// Close stops the server and removes its files.
func (s *Server) Close() error {
	if s.process != nil {
		s.Thaw()
		s.signal(syscall.SIGQUIT, true)
	}
	s.port.release()
	var err error
	if s.mounted {
		err = syscall.Unmount(s.dir, syscall.MNT_DETACH)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
