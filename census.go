package director

import (
	"context"
	"hash/maphash"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// averageOver is what averages of sessions are over: a day has its hours when everybody is logged in.
	averageOver = 24 * time.Hour
	// forgotten is the average below which a user is forgotten who is not logged in: he has not been for three days.
	forgotten = 0.05
	// pollLimit is how long a poll of all backends may take.
	pollLimit = 30 * time.Second
	// doubtsMost is how many users of one poll are looked at again who seem to be on two backends, and doubledMost how many are told of.
	doubtsMost  = 50
	doubledMost = 10
)

// CensusConfig is what a Census is made of.
type CensusConfig struct {
	Director *Director
	Sessions Sessions
	// Every is how long after a poll the next one begins, give or take Jitter, which is a part of it.
	Every  time.Duration
	Jitter float64
	// Lead reports whether this replica is the one that refreshes the last_ts of users who are logged in. Nil: it is.
	Lead func(context.Context) (bool, error)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// After is the timer; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Logger gets what is wrong; nil discards.
	Logger *slog.Logger
}

// Census polls the backends for sessions: how many each has, who is logged in and for which part of the day, and whether anybody is on two
// backends at once. Report and what else asks it may be called from any number of goroutines.
type Census struct {
	config CensusConfig
	log    *slog.Logger
	now    func() time.Time
	after  func(time.Duration) <-chan time.Time
	seed   maphash.Seed

	mu     sync.Mutex
	begun  time.Time // of the first poll
	polls  int
	users  map[string]*inhabitant
	report *CensusReport
	silent map[string]bool // backends that did not answer the last time
}

// inhabitant is what is known of one user's sessions.
type inhabitant struct {
	average float64 // how many he has open on average
	open    int     // how many he had open at the last poll
	backend string  // where they were
}

// CensusReport is what a poll has found.
type CensusReport struct {
	// At is when it ended.
	At time.Time
	// Backends are those that were asked.
	Backends map[string]Headcount
	// Complete says that all that are alive have answered.
	Complete bool
	// Doubled are users who had sessions on more than one backend at the same moment.
	Doubled []Doubled
}

// Headcount is what a poll has found on one backend.
type Headcount struct {
	Sessions, Users int
	// Err says why it could not be asked.
	Err error
}

// Doubled is a user who is on more than one backend at once: his mailbox is being damaged.
type Doubled struct {
	User     string
	Backends []string
	// Since is when that was first seen.
	Since time.Time
}

