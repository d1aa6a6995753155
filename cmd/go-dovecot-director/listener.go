package main

import (
	"errors"
	"fmt"
	"log/slog"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/spf13/pflag"
)

// The settings that name files of tokens.
const (
	adminTokenFile     = "admin-token-file"
	adminReadTokenFile = "admin-read-token-file"
	lookupTokenFile    = "lookup-token-file"
)

// reloadedSettings name files that are read again when they change; a certificate's stands for its key and for the authorities, too.
var reloadedSettings = []string{environmentName(lookupTokenFile), "LOOKUP_TLS_CERT_FILE", environmentName(adminTokenFile), environmentName(adminReadTokenFile), "ADMIN_TLS_CERT_FILE"}

// lookupSettings say who may make lookups.
type lookupSettings struct {
	tokenFile string
	tls       tlsSettings
}

func (s *lookupSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.tokenFile, lookupTokenFile, "file", "", "file that holds the token which proxies must send, or several, one a line; read again when it changes", parseText)
	s.tls.register(fs, "lookup", "the lookup API")
	add(fs, &s.tls.files.ClientCA, "lookup-tls-client-ca-file", "file", "", "authorities of which proxies must show a certificate, in PEM", parseText)
}

func (s *lookupSettings) check() error {
	if s.tls.files.ClientCA != "" && s.tls.files.Cert == "" {
		return errors.New("--lookup-tls-client-ca-file is set without --lookup-tls-cert-file and --lookup-tls-key-file (environment: LOOKUP_TLS_CLIENT_CA_FILE, LOOKUP_TLS_CERT_FILE, LOOKUP_TLS_KEY_FILE): proxies can show a certificate over TLS only; set them, or unset this one")
	}
	if err := s.tls.check(); err != nil {
		return err
	}
	_, err := readTokens(lookupTokenFile, s.tokenFile)
	return err
}

// server makes the server of the lookup API. It does not listen yet.
func (s *lookupSettings) server(resolver directorhttp.Resolver, meter directorhttp.LookupMeter, measured *metrics.Metrics, log *slog.Logger) (*directorhttp.Server, error) {
	known, err := openTokens(lookupTokenFile, s.tokenFile, measured, log)
	if err != nil {
		return nil, err
	}
	lookups := directorhttp.NewLookups(resolver, log, directorhttp.WithMeter(meter), directorhttp.WithTokens(known))
	return directorhttp.NewServer(lookups, log, s.tls.options(measured)...), nil
}

// tlsSettings are those of a listener that may be reached over TLS.
type tlsSettings struct {
	listener string // as in the settings' names
	files    directorhttp.TLSFiles
}

func (s *tlsSettings) register(fs *pflag.FlagSet, listener, what string) {
	s.listener = listener
	add(fs, &s.files.Cert, listener+"-tls-cert-file", "file", "", "certificate of "+what+", which is served over TLS then; read again when it changes", parseText)
	add(fs, &s.files.Key, listener+"-tls-key-file", "file", "", "its key", parseText)
}

func (s *tlsSettings) check() error {
	cert, key := s.listener+"-tls-cert-file", s.listener+"-tls-key-file"
	if (s.files.Cert == "") != (s.files.Key == "") {
		return fmt.Errorf("--%s and --%s (environment: %s, %s) belong together: one is missing", cert, key, environmentName(cert), environmentName(key))
	}
	if s.files.Cert == "" {
		return nil
	}
	if err := s.files.Check(); err != nil {
		return fmt.Errorf("TLS of --%s (environment: %s): %w", cert, environmentName(cert), err)
	}
	return nil
}

func (s *tlsSettings) options(measured *metrics.Metrics) []directorhttp.ServerOption {
	if s.files.Cert == "" {
		return nil
	}
	failed := func() { measured.NotReloaded(environmentName(s.listener + "-tls-cert-file")) }
	return []directorhttp.ServerOption{directorhttp.WithTLS(s.files, failed)}
}

// readTokens reads the tokens of a file that a setting names, none if it names none.
func readTokens(setting, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	tokens, err := directorhttp.ReadTokens(path)
	if err != nil {
		return nil, fmt.Errorf("--%s (environment: %s): %w", setting, environmentName(setting), err)
	}
	return tokens, nil
}

// openTokens returns what knows the tokens of a file that a setting names and that is followed, nil if it names none.
func openTokens(setting, path string, measured *metrics.Metrics, log *slog.Logger) (func(token string) bool, error) {
	if path == "" {
		return nil, nil
	}
	tokens, err := directorhttp.OpenTokens(path, log, func() { measured.NotReloaded(environmentName(setting)) })
	if err != nil {
		return nil, fmt.Errorf("--%s (environment: %s): %w", setting, environmentName(setting), err)
	}
	return tokens.Has, nil
}
