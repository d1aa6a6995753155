package load_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// crowdOf is how many connections are opened, if this process may have as many.
const crowdOf = 10_000

// openAll opens so many connections, each by one request if there is one, and does nothing with them until the test ends.
func openAll(t *testing.T, address string, n int, request string) {
	t.Helper()
	conns := make([]net.Conn, n)
	var dialling sync.WaitGroup
	var next atomic.Int64
	for range 8 { // fewer than a listener may have
		dialling.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				var err error
				for range 3 { // on a busy machine one may have to make room for others before it was heard
					if conns[i], err = open(address, request); err == nil {
						break
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	dialling.Wait()
	t.Cleanup(func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
}

// open opens one.
func open(address, request string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil || request == "" {
		return conn, err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if err := exchange(conn, request); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// exchange makes one request and reads the answer, whatever that is.
func exchange(conn net.Conn, request string) error {
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// rawLookup is a lookup as it is on the wire.
func rawLookup(user string) string {
	body := fmt.Sprintf(`{"user":%q}`, user)
	return fmt.Sprintf("POST /auth_passdb_lookup HTTP/1.1\r\nHost: director\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

const rawProbe = "GET /healthz HTTP/1.1\r\nHost: director\r\n\r\n"

// wantHealthy expects that lookups, new users, and probes are answered.
func wantHealthy(t *testing.T, d *program.Director, when string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for i := range 50 {
		for _, user := range []string{fmt.Sprintf("user-%d@example.org", i), fmt.Sprintf("new-%d-%s@example.org", i, strings.ReplaceAll(when, " ", "-"))} {
			begun := time.Now()
			r := lookup(c, d, user)
			if !r.answered() && program.StoodStill(begun) {
				r = lookup(c, d, user)
			}
			if !r.answered() {
				t.Errorf("%s: %s: %s", when, user, r)
			}
		}
	}
	for _, path := range []string{"/readyz", "/healthz", "/metrics"} {
		if _, err := get(d, path); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// Ten thousand connections that do nothing cost some memory each, and nothing else.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := int(min(crowdOf, limit.Cur*2/3)) // the director has the same limit, and three quarters of it for them
	s := newSite(t, seeded)
	d := s.director(t, 1)
	wantHealthy(t, d, "at the beginning")
	before := metric(t, d, "process_resident_memory_bytes", "")
	openAll(t, d.Addr(), n, rawLookup("user-1@example.org"))
	if open := metric(t, d, "process_open_fds", ""); open < float64(n) {
		t.Errorf("%.0f descriptors are open, of %d connections", open, n)
	}
	each := (metric(t, d, "process_resident_memory_bytes", "") - before) / float64(n) / 1024
	fmt.Fprintf(os.Stdout, "%d idle connections: %.1f KB of memory for each, %.0f MB in all\n", n, each, metric(t, d, "process_resident_memory_bytes", "")/(1<<20))
	if each > 64 {
		t.Errorf("each takes %.1f KB", each)
	}
	wantHealthy(t, d, "with idle connections")
}

// Where descriptors are few, connections that do nothing make room for others, on each listener, and there is always one for the
// database.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	const most = 256
	begun := time.Now()
	s := newSite(t, seeded)
	d := program.Start(t, s.net.Addr(1), nil, []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", most, most)}, "--endpoints-file", s.backends, "--database-url", s.database)
	ops, admin := strings.TrimPrefix(d.OpsURL(), "http://"), strings.TrimPrefix(d.AdminURL(), "http://")
	openAll(t, d.Addr(), 2*most, rawLookup("user-1@example.org"))
	openAll(t, ops, 2*most, rawProbe)
	openAll(t, admin, 2*most, rawProbe)
	wantHealthy(t, d, "with idle connections")
	openAll(t, d.Addr(), 2*most, "")
	openAll(t, ops, 2*most, "")
	wantHealthy(t, d, "with silent connections")

	s.server.Stop()
	s.server.Restart(t)
	await(t, "the database is used again", func() error {
		if r := lookup(http.DefaultClient, d, "newer@example.org"); !r.answered() {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	wantHealthy(t, d, "after a restart of the database")
	minutes := int(time.Since(begun)/time.Minute) + 1
	if lines := strings.Count(d.Log(), "more connections than this listener may have"); lines < 3 || lines > 3*minutes {
		t.Errorf("%d lines are logged of it, want one a minute for each listener", lines)
	}
}
