package metrics

import (
	"net/http"
	"runtime"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const prefix = "dovecot_director_"

// Config says what the closed sets are that labels come from, other than the domain's own.
type Config struct {
	Version string
	// Faults are why lookups come to nothing.
	Faults []string
	// Calls are what statements of the store are for, Causes why they fail.
	Calls, Causes []string
	// Resources are what is watched in Kubernetes.
	Resources []string
	// Methods and Classes are those of requests to the admin API and of their answers.
	Methods, Classes []string
	// Reloaded are the settings whose files are read again when they change.
	Reloaded []string
}

// Family is one metric with all its labels.
type Family struct {
	// Name is without the suffixes that a histogram's series have.
	Name   string
	Type   string
	Labels []string
	Help   string
}

// The types of families.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// Metrics counts and measures.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
	families []Family

	lookups  [2]lookups // passdb and userdb
	resolved *prometheus.CounterVec

	assigned, moved, undone map[director.Reason]prometheus.Counter
	ring                    prometheus.Observer

	calls       map[string]calls
	storeErrors *prometheus.CounterVec

	restarts, admin, unread *prometheus.CounterVec
}

// lookups are the metrics of one kind of lookups.
type lookups struct {
	kind     string
	resolved map[outcome]prometheus.Counter
	failed   map[string]prometheus.Counter
	took     prometheus.Observer
}

type outcome struct {
	verb   director.Verb
	reason director.Reason
}

// calls are the metrics of one kind of statements.
type calls struct{ took, users prometheus.Observer }

// The outcomes of lookups that come to nothing.
const (
	outcomeInvalid     = "invalid"
	outcomeUnavailable = "unavailable"
	outcomeError       = "error"
)

// The faults that are not the request's.
const (
	faultOverload = "overload"
	faultInternal = "internal"
)

var (
	lookupBuckets = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 3}
	callBuckets   = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}
	ringBuckets   = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}
	userBuckets   = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500}
)

// New returns a Metrics that knows what it is told. Show adds what can be asked for.
func New(c Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), calls: make(map[string]calls)}
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	build := prometheus.NewGaugeVec(m.options(gauge, "build_info", "Always 1; its labels say which version runs.", "version", "goversion"))
	m.registry.MustRegister(build)
	build.WithLabelValues(c.Version, runtime.Version()).Set(1)

	m.resolved = m.counters("lookups_total", "Lookups that were answered: what they came to, and why. Every login makes a passdb lookup.", "kind", "outcome", "reason")
	took := m.histograms("lookup_duration_seconds", "How long lookups took, from the request's header to the answer.", lookupBuckets, "kind")
	for i, kind := range []string{"passdb", "userdb"} {
		l := lookups{kind: kind, resolved: make(map[outcome]prometheus.Counter), failed: make(map[string]prometheus.Counter), took: took.WithLabelValues(kind)}
		for verb, reasons := range director.Outcomes {
			for _, reason := range reasons {
				l.resolved[outcome{verb, reason}] = m.resolved.WithLabelValues(kind, verb.String(), string(reason))
			}
		}
		for _, fault := range c.Faults {
			l.failed[fault] = m.resolved.WithLabelValues(kind, outcomeOf(fault), fault)
		}
		m.lookups[i] = l
	}

	m.assigned = byReason(m.counters("assignments_total", "Rows that lookups of this replica have written, by why: of new users, of users who were moved, in another spelling, and again when a backend is back.", "reason"), director.AssignReasons)
	m.moved = byReason(m.counters("moves_total", "Users whose backend this replica has changed from one to another, by why.", "reason"), director.SwapReasons)
	m.undone = byReason(m.counters("moves_undone_total", "Moves that this replica has given up; the user stayed where he was. The log and the journal say why.", "reason"), director.MoveReasons)
	m.ring = m.histograms("ring_build_duration_seconds", "How long building the ring took, each time that the backends which take new users changed.", ringBuckets).WithLabelValues()

	callTook := m.histograms("store_call_duration_seconds", "How long statements took in the database, as this replica sees it. Lookups that come together share one.", callBuckets, "call")
	users := m.histograms("store_batch_users", "How many users shared a statement.", userBuckets, "call")
	m.storeErrors = m.counters("store_errors_total", "Statements that failed, by why: refused is a user whom the foreign key does not know, locked a row that somebody else holds.", "call", "cause")
	for _, call := range c.Calls {
		m.calls[call] = calls{took: callTook.WithLabelValues(call), users: users.WithLabelValues(call)}
		preset(m.storeErrors, []string{call}, c.Causes)
	}

	m.restarts = m.counters("watch_restarts_total", "Watches of the Kubernetes API that were begun anew, or tried to. A dozen an hour is usual: the API server ends each after some minutes.", "resource")
	preset(m.restarts, nil, c.Resources)
	m.admin = m.counters("admin_requests_total", "Requests to the admin API, by method and class of the answer's HTTP status.", "method", "code")
	for _, method := range c.Methods {
		preset(m.admin, []string{method}, c.Classes)
	}
	m.unread = m.counters("reload_failures_total", "Attempts to read changed tokens or certificates that failed: those before stay in force, and may expire. The log says why.", "setting")
	preset(m.unread, nil, c.Reloaded)
	return m
}

