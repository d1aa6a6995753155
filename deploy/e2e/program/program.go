// Package program runs the director's program, built with the race detector, which tests can afford, or as it is
// released.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// startLimit is how long the program may take to be ready on a busy machine, and stopLimit to end: what a pod has.
const (
	startLimit = 3 * time.Minute
	stopLimit  = 30 * time.Second
)

// againLimit is for how long somebody comes again, and againPause how long he waits before he does.
const (
	againLimit = time.Minute
	againPause = 100 * time.Millisecond
)

// race and release build the program once per test process.
var (
	race    = sync.OnceValues(func() (string, error) { return build("race", "-race") })
	release = sync.OnceValues(func() (string, error) { return build("release", "-trimpath", "-ldflags=-s -w") })
)

func build(kind string, flags ...string) (path string, err error) {
	path = dovecot.Dir("..", "..", ".build", kind, "go-dovecot-director")
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "./cmd/go-dovecot-director")...)
	cmd.Dir = dovecot.Dir("..", "..")
	if kind == "release" {
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// Director is a running go-dovecot-director. Its methods are for one goroutine at a time, but Ask, Insist and Ready are for many.
type Director struct {
	addr      netip.Addr
	env, argv []string
	running   *exec.Cmd
	output    output
}

// output is what a process prints, readable while it runs.
type output struct {
	sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.Lock()
	defer o.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.Lock()
	defer o.Unlock()
	return o.text.String()
}

// Start starts a director that listens on addr, and stops it when the test ends. It must end cleanly and without a data
// race. With a wrapper, that is run with the program's path and arguments after its own; it must exec.
func Start(tb testing.TB, addr netip.Addr, env, wrapper []string, arguments ...string) *Director {
	tb.Helper()
	return start(tb, Path(tb), addr, env, wrapper, arguments...)
}

// StartRelease is Start without the race detector and without a wrapper: for measurements.
func StartRelease(tb testing.TB, addr netip.Addr, arguments ...string) *Director {
	tb.Helper()
	path, err := release()
	if err != nil {
		tb.Fatal(err)
	}
	return start(tb, path, addr, nil, nil, arguments...)
}

// StartBuild is Start of a program that was built elsewhere, without a wrapper.
func StartBuild(tb testing.TB, path string, addr netip.Addr, arguments ...string) *Director {
	tb.Helper()
	return start(tb, path, addr, nil, nil, arguments...)
}

func start(tb testing.TB, path string, addr netip.Addr, env, wrapper []string, arguments ...string) *Director {
	tb.Helper()
	d := &Director{addr: addr, env: append([]string{}, env...)}
	d.argv = append(append([]string{}, wrapper...), path, "serve", "--listen", addr.String()+":8080", "--ops-listen", addr.String()+":8081", "--admin-listen", adminAddr(addr), "--drain-delay", "0s")
	d.argv = append(d.argv, arguments...)
	tb.Cleanup(func() {
		d.Stop(tb)
		out := d.Log()
		if strings.Contains(out, "DATA RACE") {
			tb.Error("the director has a data race")
		}
		if tb.Failed() {
			tb.Logf("output of the director at %s:\n%s", d.addr, out[max(0, len(out)-16<<10):])
		}
	})
	d.Start(tb)
	return d
}

// adminAddr is where the admin API listens, which is for loopback addresses only unless it has TLS.
func adminAddr(addr netip.Addr) string {
	if !addr.IsLoopback() {
		return "off"
	}
	return addr.String() + ":8082"
}

// Path is where the program is.
func Path(tb testing.TB) string {
	tb.Helper()
	path, err := race()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Run runs a verb of the program and returns what it prints and its exit code.
func Run(tb testing.TB, arguments ...string) (stdout, stderr string, code int) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), Path(tb), arguments...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			tb.Fatal(err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Run runs a verb that talks to this director's admin API. It has to end well.
func (d *Director) Run(tb testing.TB, arguments ...string) (stdout string) {
	tb.Helper()
	stdout, err := d.try(tb, arguments)
	if err != nil {
		tb.Fatal(err)
	}
	return stdout
}

// Read is Run of a verb that changes nothing. It is repeated for a minute, for a director that could not answer in time.
func (d *Director) Read(tb testing.TB, arguments ...string) (stdout string) {
	tb.Helper()
	for deadline := time.Now().Add(againLimit); ; time.Sleep(againPause) {
		stdout, err := d.try(tb, arguments)
		if err == nil {
			return stdout
		}
		if time.Now().After(deadline) {
			tb.Fatal(err)
		}
	}
}

func (d *Director) try(tb testing.TB, arguments []string) (stdout string, err error) {
	tb.Helper()
	stdout, stderr, code := Run(tb, append(arguments, "--admin-url", d.AdminURL())...)
	if code != 0 {
		err = fmt.Errorf("%v: exit code %d\n%s%s", arguments, code, stdout, stderr)
	}
	return stdout, err
}

// AdminURL is where the admin API is.
func (d *Director) AdminURL() string { return "http://" + adminAddr(d.addr) }

// Kill ends the process without a warning.
func (d *Director) Kill(tb testing.TB) {
	tb.Helper()
	cmd := d.running
	d.running = nil
	if err := cmd.Process.Kill(); err != nil {
		tb.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

// Pause stops the process without ending it, as a machine does that is suspended or out of memory. Resume lets it go on.
func (d *Director) Pause(tb testing.TB) { d.signal(tb, syscall.SIGSTOP) }

// Resume lets a process go on that was paused.
func (d *Director) Resume(tb testing.TB) { d.signal(tb, syscall.SIGCONT) }

func (d *Director) signal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := d.running.Process.Signal(signal); err != nil {
		tb.Error(err)
	}
}

// OpsURL is where the operations API and the status page are.
func (d *Director) OpsURL() string { return "http://" + d.addr.String() + ":8081" }

// URL is where the lookup API is.
func (d *Director) URL() string { return "http://" + d.Addr() }

// Addr is the address and port of the lookup API.
func (d *Director) Addr() string { return d.addr.String() + ":8080" }

// PID is the running process.
func (d *Director) PID() int { return d.running.Process.Pid }

// Log is what it has printed so far.
func (d *Director) Log() string { return d.output.String() }

// Start starts the process, which must not run, and waits until it is ready.
func (d *Director) Start(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Env = d.env
	cmd.Stdout, cmd.Stderr = &d.output, &d.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	d.running = cmd
	ready := false
	for deadline := time.Now().Add(startLimit); !ready && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ready, _ = d.Ready()
	}
	if !ready {
		_, detail := d.Ready()
		tb.Fatalf("the director at %s is not ready within %s: %s", d.addr, startLimit, detail)
	}
}

// Stop ends the process as Kubernetes does. It must exit with 0 in the time that a pod has.
func (d *Director) Stop(tb testing.TB) {
	tb.Helper()
	if d.running == nil {
		return
	}
	cmd := d.running
	d.running = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Errorf("stopping the director: %v", err)
	}
	late := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		tb.Errorf("the director at %s after SIGTERM: %v", d.addr, err)
	}
}

