package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asProgram is a variable that makes the tests' binary the program.
const asProgram = "GO_DOVECOT_DIRECTOR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	// Verbs ask on a terminal; nobody sits at these tests.
	var err error
	if os.Stdin, err = os.Open(os.DevNull); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const endpoints = "../../testdata/endpoints.yaml"

// instance is a running serve.
type instance struct {
	t                   *testing.T
	lookups, ops, admin string
	log                 *lockedBuffer
	stop                func() int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serving is the line of the log, in either format, that says where it listens.
var serving = regexp.MustCompile(`(?m)^.*\bmsg[":=]+serving\b.*\blisten[":=]+([^\s",]+).*\bops_listen[":=]+([^\s",]+).*\badmin_listen[":=]+([^\s",]+)`)

// start runs serve in this process until the test ends or stop is called, and waits until it is ready.
func start(t *testing.T, args ...string) *instance {
	t.Helper()
	i := &instance{t: t, log: &lockedBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-delay", "0s", "--log-format", "json"}, args...)
	go func() { code <- run(ctx, args, none, io.Discard, i.log) }()
	i.stop = sync.OnceValue(func() int {
		cancel()
		return <-code
	})
	t.Cleanup(func() { i.stop() })
	until(t, "it listens", func() bool {
		if m := serving.FindStringSubmatch(i.log.String()); m != nil {
			i.lookups, i.ops, i.admin = m[1], m[2], m[3]
			return true
		}
		select {
		case c := <-code:
			code <- c // stop asks for it too
			t.Fatalf("exit code %d:\n%s", c, i.log)
		default:
		}
		return false
	})
	until(t, "it is ready", func() bool { status, _ := i.get("/readyz"); return status == 200 })
	return i
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (i *instance) get(path string) (int, string) {
	i.t.Helper()
	r, body := answered(i.t, func() (*http.Response, error) { return http.Get("http://" + i.ops + path) })
	return r.StatusCode, body
}

func (i *instance) lookup(body string) (int, string) {
	i.t.Helper()
	r, answer := answered(i.t, func() (*http.Response, error) {
		return http.Post("http://"+i.lookups+"/auth_passdb_lookup", "", strings.NewReader(body))
	}, http.StatusServiceUnavailable)
	return r.StatusCode, answer
}

// answered makes a request, and for a minute makes it again while there is no answer, or one of a status that is not to be: on a machine that
// stands still for seconds, connections are cut and the database has no time.
func answered(t *testing.T, request func() (*http.Response, error), but ...int) (*http.Response, string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		r, err := request()
		late := time.Now().After(deadline)
		switch {
		case err == nil:
			_, body := read(t, r)
			if !slices.Contains(but, r.StatusCode) {
				return r, body
			}
			if late {
				t.Fatalf("for a minute: %d %s", r.StatusCode, body)
			}
		case late:
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, r *http.Response) (int, string) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// migrated makes a SQLite file with the table and returns its URL.
func migrated(t *testing.T) string {
	t.Helper()
	url := "sqlite:" + filepath.Join(t.TempDir(), "director.db")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"migrate", "--database-url", url}, none, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "table mailbox_username_backend: created") {
		t.Fatalf("exit code %d: %s%s", code, stdout.String(), stderr.String())
	}
	return url
}

func TestALifeFromMigrateToShutdown(t *testing.T) {
	url := migrated(t)
	i := start(t, "--endpoints-file", endpoints, "--database-url", url)
	status, first := i.lookup(`{"user":"Ada@example.org","service":"imap"}`)
	if status != 200 || !strings.Contains(first, `"port":31143`) {
		t.Fatalf("%d %s", status, first)
	}
	if _, verbose := i.get("/readyz?verbose"); !strings.Contains(verbose, "3 backends alive") {
		t.Error(verbose)
	}
	if code := i.stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, i.log)
	}
	again := start(t, "--endpoints-file", endpoints, "--database-url", url)
	if _, second := again.lookup(`{"user":"ada@example.org","service":"imap"}`); second != first {
		t.Errorf("before the restart %s, after it %s", first, second)
	}
}

func TestServeNeverCreatesTheTable(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "director.db")
	log := &lockedBuffer{}
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-delay", "0s", "--endpoints-file", endpoints, "--database-url", url}, none, io.Discard, log)
	}()
	until(t, "the log says what to do", func() bool { return strings.Contains(log.String(), "run 'go-dovecot-director migrate") })
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("exit code %d", c)
	}
	if _, err := os.Stat(strings.TrimPrefix(url, "sqlite:")); err == nil {
		t.Error("the file was created")
	}
}

func TestTwoDirectorsOnOneDatabaseAgree(t *testing.T) {
	url := migratedPostgres(t)
	directors := []*instance{start(t, "--endpoints-file", endpoints, "--database-url", url), start(t, "--endpoints-file", endpoints, "--database-url", url)}
	hosts := map[string]bool{}
	for n := range 50 {
		body := fmt.Sprintf(`{"user":"user-%d@example.org"}`, n)
		_, a := directors[n%2].lookup(body)
		_, b := directors[1-n%2].lookup(body)
		if a != b {
			t.Errorf("%s: %s and %s", body, a, b)
		}
		hosts[a] = true
	}
	if len(hosts) != 3 {
		t.Errorf("50 users on %d of 3 backends", len(hosts))
	}
}

func TestShutdownWaitsForTheDrainDelayAndIsUnready(t *testing.T) {
	status := func(r *http.Response, err error) int {
		if err != nil {
			return 0
		}
		status, _ := read(t, r)
		return status
	}
	unready, served := false, false
	for delay := 2 * time.Second; !served && delay < 20*time.Second; delay *= 3 { // the machine may stand still for all of a delay
		i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t), "--drain-delay", delay.String())
		done := make(chan int)
		go func() { done <- i.stop() }()
		unready = false
		for begun := time.Now(); !served && time.Since(begun) < delay; time.Sleep(5 * time.Millisecond) {
			unready = unready || status(http.Get("http://"+i.ops+"/readyz")) == 503
			served = unready && status(http.Post("http://"+i.lookups+"/auth_passdb_lookup", "", strings.NewReader(`{"user":"ada"}`))) == 200
		}
		if code := <-done; code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	if !served {
		t.Errorf("while draining: unready %v, lookups are not served", unready)
	}
}

func TestFailuresAtTheStartExitWithOne(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("- adress: 192.0.2.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t))
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"a broken file of backends": {[]string{"--endpoints-file", broken}, `unknown field "[0].adress"`},
		"a port that is taken":      {[]string{"--endpoints-file", endpoints, "--listen", taken.lookups}, "--listen: cannot listen: "},
	} {
		var stderr bytes.Buffer
		args := append([]string{"serve", "--ops-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-level", "error", "--database-url", migrated(t)}, tc.args...)
		code := run(t.Context(), args, none, io.Discard, &stderr)
		if line := stderr.String(); code != exitFailure || strings.Count(line, "\n") != 1 || !strings.Contains(line, tc.want) {
			t.Errorf("%s: exit code %d, %q; want one line with %q", name, code, line, tc.want)
		}
	}
}
