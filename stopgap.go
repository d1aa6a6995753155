package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// outageRingFor is how long after an outage new users are still proposed by the ring that was used in it: until then every
	// replica has written what it proposed, and no other may have proposed something else meanwhile.
	outageRingFor = time.Minute
	// hiccup is how long an outage takes at least. A row that somebody else has locked looks like a shorter one, and if that froze the ring
	// each time, replicas would have rings of different ages.
	hiccup = time.Second
	// rosterEvery is how often it is read who has a mapping.
	rosterEvery = 5 * time.Minute
	// reconcileEvery is how often it is looked whether something is to be reconciled.
	reconcileEvery = time.Second
	// reconcileAtOnce is how many users are reconciled at the same time.
	reconcileAtOnce = 100
)

// stopgap is what a director needs to let new users in while the store is down. Nothing of it is used unless that is wanted.
//
// Replicas cannot agree by the store then, so they agree by the ring: each goes on with the one that it had when the outage began,
// whatever comes and goes. They all propose the same if they saw the same backends at that time.
//
// It is safe for concurrent use.
type stopgap struct {
	most   int // so many users may wait for their row
	roster atomic.Pointer[roster]
	ring   atomic.Pointer[Ring] // of the outage, nil when there is none

	mu     sync.Mutex
	begun  time.Time
	until  time.Time         // when the ring is given up; zero while the store is down, which a row that cannot be written shows too
	before time.Time         // what until was before, or when the outage began if there was no ring
	users  map[string]string // who was proposed what, and has no row yet
}

// roster is the hashes of all users who have a mapping, in order.
type roster []uint64

func (r roster) has(hash uint64) bool {
	_, found := slices.BinarySearch(r, hash)
	return found
}

// begin keeps the ring from now on, or that of an outage which was a moment ago.
func (s *stopgap) begin(ring Ring, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveUp(now) // nobody new may have asked since
	s.before, s.until, s.begun = s.until, time.Time{}, now
	if ring != nil && s.ring.CompareAndSwap(nil, &ring) {
		s.before = now
	}
}

// end says that the store answers again. What was a hiccup, in which nobody was let in, changes nothing.
func (s *stopgap) end(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.begun) < hiccup && len(s.users) == 0 && !s.before.IsZero() {
		s.until = s.before
	} else {
		s.until = now.Add(outageRingFor)
	}
	s.giveUp(now)
}

// ringAt returns the ring of the outage that there is or that was a moment ago, nil for none.
func (s *stopgap) ringAt(now time.Time) Ring {
	if s.ring.Load() == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveUp(now)
	if ring := s.ring.Load(); ring != nil {
		return *ring
	}
	return nil
}

// giveUp drops the ring when it is time. It needs the lock.
func (s *stopgap) giveUp(now time.Time) {
	if !s.until.IsZero() && !now.Before(s.until) {
		s.ring.Store(nil)
	}
}

// admits reports whether there is room to note the user.
func (s *stopgap) admits(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, noted := s.users[user]
	return noted || len(s.users) < s.most
}

// note keeps that the user was proposed backend. It reports whether that is news.
func (s *stopgap) note(user, backend string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[user] == backend {
		return false
	}
	if s.users == nil {
		s.users = make(map[string]string)
	}
	s.users[user] = backend
	return true
}

// pending returns who waits for a row.
func (s *stopgap) pending() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.users)
}

// settled says that the user's row is known.
func (s *stopgap) settled(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, user)
}

// ReconcilerConfig is what a Reconciler is made of.
type ReconcilerConfig struct {
	Director *Director
	Rows     Rows
	// Sessions ends those of users who are elsewhere by their row; nil ends none.
	Sessions Sessions
	Journal  Noter
	// After is the timer; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Logger; nil discards.
	Logger *slog.Logger
}

// Rows is what can be read row by row.
type Rows interface {
	// Each calls do with every row. It ends with the error of do, or with that of the store.
	Each(ctx context.Context, do func(Row) error) error
}

// Noter is where entries of the journal can be added.
type Noter interface {
	Note(ctx context.Context, e Entry) error
}

// Reconciler lets a director propose backends for new users while the store is down, as Policy.OutageProposes says: it reads
// from time to time who has a mapping, since who has one is not new, and after an outage it writes the rows of those who were let in.
// A row that somebody else has written meanwhile wins: the user's sessions where he was sent are ended, and the journal tells of it.
type Reconciler struct {
	config   ReconcilerConfig
	director *Director
	log      *slog.Logger
	read     time.Time // when the roster was read
}

// NewReconciler makes one.
func NewReconciler(config ReconcilerConfig) *Reconciler {
	if config.After == nil {
		config.After = time.After
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{config: config, director: config.Director, log: config.Logger}
}

// Run reads and reconciles until ctx ends. It returns nil.
func (r *Reconciler) Run(ctx context.Context) error {
	var enrolling sync.WaitGroup
	defer enrolling.Wait()
	enrolling.Go(func() { r.repeat(ctx, r.enrol) }) // which may hang for long on a connection that is dead
	r.repeat(ctx, r.reconcile)
	if left := len(r.director.stopgap.pending()); left > 0 {
		r.log.Warn("the database is still down: users who were let in meanwhile are forgotten, and are mapped when they next log in", "users", left)
	}
	return nil
}

// repeat does something until ctx ends.
func (r *Reconciler) repeat(ctx context.Context, do func(context.Context)) {
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-r.config.After(reconcileEvery):
		}
	}
}