// preset makes the counters of all values of the last label.
func preset(vec *prometheus.CounterVec, first, values []string) {
	for _, value := range values {
		vec.WithLabelValues(append(first[:len(first):len(first)], value)...)
	}
}

func byReason(vec *prometheus.CounterVec, reasons []director.Reason) map[director.Reason]prometheus.Counter {
	all := make(map[director.Reason]prometheus.Counter, len(reasons))
	for _, reason := range reasons {
		all[reason] = vec.WithLabelValues(string(reason))
	}
	return all
}

func outcomeOf(fault string) string {
	switch fault {
	case faultInternal:
		return outcomeError
	case faultOverload:
		return outcomeUnavailable
	}
	return outcomeInvalid
}

// family notes a family and returns its full name.
func (m *Metrics) family(kind, name, help string, labels []string) string {
	m.families = append(m.families, Family{Name: prefix + name, Type: kind, Labels: labels, Help: help})
	return prefix + name
}

func (m *Metrics) options(kind, name, help string, labels ...string) (prometheus.GaugeOpts, []string) {
	return prometheus.GaugeOpts{Name: m.family(kind, name, help, labels), Help: help}, labels
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.family(counter, name, help, labels), Help: help}, labels)
	m.registry.MustRegister(vec)
	return vec
}

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.family(histogram, name, help, labels), Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(vec)
	return vec
}

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Families returns all families of this package, in an order for readers.
func (m *Metrics) Families() []Family { return m.families }

func (m *Metrics) of(readOnly bool) *lookups {
	if readOnly {
		return &m.lookups[1]
	}
	return &m.lookups[0]
}

// Resolved is told of a lookup that was answered as was decided.
func (m *Metrics) Resolved(readOnly bool, verb director.Verb, reason director.Reason, took time.Duration) {
	l := m.of(readOnly)
	if c, ok := l.resolved[outcome{verb, reason}]; ok {
		c.Inc()
	} else {
		m.resolved.WithLabelValues(l.kind, verb.String(), string(reason)).Inc()
	}
	l.took.Observe(took.Seconds())
}

// Failed is told of a lookup that came to nothing.
func (m *Metrics) Failed(readOnly bool, fault string, took time.Duration) {
	l := m.of(readOnly)
	if c, ok := l.failed[fault]; ok {
		c.Inc()
	}
	l.took.Observe(took.Seconds())
}

// Assigned is told that a lookup has written a user's row.
func (m *Metrics) Assigned(reason director.Reason) { increase(m.assigned, reason) }

// Moved is told that a user's backend was changed.
func (m *Metrics) Moved(reason director.Reason) { increase(m.moved, reason) }

// Undone is told that a move was given up.
func (m *Metrics) Undone(reason director.Reason) { increase(m.undone, reason) }

// increase counts what is of a known reason. A move's is read from the database, where anything might stand.
func increase(counters map[director.Reason]prometheus.Counter, reason director.Reason) {
	if c, ok := counters[reason]; ok {
		c.Inc()
	}
}

// RingBuilt is told how long a new ring took.
func (m *Metrics) RingBuilt(took time.Duration) { m.ring.Observe(took.Seconds()) }

// Called is told of a statement of the store.
func (m *Metrics) Called(call string, users int, took time.Duration, cause string) {
	if c, ok := m.calls[call]; ok {
		c.took.Observe(took.Seconds())
		if users > 0 {
			c.users.Observe(float64(users))
		}
	}
	if cause != "" {
		m.storeErrors.WithLabelValues(call, cause).Inc()
	}
}

// Restarted is told that a watch was begun anew.
func (m *Metrics) Restarted(resource string) { m.restarts.WithLabelValues(resource).Inc() }

// Ordered is told of a request to the admin API.
func (m *Metrics) Ordered(method, class string) { m.admin.WithLabelValues(method, class).Inc() }

// NotReloaded is told that the changed files of a setting could not be used.
func (m *Metrics) NotReloaded(setting string) { m.unread.WithLabelValues(setting).Inc() }