// NewCensus returns a Census. Run starts it.
func NewCensus(c CensusConfig) *Census {
	s := &Census{
		config: c, log: c.Logger, now: c.Now, after: c.After, seed: maphash.MakeSeed(),
		users: make(map[string]*inhabitant), silent: make(map[string]bool),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.after == nil {
		s.after = time.After
	}
	return s
}

// Run polls until ctx ends. It returns nil.
func (s *Census) Run(ctx context.Context) error {
	for {
		// The first is not at once either: replicas that start together shall not ask together.
		wait := s.config.Every.Seconds() * (1 + s.config.Jitter*(2*rand.Float64()-1))
		select {
		case <-ctx.Done():
			return nil
		case <-s.after(time.Duration(wait * float64(time.Second))):
			s.poll(ctx)
		}
	}
}

// Report returns what the last poll has found, nil before the first.
func (s *Census) Report() *CensusReport {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// answer is what one backend has said.
type answer struct {
	backend Backend
	alive   bool
	open    map[string]int // sessions by user
	count   Headcount
}

// poll asks all backends that may have sessions: those that are alive, and lost ones as well.
func (s *Census) poll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	view := s.config.Director.View()
	if view == nil {
		return
	}
	var answers []*answer
	for _, b := range view.alive {
		answers = append(answers, &answer{backend: b, alive: true})
	}
	for _, l := range view.Losses() {
		if l.Backend.Addr.IsValid() {
			answers = append(answers, &answer{backend: l.Backend})
		}
	}
	var asking sync.WaitGroup
	for _, a := range answers {
		asking.Go(func() { a.open, a.count = count(ctx, s.config.Sessions, s.config.Director.config.Users, a.backend) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return
	}
	doubled := s.doubled(ctx, answers)
	s.take(answers, doubled)
	s.refresh(ctx)
}

// count asks one backend who is there.
func count(ctx context.Context, asked Sessions, users UserFormat, backend Backend) (open map[string]int, c Headcount) {
	sessions, err := asked.Who(ctx, backend)
	if err != nil {
		return nil, Headcount{Err: err}
	}
	open = make(map[string]int)
	for _, session := range sessions {
		if user, err := users.Canonical(session.User); err == nil {
			open[user.Name]++
		}
	}
	return open, Headcount{Sessions: len(sessions), Users: len(open)}
}

// doubled returns the users who are on more than one backend. The backends were not asked at the same moment, so whoever seems to be is
// asked for again: who is on a backend before and after he is seen on another, is on both.
func (s *Census) doubled(ctx context.Context, answers []*answer) []Doubled {
	on := make(map[string][]*answer)
	for _, a := range answers {
		for user := range a.open {
			on[user] = append(on[user], a)
		}
	}
	maps.DeleteFunc(on, func(_ string, at []*answer) bool { return len(at) < 2 })
	var all []Doubled
	for i, user := range slices.Sorted(maps.Keys(on)) {
		if i == doubtsMost {
			s.log.Warn("more users seem to be on two backends at once than are looked at again", "users", len(on), "looked_at", i)
			break
		}
		at := append(on[user], on[user][0])
		d := Doubled{User: user}
		for _, a := range at {
			if sessions, err := s.config.Sessions.Find(ctx, a.backend, user); err == nil && len(sessions) > 0 {
				d.Backends = append(d.Backends, a.backend.Name)
			}
		}
		if n, first := len(d.Backends), at[0].backend.Name; n > 2 && d.Backends[0] == first && d.Backends[n-1] == first {
			d.Backends = d.Backends[:n-1]
			all = append(all, d)
		}
	}
	return all
}

// take takes the answers down.
func (s *Census) take(answers []*answer, doubled []Doubled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	report := &CensusReport{At: now, Backends: make(map[string]Headcount, len(answers)), Complete: true, Doubled: doubled}
	weight := 1.0
	if s.report == nil {
		s.begun = now.Add(-s.config.Every) // as if the first had found what was so since
	} else {
		// The mean of all polls so far, and after a day a moving one.
		weight = min(1, float64(now.Sub(s.report.At))/float64(min(now.Sub(s.begun), averageOver)))
	}
	unknown := make(map[string]bool)
	silent := make(map[string]bool)
	for _, a := range answers {
		report.Backends[a.backend.Name] = a.count
		switch err := a.count.Err; {
		case err == nil:
			continue
		case a.alive:
			report.Complete = false
			silent[a.backend.Name] = true
			if !s.silent[a.backend.Name] {
				s.log.Warn("a backend cannot be asked for its sessions; they are not counted, and nobody on it is moved without a kick", "backend", a.backend.Name, "error", err)
			}
		}
		unknown[a.backend.Name] = true
	}
	s.silent = silent
	for _, u := range s.users {
		if !unknown[u.backend] {
			u.open = 0
		}
	}
	for _, a := range answers {
		for user, n := range a.open {
			u := s.users[user]
			if u == nil {
				u = &inhabitant{}
				s.users[user] = u
			}
			u.open += n
			u.backend = a.backend.Name
		}
	}
	maps.DeleteFunc(s.users, func(_ string, u *inhabitant) bool {
		u.average += (float64(u.open) - u.average) * weight
		return u.open == 0 && u.average < forgotten
	})
	s.alert(report)
	s.polls++
	s.report = report
}

// alert tells of users who are on two backends.
func (s *Census) alert(report *CensusReport) {
	before := make(map[string]time.Time)
	if s.report != nil {
		for _, d := range s.report.Doubled {
			before[d.User] = d.Since
		}
	}
	told := 0
	for i := range report.Doubled {
		d := &report.Doubled[i]
		if since, known := before[d.User]; known {
			d.Since = since
			continue
		}
		d.Since = report.At
		if told++; told <= doubledMost {
			s.log.Error("a user is on two backends at once, which damages his mailbox; see what the journal says of him, and kick him", "user", d.User, "backends", d.Backends)
		}
	}
	if told > doubledMost {
		s.log.Error("more users are on two backends at once", "users", told-doubledMost)
	}
}

// refresh refreshes the last_ts of users who are logged in: some at each poll, each once in a TouchInterval.
func (s *Census) refresh(ctx context.Context) {
	if s.config.Lead != nil {
		if lead, err := s.config.Lead(ctx); err != nil || !lead {
			return
		}
	}
	d := s.config.Director
	view := d.View()
	s.mu.Lock()
	defer s.mu.Unlock()
	turns := max(1, uint64((d.config.TouchInterval+s.config.Every-1)/max(1, s.config.Every)))
	for user, u := range s.users {
		if u.open == 0 || maphash.String(s.seed, user)%turns != uint64(s.polls)%turns {
			continue
		}
		// A row that is touched says that its backend is alive.
		if _, _, alive := view.Backend(u.backend); alive {
			d.config.Mappings.Touch(user, u.backend)
		}
	}
}

// idler is a user who is not logged in, but is so often.
type idler struct {
	user, backend string
	average       float64
}

// idlers returns the users who are not logged in anywhere and are worth moving, how many sessions such users and those who are logged in
// have open on average, and how many are open on each backend on average.
func (s *Census) idlers() (idle []idler, typical float64, sessions map[string]float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sessions = make(map[string]float64)
	worth, sum := 0, 0.0
	for user, u := range s.users {
		sessions[u.backend] += u.average
		if u.average < worthMoving {
			continue
		}
		worth++
		sum += u.average
		if u.open == 0 {
			idle = append(idle, idler{user, u.backend, u.average})
		}
	}
	slices.SortFunc(idle, func(a, b idler) int { return strings.Compare(a.user, b.user) })
	return idle, sum / float64(max(1, worth)), sessions
}

// moves notes that a user will have his sessions elsewhere, or is not where he was seen if it is not known where.
func (s *Census) moves(user, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil && to != "" {
		u.backend = to
	} else {
		delete(s.users, user)
	}
}
