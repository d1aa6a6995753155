package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	director "github.com/k-web-s/go-dovecot-director"
)

// moveRow is a move as statements return it.
type moveRow struct {
	ID                         int64
	Username                   string
	FromBackend                string `db:"from_backend"`
	ToBackend                  string `db:"to_backend"`
	Stage, Reason, Actor, Note string
	Forced                     bool
	IdleOnly                   bool `db:"idle_only"`
	Held                       *float64
	Left                       float64
}

const moveColumns = `id, username, from_backend, to_backend, stage, reason, actor, note, forced, idle_only, {since held_at} AS held, {until deadline} AS left`

func (r moveRow) move() director.Move {
	m := director.Move{
		ID: r.ID, User: r.Username, From: r.FromBackend, To: r.ToBackend, Stage: director.MoveStage(r.Stage), Reason: director.Reason(r.Reason),
		Actor: r.Actor, Note: r.Note, Force: r.Forced, IdleOnly: r.IdleOnly, Left: seconds(r.Left),
	}
	if r.Held != nil {
		m.Held = seconds(*r.Held)
	}
	return m
}

func movesOf(rows []moveRow) []director.Move {
	moves := make([]director.Move, len(rows))
	for i, r := range rows {
		moves[i] = r.move()
	}
	return moves
}

// Begin writes a move down: from then on, lookups of the user hold, and any replica's mover carries it out. It returns
// ErrMoving, ErrMovedMeanwhile if the row does not say m.From, ErrNotQuiet, or ErrNoMapping.
func (l *Ledger) Begin(ctx context.Context, m director.Move, deadline time.Duration) (director.Move, error) {
	var r moveRow
	err := l.write(ctx, func(w *writing) error {
		var row struct {
			Backend string
			Age     float64
		}
		err := w.get(&row, `SELECT backend, {since last_ts} AS age FROM mailbox_username_backend WHERE username = ?`, m.User)
		switch {
		case errors.Is(err, errNoRow):
			return director.ErrNoMapping
		case err != nil:
			return err
		case row.Backend != m.From:
			return fmt.Errorf("%w: %s is on %s, not on %s", director.ErrMovedMeanwhile, m.User, row.Backend, m.From)
		case age(row.Age) < m.Quiet:
			return director.ErrNotQuiet
		}
		// What died before it had ended is in nobody's way.
		if _, err := w.exec(`DELETE FROM director_move WHERE username = ? AND (stage = 'switched' OR deadline < {now}) AND claimed_until < {now}`, m.User); err != nil {
			return err
		}
		err = w.get(&r, `
			INSERT INTO director_move (username, from_backend, to_backend, stage, reason, actor, note, forced, idle_only, begun_at, deadline, claimed_by, claimed_until)
			VALUES (?, ?, ?, 'begun', ?, ?, ?, ?, ?, {now}, {in ?}, '', {now})
			ON CONFLICT (username) DO NOTHING RETURNING `+moveColumns,
			m.User, m.From, m.To, string(m.Reason), m.Actor, m.Note, m.Force, m.IdleOnly, deadline.Seconds())
		if errors.Is(err, errNoRow) {
			return director.ErrMoving
		}
		if err != nil {
			return err
		}
		return w.tell()
	})
	return r.move(), err
}

// MoveOf returns the user's move, nil if there is none.
func (l *Ledger) MoveOf(ctx context.Context, user string) (*director.Move, error) {
	var rows []moveRow
	if err := l.read(ctx, &rows, `SELECT `+moveColumns+` FROM director_move WHERE username = ? AND deadline > {now}`, user); err != nil || len(rows) == 0 {
		return nil, err
	}
	m := rows[0].move()
	return &m, nil
}

// Claim implements director.Moves.
func (l *Ledger) Claim(ctx context.Context, most int) ([]director.Move, error) {
	if !l.in.there() {
		return nil, nil
	}
	var rows []moveRow
	err := l.write(ctx, func(w *writing) error {
		return w.tx.SelectContext(w.ctx, &rows, l.text(`
			UPDATE director_move SET claimed_by = ?, claimed_until = {in ?}
			WHERE id IN (SELECT id FROM director_move WHERE claimed_until <= {now} ORDER BY id LIMIT ? {skip})
			RETURNING `+moveColumns), l.replica, claimFor.Seconds(), most)
	})
	return movesOf(rows), err
}

