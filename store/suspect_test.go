package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// lockedRow is a database in which somebody has locked one user's row.
type lockedRow struct {
	database
	user string

	mu    sync.Mutex
	asked []string
}

func (l *lockedRow) assign(_ context.Context, batch []director.Assignment, impatient bool) (map[string]director.Mapping, error) {
	rows := map[string]director.Mapping{}
	var ask strings.Builder
	for _, a := range batch {
		ask.WriteString(a.User + " ")
		rows[a.User] = director.Mapping{Backend: a.Becomes}
	}
	l.mu.Lock()
	l.asked = append(l.asked, fmt.Sprintf("%simpatient %v", ask.String(), impatient))
	l.mu.Unlock()
	if _, ok := rows[l.user]; ok && impatient {
		return nil, errors.New("locked")
	}
	return rows, nil
}

func (l *lockedRow) explain(err error) (kind, error) { return locked, err }

// TestALockedRowIsWaitedForAlone holds how a user is found who is in the way, and that he is known for a while.
func TestALockedRowIsWaitedForAlone(t *testing.T) {
	l := &lockedRow{user: "c"}
	db := newDB(l, "test", 1, 10, patient, slog.New(slog.DiscardHandler))
	db.health.set(nil)
	batch := make([]*assigning, 4)
	for i, user := range []string{"d", "c", "b", "a"} {
		batch[i] = &assigning{ask: director.Assignment{User: user, Becomes: "backend-0"}, done: make(chan struct{}, 1)}
	}
	db.assignBatch(batch)
	for _, q := range batch {
		<-q.done
		if q.err != nil || q.answer.Backend != "backend-0" {
			t.Errorf("%s: %+v, %v", q.ask.User, q.answer, q.err)
		}
	}
	if m, err := db.Assign(t.Context(), director.Assignment{User: "c", Becomes: "backend-1"}); err != nil || m.Backend != "backend-1" {
		t.Errorf("%+v, %v", m, err)
	}
	want := []string{"a b c d impatient true", "a b impatient true", "c d impatient true", "c impatient true", "d impatient true", "c impatient false", "c impatient false"}
	slices.Sort(l.asked[4:6]) // d goes on while c is waited for
	if slices.Sort(want[4:6]); !slices.Equal(l.asked, want) {
		t.Errorf("asked %q, want %q", l.asked, want)
	}
}

// TestTwoAssignmentsOfOneUserShareARow holds that the first of a batch is carried out, and that the other is told so: PostgreSQL would refuse a
// statement that writes a row twice.
func TestTwoAssignmentsOfOneUserShareARow(t *testing.T) {
	l := &lockedRow{}
	db := newDB(l, "test", 1, 10, patient, slog.New(slog.DiscardHandler))
	db.health.set(nil)
	batch := make([]*assigning, 4)
	for i, a := range []director.Assignment{{User: "b", Becomes: "backend-1"}, {User: "a", Becomes: "backend-0"}, {User: "b", Becomes: "backend-2"}, {User: "b", Becomes: "backend-1"}} {
		batch[i] = &assigning{ask: a, done: make(chan struct{}, 1)}
	}
	db.assignBatch(slices.Clone(batch))
	for i, want := range []string{"backend-1", "backend-0", "backend-1", "backend-1"} {
		if <-batch[i].done; batch[i].err != nil || batch[i].answer.Backend != want {
			t.Errorf("assignment %d: %+v, %v", i, batch[i].answer, batch[i].err)
		}
	}
	if !slices.Equal(l.asked, []string{"a b impatient true"}) {
		t.Errorf("asked %q", l.asked)
	}
}

// TestSuspectsAreForgotten holds that nobody is a suspect for longer than a minute, and that there are never too many.
func TestSuspectsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDB(&lockedRow{}, "test", 1, 10, patient, slog.New(slog.DiscardHandler))
		db.accuse("ada")
		time.Sleep(suspectFor)
		if !db.suspect("ada") || db.suspect("bob") {
			t.Error("who was refused a moment ago is no suspect, or who was not is one")
		}
		time.Sleep(time.Second)
		if db.suspect("ada") || len(db.refusals) > 0 {
			t.Errorf("suspects after a minute: %v", db.refusals)
		}
		for i := range maxSuspects {
			db.accuse(fmt.Sprintf("user-%d", i))
		}
		if db.accuse("ada"); db.suspect("ada") || len(db.refusals) != maxSuspects {
			t.Errorf("%d suspects, %d are the most", len(db.refusals), maxSuspects)
		}
		time.Sleep(suspectFor + time.Second)
		if db.accuse("ada"); !db.suspect("ada") || len(db.refusals) != 1 {
			t.Errorf("%d suspects, of which one has been so for less than a minute", len(db.refusals))
		}
	})
}

// TestFaultsAreLoggedOnceAMinute holds for each text.
func TestFaultsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		db := newDB(&lockedRow{}, "test", 1, 10, patient, slog.New(slog.NewTextHandler(&log, nil)))
		for i, step := range []struct {
			fault string
			after time.Duration
			lines int
		}{{"one", 0, 1}, {"one", complainEvery - 1, 1}, {"two", 0, 2}, {"one", 0, 3}, {"one", complainEvery, 4}} {
			time.Sleep(step.after)
			db.complain(errors.New(step.fault))
			if n := strings.Count(log.String(), "\n"); n != step.lines {
				t.Errorf("step %d: %d lines, want %d", i, n, step.lines)
			}
		}
	})
}
