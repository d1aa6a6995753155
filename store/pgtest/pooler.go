package pgtest

import (
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

// Pooler is a PgBouncer in front of a server that gives each transaction any of a few connections.
type Pooler struct {
	server  *Server
	port    port
	config  string
	running *exec.Cmd
}

// Pooler starts one, which ends with the test.
func (s *Server) Pooler(tb testing.TB) *Pooler {
	tb.Helper()
	if _, err := os.Stat(pgbouncer); err != nil {
		tb.Fatal("PgBouncer is not installed: apt-get install pgbouncer")
	}
	port, err := reserve()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(port.release)
	p := &Pooler{server: s, port: port, config: filepath.Join(s.dir, fmt.Sprintf("pgbouncer-%d.ini", port.number))}
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
`, s.port.number, port.number)
	if err := os.WriteFile(p.config, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Kill)
	p.Start(tb)
	return p
}

// Addr is its host and port.
func (p *Pooler) Addr() string { return p.port.addr() }

// Through makes the URL of one of the server's databases lead through it.
func (p *Pooler) Through(url string) string {
	return strings.Replace(url, p.server.Addr(), p.Addr(), 1)
}

// Kill ends it at once (kill -9).
func (p *Pooler) Kill() {
	if p.running != nil {
		_ = p.running.Process.Kill()
		_ = p.running.Wait() // it was killed
		p.running = nil
	}
}

// Start starts it when it does not run, and waits until it answers.
func (p *Pooler) Start(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(pgbouncer, p.config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.server.credential}
	log, err := os.OpenFile(p.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p.running = cmd
	for deadline := time.Now().Add(startLimit); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.Addr())
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(p.config + ".log")
			tb.Fatalf("PgBouncer does not answer: %v\n%s", err, out)
		}
	}
}
