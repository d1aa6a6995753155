package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// The probe pauses this long after its first failure and twice as long after each further one.
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// health is whether the store can be asked.
type health struct {
	// failure is the error of a call that cannot be made now, nil while up. All lookups read it.
	failure atomic.Pointer[error]

	mu       sync.Mutex
	cause    error // nil while up
	since    time.Time
	answered bool
	wake     chan struct{}
}

func (h *health) init() {
	h.wake = make(chan struct{}, 1)
	h.since = time.Now()
	h.set(errNotAsked)
	h.doubt()
}

// err is the error of a call that cannot be made now.
func (h *health) err() error {
	if failure := h.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}

// doubt asks for a probe.
func (h *health) doubt() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// set notes the outcome of a probe, or the cause of an outage, and reports whether it went from up to down or back, and
// how long the state before had lasted.
func (h *health) set(cause error) (changed bool, lasted time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = (h.cause == nil) != (cause == nil)
	if changed {
		lasted = time.Since(h.since)
		h.since = time.Now()
	}
	h.cause = cause
	if cause == nil {
		h.failure.Store(nil)
	} else {
		failure := fmt.Errorf("%w: %w", director.ErrUnavailable, cause)
		h.failure.Store(&failure)
	}
	h.answered = h.answered || cause == nil
	return changed, lasted
}

// Status is how the store is.
type Status struct {
	// Err is nil while the store answers. It is written for operators.
	Err error
	// Since is how long Err, or its absence, has lasted.
	Since time.Time
	// Answered is whether the store has ever answered.
	Answered bool
}

// Status returns how the store is. It asks nobody: Run probes as soon as there is doubt.
func (db *DB) Status() Status {
	db.health.mu.Lock()
	defer db.health.mu.Unlock()
	return Status{Err: db.health.cause, Since: db.health.since, Answered: db.health.answered}
}

// Run probes the store whenever it is in doubt and writes touches, until ctx ends. Then it writes the last touches and
// returns nil.
func (db *DB) Run(ctx context.Context) error {
	var flusher sync.WaitGroup
	flusher.Go(func() { db.flushAll(ctx) })
	defer flusher.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-db.health.wake:
		}
		db.recover(ctx)
	}
}

// recover probes until the store answers or ctx ends.
func (db *DB) recover(ctx context.Context) {
	for wait := firstPause; ; wait = min(2*wait, maxPause) {
		limit, cancel := context.WithTimeout(ctx, db.limits.statement)
		err := db.database.probe(limit)
		cancel()
		if err == nil {
			if changed, lasted := db.health.set(nil); changed {
				db.log.Info("the database answers", "database", db.name, "after", lasted.Round(time.Millisecond))
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		_, err = db.database.explain(err)
		db.down(err)
		pause(ctx, wait/2+rand.N(wait))
		if ctx.Err() != nil {
			return
		}
	}
}

// down makes calls fail from now on. It is logged once for each cause.
func (db *DB) down(cause error) {
	before := db.Status().Err
	cause = fmt.Errorf("%s: %w", db.name, cause)
	db.health.set(cause)
	if before == nil || before.Error() != cause.Error() {
		db.log.Error("the database cannot be used; users whom this replica remembers are served, others get a temporary failure until it answers", "error", cause)
	}
}

// flushAll writes touches every second, and what is left when ctx ends.
func (db *DB) flushAll(ctx context.Context) {
	ticker := time.NewTicker(touchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if db.health.err() != nil {
				continue
			}
			if err := db.flush(ctx, touchRest); err != nil && ctx.Err() == nil {
				db.log.Warn("last_ts could not be written; it is tried again", "error", err)
			}
		case <-ctx.Done():
			if db.health.err() != nil {
				return
			}
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.limits.flush)
			defer cancel()
			if err := db.flush(limit, 0); err != nil {
				db.log.Warn("some last_ts are lost", "error", err)
			}
			return
		}
	}
}
