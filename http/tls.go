package http

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
)

// TLSFiles are the files, in PEM, of a server that is reached over TLS.
type TLSFiles struct {
	Cert, Key string
	// ClientCA has the authorities of which clients must show a certificate, one or more. Empty: they need none.
	ClientCA string
}

// Check reports files that cannot be used.
func (f TLSFiles) Check() error {
	_, err := f.config()
	return err
}

func (f TLSFiles) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("%w; %s must hold a certificate in PEM, with those between it and its authority behind it, and %s its key", err, f.Cert, f.Key)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if f.ClientCA == "" {
		return c, nil
	}
	authorities, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, err
	}
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", f.ClientCA)
	}
	return c, nil
}

// reloaded is what the files make, read again when they change.
func (f TLSFiles) reloaded(log *slog.Logger, failed func()) *reloaded[*tls.Config] {
	paths := []string{f.Cert, f.Key}
	if f.ClientCA != "" {
		paths = append(paths, f.ClientCA)
	}
	return &reloaded[*tls.Config]{paths: paths, read: f.config, log: log, failed: failed}
}

// serverLog is where net/http tells what is wrong with connections. A proxy that does not trust the server, or is not trusted, can log nobody
// in: that is worth a line now and then. The rest is scanners, and probes that connect and leave.
type serverLog struct {
	log     *slog.Logger
	limited *limitedLog
}

func (l serverLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	refused := bytes.HasPrefix(line, []byte("http: TLS handshake error")) && (bytes.Contains(line, []byte("tls: ")) || bytes.Contains(line, []byte("x509: ")))
	if refused {
		l.limited.warn("handshake", "a client is not let in, or does not trust this server", "error", text)
	} else {
		l.log.Debug(text)
	}
	return len(line), nil
}