// Renew implements director.Moves.
func (l *Ledger) Renew(ctx context.Context, m director.Move) (director.Move, error) {
	return l.change(ctx, m, `stage = stage`, ``)
}

// Hold implements director.Moves.
func (l *Ledger) Hold(ctx context.Context, m director.Move) (director.Move, error) {
	// The move was committed before this statement began, so that every read from now on sees it.
	return l.change(ctx, m, `stage = 'holding', held_at = {now}`, `stage = 'begun'`)
}

// change changes a move of this replica's and reads it.
func (l *Ledger) change(ctx context.Context, m director.Move, set, provided string) (director.Move, error) {
	if provided != "" {
		provided = " AND " + provided
	}
	var r struct {
		moveRow
		Unheard *string
	}
	err := l.writeOne(ctx, func(ctx context.Context, db *sqlx.DB) error {
		err := db.GetContext(ctx, &r, l.text(`
			UPDATE director_move SET `+set+`, claimed_until = {in ?}
			WHERE id = ? AND claimed_by = ?`+provided+` RETURNING `+moveColumns+`, (
				SELECT {lines name} FROM director_replica
				WHERE heard_at <= coalesce(held_at, {now}) AND seen_at > {in ?} AND stage <> 'switched') AS unheard`),
			claimFor.Seconds(), m.ID, l.replica, -silentFor.Seconds())
		if errors.Is(err, errNoRow) {
			return director.ErrMoveOver
		}
		return err
	})
	if err != nil {
		return m, err
	}
	m = r.move()
	if r.Unheard != nil {
		m.Unheard = slices.Sorted(strings.SplitSeq(*r.Unheard, "\n"))
	}
	return m, nil
}

// Switch implements director.Moves: row, move and journal change together or not at all.
func (l *Ledger) Switch(ctx context.Context, m director.Move, note string) (director.Move, error) {
	var r moveRow
	err := l.write(ctx, func(w *writing) error {
		err := w.get(&r, `
			UPDATE director_move SET stage = 'switched', held_at = {now}, claimed_until = {in ?}
			WHERE id = ? AND claimed_by = ? AND stage = 'holding' AND deadline > {in ?} RETURNING `+moveColumns,
			claimFor.Seconds(), m.ID, l.replica, switchMargin.Seconds())
		if errors.Is(err, errNoRow) {
			return director.ErrMoveOver
		}
		if err != nil {
			return err
		}
		n, err := w.exec(`UPDATE mailbox_username_backend SET backend = ?, last_ts = {now} WHERE username = ? AND backend = ?`, m.To, m.User, m.From)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: %s is not on %s any more", director.ErrMovedMeanwhile, m.User, m.From)
		}
		if err := w.note(l.entry(m, joined(m.Note, note))); err != nil {
			return err
		}
		return w.tell()
	})
	if err != nil {
		return m, err
	}
	return r.move(), nil
}

// Undo implements director.Moves.
func (l *Ledger) Undo(ctx context.Context, m director.Move, why string) error {
	return l.write(ctx, func(w *writing) error {
		n, err := w.exec(`DELETE FROM director_move WHERE id = ? AND claimed_by = ? AND stage <> 'switched'`, m.ID, l.replica)
		if err != nil {
			return err
		}
		if n == 0 {
			return director.ErrMoveOver
		}
		e := l.entry(m, joined(m.Note, "not moved, "+why))
		e.Subject = director.AboutUndone
		if err := w.note(e); err != nil {
			return err
		}
		return w.tell()
	})
}

// Finish implements director.Moves.
func (l *Ledger) Finish(ctx context.Context, m director.Move) error {
	return l.writeOne(ctx, func(ctx context.Context, db *sqlx.DB) error {
		_, err := db.ExecContext(ctx, l.text(`DELETE FROM director_move WHERE id = ? AND claimed_by = ? AND stage = 'switched'`), m.ID, l.replica)
		return err
	})
}

func (l *Ledger) entry(m director.Move, note string) director.Entry {
	return director.Entry{Subject: director.AboutUser, User: m.User, From: m.From, To: m.To, Reason: m.Reason, Actor: m.Actor, Note: note}
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
