package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
)

// Each director polls the backends for sessions: how many there are, that their users are alive, and that nobody is on two backends.
func TestSessionsArePolled(t *testing.T) {
	t.Parallel()
	p := operated(t, "--session-poll", "1s", "--touch-interval", "1s")
	for i := range 6 {
		p.proxies[i%2].connect(t, fmt.Sprintf("u%d@example.org", i/2)) // each is logged in twice
	}
	p.database.exec(t, `UPDATE mailbox_username_backend SET last_ts = now() - interval '1 day'`)
	eventually(t, "who is logged in is seen to be alive", func() error {
		if n := p.database.count(t, `SELECT count(*) FROM mailbox_username_backend WHERE last_ts > now() - interval '1 hour'`); n != 3 {
			return fmt.Errorf("%d of 3 users", n)
		}
		return nil
	})
	rows := p.database.rows(t)
	for _, via := range p.proxies {
		eventually(t, "the sessions are counted", func() error {
			status := statusOf(t, via.director)
			sessions, users := 0, 0
			for _, b := range status.Backends {
				if b.Sessions == nil || b.LoggedIn == nil || *b.LoggedIn != b.Users {
					return fmt.Errorf("%+v", b)
				}
				sessions, users = sessions+*b.Sessions, users+*b.LoggedIn
			}
			if sessions != 6 || users != 3 || len(status.Doubled) > 0 {
				return fmt.Errorf("%d sessions, %d users, on two backends: %v", sessions, users, status.Doubled)
			}
			return nil
		})
	}

	// Somebody goes round the proxies.
	const user = "u0@example.org"
	wrong := p.other(rows[user])
	session, err := mail.LoginIMAP(t.Context(), p.backend(wrong).At(143), user, dovecot.Password)
	if err != nil {
		t.Fatal(err)
	}
	for _, via := range p.proxies {
		eventually(t, "who is on two backends is seen", func() error {
			if doubled := statusOf(t, via.director).Doubled; len(doubled) != 1 || doubled[0].User != user || len(doubled[0].Backends) != 2 {
				return fmt.Errorf("%+v", doubled)
			}
			return nil
		})
		if text := via.director.Read(t, "status"); !strings.Contains(text, "\n"+user+" has been on ") {
			t.Errorf("status says\n%s", text)
		}
		// A poll that is late on a busy machine ends it for a moment.
		if n := strings.Count(via.director.Log(), "a user is on two backends at once"); n < 1 || n > 3 {
			t.Errorf("the log tells of it %d times", n)
		}
	}
	session.Close()
	eventually(t, "it has ended", func() error {
		if doubled := statusOf(t, p.proxies[0].director).Doubled; len(doubled) > 0 {
			return fmt.Errorf("%+v", doubled)
		}
		return nil
	})
}

