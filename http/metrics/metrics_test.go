package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/k-web-s/go-dovecot-director/ring"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a store in memory.
type memory struct {
	mu   sync.Mutex
	rows map[string]string
	down bool
}

func (m *memory) Get(_ context.Context, user string) (director.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return director.Mapping{}, director.ErrUnavailable
	}
	if backend, ok := m.rows[user]; ok {
		return director.Mapping{Backend: backend, Age: time.Hour}, nil
	}
	return director.Mapping{}, director.ErrNoMapping
}

func (m *memory) Assign(_ context.Context, a director.Assignment) (director.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return director.Mapping{}, director.ErrUnavailable
	}
	m.rows[a.User] = a.Becomes
	return director.Mapping{Backend: a.Becomes}, nil
}

func (m *memory) Touch(string, string) {}

func (m *memory) Counts(context.Context) (map[string]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := map[string]int{}
	for _, backend := range m.rows {
		counts[backend]++
	}
	return counts, nil
}

// site is the lookup API of a director over a store in memory, with two backends, and its metrics.
type site struct {
	*memory
	*director.Director
	metrics *metrics.Metrics
	lookups http.Handler
	url     string       // of the metrics
	ahead   atomic.Int64 // how much time was let pass, in nanoseconds
}

// config is like the program's.
var config = metrics.Config{
	Version: "v1", Faults: directorhttp.LookupFaults, Calls: []string{"get", "touch"}, Causes: []string{"timeout"}, Resources: []string{"endpoints"},
	Methods: directorhttp.AdminMethods, Classes: directorhttp.AdminClasses, Reloaded: []string{"LOOKUP_TOKEN_FILE", "ADMIN_TLS_CERT_FILE"},
}

var backends = []director.Backend{
	{Name: "b-0", Addr: netip.MustParseAddr("192.0.2.1"), Weight: 1},
	{Name: "b-1", Addr: netip.MustParseAddr("192.0.2.2"), Weight: 1},
}

func newSite(tb testing.TB, measured bool) *site {
	tb.Helper()
	s := &site{memory: &memory{rows: map[string]string{"ada": "b-0", "bob": "b-1"}}, metrics: metrics.New(config)}
	format, err := director.ParseTemplate("%Lu")
	if err != nil {
		tb.Fatal(err)
	}
	c := director.Config{
		Mappings: s, Counter: s, Users: director.UserFormat{Name: format, Hash: format}, Remember: 100, TouchInterval: 24 * time.Hour,
		Graces:    director.Graces{Restart: time.Hour, Failover: time.Hour, Panic: time.Hour},
		BuildRing: func(members []director.Member) director.Ring { return ring.Build(members) },
		Now:       s.now,
	}
	var options []directorhttp.LookupsOption
	if measured {
		c.Tally = s.metrics
		options = append(options, directorhttp.WithMeter(s.metrics))
	}
	s.Director = director.New(c)
	s.lookups = directorhttp.NewLookups(s, nil, options...)
	monitor := director.NewMonitor(director.MonitorConfig{Director: s.Director})
	s.metrics.Show(metrics.Shown{
		Vitals: monitor.Vitals, Source: func() (string, bool) { return "endpoints", s.down }, StoreUp: func() bool { return !s.down }, Budget: 50,
	})
	server := httptest.NewServer(s.metrics)
	tb.Cleanup(server.Close)
	tb.Cleanup(http.DefaultClient.CloseIdleConnections)
	s.url = server.URL
	return s
}

func (s *site) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

func (s *site) see(backends ...director.Backend) {
	s.Observe(director.Snapshot{Backends: backends, CurrentAt: s.now()})
}

func (s *site) lookup(kind, body string) {
	s.lookups.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/auth_"+kind+"_lookup", strings.NewReader(body)))
}

