package http

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// maxBody is the longest body of a lookup in bytes.
	maxBody = 64 << 10
	// resolveLimit is how long resolving may take; with reading and writing it stays below 3 s.
	resolveLimit = 2500 * time.Millisecond
	// logEvery is how often a fault of one kind is logged.
	logEvery = time.Minute
)

// Resolver resolves lookups. Resolve returns soon after ctx ends. Its error is a *director.InvalidUserError, or a fault of
// the program.
type Resolver interface {
	Resolve(ctx context.Context, r director.Request) (director.Answer, error)
}

// Lookups is the handler of the lookup API.
type Lookups struct {
	resolver Resolver
	log      *limitedLog
	mux      *http.ServeMux
}

// NewLookups returns the lookup API in front of resolver. A nil log discards.
func NewLookups(resolver Resolver, log *slog.Logger) *Lookups {
	l := &Lookups{resolver: resolver, log: newLimitedLog(log, logEvery), mux: http.NewServeMux()}
	l.mux.HandleFunc("POST /auth_passdb_lookup", func(w http.ResponseWriter, r *http.Request) {
		l.lookup(w, r, false, codePassdbUserUnknown)
	})
	l.mux.HandleFunc("POST /auth_userdb_lookup", func(w http.ResponseWriter, r *http.Request) {
		l.lookup(w, r, true, codeUserdbUserUnknown)
	})
	for _, path := range []string{"/auth_passdb_lookup", "/auth_userdb_lookup"} {
		l.mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", http.MethodPost)
			fail(w, http.StatusMethodNotAllowed, codeInternalFailure, "lookups are made with POST")
		})
	}
	l.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, codeInternalFailure, "no such path; lookups go to /auth_passdb_lookup and /auth_userdb_lookup")
	})
	return l
}

// ServeHTTP answers one request.
func (l *Lookups) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if fault := recover(); fault != nil {
			l.log.error("panic", "a lookup ended in a panic; its user gets a temporary failure", "panic", fault, "stack", string(debug.Stack()))
			fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
		}
	}()
	l.mux.ServeHTTP(w, r)
}

func (l *Lookups) lookup(w http.ResponseWriter, r *http.Request, readOnly bool, unknown int) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			fail(w, http.StatusRequestEntityTooLarge, codeInternalFailure, "the body is longer than 64 KiB")
			return
		}
		fail(w, http.StatusBadRequest, codeInternalFailure, "the body cannot be read")
		return
	}
	request, err := decode(body)
	if err != nil {
		l.log.warn("request", "a lookup makes no sense; it gets HTTP 400", "error", err, "client", r.RemoteAddr)
		fail(w, http.StatusBadRequest, codeInternalFailure, err.Error())
		return
	}
	request.ReadOnly = readOnly
	ctx, cancel := context.WithTimeout(r.Context(), resolveLimit)
	defer cancel()
	answer, err := l.resolver.Resolve(ctx, request)
	if err != nil {
		l.refuse(w, r, err)
		return
	}
	switch {
	case answer.Verb == director.Serve && answer.Addr.IsValid():
		write(w, http.StatusOK, appendSuccess(make([]byte, 0, 160), answer.Addr, answer.Port))
	case answer.Verb == director.Hold:
		fail(w, http.StatusOK, codeInternalFailure, answer.Detail)
	case answer.Verb == director.Reject:
		fail(w, http.StatusOK, unknown, answer.Detail)
	case answer.Verb == director.Unavailable:
		if answer.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((answer.RetryAfter+time.Second-1)/time.Second)))
		}
		fail(w, http.StatusServiceUnavailable, codeInternalFailure, answer.Detail)
	default:
		l.log.error("answer", "a lookup came to an answer without an address; its user gets a temporary failure", "answer", answer.Decision)
		fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
	}
}

// refuse answers a lookup that could not be resolved.
func (l *Lookups) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if invalid, ok := errors.AsType[*director.InvalidUserError](err); ok {
		l.log.warn(invalid.Kind, "a lookup has an invalid user name; it gets HTTP 400 and nothing is stored", "error", err, "client", r.RemoteAddr)
		fail(w, http.StatusBadRequest, codeInternalFailure, err.Error())
		return
	}
	l.log.error("resolve", "a lookup failed; its user gets a temporary failure", "error", err)
	fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
}

func fail(w http.ResponseWriter, status, code int, reason string) {
	write(w, status, encodeFailure(code, reason))
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = contentType
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a proxy that has gone does not want it
}

var contentType = []string{"application/json"}
