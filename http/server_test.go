package http

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOldConnectionsAreClosed runs the clock: a connection lives for five minutes, more or less by a fifth.
func TestOldConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(http.NotFoundHandler(), nil)
		closed := func(c *connection) bool {
			w := httptest.NewRecorder()
			request := httptest.NewRequestWithContext(context.WithValue(t.Context(), connectionKey{}, c), http.MethodPost, "/", nil)
			s.server.Handler.ServeHTTP(w, request)
			return w.Header().Get("Connection") == "close"
		}
		connections := make([]*connection, 200)
		for i := range connections {
			connections[i] = newConnection(time.Now())
		}
		count := func() (n int) {
			for _, c := range connections {
				if closed(c) {
					n++
				}
			}
			return n
		}
		time.Sleep(connectionAge * 4 / 5)
		if n := count(); n != 0 {
			t.Errorf("%d closed after 4m", n)
		}
		time.Sleep(connectionAge / 5)
		if n := count(); n < 50 || n > 150 {
			t.Errorf("%d of 200 closed after 5m, want about half", n)
		}
		time.Sleep(connectionAge/5 + time.Second)
		if n := count(); n != len(connections) {
			t.Errorf("%d closed after 6m", n)
		}
		s.closing.Store(true)
		if !closed(newConnection(time.Now())) {
			t.Error("a new connection is kept at shutdown")
		}
	})
}

