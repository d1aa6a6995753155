package store

import (
	"context"
	"errors"
	"math"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/lib/pq"
)

// Follow tells obey of the operators' orders and of users who are being moved, soon after they change, and the database that this replica
// has heard of them, and what self says of it; until ctx ends. Then it signs the replica off and returns nil. Without the tables it
// tells obey that there is nothing, and looks for them.
func (l *Ledger) Follow(ctx context.Context, self func() director.Replica, obey func(director.Orders)) error {
	woken := make(chan struct{}, 1)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if l.in.listen != nil {
			l.in.listen(ctx, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		}
	}()
	defer func() { <-listening }()
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	var f following
	own := l.following()
	for {
		f.follow(ctx, own, self, obey)
		pause(ctx, followRest)
		select {
		case <-ctx.Done():
			l.signOff(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
		case <-woken:
		}
	}
}

// following is the ledger by the follower's own connection.
func (l *Ledger) following() *Ledger {
	own := *l
	own.in.db = l.in.following
	return &own
}

// following is what a follower keeps from one time to the next.
type following struct {
	found  time.Time // when the tables were there; zero if they have to be looked for
	heard  float64   // as of when this replica obeys, in seconds of Unix time of the database
	said   float64   // what the table says of that, unless somebody else has written there
	signed bool      // the replica is in the table
	shared time.Time // when another director was seen to use this replica's name
	tidied time.Time
}

// look reports whether the tables are there. They seldom come and go, and what is asked of them fails if they have gone.
func (f *following) look(ctx context.Context, l *Ledger) (there bool, err error) {
	if time.Since(f.found) < findEvery {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.db.limits.call)
	defer cancel()
	if there, err = l.in.find(ctx); err == nil && there {
		f.found = time.Now()
	}
	return there, err
}

func (f *following) follow(ctx context.Context, l *Ledger, self func() director.Replica, obey func(director.Orders)) {
	there, err := f.look(ctx, l)
	switch {
	case err != nil && ctx.Err() == nil:
		if errors.Is(err, errLedgerDenied) {
			l.db.complain(err)
			obey(director.Orders{}) // as if there were no tables: new users shall not wait for a right that is missing
		}
		return
	case err != nil:
		return
	case !there:
		obey(director.Orders{})
		return
	}
	at, err := f.signOn(ctx, l, self())
	if err != nil {
		f.troubled(ctx, l, err)
		return
	}
	orders, err := l.orders(ctx)
	if err != nil {
		f.troubled(ctx, l, err)
		return
	}
	obey(orders)
	first := f.heard == 0
	f.heard = at
	if first {
		// Movers wait for a replica that has not heard; it does not have to wait for its next turn to say so.
		if _, err := f.signOn(ctx, l, self()); err != nil {
			f.troubled(ctx, l, err)
		}
	}
	if now := time.Now(); now.Sub(f.tidied) >= tidyEvery {
		f.tidied = now
		if err := l.tidy(ctx); err != nil && ctx.Err() == nil {
			l.db.log.Warn("what is too old could not be removed from the journal; it is tried again", "after", tidyEvery, "error", err)
		}
	}
}

func (f *following) troubled(ctx context.Context, l *Ledger, err error) {
	f.found = time.Time{} // the tables may have gone
	if ctx.Err() == nil && l.db.health.err() == nil {
		l.db.log.Warn("operators' orders cannot be followed; the last ones are in force, and moves wait for this replica", "error", err)
	}
}

// orders reads what is in force.
func (l *Ledger) orders(ctx context.Context) (director.Orders, error) {
	standings, err := l.Standings(ctx)
	if err != nil {
		return director.Orders{}, err
	}
	o := director.Orders{Standings: standings}
	return o, l.read(ctx, &o.Moving, `SELECT username FROM director_move WHERE stage <> 'switched'`)
}

// signOn says that the replica is there, and obeys the orders as they were at a time. It returns the time now; what was committed before
// is seen by whoever reads afterwards. If two directors use one name, each would vouch for the other: then nobody has heard of anything.
func (f *following) signOn(ctx context.Context, l *Ledger, r director.Replica) (now float64, err error) {
	say := f.heard
	err = l.write(ctx, func(w *writing) error {
		var said float64
		err := w.get(&said, `SELECT {unix heard_at} FROM director_replica WHERE name = ?`, l.replica)
		if err != nil && !errors.Is(err, errNoRow) {
			return err
		}
		if f.signed && err == nil && math.Abs(said-f.said) > rounding {
			f.clash(l)
		}
		if time.Since(f.shared) < clashFor {
			say = 0
		}
		return w.get(&now, `
			INSERT INTO director_replica (name, version, generation, fingerprint, alive, lost, seen_at, heard_at) VALUES (?, ?, ?, ?, ?, ?, {now}, {at ?})
			ON CONFLICT (name) DO UPDATE SET version = excluded.version, generation = excluded.generation, fingerprint = excluded.fingerprint,
				alive = excluded.alive, lost = excluded.lost, seen_at = excluded.seen_at, heard_at = excluded.heard_at
			RETURNING {unix seen_at} AS now`,
			l.replica, r.Version, int64(r.Generation), r.Fingerprint, r.Alive, r.Lost, say)
	})
	// A statement that failed may have been carried out all the same.
	f.said, f.signed = say, err == nil
	return now, err
}

func (f *following) clash(l *Ledger) {
	if time.Since(f.shared) >= clashFor {
		l.db.log.Error("another director uses this replica's name: until each has a name of its own (--replica-name) nobody is moved, since it cannot be known whether both have heard of it", "replica", l.replica)
	}
	f.shared = time.Now()
}

// signOff says that the replica ends by itself: it serves nobody from memory any more.
func (l *Ledger) signOff(ctx context.Context) {
	err := l.write(ctx, func(w *writing) error {
		// Its mover has ended before: others need not wait until its claims have run out.
		if _, err := w.exec(`UPDATE director_move SET claimed_until = {now} WHERE claimed_by = ?`, l.replica); err != nil {
			return err
		}
		_, err := w.exec(`DELETE FROM director_replica WHERE name = ?`, l.replica)
		return err
	})
	if err != nil && !errors.Is(err, errLedgerMissing) {
		l.db.log.Warn("this replica could not sign off; for an hour moves wait for it, unless it is started again under the same name or forgotten by an operator", "replica", l.replica, "error", err)
	}
}

// tidy removes what is too old to matter, some at a time.
func (l *Ledger) tidy(ctx context.Context) error {
	for {
		var removed int64
		err := l.write(ctx, func(w *writing) (err error) {
			removed, err = w.exec(`DELETE FROM director_journal WHERE id IN (SELECT id FROM director_journal WHERE at < {in ?} ORDER BY at LIMIT ?)`, -l.keep.Seconds(), tidyBatch)
			if err != nil {
				return err
			}
			_, err = w.exec(`DELETE FROM director_replica WHERE seen_at < {in ?}`, -silentFor.Seconds())
			return err
		})
		if err != nil || removed < tidyBatch {
			return err
		}
	}
}

// listen waits for notifications. Where there are none, as through a pooler, the follower finds out by itself.
func (p *postgres) listen(ctx context.Context, woken func()) {
	listener := pq.NewDialListener(dialer{connect: p.limits.connect}, p.dsn, time.Second, 5*time.Second, nil)
	go func() { _ = listener.Listen(ledgerChannel) }() // it connects, as often as that takes; Close ends it
	defer func() {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			_ = listener.Close()
			for range listener.Notify { // it would wait for somebody to take what is left
			}
		}()
		// A server that does not answer holds Close up. Nobody needs to wait for that.
		select {
		case <-closed:
		case <-time.After(p.limits.connect):
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-listener.Notify:
			woken()
		}
	}
}
