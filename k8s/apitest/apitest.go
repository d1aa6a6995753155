// Package apitest is a small API server for tests: it lists and watches the Endpoints, EndpointSlices and StatefulSets of
// one namespace over HTTP, with the rights and the faults that real ones have. client-go's fake clientset is no
// substitute: it loses events between list and watch, and knows no faults.
package apitest

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// What the server knows, by the names that rights are given for.
const (
	Endpoints      = "endpoints"
	EndpointSlices = "endpointslices"
	StatefulSets   = "statefulsets"
)

// kinds has what the API says of each resource.
var kinds = map[string]struct {
	path, apiVersion, kind string
	new                    func() object
}{
	Endpoints:      {"/api/v1/namespaces/mail/endpoints", "v1", "Endpoints", func() object { return &corev1.Endpoints{} }},
	EndpointSlices: {"/apis/discovery.k8s.io/v1/namespaces/mail/endpointslices", "discovery.k8s.io/v1", "EndpointSlice", func() object { return &discoveryv1.EndpointSlice{} }},
	StatefulSets:   {"/apis/apps/v1/namespaces/mail/statefulsets", "apps/v1", "StatefulSet", func() object { return &appsv1.StatefulSet{} }},
}

type object interface {
	runtime.Object
	metav1.Object
}

// Server is the API server. It is safe for concurrent use.
type Server struct {
	http *httptest.Server

	mu       sync.Mutex
	version  int
	objects  map[key]object
	events   []event
	oldest   int // watches from before this version are expired
	granted  map[string]bool
	denyOnce string
	changed  chan struct{}
	cut      chan struct{}
	refuse   int // HTTP status of every answer, 0 for none
	hiding   bool
	frozen   chan struct{}
	held     chan struct{}  // events wait, requests do not
	cache    map[key]object // nil while it does not lag
	requests map[string]int
}

type key struct{ resource, name string }

type event struct {
	version  int
	resource string // empty for bookmarks, which all watches get
	kind     string
	object   object
}

// New starts a server that ends with the test and gives rights to these resources.
func New(tb testing.TB, granted ...string) *Server {
	s := &Server{
		version: 100, objects: map[key]object{}, granted: map[string]bool{},
		changed: make(chan struct{}), cut: make(chan struct{}), requests: map[string]int{},
	}
	for _, resource := range granted {
		s.Grant(resource)
	}
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

// Config says how to reach the server, without a limit to the requests.
func (s *Server) Config(tb testing.TB) *rest.Config {
	transport := &http.Transport{}
	tb.Cleanup(transport.CloseIdleConnections)
	return &rest.Config{
		Host: s.http.URL, Transport: transport, WarningHandler: rest.NoWarnings{},
		RateLimiter: flowcontrol.NewFakeAlwaysRateLimiter(),
	}
}

// Grant gives the right to list and watch a resource, or to one of the two.
func (s *Server) Grant(resource string, verbs ...string) { s.grant(resource, verbs, true) }

// Deny takes it away. As with real servers, watches that are open go on.
func (s *Server) Deny(resource string, verbs ...string) { s.grant(resource, verbs, false) }

// DenyOnce denies the next request for a resource.
func (s *Server) DenyOnce(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denyOnce = resource
}

func (s *Server) grant(resource string, verbs []string, granted bool) {
	if len(verbs) == 0 {
		verbs = []string{"list", "watch"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, verb := range verbs {
		s.granted[verb+" "+resource] = granted
	}
}

// Set creates an object, or changes it.
func (s *Server) Set(o object) {
	resource := resourceOf(o)
	o = o.DeepCopyObject().(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{resource, o.GetName()}
	old, exists := s.objects[k]
	kind := "MODIFIED"
	if exists {
		o.SetUID(old.GetUID())
	} else {
		kind = "ADDED"
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version+1)))
	}
	s.happen(kind, resource, o)
	s.objects[k] = o
}

// Delete deletes an object.
func (s *Server) Delete(resource, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{resource, name}
	s.happen("DELETED", resource, s.objects[k].DeepCopyObject().(object))
	delete(s.objects, k)
}

// Lag makes the server answer those who take what it remembers with what is the truth now, from now on.
func (s *Server) Lag() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = maps.Clone(s.objects)
}

