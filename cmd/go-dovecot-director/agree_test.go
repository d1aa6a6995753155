package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/k-web-s/go-dovecot-director/ring"
	"github.com/k-web-s/go-dovecot-director/ring/sim"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

const scenarios = "../../testdata/scenarios"

// TestTheSimulationAgrees plays every scenario with a thousand users, and has real directors go through the same: the lookup API, the
// store on PostgreSQL, and backends from EndpointSlices, by the simulation's clock. It compares every answer, word by word, and in
// the end every row.
func TestTheSimulationAgrees(t *testing.T) {
	server := pgtest.Start(t)
	files, err := filepath.Glob(scenarios + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			r := newReplay(t, server.Database(t))
			scenario := small(t, file)
			result, err := sim.Run(t.Context(), scenario, sim.Options{Trace: r.step})
			if err != nil {
				t.Fatal(err)
			}
			r.compareRows()
			if r.lookups < scenario.Users || r.lookups < result.Lookups {
				t.Errorf("%d lookups were compared of %d, for %d users", r.lookups, result.Lookups, scenario.Users)
			}
		})
	}
}

// small loads a scenario with a thousand users at most, who log in less often where it goes on for days.
func small(t *testing.T, file string) *sim.Scenario {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(users: \{count: )[0-9_]+`).ReplaceAll(text, []byte("${1}1000"))
	text = regexp.MustCompile(`(at_start: )[0-9_]+`).ReplaceAll(text, []byte("${1}10"))
	if regexp.MustCompile(`(?m)^duration: [2-9]d`).Match(text) && !bytes.Contains(text, []byte("\nlogins:")) {
		text = append(text, "logins: {per_day: 1, reconnect: 4d, gaps: [1d, 2d, 4d]}\n"...)
	}
	s, err := loadScenarioText(file, text)
	if err != nil {
		t.Fatal(err)
	}
	if s.Users > 1000 {
		t.Fatalf("%d users", s.Users)
	}
	return s
}

// replay is the real thing, led through what the simulation's directors went through.
type replay struct {
	t        *testing.T
	now      time.Time
	clock    *sql.DB
	db       *store.DB
	replicas map[int]*replayed
	down     bool
	rows     map[string]string // as the simulation has them
	lookups  int
}

// replayed is one director.
type replayed struct {
	d     *director.Director
	api   http.Handler
	names map[netip.Addr]string
	// proofs are the snapshots that it gets when it asks, load what is known of the next user's sessions.
	proofs []director.Snapshot
	load   *director.Load
}

// newReplay makes a database whose now() is the simulation's: the statements are those of production, and find another function.
func newReplay(t *testing.T, url string) *replay {
	t.Helper()
	r := &replay{t: t, replicas: map[int]*replayed{}, rows: map[string]string{}}
	pgtest.Exec(t, url, `CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`)
	pgtest.Exec(t, url, `CREATE SCHEMA sim`)
	pgtest.Exec(t, url, `CREATE UNLOGGED TABLE sim.clock AS SELECT pg_catalog.now() AS now`)
	pgtest.Exec(t, url, `CREATE FUNCTION sim.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT now FROM sim.clock'`)
	url += "&search_path=sim,pg_catalog,public"
	var err error
	if r.clock, err = sql.Open("postgres", url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.clock.Close() })
	if r.db, err = store.Open(store.Config{URL: url}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.db.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, r.db.Close()); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(time.Minute); r.db.Status().Err != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(r.db.Status().Err)
		}
	}
	return r
}

// Get is the store's, unless the scenario's database is down: how the store finds that out is tested with it.
func (r *replay) Get(ctx context.Context, user string) (director.Mapping, error) {
	if r.down {
		return director.Mapping{}, director.ErrUnavailable
	}
	return patiently(func() (director.Mapping, error) { return r.db.Get(ctx, user) })
}

// Assign is the store's.
func (r *replay) Assign(ctx context.Context, a director.Assignment) (director.Mapping, error) {
	if r.down {
		return director.Mapping{}, director.ErrUnavailable
	}
	return patiently(func() (director.Mapping, error) { return r.db.Assign(ctx, a) })
}

// Touch writes at once: the store takes up to a second, in which hours of the simulation may pass.
func (r *replay) Touch(user, backend string) {
	if r.down {
		return
	}
	if _, err := r.clock.Exec(`UPDATE mailbox_username_backend SET last_ts = now() WHERE username = $1 AND backend = $2`, user, backend); err != nil {
		r.t.Error(err)
	}
}

// Counts is the store's.
func (r *replay) Counts(ctx context.Context) (map[string]int, error) {
	if r.down {
		return nil, director.ErrUnavailable
	}
	return r.db.Counts(ctx)
}

// patiently asks the store again for a minute while it has no time to answer: the simulation's is never slow.
func patiently[T any](ask func() (T, error)) (T, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if answer, err := ask(); !errors.Is(err, director.ErrUnavailable) || time.Now().After(deadline) {
			return answer, err
		}
	}
}

