package load_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// site is PostgreSQL and a list of backends. Directors are started by the tests.
type site struct {
	net      dovecot.Net
	server   *pgtest.Server
	database string // its URL
	backends string // path of the list
}

// newSite starts one with so many users of three backends.
func newSite(tb testing.TB, users int) *site {
	tb.Helper()
	s := &site{net: dovecot.NewNet(tb), server: pgtest.Start(tb), backends: filepath.Join(tb.TempDir(), "backends.yaml")}
	s.database = s.server.Database(tb)
	s.exec(tb, "CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)")
	s.exec(tb, fmt.Sprintf("INSERT INTO mailbox_username_backend SELECT 'user-' || n || '@example.org', 'b' || n %% 3, now() FROM generate_series(0, %d) AS n", users-1))
	s.exec(tb, "VACUUM ANALYZE")
	s.list(tb, 1, 0, 1, 2)
	return s
}

func (s *site) exec(tb testing.TB, statement string) {
	tb.Helper()
	pgtest.Exec(tb, s.database, statement)
}

// list writes these backends, with addresses in such a network. The directors follow.
func (s *site) list(tb testing.TB, network int, numbers ...int) {
	tb.Helper()
	var text strings.Builder
	for _, n := range numbers {
		fmt.Fprintf(&text, "- {name: b%d, address: 198.18.%d.%d, ports: {imap: 31143}}\n", n, network, n+1)
	}
	if err := os.WriteFile(s.backends+".new", []byte(text.String()), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(s.backends+".new", s.backends); err != nil {
		tb.Fatal(err)
	}
}

// director starts the program as it is released, at host n of the network.
func (s *site) director(tb testing.TB, n byte, arguments ...string) *program.Director {
	tb.Helper()
	return program.StartRelease(tb, s.net.Addr(n), append([]string{"--endpoints-file", s.backends, "--database-url", s.database}, arguments...)...)
}

// count returns the one number that a query leads to.
func (s *site) count(tb testing.TB, query string) (n int) {
	tb.Helper()
	db, err := sql.Open("postgres", s.database)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// probeLimit is how long the probes in deploy/kustomize wait for an answer.
const probeLimit = 5 * time.Second

// get asks the operations API once, on a connection of its own, as probes do. One that they would not have waited for is an error, unless
// the machine stood still.
func get(d *program.Director, path string) (string, error) {
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	begun := time.Now()
	r, err := c.Get(d.OpsURL() + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if took := time.Since(begun); err == nil && took > probeLimit && !program.StoodStill(begun) {
		err = fmt.Errorf("%s took %s", path, took)
	}
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, r.Status, body)
	}
	return string(body), err
}

// metric is the sum of a metric's series whose labels include some text.
func metric(tb testing.TB, d *program.Director, name, labels string) (sum float64) {
	tb.Helper()
	text, err := get(d, "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if found, of, _ := strings.Cut(series, "{"); found == name && strings.Contains(of, labels) {
			var v float64
			if _, err := fmt.Sscan(value, &v); err != nil {
				tb.Fatalf("%s: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// awaitLimit is how long a condition may take to become true on a busy machine.
const awaitLimit = 90 * time.Second

// await waits until a condition holds.
func await(tb testing.TB, what string, holds func() error) {
	tb.Helper()
	for deadline := time.Now().Add(awaitLimit); ; time.Sleep(20 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %s: %v", what, awaitLimit, err)
		}
	}
}

var success = []byte(`{"code":1,`)

// reply is what became of a lookup.
type reply struct {
	status int // 0 for an error
	body   []byte
	err    error
	took   time.Duration
}

func (r reply) answered() bool { return r.status == http.StatusOK && bytes.HasPrefix(r.body, success) }

func (r reply) refused() bool {
	return r.status == http.StatusServiceUnavailable && bytes.Contains(r.body, []byte("overload"))
}

func (r reply) String() string {
	return fmt.Sprintf("%d %s %v after %s", r.status, r.body, r.err, r.took)
}

// lookup asks for a user.
func lookup(c *http.Client, d *program.Director, user string) (r reply) {
	begun := time.Now()
	defer func() { r.took = time.Since(begun) }()
	answer, err := c.Post(d.URL()+"/auth_passdb_lookup", "application/json", strings.NewReader(fmt.Sprintf(`{"user":%q,"service":"imap"}`, user)))
	if err != nil {
		return reply{err: err}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return reply{status: answer.StatusCode, body: body, err: err}
}

// newClient returns one that keeps so many connections.
func newClient(tb testing.TB, connections int) *http.Client {
	transport := &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}
