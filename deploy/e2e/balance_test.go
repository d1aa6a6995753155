package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// statusOf is what the director says of everything.
func statusOf(t *testing.T, d *program.Director) (report director.StatusReport) {
	t.Helper()
	if err := json.Unmarshal([]byte(d.Read(t, "status", "-o", "json")), &report); err != nil {
		t.Fatal(err)
	}
	return report
}

// stands waits until all directors see a backend in a state and with a weight.
func (p *platform) stands(t *testing.T, backend string, state director.State, weight int) {
	t.Helper()
	for _, via := range p.proxies {
		eventually(t, backend+" stands as ordered", func() error {
			all := statusOf(t, via.director).Backends
			if i := slices.IndexFunc(all, func(b director.BackendReport) bool { return b.Name == backend }); i < 0 || all[i].State != state || all[i].Weight != weight {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
	}
}

// lookUp asks the directors for users, each for every other one, and returns by user the name of the backend that the answer names.
func (p *platform) lookUp(t *testing.T, users []string) map[string]string {
	t.Helper()
	names := map[string]string{}
	for _, b := range p.backends {
		names[b.Addr.String()] = b.Name
	}
	var mu sync.Mutex
	landed := make(map[string]string, len(users))
	var asking sync.WaitGroup
	const clients = 4 // as many connections as net/http keeps open to two directors
	for n := range clients {
		asking.Go(func() {
			for i := n; i < len(users); i += clients {
				got, err := p.proxies[i%len(p.proxies)].director.Insist(t.Context(), users[i])
				if err != nil || names[got.Host] == "" {
					t.Errorf("%s: %+v, %v", users[i], got, err)
					return
				}
				mu.Lock()
				landed[users[i]] = names[got.Host]
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return landed
}

// newcomers are names of users who were not there before.
func newcomers(kind string, n int) []string {
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("%s-%05d@example.org", kind, i)
	}
	return users
}

// A backend of weight 2 gets twice the new users that the others get, one on standby none until it is activated, and nobody moves.
func TestWeightAndStandby(t *testing.T) {
	t.Parallel()
	// Of n users the heavy one of three gets half. How many it gets for each of the others' is then off by 2/√n of itself by chance, 1.6 %
	// of 16,000 users: ±5 % are three times that. The ring's own part comes on top: it is 1.5 %
	// for these names, some three for others, and over five for one set of names in eight.
	const (
		settled, users, more = 400, 16_000, 2000
		sample               = 60
		heavy, standby       = "b3", "b2"
	)
	p := newBackends(t, dovecot.DefaultPorts)
	p.addBackend(t, dovecot.V24, dovecot.DefaultPorts)
	p.endpoints.write(t, false, p.backends...)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", p.database.url); code != 0 {
		t.Fatal(stderr)
	}
	for i, version := range versions {
		p.addProxy(t, version, byte(1+i), dovecot.ProxyConfig{})
	}
	before := p.lookUp(t, newcomers("old", settled))
	if n := tally(before); len(n) != len(p.backends) {
		t.Fatalf("%d users before, of backends %v", settled, n)
	}

	d := p.proxies[0].director
	d.Run(t, "weight", heavy, "2")
	d.Run(t, "standby", standby)
	p.stands(t, heavy, director.Active, 2)
	p.stands(t, standby, director.Standby, 0)
	landed := p.lookUp(t, newcomers("new", users))
	// Some come by IMAP, as new users and as known ones: the proxies send them where the directors said.
	for i := range sample {
		via := p.proxies[i%len(p.proxies)]
		user := fmt.Sprintf("imap-%d@example.org", i)
		backend, err := via.imap(t, user)
		if err != nil || backend == standby {
			t.Errorf("%s landed on %q, %v", user, backend, err)
		}
		landed[user] = backend
		known := fmt.Sprintf("new-%05d@example.org", i*users/sample)
		via.wantAt(t, known, landed[known])
	}
	rows := p.database.rows(t)
	wantAmong(t, rows, before)
	wantAmong(t, rows, landed)
	took := map[string]int{} // of new users, by the database
	for user, backend := range rows {
		if before[user] == "" {
			took[backend]++
		}
	}
	t.Logf("of %d new users: %v", users+sample, took)
	others := 0
	for backend, n := range took {
		if backend != heavy {
			others += n
		}
	}
	if len(took) != len(p.backends)-1 || took[standby] != 0 {
		t.Errorf("new users are on %v, %s is on standby", took, standby)
	}
	if ratio := float64(took[heavy]) / (float64(others) / 2); math.Abs(ratio/2-1) > 0.05 {
		t.Errorf("%s has %.3f times what the others have: %v", heavy, ratio, took)
	}

	d.Run(t, "activate", standby)
	p.stands(t, standby, director.Active, 1)
	later := p.lookUp(t, newcomers("later", more))
	// A fifth of them by weight, give and take what the ring and chance do.
	if n := tally(later)[standby]; n < more/5*3/4 || n > more/5*5/4 {
		t.Errorf("%d of %d new users came to %s after it was activated", n, more, standby)
	}
	for i := range sample {
		user := fmt.Sprintf("later-%05d@example.org", i*more/sample)
		p.proxies[i%len(p.proxies)].wantAt(t, user, later[user])
	}
	again := p.database.rows(t)
	wantAmong(t, again, rows)
	wantAmong(t, again, later)
	// The answers stay what they were too, not only the rows.
	wantAmong(t, p.lookUp(t, newcomers("old", settled)), before)
	if n := p.database.count(t, `SELECT count(*) FROM director_journal WHERE subject = 'user'`); n != 0 {
		t.Errorf("%d users were moved by the journal", n)
	}
	noCrashes(t, p.servers()...)
}

// tally counts users by backend.
func tally(rows map[string]string) map[string]int {
	n := map[string]int{}
	for _, backend := range rows {
		n[backend]++
	}
	return n
}

// wantAmong expects that users are where they were.
func wantAmong(t *testing.T, rows, want map[string]string) {
	t.Helper()
	moved := 0
	for user, backend := range want {
		if rows[user] != backend {
			if moved++; moved <= 5 {
				t.Errorf("%s is on %q, was on %s", user, rows[user], backend)
			}
		}
	}
	if moved > 5 {
		t.Errorf("%d of %d users are elsewhere", moved, len(want))
	}
}

// visits are users who look for mail and leave, one after the other, again and again.
type visits struct {
	mu     sync.Mutex
	landed map[string][]string // the backends of a user's sessions; the same one twice in a row counts once
	failed int
	stop   func()
}

// visit begins such visits, through one proxy each.
func (p *platform) visit(t *testing.T, users []string) *visits {
	t.Helper()
	v := &visits{landed: map[string][]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	v.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(v.stop)
	for n, via := range p.proxies {
		running.Go(func() {
			for i := n; ctx.Err() == nil; i += len(p.proxies) {
				user := users[i%len(users)]
				c := client{}
				err := c.session(ctx, via.At(143), user)
				backend := c.fared().backend
				v.mu.Lock()
				if seen := v.landed[user]; err == nil && (len(seen) == 0 || seen[len(seen)-1] != backend) {
					v.landed[user] = append(seen, backend)
				} else if err != nil && ctx.Err() == nil {
					v.failed++
				}
				v.mu.Unlock()
			}
		})
	}
	return v
}

// Three backends with 10,000 users become five, and the users are evened out while some of them are logged in.
func TestRebalance(t *testing.T) {
	// Not at the same time as others: a hundred moves a second take all of two processors, and others' moves would run out of time.
	const (
		users, connected, visitors = 10_000, 240, 251
		peak                       = 1.05
	)
	// With the race detector, two processors do not get to this rate.
	p := operatedBy(t, true, func(int) []string { return nil })
	old := []string{"b0", "b1", "b2"}
	name := func(i int) string { return fmt.Sprintf("u%05d@example.org", i) }
	var mapping strings.Builder
	for i := range users {
		fmt.Fprintf(&mapping, "%s,%s\n", name(i), old[i%len(old)])
	}
	file := filepath.Join(t.TempDir(), "mapping.csv")
	if err := os.WriteFile(file, []byte(mapping.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := program.Run(t, "import", file, "--endpoints-file", p.endpoints.path, "--database-url", p.database.url); code != 0 {
		t.Fatal(stderr)
	}
	clients := map[string]*client{}
	for i := range connected {
		user := name(i * users / connected)
		clients[user] = p.proxies[i%len(p.proxies)].connect(t, user)
	}

	for _, version := range versions {
		p.addBackend(t, version, dovecot.DefaultPorts, doveadmSettings)
	}
	p.endpoints.write(t, false, p.backends...)
	for _, b := range p.backends {
		p.stands(t, b.Name, director.Active, 1)
	}
	d := p.proxies[0].director
	var plan director.PlanReport
	if err := json.Unmarshal([]byte(d.Run(t, "rebalance", "--dry-run", "-o", "json")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Moves != plan.Least || plan.Idle == nil || *plan.Idle != plan.Moves || plan.PeakAfter > peak {
		t.Fatalf("%+v", plan)
	}
	var strangers []string // none of those who stay logged in
	for i := range visitors {
		if user := name(i*users/visitors + 1); clients[user] == nil {
			strangers = append(strangers, user)
		}
	}
	counts, visiting := p.witnessAll(t, asks(t), old...), p.visit(t, strangers)
	d.Run(t, "rebalance", "--apply", "--rate", "6000", "--wait", "--yes", "--note", "two more")

	rows := p.database.rows(t)
	if n := tally(rows); float64(slices.Max([]int{n["b0"], n["b1"], n["b2"], n["b3"], n["b4"]})) > peak*users/5 || len(rows) != users {
		t.Errorf("%d rows after it has ended: %v", len(rows), n)
	}
	moves := p.database.count(t, `SELECT count(*) FROM director_journal WHERE subject = 'user' AND reason = 'rebalanced' AND note LIKE 'two more%'`)
	if off := math.Abs(float64(moves-plan.Least)) / float64(plan.Least); off > 0.01 {
		t.Errorf("%d moves, %d is the least", moves, plan.Least)
	}
	visiting.stop()
	if both := counts(); len(both) > 0 {
		t.Errorf("on two backends: %v", both)
	}
	t.Logf("%d moves, least %d, in %d s from the first to the last; %d were given up; visits failed %d times; %v", moves, plan.Least,
		p.database.count(t, `SELECT extract(epoch FROM max(at) - min(at))::int FROM director_journal WHERE subject = 'user'`),
		p.database.count(t, `SELECT count(*) FROM director_journal WHERE subject = 'undone'`), visiting.failed, tally(rows))
	// Who is logged in stays while there are others to move.
	for user, c := range clients {
		if got, want := c.fared(), (past{backend: rows[user], sessions: 1}); got != want {
			t.Errorf("%s: %+v, want %+v, by the row", user, got, want)
		}
	}
	// Those who came and went moved once at most, and there are such who did.
	moved := 0
	for user, backends := range visiting.landed {
		if last := backends[len(backends)-1]; len(backends) > 2 || len(backends) == 2 && slices.Contains(old, last) {
			t.Errorf("%s was on %v one after the other", user, backends)
		}
		moved += len(backends) - 1
	}
	if moved == 0 {
		t.Error("nobody of those who came and went was seen on both")
	}
	for i, user := range strangers[:20] {
		p.proxies[i%len(p.proxies)].wantAt(t, user, rows[user])
	}
	noCrashes(t, p.servers()...)
}
