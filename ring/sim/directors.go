package sim

import (
	"context"
	"maps"
	"time"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

// Step is one thing that happened to a director, for a test that repeats it.
type Step struct {
	// At is when, Replica which of the directors.
	At      time.Time
	Replica int
	// Snapshot is what it was shown; Asked if it had asked for it, during the lookup that comes next.
	Snapshot *director.Snapshot
	Asked    bool
	// Settings are those of a director that starts now, in place of the one before.
	Settings *Settings
	// Counted says that it counted users.
	Counted bool
	// Load is what it was told of sessions, during the lookup that comes next.
	Load *director.Load
	// Answer is what it answered to User.
	User   string
	Answer director.Answer
	// Database is set when the database goes away or comes back, with all replicas.
	Database bool
	Down     bool
	// Row was in the store before the begin, Moved is what a planned move wrote to it.
	Row, Moved *director.Assignment
}

// directors are replicas of the real director on one store, each with a view of its own.
type directors struct {
	w        *world
	store    *memory
	replicas []*replica
	latest   director.Snapshot
	version  int
	// asking is the user of the lookup that is under way.
	asking uint32
}

type replica struct {
	of      *directors
	number  int
	d       *director.Director
	version int // of the snapshot that it was shown last
	running bool
	lag     time.Duration
	blind   time.Duration // for how long the API server had been away when it started
}

func newDirectors(w *world) *directors {
	d := &directors{w: w, store: newMemory(w.clock, len(w.users))}
	for _, r := range w.scenario.users.rows {
		d.store.put(r.user, r.backend, w.clock().Add(-24*time.Hour))
		w.trace(Step{Row: &director.Assignment{User: r.user, Becomes: r.backend}})
	}
	random := newStream(w.scenario.seed, 2)
	for i := range w.scenario.replicas.count {
		r := &replica{of: d, number: i, lag: random.within(w.scenario.replicas.lag)}
		d.replicas = append(d.replicas, r)
		r.start()
	}
	return d
}

// never is the timer of lookups that wait for a view: in a simulation nothing comes while they do.
var never = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// start makes a new director, with nothing in its memory.
func (r *replica) start() {
	w := r.of.w
	config := director.Config{
		Mappings:      r.of.store,
		Counter:       r.of.store,
		Policy:        w.scenario.settings.Policy,
		Graces:        w.scenario.settings.Graces,
		Users:         w.scenario.settings.Users,
		BuildRing:     func(members []director.Member) director.Ring { return w.build(members) },
		Confirm:       r.confirm,
		TouchInterval: w.scenario.settings.TouchInterval,
		Remember:      w.scenario.settings.Remember,
		Now:           w.clock,
		After:         func(time.Duration) <-chan time.Time { return never },
		Hash:          xxhash.Sum64String,
	}
	if w.scenario.settings.Policy.EvenAbove > 0 {
		config.Load = r.load
	}
	r.d = director.New(config)
	r.blind = w.cluster.blind
	r.running = true
	w.trace(Step{Replica: r.number, Settings: &w.scenario.settings})
}

// observe shows the directors a snapshot, each when it comes to it.
func (d *directors) observe(s director.Snapshot) {
	d.latest = s
	d.version++
	version := d.version
	for _, r := range d.replicas {
		if r.d.View() == nil || r.lag == 0 {
			r.show(s, version, false)
			continue
		}
		d.w.after(r.lag, func() { r.show(s, version, false) })
	}
}

func (r *replica) show(s director.Snapshot, version int, asked bool) {
	if !r.running || version < r.version {
		return
	}
	r.version = version
	s.Blind -= r.blind
	r.of.w.trace(Step{Replica: r.number, Snapshot: &s, Asked: asked})
	r.d.Observe(s)
	if !asked {
		r.count()
	}
}

// confirm proves a view on request, if the API server answers and the replica has seen what it has.
func (r *replica) confirm() {
	if r.of.w.cluster.apiDown || r.version != r.of.version {
		return
	}
	r.show(r.of.latestNow(), r.version, true)
}

// count counts users if the director wants that.
func (r *replica) count() {
	select {
	case <-r.d.CountsDue():
	default:
		return
	}
	r.recount()
}

// recount counts users, and again later if the database is down.
func (r *replica) recount() {
	r.of.w.trace(Step{Replica: r.number, Counted: true})
	if wait := r.d.Recount(context.Background()); wait > 0 {
		d := r.d
		r.of.w.after(wait, func() {
			if r.d == d && r.running {
				r.recount()
			}
		})
	}
}

func (d *directors) lookup(user uint32, random *stream) (int, director.Reason) {
	first := random.below(len(d.replicas))
	for i := range d.replicas {
		r := d.replicas[(first+i)%len(d.replicas)]
		if !r.running {
			continue
		}
		d.asking = user
		name := d.w.users[user].name
		answer, err := r.d.Resolve(context.Background(), director.Request{User: name})
		if err != nil {
			return -1, director.Reason(err.Error())
		}
		d.w.trace(Step{Replica: r.number, User: name, Answer: answer})
		r.count()
		if answer.Verb != director.Serve {
			return -1, answer.Reason
		}
		return d.w.byName[answer.Backend], answer.Reason
	}
	return -1, "no_director"
}

// restart takes a director away for a while and starts another one in its place.
func (d *directors) restart(number int, down time.Duration) {
	r := d.replicas[number]
	r.running = false
	d.w.after(down, func() {
		r.start()
		if !d.w.cluster.apiDown {
			r.show(d.latestNow(), d.version, false)
		}
	})
}

// latestNow is the last snapshot, as the API server gives it to who asks now.
func (d *directors) latestNow() director.Snapshot {
	s := d.latest
	s.CurrentAt, s.Blind = d.w.clock(), d.w.cluster.blind
	return s
}

// load is what a poll of the backends would tell of sessions.
func (r *replica) load(string) *director.Load {
	w := r.of.w
	u := &w.users[r.of.asking]
	load := &director.Load{Idle: u.open == 0, Expected: w.expected(u), Typical: w.typical, Sessions: w.expectedByBackend}
	if w.tracer != nil {
		copied := *load
		copied.Sessions = maps.Clone(load.Sessions)
		w.trace(Step{Replica: r.number, Load: &copied})
	}
	return load
}
