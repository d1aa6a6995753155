package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPartsEndByThemselvesAtOnce holds that each is told of, though only one is waited for, and that none hangs.
func TestPartsEndByThemselvesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stops{log: slog.New(slog.DiscardHandler)}
		failed := make(chan error, 1)
		names := []string{"one", "two", "three"}
		for _, name := range names {
			s.background(name, failed, func(context.Context) error { return errors.New(name + " has no more") })
		}
		synctest.Wait()
		limit, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		told := errors.Join(<-failed, s.run(limit)).Error()
		for _, name := range names {
			if !strings.Contains(told, name+": "+name+" has no more") {
				t.Errorf("nothing of %s in: %s", name, told)
			}
		}
	})
}