// enrol reads who has a mapping, when that is due.
func (r *Reconciler) enrol(ctx context.Context) {
	now := r.director.now()
	if !r.read.IsZero() && now.Sub(r.read) < rosterEvery {
		return
	}
	var users roster
	err := r.config.Rows.Each(ctx, func(row Row) error {
		users = append(users, r.director.known.hash(row.User))
		return nil
	})
	switch {
	case ctx.Err() != nil:
	case err != nil && r.director.stopgap.roster.Load() == nil:
		r.log.Debug("it cannot be read who has a mapping; until it was read once, nobody new is let in while the database is down", "error", err)
	case err != nil:
		r.read = now // what was read before serves
		r.log.Warn("it cannot be read who has a mapping; what was read before is used if the database goes down", "error", err)
	default:
		slices.Sort(users)
		if r.director.stopgap.roster.Swap(&users) == nil {
			r.log.Info("read who has a mapping; from now on new users are let in while the database is down", "users", len(users))
		}
		r.read = now
	}
}

// reconcile writes the rows of the users who were let in.
func (r *Reconciler) reconcile(ctx context.Context) {
	pending := r.director.stopgap.pending()
	var mu sync.Mutex
	elsewhere := make(map[string]string) // what the rows say of users who were sent to another backend
	for users := range slices.Chunk(slices.Sorted(maps.Keys(pending)), reconcileAtOnce) {
		var down atomic.Bool
		atOnce(users, func(user string) {
			row, ok := r.settle(ctx, user, pending[user])
			switch {
			case !ok:
				down.Store(true)
			case row != "":
				mu.Lock()
				elsewhere[user] = row
				mu.Unlock()
			}
		})
		if down.Load() || ctx.Err() != nil {
			return
		}
	}
	// Sessions may take long to end, and nobody's row has to wait for that.
	for users := range slices.Chunk(slices.Sorted(maps.Keys(elsewhere)), reconcileAtOnce) {
		atOnce(users, func(user string) {
			r.mend(ctx, user, pending[user], elsewhere[user])
			r.director.stopgap.settled(user)
		})
	}
}

func atOnce(users []string, do func(user string)) {
	var all sync.WaitGroup
	for _, user := range users {
		all.Go(func() { do(user) })
	}
	all.Wait()
}

// settle writes the user's row. It returns what that says if it is another backend's, and false if the store is down still.
func (r *Reconciler) settle(ctx context.Context, user, backend string) (elsewhere string, ok bool) {
	d := r.director
	now := d.now()
	m, err := d.config.Mappings.Assign(ctx, Assignment{User: user, Becomes: backend, Reason: Provisional})
	switch d.rowState(err) {
	case RowUnavailable:
		return "", false
	case RowRefused: // he was served as such a user is while the database is there
	case RowFound:
		d.known.learn(user, m.Backend, now.Add(-m.Age)) // he is not new any more; a row that is there was not renewed
		if !r.same(m.Backend, backend) {
			return m.Backend, true
		}
		d.tally.Assigned(Provisional)
		r.log.Info("user mapped who was let in while the database was down", "user", user, "to", backend, "reason", Provisional)
	}
	d.stopgap.settled(user)
	return "", true
}

// same reports whether a row names the backend, which an older deployment does by its address.
func (r *Reconciler) same(row, backend string) bool {
	if row == backend {
		return true
	}
	b, ok := r.director.View().ByAddr(row)
	return ok && b.Name == backend
}

// mend ends the sessions of a user who was sent to another backend than his row names.
func (r *Reconciler) mend(ctx context.Context, user, sent, row string) {
	came := r.end(ctx, user, sent)
	r.log.Warn("user was sent to another backend while the database was down than his mapping says; the mapping stands", "user", user, "sent", sent, "mapped", row, "sessions", came)
	if err := r.config.Journal.Note(ctx, Entry{
		Subject: AboutKick, User: user, From: sent, To: row, Reason: Provisional,
		Note: "sent there while the database was down, against the mapping; " + came,
	}); err != nil {
		r.log.Warn("the journal misses an entry", "user", user, "error", err)
	}
}

// end ends the user's sessions on a backend, as after a move, and says what came of it.
func (r *Reconciler) end(ctx context.Context, user, backend string) string {
	if r.config.Sessions == nil {
		return "sessions there go on: " + errNoSessions.Error()
	}
	ended := 0
	for range sweepUntil / kickAgain {
		where := located(r.director.View(), backend)
		sessions, err := r.config.Sessions.Find(ctx, where, user)
		if err == nil && len(sessions) > 0 {
			ended += len(sessions)
			err = r.config.Sessions.Kick(ctx, where, sessions)
		} else if err == nil {
			return fmt.Sprintf("%d sessions ended", ended)
		}
		if errors.Is(err, ErrPattern) {
			return "sessions there go on: " + err.Error()
		}
		select {
		case <-ctx.Done():
			return "sessions there may go on: this director ended"
		case <-r.config.After(kickAgain):
		}
	}
	return "sessions there may go on: they did not end, or the backend did not say so"
}
