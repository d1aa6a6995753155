package http

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// maxBody is the longest body of a lookup in bytes.
	maxBody = 64 << 10
	// keepBuffer is the largest buffer in bytes that is kept for the next request.
	keepBuffer = 4 << 10
	// logEvery is how often a fault of one kind is logged.
	logEvery = time.Minute
)

// Resolver resolves lookups. Resolve returns within 3 s; ctx ends when the client leaves. Its error is a *director.InvalidUserError, or a fault of
// the program.
type Resolver interface {
	Resolve(ctx context.Context, r director.Request) (director.Answer, error)
}

// Lookups is the handler of the lookup API.
type Lookups struct {
	resolver Resolver
	log      *limitedLog
	buffers  sync.Pool // of *bytes.Buffer: a request's body, and then its answer
}

// The paths of the lookup API.
const (
	passdbPath = "/auth_passdb_lookup"
	userdbPath = "/auth_userdb_lookup"
)

// NewLookups returns the lookup API in front of resolver. A nil log discards.
func NewLookups(resolver Resolver, log *slog.Logger) *Lookups {
	return &Lookups{
		resolver: resolver,
		log:      newLimitedLog(log, logEvery),
		buffers:  sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

// ServeHTTP answers one request.
func (l *Lookups) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if fault := recover(); fault != nil {
			l.log.error("panic", "a lookup ended in a panic; its user gets a temporary failure", "panic", fault, "stack", string(debug.Stack()))
			fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
		}
	}()
	readOnly, unknown := false, codePassdbUserUnknown
	switch r.URL.Path {
	case passdbPath:
	case userdbPath:
		readOnly, unknown = true, codeUserdbUserUnknown
	default:
		fail(w, http.StatusNotFound, codeInternalFailure, "no such path; lookups go to "+passdbPath+" and "+userdbPath)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, http.StatusMethodNotAllowed, codeInternalFailure, "lookups are made with POST")
		return
	}
	l.lookup(w, r, readOnly, unknown)
}

func (l *Lookups) lookup(w http.ResponseWriter, r *http.Request, readOnly bool, unknown int) {
	buffer := l.buffers.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= keepBuffer {
			l.buffers.Put(buffer)
		}
	}()
	buffer.Reset()
	if _, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			fail(w, http.StatusRequestEntityTooLarge, codeInternalFailure, "the body is longer than 64 KiB")
			return
		}
		fail(w, http.StatusBadRequest, codeInternalFailure, "the body cannot be read")
		return
	}
	request, err := decode(buffer.Bytes())
	if err != nil {
		l.log.warn("request", "a lookup makes no sense; it gets HTTP 400", "error", err, "client", r.RemoteAddr)
		fail(w, http.StatusBadRequest, codeInternalFailure, err.Error())
		return
	}
	request.ReadOnly = readOnly
	answer, err := l.resolver.Resolve(r.Context(), request)
	if err != nil {
		l.refuse(w, r, err)
		return
	}
	switch {
	case answer.Verb == director.Serve && answer.Addr.IsValid():
		buffer.Reset()
		write(w, http.StatusOK, appendSuccess(buffer.AvailableBuffer(), answer.Addr, answer.Port, answer.NotBefore))
	case answer.Verb == director.Hold:
		fail(w, http.StatusOK, codeInternalFailure, answer.Detail())
	case answer.Verb == director.Reject:
		fail(w, http.StatusOK, unknown, answer.Detail())
	case answer.Verb == director.Unavailable:
		if answer.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((answer.RetryAfter+time.Second-1)/time.Second)))
		}
		fail(w, http.StatusServiceUnavailable, codeInternalFailure, answer.Detail())
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
	// net/http adds the length of what is written at once.
	w.Header()["Content-Type"] = contentType
	w.WriteHeader(status)
	_, _ = w.Write(body) // a proxy that has gone does not want it
}

var contentType = []string{"application/json"}
