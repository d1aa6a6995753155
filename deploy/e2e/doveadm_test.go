package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
)

const (
	doveadmKey  = "a key: with ümlaut"
	doveadmPort = 31080
)

// doveadmSettings open doveadm's HTTP API, in either version.
var doveadmSettings = fmt.Sprintf(`doveadm_api_key = %s
service doveadm {
  inet_listener http {
    port = %d
  }
}
auth_username_chars =`, doveadmKey, doveadmPort)

// doveadmSite is a backend, a proxy in front of it, and a client of both.
type doveadmSite struct {
	server, proxy *dovecot.Server
	backend       director.Backend
	client        *doveadm.Client
}

func newDoveadmSite(t *testing.T, v dovecot.Version) *doveadmSite {
	t.Helper()
	network := dovecot.NewNet(t)
	s := &doveadmSite{backend: director.Backend{Name: "b0", Addr: network.Addr(11)}}
	s.server = dovecot.StartBackend(t, v, s.backend.Name, s.backend.Addr, dovecot.DefaultPorts, doveadmSettings)
	s.proxy = dovecot.StartProxy(t, v, network.Addr(1), dovecot.ProxyConfig{Snippet: staticProxy(v, s.backend.Addr), Settings: doveadmSettings})
	s.client = s.newClient(t, doveadmKey, nil)
	return s
}

// staticProxy is the configuration of a proxy that sends everybody to one backend.
func staticProxy(v dovecot.Version, backend netip.Addr) string {
	if v == dovecot.V24 {
		return fmt.Sprintf("passdb static {\n fields {\n  proxy = yes\n  host = %s\n  nopassword = yes\n }\n}\n", backend)
	}
	return fmt.Sprintf("passdb {\n driver = static\n args = proxy=y host=%s nopassword=y\n}\n", backend)
}

func (s *doveadmSite) newClient(t *testing.T, key string, canonical func(string) (string, bool)) *doveadm.Client {
	t.Helper()
	c := doveadm.New(doveadm.Config{
		Key: key, Port: doveadmPort, Canonical: canonical, Timeout: 30 * time.Second,
		Proxies: func() []netip.AddrPort { return []netip.AddrPort{netip.AddrPortFrom(s.proxy.Addr, doveadmPort)} },
	})
	t.Cleanup(c.Close)
	return c
}

