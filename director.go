package director

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the resolving loop.
const (
	// rounds is how often a lookup decides anew because the row changed under it. Each round ends with the row that won,
	// so a second is rare and a fifth means that somebody writes in a loop.
	rounds = 5
	// startLimit is how long after its beginning a lookup begins another round. A call of the store takes up to 1.2 s, and a
	// lookup has 3 s: a proxy asks through at most 30 auth workers.
	startLimit = 1300 * time.Millisecond
	// patience is how long a lookup waits for the view to catch up before its user is held.
	patience = 300 * time.Millisecond
	// impatience is how long lookups do not wait at all after one has waited in vain: waiting costs a Dovecot auth worker.
	impatience = 2 * time.Second
	// countsFor is how long counts of users are good for placing.
	countsFor = 5 * time.Second
)

// Config is what a Director is made of.
type Config struct {
	Mappings Mappings
	// Counter counts users for placement; nil places by plain weighted rendezvous.
	Counter Counter
	Policy  Policy
	Graces  Graces
	Users   UserFormat
	// BuildRing makes the ring of a view. It is called from Observe only, one call at a time.
	BuildRing func([]Member) Ring
	// Confirm asks the source of snapshots to prove soon that its view is current. It must not block. May be nil.
	Confirm func()
	// TouchInterval is how often a user's last_ts is refreshed at most.
	TouchInterval time.Duration
	// Remember is how many users are remembered at most, to be served while the store is down.
	Remember int
	// Ordered says that operators' orders are kept in the store: until Obey was called first, nobody is assigned, since it is not
	// known which backends take users.
	Ordered bool
	// Storm paces users who were mapped to another backend a moment ago.
	Storm Storm
	// Load tells what is known of a mapped user's sessions and of those of all backends, nil when nothing is; for evening
	// out. May be nil.
	Load func(user string) *Load
	// Tally counts; may be nil.
	Tally Tally
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// After is the timer of lookups that wait for the view; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Hash spreads the remembered users; nil hashes under a random seed, so that nobody outside can make users collide.
	Hash func(user string) uint64
	// Logger gets changes, never ordinary lookups; nil discards.
	Logger *slog.Logger
}

// Director answers lookups: it reads the user's row, lets the policy decide, writes what has to be written and decides
// again on what came of it. Observe feeds it with snapshots, Resolve may be called from any number of goroutines, Run
// does the background work.
type Director struct {
	config  Config
	now     func() time.Time
	after   func(time.Duration) <-chan time.Time
	log     *slog.Logger
	tally   Tally
	known   *lastKnown
	state   atomic.Pointer[state]
	counts  atomic.Pointer[counts]
	recount chan struct{}
	// outage is when the store was first found unavailable, in Unix nanoseconds, 0 while it answers.
	outage  atomic.Int64
	stopgap stopgap
	// hasty is until when nobody waits for the view, in Unix nanoseconds.
	hasty atomic.Int64

	orders atomic.Pointer[orders]
	pacer  pacer

	decisions *decisionLog

	observe   sync.Mutex
	tracker   *Tracker
	snapshot  *Snapshot // the last one
	standings map[string]Standing
}

// state is what lookups see of the backends: view and ring are published together, so that they never disagree.
type state struct {
	view    *View
	ring    Ring
	members []Member
	changed chan struct{} // closed when the next state is there
	rooms   atomic.Pointer[rooms]
}

// counts are users per backend as the rows name it.
type counts struct {
	at        time.Time
	byBackend map[string]int
}

// rooms are computed once per state and counts.
type rooms struct {
	of    *counts
	rooms []Room
}

