package store

import (
	"context"
	"fmt"
	"log/slog"
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
			db := newDB(w, "test", 1, 1, slog.New(slog.DiscardHandler))
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
