package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
)

// operated is a platform whose directors may end sessions and keep operators' orders. Each gets the arguments.
func operated(t *testing.T, arguments ...string) *platform {
	t.Helper()
	return operatedBy(t, false, func(int) []string { return arguments })
}

// operatedBy is operated with directors as they are released, or with the race detector, which costs five times the processor time. Each
// director gets the arguments of its number.
func operatedBy(t *testing.T, released bool, arguments func(director int) []string) *platform {
	t.Helper()
	p := newBackends(t, dovecot.DefaultPorts, doveadmSettings)
	p.released = released
	p.endpoints.write(t, false, p.backends...)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", p.database.url); code != 0 {
		t.Fatal(stderr)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(doveadmKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, version := range versions {
		p.addProxy(t, version, byte(1+i), dovecot.ProxyConfig{}, append([]string{"--doveadm-key-file", key, "--doveadm-port", strconv.Itoa(doveadmPort)}, arguments(i)...)...)
	}
	return p
}

// asks returns a client of the backends' doveadm.
func asks(t *testing.T) *doveadm.Client {
	t.Helper()
	c := doveadm.New(doveadm.Config{Key: doveadmKey, Port: doveadmPort, Timeout: 30 * time.Second})
	t.Cleanup(c.Close)
	return c
}

func (p *platform) director(name string) director.Backend {
	return director.Backend{Name: name, Addr: p.backend(name).Addr}
}

// client is a mail program: it waits for news, and logs in again when its session ends.
type client struct {
	stays bool // it waits for news; others look for mail and leave
	stop  func()

	mu   sync.Mutex
	past past
}

// past is how a client has fared.
type past struct {
	backend  string // of its last session
	sessions int
	refused  int // logins that failed
}

// fared returns how it has until now.
func (c *client) fared() past {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.past
}

// connect starts a mail program of user's that stays logged in, and ends with the test.
func (via *proxy) connect(t *testing.T, user string) *client {
	t.Helper()
	return via.start(t, user, &client{stays: true})
}

// start starts a mail program of user's, which ends with the test.
func (via *proxy) start(t *testing.T, user string, c *client) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(c.stop)
	running.Go(func() {
		for ctx.Err() == nil {
			if err := c.session(ctx, via.At(143), user); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				c.past.refused++
				c.mu.Unlock()
				time.Sleep(50 * time.Millisecond)
			}
		}
	})
	eventually(t, user+" is logged in", func() error {
		if c.fared().sessions == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past.refused = 0 // the first login may have come at a bad moment
	return c
}

// session is one session, until it ends.
func (c *client) session(ctx context.Context, addr, user string) error {
	s, err := mail.LoginIMAP(ctx, addr, user, dovecot.Password)
	if err != nil {
		return err
	}
	defer s.Close()
	over := context.AfterFunc(ctx, func() { s.Close() })
	defer over()
	mailboxes, err := s.Mailboxes()
	if err != nil {
		return err
	}
	backend, err := dovecot.Owner(mailboxes)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.past.backend = backend
	c.past.sessions++
	c.mu.Unlock()
	if !c.stays {
		time.Sleep(50 * time.Millisecond)
		return s.Logout()
	}
	if err := s.Idle(); err != nil {
		return err
	}
	// However it ends, the program logs in again. That nothing was said for long is no end.
	for errors.Is(s.Ended(), os.ErrDeadlineExceeded) {
	}
	return nil
}

// witness looks every 10 ms whether two backends serve the user. The new one is asked first: who is there, and still on the old one
// afterwards, is on both.
type witness struct {
	mu      sync.Mutex
	samples int
	both    int
	seen    map[string]int
	stop    func()
}

func (p *platform) watch(t *testing.T, user, from, to string) *witness {
	t.Helper()
	w := &witness{seen: map[string]int{}}
	ask := asks(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(w.stop)
	old, next := p.director(from), p.director(to)
	running.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			there, err := ask.Find(ctx, next, user)
			here, err2 := ask.Find(ctx, old, user)
			if ctx.Err() != nil {
				return
			}
			if err != nil || err2 != nil {
				t.Errorf("asking the backends: %v, %v", err, err2)
				return
			}
			w.mu.Lock()
			w.samples++
			w.seen[to] += min(1, len(there))
			w.seen[from] += min(1, len(here))
			if len(there) > 0 && len(here) > 0 {
				w.both++
			}
			w.mu.Unlock()
			<-ticker.C
		}
	})
	return w
}

