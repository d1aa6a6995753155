package metrics

import (
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/prometheus/client_golang/prometheus"
)

// Shown is what can be asked for at a scrape. All of it answers at once.
type Shown struct {
	Vitals func() director.Vitals
	// Source says what the backends are read from, empty before that is known, and whether that fails.
	Source func() (kind string, failing bool)
	// StoreUp reports whether the store answers.
	StoreUp func() bool
	// Budget is how many users are moved for balance in an hour at most, 0 for any number.
	Budget int
}

// vitals collects what is so at the moment of a scrape: what is not any more, a backend that is gone for instance, is not shown.
type vitals struct {
	shown Shown

	storeUp, viewInfo, viewUp, generation, age                                *prometheus.Desc
	backends, state, alive, grace, awaited, weight, users, sessions, loggedIn *prometheus.Desc
	panic, imbalance, moving, waiting, elsewhere, remembered, two, pollAge    *prometheus.Desc
	tasks, left, budget, replicas, disagreeing, silent                        *prometheus.Desc
}

// Show adds what can be asked for. It is called once, before the first scrape.
func (m *Metrics) Show(s Shown) {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(m.family(gauge, name, help, labels), help, labels, nil)
	}
	m.registry.MustRegister(&vitals{
		shown:       s,
		storeUp:     describe("store_up", "1 while the database answers, 0 while it does not and users are served as this replica remembers them."),
		remembered:  describe("remembered_users", "Users whose backend this replica remembers, to serve them while the database is down. lookups_total with the reason last_known says how often it did."),
		viewInfo:    describe("view_info", "Always 1; its label says what the backends are read from.", "source"),
		viewUp:      describe("view_source_up", "1 while what the backends are read from can be asked, 0 while it cannot: then the last view serves, and nobody is moved off a lost backend."),
		generation:  describe("view_generation", "How often the view of the backends has changed. It counts within one replica only."),
		age:         describe("view_age_seconds", "Time since the view was last proven to be current. A proof is asked for only while somebody wants to log in whose backend is lost, so that it may well be days; missing before the first."),
		backends:    describe("backends", "Backends that are alive, and those that are lost, by why.", "condition"),
		alive:       describe("backend_up", "1 for a backend that is alive, 0 for one that is lost.", "backend"),
		state:       describe("backend_state", "Always 1; its label says what operators want of the backend: active, standby, drain or off.", "backend", "state"),
		weight:      describe("backend_weight", "Share of new users that a backend takes relative to the others, 0 for none.", "backend"),
		grace:       describe("backend_grace_seconds", "How long the users of a lost backend wait for it still, at most, unless it is not seen to end; then they are mapped to others as they log in. 0 when that is over.", "backend"),
		awaited:     describe("backend_awaited", "1 for a lost backend whose users wait for it: they get a temporary failure when they log in. 0 for others.", "backend"),
		panic:       describe("panic", "1 while more than half of the backends are lost at once, and users wait for PANIC_GRACE."),
		users:       describe("backend_users", "Users who are mapped to a backend, counted about every minute.", "backend"),
		sessions:    describe("backend_sessions", "Sessions that were open on a backend when it was last polled; missing if it did not answer.", "backend"),
		loggedIn:    describe("backend_logged_in_users", "Users who were logged in on a backend when it was last polled; missing if it did not answer.", "backend"),
		imbalance:   describe("imbalance", "How many times its fair share of users, or of sessions, the fullest backend has; 0 if there are none.", "of"),
		waiting:     describe("users_waiting", "Users whose backend is lost and waited for: they get a temporary failure when they log in."),
		moving:      describe("users_moving", "Users who are being moved: they get a temporary failure when they log in, for some seconds."),
		elsewhere:   describe("users_elsewhere", "Users whose row names a backend that nobody knows; they are mapped to another one as they log in."),
		two:         describe("users_on_two_backends", "Users who were seen on more than one backend at once, which damages their mailboxes. It should be 0."),
		pollAge:     describe("session_poll_age_seconds", "Time since the backends were last polled for sessions; missing before the first poll, or if nobody polls."),
		tasks:       describe("tasks", "Tasks that are under way, paused ones too.", "kind"),
		left:        describe("task_users_left", "Users whom a task has to move still; of a rebalance, how many the backends have above their limits.", "kind", "backend"),
		budget:      describe("rebalance_budget", "How many users are moved for balance in an hour at most, 0 for any number."),
		replicas:    describe("replicas", "Directors that share the database and were heard of in the last hour, those not that have signed off."),
		disagreeing: describe("replicas_disagreeing", "Directors that see other backends than this one. After a change it may be 1 or more for some seconds."),
		silent:      describe("replica_silent_seconds", "The longest time that a director was not heard of which has not signed off. Nobody is moved while it is over 10; if that director has ended, forget it."),
	})
}

