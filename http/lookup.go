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

// LookupMeter is told of lookups that were answered. It is called from any number of goroutines, and returns at once.
type LookupMeter interface {
	// Resolved tells what a lookup came to, and how long it took from the request's header to the answer.
	Resolved(readOnly bool, verb director.Verb, reason director.Reason, took time.Duration)
	// Failed tells that it came to nothing, for one of LookupFaults.
	Failed(readOnly bool, fault string, took time.Duration)
}

// The faults of lookups that are not the user names'.
const (
	faultUnauthorized = "unauthorized" // it carries no token that is known
	faultRequest      = "request"      // it cannot be read, or makes no sense
	faultOverload     = "overload"     // more come than can be answered
	faultInternal     = "internal"     // the program's
)

// LookupFaults are why lookups come to nothing: what is wrong with the request or with the user name, too many of them, or the program.
var LookupFaults = []string{faultUnauthorized, faultRequest, director.UserEmpty, director.UserTooLong, director.UserNUL, director.UserEncoding, faultOverload, faultInternal}

// LookupsOption changes what Lookups does.
type LookupsOption func(*Lookups)

// WithMeter tells a meter of each lookup.
func WithMeter(m LookupMeter) LookupsOption { return func(l *Lookups) { l.meter = m } }

// WithTokens refuses requests that carry no token which is known.
func WithTokens(known func(token string) bool) LookupsOption {
	return func(l *Lookups) { l.known = known }
}

// Lookups is the handler of the lookup API.
type Lookups struct {
	resolver Resolver
	log      *limitedLog
	meter    LookupMeter             // nil if nobody counts
	known    func(token string) bool // nil if everybody may ask
	buffers  sync.Pool               // of *bytes.Buffer: a request's body, and then its answer
	gate     gate
}

// The paths of the lookup API.
const (
	passdbPath = "/auth_passdb_lookup"
	userdbPath = "/auth_userdb_lookup"
)

// NewLookups returns the lookup API in front of resolver. A nil log discards.
func NewLookups(resolver Resolver, log *slog.Logger, options ...LookupsOption) *Lookups {
	l := &Lookups{
		resolver: resolver,
		log:      newLimitedLog(log, logEvery),
		buffers:  sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
	for _, option := range options {
		option(l)
	}
	return l
}

// ServeHTTP answers one request.
func (l *Lookups) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.known != nil && !l.authorized(w, r) {
		return
	}
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
	if l.meter == nil {
		l.lookup(w, r, readOnly, unknown)
		return
	}
	begun := time.Now()
	decision, fault := l.lookup(w, r, readOnly, unknown)
	if took := time.Since(begun); fault == "" {
		l.meter.Resolved(readOnly, decision.Verb, decision.Reason, took)
	} else {
		l.meter.Failed(readOnly, fault, took)
	}
}

// authorized reports whether a request carries a token that is known. If not, it answers it, with what Dovecot's scripts make a temporary
// failure: the proxy is at fault, and not its user. The body is not looked at.
func (l *Lookups) authorized(w http.ResponseWriter, r *http.Request) bool {
	begun := time.Now()
	token, ok := bearer(r)
	if ok && l.known(token) {
		return true
	}
	reason := "the token is not known"
	if !ok {
		reason = "a token is needed: send Authorization: Bearer TOKEN"
	}
	l.log.warn(faultUnauthorized, "a lookup was refused; its user gets a temporary failure", "error", reason, "client", r.RemoteAddr)
	askForToken(w)
	fail(w, http.StatusUnauthorized, codeInternalFailure, reason)
	if l.meter != nil {
		l.meter.Failed(r.URL.Path == userdbPath, faultUnauthorized, time.Since(begun))
	}
	return false
}

// lookup answers a lookup. It returns what that came to, or the fault why it came to nothing.
func (l *Lookups) lookup(w http.ResponseWriter, r *http.Request, readOnly bool, unknown int) (decision director.Decision, fault string) {
	defer func() {
		if panicked := recover(); panicked != nil {
			l.log.error("panic", "a lookup ended in a panic; its user gets a temporary failure", "panic", panicked, "stack", string(debug.Stack()))
			fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
			fault = faultInternal
		}
	}()
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
			return decision, faultRequest
		}
		fail(w, http.StatusBadRequest, codeInternalFailure, "the body cannot be read")
		return decision, faultRequest
	}
	request, err := decode(buffer.Bytes())
	if err != nil {
		l.log.warn("request", "a lookup makes no sense; it gets HTTP 400", "error", err, "client", r.RemoteAddr)
		fail(w, http.StatusBadRequest, codeInternalFailure, err.Error())
		return decision, faultRequest
	}
	request.ReadOnly = readOnly
	// Only here, so that nobody keeps others out who sends a request slowly.
	if !l.gate.enter(time.Now()) {
		l.log.warn(faultOverload, "more lookups come than can be answered in time; those beyond get HTTP 503 at once, so that the others do not wait. "+
			"See DovecotDirectorOverloaded in the runbook", "client", r.RemoteAddr)
		// Without Retry-After: it would keep an auth worker of the proxy waiting, only to ask once more.
		fail(w, http.StatusServiceUnavailable, codeInternalFailure, "overload: more lookups come than can be answered")
		return decision, faultOverload
	}
	defer func() { l.gate.leave(time.Now()) }()
	answer, err := l.resolver.Resolve(r.Context(), request)
	if err != nil {
		return decision, l.refuse(w, r, err)
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
		return decision, faultInternal
	}
	return answer.Decision, ""
}

// refuse answers a lookup that could not be resolved, and returns the fault.
func (l *Lookups) refuse(w http.ResponseWriter, r *http.Request, err error) (fault string) {
	if invalid, ok := errors.AsType[*director.InvalidUserError](err); ok {
		l.log.warn(invalid.Kind, "a lookup has an invalid user name; it gets HTTP 400 and nothing is stored", "error", err, "client", r.RemoteAddr)
		fail(w, http.StatusBadRequest, codeInternalFailure, err.Error())
		return invalid.Kind
	}
	l.log.error("resolve", "a lookup failed; its user gets a temporary failure", "error", err)
	fail(w, http.StatusInternalServerError, codeInternalFailure, "internal error")
	return faultInternal
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