// Users who are often logged in, and are not now, are moved off a crowded backend. No session is ended for it.
func TestEvenOutBetweenLogins(t *testing.T) {
	t.Parallel()
	const users, staying = 30, 3
	p := operated(t, "--session-poll", "1s", "--even-above", "1.1", "--rebalance-rate", "6000")
	begun := time.Now()
	p.database.exec(t, fmt.Sprintf(`INSERT INTO mailbox_username_backend SELECT 'u' || i || '@example.org', 'b0', now() FROM generate_series(0, %d) AS i`, users-1))
	name := func(i int) string { return fmt.Sprintf("u%d@example.org", i) }
	even := func() error {
		on := map[string]int{}
		for _, backend := range p.database.rows(t) {
			on[backend]++
		}
		if on["b0"] > users/2 || on["b1"] < users/5 || on["b2"] < users/5 {
			return fmt.Errorf("%v", on)
		}
		return nil
	}
	clients := make([]*client, users)
	for i := range staying {
		clients[i] = p.proxies[i%2].connect(t, name(i))
	}
	counts := p.witnessAll(t, asks(t), "b0")
	// Who has been logged in for half of the time, since the directors count, is worth moving. On a busy machine one evening may not do.
	days := 0
	for ; days == 0 || even() != nil && days < 3; days++ {
		for i := staying; i < users; i++ {
			p.settled(t, name(i))
			clients[i] = p.proxies[i%2].connect(t, name(i))
		}
		eventually(t, "the sessions are counted", func() error {
			sessions := 0
			for _, b := range statusOf(t, p.proxies[0].director).Backends {
				if b.Sessions != nil {
					sessions += *b.Sessions
				}
			}
			if sessions != users {
				return fmt.Errorf("%d", sessions)
			}
			return nil
		})
		for morning := time.Since(begun); time.Since(begun) < morning*5/2; {
			time.Sleep(100 * time.Millisecond)
		}
		var leaving sync.WaitGroup
		for _, c := range clients[staying:] {
			leaving.Go(c.stop)
		}
		leaving.Wait()
		// On a machine that made a long day of it, moves take long too.
		for night := time.Now(); even() != nil && time.Since(night) < max(20*time.Second, night.Sub(begun)/5); {
			time.Sleep(200 * time.Millisecond)
		}
	}
	if err := even(); err != nil {
		t.Fatalf("the backends are not even: %v", err)
	}
	rows := p.database.rows(t)
	for i, c := range clients {
		// From the second day on, somebody may come while he is being moved.
		if got := c.fared(); got.sessions != 1 || got.refused > 0 && days == 1 {
			t.Errorf("%s: %+v", name(i), got)
		}
		if i < staying && rows[name(i)] != "b0" {
			t.Errorf("%s was moved to %s while he was logged in", name(i), rows[name(i)])
		}
	}
	for i := staying; i < users; i += 3 {
		p.proxies[i%2].wantAt(t, name(i), p.settled(t, name(i)))
	}
	if both := counts(); len(both) > 0 {
		t.Errorf("on two backends: %v", both)
	}
	if n, others := p.database.count(t, `SELECT count(*) FROM director_journal WHERE subject = 'user' AND reason = 'evened'`), p.database.count(t, `SELECT count(*) FROM director_journal WHERE subject = 'user' AND reason NOT IN ('evened', 'proposed')`); n == 0 || others > 0 {
		t.Errorf("%d entries in the journal say that users were evened out, %d something else", n, others)
	}
	noCrashes(t, p.servers()...)
}

// settled waits until a user is not being moved, and returns where he is.
func (p *platform) settled(t *testing.T, user string) string {
	t.Helper()
	eventually(t, user+" is not being moved", func() error {
		if p.database.count(t, `SELECT count(*) FROM director_move WHERE stage <> 'switched' AND username = '`+user+`'`) > 0 {
			return fmt.Errorf("he is")
		}
		return nil
	})
	return p.database.rows(t)[user]
}

// After a failover, Dovecot lets users wait who would be too many at once.
func TestLoginStorm(t *testing.T) {
	t.Parallel()
	const delay = 3 * time.Second
	// The second user within a minute and a half has to wait for as long as that is allowed.
	p := newPlatform(t, "--failover-grace", "3s", "--restart-grace", "3s", "--login-rate", "0.01", "--login-delay", delay.String())
	p.database.exec(t, `INSERT INTO mailbox_username_backend SELECT 'u' || i || '@example.org', 'b1', now() FROM generate_series(0, 9) AS i`)
	p.proxies[0].wantAt(t, "u9@example.org", "b1") // not after a failover: nobody waits
	p.backend("b1").Stop()
	p.endpoints.write(t, false, p.without("b1")...)
	for i, via := range p.proxies {
		eventually(t, "the wait for the backend is over", func() error {
			_, err := via.imap(t, fmt.Sprintf("u%d@example.org", 4*i))
			return err
		})
		let := map[string]int{p.database.rows(t)[fmt.Sprintf("u%d@example.org", 4*i)]: 1}
		for n := range 3 {
			user := fmt.Sprintf("u%d@example.org", 4*i+n+1)
			begun := time.Now()
			backend, err := via.imap(t, user)
			if err != nil || backend == "b1" {
				t.Fatalf("%s landed on %q, %v", user, backend, err)
			}
			took := time.Since(begun)
			t.Logf("%s: %s was let in to %s after %s", via.Name, user, backend, took.Round(10*time.Millisecond))
			// Dovecot counts in whole seconds, and so may let in a little early.
			if let[backend]++; let[backend] == 2 && took < delay-time.Second {
				t.Errorf("%s: %s is the second on %s, and was let in after %s", via.Name, user, backend, took)
			}
		}
		if err := via.deliver(t, fmt.Sprintf("u%d@example.org", 8+i)); err != nil {
			t.Errorf("a delivery: %v", err)
		}
	}
	noCrashes(t, p.servers()...)
}
