package store_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	cert := must[*x509.Certificate](t)(x509.ParseCertificate(der))
	return &authority{cert: cert, key: key, file: pemFile(t, "CERTIFICATE", der)}
}

// sign makes a certificate and its key, both in PEM, for a name that ends in so long.
func (a *authority) sign(t *testing.T, name string, serial int64, ends time.Duration) (cert, key []byte) {
	t.Helper()
	private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(ends),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key))
	secret := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(private))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	return keep(t, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// keep writes a file that lives as long as the test.
func keep(t *testing.T, content []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// encrypted is a PostgreSQL server that speaks TLS.
type encrypted struct {
	*pgtest.Server
	ca     *authority
	serial int64
}

// newEncrypted starts a server whose certificate is for localhost, and which knows its own authority's clients.
func newEncrypted(t *testing.T) *encrypted {
	t.Helper()
	e := &encrypted{Server: pgtest.Start(t), ca: newAuthority(t, "authority")}
	ca, err := os.ReadFile(e.ca.file)
	if err != nil {
		t.Fatal(err)
	}
	e.WriteFile(t, "clients.crt", ca)
	for _, setting := range []string{"ssl = on", "ssl_ca_file = 'clients.crt'"} {
		pgtest.Exec(t, e.URL("postgres"), "ALTER SYSTEM SET "+setting)
	}
	e.certify(t, "localhost", time.Hour)
	return e
}

// certify gives the running server another certificate, and waits until it shows it.
func (e *encrypted) certify(t *testing.T, name string, ends time.Duration) {
	t.Helper()
	e.serial++
	cert, key := e.ca.sign(t, name, e.serial, ends)
	e.WriteFile(t, "server.crt", cert)
	e.WriteFile(t, "server.key", key)
	e.Reload()
	until(t, "the server shows its certificate", func() bool {
		serial, err := shownBy(e.Addr())
		return err == nil && serial == e.serial
	})
}

// shownBy returns the serial number of the certificate that a server shows.
func shownBy(address string) (int64, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer := make([]byte, 1)
	if _, err := conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
		return 0, err
	}
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 'S' {
		return 0, fmt.Errorf("no TLS: %q, %w", answer, err)
	}
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		return 0, err
	}
	return client.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

// way is how a database is configured: by a URL, or in parts with the files in the environment.
type way func(t *testing.T, plain, host, mode string, files map[string]string) store.Config

var ways = map[string]way{
	"URL": func(t *testing.T, plain, host, mode string, files map[string]string) store.Config {
		u, q := must[*url.URL](t)(url.Parse(plain)), url.Values{"sslmode": {mode}}
		u.Host = net.JoinHostPort(host, u.Port())
		for name, file := range files {
			q.Set(strings.ToLower(strings.TrimPrefix(name, "PG")), file)
		}
		u.RawQuery = q.Encode()
		return store.Config{URL: u.String()}
	},
	"parts": func(t *testing.T, plain, host, mode string, files map[string]string) store.Config {
		for name, file := range files {
			t.Setenv(name, file)
		}
		u := must[*url.URL](t)(url.Parse(plain))
		return store.Config{Host: host, Port: u.Port(), Name: strings.TrimPrefix(u.Path, "/"), User: u.User.Username(), SSLMode: mode}
	},
}

// TestTLSToPostgres holds that the modes check what they say, and that who is refused is told what to do.
func TestTLSToPostgres(t *testing.T) {
	const right, wrong = "localhost", "127.0.0.1"
	e := newEncrypted(t)
	stranger := newAuthority(t, "stranger")
	plain := migrated(t, e.Server)
	without := migrated(t, server)
	absent := filepath.Join(t.TempDir(), "absent")
	type attempt struct {
		url, host, mode, ca string
		want                string // of the error; empty if it is let in
	}
	try := func(t *testing.T, name string, a attempt) {
		for kind, w := range ways {
			t.Run(name+", by "+kind, func(t *testing.T) {
				files := map[string]string{}
				if a.ca != "" {
					files["PGSSLROOTCERT"] = a.ca
				}
				db := run(t, w(t, a.url, a.host, a.mode, files))
				if a.want == "" {
					until(t, "the store is up", func() bool { return db.Status().Err == nil })
					assign(t, db, "ada", "", "backend-1", director.Proposed)
					return
				}
				until(t, "the cause is known: "+a.want, func() bool {
					err := db.Status().Err
					return err != nil && strings.Contains(err.Error(), a.want)
				})
				if db.Status().Answered {
					t.Error("it was let in")
				}
			})
		}
	}
	for name, a := range map[string]attempt{
		"full":                          {plain, right, "verify-full", e.ca.file, ""},
		"full, another name":            {plain, wrong, "verify-full", e.ca.file, "let DATABASE_HOST or DATABASE_URL name the server as its certificate does"},
		"full, another authority":       {plain, right, "verify-full", stranger.file, "let PGSSLROOTCERT, or sslrootcert in DATABASE_URL, name a file with the authority"},
		"full, no authority":            {plain, right, "verify-full", "", "let PGSSLROOTCERT"},
		"full, an authority's file":     {plain, right, "verify-full", absent, "no such file or directory: look at PGSSLROOTCERT"},
		"authority":                     {plain, right, "verify-ca", e.ca.file, ""},
		"authority, another name":       {plain, wrong, "verify-ca", e.ca.file, ""},
		"authority, another one":        {plain, right, "verify-ca", stranger.file, "let PGSSLROOTCERT"},
		"required":                      {plain, wrong, "require", "", ""},
		"required, there is none":       {without, wrong, "require", "", "switch TLS on at the server, or choose a DATABASE_SSLMODE that does without"},
		"preferred":                     {plain, wrong, "prefer", "", ""},
		"preferred, and there is none":  {without, wrong, "prefer", "", ""},
		"full, and there is none":       {without, right, "verify-full", e.ca.file, "switch TLS on at the server"},
		"allowed, and it is not needed": {plain, wrong, "allow", "", ""},
	} {
		try(t, name, a)
	}
	e.certify(t, right, -time.Hour)
	try(t, "full, expired", attempt{plain, right, "verify-full", e.ca.file, "renew the server's certificate"})
	try(t, "authority, expired", attempt{plain, right, "verify-ca", e.ca.file, "renew the server's certificate"})
}

// TestEveryConnectionIsEncrypted looks at the sessions of a replica with the server's eyes: all pools, and who listens. A certificate that
// is replaced meanwhile, and its authority, are not noticed.
func TestEveryConnectionIsEncrypted(t *testing.T) {
	for kind, w := range ways {
		t.Run(kind, func(t *testing.T) {
			e := newEncrypted(t)
			plain, known := migrated(t, e.Server), e.ca.file
			f, _ := follow(t, ledgerBench{open: func(t *testing.T, replica string) *store.DB {
				c := w(t, plain, "localhost", "verify-full", map[string]string{"PGSSLROOTCERT": known})
				c.Replica = replica
				return open(t, c)
			}}, "r1")
			use := func(user string) {
				assign(t, f.db, user, "", "backend-1", director.Proposed)
				if _, err := f.db.Counts(t.Context()); err != nil {
					t.Error(err)
				}
				if err := f.db.Each(t.Context(), func(director.Row) error { return nil }); err != nil {
					t.Error(err)
				}
				if _, err := f.Journal(t.Context(), "", 0, 1); err != nil {
					t.Error(err)
				}
			}
			use("ada")
			session := sessions(t, plain)
			until(t, "it listens", func() bool { return session("query ILIKE 'LISTEN%'") == 1 })
			if all, open := session("true"), session("NOT ssl"); all < 5 || open != 0 {
				t.Errorf("%d of %d sessions are not encrypted", open, all)
			}

			e.ca = newAuthority(t, "the next authority")
			if err := os.Rename(e.ca.file, known); err != nil {
				t.Fatal(err)
			}
			e.ca.file = known
			e.certify(t, "localhost", time.Hour)
			pgtest.Exec(t, plain, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'go-dovecot-director'")
			until(t, "it is up again", func() bool {
				_, err := f.db.Get(t.Context(), "ada")
				return err == nil && session("query ILIKE 'LISTEN%'") == 1
			})
			use("eve")
			if open := session("NOT ssl"); open != 0 {
				t.Errorf("%d sessions are not encrypted with another certificate", open)
			}
		})
	}
}

// sessions returns what counts the director's sessions in a database for which a condition holds.
func sessions(t *testing.T, plain string) func(condition string) int {
	t.Helper()
	db, err := sql.Open("postgres", plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return func(condition string) (n int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
			WHERE datname = current_database() AND application_name = 'go-dovecot-director' AND `+condition).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// TestClientCertificates lets a role in by its certificate alone.
func TestClientCertificates(t *testing.T) {
	e := newEncrypted(t)
	plain := migrated(t, e.Server)
	pgtest.Exec(t, plain, `CREATE ROLE director LOGIN SUPERUSER`)
	e.WriteFile(t, "pg_hba.conf", []byte("hostssl all director 127.0.0.1/32 cert\nhostnossl all director 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 trust\n"))
	e.Reload()
	as := strings.Replace(plain, "postgres@", "director@", 1)
	until(t, "the server asks for certificates", func() bool {
		db, err := sql.Open("postgres", as)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		return db.PingContext(t.Context()) != nil
	})
	files := func(a *authority, name string, mode os.FileMode) map[string]string {
		cert, key := a.sign(t, name, 77, time.Hour)
		return map[string]string{"PGSSLROOTCERT": e.ca.file, "PGSSLCERT": keep(t, cert, 0o644), "PGSSLKEY": keep(t, key, mode)}
	}
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"its own":            {files(e.ca, "director", 0o600), ""},
		"another's":          {files(e.ca, "somebody", 0o600), "certificate authentication failed"},
		"none":               {map[string]string{"PGSSLROOTCERT": e.ca.file}, "valid client certificate"},
		"of a stranger":      {files(newAuthority(t, "stranger"), "director", 0o600), "look at PGSSLCERT and PGSSLKEY"},
		"as in a pod":        {files(e.ca, "director", 0o440), ofRoot("in a pod, mount the Secret")},
		"with a key for all": {files(e.ca, "director", 0o644), "in a pod, mount the Secret with defaultMode 0440 and set fsGroup"},
	} {
		for kind, w := range ways {
			t.Run(name+", by "+kind, func(t *testing.T) {
				db := run(t, w(t, as, "localhost", "verify-full", tc.files))
				until(t, "it is as expected: "+tc.want, func() bool {
					err := db.Status().Err
					return err == nil && tc.want == "" || err != nil && tc.want != "" && strings.Contains(err.Error(), tc.want)
				})
				if tc.want != "" {
					return
				}
				session := sessions(t, plain)
				if n := session("client_dn = '/CN=director' AND usename = 'director'"); n == 0 {
					t.Error("the server saw no certificate")
				}
			})
		}
	}
}

// ofRoot is the error for whose files are not root's, as a Secret's are: then the group may not read them.
func ofRoot(others string) string {
	if os.Geteuid() == 0 {
		return ""
	}
	return others
}

// TestAnAuthorityThatIsNotAskedIsToldOf holds that nobody trusts in a file that verifies nothing.
func TestAnAuthorityThatIsNotAskedIsToldOf(t *testing.T) {
	for mode, want := range map[string]bool{"disable": true, "allow": true, "prefer": true, "require": false, "verify-ca": false, "verify-full": false} {
		for kind, w := range ways {
			t.Run(mode+", by "+kind, func(t *testing.T) {
				var log bytes.Buffer
				c := w(t, "postgres://director@127.0.0.1:5432/mail", "127.0.0.1", mode, map[string]string{"PGSSLROOTCERT": "/etc/ca.crt"})
				c.Logger = slog.New(slog.NewTextHandler(&log, nil))
				db, err := store.Open(c)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if got := strings.Contains(log.String(), "set DATABASE_SSLMODE to verify-full"); got != want {
					t.Errorf("the log is %q", log.String())
				}
			})
		}
	}
}
