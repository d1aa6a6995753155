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
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func TestTLSFollowsItsFiles(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	var log bytes.Buffer
	s := NewServer(http.NotFoundHandler(), slog.New(slog.NewTextHandler(&log, nil)), WithTLS(certFile, keyFile))
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
	if name := served() + served(); name != "firstfirst" || strings.Count(log.String(), "the changed certificate cannot be used") != 1 {
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