// New returns a Director without a view: until the first Observe its answers are Unavailable.
func New(config Config) *Director {
	d := &Director{
		config:  config,
		now:     config.Now,
		after:   config.After,
		log:     config.Logger,
		tally:   config.Tally,
		known:   newLastKnown(config.Remember, config.Hash),
		recount: make(chan struct{}, 1),
		pacer:   pacer{storm: config.Storm},
		stopgap: stopgap{most: config.Remember},
		tracker: NewTracker(config.Graces),
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.after == nil {
		d.after = time.After
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.tally == nil {
		d.tally = untold{}
	}
	d.decisions = newDecisionLog(d.log)
	d.state.Store(&state{changed: make(chan struct{})})
	d.orders.Store(&orders{})
	return d
}

// Run counts users per backend when a backend was lost and while users are being placed, and says how many decisions were left out of the
// log. It returns nil when ctx ends.
func (d *Director) Run(ctx context.Context) error {
	var logging sync.WaitGroup
	defer logging.Wait()
	logging.Go(func() { d.decisions.run(ctx, d.after) })
	var again <-chan time.Time // while the store is down
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.CountsDue():
		case <-again:
		}
		again = nil
		if wait := d.Recount(ctx); wait > 0 {
			again = time.After(wait)
		}
	}
}

// CountsDue can be received from when users should be counted again. It is for who calls Recount in place of Run.
func (d *Director) CountsDue() <-chan struct{} { return d.recount }

// Recount counts users per backend, for placing. If the store is down it returns after which time to try again, otherwise 0.
func (d *Director) Recount(ctx context.Context) time.Duration {
	if d.config.Counter == nil {
		return 0
	}
	byBackend, err := d.config.Counter.Counts(ctx)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, ErrUnavailable):
		return countsFor // the store says itself that it is down
	case err != nil:
		d.log.Warn("cannot count users per backend; until it works, users of a lost backend are spread by older counts or evenly", "error", err)
	default:
		d.counts.Store(&counts{at: d.now(), byBackend: byBackend})
	}
	return 0
}

// Observe takes a snapshot and publishes the view and the ring of it. It is for the one source of snapshots; lookups go
// on with the old state until the new one is complete.
func (d *Director) Observe(s Snapshot) {
	d.observe.Lock()
	defer d.observe.Unlock()
	d.snapshot = &s
	d.publish()
}

// publish makes the state of the last snapshot and the operators' standings.
func (d *Director) publish() {
	s := *d.snapshot
	s.Backends = stand(s.Backends, d.standings)
	old := d.state.Load()
	view := d.tracker.Observe(d.now(), s)
	members := view.Members()
	next := &state{view: view, ring: old.ring, members: members, changed: make(chan struct{})}
	if old.ring == nil || !slices.Equal(old.members, members) {
		begun := d.now()
		next.ring = d.config.BuildRing(members)
		d.tally.RingBuilt(d.now().Sub(begun))
	}
	d.state.Store(next)
	close(old.changed)
	if old.view == nil || len(view.losses) > len(old.view.losses) {
		d.countSoon()
	}
	d.report(old.view, view)
}

// View returns the view that lookups see, nil before the first.
func (d *Director) View() *View { return d.state.Load().view }

