package e2e_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// A pod that is deleted comes back with its name and another address. Its users wait, the others notice nothing, and
// nobody is moved.
func TestBackendReturnsUnderAnotherAddress(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, "--restart-grace", longGrace, "--failover-grace", longGrace)
	users := p.settle(t, "u")
	rows := p.database.rows(t)

	lost := p.backend("b1")
	lost.Stop()
	p.endpoints.write(t, false, p.without("b1")...)
	for _, via := range p.proxies {
		held(t, via.director, users["b1"][0])
	}
	p.eachProxy(t, "lost", func(t *testing.T, via *proxy) {
		via.wantFailure(t, users["b1"][0], mail.ErrTemporary)
		via.wantAt(t, users["b0"][0], "b0")
		via.wantAt(t, users["b2"][0], "b2")
	})

	lost.Addr = p.net.Addr(21)
	lost.Start(t)
	p.endpoints.write(t, false, p.backends...)
	p.eachProxy(t, "back", func(t *testing.T, via *proxy) {
		eventually(t, "users find their backend", func() error {
			_, err := via.imap(t, users["b1"][0])
			return err
		})
		for backend, names := range users {
			for _, user := range names {
				via.wantAt(t, user, backend)
			}
		}
	})
	p.database.wantRows(t, rows)
}

// A backend that stays away loses its users to the others after the grace period, and only its own users move. While
// they wait they are told to try later, nothing else.
func TestBackendLeaves(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, "--restart-grace", shortGrace, "--failover-grace", shortGrace)
	users := p.settle(t, "u")

	p.backend("b1").Stop()
	p.endpoints.write(t, false, p.without("b1")...)
	p.eachProxy(t, "lost", func(t *testing.T, via *proxy) {
		for _, user := range users["b1"] {
			eventually(t, user+" is moved", func() error {
				via.wantAt(t, users["b0"][0], "b0")
				backend, err := via.imap(t, user)
				if err == nil && backend == "b1" {
					err = errors.New("still on b1")
				} else if err != nil && !errors.Is(err, mail.ErrTemporary) {
					t.Errorf("while waiting: %v", err)
				}
				return err
			})
		}
	})
	rows := p.database.rows(t)
	for backend, names := range users {
		for _, user := range names {
			if moved := rows[user] != backend; moved != (backend == "b1") {
				t.Errorf("%s was on %s and is on %s", user, backend, rows[user])
			}
		}
	}

	// It returns too late: its users stay where they are now.
	p.backend("b1").Start(t)
	p.endpoints.write(t, false, p.backends...)
	p.eachProxy(t, "returned", func(t *testing.T, via *proxy) {
		i := 0
		eventually(t, "a new user lands on b1", func() error {
			i++
			backend, err := via.imap(t, fmt.Sprintf("new%d-%s@example.org", i, via.Name))
			if err == nil && backend != "b1" {
				err = fmt.Errorf("landed on %s", backend)
			}
			return err
		})
		for user, backend := range rows {
			via.wantAt(t, user, backend)
		}
	})
}

// Without its director a proxy says "try later"; sessions that are open stay so. Back again, it answers as before.
func TestDirectorRestarts(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	users := p.settle(t, "u")
	rows := p.database.rows(t)
	p.eachProxy(t, "down", func(t *testing.T, via *proxy) {
		session, err := mail.LoginIMAP(t.Context(), via.At(143), users["b0"][0], dovecot.Password)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		via.director.Stop(t)
		via.wantFailure(t, users["b0"][0], mail.ErrTemporary)
		if err := session.Noop(); err != nil {
			t.Errorf("a session that was open: %v", err)
		}
	})
	p.eachProxy(t, "back", func(t *testing.T, via *proxy) {
		via.director.Start(t)
		for backend, names := range users {
			for _, user := range names {
				via.wantAt(t, user, backend)
			}
		}
	})
	p.database.wantRows(t, rows)
}

