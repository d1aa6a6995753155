package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// lookEvery is how often the table is looked at.
const lookEvery = 500 * time.Millisecond

// recoverLimit is how long a site may take to recover on a busy machine. What it takes is told, not judged.
const recoverLimit = 2 * time.Minute

// Options say what a Site is made of. Their zero values are three directors of this source.
type Options struct {
	Seed uint64
	// Directors is how many there are, Arguments what each gets besides.
	Directors int
	Arguments []string
	// Program is the path of another build.
	Program string
	// Postgres are settings of the server that differ from those for tests.
	Postgres []string
	// Fragile sites have what Faults need besides: PostgreSQL's own disk, clocks, and links from the clients to the directors.
	Fragile bool
	// Cluster is where the directors learn of backends, in place of files. All of them see the same, and backends are never lost for
	// longer than any grace.
	Cluster *cluster.Cluster
}

// Director is one replica: the process, its link to PostgreSQL, and its feed.
type Director struct {
	*program.Director
	Name string
	Link *Link
	feed *feed // nil in a cluster
	api  *Link // to the API server, in a cluster
	// Of fragile sites:
	clock *program.Clock
	front *Link // of the clients
}

// URL is where clients ask it.
func (d *Director) URL() string {
	if d.front != nil {
		return "http://" + d.front.Addr()
	}
	return d.Director.URL()
}

// Site is several directors and all that they live in.
type Site struct {
	Directors []*Director
	Database  *pgtest.Server
	History   *history.History

	seed    uint64
	eye     *Link  // by which the table is looked at
	url     string // of the database, by that link
	db      *sql.DB
	standby *standby
	api     *endpoints // nil without a cluster

	inCluster bool
	http      *http.Client
	names     directory
	backends  map[int]*backend

	end     context.CancelFunc
	running sync.WaitGroup
}

// New starts a site, which ends with the test. Nobody asks anything yet.
func New(tb testing.TB, o Options) *Site {
	tb.Helper()
	tb.Logf("seed %d", o.Seed)
	if o.Directors == 0 {
		o.Directors = 3
	}
	if o.Program == "" {
		o.Program = program.Path(tb)
	}
	failover, restart := failoverGrace, restartGrace
	if o.Cluster != nil {
		failover, restart = time.Minute, 2*time.Minute
	}
	s := &Site{
		History:   history.New(history.Config{Failover: failover, Restart: restart, Late: 3 * time.Second, MoveLimit: director.MoveDeadline}),
		inCluster: o.Cluster != nil,
		seed:      o.Seed, names: directory{names: map[netip.Addr]string{}, since: map[netip.Addr]time.Duration{}}, backends: map[int]*backend{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4 * clients}},
	}
	tb.Cleanup(s.http.CloseIdleConnections)
	s.database(tb, o)
	key := filepath.Join(tb.TempDir(), "key")
	if err := os.WriteFile(key, []byte("key\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, b := range s.backends {
			b.stop()
		}
	})
	for n := range firstBackends {
		s.become(tb, event{backend: n, state: history.Ready})
	}
	loopback := dovecot.NewNet(tb)
	for n := range o.Directors {
		d := &Director{Name: fmt.Sprintf("director %d", n), Link: newLink(tb, strconv.Itoa(n), s.Database.Addr())}
		s.Directors = append(s.Directors, d)
	}
	if o.Cluster != nil {
		s.api = newEndpoints(tb, o.Cluster, s)
	}
	for _, d := range s.Directors {
		if s.api != nil {
			d.api = newLink(tb, "api of "+d.Name, s.api.front.Addr)
			continue
		}
		d.feed = newFeed(tb, d.Name, s.History)
		for b := range firstBackends {
			if err := d.feed.tell(backendName(b), s.backends[b].now); err != nil {
				tb.Fatal(err)
			}
		}
	}
	var starting sync.WaitGroup
	for n, d := range s.Directors {
		starting.Go(func() {
			addr := loopback.Addr(byte(101 + n))
			arguments := append([]string{
				"--replica-name", d.Name, "--database-url", s.through(d.Link),
				"--failover-grace", failoverGrace.String(), "--restart-grace", restartGrace.String(), "--panic-grace", panicGrace.String(),
				"--login-delay", "1s", "--doveadm-key-file", key, "--doveadm-port", strconv.Itoa(doveadmPort),
			}, s.source(tb, d)...)
			arguments = append(arguments, o.Arguments...)
			if !o.Fragile {
				d.Director = program.StartBuild(tb, o.Program, addr, arguments...)
				return
			}
			d.clock = program.NewClock(tb)
			d.Director = d.clock.Start(tb, addr, arguments...)
			d.front = newLink(tb, d.Name, d.Addr())
		})
	}
	starting.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	return s
}

// source are the arguments that tell a director where it learns of backends.
func (s *Site) source(tb testing.TB, d *Director) []string {
	if s.api == nil {
		return []string{"--endpoints-file", d.feed.path}
	}
	return []string{
		"--kubeconfig", s.api.front.Kubeconfig(tb, d.api.Addr()), "--namespace", s.api.namespace, "--service", service,
		// Nobody is to be moved: a restart that is not told for as long as a fault lasts is no loss, and a lie is to be waited for.
		"--failover-grace", "1m", "--restart-grace", "2m", "--panic-grace", "1h",
	}
}

