package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// followEvery is how often a replica asks for orders. Where the database notifies it, that is the second way only.
	followEvery = time.Second
	// followRest is how long it does not look after it has: there may be a hundred notifications in a second.
	followRest = 100 * time.Millisecond
	// claimFor is how long a move is a replica's after it did something for it: when the replica dies, another goes on.
	claimFor = 8 * time.Second
	// switchMargin is what must be left until a move's deadline when its user is switched: longer than a statement takes.
	switchMargin = 3 * time.Second
	// silentFor is how long a replica may have been silent and still serve users as it remembers them. After that it does not count
	// any more. It is the policy's bound for remembered users.
	silentFor = time.Hour + 10*time.Second
	// findEvery is how often it is looked whether the tables are there when nothing says that they are not.
	findEvery = 30 * time.Second
	// clashFor is how long a replica vouches for nothing after it has seen another one use its name; rounding is by how many seconds the
	// database may write a time otherwise than it was told.
	clashFor = time.Minute
	rounding = 0.002
	// tidyEvery is how often what is too old is removed, tidyBatch how many entries at once.
	tidyEvery = 10 * time.Minute
	tidyBatch = 2000
	// ledgerChannel is the channel of notifications.
	ledgerChannel = "go_dovecot_director"
)

// ledgerIn is where a ledger is.
type ledgerIn struct {
	db *sqlx.DB
	// following is for the follower alone: however many moves are under way, the others hear of this replica in time.
	following *sqlx.DB
	// slow is for what may take longer.
	slow    *sqlx.DB
	dialect dialect
	// find looks whether the tables are there.
	find func(context.Context) (bool, error)
	// there is what it found last.
	there func() bool
	// notify is the statement that tells all followers, empty where there is none but this replica.
	notify string
	// writing is held while something is written.
	writing sync.Locker
	// listen calls woken at notifications until ctx ends; nil where there are none.
	listen func(ctx context.Context, woken func())
}

type unlocked struct{}

func (unlocked) Lock()   {}
func (unlocked) Unlock() {}

// Ledger keeps what operators ordered, who is being moved, and the journal of all that. It needs tables of its own, which Migrate
// makes. It is safe for concurrent use.
type Ledger struct {
	db      *DB
	in      ledgerIn
	replica string
	// keep is how long entries of the journal are kept.
	keep time.Duration
}

// Ledger returns the ledger of the same database, as the replica of that name sees it. The journal is kept for some time.
func (db *DB) Ledger(replica string, keep time.Duration) *Ledger {
	return &Ledger{db: db, in: db.database.ledger(), replica: replica, keep: keep}
}

// text writes a statement for the database.
func (l *Ledger) text(statement string) string { return l.in.db.Rebind(l.in.dialect.in(statement)) }

// read runs a query into target, a pointer to a struct or to a slice of them.
func (l *Ledger) read(ctx context.Context, target any, statement string, parameters ...any) error {
	ctx, cancel := context.WithTimeout(ctx, l.db.limits.call)
	defer cancel()
	return l.failed(ctx, l.in.db.SelectContext(ctx, target, l.text(statement), parameters...))
}

// readSlowly is read for what may take seconds.
func (l *Ledger) readSlowly(ctx context.Context, target any, statement string, parameters ...any) error {
	ctx, cancel := context.WithTimeout(ctx, countLimit)
	defer cancel()
	return l.failed(ctx, l.in.slow.SelectContext(ctx, target, l.text(statement), parameters...))
}

// write runs do in a transaction.
func (l *Ledger) write(ctx context.Context, do func(*writing) error) error {
	l.in.writing.Lock()
	defer l.in.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.db.limits.call)
	defer cancel()
	tx, err := l.in.db.BeginTxx(ctx, nil)
	if err != nil {
		return l.failed(ctx, err)
	}
	defer tx.Rollback()
	if err := do(&writing{ctx, l, tx}); err != nil {
		return l.failed(ctx, err)
	}
	return l.failed(ctx, tx.Commit())
}

// writeOne runs do, which writes with one statement: that is a transaction by itself, in a quarter of the round trips.
func (l *Ledger) writeOne(ctx context.Context, do func(context.Context, *sqlx.DB) error) error {
	l.in.writing.Lock()
	defer l.in.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.db.limits.call)
	defer cancel()
	return l.failed(ctx, do(ctx, l.in.db))
}

