package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// slowWriter is a database of which only touches are asked, each statement of which takes 10 ms.
type slowWriter struct {
	database
	statements, users int
}

func (w *slowWriter) touch(_ context.Context, touches []touch) error {
	time.Sleep(10 * time.Millisecond)
	w.statements++
	w.users += len(touches)
	return nil
}

// TestTouchesLeaveTheDatabaseTimeForOthers writes the touches of a login storm, and then those of a shutdown, which has no time.
func TestTouchesLeaveTheDatabaseTimeForOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		rest time.Duration
		want time.Duration
	}{"storm": {touchRest, 400 * time.Millisecond}, "shutdown": {0, 100 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			w := &slowWriter{}
			db := newDB(w, "test", 1, 1, patient, slog.New(slog.DiscardHandler))
			for i := range 10 * touchBatch {
				db.Touch(fmt.Sprintf("user-%d", i), "backend-0")
			}
			begun := time.Now()
			if err := db.flush(t.Context(), tc.rest); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took != tc.want || w.statements != 10 || w.users != 10*touchBatch {
				t.Errorf("%s: %d users in %d statements took %s, want %s", name, w.users, w.statements, took, tc.want)
			}
		})
	}
}

// moodyWriter is a database that keeps what is touched, unless it fails so.
type moodyWriter struct {
	database
	fails   kind
	during  func()
	touched map[string]string
}

func (w *moodyWriter) touch(_ context.Context, touches []touch) error {
	if w.during != nil {
		w.during()
	}
	if w.fails != none {
		return errors.New("no")
	}
	for _, t := range touches {
		w.touched[t.user] = t.backend
	}
	return nil
}

func (w *moodyWriter) explain(err error) (kind, error) { return w.fails, err }

// TestTouchesThatFail holds what is kept of touches that were not written: what is not newer by then, and no more than so many.
func TestTouchesThatFail(t *testing.T) {
	w := &moodyWriter{fails: broken, touched: map[string]string{}}
	db := newDB(w, "test", 1, 1, patient, slog.New(slog.DiscardHandler))
	<-db.health.wake
	db.Touch("ada", "backend-0")
	db.Touch("bob", "backend-0")
	w.during = func() { db.Touch("bob", "backend-1") }
	if err := db.flush(t.Context(), 0); err == nil || len(w.touched) > 0 || len(db.health.wake) != 1 {
		t.Errorf("%v, touched %v, %d probes", err, w.touched, len(db.health.wake))
	}
	w.fails, w.during = none, nil
	want := map[string]string{"ada": "backend-0", "bob": "backend-1"}
	if err := db.flush(t.Context(), 0); err != nil || !maps.Equal(w.touched, want) {
		t.Errorf("%v, touched %v", err, w.touched)
	}
	clear(w.touched)
	if err := db.flush(t.Context(), 0); err != nil || len(w.touched) > 0 {
		t.Errorf("%v, touched again: %v", err, w.touched)
	}

	// Who cannot be stored has no row to touch: trying again would lead nowhere.
	w.fails = refused
	db.Touch("ada", "backend-0")
	if err := db.flush(t.Context(), 0); err != nil || len(db.touches) > 0 {
		t.Errorf("%v, %d wait", err, len(db.touches))
	}

	// While the database is down, those who are known already are noted still.
	w.fails = broken
	w.during = func() {
		for i := range maxTouches {
			db.Touch(fmt.Sprintf("user-%d", i), "backend-0")
		}
	}
	db.Touch("ada", "backend-0")
	if err := db.flush(t.Context(), 0); err == nil || len(db.touches) != maxTouches {
		t.Errorf("%v, %d wait", err, len(db.touches))
	}
	db.Touch("one too many", "backend-0")
	db.Touch("user-7", "backend-1")
	if len(db.touches) != maxTouches || db.touches["user-7"] != "backend-1" || db.touches["ada"] != "" {
		t.Errorf("%d wait, user-7 on %s", len(db.touches), db.touches["user-7"])
	}
}
