package pgtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pgbouncer is where Debian has it.
const pgbouncer = "/usr/sbin/pgbouncer"

// Pooler starts a PgBouncer in front of the server that gives each transaction any of a few connections, and returns a
// function that makes the URL of a database through it.
func (s *Server) Pooler(tb testing.TB) (through func(url string) string) {
	tb.Helper()
	if _, err := os.Stat(pgbouncer); err != nil {
		tb.Fatal("PgBouncer is not installed: apt-get install pgbouncer")
	}
	port, err := freePort()
	if err != nil {
		tb.Fatal(err)
	}
	config := filepath.Join(s.dir, fmt.Sprintf("pgbouncer-%d.ini", port))
	text := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
`, s.port, port)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(pgbouncer, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	log, err := os.Create(config + ".log")
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := cmd.Process.Kill()
		if waitErr := cmd.Wait(); err != nil {
			tb.Error(errors.Join(err, waitErr))
		}
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for deadline := time.Now().Add(startLimit); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(config + ".log")
			tb.Fatalf("PgBouncer does not answer: %v\n%s", err, out)
		}
	}
	return func(url string) string { return strings.Replace(url, s.Addr(), address, 1) }
}
