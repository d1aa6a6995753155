package http

import (
	_ "embed" // the document
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// adminRoot is where the admin API begins.
const adminRoot = "/api/v1"

// The limits of a server of the admin API, for WithLimits: it asks the backends for sessions, which may take longer than a lookup.
const (
	AdminReadLimit  = 10 * time.Second
	AdminWriteLimit = 30 * time.Second
)

// openAPI is the document that describes the admin API. A test holds it against the handlers.
//
//go:embed openapi.json
var openAPI []byte

// AdminConfig is what an Admin is made of.
type AdminConfig struct {
	Operator Operator
	// Writes knows the tokens that may do everything, Reads those that may look. If both are nil, everybody may do everything who can reach
	// the API by a loopback name or address: it must listen on loopback only then.
	Writes, Reads func(token string) bool
	// Logger gets a line for each order; nil discards.
	Logger *slog.Logger
	// Counted is told of each request that was answered or refused: its method, "other" for an unusual one, and the class of its status,
	// as 2xx. May be nil.
	Counted func(method, class string)
}

// AdminMethods and AdminClasses are what Counted may be told.
var (
	AdminMethods = []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete, otherMethod}
	AdminClasses = []string{"2xx", "4xx", "5xx"}
)

const otherMethod = "other"

// Admin is the handler of the admin API. It is safe for concurrent use.
type Admin struct {
	operator Operator
	guard    guard
	log      *slog.Logger
	limited  *limitedLog
	counted  func(method, class string)
	mux      *http.ServeMux
	routes   []adminRoute
}

// adminRoute is one method on one path.
type adminRoute struct {
	method, path string
	do           func(http.ResponseWriter, *http.Request) (status int, answer any, err error)
}

// NewAdmin returns the admin API in front of an operator.
func NewAdmin(c AdminConfig) *Admin {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Admin{
		operator: c.Operator,
		guard:    newGuard(c.Writes, c.Reads),
		log:      c.Logger,
		limited:  newLimitedLog(c.Logger, logEvery),
		counted:  c.Counted,
		mux:      http.NewServeMux(),
	}
	a.routes = []adminRoute{
		{http.MethodGet, "/status", a.status},
		{http.MethodGet, "/users/{user}", a.user},
		{http.MethodPost, "/users/{user}/move", a.move},
		{http.MethodPut, "/users/{user}/pin", a.pin},
		{http.MethodDelete, "/users/{user}/pin", a.unpin},
		{http.MethodPost, "/users/{user}/kick", a.kick},
		{http.MethodPatch, "/backends/{backend}", a.stand},
		{http.MethodPut, "/backends/{backend}/evacuation", a.evacuate},
		{http.MethodDelete, "/backends/{backend}/evacuation", a.cancelEvacuation},
		{http.MethodGet, "/rebalance", a.plan},
		{http.MethodPut, "/rebalance", a.rebalance},
		{http.MethodDelete, "/rebalance", a.cancelRebalance},
		{http.MethodGet, "/journal", a.journal},
		{http.MethodDelete, "/replicas/{replica}", a.forgetReplica},
		{http.MethodGet, "/openapi.json", a.document},
	}
	methods := map[string][]string{}
	for _, route := range a.routes {
		a.mux.HandleFunc(route.method+" "+adminRoot+route.path, a.handler(route))
		methods[route.path] = append(methods[route.path], route.method)
	}
	for path, allowed := range methods {
		a.mux.HandleFunc(adminRoot+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			a.answer(w, r, http.StatusMethodNotAllowed, errorAnswer{"this path takes " + strings.Join(allowed, " or ")})
		})
	}
	a.mux.HandleFunc("/", a.noSuchPath)
	return a
}

func (a *Admin) noSuchPath(w http.ResponseWriter, r *http.Request) {
	a.answer(w, r, http.StatusNotFound, errorAnswer{"no such path; " + adminRoot + "/openapi.json lists all; a name in a path must be percent-encoded"})
}

