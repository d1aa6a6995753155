package e2e_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// platform is a small mail platform in the middle of its upgrade to Dovecot 2.4: a proxy of each version in front of
// three backends, whose version does not matter to a director. All proxies have their own director.
type platform struct {
	net       dovecot.Net
	database  *database
	endpoints endpointsFile
	backends  []*dovecot.Server
	proxies   []*proxy
	// released has directors without the race detector.
	released bool
}

// proxy is a Dovecot proxy and the director that it asks.
type proxy struct {
	*dovecot.Server
	director *program.Director
}

// newPlatform starts one. Each director gets the arguments.
func newPlatform(t *testing.T, arguments ...string) *platform {
	t.Helper()
	p := newBackends(t, dovecot.DefaultPorts)
	p.endpoints.write(t, false, p.backends...)
	for i, version := range versions {
		p.addProxy(t, version, byte(1+i), dovecot.ProxyConfig{}, arguments...)
	}
	return p
}

// newBackends starts backends and database of a platform without proxies.
func newBackends(t *testing.T, ports dovecot.Ports, settings ...string) *platform {
	t.Helper()
	p := &platform{net: dovecot.NewNet(t), endpoints: endpointsFile{filepath.Join(t.TempDir(), "endpoints.yaml")}}
	p.database = startDatabase(t)
	for _, version := range []dovecot.Version{dovecot.V23, dovecot.V24, dovecot.V23} {
		p.addBackend(t, version, ports, settings...)
	}
	return p
}

// addBackend starts one more backend. The directors know of it when the endpoints are written again.
func (p *platform) addBackend(t *testing.T, version dovecot.Version, ports dovecot.Ports, settings ...string) {
	t.Helper()
	n := len(p.backends)
	p.backends = append(p.backends, dovecot.StartBackend(t, version, fmt.Sprintf("b%d", n), p.net.Addr(byte(11+n)), ports, settings...))
}

// addProxy starts a director at host 100+n and a proxy at host n of the platform's network.
func (p *platform) addProxy(t *testing.T, version dovecot.Version, n byte, c dovecot.ProxyConfig, arguments ...string) *proxy {
	t.Helper()
	arguments = append([]string{"--endpoints-file", p.endpoints.path, "--database-url", p.database.url}, arguments...)
	var d *program.Director
	if p.released {
		d = program.StartRelease(t, p.net.Addr(100+n), arguments...)
	} else {
		d = program.Start(t, p.net.Addr(100+n), nil, nil, arguments...)
	}
	c.DirectorURL = d.URL()
	added := &proxy{director: d, Server: dovecot.StartProxy(t, version, p.net.Addr(n), c)}
	p.proxies = append(p.proxies, added)
	return added
}

// eachProxy runs check with each proxy as a subtest.
func (p *platform) eachProxy(t *testing.T, what string, check func(t *testing.T, via *proxy)) {
	t.Helper()
	for _, via := range p.proxies {
		t.Run(what+"/"+via.Name, func(t *testing.T) { check(t, via) })
	}
	noCrashes(t, p.servers()...)
}

// servers are all that run Dovecot.
func (p *platform) servers() []*dovecot.Server {
	all := slices.Clone(p.backends)
	for _, via := range p.proxies {
		all = append(all, via.Server)
	}
	return all
}

// backend returns one by name.
func (p *platform) backend(name string) *dovecot.Server {
	i := slices.IndexFunc(p.backends, func(b *dovecot.Server) bool { return b.Name == name })
	return p.backends[i]
}

// without returns all backends but one.
func (p *platform) without(name string) []*dovecot.Server {
	return slices.DeleteFunc(slices.Clone(p.backends), func(b *dovecot.Server) bool { return b.Name == name })
}

// undisturbed repeats what has failed while the machine stood still.
func undisturbed(login func() (backend string, err error)) (backend string, err error) {
	for range 5 {
		begun := time.Now()
		if backend, err = login(); err == nil || !program.StoodStill(begun) {
			break
		}
	}
	return backend, err
}

// imap logs user in through the proxy and returns where the user landed.
func (via *proxy) imap(t *testing.T, user string) (backend string, err error) {
	return undisturbed(func() (string, error) { return via.imapOnce(t, user) })
}

func (via *proxy) imapOnce(t *testing.T, user string) (backend string, err error) {
	t.Helper()
	session, err := mail.LoginIMAP(t.Context(), via.At(143), user, dovecot.Password)
	if err != nil {
		return "", err
	}
	defer session.Close()
	mailboxes, err := session.Mailboxes()
	if err != nil {
		return "", err
	}
	return dovecot.Owner(mailboxes)
}

// pop3 logs user in through the proxy and returns where the user landed: backends put their name into the unique ids of
// messages, so there must be one.
func (via *proxy) pop3(t *testing.T, user string) (backend string, err error) {
	return undisturbed(func() (string, error) { return via.pop3Once(t, user) })
}

func (via *proxy) pop3Once(t *testing.T, user string) (backend string, err error) {
	t.Helper()
	session, err := mail.LoginPOP3(t.Context(), via.At(110), user, dovecot.Password)
	if err != nil {
		return "", err
	}
	defer session.Close()
	ids, err := session.UIDs()
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return "", errors.New("no message there")
	}
	backend, _, _ = strings.Cut(ids[0], "/")
	return backend, nil
}

// deliver hands a message to the proxy.
func (via *proxy) deliver(t *testing.T, user string) error {
	t.Helper()
	return mail.Deliver(t.Context(), via.At(24), user, "hello")
}

// wantFailure expects that user fails in this way in every protocol.
func (via *proxy) wantFailure(t *testing.T, user string, kind error) {
	t.Helper()
	_, err := via.imap(t, user)
	wantKind(t, err, kind)
	_, err = via.pop3(t, user)
	wantKind(t, err, kind)
	wantKind(t, via.deliver(t, user), kind)
}

// wantAt expects user on this backend.
func (via *proxy) wantAt(t *testing.T, user, backend string) {
	t.Helper()
	if got, err := via.imap(t, user); err != nil || got != backend {
		t.Errorf("%s landed on %q (%v), want %s", user, got, err, backend)
	}
}

// settle logs new users in, through one proxy after the other, until every backend has at least two, and returns who
// they are by backend.
func (p *platform) settle(t *testing.T, kind string) map[string][]string {
	t.Helper()
	users := map[string][]string{}
	for i := range 200 {
		user := fmt.Sprintf("%s-%d@example.org", kind, i)
		backend, err := p.proxies[i%len(p.proxies)].imap(t, user)
		if err != nil {
			t.Fatal(err)
		}
		users[backend] = append(users[backend], user)
		enough := func(b *dovecot.Server) bool { return len(users[b.Name]) >= 2 }
		if i >= 7 && !slices.ContainsFunc(p.backends, func(b *dovecot.Server) bool { return !enough(b) }) {
			return users
		}
	}
	t.Fatalf("200 users and not two on each backend: %v", users)
	return nil
}
