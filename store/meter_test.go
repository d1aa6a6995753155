package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// meter takes down what it is told, times aside.
type meter struct {
	mu   sync.Mutex
	told []string
}

func (m *meter) Called(call string, users int, took time.Duration, cause string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if took <= 0 {
		cause += " in no time"
	}
	m.told = append(m.told, fmt.Sprint(call, " ", users, " ", cause))
}

// TestStatementsAreMeasured asks a real database, and one that fails.
func TestStatementsAreMeasured(t *testing.T) {
	var m meter
	db, err := Open(Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "director.db"), Meter: &m}.Patient())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	db.health.set(nil)
	if _, err := db.Get(t.Context(), "ada"); !errors.Is(err, director.ErrNoMapping) {
		t.Error(err)
	}
	if _, err := db.Assign(t.Context(), director.Assignment{User: "ada", Becomes: "b-0"}); err != nil {
		t.Error(err)
	}
	db.Touch("ada", "b-0")
	db.Touch("bob", "b-0")
	if err := db.flush(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if _, err := db.Counts(t.Context()); err != nil {
		t.Error(err)
	}
	if want := []string{"get 1 ", "assign 1 ", "touch 2 ", "count 0 "}; !slices.Equal(m.told, want) {
		t.Errorf("%q, want %q", m.told, want)
	}
	m.told = nil

	l := &lockedRow{user: "c"}
	faulted := newDB(l, "test", 1, 10, patient, slog.New(slog.DiscardHandler))
	faulted.meter = &m
	faulted.health.set(nil)
	batch := []*assigning{{ask: director.Assignment{User: "b"}, done: make(chan struct{}, 1)}, {ask: director.Assignment{User: "c"}, done: make(chan struct{}, 1)}}
	faulted.assignBatch(batch)
	for _, q := range batch {
		<-q.done
	}
	faulted.suspects.wait()
	if want := []string{"assign 2 locked", "assign 1 ", "assign 1 locked", "assign 1 "}; !slices.Equal(m.told, want) {
		t.Errorf("%q, want %q", m.told, want)
	}
	m.told = nil

	faulted.database = failing{l}
	if _, err := faulted.Counts(t.Context()); err == nil {
		t.Error("no error")
	}
	faulted.Touch("ada", "b-0")
	if err := faulted.flush(t.Context(), 0); err == nil {
		t.Error("no error")
	}
	if want := []string{"count 0 locked", "touch 1 locked"}; !slices.Equal(m.told, want) {
		t.Errorf("%q, want %q", m.told, want)
	}
}

// failing is a database of which every statement fails.
type failing struct{ *lockedRow }

func (failing) counts(context.Context) (map[string]int, error) { return nil, errors.New("locked") }
func (failing) touch(context.Context, []touch) error           { return errors.New("locked") }

func TestEveryCauseHasAWord(t *testing.T) {
	for _, cause := range Causes {
		if cause == "" {
			t.Errorf("%q", Causes)
		}
	}
	if len(Causes) != int(faulty) {
		t.Errorf("%q are not all", Causes)
	}
}