// ServeHTTP answers one request.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if fault := recover(); fault != nil {
			a.limited.error("panic", "a request of the admin API ended in a panic", "panic", fault, "stack", string(debug.Stack()))
			a.answer(w, r, http.StatusInternalServerError, errorAnswer{"internal error; the director's log says more"})
		}
	}()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if refused := a.guard.check(r); refused != nil {
		if refused.status == http.StatusUnauthorized {
			askForToken(w)
		}
		a.limited.warn("guard", "a request to the admin API was refused", "error", refused, "client", r.RemoteAddr)
		a.answer(w, r, refused.status, errorAnswer{refused.Error()})
		return
	}
	// The mux would redirect such a path to another one, which may well be there and mean something else.
	if escaped := r.URL.EscapedPath(); path.Clean(escaped) != escaped {
		a.noSuchPath(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// handler answers the requests of a route.
func (a *Admin) handler(route adminRoute) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, result, err := route.do(w, r)
		if err != nil {
			status = a.statusOf(r, err)
			result = errorAnswer{oneLine(err)}
			if status == http.StatusInternalServerError {
				result = errorAnswer{"internal error; the director's log says more"}
			}
		}
		if route.method != http.MethodGet {
			actor, _ := readActor(r.Header) // if it cannot be read, the status says so
			a.log.Info("an operator's order", "method", route.method, "path", r.URL.Path, "actor", actor, "client", r.RemoteAddr, "status", status)
		}
		a.answer(w, r, status, result)
	}
}

// answer writes an answer, and tells that it did.
func (a *Admin) answer(w http.ResponseWriter, r *http.Request, status int, what any) {
	answer(w, status, what)
	if a.counted == nil {
		return
	}
	method := r.Method
	if !slices.Contains(AdminMethods, method) {
		method = otherMethod // anybody may make up any number of them
	}
	a.counted(method, strconv.Itoa(status/100)+"xx")
}

// oneLine is the text of an error, of which there may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// statusOf returns the HTTP status of an error. What is not foreseen is logged.
func (a *Admin) statusOf(r *http.Request, err error) int {
	if bad, ok := errors.AsType[*requestError](err); ok {
		return bad.status
	}
	if refused, ok := errors.AsType[*director.RefusedError](err); ok {
		if refused.NotFound {
			return http.StatusNotFound
		}
		return http.StatusConflict
	}
	if _, ok := errors.AsType[*director.InvalidUserError](err); ok {
		return http.StatusBadRequest
	}
	for _, known := range []struct {
		err    error
		status int
	}{
		{director.ErrMoving, http.StatusConflict},
		{director.ErrPattern, http.StatusConflict},
		{director.ErrUserRefused, http.StatusNotFound},
		{director.ErrNoMapping, http.StatusNotFound},
		{director.ErrUnavailable, http.StatusServiceUnavailable},
		{director.ErrUnreachable, http.StatusBadGateway},
	} {
		if errors.Is(err, known.err) {
			return known.status
		}
	}
	a.limited.error("operator", "a request of the admin API failed", "method", r.Method, "path", r.URL.Path, "error", err)
	return http.StatusInternalServerError
}

func (a *Admin) status(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	q, err := readQuery(r, "sessions")
	if err != nil {
		return 0, nil, err
	}
	sessions, err := q.flag("sessions")
	if err != nil {
		return 0, nil, err
	}
	report, err := a.operator.Status(r.Context(), sessions)
	if err == nil && report.Backends == nil {
		report.Backends = []director.BackendReport{} // a list in JSON too
	}
	return http.StatusOK, report, err
}

func (a *Admin) user(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	if _, err := readQuery(r); err != nil {
		return 0, nil, err
	}
	report, err := a.operator.UserOf(r.Context(), r.PathValue("user"))
	return http.StatusOK, report, err
}

func (a *Admin) move(w http.ResponseWriter, r *http.Request) (int, any, error) {
	order, actor, err := readOrder[moveOrder](w, r)
	if err == nil {
		err = checkNote(order.Note)
	}
	to := ""
	if order.To != nil {
		to = *order.To
		err = errors.Join(err, checkName("to", to))
	}
	if err != nil {
		return 0, nil, err
	}
	state, err := a.operator.Move(r.Context(), director.MoveOrder{User: r.PathValue("user"), To: to, Force: order.Force, Actor: actor, Note: order.Note})
	return http.StatusAccepted, state, err
}