// Resolve answers one lookup. The error is an *InvalidUserError; everything else that can go wrong is an Answer. It
// returns within 3 s. When ctx ends it waits for nothing but the store.
func (d *Director) Resolve(ctx context.Context, r Request) (Answer, error) {
	user, err := d.config.Users.Canonical(r.User)
	if err != nil {
		return Answer{}, err
	}
	begun := d.now()
	facts := Facts{Key: user.Key, ReadOnly: r.ReadOnly}
	if d.View() != nil {
		facts.Row, facts.Mapping = d.read(ctx, user.Name)
	}
	// The view is taken after the row was read, so that it is the newer of the two.
	st := d.state.Load()
	waited := false
	for round := range rounds {
		decision := d.decide(st, &facts, user.Name)
		if round > 0 && facts.Now.Sub(begun) > startLimit && decision.Verb == Assign {
			break
		}
		switch {
		case !waited && (decision.Reason == ViewStale || decision.Reason == ViewBehind):
			waited = true
			if next := d.await(ctx, st); next != nil {
				st = next
				continue
			}
		case decision.Verb == Assign:
			if again := d.assign(ctx, user.Name, decision, r, &facts); again {
				st = d.state.Load()
				continue
			}
			decision.Verb = Serve
		case decision.Reason == LastKnown && facts.Now.Sub(st.view.CurrentAt) > freshness:
			d.confirm() // in time, so that nobody has to wait for it
		case decision.Verb == Hold && st.view != nil && facts.Now.Sub(st.view.CurrentAt) > freshness:
			// Nobody waits for this proof. It will be there when the wait is over, and it tells the source whether it has
			// contact: time without does not count as waiting.
			d.confirm()
		}
		d.note(user.Name, decision, facts, r)
		a := d.answer(st, r, user.Name, decision)
		if a.Verb == Serve && r.delays(decision, facts) {
			d.pace(st, &a)
		}
		d.decisions.answered(a, r)
		return a, nil
	}
	a := d.answer(st, r, user.Name, Decision{Verb: Hold, Reason: Contended, Backend: facts.Mapping.Backend, From: facts.Mapping.Backend})
	d.decisions.answered(a, r)
	return a, nil
}

// Explain says what a lookup would answer now, and what that depends on. It writes nothing. The view must be there.
func (d *Director) Explain(ctx context.Context, name string) (Answer, Facts, error) {
	user, err := d.config.Users.Canonical(name)
	if err != nil {
		return Answer{}, Facts{}, err
	}
	facts := Facts{Key: user.Key}
	facts.Row, facts.Mapping = d.read(ctx, user.Name)
	st := d.state.Load()
	decision := d.decide(st, &facts, user.Name)
	if decision.Verb == Assign {
		decision.Verb = Serve // that is what it comes to
	}
	return d.answer(st, Request{User: name}, user.Name, decision), facts, nil
}

// read asks the store for the user's row.
func (d *Director) read(ctx context.Context, user string) (RowState, Mapping) {
	m, err := d.config.Mappings.Get(ctx, user)
	return d.rowState(err), m
}

// rowState translates the store's errors and keeps book of its outages.
func (d *Director) rowState(err error) RowState {
	switch {
	case err == nil, errors.Is(err, ErrNoMapping), errors.Is(err, ErrUserRefused):
		if d.outage.Load() != 0 {
			if d.config.Policy.OutageProposes {
				d.stopgap.end(d.now())
			}
			d.outage.Store(0) // last, so that an outage which begins now begins after this end
		}
	default:
		// A caller that went away is no outage.
		if errors.Is(err, ErrUnavailable) {
			if d.outage.CompareAndSwap(0, d.now().UnixNano()) && d.config.Policy.OutageProposes {
				d.stopgap.begin(d.state.Load().ring, d.now())
			}
		}
		return RowUnavailable
	}
	switch {
	case errors.Is(err, ErrNoMapping):
		return RowAbsent
	case errors.Is(err, ErrUserRefused):
		return RowRefused
	}
	return RowFound
}

// decide gathers what the facts lack and asks the policy.
func (d *Director) decide(st *state, f *Facts, user string) Decision {
	f.Now, f.View, f.Ring = d.now(), st.view, st.ring
	if st.view == nil {
		return d.config.Policy.Decide(*f)
	}
	if d.config.Policy.OutageProposes && (f.Row == RowUnavailable || f.Row == RowAbsent) {
		f.OutageRing = d.stopgap.ringAt(f.Now)
	}
	switch f.Row {
	case RowUnavailable:
		if !d.orders.Load().moving[user] {
			f.Remembered = d.known.recall(user)
			f.New = d.isNew(user)
		}
		if since := d.outage.Load(); since != 0 {
			f.Outage = f.Now.Sub(time.Unix(0, since))
		}
	case RowFound:
		if _, _, alive := st.view.Backend(f.Mapping.Backend); !alive {
			f.Rooms = d.rooms(st)
		} else if d.config.Load != nil {
			f.Load = d.config.Load(user)
		}
	}
	decision := d.config.Policy.Decide(*f)
	if decision.Verb == Assign && decision.Reason != Renamed && decision.Reason != Renewed && d.config.Ordered && !d.orders.Load().heard {
		return Decision{Verb: Hold, Reason: ViewPartial, Backend: f.Mapping.Backend, From: f.Mapping.Backend}
	}
	if decision.Reason == Placed {
		if c := d.counts.Load(); c == nil || f.Now.Sub(c.at) >= countsFor {
			d.countSoon()
		}
	}
	return decision
}

