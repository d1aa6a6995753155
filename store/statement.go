package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// statement is one that is sent all the time. It is prepared, which spares the server most of its work on a small batch.
//
// A pooler that gives each transaction another connection does not keep prepared statements (PgBouncer before 1.21, and later
// ones without max_prepared_statements). That shows when one is not found, or found to be another one, and then none is
// prepared any more. No statement takes as many parameters as another, so that one in another's place cannot be carried out.
type statement struct {
	db        *sqlx.DB
	text      string
	preparing *preparing

	mu       sync.Mutex
	prepared *sql.Stmt
}

// query sends the statement. It does not matter how often it is carried out.
func (s *statement) query(ctx context.Context, parameters ...any) (*sql.Rows, error) {
	if prepared, err := s.prepare(ctx); prepared != nil {
		rows, err := prepared.QueryContext(ctx, parameters...)
		if !s.forget(prepared, err) {
			return rows, err
		}
	} else if err != nil && !s.forget(nil, err) {
		return nil, err
	}
	return s.db.DB.QueryContext(ctx, s.text, parameters...)
}

// prepare returns the prepared statement, or nil if statements are not to be prepared. database/sql prepares it again on each of its connections.
func (s *statement) prepare(ctx context.Context) (*sql.Stmt, error) {
	if s.preparing.off() {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prepared == nil {
		prepared, err := s.db.DB.PrepareContext(ctx, s.text)
		if err != nil {
			return nil, err
		}
		s.prepared = prepared
	}
	return s.prepared, nil
}

// forget reports whether err is about the preparation and not about the statement, and gives the preparation up then.
func (s *statement) forget(prepared *sql.Stmt, err error) bool {
	e, ok := errors.AsType[*pq.Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case pqerror.FeatureNotSupported:
		// The table was changed, and the plan with it: prepare it anew next time.
	case pqerror.InvalidSQLStatementName, pqerror.DuplicatePstatement, pqerror.ProtocolViolation:
		s.preparing.stop()
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prepared == prepared {
		s.prepared = nil // not closed: others may be about to use it
	}
	return true
}

// preparing is whether statements are prepared.
type preparing struct {
	stopped atomic.Bool
	log     *slog.Logger
}

func (p *preparing) off() bool { return p.stopped.Load() }

func (p *preparing) stop() {
	if !p.stopped.Swap(true) {
		p.log.Info("a pooler does not keep prepared statements; from now on none are prepared, which costs the database CPU time")
	}
}