// done ends the watching. The user must have been seen on the backends named, and never on both.
func (w *witness) done(t *testing.T, backends ...string) {
	t.Helper()
	w.stop()
	if w.both > 0 {
		t.Errorf("two backends served the user in %d of %d samples", w.both, w.samples)
	}
	for _, b := range backends {
		if w.seen[b] == 0 {
			t.Errorf("the witness never saw the user on %s: %d samples, %v", b, w.samples, w.seen)
		}
	}
}

// other returns a backend that is not this one.
func (p *platform) other(name string) string { return p.without(name)[0].Name }

// An operator moves a user who is logged in twice, through two proxies of two versions.
func TestMoveUser(t *testing.T) {
	t.Parallel()
	p := operated(t)
	const user = "vip@example.org"
	phone, desk := p.proxies[0].connect(t, user), p.proxies[1].connect(t, user)
	from := phone.fared().backend
	to := p.other(from)
	// A third one comes and goes: it would be the first on the new backend, if that were named too early.
	webmail := p.proxies[0].start(t, user, &client{})
	bystander := p.settle(t, "bystander")[from][0]
	stays := p.proxies[0].connect(t, bystander)
	w := p.watch(t, user, from, to)
	p.proxies[0].director.Run(t, "move", "VIP@example.org", to, "--note", "ticket 42")
	for name, c := range map[string]*client{"phone": phone, "desk": desk} {
		eventually(t, name+" is back", func() error {
			if got := c.fared(); got.backend != to || got.sessions != 2 {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
	}
	eventually(t, "who comes and goes comes to the new backend", func() error {
		if backend := webmail.fared().backend; backend != to {
			return fmt.Errorf("on %s", backend)
		}
		return nil
	})
	if webmail.stop(); webmail.fared().refused == 0 {
		t.Error("nobody was refused while the user was being moved")
	}
	w.done(t, from, to)
	if got, want := stays.fared(), (past{backend: from, sessions: 1}); got != want {
		t.Errorf("a bystander: %+v, want %+v", got, want)
	}
	for _, via := range p.proxies {
		via.wantAt(t, user, to)
	}
	if got := p.database.rows(t)[user]; got != to {
		t.Errorf("the row says %q", got)
	}
	var report director.UserReport
	eventually(t, "two sessions are left", func() error {
		if err := json.Unmarshal([]byte(p.proxies[1].director.Read(t, "user", user, "-o", "json")), &report); err != nil {
			t.Fatal(err)
		}
		if len(report.Sessions) != 2 || report.Sessions[0].Backend != to {
			return fmt.Errorf("%+v", report.Sessions)
		}
		return nil
	})
	if h := report.History; len(h) != 1 || h[0].From != from || h[0].To != to || h[0].Reason != director.Moved || h[0].Actor == "" || h[0].Note != "ticket 42" {
		t.Errorf("history: %+v", h)
	}
	if report.Backend != to || report.Next.Backend != to {
		t.Errorf("%+v", report)
	}
	noCrashes(t, p.servers()...)
}

// A backend that cannot be asked keeps its users, unless an operator forces the move.
func TestMoveFromABackendThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	p := operated(t)
	const user = "ada@example.org"
	from, err := p.proxies[0].imap(t, user)
	if err != nil {
		t.Fatal(err)
	}
	to := p.other(from)
	p.backend(from).Stop()
	_, stderr, code := program.Run(t, "move", user, to, "--admin-url", p.proxies[0].director.AdminURL())
	if code != 1 || !strings.Contains(stderr, "sessions cannot be asked for") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if got := p.database.rows(t)[user]; got != from {
		t.Errorf("the row says %q", got)
	}
	p.proxies[1].director.Run(t, "move", user, to, "--force", "--yes")
	p.proxies[1].wantAt(t, user, to)
}

// A director dies in the middle of a move, at another moment each time. The other one ends the move, and the user can log in before its
// deadline is over.
func TestMoveSurvivesItsDirector(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 2 * time.Second, 3900 * time.Millisecond, 4100 * time.Millisecond, 5 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			p := operated(t)
			const user = "vip@example.org"
			// His proxy's director lives on.
			c := p.proxies[1].connect(t, user)
			from := c.fared().backend
			to := p.other(from)
			w := p.watch(t, user, from, to)
			dies := p.proxies[0].director
			dies.Run(t, "move", user, to, "--wait=false")
			begun := time.Now()
			time.Sleep(after)
			dies.Kill(t)
			eventually(t, "the move has ended", func() error {
				var report director.UserReport
				if err := json.Unmarshal([]byte(p.proxies[1].director.Read(t, "user", user, "-o", "json")), &report); err != nil {
					t.Fatal(err)
				}
				if report.Move != nil {
					return fmt.Errorf("%+v", *report.Move)
				}
				return nil
			})
			landed, err := p.proxies[1].imap(t, user)
			if err != nil {
				t.Errorf("not able to log in %s after the move began: %v", time.Since(begun), err)
			}
			if row := p.database.rows(t)[user]; row != landed {
				t.Errorf("landed on %s, the row says %s", landed, row)
			}
			t.Logf("killed after %s: ended %s after its begin, on %s (from %s)", after, time.Since(begun).Round(100*time.Millisecond), landed, from)
			c.stop()
			w.done(t, from)
		})
	}
}