// scrape returns the lines of a scrape that are samples of this package.
func (s *site) scrape(t *testing.T) (all []string) {
	t.Helper()
	r, err := http.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatal(r.StatusCode, err)
	}
	problems, err := promlint.New(strings.NewReader(string(text))).Lint()
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "dovecot_director_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "dovecot_director_") {
			all = append(all, strings.TrimSuffix(line, "\n"))
		}
	}
	return all
}

// shows holds that a scrape has these samples, named without the prefix.
func (s *site) shows(t *testing.T, samples ...string) {
	t.Helper()
	all := s.scrape(t)
	for _, sample := range samples {
		if !slices.Contains(all, "dovecot_director_"+sample) {
			family, _, _ := strings.Cut(sample, "{")
			t.Errorf("%s is missing; there are\n%s", sample, strings.Join(slices.DeleteFunc(slices.Clone(all), func(line string) bool { return !strings.Contains(line, family) }), "\n"))
		}
	}
}

// lacks holds that a scrape has no sample that begins so.
func (s *site) lacks(t *testing.T, beginnings ...string) {
	t.Helper()
	for _, sample := range s.scrape(t) {
		for _, b := range beginnings {
			if strings.HasPrefix(sample, "dovecot_director_"+b) {
				t.Errorf("%s is there", sample)
			}
		}
	}
}

// TestLookupsAreCounted drives lookups of all sorts through the API.
func TestLookupsAreCounted(t *testing.T) {
	s := newSite(t, true)
	s.lookup("passdb", `{"user":"ada"}`)
	s.see(backends...)
	s.ahead.Store(int64(time.Minute))
	for range 3 {
		s.lookup("passdb", `{"user":"ADA"}`)
	}
	s.lookup("userdb", `{"user":"ada"}`)
	s.lookup("passdb", `{"user":"new"}`)
	s.lookup("userdb", `{"user":"newer"}`)
	s.lookup("passdb", `{"user":""}`)
	s.lookup("passdb", `[]`)
	s.see(backends[0])
	s.lookup("passdb", `{"user":"bob"}`)
	s.memory.down = true
	s.lookup("passdb", `{"user":"ada"}`)
	s.lookup("passdb", `{"user":"stranger"}`)
	s.lookup("passdb", `{"user":"stranger"}`)
	s.shows(t,
		`lookups_total{kind="passdb",outcome="unavailable",reason="no_view"} 1`,
		`lookups_total{kind="passdb",outcome="serve",reason="mapped"} 3`,
		`lookups_total{kind="userdb",outcome="serve",reason="mapped"} 1`,
		`lookups_total{kind="passdb",outcome="serve",reason="proposed"} 1`,
		`lookups_total{kind="userdb",outcome="serve",reason="proposed"} 1`,
		`lookups_total{kind="passdb",outcome="invalid",reason="empty"} 1`,
		`lookups_total{kind="passdb",outcome="invalid",reason="request"} 1`,
		`lookups_total{kind="passdb",outcome="hold",reason="in_grace"} 1`,
		`lookups_total{kind="passdb",outcome="serve",reason="last_known"} 1`,
		`lookups_total{kind="passdb",outcome="unavailable",reason="store_down"} 2`,
		`lookups_total{kind="passdb",outcome="error",reason="internal"} 0`,
		`lookup_duration_seconds_count{kind="passdb"} 11`,
		`lookup_duration_seconds_count{kind="userdb"} 2`,
		`assignments_total{reason="proposed"} 1`,
		`moves_total{reason="placed"} 0`,
		`remembered_users 2`,
		`ring_build_duration_seconds_count 2`,
		`store_up 0`,
		`view_source_up 0`,
	)
}

// TestFaultsAreCounted holds that a lookup counts which ends in a panic or an error.
func TestFaultsAreCounted(t *testing.T) {
	s := newSite(t, true)
	for _, fault := range []func(){func() { panic("broken") }, func() {}} {
		s.lookups = directorhttp.NewLookups(resolver(fault), nil, directorhttp.WithMeter(s.metrics))
		s.lookup("userdb", `{"user":"ada"}`)
	}
	s.shows(t, `lookups_total{kind="userdb",outcome="error",reason="internal"} 2`, `lookup_duration_seconds_count{kind="userdb"} 2`)
}