// failed makes an error for operators. The domain's own errors stay what they are.
func (l *Ledger) failed(ctx context.Context, err error) error {
	if err == nil || isOf(err, director.ErrMoving, director.ErrNotQuiet, director.ErrMovedMeanwhile, director.ErrMoveOver, director.ErrNoMapping, director.ErrUserRefused, director.ErrUnavailable) {
		return err
	}
	if !l.in.there() {
		return fmt.Errorf("%w: %w", director.ErrUnavailable, errLedgerMissing)
	}
	k, explained := l.db.database.explain(err)
	if k == refused {
		return fmt.Errorf("%w: %s: %w", director.ErrUserRefused, l.db.name, explained)
	}
	return fmt.Errorf("%w: %s: %w", director.ErrUnavailable, l.db.name, explained)
}

func isOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// writing is a transaction.
type writing struct {
	ctx context.Context
	l   *Ledger
	tx  *sqlx.Tx
}

// exec runs a statement and returns how many rows it hit.
func (w *writing) exec(statement string, parameters ...any) (int64, error) {
	result, err := w.tx.ExecContext(w.ctx, w.l.text(statement), parameters...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// get reads one row into target; sql.ErrNoRows if there is none.
func (w *writing) get(target any, statement string, parameters ...any) error {
	return w.tx.GetContext(w.ctx, target, w.l.text(statement), parameters...)
}

// tell wakes all followers when the transaction is committed.
func (w *writing) tell() error {
	if w.l.in.notify == "" {
		return nil
	}
	_, err := w.exec(w.l.in.notify)
	return err
}

// note writes into the journal.
func (w *writing) note(e director.Entry) error {
	_, err := w.exec(`INSERT INTO director_journal (subject, username, from_backend, to_backend, reason, actor, replica, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		e.Subject, e.User, e.From, e.To, string(e.Reason), e.Actor, w.l.replica, e.Note)
	return err
}

// Note writes an entry into the journal.
func (l *Ledger) Note(ctx context.Context, e director.Entry) error {
	return l.write(ctx, func(w *writing) error { return w.note(e) })
}

// Stand puts what an operator wants of a backend in force.
func (l *Ledger) Stand(ctx context.Context, s director.Standing) error {
	return l.write(ctx, func(w *writing) error { return w.stand(s) })
}

func (w *writing) stand(s director.Standing) error {
	if _, err := w.exec(`
		INSERT INTO director_backend (backend, state, weight, changed_at, actor, note) VALUES (?, ?, ?, {now}, ?, ?)
		ON CONFLICT (backend) DO UPDATE SET state = excluded.state, weight = excluded.weight, changed_at = excluded.changed_at, actor = excluded.actor, note = excluded.note`,
		s.Backend, string(s.State), s.Weight, s.Actor, s.Note); err != nil {
		return err
	}
	note := fmt.Sprintf("state %s, weight %d", s.State, s.Weight)
	if s.Weight == 0 {
		note = fmt.Sprintf("state %s", s.State)
	}
	if s.Note != "" {
		note += ": " + s.Note
	}
	if err := w.note(director.Entry{Subject: director.AboutBackend, To: s.Backend, Actor: s.Actor, Note: note}); err != nil {
		return err
	}
	return w.tell()
}

// Standings returns what operators want of backends, of all that something was said about.
func (l *Ledger) Standings(ctx context.Context) ([]director.Standing, error) {
	var rows []struct {
		Backend, State string
		Weight         int
		Age            float64
		Actor, Note    string
	}
	if err := l.read(ctx, &rows, `SELECT backend, state, weight, {since changed_at} AS age, actor, note FROM director_backend ORDER BY backend`); err != nil {
		return nil, err
	}
	standings := make([]director.Standing, len(rows))
	for i, r := range rows {
		standings[i] = director.Standing{Backend: r.Backend, State: director.State(r.State), Weight: r.Weight, Age: seconds(r.Age), Actor: r.Actor, Note: r.Note}
	}
	return standings, nil
}

// Pin keeps a user from being moved for balance; Unpin ends that. Either reports whether it changed anything.
func (l *Ledger) Pin(ctx context.Context, user, actor, note string) (changed bool, err error) {
	return l.pin(ctx, director.Entry{Subject: director.AboutPin, User: user, Actor: actor, Note: "pinned" + colon(note)},
		`INSERT INTO director_pin (username, pinned_at, actor, note) VALUES (?, {now}, ?, ?) ON CONFLICT (username) DO NOTHING`, user, actor, note)
}

// Unpin ends what Pin began.
func (l *Ledger) Unpin(ctx context.Context, user, actor, note string) (changed bool, err error) {
	return l.pin(ctx, director.Entry{Subject: director.AboutPin, User: user, Actor: actor, Note: "unpinned" + colon(note)},
		`DELETE FROM director_pin WHERE username = ?`, user)
}

func colon(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

func (l *Ledger) pin(ctx context.Context, e director.Entry, statement string, parameters ...any) (changed bool, err error) {
	err = l.write(ctx, func(w *writing) error {
		n, err := w.exec(statement, parameters...)
		if changed = n > 0; err != nil || !changed {
			return err
		}
		return w.note(e)
	})
	return changed, err
}

// Pinned reports whether the user is pinned.
func (l *Ledger) Pinned(ctx context.Context, user string) (bool, error) {
	var rows []string
	err := l.read(ctx, &rows, `SELECT username FROM director_pin WHERE username = ?`, user)
	return len(rows) > 0, err
}

// Journal returns entries, the newest first: of one user if a name is given, and before the one with that number unless it is 0.
func (l *Ledger) Journal(ctx context.Context, user string, before int64, most int) ([]director.Entry, error) {
	var rows []struct {
		ID                           int64
		At                           float64
		Subject, Username            string
		FromBackend                  string `db:"from_backend"`
		ToBackend                    string `db:"to_backend"`
		Reason, Actor, Replica, Note string
	}
	if err := l.read(ctx, &rows, `
		SELECT id, {unix at} AS at, subject, username, from_backend, to_backend, reason, actor, replica, note FROM director_journal
		WHERE (CAST(? AS varchar) = '' OR username = ?) AND (CAST(? AS bigint) = 0 OR id < ?) ORDER BY id DESC LIMIT ?`, user, user, before, before, most); err != nil {
		return nil, err
	}
	entries := make([]director.Entry, len(rows))
	for i, r := range rows {
		entries[i] = director.Entry{
			ID: r.ID, At: time.UnixMilli(int64(r.At * 1000)).UTC(), Subject: director.Subject(r.Subject), User: r.Username, From: r.FromBackend, To: r.ToBackend,
			Reason: director.Reason(r.Reason), Actor: r.Actor, Replica: r.Replica, Note: r.Note,
		}
	}
	return entries, nil
}

// Replicas returns the replicas that have been heard of in the last hour.
func (l *Ledger) Replicas(ctx context.Context) ([]director.Replica, error) {
	if !l.in.there() {
		return nil, fmt.Errorf("%w: %w", director.ErrUnavailable, errLedgerMissing)
	}
	var rows []struct {
		Name, Version, Fingerprint string
		Generation                 int64
		Alive, Lost                int
		Silent                     float64
	}
	if err := l.read(ctx, &rows, `SELECT name, version, generation, fingerprint, alive, lost, {since seen_at} AS silent FROM director_replica ORDER BY name`); err != nil {
		return nil, err
	}
	replicas := make([]director.Replica, len(rows))
	for i, r := range rows {
		replicas[i] = director.Replica{Name: r.Name, Version: r.Version, Fingerprint: r.Fingerprint, Generation: uint64(r.Generation), Alive: r.Alive, Lost: r.Lost, Silent: max(0, seconds(r.Silent))}
	}
	return replicas, nil
}

// ForgetReplica drops a replica that has ended without saying so. It reports whether there was one of that name.
func (l *Ledger) ForgetReplica(ctx context.Context, name, actor string) (forgotten bool, err error) {
	err = l.write(ctx, func(w *writing) error {
		n, err := w.exec(`DELETE FROM director_replica WHERE name = ?`, name)
		if forgotten = n > 0; err != nil || !forgotten {
			return err
		}
		return w.note(director.Entry{Subject: director.AboutReplica, Actor: actor, Note: "replica " + name + " was forgotten"})
	})
	return forgotten, err
}

// errNoRow is what get returns when there is none.
var errNoRow = sql.ErrNoRows
