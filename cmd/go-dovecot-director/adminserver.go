package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/spf13/pflag"
)

// adminOff is the address of an admin API that is not wanted: an empty variable counts as unset.
const adminOff = "off"

// adminSettings say who may give orders, and where.
type adminSettings struct {
	listen                   string
	tokenFile, readTokenFile string
	tls                      tlsSettings
}

func (s *adminSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.listen, "admin-listen", "address", "127.0.0.1:8082", "address of the admin API, or off; other machines need a token and TLS", parseAdminAddress)
	add(fs, &s.tokenFile, "admin-token-file", "file", "", "file that holds the token which the admin API asks for, or several, one a line; read again when it changes", parseText)
	add(fs, &s.readTokenFile, "admin-read-token-file", "file", "", "file that holds other tokens, which may only read", parseText)
	s.tls.register(fs, "admin", "the admin API")
}

func parseAdminAddress(s string) (string, error) {
	if s == adminOff {
		return s, nil
	}
	if _, err := parseAddress(s); err != nil {
		return "", fmt.Errorf("%w, or %s", err, adminOff)
	}
	return s, nil
}

func (s *adminSettings) check() error {
	if s.listen == adminOff {
		return nil
	}
	host, _, err := net.SplitHostPort(s.listen)
	if err != nil {
		return err
	}
	switch local := directorhttp.Loopback(host); {
	case !local && s.tokenFile == "":
		return fmt.Errorf("--admin-listen %s can be reached from other machines: --admin-token-file (environment: ADMIN_TOKEN_FILE) is missing; or listen on 127.0.0.1", s.listen)
	case !local && s.tls.files.Cert == "":
		return fmt.Errorf("--admin-listen %s can be reached from other machines, and tokens could be read on the way: --admin-tls-cert-file and --admin-tls-key-file (environment: ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE) are missing; or listen on 127.0.0.1", s.listen)
	case s.readTokenFile != "" && s.tokenFile == "":
		return errors.New("--admin-read-token-file is set without --admin-token-file (environment: ADMIN_READ_TOKEN_FILE, ADMIN_TOKEN_FILE): nobody could give orders")
	}
	if err := s.tls.check(); err != nil {
		return err
	}
	writers, err := readTokens(adminTokenFile, s.tokenFile)
	if err != nil {
		return err
	}
	readers, err := readTokens(adminReadTokenFile, s.readTokenFile)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(readers, func(token string) bool { return slices.Contains(writers, token) }) {
		return errors.New("--admin-read-token-file and --admin-token-file (environment: ADMIN_READ_TOKEN_FILE, ADMIN_TOKEN_FILE) hold the same token")
	}
	return nil
}

// server makes the server of the admin API in front of an operator. It does not listen yet.
func (s *adminSettings) server(operator directorhttp.Operator, tokens adminTokens, measured *metrics.Metrics, log *slog.Logger) *directorhttp.Server {
	options := append(s.tls.options(measured), directorhttp.WithLimits(directorhttp.AdminReadLimit, directorhttp.AdminWriteLimit), directorhttp.WithFewConnections())
	return directorhttp.NewServer(directorhttp.NewAdmin(directorhttp.AdminConfig{
		Operator: operator, Writes: tokens.writes, Reads: tokens.reads, Logger: log, Counted: measured.Ordered,
	}), log, options...)
}

// adminTokens know the tokens of the admin API; nil if there are none.
type adminTokens struct{ writes, reads func(token string) bool }

func (s *adminSettings) tokens(measured *metrics.Metrics, log *slog.Logger) (t adminTokens, err error) {
	if s.listen == adminOff {
		return t, nil
	}
	if t.writes, err = openTokens(adminTokenFile, s.tokenFile, measured, log); err == nil {
		t.reads, err = openTokens(adminReadTokenFile, s.readTokenFile, measured, log)
	}
	return t, err
}

// mayLook returns what knows the tokens that may see users, nil if there are none.
func (t adminTokens) mayLook() func(token string) bool {
	if t.writes == nil { // then there are no others either
		return nil
	}
	if t.reads == nil {
		return t.writes
	}
	return func(token string) bool {
		writes, reads := t.writes(token), t.reads(token) // both, so that it takes the same time
		return writes || reads
	}
}