// database starts PostgreSQL and makes all tables.
func (s *Site) database(tb testing.TB, o Options) {
	tb.Helper()
	var err error
	if o.Fragile {
		s.Database = pgtest.StartOnDisk(tb, diskSize, append(o.Postgres, "max_connections=100")...)
	} else {
		if s.Database, err = pgtest.New(o.Postgres...); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := s.Database.Close(); err != nil {
				tb.Error(err)
			}
		})
	}
	s.url = s.Database.Database(tb)
	s.eye = newLink(tb, "eye", s.Database.Addr())
	s.url = s.through(s.eye)
	if _, stderr, code := program.Run(tb, "migrate", "--database-url", s.url); code != 0 {
		tb.Fatal(stderr)
	}
	if s.db, err = sql.Open("postgres", s.url); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.db.Close() })
}

// through is the database's URL by way of a link.
func (s *Site) through(l *Link) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", l.Addr(), filepath.Base(s.url[:len(s.url)-len("?sslmode=disable")]))
}

// become changes what is true of a backend.
func (s *Site) become(tb testing.TB, e event) *backend {
	b := s.backends[e.backend]
	if b == nil {
		b = &backend{name: backendName(e.backend)}
		if s.inCluster {
			b.pod = 1 + e.backend
		} else {
			b.net = dovecot.NewNet(tb)
		}
		s.backends[e.backend] = b
	}
	b.become(tb, e)
	s.names.add(b.now.addr, b.name, s.History.Now())
	return b
}

// Go lets the clients, the churn and the looks at the table begin.
func (s *Site) Go(tb testing.TB) {
	tb.Helper()
	ctx, end := context.WithCancel(context.Background())
	s.end = sync.OnceFunc(func() {
		end()
		s.running.Wait()
	})
	tb.Cleanup(s.end)
	for n := range clients {
		s.running.Go(func() { s.client(ctx, n) })
	}
	s.running.Go(func() {
		if s.api != nil {
			s.restarts(ctx, tb)
			return
		}
		s.change(ctx, tb)
	})
	s.running.Go(func() {
		for ctx.Err() == nil {
			_ = s.look(ctx) // while the database is down nobody can look
			pause(ctx, lookEvery)
		}
	})
}

// change lets happen what the seed says.
func (s *Site) change(ctx context.Context, tb testing.TB) {
	begun := time.Now()
	var telling sync.WaitGroup
	defer telling.Wait()
	told := make([]chan struct{}, len(s.Directors)) // when each has been told of what came before
	for e := range churn(s.seed, len(s.Directors)) {
		pause(ctx, time.Until(begun.Add(e.at)))
		if ctx.Err() != nil {
			return
		}
		if e.user >= 0 {
			telling.Go(func() { s.move(ctx, tb, e) })
			continue
		}
		b := s.become(tb, e)
		now := b.now
		for n, d := range s.Directors {
			before, done := told[n], make(chan struct{})
			told[n] = done
			telling.Go(func() {
				defer close(done)
				pause(ctx, time.Until(begun.Add(e.at+e.lags[n])))
				if before != nil {
					<-before
				}
				if err := d.feed.tell(b.name, now); err != nil {
					tb.Errorf("feeding %s: %v", d.Name, err)
				}
			})
		}
	}
}

// move orders a user to be moved. Whether he is depends on where he is and on what is alive.
func (s *Site) move(ctx context.Context, tb testing.TB, e event) {
	operator, err := directorhttp.NewClient(directorhttp.ClientConfig{URL: s.Directors[e.via].AdminURL()})
	if err != nil {
		tb.Error(err)
		return
	}
	o := director.MoveOrder{User: pooled(e.user), To: backendName(e.to), Actor: "chaos"}
	withdraw := s.History.Order(s.History.Now(), o.User, o.To)
	_, err = operator.Move(ctx, o)
	if _, refused := errors.AsType[*director.RefusedError](err); refused {
		withdraw()
		return
	}
	// A director that is paused may take the order when it is resumed, also from a client that has not waited for it.
	for _, later := range []time.Duration{0, director.MoveDeadline, 2 * director.MoveDeadline} {
		s.History.Order(s.History.Now()+later, o.User, o.To)
		if err == nil {
			return
		}
	}
}

// look looks at the table.
func (s *Site) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	begin := s.History.Now()
	found, err := s.db.QueryContext(ctx, "SELECT username, backend FROM mailbox_username_backend")
	if err != nil {
		return err
	}
	defer found.Close()
	rows := map[string]string{}
	for found.Next() {
		var user, backend string
		if err := found.Scan(&user, &backend); err != nil {
			return err
		}
		rows[user] = backend
	}
	if err := found.Err(); err != nil {
		return err
	}
	s.History.Look(begin, s.History.Now(), rows)
	return nil
}

