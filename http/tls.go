package http

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"
)

// keyPair is a certificate with its key in two files. It is safe for concurrent use.
type keyPair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	seen   [2]time.Time // when the files that were read last were written
}

func (p *keyPair) config() *tls.Config {
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current() },
		NextProtos:     []string{"http/1.1"},
	}
}

// current returns what the files hold now. If that cannot be used, it is what they held before: one of them may have been written already,
// and the other not.
func (p *keyPair) current() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written, err := p.written()
	if err == nil && p.loaded != nil && written == p.seen {
		return p.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(p.certFile, p.keyFile); err == nil {
			p.loaded, p.seen = &pair, written
			return p.loaded, nil
		}
	}
	if p.loaded == nil {
		return nil, err
	}
	if written != p.seen { // once for each change
		p.seen = written
		p.log.Error("the changed certificate cannot be used; the one before goes on to be served", "certificate", p.certFile, "key", p.keyFile, "error", err)
	}
	return p.loaded, nil
}

// written returns when the files were written, zero for one that cannot be looked at.
func (p *keyPair) written() (times [2]time.Time, err error) {
	for i, file := range []string{p.certFile, p.keyFile} {
		info, statErr := os.Stat(file)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		times[i] = info.ModTime()
	}
	return times, err
}
