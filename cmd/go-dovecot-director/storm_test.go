package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// proxy is a client that keeps one connection for each of its workers, as Dovecot's auth workers do.
type proxy struct {
	client http.Client
}

func newProxy(t *testing.T, workers int) *proxy {
	transport := &http.Transport{MaxIdleConnsPerHost: workers, MaxConnsPerHost: workers}
	t.Cleanup(transport.CloseIdleConnections)
	return &proxy{http.Client{Transport: transport}}
}

// host asks for a user's backend, and asks again when the database was too slow for a lookup, or the machine stood still for longer than a
// request may take to come in: these tests load it as much as it bears.
func (p *proxy) host(address, user string) (string, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		asked := time.Now()
		host, status, err := p.ask(address, user)
		again := status == http.StatusServiceUnavailable || status == 0 && time.Since(asked) > 3*time.Second
		if !again || time.Now().After(deadline) {
			return host, err
		}
	}
}

func (p *proxy) ask(address, user string) (host string, status int, err error) {
	r, err := p.client.Post("http://"+address+"/auth_passdb_lookup", "", strings.NewReader(`{"user":"`+user+`"}`))
	if err != nil {
		return "", 0, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", 0, err
	}
	var answer struct {
		Code       int
		Attributes struct{ Host string }
	}
	if err := json.Unmarshal(body, &answer); err != nil || r.StatusCode != http.StatusOK || answer.Code != 1 {
		return "", r.StatusCode, fmt.Errorf("%s: status %d, %s", user, r.StatusCode, body)
	}
	return answer.Attributes.Host, r.StatusCode, nil
}

func migratedPostgres(t *testing.T) string {
	t.Helper()
	url := pgtest.Start(t).Database(t)
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"migrate", "--database-url", url}, none, &stdout, &stderr); code != 0 {
		t.Fatal(stderr.String())
	}
	return url
}

// TestAStormOfKnownUsers has 32 clients log 100,000 known users in. Everybody must be answered, with what the table says.
func TestAStormOfKnownUsers(t *testing.T) {
	const users, clients = 100_000, 32
	url := migratedPostgres(t)
	pgtest.Exec(t, url, `INSERT INTO mailbox_username_backend SELECT 'user-' || n, 'dovecot-backend-' || n % 3, now() FROM generate_series(0, 99999) AS n`)
	i := start(t, "--endpoints-file", endpoints, "--database-url", url)
	p := newProxy(t, clients)
	order := rand.Perm(users)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for k := c; k < users; k += clients {
				n := order[k]
				host, err := p.host(i.lookups, fmt.Sprintf("user-%d", n))
				if want := fmt.Sprintf("192.0.2.%d", 11+n%3); err != nil || host != want {
					t.Errorf("user-%d: %q, %v; the table says %s", n, host, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestSixteenDirectorsRaceOnNewUsers has 16 directors asked for 10,000 new users at once, each in an order of its own.
// Every user must be answered, and have one owner.
func TestSixteenDirectorsRaceOnNewUsers(t *testing.T) {
	const users, directors, workers = 10_000, 16, 4
	url := migratedPostgres(t)
	instances := make([]*instance, directors)
	for d := range instances {
		instances[d] = start(t, "--endpoints-file", endpoints, "--database-url", url, "--log-level", "info")
	}
	told := make([][]string, directors)
	var wg sync.WaitGroup
	for d, i := range instances {
		p := newProxy(t, workers)
		told[d] = make([]string, users)
		order := rand.Perm(users)
		for w := range workers {
			wg.Go(func() {
				for k := w; k < users; k += workers {
					host, err := p.host(i.lookups, fmt.Sprintf("user-%d", order[k]))
					if err != nil {
						t.Errorf("director %d: %v", d, err)
						return
					}
					told[d][order[k]] = host
				}
			})
		}
	}
	wg.Wait()
	for n := range users {
		for d := range directors {
			if told[d][n] != told[0][n] || told[d][n] == "" {
				t.Fatalf("user-%d: director 0 says %q, director %d %q", n, told[0][n], d, told[d][n])
			}
		}
	}
}
