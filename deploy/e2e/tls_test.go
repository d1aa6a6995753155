package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

const (
	oldToken = "old-token-of-the-proxies"
	newToken = "new-token-of-the-proxies"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	return a
}

// sign makes a certificate of an authority, or one that is one itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(time.Now().UnixNano()), true
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue makes a certificate and its key, in PEM: for a server at an address, or for a client.
func (a *authority) issue(t *testing.T, addr netip.Addr) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "proxy"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if addr.IsValid() {
		template.Subject.CommonName = "director"
		template.IPAddresses, template.ExtKeyUsage[0] = []net.IP{addr.AsSlice()}, x509.ExtKeyUsageServerAuth
	}
	c, k := sign(t, template, a)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

// secret is a folder as Kubernetes mounts a Secret: its files are links by way of another, which is all that changes.
type secret struct{ dir string }

// newSecret makes one that Dovecot's users may enter. Keys can be read by root only.
func newSecret(t *testing.T, files map[string]string) secret {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gdd-secret-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := secret{dir}
	s.write(t, files)
	return s
}

func (s secret) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces all files.
func (s secret) write(t *testing.T, files map[string]string) {
	t.Helper()
	version, err := os.MkdirTemp(s.dir, "..version")
	if err != nil {
		t.Fatal(err)
	}
	err = os.Chmod(version, 0o755)
	for name, text := range files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".key") {
			mode = 0o600
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(version, name), []byte(text), mode))
		if link := os.Symlink(filepath.Join("..data", name), s.path(name)); !errors.Is(link, os.ErrExist) {
			err = errors.Join(err, link)
		}
	}
	err = errors.Join(err, os.Symlink(filepath.Base(version), s.path("..data_tmp")), os.Rename(s.path("..data_tmp"), s.path("..data")))
	if err != nil {
		t.Fatal(err)
	}
}

// guarded is a platform whose one director wants TLS, certificates and tokens of its proxies.
type guarded struct {
	*platform
	director *program.Director
	addr     netip.Addr
	secret   secret
}

// directorFiles is the director's Secret.
func directorFiles(cert, key, clientCAs, tokens string) map[string]string {
	return map[string]string{"tls.crt": cert, "tls.key": key, "ca.crt": clientCAs, "token": tokens}
}

// proxyFiles is a proxy's.
func proxyFiles(cert, key, directorCAs, token string) map[string]string {
	return map[string]string{"proxy.crt": cert, "proxy.key": key, "director-ca.crt": directorCAs, "token": token}
}

// newGuarded starts one without proxies, with certificates of an authority and the old token.
func newGuarded(t *testing.T, ca *authority) *guarded {
	t.Helper()
	g := &guarded{platform: newBackends(t, dovecot.DefaultPorts)}
	g.endpoints.write(t, false, g.backends...)
	g.addr = g.net.Addr(100)
	cert, key := ca.issue(t, g.addr)
	g.secret = newSecret(t, directorFiles(cert, key, ca.pem, oldToken))
	g.director = program.Start(t, g.addr, nil, nil, "--endpoints-file", g.endpoints.path, "--database-url", g.database.url,
		"--lookup-token-file", g.secret.path("token"), "--lookup-tls-cert-file", g.secret.path("tls.crt"), "--lookup-tls-key-file", g.secret.path("tls.key"),
		"--lookup-tls-client-ca-file", g.secret.path("ca.crt"))
	return g
}

// proxy starts one that asks the director.
func (g *guarded) proxy(t *testing.T, version dovecot.Version, n byte, c dovecot.ProxyConfig) *proxy {
	t.Helper()
	if c.DirectorURL == "" {
		c.DirectorURL = "https://" + g.director.Addr()
	}
	return &proxy{director: g.director, Server: dovecot.StartProxy(t, version, g.net.Addr(n), c)}
}

// with is a proxy's configuration with its Secret.
func with(s secret) dovecot.ProxyConfig {
	return dovecot.ProxyConfig{TokenFile: s.path("token"), Certificates: s.dir}
}