func (a *Admin) pin(w http.ResponseWriter, r *http.Request) (int, any, error) {
	return a.setPinned(w, r, true)
}

func (a *Admin) unpin(w http.ResponseWriter, r *http.Request) (int, any, error) {
	return a.setPinned(w, r, false)
}

func (a *Admin) setPinned(w http.ResponseWriter, r *http.Request, pinned bool) (int, any, error) {
	note, actor, err := readNote(w, r)
	if err != nil {
		return 0, nil, err
	}
	user := r.PathValue("user")
	changed, err := a.operator.Pin(r.Context(), user, pinned, actor, note)
	return http.StatusOK, PinAnswer{User: user, Pinned: pinned, Changed: changed}, err
}

func (a *Admin) kick(w http.ResponseWriter, r *http.Request) (int, any, error) {
	note, actor, err := readNote(w, r)
	if err != nil {
		return 0, nil, err
	}
	user := r.PathValue("user")
	sessions, err := a.operator.Kick(r.Context(), user, actor, note)
	if err != nil && sessions > 0 {
		err = fmt.Errorf("%d sessions were told to end; %w", sessions, err)
	}
	return http.StatusOK, KickAnswer{User: user, Sessions: sessions}, err
}

func (a *Admin) stand(w http.ResponseWriter, r *http.Request) (int, any, error) {
	order, actor, err := readOrder[standOrder](w, r)
	if err == nil {
		err = errors.Join(checkName("backend", r.PathValue("backend")), checkNote(order.Note), order.check())
	}
	if err != nil {
		return 0, nil, err
	}
	standing, err := a.operator.Stand(r.Context(), director.StandOrder{
		Backend: r.PathValue("backend"), State: order.State, Weight: order.Weight, Force: order.Force, Actor: actor, Note: order.Note,
	})
	return http.StatusOK, AnswerOf(standing), err
}

func (o standOrder) check() error {
	if o.State == "" && o.Weight == nil {
		return badRequest("nothing is ordered: write a state or a weight")
	}
	if o.State != "" {
		if _, err := director.ParseState(string(o.State)); err != nil {
			return badRequest("state: %v", err)
		}
	}
	if o.Weight != nil && (*o.Weight < 0 || *o.Weight > director.MaxWeight) {
		return badRequest("weight: %d is out of bounds; the least is 1, the most is %d, and 0 is what the source of backends says", *o.Weight, director.MaxWeight)
	}
	return nil
}

// The bounds of how many entries of the journal are returned at once.
const (
	journalDefault = 100
	journalMost    = 1000
)

func (a *Admin) journal(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	q, err := readQuery(r, "user", "before", "limit")
	if err != nil {
		return 0, nil, err
	}
	before, err := q.number("before", 0, 1, 1<<63-1)
	if err != nil {
		return 0, nil, err
	}
	limit, err := q.number("limit", journalDefault, 1, journalMost)
	if err != nil {
		return 0, nil, err
	}
	entries, err := a.operator.Journal(r.Context(), q.values.Get("user"), before, int(limit))
	if entries == nil {
		entries = []director.Entry{}
	}
	return http.StatusOK, JournalAnswer{entries}, err
}

func (a *Admin) forgetReplica(w http.ResponseWriter, r *http.Request) (int, any, error) {
	_, actor, err := readOrder[struct{}](w, r)
	if err == nil {
		err = checkName("replica", r.PathValue("replica"))
	}
	if err != nil {
		return 0, nil, err
	}
	replica := r.PathValue("replica")
	return http.StatusOK, ForgetAnswer{replica}, a.operator.ForgetReplica(r.Context(), replica, actor)
}

func (a *Admin) document(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	_, err := readQuery(r)
	return http.StatusOK, document(openAPI), err
}