func TestEncodingASuccessAllocatesItsBufferOnly(t *testing.T) {
	b := make([]byte, 0, 160)
	addr := netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678")
	if n := testing.AllocsPerRun(100, func() { b = appendSuccess(b[:0], addr, 31143, time.Unix(1790000000, 0)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(b) > 160 {
		t.Errorf("%d bytes", len(b))
	}
}

// identity is a certificate with its key, in PEM and for Go.
type identity struct {
	cert, key string
	pair      tls.Certificate
}

// issue makes a certificate for 127.0.0.1 that an authority signs, or is one itself without.
func issue(t testing.TB, name string, by *identity) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: by == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, any(key)
	if by != nil {
		parent, signer = by.pair.Leaf, by.pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	i := &identity{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
	}
	if i.pair, err = tls.X509KeyPair([]byte(i.cert), []byte(i.key)); err != nil {
		t.Fatal(err)
	}
	return i
}

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	i := issue(t, name, nil)
	for path, text := range map[string]string{certFile: i.cert, keyFile: i.key} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLSFollowsItsFiles(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	var log lockedBuffer
	s := NewServer(http.NotFoundHandler(), slog.New(slog.NewTextHandler(&log, nil)), WithTLS(TLSFiles{Cert: certFile, Key: keyFile}, nil))
	if err := s.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "cannot serve TLS: ") || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("without files: %v", err)
	}
	selfSigned(t, certFile, keyFile, "first")
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	served := func() string {
		c, err := tls.Dial("tcp", s.Addr(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	age := func(file string, by time.Duration) {
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(by)); err != nil {
			t.Fatal(err)
		}
	}
	if name := served(); name != "first" {
		t.Error(name)
	}
	whole, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, whole[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	age(keyFile, time.Minute)
	if name := served() + served(); name != "firstfirst" || strings.Count(log.String(), "changed files cannot be used") != 1 {
		t.Errorf("half a key: %s, %s", name, log.String())
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if name := served(); name != "first" {
		t.Error(name)
	}
	selfSigned(t, certFile, keyFile, "second")
	age(certFile, time.Hour)
	if name := served(); name != "second" {
		t.Error(name)
	}
}

// TestTLSAsksForCertificates changes the authorities of clients as a Secret is changed, and looks who is let in.
func TestTLSAsksForCertificates(t *testing.T) {
	before, after := issue(t, "authority before", nil), issue(t, "authority after", nil)
	director := issue(t, "director", before)
	secret := secret{t.TempDir()}
	write := func(authorities string) {
		secret.write(t, map[string]string{"tls.crt": director.cert, "tls.key": director.key, "ca.crt": authorities})
	}
	write(before.cert)
	var log lockedBuffer
	var failed atomic.Int64
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})
	address := run(t, NewServer(ok, slog.New(slog.NewTextHandler(&log, nil)), WithTLS(
		TLSFiles{Cert: secret.path("tls.crt"), Key: secret.path("tls.key"), ClientCA: secret.path("ca.crt")}, func() { failed.Add(1) })))
	roots := x509.NewCertPool()
	roots.AddCert(before.pair.Leaf)
	// A proxy keeps its connection, and, for new ones, the session.
	proxy := func(i *identity) *http.Client {
		config := &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
		if i != nil {
			config.Certificates = []tls.Certificate{i.pair}
		}
		transport := &http.Transport{TLSClientConfig: config}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	ask := func(c *http.Client, anew bool) error {
		if anew {
			c.CloseIdleConnections()
		}
		response, err := c.Get("https://" + address)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		return errors.Join(err, response.Body.Close())
	}
	let := func(when string, c *http.Client, anew, want bool) {
		t.Helper()
		if err := ask(c, anew); (err == nil) != want {
			t.Errorf("%s: let in is to be %v: %v", when, want, err)
		}
	}
	kept, older, newer, none := proxy(issue(t, "proxy", before)), proxy(issue(t, "proxy", before)), proxy(issue(t, "proxy", after)), proxy(nil)
	let("at first", kept, true, true)
	let("at first", older, true, true)
	let("of another authority", newer, true, false)
	let("without a certificate", none, true, false)
	// The server writes about a client after it has told him.
	until(t, "a refusal is logged", func() bool { return strings.Contains(log.String(), "a client is not let in") })
	if text := log.String(); strings.Count(text, "level=WARN") != 1 {
		t.Errorf("two refusals are to be one line:\n%s", text)
	}
	write(before.cert + after.cert)
	for name, c := range map[string]*http.Client{"before": older, "after": newer} {
		let("with both authorities: "+name, c, true, true)
	}
	let("with both authorities", none, true, false)
	write("not a certificate")
	broken := time.Now()
	for name, c := range map[string]*http.Client{"before": older, "after": newer} {
		let("with a file that is broken: "+name, c, true, true)
	}
	if n := failed.Load(); n < 1 || n > 1+int64(time.Since(broken)/retryEvery) || !strings.Contains(log.String(), "ca.crt holds no certificate in PEM") {
		t.Errorf("told of %d failures; log:\n%s", n, log.String())
	}
	write(after.cert)
	let("with the new authority", newer, true, true)
	let("with the new authority, and a session of before", older, true, false)
	let("on a connection of before", kept, false, true)
}

// BenchmarkTLS is what TLS adds to a request, and to a connection; both ends together.
func BenchmarkTLS(b *testing.B) {
	ca := issue(b, "authority", nil)
	director, proxy := issue(b, "director", ca), issue(b, "proxy", ca)
	dir := b.TempDir()
	for name, text := range map[string]string{"tls.crt": director.cert, "tls.key": director.key, "ca.crt": ca.cert} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	files := TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	shown := files
	shown.ClientCA = filepath.Join(dir, "ca.crt")
	roots := x509.NewCertPool()
	roots.AddCert(ca.pair.Leaf)
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})
	for _, tc := range []struct {
		name, scheme string
		options      []ServerOption
	}{
		{"plain", "http", nil},
		{"TLS", "https", []ServerOption{WithTLS(files, nil)}},
		{"TLS with certificates of clients", "https", []ServerOption{WithTLS(shown, nil)}},
	} {
		url := tc.scheme + "://" + run(b, NewServer(answer, nil, tc.options...))
		for _, kept := range []bool{true, false} {
			name := map[bool]string{true: "kept connection", false: "new connection"}[kept]
			b.Run(name+"/"+tc.name, func(b *testing.B) {
				transport := &http.Transport{DisableKeepAlives: !kept, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{proxy.pair}}}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				for b.Loop() {
					response, err := client.Get(url)
					if err != nil {
						b.Fatal(err)
					}
					response.Body.Close()
				}
			})
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