// Whoever may not ask is told nothing, and its users get a temporary failure: it is never their fault.
func TestLookupsOverTLSWithToken(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "authority"), newAuthority(t, "another authority")
	g := newGuarded(t, ca)
	cert, key := ca.issue(t, netip.Addr{})
	otherCert, otherKey := other.issue(t, netip.Addr{})
	unreadable := newSecret(t, proxyFiles(cert, key, ca.pem, oldToken))
	if err := os.Chmod(unreadable.path("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := newSecret(t, proxyFiles(cert, key, ca.pem, oldToken+"\n"+newToken+"\n"))
	without := func(files map[string]string, name string) map[string]string {
		delete(files, name)
		return files
	}
	for i, version := range versions {
		t.Run(string(version), func(t *testing.T) {
			via := g.proxy(t, version, byte(1+i), with(good))
			for k := range 3 {
				g.wantOneBackend(t, via, fmt.Sprintf("u%d-%s@example.org", k, via.Name))
			}
			if out := via.Doveadm(t, "user", "u0-"+via.Name+"@example.org"); !strings.Contains(out, "proxy\t") {
				t.Errorf("a userdb lookup: %s", out)
			}
			n := byte(30 + 20*i)
			for name, c := range map[string]dovecot.ProxyConfig{
				"a wrong token":                         with(newSecret(t, proxyFiles(cert, key, ca.pem, newToken))),
				"no token":                              {Certificates: good.dir},
				"an empty token":                        with(newSecret(t, proxyFiles(cert, key, ca.pem, "\n"))),
				"a token that is not there":             with(newSecret(t, without(proxyFiles(cert, key, ca.pem, ""), "token"))),
				"a token that only root may read":       with(unreadable),
				"no certificate":                        {TokenFile: good.path("token"), Settings: "ssl_client_ca_file = " + good.path("director-ca.crt")},
				"a certificate of another authority":    with(newSecret(t, proxyFiles(otherCert, otherKey, ca.pem, oldToken))),
				"a director that is not trusted":        with(newSecret(t, proxyFiles(cert, key, other.pem, oldToken))),
				"no authority that names the director":  {TokenFile: good.path("token")},
				"a script that knows of no token or CA": {},
				"a URL without TLS":                     {DirectorURL: g.director.URL(), TokenFile: good.path("token")},
			} {
				at := n
				n++
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					bad := g.proxy(t, version, at, c)
					bad.wantFailure(t, "ada@example.org", mail.ErrTemporary)
					noCrashes(t, bad.Server)
				})
			}
			noCrashes(t, via.Server)
		})
	}
	log := g.director.Log()
	for _, want := range []string{"a lookup was refused; its user gets a temporary failure", "a client is not let in, or does not trust this server"} {
		if strings.Count(log, want) == 0 || strings.Count(log, want) > 10 {
			t.Errorf("%q is in the log %d times", want, strings.Count(log, want))
		}
	}
	if strings.Contains(log, "of-the-proxies") {
		t.Error("a token is in the log")
	}
	for user := range g.database.rows(t) {
		if user == "ada@example.org" {
			t.Error("a lookup that was refused has mapped its user")
		}
	}

	// A certificate for another name, from now on, is one that no proxy takes.
	elsewhere, elsewhereKey := ca.issue(t, g.net.Addr(99))
	g.secret.write(t, directorFiles(elsewhere, elsewhereKey, ca.pem, oldToken))
	for i, version := range versions {
		g.proxy(t, version, byte(3+i), with(good)).wantFailure(t, "ada@example.org", mail.ErrTemporary)
	}
}

