// Package apitest is a small API server for tests: it lists, watches and gets the Endpoints of one namespace over HTTP,
// with the faults that real ones have. client-go's fake clientset is no substitute: it loses events between list and
// watch, and knows no faults.
package apitest

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Server is the API server. It is safe for concurrent use.
type Server struct {
	http *httptest.Server

	mu       sync.Mutex
	version  int
	object   *corev1.Endpoints // nil while there is none
	events   []event
	oldest   int // watches from before this version are expired
	changed  chan struct{}
	cut      chan struct{}
	refuse   int // HTTP status of every answer, 0 for none
	frozen   chan struct{}
	held     chan struct{} // events wait, requests do not
	requests map[string]int
}

type event struct {
	version int
	kind    string
	object  corev1.Endpoints
}

// New starts a server that ends with the test.
func New(tb testing.TB) *Server {
	s := &Server{version: 100, changed: make(chan struct{}), cut: make(chan struct{}), requests: map[string]int{}}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	tb.Cleanup(func() {
		s.Thaw()
		s.Release()
		s.Cut()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Client returns a client of the server.
func (s *Server) Client(tb testing.TB) kubernetes.Interface {
	transport := &http.Transport{}
	tb.Cleanup(transport.CloseIdleConnections)
	client, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: s.http.URL, QPS: 1000, Burst: 1000, WarningHandler: rest.NoWarnings{}}, &http.Client{Transport: transport})
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// Set creates the object, or changes it.
func (s *Server) Set(e corev1.Endpoints) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := "MODIFIED"
	if s.object == nil {
		kind = "ADDED"
		e.UID = types.UID(fmt.Sprintf("uid-%d", s.version+1))
	} else {
		e.UID = s.object.UID
	}
	s.happen(kind, e)
}

// Delete deletes the object.
func (s *Server) Delete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happen("DELETED", *s.object)
	s.object = nil
}

// happen needs the lock.
func (s *Server) happen(kind string, e corev1.Endpoints) {
	s.version++
	e.ResourceVersion = strconv.Itoa(s.version)
	e.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}
	s.object = &e
	s.events = append(s.events, event{s.version, kind, e})
	close(s.changed)
	s.changed = make(chan struct{})
}

// Bookmark sends a bookmark to all watches: as real ones, it carries an empty object.
func (s *Server) Bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	empty := corev1.Endpoints{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"}, ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.Itoa(s.version)}}
	s.events = append(s.events, event{s.version, "BOOKMARK", empty})
	close(s.changed)
	s.changed = make(chan struct{})
}

// Cut ends all watches, as the server does now and then.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

// Expire forgets history: watches from an older version get 410.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.oldest = s.version
}

// Refuse answers every request with this status, 0 for no more. Open watches go on.
func (s *Server) Refuse(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = status
}

// Freeze holds all requests and all events until Thaw.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen = make(chan struct{})
	}
}

// Thaw ends Freeze.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

// Hold holds all events until Release; requests are answered.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(chan struct{})
	}
}

// Release ends Hold.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

// Requests returns how many requests of a kind (list, watch, get) there were.
func (s *Server) Requests(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[kind]
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name, isGet := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/mail/endpoints/")
	kind := "list"
	switch {
	case isGet:
		kind = "get"
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		kind = "watch"
	}
	s.mu.Lock()
	s.requests[kind]++
	refuse, object, version := s.refuse, s.object, s.version
	s.mu.Unlock()
	s.thawed(r)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Warning", `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`)
	switch {
	case refuse != 0:
		fail(w, refuse, metav1.StatusReason(http.StatusText(refuse)))
	case kind == "get" && (object == nil || object.Name != name):
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case kind == "get":
		encode(w, object)
	case query.Get("fieldSelector") != "metadata.name=dovecot-backend":
		// A Role with resourceNames allows list and watch of that name only.
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	case kind == "watch" && query.Get("sendInitialEvents") == "true":
		// As a server without streaming lists.
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
	case kind == "watch":
		s.watch(w, r, query.Get("resourceVersion"))
	default:
		list := corev1.EndpointsList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "EndpointsList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(version)}}
		if object != nil {
			list.Items = append(list.Items, *object)
		}
		encode(w, list)
	}
}

func (s *Server) thawed(r *http.Request) {
	s.mu.Lock()
	frozen := s.frozen
	s.mu.Unlock()
	wait(r, frozen)
}

func (s *Server) released(r *http.Request) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	wait(r, held)
}

func wait(r *http.Request, until chan struct{}) {
	if until != nil {
		select {
		case <-until:
		case <-r.Context().Done():
		}
	}
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, from string) {
	version, _ := strconv.Atoi(from)
	s.mu.Lock()
	expired := version < s.oldest
	cut := s.cut
	s.mu.Unlock()
	stream := json.NewEncoder(w)
	if expired {
		status := statusOf(http.StatusGone, metav1.StatusReasonExpired)
		_ = stream.Encode(map[string]any{"type": "ERROR", "object": status})
		return
	}
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		events, changed := s.events, s.changed
		s.mu.Unlock()
		s.thawed(r)
		s.released(r)
		for _, e := range events {
			if e.version > version {
				version = e.version
				if stream.Encode(map[string]any{"type": e.kind, "object": e.object}) != nil {
					return
				}
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func statusOf(code int, reason metav1.StatusReason) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Reason: reason, Code: int32(code), Message: string(reason),
	}
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.WriteHeader(code)
	encode(w, statusOf(code, reason))
}

func encode(w http.ResponseWriter, object any) { _ = json.NewEncoder(w).Encode(object) }