// Fault is something bad that happens to a site and ends again.
type Fault struct {
	Name       string
	Begin, End func(tb testing.TB, s *Site)
	// Known is how many directors have to answer known users while it lasts.
	Known int
	// Least is how long it has to last to do harm.
	Least time.Duration
}

// Result is what a time with a fault, or all of it, cost.
type Result struct {
	Fault string
	history.Counts
	history.Report
	// Wrong and Lost count the violations.
	Wrong, Lost int
	// Recovery is how long after the fault's end all replicas answered known users and new ones again.
	Recovery time.Duration

	from, to time.Duration
}

func (r Result) String() string {
	text := fmt.Sprintf("%s: %d lookups, %d answered, %d held, %d unavailable, %d wrong, %d lost", r.Fault, r.Lookups, r.Answered, r.Held, r.Unavailable, r.Wrong, r.Lost)
	if r.Recovery > 0 {
		text += fmt.Sprintf(", recovered in %.1f s", r.Recovery.Seconds())
	}
	if r.Moves > 0 {
		text += fmt.Sprintf(", %d moves", r.Moves)
	}
	return text
}

// Strike lets a fault happen for so long, and until as many directors as it spares have answered known users; then it waits until the
// site has recovered. Go was called before. What it returns is without what was wrong: that is Finish's to say.
func (s *Site) Strike(tb testing.TB, f Fault, lasting time.Duration) Result {
	tb.Helper()
	r := Result{Fault: f.Name, from: s.History.Now()}
	tb.Logf("%.3fs: %s", r.from.Seconds(), f.Name)
	f.Begin(tb, s)
	lasting = max(lasting, f.Least)
	pause(tb.Context(), lasting/2)
	known := s.whoKnows()
	pause(tb.Context(), lasting/2)
	if n := known(f.Known); n < f.Known {
		tb.Errorf("%s: known users are answered by %d directors within %s, want %d", f.Name, n, recoverLimit, f.Known)
	}
	f.End(tb, s)
	ended := s.History.Now()
	tb.Logf("%.3fs: end of %s", ended.Seconds(), f.Name)
	s.recovered(tb, ended)
	r.to = s.History.Now()
	r.Recovery = r.to - ended
	r.Counts = s.History.Count(r.from, r.to)
	return r
}

// whoKnows begins to ask each director for known users until it has answered one. The function that is returned waits until that many
// have, or for a limit, and says how many there are.
func (s *Site) whoKnows() func(want int) int {
	ctx, cancel := context.WithTimeout(context.Background(), recoverLimit)
	answered := make(chan struct{}, len(s.Directors))
	var asking sync.WaitGroup
	for n := range s.Directors {
		asking.Go(func() {
			for try := 0; ctx.Err() == nil; try++ {
				if s.ask(ctx, clients+1+n, pooled(try%hotUsers), n, false).Outcome == history.Served {
					answered <- struct{}{}
					return
				}
				pause(ctx, 20*time.Millisecond)
			}
		})
	}
	return func(want int) (n int) {
		defer asking.Wait()
		defer cancel()
		for ; n < want; n++ {
			select {
			case <-answered:
			case <-ctx.Done():
				return n
			}
		}
		return n
	}
}

// recovered waits until each replica answers a known user and a new one. Known users may be held, because their backend is away
// or they are being moved, so any of them will do. In a cluster it waits too until each sends users where a backend was not before.
func (s *Site) recovered(tb testing.TB, ended time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), recoverLimit)
	defer cancel()
	for n, d := range s.Directors {
		known, fresh, sees := false, false, !s.inCluster
		for try := 0; !known || !fresh || !sees; try++ {
			if ctx.Err() != nil {
				tb.Fatalf("%s does not answer again within %s (known users: %t, new ones: %t; sees backends: %t)", d.Name, recoverLimit, known, fresh, sees)
			}
			l := s.ask(ctx, clients, pooled(try%hotUsers), n, false)
			known = known || l.Outcome == history.Served
			sees = sees || l.Outcome == history.Served && s.names.newer(l.Addr, ended)
			user := fmt.Sprintf("after-%d-%d-%d@example.org", s.History.Now(), n, try)
			fresh = fresh || s.ask(ctx, clients, user, n, false).Outcome == history.Served
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// Finish ends clients and churn, looks at the table once more and checks the history. The results of faults get what was wrong while
// they lasted; the one that is returned is of all.
func (s *Site) Finish(tb testing.TB, faults ...*Result) Result {
	tb.Helper()
	s.end()
	if err := s.look(tb.Context()); err != nil {
		tb.Errorf("looking at the table after all: %v", err)
	}
	all := Result{Fault: "all", to: s.History.Now(), Report: s.History.Check()}
	all.Counts = s.History.Count(0, all.to)
	all.judge(all.Violations)
	for _, r := range faults {
		r.judge(all.Violations)
	}
	return all
}

// judge counts what was wrong in the result's time.
func (r *Result) judge(all []history.Violation) {
	for _, v := range all {
		switch {
		case v.At < r.from || v.At > r.to:
		case v.Rule == history.RuleLost:
			r.Lost++
		default:
			r.Wrong++
		}
	}
}
