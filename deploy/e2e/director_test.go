package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// longGrace is longer than any test: what is in grace stays there. shortGrace is over when a test looks again.
const (
	longGrace  = "1h"
	shortGrace = "2s"
)

// buildDirector builds the director as the image has it, with the race detector, which the tests can afford.
func buildDirector(t *testing.T) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path, ok := builds.cmd["race"]; ok {
		return path
	}
	path := filepath.Join(builds.dir, "race", "go-dovecot-director")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-race", "-o", path, "./cmd/go-dovecot-director")
	cmd.Dir = module()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	builds.cmd["race"] = path
	return path
}

// director is a running go-dovecot-director. Its methods are for one goroutine at a time, ask for many.
type director struct {
	program   string
	addr      netip.Addr
	arguments []string
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

// startDirector starts a director on addr and stops it when the test ends. It must end cleanly and without a data race.
func startDirector(t *testing.T, addr netip.Addr, endpoints *endpointsFile, databaseURL string, arguments ...string) *director {
	t.Helper()
	d := &director{program: buildDirector(t), addr: addr, arguments: append([]string{
		"serve", "--listen", addr.String() + ":8080", "--ops-listen", addr.String() + ":8081", "--drain-delay", "0s",
		"--endpoints-file", endpoints.path, "--database-url", databaseURL,
	}, arguments...)}
	t.Cleanup(func() {
		d.stop(t)
		out := d.output.String()
		if strings.Contains(out, "DATA RACE") {
			t.Error("the director has a data race")
		}
		if t.Failed() {
			t.Logf("output of the director at %s:\n%s", d.addr, out[max(0, len(out)-16<<10):])
		}
	})
	d.start(t)
	return d
}

// url is where the lookup API is.
func (d *director) url() string { return "http://" + d.addr.String() + ":8080" }

// start starts the process and waits until it is ready.
func (d *director) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(d.program, d.arguments...)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &d.output, &d.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.running = cmd
	eventually(t, "the director at "+d.addr.String()+" is ready", func() error {
		response, err := http.Get("http://" + d.addr.String() + ":8081/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", response.Status)
		}
		return nil
	})
}

// stop ends the process as Kubernetes does. It must exit with 0 within the 30 s that a pod has.
func (d *director) stop(t *testing.T) {
	t.Helper()
	if d.running == nil {
		return
	}
	cmd := d.running
	d.running = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stopping the director: %v", err)
	}
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the director at %s after SIGTERM: %v", d.addr, err)
	}
}

// reply is what the director answers to a lookup.
type reply struct {
	Status int
	Code   int
	Host   string
	Reason string
}

// ask makes a lookup like the one of the minimal script.
func (d *director) ask(ctx context.Context, user string) (reply, error) {
	body := fmt.Sprintf(`{"user":%q}`, user)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url()+"/auth_passdb_lookup", strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	got := reply{Status: response.StatusCode}
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

// held waits until the director holds user, as it does from the moment that it knows of the lost backend.
func (d *director) held(t *testing.T, user string) {
	t.Helper()
	eventually(t, user+" is held", func() error {
		got, err := d.ask(t.Context(), user)
		if err == nil && got.Code != -1 {
			err = fmt.Errorf("got %+v", got)
		}
		return err
	})
}

// endpointsFile is the file that directors take their backends from.
type endpointsFile struct{ path string }

// write replaces the file in one step by a manifest of these backends, as the API server would show it.
func (f endpointsFile) write(t *testing.T, named bool, backends ...*dovecot.Server) {
	t.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: dovecot-backend\nsubsets:\n")
	for _, b := range backends {
		fmt.Fprintf(&text, "- addresses:\n  - ip: %s\n    targetRef:\n      kind: Pod\n      name: %s\n", b.Addr, b.Name)
		if named {
			fmt.Fprintf(&text, "  ports:\n  - name: imap\n    port: %d\n  - name: pop3\n    port: %d\n  - name: lmtp\n    port: %d\n",
				b.Ports.IMAP, b.Ports.POP3, b.Ports.LMTP)
		}
	}
	if err := os.WriteFile(f.path+".new", []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}