type resolver func()

func (r resolver) Resolve(context.Context, director.Request) (director.Answer, error) {
	r()
	return director.Answer{}, errors.New("broken")
}

// TestWhatIsSoNow holds that values are those of the moment, and that what is gone is not shown.
func TestWhatIsSoNow(t *testing.T) {
	s := newSite(t, true)
	s.lacks(t, "backend", "view_generation", "view_age", "panic", "imbalance", "users_waiting", "replicas", "session")
	s.see(backends...)
	s.lacks(t, "backend_users", "users_waiting", "backend_sessions")
	for i := range 5 {
		s.rows[fmt.Sprint(i)] = "b-1"
	}
	s.rows["lost"] = "b-9"
	s.Recount(t.Context())
	s.shows(t, `backends{condition="alive"} 2`, `backends{condition="failed"} 0`, `backend_up{backend="b-1"} 1`, `backend_state{backend="b-1",state="active"} 1`,
		`backend_users{backend="b-0"} 1`, `backend_users{backend="b-1"} 6`, `users_elsewhere 1`, `users_waiting 0`, `view_generation 1`, `panic 0`, `view_info{source="endpoints"} 1`,
		`backend_weight{backend="b-1"} 1`, `backend_grace_seconds{backend="b-1"} 0`, `backend_awaited{backend="b-1"} 0`, `rebalance_budget 50`, `imbalance{of="users"} 1.7142857142857142`)
	s.Obey(director.Orders{Standings: []director.Standing{{Backend: "b-1", State: director.Drain}}, Moving: []string{"ada", "bob"}})
	s.shows(t, `backend_state{backend="b-1",state="drain"} 1`, `backend_weight{backend="b-1"} 0`, `users_moving 2`)
	s.see(backends[0], director.Backend{Name: "b-1", Addr: backends[1].Addr, Weight: 1, Condition: director.NotReady})
	s.shows(t, `backends{condition="alive"} 1`, `backends{condition="failed"} 1`, `backend_up{backend="b-1"} 0`, `backend_awaited{backend="b-1"} 1`, `users_waiting 6`)
	s.lacks(t, `backend_state{backend="b-1",state="active"}`, "replicas")
}

// TestToldOf holds what other parts tell.
func TestToldOf(t *testing.T) {
	s := newSite(t, true)
	m := s.metrics
	m.Moved(director.Evacuated)
	m.Moved("from a newer version")
	m.Undone(director.Moved)
	m.Called("get", 7, 3*time.Millisecond, "")
	m.Called("get", 1, time.Second, "timeout")
	m.Called("touch", 0, time.Second, "")
	m.Restarted("endpoints")
	m.Ordered("PUT", "2xx")
	s.shows(t, `moves_total{reason="evacuated"} 1`, `moves_total{reason="moved"} 0`, `moves_undone_total{reason="moved"} 1`,
		`store_call_duration_seconds_bucket{call="get",le="0.005"} 1`, `store_call_duration_seconds_count{call="get"} 2`, `store_batch_users_sum{call="get"} 8`,
		`store_batch_users_count{call="touch"} 0`, `store_errors_total{call="get",cause="timeout"} 1`, `store_errors_total{call="touch",cause="timeout"} 0`,
		`watch_restarts_total{resource="endpoints"} 1`, `admin_requests_total{code="2xx",method="PUT"} 1`, `admin_requests_total{code="5xx",method="GET"} 0`)
	if err := testutil.ScrapeAndCompare(s.url, strings.NewReader(`
# HELP dovecot_director_watch_restarts_total Watches of the Kubernetes API that were begun anew, or tried to. A dozen an hour is usual: the API server ends each after some minutes.
# TYPE dovecot_director_watch_restarts_total counter
dovecot_director_watch_restarts_total{resource="endpoints"} 1
`), "dovecot_director_watch_restarts_total"); err != nil {
		t.Error(err)
	}
}

