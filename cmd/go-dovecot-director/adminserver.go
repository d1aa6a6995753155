package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/pflag"
)

// adminOff is the address of an admin API that is not wanted: an empty variable counts as unset.
const adminOff = "off"

// leastToken is the least length of a token in bytes: one that can be guessed protects nothing.
const leastToken = 16

// adminSettings say who may give orders, and where.
type adminSettings struct {
	listen                   string
	tokenFile, readTokenFile string
	certFile, keyFile        string
	writers, readers         []string // what check read from the files
}

func (s *adminSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.listen, "admin-listen", "address", "127.0.0.1:8082", "address of the admin API, or off; other machines need a token and TLS", parseAdminAddress)
	add(fs, &s.tokenFile, "admin-token-file", "file", "", "file that holds the token which the admin API asks for", parseText)
	add(fs, &s.readTokenFile, "admin-read-token-file", "file", "", "file that holds another token, which may only read", parseText)
	add(fs, &s.certFile, "admin-tls-cert-file", "file", "", "certificate of the admin API, which is served over TLS then; read again when it changes", parseText)
	add(fs, &s.keyFile, "admin-tls-key-file", "file", "", "its key", parseText)
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
	case !local && s.certFile == "":
		return fmt.Errorf("--admin-listen %s can be reached from other machines, and tokens could be read on the way: --admin-tls-cert-file and --admin-tls-key-file (environment: ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE) are missing; or listen on 127.0.0.1", s.listen)
	case s.readTokenFile != "" && s.tokenFile == "":
		return errors.New("--admin-read-token-file is set without --admin-token-file (environment: ADMIN_READ_TOKEN_FILE, ADMIN_TOKEN_FILE): nobody could give orders")
	case (s.certFile == "") != (s.keyFile == ""):
		return errors.New("--admin-tls-cert-file and --admin-tls-key-file (environment: ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE) belong together: one is missing")
	}
	if s.certFile != "" {
		if _, err := tls.LoadX509KeyPair(s.certFile, s.keyFile); err != nil {
			return fmt.Errorf("--admin-tls-cert-file, --admin-tls-key-file (environment: ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE): %w", err)
		}
	}
	if s.writers, err = readTokens("admin-token-file", s.tokenFile); err != nil {
		return err
	}
	if s.readers, err = readTokens("admin-read-token-file", s.readTokenFile); err != nil {
		return err
	}
	if len(s.readers) > 0 && s.readers[0] == s.writers[0] {
		return errors.New("--admin-read-token-file and --admin-token-file (environment: ADMIN_READ_TOKEN_FILE, ADMIN_TOKEN_FILE) hold the same token")
	}
	return nil
}

// readTokens reads the token of a file that a setting names, none if it names none.
func readTokens(setting, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--%s (environment: %s): %w", setting, environmentName(setting), err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < leastToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, fmt.Errorf("--%s (environment: %s): %s does not hold one token of at least %d printable ASCII characters", setting, environmentName(setting), path, leastToken)
	}
	return []string{token}, nil
}

// server makes the server of the admin API in front of an operator. It does not listen yet.
func (s *adminSettings) server(operator directorhttp.Operator, counted func(method, class string), log *slog.Logger) *directorhttp.Server {
	options := []directorhttp.ServerOption{directorhttp.WithLimits(directorhttp.AdminReadLimit, directorhttp.AdminWriteLimit)}
	if s.certFile != "" {
		options = append(options, directorhttp.WithTLS(s.certFile, s.keyFile))
	}
	return directorhttp.NewServer(directorhttp.NewAdmin(directorhttp.AdminConfig{
		Operator: operator, WriteTokens: s.writers, ReadTokens: s.readers, Logger: log, Counted: counted,
	}), log, options...)
}
