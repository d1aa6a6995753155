package dovecot

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// Password opens every mailbox on every backend.
const Password = "open-sesame"

// mailboxPrefix and a backend's name make the mailbox that each user finds there and nowhere else.
const mailboxPrefix = "I-am-"

// logTail is how many bytes of a server's log are shown when its test fails.
const logTail = 16 << 10

// startLimit is how long a server may take to answer on all its ports on a busy machine.
const startLimit = 3 * time.Minute

var (
	//go:embed conf/2.3.conf
	conf23 string
	//go:embed conf/2.4.conf
	conf24 string
)

// Ports are the numbers that a server listens on.
type Ports struct{ IMAP, POP3, LMTP uint16 }

// DefaultPorts are the numbers that a proxy connects to when the director names none. LMTP has no such number: the proxy
// takes its own.
var DefaultPorts = Ports{IMAP: 143, POP3: 110, LMTP: 24}

// Server is one running Dovecot. Its methods are for one goroutine at a time.
type Server struct {
	// Name is a backend's name; a proxy's is "proxy-" and its version.
	Name string
	// Version is the series that runs.
	Version Version
	// Addr is where it listens.
	Addr netip.Addr
	// Ports are what it listens on.
	Ports Ports

	dir      string // temporary, short: it holds unix sockets
	snippet  string // configuration of a proxy, empty for a backend
	more     string // further settings
	failFast bool   // no artificial delay of failed logins
	running  *exec.Cmd
}

