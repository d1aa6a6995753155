package http

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// Slow clients are cut off. A lookup is small, and its answer is ready within 3 s of the last byte.
	readLimit  = 3 * time.Second
	writeLimit = 6 * time.Second
	idleLimit  = 5 * time.Minute
	maxHeader  = 16 << 10

	// A connection is closed after this long, more or less by a fifth so that they do not all come back at once, or
	// after this many requests.
	connectionAge      = 5 * time.Minute
	connectionRequests = 10_000

	// finishLimit is how long requests that are in flight get at shutdown.
	finishLimit = 4 * time.Second
)

// Server serves a handler over HTTP/1.1: Listen, then Run.
type Server struct {
	server   http.Server
	log      *slog.Logger
	tls      *reloaded[*tls.Config] // nil without TLS
	share    float64                // of the descriptors, for connections
	listener net.Listener
	closing  atomic.Bool
}

// ServerOption changes what a Server does.
type ServerOption func(*Server)

// WithLimits sets how long a request may take to come in, and how long until its answer must be out. The usual ones are the lookup API's,
// 3 s and 6 s.
func WithLimits(read, write time.Duration) ServerOption {
	return func(s *Server) { s.server.ReadTimeout, s.server.WriteTimeout = read, write }
}

// WithTLS serves over TLS. The files are read again when they change; as long as that fails, what they held before stays in force, and failed
// is told, which may be nil. Connections that are open stay so.
func WithTLS(files TLSFiles, failed func()) ServerOption {
	return func(s *Server) { s.tls = files.reloaded(s.log, failed) }
}

// WithFewConnections is for a listener that people and probes use, and not the proxies: it leaves them the connections.
func WithFewConnections() ServerOption { return func(s *Server) { s.share = mostOthers } }

// NewServer returns a server that does not listen yet. A nil log discards.
func NewServer(handler http.Handler, log *slog.Logger, options ...ServerOption) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{log: log, share: mostLookups}
	s.server = http.Server{
		Handler:        s.limitConnections(handler),
		ReadTimeout:    readLimit,
		WriteTimeout:   writeLimit,
		IdleTimeout:    idleLimit,
		MaxHeaderBytes: maxHeader,
		// OPTIONS * is for the handler, too.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     stdlog.New(serverLog{log, newLimitedLog(log, logEvery)}, "", 0),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, newConnection(time.Now()))
		},
	}
	for _, option := range options {
		option(s)
	}
	s.server.ConnState = newConnections(s.share, log).note
	return s
}

// Listen binds the address, so that a port that is taken is an error here and not later. Port 0 takes a free one. A certificate that
// cannot be used is an error too.
func (s *Server) Listen(address string) error {
	if s.tls != nil {
		if _, err := s.tls.current(); err != nil {
			return fmt.Errorf("cannot serve TLS: %w", err)
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	if s.tls != nil {
		listener = tls.NewListener(listener, &tls.Config{
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.tls.current() },
		})
	}
	s.listener = listener
	return nil
}

// Addr is the address that Listen bound.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close gives up the address, if Run has not done so.
func (s *Server) Close() error {
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run serves until ctx ends. Then it stops accepting, lets requests in flight finish for some seconds, closes all
// connections and returns nil.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.closing.Store(true)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	err := s.server.Shutdown(limit)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests in flight were cut off: %w", err), s.server.Close())
	}
	<-served
	return err
}

type connectionKey struct{}

// connection counts what one connection has had.
type connection struct {
	until    time.Time
	requests atomic.Int64
}

func newConnection(now time.Time) *connection {
	spread := time.Duration((rand.Float64()*0.4 - 0.2) * float64(connectionAge))
	return &connection{until: now.Add(connectionAge + spread)}
}

// limitConnections closes connections that are old or have had many requests, after the answer to the last one. Dovecot's
// auth workers keep theirs for ever otherwise, and a new replica would get no traffic.
func (s *Server) limitConnections(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
			if c.requests.Add(1) >= connectionRequests || s.closing.Load() || time.Now().After(c.until) {
				w.Header().Set("Connection", "close")
			}
		}
		next.ServeHTTP(w, r)
	})
}
