package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
)

// certificate writes a certificate for 127.0.0.1 that is its own authority, and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
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
	return file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))), file(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

func TestAdminSettingsThatAreRefused(t *testing.T) {
	cert, key := certificate(t)
	token, reading := file(t, "sixteen-or-more-characters\n"), file(t, "another-that-may-only-read")
	absent := filepath.Join(t.TempDir(), "absent")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"open to all":                   {[]string{"--admin-listen", ":8082"}, "--admin-listen :8082 can be reached from other machines: --admin-token-file (environment: ADMIN_TOKEN_FILE) is missing"},
		"open to all by address":        {[]string{"--admin-listen", "192.0.2.1:8082", "--admin-tls-cert-file", cert, "--admin-tls-key-file", key}, "--admin-token-file"},
		"a token without TLS":           {[]string{"--admin-listen", "0.0.0.0:8082", "--admin-token-file", token}, "tokens could be read on the way: --admin-tls-cert-file"},
		"a host that may be elsewhere":  {[]string{"--admin-listen", "localhost.example:8082"}, "--admin-token-file"},
		"an address that is none":       {[]string{"--admin-listen", "8082"}, `"8082" is not an address to listen on; write HOST:PORT or :PORT, or off`},
		"a certificate without a key":   {[]string{"--admin-tls-cert-file", cert}, "belong together: one is missing"},
		"a key without a certificate":   {[]string{"--admin-tls-key-file", key}, "belong together: one is missing"},
		"a certificate that is none":    {[]string{"--admin-tls-cert-file", token, "--admin-tls-key-file", key}, "TLS of --admin-tls-cert-file (environment: ADMIN_TLS_CERT_FILE): "},
		"a token file that is absent":   {[]string{"--admin-token-file", absent}, "--admin-token-file (environment: ADMIN_TOKEN_FILE): open "},
		"a token that is short":         {[]string{"--admin-token-file", file(t, "secret")}, "is not a token of at least 16 printable ASCII characters"},
		"a token that is broken":        {[]string{"--admin-token-file", file(t, "sixteen-or-more-secret\nor-more-secret")}, "line 2 of "},
		"nothing but a token to read":   {[]string{"--admin-read-token-file", reading}, "nobody could give orders"},
		"the same token for both":       {[]string{"--admin-token-file", token, "--admin-read-token-file", token}, "hold the same token"},
		"a read token file that is bad": {[]string{"--admin-token-file", token, "--admin-read-token-file", absent}, "--admin-read-token-file (environment: ADMIN_READ_TOKEN_FILE): open "},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"serve", "--endpoints-file", endpoints, "--database-url", "sqlite:x.db"}, tc.args...), none, io.Discard, &stderr)
		if line := stderr.String(); code != exitUsage || strings.Count(line, "\n") != 1 || !strings.Contains(line, tc.want) || strings.Contains(line, "or-more-secret") {
			t.Errorf("%s: exit code %d, %q; want one line with %q", name, code, line, tc.want)
		}
	}
}

func TestAdminSettingsThatAreTaken(t *testing.T) {
	for _, address := range []string{"off", "localhost:8082", "127.0.0.1:0", "127.1.2.3:8082", "[::1]:8082"} {
		s := adminSettings{listen: address}
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	cert, key := certificate(t)
	s := adminSettings{
		listen: ":8082", tokenFile: file(t, " sixteen-or-more-characters\r\n\nanother-of-that-length"),
		tls: tlsSettings{files: directorhttp.TLSFiles{Cert: cert, Key: key}},
	}
	if err := s.check(); err != nil {
		t.Errorf("%+v: %v", s, err)
	}
	if tokens, err := readTokens(adminTokenFile, s.tokenFile); err != nil || !slices.Equal(tokens, []string{"sixteen-or-more-characters", "another-of-that-length"}) {
		t.Errorf("%q, %v", tokens, err)
	}
}

func TestOperatingWithTokensAndTLS(t *testing.T) {
	cert, key := certificate(t)
	writing, reading := file(t, "sixteen-or-more-characters\n"), file(t, "another-that-may-only-read\n")
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t), "--admin-listen", "0.0.0.0:0",
		"--admin-token-file", writing, "--admin-read-token-file", reading, "--admin-tls-cert-file", cert, "--admin-tls-key-file", key)
	_, port, err := net.SplitHostPort(i.admin)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"all":             {[]string{"drain", "dovecot-backend-0", "--admin-token-file", writing, "--admin-ca-file", cert}, 0, ""},
		"reading":         {[]string{"status", "--admin-token-file", reading, "--admin-ca-file", cert}, 0, ""},
		"only reading":    {[]string{"drain", "dovecot-backend-0", "--admin-token-file", reading, "--admin-ca-file", cert}, exitFailure, "this token may only read"},
		"no token":        {[]string{"status", "--admin-ca-file", cert}, exitFailure, "a token is needed"},
		"a wrong token":   {[]string{"status", "--admin-ca-file", cert, "--admin-token-file", file(t, "some-other-long-token")}, exitFailure, "the token is not known"},
		"no authority":    {[]string{"status", "--admin-token-file", writing}, exitFailure, "certificate signed by unknown authority"},
		"without TLS":     {[]string{"status", "--admin-token-file", writing, "--admin-url", "http://127.0.0.1:" + port}, exitFailure, "answers HTTP 400 Bad Request, and not as an admin API does"},
		"a token for all": {[]string{"status", "--admin-token-file", writing, "--admin-url", "http://director.example:8082"}, exitUsage, "the token could be read on the way; use https"},
	} {
		code, _, stderr := operateAt(t, "https://127.0.0.1:"+port, tc.args...)
		if code != tc.code || !strings.Contains(stderr, tc.want) || code == 0 && stderr != "" {
			t.Errorf("%s: exit code %d, %q; want %d with %q", name, code, stderr, tc.code, tc.want)
		}
	}
	if strings.Contains(i.log.String(), "sixteen-or-more") {
		t.Error("a token is in the log")
	}
}

func TestTheAdminAPICanBeOff(t *testing.T) {
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t), "--admin-listen", "off")
	if i.admin != "off" {
		t.Errorf("it listens on %s", i.admin)
	}
	// Neither do the others have it.
	for _, address := range []string{i.lookups, i.ops} {
		r, err := http.Get("http://" + address + "/api/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		if status, body := read(t, r); status != http.StatusNotFound {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestTheAdminPortMayBeTaken(t *testing.T) {
	taken := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t))
	var stderr bytes.Buffer
	code := run(t.Context(), []string{
		"serve", "--endpoints-file", endpoints, "--database-url", migrated(t), "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
		"--admin-listen", taken.admin, "--log-level", "error",
	}, none, io.Discard, &stderr)
	if line := stderr.String(); code != exitFailure || !strings.Contains(line, "--admin-listen: cannot listen: ") {
		t.Errorf("exit code %d, %q", code, line)
	}
}