// StartBackend starts a backend, with lines of further settings, and stops it when the test ends.
func StartBackend(tb testing.TB, v Version, name string, addr netip.Addr, ports Ports, settings ...string) *Server {
	tb.Helper()
	s := &Server{
		Name: name, Version: v, Addr: addr, Ports: ports,
		dir: tempDir(tb), more: strings.Join(settings, "\n"), failFast: true,
	}
	mailDir := filepath.Join(s.dir, "mail")
	if err := os.Mkdir(mailDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chown(mailDir, 5000, 5000); err != nil { // the uid in the configuration
		tb.Fatal(err)
	}
	s.Start(tb)
	return s
}

// ProxyConfig says how a proxy differs from what the project ships.
type ProxyConfig struct {
	// DirectorURL is filled into the script.
	DirectorURL string
	// TokenFile is, too, unless it is empty.
	TokenFile string
	// Certificates is a folder with director-ca.crt, proxy.crt and proxy.key, with which the snippet's settings of TLS are switched on, unless
	// it is empty.
	Certificates string
	// Script is the Lua script to run, empty for the shipped one.
	Script string
	// Snippet is configuration to run instead of the shipped one and its script: a proxy that asks no director of ours.
	Snippet string
	// Settings are lines of further settings.
	Settings string
	// KeepFailureDelay leaves the 2 s by which Dovecot delays failed logins; without it tests are faster.
	KeepFailureDelay bool
}

// StartProxy starts a proxy with the shipped configuration and script, unless c has others, and stops it when the test
// ends. Only the director's URL and the path of the script are filled in.
func StartProxy(tb testing.TB, v Version, addr netip.Addr, c ProxyConfig) *Server {
	tb.Helper()
	s := &Server{
		Name: "proxy-" + string(v), Version: v, Addr: addr, Ports: DefaultPorts,
		dir: tempDir(tb), more: c.Settings, failFast: !c.KeepFailureDelay,
	}
	s.snippet = filepath.Join(s.dir, "proxy.conf")
	if c.Snippet != "" {
		if err := os.WriteFile(s.snippet, []byte(c.Snippet), 0o644); err != nil {
			tb.Fatal(err)
		}
	} else {
		s.useDirector(tb, c)
	}
	s.Start(tb)
	return s
}

// useDirector writes the shipped configuration and the script of a proxy.
func (s *Server) useDirector(tb testing.TB, c ProxyConfig) {
	tb.Helper()
	if c.Script == "" {
		c.Script = Dir("..", "dovecot", "director.lua")
	}
	script := filepath.Join(s.dir, "director.lua")
	fill(tb, c.Script, script, `DIRECTOR_URL = "[^"]*"`, `DIRECTOR_URL = "`+c.DirectorURL+`"`)
	if c.TokenFile != "" {
		fill(tb, script, script, `TOKEN_FILE = nil`, `TOKEN_FILE = "`+c.TokenFile+`"`)
	}
	fill(tb, Dir("..", "dovecot", string(s.Version), "proxy.conf"), s.snippet, `/etc/dovecot/director\.lua`, script)
	if c.Certificates != "" {
		fill(tb, s.snippet, s.snippet, `(?m)^#ssl_client`, `ssl_client`)
		fill(tb, s.snippet, s.snippet, `/etc/dovecot/`, c.Certificates+"/")
	}
}

// fill copies a file with every match of pattern replaced; a file without any is a mistake.
func fill(tb testing.TB, from, to, pattern, replacement string) {
	tb.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		tb.Fatal(err)
	}
	re := regexp.MustCompile(pattern)
	if !re.Match(content) {
		tb.Fatalf("%s: nothing matches %s", from, pattern)
	}
	if err := os.WriteFile(to, re.ReplaceAllLiteral(content, []byte(replacement)), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// tempDir makes a directory that Dovecot's own users may enter and whose name leaves room for unix sockets (108 bytes).
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "gdd-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("removing a server's directory: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Start starts the server, on s.Addr and with what it stored before, and waits until it answers on all its ports.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	conf := filepath.Join(s.dir, "dovecot.conf")
	s.configure(tb, conf)
	output, err := os.OpenFile(filepath.Join(s.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	defer output.Close()
	cmd := s.Version.command(tb, "dovecot", "-F", "-c", conf)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", s.Name, err)
	}
	s.running = cmd
	tb.Cleanup(func() {
		s.Stop()
		if tb.Failed() {
			log := s.Log()
			tb.Logf("end of the log of %s at %s:\n%s", s.Name, s.Addr, log[max(0, len(log)-logTail):])
		}
	})
	for _, port := range []uint16{s.Ports.IMAP, s.Ports.POP3, s.Ports.LMTP} {
		s.await(tb, netip.AddrPortFrom(s.Addr, port))
	}
}

// configure writes the configuration file.
func (s *Server) configure(tb testing.TB, path string) {
	tb.Helper()
	text := conf23
	if s.Version == V24 {
		text = conf24
	}
	var out strings.Builder
	err := template.Must(template.New("").Option("missingkey=error").Parse(text)).Execute(&out, map[string]any{
		"Dir": s.dir, "Addr": s.Addr, "Ports": s.Ports, "Snippet": s.snippet, "Name": s.Name,
		"Mailbox": mailboxPrefix + s.Name, "Password": Password, "FailFast": s.failFast, "More": s.more,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// await waits until something answers with a greeting at addr.
func (s *Server) await(tb testing.TB, addr netip.AddrPort) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startLimit)
	defer cancel()
	for {
		err := greeting(ctx, addr)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("%s (Dovecot %s) does not answer at %s: %v\n%s", s.Name, s.Version, addr, err, s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// greeting connects to addr and waits for the first byte.
func greeting(ctx context.Context, addr netip.AddrPort) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// Stop ends the server at once, as a crash of its pod would. What it stored stays for another Start.
func (s *Server) Stop() {
	if s.running == nil {
		return
	}
	// unshare dies, its child (the first process of the namespace) with it by --kill-child, all others with that.
	_ = s.running.Process.Kill()
	_ = s.running.Wait()
	s.running = nil
	// The kernel ends the others on its own time; another Start needs their ports.
	for _, port := range []uint16{s.Ports.IMAP, s.Ports.POP3, s.Ports.LMTP} {
		for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			conn, err := net.Dial("tcp", s.At(port))
			if err != nil {
				break
			}
			conn.Close()
		}
	}
	_ = os.Remove(filepath.Join(s.dir, "run", "master.pid"))
}

// Reload has the server read its configuration again, as "doveadm reload" does. That would look for the process in a namespace of its own.
func (s *Server) Reload(tb testing.TB) {
	tb.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.PID(), s.PID()))
	if err != nil {
		tb.Fatal(err)
	}
	master, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		tb.Fatalf("%s: one process is to be the first of its namespace: %v", s.Name, err)
	}
	if err := syscall.Kill(master, syscall.SIGHUP); err != nil {
		tb.Fatal(err)
	}
}

// Doveadm runs one of doveadm's commands against the server and returns what it prints. Its exit code is not looked at.
func (s *Server) Doveadm(tb testing.TB, arguments ...string) string {
	tb.Helper()
	out, err := s.Version.command(tb, append([]string{"doveadm", "-c", filepath.Join(s.dir, "dovecot.conf")}, arguments...)...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		tb.Fatal(err)
	}
	return string(out)
}

// PID is the process whose descendants are all of the running server.
func (s *Server) PID() int { return s.running.Process.Pid }

// Log returns everything that the server has logged so far.
func (s *Server) Log() string {
	var all strings.Builder
	for _, name := range []string{"output", "log"} {
		if content, err := os.ReadFile(filepath.Join(s.dir, name)); err == nil {
			all.Write(content)
		}
	}
	return all.String()
}

// crash finds the traces that a process leaves which did not end by its own will.
var crash = regexp.MustCompile(`.*(Panic|Fatal|signal 6|signal 11|segfault|core dumped).*`)

// Crashes returns the lines of the log that tell of a crashed process.
func (s *Server) Crashes() []string { return crash.FindAllString(s.Log(), -1) }

// At returns the address of one of the server's ports.
func (s *Server) At(port uint16) string { return netip.AddrPortFrom(s.Addr, port).String() }

// Delivered returns how many messages user has received by LMTP on this backend.
func (s *Server) Delivered(user string) (int, error) {
	count := 0
	for _, sub := range []string{"new", "cur"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, "mail", user, sub))
		if err != nil && !os.IsNotExist(err) {
			return 0, fmt.Errorf("mail of %s on %s: %w", user, s.Name, err)
		}
		count += len(entries)
	}
	return count, nil
}

// Owner returns the name of the backend that a user's mailboxes are on.
func Owner(mailboxes []string) (string, error) {
	for _, name := range mailboxes {
		if owner, ok := strings.CutPrefix(name, mailboxPrefix); ok {
			return owner, nil
		}
	}
	return "", fmt.Errorf("none of the mailboxes %q says whose they are", mailboxes)
}
