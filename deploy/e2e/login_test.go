package e2e_test

import (
	"fmt"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
)

// The promise itself: whatever protocol, whatever proxy, a user's mail is on one backend.
func TestAllProtocolsLandOnOneBackend(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	used := map[string]bool{}
	p.eachProxy(t, "users", func(t *testing.T, via *proxy) {
		for i := range 20 {
			user := fmt.Sprintf("u%d-%s@example.org", i, via.Name)
			used[p.wantOneBackend(t, via, user)] = true
		}
	})
	if len(used) != len(p.backends) {
		t.Errorf("40 users landed on %v only", used)
	}
	rows := p.database.rows(t)
	for user, backend := range rows {
		for _, via := range p.proxies {
			via.wantAt(t, user, backend)
		}
	}
	p.database.wantRows(t, rows)
}

// wantOneBackend delivers, reads by IMAP and by POP3 and returns the one backend that all of it happened on.
func (p *platform) wantOneBackend(t *testing.T, via *proxy, user string) (backend string) {
	t.Helper()
	if err := via.deliver(t, user); err != nil {
		t.Fatal(err)
	}
	backend, err := via.imap(t, user)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := via.pop3(t, user); err != nil || got != backend {
		t.Errorf("%s: POP3 landed on %q (%v), IMAP on %s", user, got, err, backend)
	}
	for _, b := range p.backends {
		want := 0
		if b.Name == backend {
			want = 1
		}
		if got, err := b.Delivered(user); err != nil || got != want {
			t.Errorf("%s: LMTP left %d messages on %s (%v), want %d: IMAP landed on %s", user, got, b.Name, err, want, backend)
		}
	}
	return backend
}

// The contract promises that a script of a few lines will do.
func TestMinimalScript(t *testing.T) {
	t.Parallel()
	p := newBackends(t, dovecot.DefaultPorts)
	p.endpoints.write(t, false, p.backends...)
	via := p.addProxy(t, dovecot.V23, 1, dovecot.ProxyConfig{Script: dovecot.Dir("testdata", "minimal.lua")})
	for i := range 5 {
		p.wantOneBackend(t, via, fmt.Sprintf("u%d@example.org", i))
	}
	noCrashes(t, p.servers()...)
}

// Official images of Dovecot 2.4 do not listen on the usual ports. With the ports named in the endpoints and the
// protocol named in the request, the proxies are told.
func TestPortsOfTheEndpoints(t *testing.T) {
	t.Parallel()
	p := newBackends(t, dovecot.Ports{IMAP: 31143, POP3: 31110, LMTP: 31024})
	p.endpoints.write(t, true, p.backends...)
	for i, version := range versions {
		p.addProxy(t, version, byte(1+i), dovecot.ProxyConfig{})
	}
	p.eachProxy(t, "users", func(t *testing.T, via *proxy) {
		for i := range 3 {
			p.wantOneBackend(t, via, fmt.Sprintf("u%d-%s@example.org", i, via.Name))
		}
	})
}

// A foreign key on the table says who exists. By default an unknown user is still sent to a backend, always the same
// one, which refuses the login or the mail by its own knowledge; nothing is stored.
func TestUnknownMailbox(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.database.exec(t, "ALTER TABLE mailbox_username_backend ADD FOREIGN KEY (username) REFERENCES mailbox (username)")
	p.database.exec(t, "INSERT INTO mailbox VALUES ('known@example.org')")
	p.eachProxy(t, "known", func(t *testing.T, via *proxy) { p.wantAgreement(t, "known@example.org") })
	rows := p.database.rows(t)
	if len(rows) != 1 {
		t.Fatalf("the table holds %v, want the known user", rows)
	}
	p.eachProxy(t, "unknown", func(t *testing.T, via *proxy) {
		for i := range 5 {
			p.wantAgreement(t, fmt.Sprintf("unknown-%d@example.org", i))
		}
		_, err := mail.LoginIMAP(t.Context(), via.At(143), "unknown-0@example.org", "wrong")
		wantKind(t, err, mail.ErrRefused)
	})
	p.database.wantRows(t, rows)
}

// wantAgreement expects that all proxies send user to the same backend, again and again.
func (p *platform) wantAgreement(t *testing.T, user string) {
	t.Helper()
	first, err := p.proxies[0].imap(t, user)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, via := range p.proxies {
			via.wantAt(t, user, first)
		}
	}
}

// With UNKNOWN_USERS=reject the proxies refuse unknown users by themselves, and mail to them bounces.
func TestUnknownMailboxRejected(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, "--unknown-users", "reject")
	p.database.exec(t, "ALTER TABLE mailbox_username_backend ADD FOREIGN KEY (username) REFERENCES mailbox (username)")
	p.database.exec(t, "INSERT INTO mailbox VALUES ('known@example.org')")
	p.eachProxy(t, "known", func(t *testing.T, via *proxy) { p.wantOneBackendAgain(t, via, "known@example.org") })
	p.eachProxy(t, "unknown", func(t *testing.T, via *proxy) { via.wantFailure(t, "unknown@example.org", mail.ErrRefused) })
	if rows := p.database.rows(t); len(rows) != 1 {
		t.Errorf("the table holds %v, want the known user", rows)
	}
}

// wantOneBackendAgain expects that user can log in and gets mail, which may be there already.
func (p *platform) wantOneBackendAgain(t *testing.T, via *proxy, user string) {
	t.Helper()
	if err := via.deliver(t, user); err != nil {
		t.Error(err)
	}
	backend, err := via.imap(t, user)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := via.pop3(t, user); err != nil || got != backend {
		t.Errorf("%s: POP3 landed on %q (%v), IMAP on %s", user, got, err, backend)
	}
}