// idle logs user in through the proxy and waits for news.
func (s *doveadmSite) idle(t *testing.T, user string) *mail.IMAP {
	t.Helper()
	session, err := mail.LoginIMAP(t.Context(), s.proxy.At(143), user, dovecot.Password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	if err := session.Idle(); err != nil {
		t.Fatal(err)
	}
	return session
}

// pop3 logs user in through the proxy.
func (s *doveadmSite) pop3(t *testing.T, user string) *mail.POP3 {
	t.Helper()
	session, err := mail.LoginPOP3(t.Context(), s.proxy.At(110), user, dovecot.Password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// wantSessions waits until the backend has these sessions of a user, all users' if user is empty. Sessions are users and
// services.
func (s *doveadmSite) wantSessions(t *testing.T, user string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	eventually(t, fmt.Sprintf("sessions of %q", user), func() error {
		ask := func() ([]director.Session, error) { return s.client.Find(t.Context(), s.backend, user) }
		if user == "" {
			ask = func() ([]director.Session, error) { return s.client.Who(t.Context(), s.backend) }
		}
		sessions, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, one := range sessions {
			got = append(got, one.User+" "+one.Service)
			if !one.Client.IsLoopback() {
				t.Errorf("a session from %s: %v", one.Client, one)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// eachDovecot runs check with a site of each version.
func eachDovecot(t *testing.T, check func(t *testing.T, s *doveadmSite)) {
	t.Parallel()
	for _, v := range versions {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			s := newDoveadmSite(t, v)
			check(t, s)
			noCrashes(t, s.server, s.proxy)
		})
	}
}

// Who has sessions is asked, one user's are ended on the backend, and everybody else notices nothing.
func TestDoveadmKick(t *testing.T) {
	eachDovecot(t, func(t *testing.T, s *doveadmSite) {
		const ada, bob = "ada@example.org", "bob@example.org"
		first, second, third := s.idle(t, ada), s.idle(t, ada), s.pop3(t, ada)
		other, otherPOP3 := s.idle(t, bob), s.pop3(t, bob)
		s.wantSessions(t, "", ada+" imap", ada+" imap", ada+" pop3", bob+" imap", bob+" pop3")
		s.wantSessions(t, ada, ada+" imap", ada+" imap", ada+" pop3")
		s.wantSessions(t, "ADA@example.org")
		s.wantSessions(t, "nobody@example.org")

		sessions, err := s.client.Find(t.Context(), s.backend, ada)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time nobody is there
			if err := s.client.Kick(t.Context(), s.backend, sessions); err != nil {
				t.Error(err)
			}
			s.wantSessions(t, ada)
		}
		for _, session := range []interface{ Ended() error }{first, second, third} {
			if err := session.Ended(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(other.Done(), otherPOP3.Noop()); err != nil {
			t.Errorf("the other user: %v", err)
		}
		s.wantSessions(t, "", bob+" imap", bob+" pop3")
	})
}

// Names that doveadm would take for something else are refused, and all others work as they are.
func TestDoveadmNames(t *testing.T) {
	eachDovecot(t, func(t *testing.T, s *doveadmSite) {
		var users, sessions []string
		for _, user := range []string{"with space", "-x", "--help", "it's", "back/slash", "ümlaut@example.org", "<&>", "1st@example.org"} {
			s.idle(t, user)
			users, sessions = append(users, user), append(sessions, user+" imap")
		}
		s.wantSessions(t, "", sessions...)
		for i, user := range users {
			s.wantSessions(t, user, sessions[i])
			if err := s.client.Kick(t.Context(), s.backend, []director.Session{{User: user}}); err != nil {
				t.Error(err)
			}
			s.wantSessions(t, "", sessions[i+1:]...)
		}

		s.idle(t, "ada@example.org")
		for _, user := range []string{"*", "a?a@example.org", "127.0.0.1", "127.0.0.0/8", "127", "127/8", "0x7f/8", "127/8 x", ""} {
			s.wantSessions(t, "ada@example.org", "ada@example.org imap")
			if sessions, err := s.client.Find(t.Context(), s.backend, user); len(sessions) > 0 || err != nil {
				t.Errorf("%q has sessions %v, %v", user, sessions, err)
			}
			wantKind(t, s.client.Kick(t.Context(), s.backend, []director.Session{{User: "ada@example.org"}, {User: user}}), director.ErrPattern)
		}
		s.wantSessions(t, "", "ada@example.org imap")
	})
}

// A backend's sessions are ended at the proxy, by any of the names that a user is known under.
func TestDoveadmCut(t *testing.T) {
	eachDovecot(t, func(t *testing.T, s *doveadmSite) {
		wantCut := func(c *doveadm.Client, backend netip.Addr, user string) {
			t.Helper()
			if n, err := c.Cut(t.Context(), backend, user); n != 1 || err != nil {
				t.Errorf("%d proxies confirmed, %v", n, err)
			}
		}
		const ada, bob = "ada@example.org", "bob@example.org"
		first, second, other := s.idle(t, ada), s.idle(t, ada), s.idle(t, bob)
		wantCut(s.client, s.backend.Addr, "nobody@example.org")
		wantCut(s.client, s.proxy.Addr, ada) // no backend
		s.wantSessions(t, "", ada+" imap", ada+" imap", bob+" imap")
		wantCut(s.client, s.backend.Addr, ada)
		if err := errors.Join(first.Ended(), second.Ended()); err != nil {
			t.Error(err)
		}
		s.wantSessions(t, "", bob+" imap")

		// With another canonical name, both are one user.
		first, second = s.idle(t, ada), s.idle(t, "ada")
		named := s.newClient(t, doveadmKey, func(name string) (string, bool) {
			name, _, _ = strings.Cut(name, "@")
			return strings.ToUpper(name), true
		})
		if sessions, err := named.Find(t.Context(), s.backend, "ADA"); err != nil || len(sessions) != 2 {
			t.Errorf("sessions %v, %v", sessions, err)
		}
		wantCut(named, s.backend.Addr, "ADA")
		if err := errors.Join(first.Ended(), second.Ended(), other.Done()); err != nil {
			t.Error(err)
		}
		s.wantSessions(t, "", bob+" imap")

		// 2.4.1 counts a session as kicked that goes on if its login process is its own, as POP3's is here. This must not be
		// taken for an end.
		third := s.pop3(t, ada)
		n, err := s.client.Cut(t.Context(), s.backend.Addr, ada)
		if s.proxy.Version == dovecot.V23 {
			if n != 1 || err != nil || third.Ended() != nil {
				t.Errorf("%d proxies, %v; POP3: %v", n, err, third.Ended())
			}
			return
		}
		if n != 0 || err == nil || errors.Is(err, director.ErrUnreachable) || !strings.Contains(err.Error(), "still has them") {
			t.Errorf("%d proxies, %v", n, err)
		}
		if err := third.Noop(); err != nil {
			t.Errorf("2.4 ends these sessions now: %v", err)
		}
		s.proxy = dovecot.StartProxy(t, dovecot.V24, s.proxy.Addr.Next(), dovecot.ProxyConfig{
			Snippet:  staticProxy(dovecot.V24, s.backend.Addr),
			Settings: doveadmSettings + "\nservice pop3-login {\n restart_request_count = unlimited\n}\n",
		})
		third = s.pop3(t, ada)
		wantCut(s.client, s.backend.Addr, ada)
		if err := third.Ended(); err != nil {
			t.Error(err)
		}
	})
}

// A wrong key, a port of something else and a server that is gone are told apart.
func TestDoveadmFaults(t *testing.T) {
	eachDovecot(t, func(t *testing.T, s *doveadmSite) {
		want := func(err error, texts ...string) {
			t.Helper()
			wantKind(t, err, director.ErrUnreachable)
			for _, text := range texts {
				if err != nil && !strings.Contains(err.Error(), text) {
					t.Errorf("%v does not say %q", err, text)
				}
			}
		}
		name := []string{s.backend.Name, s.server.At(doveadmPort)}
		wrong := s.newClient(t, "wrong", nil)
		_, err := wrong.Who(t.Context(), s.backend)
		want(err, append(name, "doveadm_api_key")...)
		want(wrong.Kick(t.Context(), s.backend, []director.Session{{User: "ada@example.org"}}), append(name, "doveadm_api_key")...)
		_, err = wrong.Cut(t.Context(), s.backend.Addr, "ada@example.org")
		want(err, s.proxy.At(doveadmPort), "doveadm_api_key")

		imap := s.backend
		imap.Ports = map[string]uint16{"doveadm-http": 143}
		_, err = s.client.Who(t.Context(), imap)
		want(err, s.server.At(143))

		if _, err := s.client.Who(t.Context(), s.backend); err != nil {
			t.Error(err)
		}
		s.server.Stop()
		s.proxy.Stop()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = s.client.Who(ctx, s.backend)
		want(err, append(name, "connection refused")...)
		want(s.client.Kick(ctx, s.backend, []director.Session{{User: "ada@example.org"}}), append(name, "connection refused")...)
		_, err = s.client.Cut(ctx, s.backend.Addr, "ada@example.org")
		want(err, s.proxy.At(doveadmPort), "connection refused")

		s.server.Start(t)
		if _, err := s.client.Who(t.Context(), s.backend); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}