// step goes through one thing that happened.
func (r *replay) step(s sim.Step) {
	if r.t.Failed() {
		return // one difference leads to others
	}
	if !s.At.Equal(r.now) {
		r.now = s.At
		if _, err := r.clock.Exec(`UPDATE sim.clock SET now = $1`, r.now); err != nil {
			r.t.Error(err)
		}
	}
	d := r.replicas[s.Replica]
	switch {
	case s.Database:
		r.down = s.Down
	case s.Row != nil: // what was there before the first lookup
		r.put(*s.Row)
	case s.Moved != nil:
		if _, err := patiently(func() (director.Mapping, error) { return r.db.Assign(context.Background(), *s.Moved) }); err != nil {
			r.t.Error(err)
		}
		r.rows[s.Moved.User] = s.Moved.Becomes
	case s.Settings != nil:
		r.replicas[s.Replica] = r.start(*s.Settings)
	case s.Snapshot != nil && s.Asked:
		d.proofs = append(d.proofs, *s.Snapshot)
	case s.Snapshot != nil:
		d.d.Observe(r.observed(d, *s.Snapshot))
	case s.Counted:
		select {
		case <-d.d.CountsDue():
		default:
			r.t.Errorf("%s: replica %d does not want to count", r.now, s.Replica)
		}
		d.d.Recount(context.Background())
	case s.Load != nil:
		d.load = s.Load
	default:
		r.lookup(d, s)
	}
}

func (r *replay) put(a director.Assignment) {
	if _, err := r.db.Insert(context.Background(), []director.Row{{User: a.User, Backend: a.Becomes, LastSeen: r.now.Add(-24 * time.Hour)}}); err != nil {
		r.t.Error(err)
	}
	r.rows[a.User] = a.Becomes
}

// start makes a director as serve does it, but for the clock.
func (r *replay) start(settings sim.Settings) *replayed {
	d := &replayed{}
	config := director.Config{
		Mappings: r, Counter: r, Policy: settings.Policy, Graces: settings.Graces, Users: settings.Users,
		BuildRing: func(members []director.Member) director.Ring { return ring.Build(members) },
		Confirm: func() {
			if len(d.proofs) == 0 {
				return // the API server does not answer
			}
			proof := d.proofs[0]
			d.proofs = d.proofs[1:]
			d.d.Observe(r.observed(d, proof))
		},
		TouchInterval: settings.TouchInterval, Remember: settings.Remember, Now: func() time.Time { return r.now },
		After: func(time.Duration) <-chan time.Time {
			over := make(chan time.Time)
			close(over)
			return over
		},
	}
	if settings.Policy.EvenAbove > 0 {
		config.Load = func(string) *director.Load { return d.load }
	}
	d.d = director.New(config)
	d.api = directorhttp.NewLookups(d.d, slog.New(slog.DiscardHandler))
	return d
}

// observed is a snapshot as the API server would show it, and as it is read from there.
func (r *replay) observed(d *replayed, s director.Snapshot) director.Snapshot {
	slice := discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	d.names = map[netip.Addr]string{}
	weights := map[string]int{}
	for _, b := range s.Backends {
		serving := b.Condition == director.Ready || b.Condition == director.Terminating
		terminating := b.Condition == director.Terminating || b.Condition == director.Stopping
		ready := serving && !terminating
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{b.Addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: b.Name, UID: types.UID(b.Instance)},
		})
		d.names[b.Addr] = b.Name
		weights[b.Name] = b.Weight
	}
	backends, err := k8s.FromSlices([]discoveryv1.EndpointSlice{slice})
	if err != nil {
		r.t.Error(err)
	}
	for i := range backends {
		backends[i].Weight = weights[backends[i].Name] // Kubernetes knows none
	}
	s.Backends = backends
	return s
}

// lookup asks over the lookup API and compares the answer.
func (r *replay) lookup(d *replayed, s sim.Step) {
	body, err := json.Marshal(map[string]string{"user": s.User})
	if err != nil {
		r.t.Error(err)
	}
	answer := httptest.NewRecorder()
	d.api.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/auth_passdb_lookup", strings.NewReader(string(body))))
	var got struct {
		Code       int
		Attributes json.RawMessage
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		r.t.Error(err)
	}
	r.lookups++
	var text string
	if got.Code == 1 {
		var to struct{ Host netip.Addr }
		if err := json.Unmarshal(got.Attributes, &to); err != nil {
			r.t.Error(err)
		}
		text = "to " + d.names[to.Host]
	} else if err := json.Unmarshal(got.Attributes, &text); err != nil {
		r.t.Error(err)
	}
	want := s.Answer.Detail()
	if s.Answer.Verb == director.Serve {
		want = "to " + s.Answer.Backend
		r.rows[s.Answer.User] = s.Answer.Backend
	}
	if text != want || len(d.proofs) > 0 {
		r.t.Errorf("%s, lookup %d of %s by replica %d:\nsimulated: %s\n     real: %s\n%d proofs were not asked for", r.now, r.lookups, s.User, s.Replica, want, text, len(d.proofs))
	}
	d.load = nil
}

// compareRows compares what is in the database in the end with what the simulation's directors wrote.
func (r *replay) compareRows() {
	there := 0
	if err := r.db.Each(context.Background(), func(row director.Row) error {
		there++
		if want := r.rows[row.User]; row.Backend != want {
			r.t.Errorf("%s is on %s, simulated on %q", row.User, row.Backend, want)
		}
		return nil
	}); err != nil {
		r.t.Error(err)
	}
	if there != len(r.rows) {
		r.t.Errorf("%d rows, simulated %d", there, len(r.rows))
	}
}