// Two directors share nothing but the database. New users may come to both at once.
func TestTwoDirectorsAgree(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	one, two := p.proxies[0].director, p.proxies[1].director
	for i := range 50 {
		user := fmt.Sprintf("u%d@example.org", i)
		other := make(chan program.Reply)
		go func() {
			defer close(other)
			got, err := two.Insist(t.Context(), user)
			if err != nil {
				t.Error(err)
			}
			other <- got
		}()
		got, err := one.Insist(t.Context(), user)
		if err != nil {
			t.Error(err)
		}
		if also := <-other; got != also || got.Code != 1 {
			t.Errorf("%s: the directors answer %+v and %+v", user, got, also)
		}
	}
	for user, backend := range p.database.rows(t) {
		for _, via := range p.proxies {
			via.wantAt(t, user, backend)
		}
	}
}

// Without PostgreSQL the users that a director knows still log in. New ones are told to try later.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	users := p.settle(t, "u")
	for _, via := range p.proxies { // each director knows all of them
		for backend, names := range users {
			for _, user := range names {
				via.wantAt(t, user, backend)
			}
		}
	}
	rows := p.database.rows(t)
	p.database.server.Stop()
	p.eachProxy(t, "down", func(t *testing.T, via *proxy) {
		for backend, names := range users {
			for _, user := range names {
				via.wantAt(t, user, backend)
			}
		}
		if err := via.deliver(t, users["b0"][0]); err != nil {
			t.Error(err)
		}
		via.wantFailure(t, "new-"+via.Name+"@example.org", mail.ErrTemporary)
	})
	p.database.server.Restart(t)
	p.database.wantRows(t, rows)
	p.eachProxy(t, "back", func(t *testing.T, via *proxy) {
		eventually(t, "a new user logs in", func() error {
			_, err := via.imap(t, "new-"+via.Name+"@example.org")
			return err
		})
		for backend, names := range users {
			for _, user := range names {
				via.wantAt(t, user, backend)
			}
		}
	})
}

// Where new users are let in without PostgreSQL, all directors send them to the same backend, and their rows are written afterwards.
func TestNewUsersWhileTheDatabaseIsDown(t *testing.T) {
	t.Parallel()
	p := newBackends(t, dovecot.DefaultPorts)
	p.endpoints.write(t, false, p.backends...)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", p.database.url); code != 0 {
		t.Fatalf("migrate: %s", stderr)
	}
	p.database.exec(t, "INSERT INTO mailbox_username_backend VALUES ('elsewhere@example.org', 'b0', now())")
	for i, version := range versions {
		via := p.addProxy(t, version, byte(1+i), dovecot.ProxyConfig{}, "--database-outage", "propose")
		eventually(t, "it is read who has a mapping", func() error {
			if !strings.Contains(via.director.Log(), "read who has a mapping") {
				return errors.New("not yet")
			}
			return nil
		})
	}
	p.database.server.Kill()
	var users []string
	for i := range 12 {
		users = append(users, fmt.Sprintf("new%d@example.org", i))
	}
	landed := map[string]string{"elsewhere@example.org": "b0"}
	p.eachProxy(t, "down", func(t *testing.T, via *proxy) {
		for _, user := range users {
			backend, err := via.imap(t, user)
			if err != nil {
				t.Fatalf("%s: %v", user, err)
			}
			if before, ok := landed[user]; ok && before != backend {
				t.Errorf("%s was sent to %s and to %s", user, before, backend)
			}
			landed[user] = backend
		}
		via.wantFailure(t, "elsewhere@example.org", mail.ErrTemporary) // who has a row that nobody remembers is not new
	})
	p.database.server.Restart(t)
	eventually(t, "rows are written without a lookup", func() error {
		if got := p.database.rows(t); !maps.Equal(got, landed) {
			return fmt.Errorf("got %v, want %v", got, landed)
		}
		return nil
	})
	// Each is in the journal once, whichever director was first.
	for _, query := range []string{
		"SELECT count(*) FROM director_journal WHERE reason = 'provisional' AND subject = 'user'",
		"SELECT count(DISTINCT username) FROM director_journal WHERE reason = 'provisional'",
	} {
		if n := p.database.count(t, query); n != len(users) {
			t.Errorf("%s: %d, want %d", query, n, len(users))
		}
	}
}