// assign writes what was decided. It reports whether the lookup has to decide again: on the winner's row, or because
// the database refuses the user. The facts then hold what is true now.
func (d *Director) assign(ctx context.Context, user string, decision Decision, r Request, f *Facts) (again bool) {
	m, err := d.config.Mappings.Assign(ctx, Assignment{User: user, Was: decision.From, Age: f.Mapping.Age, Becomes: decision.Backend, Reason: decision.Reason})
	row := d.rowState(err)
	if row == RowUnavailable && decision.Reason == Renamed {
		// The row is known and right, it is only written in the old way: serve it and rename another time.
		return false
	}
	f.Row = row
	if row != RowFound {
		return true
	}
	f.Mapping = m
	if m.Backend != decision.Backend {
		return true
	}
	d.known.learn(user, m.Backend, f.Now)
	d.tally.Assigned(decision.Reason)
	switch decision.Reason {
	case Placed, Evened:
		d.tally.Moved(decision.Reason)
	case Provisional:
		d.stopgap.settled(user)
	}
	d.decisions.assigned(f.Now, user, decision, r)
	return false
}

// isNew reports whether the user had no row when all rows were read, while the store is down. There must be room to note him.
func (d *Director) isNew(user string) bool {
	if !d.config.Policy.OutageProposes {
		return false
	}
	roster := d.stopgap.roster.Load()
	return roster != nil && !roster.has(d.known.hash(user)) && d.stopgap.admits(user)
}

// note keeps what a served mapping teaches.
func (d *Director) note(user string, decision Decision, f Facts, r Request) {
	if decision.Reason == Provisional && f.Row == RowUnavailable && !f.ReadOnly && d.stopgap.note(user, decision.Backend) {
		d.decisions.assigned(f.Now, user, decision, r)
	}
	if decision.Reason != Mapped {
		return
	}
	d.known.learn(user, decision.Backend, f.Now)
	if !f.ReadOnly && f.Mapping.Age >= d.config.TouchInterval {
		d.config.Mappings.Touch(user, decision.Backend)
	}
}

// await asks for a proof of the view and waits a little for it. It returns the next state, or nil when there was none
// in time, or when waiting has just been in vain.
func (d *Director) await(ctx context.Context, st *state) *state {
	d.confirm()
	now := d.now()
	if now.UnixNano() < d.hasty.Load() {
		return nil
	}
	inVain := false
	select {
	case <-st.changed:
	case <-ctx.Done():
	case <-d.after(patience):
		inVain = true
	}
	if next := d.state.Load(); next != st {
		return next
	}
	if inVain {
		d.hasty.Store(d.now().Add(impatience).UnixNano())
	}
	return nil
}

// confirm asks the source for a proof of the view.
func (d *Director) confirm() {
	if d.config.Confirm != nil {
		d.config.Confirm()
	}
}

// rooms returns the rooms of the state by the newest counts.
func (d *Director) rooms(st *state) []Room {
	c := d.counts.Load()
	if r := st.rooms.Load(); r != nil && r.of == c {
		return r.rooms
	}
	var byBackend map[string]int
	if c != nil {
		byBackend = c.byBackend
	}
	r := &rooms{of: c, rooms: Rooms(st.view, byBackend)}
	st.rooms.Store(r)
	return r.rooms
}

// countSoon asks Run for new counts.
func (d *Director) countSoon() {
	select {
	case d.recount <- struct{}{}:
	default:
	}
}