// Token, certificates and authorities are all replaced while users log in, step by step as the README says. Nobody notices.
func TestTokensAndCertificatesAreReplacedWhileUsersLogIn(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t, "authority before"), newAuthority(t, "authority after")
	g := newGuarded(t, before)
	cert, key := before.issue(t, netip.Addr{})
	secrets := map[*proxy]secret{}
	for i, version := range versions {
		s := newSecret(t, proxyFiles(cert, key, before.pem, oldToken))
		c := with(s)
		c.Settings = "shutdown_clients = no" // or a reload ends sessions
		via := g.proxy(t, version, byte(1+i), c)
		g.proxies = append(g.proxies, via)
		secrets[via] = s
	}
	var early []*mail.IMAP
	for _, via := range g.proxies {
		session, err := mail.LoginIMAP(t.Context(), via.At(143), "early@example.org", dovecot.Password)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		early = append(early, session)
	}
	l := g.logins(t)

	step := func(what string, directors, proxies map[string]string) {
		t.Helper()
		if directors != nil {
			g.secret.write(t, directors)
		}
		for via, s := range secrets {
			if proxies != nil {
				s.write(t, proxies)
				via.Reload(t) // workers with new connections, too
			}
		}
		l.await(t, what)
	}
	oldCert, oldKey := before.issue(t, g.addr)
	newCert, newKey := after.issue(t, g.addr)
	newClient, newClientKey := after.issue(t, netip.Addr{})
	both, tokens := before.pem+after.pem, oldToken+"\n"+newToken+"\n"
	step("the director takes both", directorFiles(oldCert, oldKey, both, tokens), nil)
	step("the proxies trust both, and show what is new", nil, proxyFiles(newClient, newClientKey, both, newToken))
	step("the director shows what is new", directorFiles(newCert, newKey, both, tokens), nil)
	step("the proxies have what is new", nil, proxyFiles(newClient, newClientKey, after.pem, newToken))
	step("the director takes what is new", directorFiles(newCert, newKey, after.pem, newToken), nil)
	step("the proxies come anew", nil, proxyFiles(newClient, newClientKey, after.pem, newToken))
	l.stop(t)
	for i, session := range early {
		if err := session.Noop(); err != nil {
			t.Errorf("%s: a session that was open all the time: %v", g.proxies[i].Name, err)
		}
	}
	noCrashes(t, g.servers()...)

	oldPair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	newPair, err := tls.X509KeyPair([]byte(newClient), []byte(newClientKey))
	if err != nil {
		t.Fatal(err)
	}
	if status, err := g.ask(t, after, newPair, newToken); err != nil || status != http.StatusOK {
		t.Errorf("with what is new: %d, %v", status, err)
	}
	if status, err := g.ask(t, after, newPair, oldToken); err != nil || status != http.StatusUnauthorized {
		t.Errorf("with the old token: %d, %v", status, err)
	}
	if status, err := g.ask(t, after, oldPair, newToken); err == nil {
		t.Errorf("with the old certificate: %d", status)
	}
	if status, err := g.ask(t, before, newPair, newToken); err == nil {
		t.Errorf("the director is known by the old authority: %d", status)
	}
}

// ask makes a lookup over a connection of its own.
func (g *guarded) ask(t *testing.T, trusted *authority, pair tls.Certificate, token string) (status int, err error) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(trusted.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.director.Addr()+"/auth_passdb_lookup", strings.NewReader(`{"user":"ada@example.org"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// logins are users who log in and get mail all the time, through each proxy.
type logins struct {
	stop  func(t *testing.T)
	proxy []*proxy
	done  []atomic.Int64
}

func (p *platform) logins(t *testing.T) *logins {
	t.Helper()
	l := &logins{proxy: p.proxies, done: make([]atomic.Int64, len(p.proxies))}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i, via := range p.proxies {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				user := fmt.Sprintf("%s-%d@example.org", via.Name, n%20)
				session, err := mail.LoginIMAP(t.Context(), via.At(143), user, dovecot.Password)
				if err == nil {
					session.Close()
				}
				if err != nil {
					t.Errorf("%s, after %d logins: %v", via.Name, n, err)
				}
				l.done[i].Add(1)
			}
		})
	}
	l.stop = func(*testing.T) {
		cancel()
		all.Wait()
	}
	t.Cleanup(func() { l.stop(t) })
	return l
}

// await waits until there were 20 more logins through each proxy.
func (l *logins) await(t *testing.T, what string) {
	t.Helper()
	for i := range l.done {
		begun := l.done[i].Load()
		eventually(t, what+": logins through "+l.proxy[i].Name, func() error {
			if n := l.done[i].Load() - begun; n < 20 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
}
