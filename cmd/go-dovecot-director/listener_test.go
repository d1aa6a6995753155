package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLookupSettingsThatAreRefused(t *testing.T) {
	cert, key := certificate(t)
	_, other := certificate(t)
	token := file(t, "sixteen-or-more-characters\n")
	absent := filepath.Join(t.TempDir(), "absent")
	const tlsCert = "TLS of --lookup-tls-cert-file (environment: LOOKUP_TLS_CERT_FILE): "
	const tokenFile = "--lookup-token-file (environment: LOOKUP_TOKEN_FILE): "
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"a certificate without a key":     {[]string{"--lookup-tls-cert-file", cert}, []string{"--lookup-tls-cert-file and --lookup-tls-key-file (environment: LOOKUP_TLS_CERT_FILE, LOOKUP_TLS_KEY_FILE) belong together: one is missing"}},
		"a key without a certificate":     {[]string{"--lookup-tls-key-file", key}, []string{"belong together: one is missing"}},
		"a key that does not fit":         {[]string{"--lookup-tls-cert-file", cert, "--lookup-tls-key-file", other}, []string{tlsCert, "private key does not match public key", other + " its key"}},
		"a certificate that is none":      {[]string{"--lookup-tls-cert-file", token, "--lookup-tls-key-file", key}, []string{tlsCert, token + " must hold a certificate in PEM"}},
		"a key that is absent":            {[]string{"--lookup-tls-cert-file", cert, "--lookup-tls-key-file", absent}, []string{tlsCert, absent + ": no such file"}},
		"authorities without TLS":         {[]string{"--lookup-tls-client-ca-file", cert}, []string{"--lookup-tls-client-ca-file is set without --lookup-tls-cert-file", "set them, or unset this one"}},
		"authorities that are none":       {[]string{"--lookup-tls-cert-file", cert, "--lookup-tls-key-file", key, "--lookup-tls-client-ca-file", token}, []string{tlsCert, token + " holds no certificate in PEM"}},
		"authorities that are absent":     {[]string{"--lookup-tls-cert-file", cert, "--lookup-tls-key-file", key, "--lookup-tls-client-ca-file", absent}, []string{tlsCert, absent + ": no such file"}},
		"a token file that is absent":     {[]string{"--lookup-token-file", absent}, []string{tokenFile, absent + ": no such file"}},
		"a token file that is empty":      {[]string{"--lookup-token-file", file(t, "\n")}, []string{tokenFile, "holds no token; write one into it"}},
		"a token that is short":           {[]string{"--lookup-token-file", file(t, "or-more-secret")}, []string{tokenFile, "line 1 of "}},
		"a token with a break in the mid": {[]string{"--lookup-token-file", file(t, "sixteen-or-more-secret\nor-more-secret\n")}, []string{tokenFile, "line 2 of ", "write each token into one line of its own"}},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"serve", "--endpoints-file", endpoints, "--database-url", "sqlite:x.db"}, tc.args...), none, io.Discard, &stderr)
		line := stderr.String()
		for _, want := range tc.want {
			if !strings.Contains(line, want) {
				t.Errorf("%s: %q has no %q", name, line, want)
			}
		}
		if code != exitUsage || strings.Count(line, "\n") != 1 || strings.Contains(line, "or-more-secret") {
			t.Errorf("%s: exit code %d, %q", name, code, line)
		}
	}
}

// TestLookupsWithATokenOverTLS has all of it on, changes the token while lookups are made, and looks that the other listeners are as they were.
func TestLookupsWithATokenOverTLS(t *testing.T) {
	cert, key := certificate(t)
	token := file(t, "sixteen-or-more-old")
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t),
		"--lookup-token-file", token, "--lookup-tls-cert-file", cert, "--lookup-tls-key-file", key, "--lookup-tls-client-ca-file", cert)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	lookup := func(token string) (int, string) {
		answer, body := answered(t, func() (*http.Response, error) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+i.lookups+"/auth_passdb_lookup", strings.NewReader(`{"user":"ada@example.org"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			return transport.RoundTrip(r)
		}, http.StatusServiceUnavailable)
		return answer.StatusCode, body
	}
	if status, body := lookup("sixteen-or-more-old"); status != http.StatusOK || !strings.Contains(body, `"code":1`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := lookup("sixteen-or-more-new"); status != http.StatusUnauthorized || !strings.Contains(body, `"code":-1`) {
		t.Errorf("%d %s", status, body)
	}
	if err := os.WriteFile(token, []byte("sixteen-or-more-old\nsixteen-or-more-new"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, both := range []string{"sixteen-or-more-new", "sixteen-or-more-old"} {
		if status, body := lookup(both); status != http.StatusOK {
			t.Errorf("%s: %d %s", both, status, body)
		}
	}
	if err := os.WriteFile(token, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body := lookup("sixteen-or-more-young"); status != http.StatusUnauthorized {
		t.Errorf("%d %s", status, body)
	}
	if _, metrics := i.get("/metrics"); !strings.Contains(metrics, `dovecot_director_reload_failures_total{setting="LOOKUP_TOKEN_FILE"} 1`) ||
		!strings.Contains(metrics, `dovecot_director_lookups_total{kind="passdb",outcome="invalid",reason="unauthorized"} 2`) {
		t.Errorf("the metrics do not say so:\n%s", metrics)
	}
	if status, _ := lookup("sixteen-or-more-new"); status != http.StatusOK {
		t.Errorf("%d while the file is broken", status)
	}
	if r, err := http.Post("http://"+i.lookups+"/auth_passdb_lookup", "", strings.NewReader(`{"user":"ada@example.org"}`)); err != nil {
		t.Error(err)
	} else if status, body := read(t, r); status != http.StatusBadRequest || strings.Contains(body, `"code":1`) {
		t.Errorf("without TLS: %d %s", status, body)
	}
	if code, _, stderr := operateAt(t, "http://"+i.admin, "status"); code != 0 {
		t.Errorf("the admin API: exit code %d, %s", code, stderr)
	}
	if strings.Contains(i.log.String(), "or-more") {
		t.Errorf("a token is in the log:\n%s", i.log)
	}
}