// TestAllReasonsAreKnown holds that each reason of the domain has its counters from the start.
func TestAllReasonsAreKnown(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../decision.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Join(newSite(t, true).scrape(t), "\n")
	reasons := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Reason" {
			return true
		}
		reasons++
		reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil || !strings.Contains(shown, `reason="`+reason+`"`) {
			t.Errorf("%s has no counter", spec.Names[0])
		}
		return true
	})
	if reasons < 20 {
		t.Errorf("decision.go has %d reasons", reasons)
	}
}

// TestUsersMakeNoSeries looks up a thousand users, in as many odd ways.
func TestUsersMakeNoSeries(t *testing.T) {
	s := newSite(t, true)
	s.see(backends...)
	s.Recount(t.Context())
	before := len(s.scrape(t))
	for i := range 1000 {
		s.lookup("passdb", fmt.Sprintf(`{"user":"user-%d@example.org","service":"service-%d"}`, i, i))
		s.lookup("userdb", fmt.Sprintf(`{"user":"\u0000%d"}`, i))
		s.rows[fmt.Sprint("moved-", i)] = fmt.Sprintf("b-%d", i)
	}
	s.Recount(t.Context())
	after := s.scrape(t)
	if len(after) != before || strings.Contains(strings.Join(after, "\n"), "user-1@") {
		t.Errorf("%d series, then %d:\n%s", before, len(after), strings.Join(after, "\n"))
	}
}

// TestScrapesAndLookups scrapes while users are looked up and backends come and go, for the race detector.
func TestScrapesAndLookups(t *testing.T) {
	s := newSite(t, true)
	s.see(backends...)
	done := make(chan struct{})
	var running sync.WaitGroup
	for worker := range 4 {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				s.lookup("passdb", fmt.Sprintf(`{"user":"user-%d"}`, worker*1000+i%1000))
				if worker == 0 {
					s.see(backends[i%2:]...)
					s.Recount(t.Context())
					s.Obey(director.Orders{Standings: []director.Standing{{Backend: "b-0", State: director.States[i%4]}}})
				}
			}
		})
	}
	for range 10 {
		s.scrape(t)
	}
	close(done)
	running.Wait()
}

// TestFamiliesAreWhatIsShown holds that the list is of what a scrape shows, in name, type and help.
func TestFamiliesAreWhatIsShown(t *testing.T) {
	s := newSite(t, true)
	s.see(backends...)
	s.Recount(t.Context())
	r, err := http.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]metrics.Family{}
	for _, f := range s.metrics.Families() {
		if _, twice := known[f.Name]; twice {
			t.Errorf("%s is listed twice", f.Name)
		}
		known[f.Name] = f
	}
	for line := range strings.Lines(string(text)) {
		words := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if words[0] != "#" || !strings.HasPrefix(words[2], "dovecot_director_") {
			continue
		}
		f, ok := known[words[2]]
		if !ok || words[1] == "TYPE" && words[3] != f.Type || words[1] == "HELP" && words[3] != f.Help {
			t.Errorf("%s is listed as %+v", strings.Join(words, " "), f)
		}
	}
}

// BenchmarkLookup is a lookup of a known user through the API's handler, without a network and a database, with metrics and without.
func BenchmarkLookup(b *testing.B) {
	for name, measured := range map[string]bool{"without metrics": false, "with metrics": true} {
		b.Run(name, func(b *testing.B) {
			s := newSite(b, measured)
			s.see(backends...)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s.lookup("passdb", `{"user":"ada","service":"imap"}`)
				}
			})
		})
	}
}

// BenchmarkCounting is what metrics add to a lookup.
func BenchmarkCounting(b *testing.B) {
	m := metrics.New(config)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			begun := time.Now()
			m.Resolved(false, director.Serve, director.Mapped, time.Since(begun))
		}
	})
}