// A backend of 1,000 users, 200 of them logged in, is emptied while one director is restarted.
func TestEvacuate(t *testing.T) {
	// Not at the same time as others, like TestRebalance.
	const (
		users, connected = 1000, 200
		rate             = 1500 // a minute
	)
	p := operated(t)
	from := p.backends[0].Name
	name := func(i int) string { return fmt.Sprintf("u%04d@example.org", i) }
	p.database.exec(t, fmt.Sprintf(`INSERT INTO mailbox_username_backend SELECT 'u' || lpad(i::text, 4, '0') || '@example.org', '%s', now() FROM generate_series(0, %d) AS i`, from, users-1))
	clients := make([]*client, connected)
	for i := range clients {
		clients[i] = p.proxies[i%len(p.proxies)].connect(t, name(i*users/connected))
	}
	ask := asks(t)
	counts := p.witnessAll(t, ask, from)

	d := p.proxies[0].director
	d.Run(t, "evacuate", from, "--rate", strconv.Itoa(rate), "--note", "new disk", "--yes")
	begun := time.Now()
	p.stands(t, from, director.Drain, 0)
	for i := range 20 {
		landed, err := p.proxies[0].imap(t, fmt.Sprintf("new-%d@example.org", i))
		if err != nil || landed == from {
			t.Errorf("a new user landed on %q, %v", landed, err)
		}
	}
	left := func() (n int) {
		for _, backend := range p.database.rows(t) {
			if backend == from {
				n++
			}
		}
		return n
	}
	eventually(t, "half of them have left", func() error {
		if n := left(); n > users/2 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	d.Stop(t)
	d.Start(t)
	// A move that could not be ended in its time, on a busy machine, is begun anew after five minutes.
	eventuallyWithin(t, 4*patience, "all have left", func() error {
		if n := left(); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	if took := time.Since(begun); took < users*time.Minute/rate {
		t.Errorf("1,000 users were moved in %s: faster than %d a minute", took, rate)
	}
	for i, c := range clients {
		eventually(t, "all are back", func() error {
			if backend := c.fared().backend; backend == from {
				return fmt.Errorf("%s is on %s", name(i*users/connected), backend)
			}
			return nil
		})
		c.stop()
	}
	if both := counts(); len(both) > 0 {
		t.Errorf("on two backends: %v", both)
	}
	var status director.StatusReport
	eventually(t, "the task has ended", func() error {
		status = statusOf(t, d)
		if len(status.Tasks) > 0 {
			return fmt.Errorf("%+v", status.Tasks)
		}
		return nil
	})
	for _, b := range status.Backends {
		if b.Name == from && (b.Users != 0 || b.State != director.Drain) {
			t.Errorf("%+v", b)
		}
	}
	if n := p.database.count(t, `SELECT count(DISTINCT username) FROM director_journal WHERE subject = 'user' AND reason = 'evacuated' AND note LIKE 'new disk%' AND from_backend = '`+from+`'`); n != users {
		t.Errorf("%d users of %d in the journal", n, users)
	}
	noCrashes(t, p.servers()...)
}

// witnessAll lists the sessions of all backends again and again, those that are left last, until it is called: then it returns those who
// were on two.
func (p *platform) witnessAll(t *testing.T, ask *doveadm.Client, left ...string) (both func() []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	stop := sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	order := slices.Clone(p.backends)
	slices.SortStableFunc(order, func(a, b *dovecot.Server) int {
		switch last := slices.Contains(left, a.Name); {
		case last == slices.Contains(left, b.Name):
			return 0
		case last:
			return 1
		}
		return -1
	})
	twice := map[string]bool{}
	running.Go(func() {
		for ctx.Err() == nil {
			on := map[string]string{}
			for _, b := range order {
				sessions, err := ask.Who(ctx, p.director(b.Name))
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("asking the backends: %v", err)
					}
					return
				}
				for _, s := range sessions {
					if on[s.User] != "" && on[s.User] != b.Name {
						twice[s.User] = true
					}
					on[s.User] = b.Name
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	return func() []string {
		stop()
		return slices.Sorted(maps.Keys(twice))
	}
}