// Bookmark sends a bookmark to all watches: as real ones, it carries an empty object.
func (s *Server) Bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happen("BOOKMARK", "", nil)
}

// happen needs the lock.
func (s *Server) happen(kind, resource string, o object) {
	s.version++
	if o != nil {
		stamp(o, resource, s.version)
	}
	s.events = append(s.events, event{s.version, resource, kind, o})
	close(s.changed)
	s.changed = make(chan struct{})
}

func stamp(o object, resource string, version int) {
	o.SetResourceVersion(strconv.Itoa(version))
	o.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(kinds[resource].apiVersion, kinds[resource].kind))
}

func resourceOf(o object) string {
	switch o.(type) {
	case *corev1.Endpoints:
		return Endpoints
	case *discoveryv1.EndpointSlice:
		return EndpointSlices
	default:
		return StatefulSets
	}
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

// Hide makes the server answer lists as if there was nothing, or be honest again. Watches are told nothing of it.
func (s *Server) Hide(hiding bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hiding = hiding
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

// Requests returns how many requests there were for a resource: watch, list, and read, which is a list for a proof.
func (s *Server) Requests(verb, resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[verb+" "+resource]
}

// request is what one asks for.
type request struct {
	resource, verb, version string
	selects                 func(object) bool
}

// right is what a request needs.
func (q request) right() string {
	if q.verb == "read" {
		return "list " + q.resource
	}
	return q.verb + " " + q.resource
}

// parse says what a request asks for; it is not ok if it does not select as the Roles demand.
func parse(r *http.Request) (q request, ok bool) {
	query := r.URL.Query()
	for resource, k := range kinds {
		if k.path == r.URL.Path {
			q.resource = resource
		}
	}
	q.version = query.Get("resourceVersion")
	switch {
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		q.verb = "watch"
	case q.version == "" && query.Get("limit") == "": // client-go's own lists have a limit
		q.verb = "read"
	default:
		q.verb = "list"
	}
	name, byName := strings.CutPrefix(query.Get("fieldSelector"), "metadata.name=")
	service, byService := strings.CutPrefix(query.Get("labelSelector"), discoveryv1.LabelServiceName+"=")
	q.selects = func(o object) bool {
		return byName && o.GetName() == name || byService && o.GetLabels()[discoveryv1.LabelServiceName] == service
	}
	// A Role with resourceNames allows list and watch of that name only. Slices have made-up names.
	return q, q.resource != "" && byService == (q.resource == EndpointSlices) && byName != byService
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	q, ok := parse(r)
	s.mu.Lock()
	s.requests[q.verb+" "+q.resource]++
	refuse, granted, version := s.refuse, s.granted[q.right()], s.version
	if s.denyOnce == q.resource {
		granted, s.denyOnce = false, ""
	}
	var items []object
	objects := s.objects
	if q.version == "0" && s.cache != nil {
		objects = s.cache
	}
	for k, o := range objects {
		if k.resource == q.resource && ok && !s.hiding && q.selects(o) {
			items = append(items, o)
		}
	}
	s.mu.Unlock()
	s.thawed(r)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Warning", `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`)
	switch {
	case refuse != 0:
		fail(w, refuse, metav1.StatusReason(strings.ReplaceAll(http.StatusText(refuse), " ", "")))
	case !granted || !ok:
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	case q.verb == "watch":
		s.watch(w, r, q)
	default:
		slices.SortFunc(items, func(a, b object) int { return strings.Compare(a.GetName(), b.GetName()) })
		list := map[string]any{
			"apiVersion": kinds[q.resource].apiVersion, "kind": kinds[q.resource].kind + "List",
			"metadata": map[string]string{"resourceVersion": strconv.Itoa(version)}, "items": append([]object{}, items...),
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

func (s *Server) watch(w http.ResponseWriter, r *http.Request, q request) {
	version, _ := strconv.Atoi(q.version)
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
			if e.version <= version {
				continue
			}
			version = e.version
			o := e.object
			switch {
			case e.kind == "BOOKMARK":
				o = kinds[q.resource].new()
				stamp(o, q.resource, e.version)
			case e.resource != q.resource || !q.selects(o):
				continue
			}
			if stream.Encode(map[string]any{"type": e.kind, "object": o}) != nil {
				return
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