// Describe tells the registry what may come.
func (v *vitals) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		v.storeUp, v.viewInfo, v.viewUp, v.generation, v.age, v.backends, v.state, v.alive, v.grace, v.awaited, v.weight, v.users, v.sessions, v.loggedIn, v.panic, v.imbalance,
		v.moving, v.waiting, v.elsewhere, v.remembered, v.two, v.pollAge, v.tasks, v.left, v.budget, v.replicas, v.disagreeing, v.silent,
	} {
		ch <- d
	}
}

// scrape is one scrape.
type scrape chan<- prometheus.Metric

func (s scrape) show(d *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Collect gathers what is so now.
func (v *vitals) Collect(ch chan<- prometheus.Metric) {
	s, now := scrape(ch), v.shown.Vitals()
	s.show(v.storeUp, number(v.shown.StoreUp()))
	s.show(v.remembered, float64(now.Remembered))
	s.show(v.moving, float64(now.Moving))
	s.show(v.budget, float64(v.shown.Budget))
	kind, failing := v.shown.Source()
	s.show(v.viewUp, number(!failing))
	if kind != "" {
		s.show(v.viewInfo, 1, kind)
	}
	if now.Ledger != nil {
		v.ledger(s, now.Ledger, now.Counted)
	}
	if now.View == nil {
		return
	}
	s.show(v.generation, float64(now.View.Generation))
	if proven := now.View.CurrentAt; !proven.IsZero() {
		s.show(v.age, seconds(now.At.Sub(proven)))
	}
	s.show(v.panic, number(now.Panic))
	v.each(s, now)
	if now.Counted {
		s.show(v.imbalance, now.UserPeak, "users")
		s.show(v.waiting, float64(now.Waiting))
		s.show(v.elsewhere, float64(now.Elsewhere))
	}
	if now.Poll != nil {
		s.show(v.imbalance, now.SessionPeak, "sessions")
		s.show(v.two, float64(len(now.Poll.Doubled)))
		s.show(v.pollAge, seconds(now.At.Sub(now.Poll.At)))
	}
}

// each shows the backends.
func (v *vitals) each(s scrape, now director.Vitals) {
	conditions := map[string]int{"alive": 0}
	for _, cause := range []director.Cause{director.Failed, director.Planned, director.Removed, director.Disabled} {
		conditions[cause.String()] = 0
	}
	for _, b := range now.Backends {
		s.show(v.alive, number(b.Alive), b.Name)
		s.show(v.state, 1, b.Name, string(b.State))
		s.show(v.weight, float64(b.Weight), b.Name)
		s.show(v.grace, seconds(b.Grace), b.Name)
		s.show(v.awaited, number(b.Waits), b.Name)
		if b.Alive {
			conditions["alive"]++
		} else {
			conditions[b.Cause.String()]++
		}
		if now.Counted {
			s.show(v.users, float64(b.Users), b.Name)
		}
		if now.Poll == nil {
			continue
		}
		if count, asked := now.Poll.Backends[b.Name]; asked && count.Err == nil {
			s.show(v.sessions, float64(count.Sessions), b.Name)
			s.show(v.loggedIn, float64(count.Users), b.Name)
		}
	}
	for condition, n := range conditions {
		s.show(v.backends, float64(n), condition)
	}
}

// ledger shows tasks and directors.
func (v *vitals) ledger(s scrape, now *director.LedgerVitals, counted bool) {
	tasks := map[director.TaskKind]int{director.Evacuate: 0, director.Rebalance: 0}
	for _, t := range now.Tasks {
		tasks[t.Kind]++
		if counted {
			s.show(v.left, float64(t.Left), string(t.Kind), t.Backend)
		}
	}
	for kind, n := range tasks {
		s.show(v.tasks, float64(n), string(kind))
	}
	s.show(v.replicas, float64(now.Replicas))
	s.show(v.disagreeing, float64(now.Disagreeing))
	s.show(v.silent, seconds(now.Silent))
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