// Ready returns what /readyz?verbose says.
func (d *Director) Ready() (ready bool, detail string) {
	response, err := http.Get(d.OpsURL() + "/readyz?verbose")
	if err != nil {
		return false, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return false, err.Error()
	}
	return response.StatusCode == http.StatusOK, string(body)
}

// Reply is what the director answers to a lookup.
type Reply struct {
	Status int
	Code   int
	Host   string
	Reason string
}

// Insist is Ask of somebody who comes again, as users do, when the director could not answer in time.
func (d *Director) Insist(ctx context.Context, user string) (Reply, error) {
	for deadline := time.Now().Add(againLimit); ; time.Sleep(againPause) {
		got, err := d.Ask(ctx, user)
		if err == nil && got.Status != http.StatusServiceUnavailable || ctx.Err() != nil || time.Now().After(deadline) {
			return got, err
		}
	}
}

// Ask makes a lookup like the one of the minimal script.
func (d *Director) Ask(ctx context.Context, user string) (Reply, error) {
	body := fmt.Sprintf(`{"user":%q}`, user)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL()+"/auth_passdb_lookup", strings.NewReader(body))
	if err != nil {
		return Reply{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return Reply{}, err
	}
	defer response.Body.Close()
	got := Reply{Status: response.StatusCode}
	if got.Status != http.StatusOK {
		return got, nil
	}
	var answer struct {
		Code       int
		Attributes json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return got, err
	}
	got.Code = answer.Code
	if got.Code != 1 {
		return got, json.Unmarshal(answer.Attributes, &got.Reason)
	}
	return got, json.Unmarshal(answer.Attributes, &got)
}
