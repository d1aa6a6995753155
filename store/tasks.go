package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// leadFor is how long a replica works at tasks after it said so: when it dies, another goes on.
	leadFor = 5 * time.Second
	// undoneFor is how long a user is left alone whose move was given up.
	undoneFor = 5 * time.Minute
)

// Lead implements director.Tasks. It is a lease in a table and no advisory lock: those are a session's, and a pooler gives each
// transaction another one.
func (l *Ledger) Lead(ctx context.Context) (bool, error) {
	var holder string
	err := l.write(ctx, func(w *writing) error {
		err := w.get(&holder, `
			INSERT INTO director_lease AS l (name, holder, until) VALUES ('conductor', ?, {in ?})
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE l.holder = excluded.holder OR l.until < {now}
			RETURNING holder`, l.replica, leadFor.Seconds())
		if errors.Is(err, errNoRow) {
			return nil // another's
		}
		return err
	})
	return holder == l.replica, err
}

// Tasks implements director.Tasks.
func (l *Ledger) Tasks(ctx context.Context) ([]director.Task, error) {
	if !l.in.there() {
		return nil, nil
	}
	var rows []struct {
		Kind, Backend string
		Rate          int
		Due           *float64
		Slack         float64
		Paused        bool
		Total         int
		Age           float64
		Actor, Note   string
	}
	if err := l.read(ctx, &rows, `
		SELECT kind, backend, rate, {until due} AS due, slack, paused, total, {since begun_at} AS age, actor, note
		FROM director_task ORDER BY begun_at, name`); err != nil {
		return nil, err
	}
	tasks := make([]director.Task, len(rows))
	for i, r := range rows {
		tasks[i] = director.Task{
			Kind: director.TaskKind(r.Kind), Backend: r.Backend, Rate: r.Rate, Slack: r.Slack, Paused: r.Paused, Total: r.Total,
			Age: seconds(r.Age), Actor: r.Actor, Note: r.Note,
		}
		if r.Due != nil {
			tasks[i].By = seconds(*r.Due)
		}
	}
	return tasks, nil
}

// Order implements director.Tasks.
func (l *Ledger) Order(ctx context.Context, t director.Task, s *director.Standing) error {
	var due *float64
	if t.By > 0 {
		due = new(t.By.Seconds())
	}
	return l.write(ctx, func(w *writing) error {
		if _, err := w.exec(`
			INSERT INTO director_task (name, kind, backend, rate, due, slack, paused, total, begun_at, actor, note)
			VALUES (?, ?, ?, ?, {in ?}, ?, ?, ?, {now}, ?, ?)
			ON CONFLICT (name) DO UPDATE SET rate = excluded.rate, due = excluded.due, slack = excluded.slack, paused = excluded.paused,
				actor = excluded.actor, note = excluded.note`,
			t.Name(), string(t.Kind), t.Backend, t.Rate, due, t.Slack, t.Paused, t.Total, t.Actor, t.Note); err != nil {
			return err
		}
		if s != nil {
			if err := w.stand(*s); err != nil {
				return err
			}
		}
		note := fmt.Sprintf("%s of %d users, %d a minute", t.Kind, t.Total, t.Rate)
		switch {
		case t.Paused:
			note = fmt.Sprintf("%s paused", t.Kind)
		case t.By > 0:
			note = fmt.Sprintf("%s of %d users within %s", t.Kind, t.Total, t.By.Round(time.Second))
		}
		return w.note(director.Entry{Subject: director.AboutTask, From: t.Backend, Actor: t.Actor, Note: joined(note, t.Note)})
	})
}

// End implements director.Tasks.
func (l *Ledger) End(ctx context.Context, name, actor, note string) (ended bool, err error) {
	err = l.write(ctx, func(w *writing) error {
		n, err := w.exec(`DELETE FROM director_task WHERE name = ?`, name)
		if ended = n > 0; err != nil || !ended {
			return err
		}
		kind, backend, _ := strings.Cut(name, " ")
		return w.note(director.Entry{Subject: director.AboutTask, From: backend, Actor: actor, Note: kind + " ended" + colon(note)})
	})
	return ended, err
}

// Residents implements director.Tasks.
func (l *Ledger) Residents(ctx context.Context, backends []string) ([]director.Resident, error) {
	if len(backends) == 0 {
		return nil, nil
	}
	parameters := []any{-undoneFor.Seconds()}
	for _, b := range backends {
		parameters = append(parameters, b)
	}
	var rows []struct {
		Username, Backend, Moving string
		Stays                     bool
	}
	if err := l.readSlowly(ctx, &rows, `
		SELECT m.username, coalesce(v.to_backend, m.backend) AS backend, coalesce(v.reason, '') AS moving,
			v.id IS NOT NULL OR m.username IN (SELECT username FROM director_journal WHERE subject = 'undone' AND at > {in ?}) AS stays
		FROM mailbox_username_backend AS m
		LEFT JOIN director_move AS v ON v.username = m.username AND v.stage <> 'switched' AND v.deadline > {now}
		WHERE m.backend IN (?`+strings.Repeat(", ?", len(backends)-1)+`) ORDER BY m.username`, parameters...); err != nil {
		return nil, err
	}
	residents := make([]director.Resident, len(rows))
	for i, r := range rows {
		residents[i] = director.Resident{User: r.Username, Backend: r.Backend, Moving: director.Reason(r.Moving), Stays: r.Stays}
	}
	return residents, nil
}

// Settled implements director.Tasks.
func (l *Ledger) Settled(ctx context.Context, within time.Duration) (map[string]bool, error) {
	var users []string
	if err := l.readSlowly(ctx, &users, `
		SELECT username FROM director_pin
		UNION SELECT username FROM director_journal WHERE subject = 'user' AND reason IN ('moved', 'rebalanced', 'evened') AND at > {in ?}
		UNION SELECT username FROM director_journal WHERE subject = 'undone' AND at > {in ?}`, -within.Seconds(), -undoneFor.Seconds()); err != nil {
		return nil, err
	}
	settled := make(map[string]bool, len(users))
	for _, user := range users {
		settled[user] = true
	}
	return settled, nil
}

// Balanced implements director.Tasks.
func (l *Ledger) Balanced(ctx context.Context, within time.Duration) (int, error) {
	var rows []int
	err := l.readSlowly(ctx, &rows, `
		SELECT (SELECT count(*) FROM director_journal WHERE subject = 'user' AND reason IN ('rebalanced', 'evened') AND at > {in ?})
			+ (SELECT count(*) FROM director_move WHERE stage <> 'switched' AND deadline > {now} AND reason IN ('rebalanced', 'evened'))`, -within.Seconds())
	if err != nil {
		return 0, err
	}
	return rows[0], nil
}
