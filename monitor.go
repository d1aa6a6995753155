package director

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// recountEvery is how often users are counted to be shown. It reads the whole table.
	recountEvery = time.Minute
	// lookAtLedgerEvery is how often tasks and replicas are read to be shown.
	// If that failed it is tried again after lookAgainAfter.
	lookAtLedgerEvery = 15 * time.Second
	lookAgainAfter    = time.Second
)

// MonitorConfig is what a Monitor is made of.
type MonitorConfig struct {
	Director *Director
	Tasks    Tasks
	// Census knows how many sessions there are; nil if nobody counts them.
	Census *Census
	// Replica is this replica's name.
	Replica string
	// After is the timer; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Logger gets what is wrong; nil discards.
	Logger *slog.Logger
}

// Monitor knows how everything is without asking anybody at that moment: who looks often costs the database nothing. It is safe for
// concurrent use.
type Monitor struct {
	config MonitorConfig
	log    *slog.Logger
	after  func(time.Duration) <-chan time.Time
	read   atomic.Pointer[ledgerRead]
}

// ledgerRead is what was read of the ledger at a moment.
type ledgerRead struct {
	tasks    []Task
	replicas []Replica
}

// NewMonitor returns a Monitor. Run starts it.
func NewMonitor(c MonitorConfig) *Monitor {
	m := &Monitor{config: c, log: c.Logger, after: c.After}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.after == nil {
		m.after = time.After
	}
	return m
}

// Run lets users be counted, and reads tasks and replicas, now and then until ctx ends. It returns nil.
func (m *Monitor) Run(ctx context.Context) error {
	recount, look := m.after(recountEvery), m.after(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-recount:
			m.config.Director.countSoon()
			recount = m.after(recountEvery)
		case <-look:
			again := lookAtLedgerEvery
			if !m.look(ctx) {
				again = lookAgainAfter
			}
			look = m.after(again)
		}
	}
}

// look reads tasks and replicas. If that fails, what was read before is not shown any more: an old number looks like a new one.
func (m *Monitor) look(ctx context.Context) (ok bool) {
	limited, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	read := &ledgerRead{}
	var err error
	if read.tasks, err = m.config.Tasks.Tasks(limited); err == nil {
		read.replicas, err = m.config.Tasks.Replicas(limited)
	}
	if err != nil {
		if ctx.Err() == nil {
			m.log.Debug("tasks and replicas cannot be read", "error", err)
		}
		read = nil
	}
	m.read.Store(read)
	return read != nil
}

// Vitals are how everything is, as one replica knows it.
type Vitals struct {
	// At is the moment that this is of.
	At time.Time
	// View is nil before the first one; then there are no Backends either.
	View     *View
	Backends []BackendVitals // sorted by name
	// Panic is set while more than half of the backends are lost at once.
	Panic bool
	// Counted says that users were counted, at most some minutes ago while the database answers. Waiting are those of backends that are
	// lost and waited for, Elsewhere those whose row names a backend that nobody knows.
	Counted            bool
	Waiting, Elsewhere int
	// Moving are users who are being moved, Remembered those who would be served while the database is down.
	Moving, Remembered int
	// UserPeak is how many times its fair share of users the fullest backend has of those that take new ones, 0 if there are none;
	// SessionPeak likewise.
	UserPeak, SessionPeak float64
	// Poll is what the last poll of the sessions has found, nil before the first, or if nobody polls.
	Poll *CensusReport
	// Ledger is what the database says of tasks and directors, nil if that could not be read.
	Ledger *LedgerVitals
}

// BackendVitals are how one backend is.
type BackendVitals struct {
	Name string
	// Alive backends serve. Cause is why another one is lost, and Grace how long its users wait for it still; Waits is set for longer if it
	// has to be seen to end.
	Alive bool
	Cause Cause
	Grace time.Duration
	Waits bool
	// State is what operators want of it, Weight its share of new users relative to the others; 0 takes none.
	State  State
	Weight int
	Users  int
}

// LedgerVitals are what the database says.
type LedgerVitals struct {
	Tasks []TaskVitals
	// Replicas are how many directors have been heard of in the last hour and have not signed off, Disagreeing how many of them see other
	// backends than this one. Silent is the longest time that one of them had not been heard of
	// some seconds ago.
	Replicas, Disagreeing int
	Silent                time.Duration
}

// TaskVitals are how far a task is.
type TaskVitals struct {
	Kind TaskKind
	// Backend is the one that is evacuated, empty for a rebalance.
	Backend string
	Paused  bool
	// Left are the users to be moved still; those of a rebalance are how many the backends have above their limits.
	Left int
}

// Vitals returns how everything is. It asks nobody.
func (m *Monitor) Vitals() Vitals {
	d := m.config.Director
	d.observe.Lock()
	st, standings := d.state.Load(), d.standings
	d.observe.Unlock()
	v := Vitals{
		At: d.now(), View: st.view, Moving: len(d.orders.Load().moving), Remembered: int(d.known.size.Load()), Poll: m.config.Census.Report(),
	}
	if v.View == nil {
		return v
	}
	users := map[string]int{}
	if c := d.counts.Load(); c != nil {
		v.Counted = true
		for backend, n := range c.byBackend {
			users[located(v.View, backend).Name] += n
			v.Elsewhere += n
		}
	}
	for _, b := range v.View.alive {
		v.Backends = append(v.Backends, BackendVitals{Name: b.Name, Alive: true, Weight: b.Weight})
	}
	for _, l := range v.View.losses {
		v.Panic = v.Panic || l.Panic
		waits := !l.Final(v.At)
		if l.Cause == Removed && !waits && users[l.Backend.Name] == 0 {
			continue // it was scaled away, and nobody misses it
		}
		v.Backends = append(v.Backends, BackendVitals{Name: l.Backend.Name, Cause: l.Cause, Grace: max(0, l.Until.Sub(v.At)), Waits: waits})
	}
	slices.SortFunc(v.Backends, func(a, b BackendVitals) int { return strings.Compare(a.Name, b.Name) })
	for i := range v.Backends {
		b := &v.Backends[i]
		b.State, b.Users = Active, users[b.Name]
		if s, ok := standings[b.Name]; ok {
			b.State = s.State
		}
		v.Elsewhere -= b.Users
		if b.Waits {
			v.Waiting += b.Users
		}
	}
	v.UserPeak = Peak(sharesOf(st.members, func(name string) float64 { return float64(users[name]) }))
	if v.Poll != nil {
		v.SessionPeak = Peak(sharesOf(st.members, func(name string) float64 { return float64(v.Poll.Backends[name].Sessions) }))
	}
	if read := m.read.Load(); read != nil {
		v.Ledger = m.ledger(read, st.members, users)
	}
	return v
}

func (m *Monitor) ledger(read *ledgerRead, members []Member, users map[string]int) *LedgerVitals {
	l := &LedgerVitals{Replicas: len(read.replicas)}
	for _, t := range read.tasks {
		l.Tasks = append(l.Tasks, TaskVitals{Kind: t.Kind, Backend: t.Backend, Paused: t.Paused, Left: t.left(members, users)})
	}
	self := slices.IndexFunc(read.replicas, func(r Replica) bool { return r.Name == m.config.Replica })
	for _, r := range read.replicas {
		// Who is silent is told of as such. Both are compared as they were at the same moment.
		if self >= 0 && r.Silent <= silentAfter && r.Fingerprint != read.replicas[self].Fingerprint {
			l.Disagreeing++
		}
		l.Silent = max(l.Silent, r.Silent)
	}
	return l
}
